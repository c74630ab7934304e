import re
import socket
import time

import pytest
from huggingface_hub import close_session, constants

from s4former.networks import hub
from s4former.files import similar_path
from s4former.networks.hub import check_reachable, describe_hub_error, hub_file, is_hub_id


def test_a_path_that_is_not_there_is_no_question_to_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "hub_file", lambda repository, name: asked.append(repository))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "s4_after" / "student").mkdir(parents=True)
    for missing, hint in (
        ("runs/s4_aftr", "there is no folder runs/s4_aftr; did you mean runs/s4_after?"),
        ("runs/s4_aftr/student", "there is no folder runs/s4_aftr/student; did you mean runs/s4_after/student?"),
        (str(tmp_path / "rums"), f"did you mean {tmp_path}/runs?"),
        ("./elsewhere", "there is no folder ./elsewhere"),
    ):
        with pytest.raises(FileNotFoundError, match=re.escape(hint)):
            check_reachable(missing)
    check_reachable("runs/s4_after")
    assert asked == []
    for source, is_id in (("owner/name", False), ("runs/name", True)):
        check_reachable(source, is_id=is_id)
    assert asked == ["owner/name", "runs/name"] and not is_hub_id("runs/name") and similar_path("nothing/like/it") == ""


def test_a_hub_that_does_not_answer_is_told_at_once(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection and says nothing
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(hub, "ANSWER_WITHIN", 0.2)
        monkeypatch.setenv("NO_PROXY", "*")
        close_session()  # of before NO_PROXY
        started = time.monotonic()
        with pytest.raises(hub.HUB_ERRORS) as caught:
            hub_file("someone/model", "config.json")
    assert "no connection to http://127.0.0.1" in describe_hub_error(caught.value) and time.monotonic() - started < 3
