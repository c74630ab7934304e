import json
import os
import socket
import subprocess
import sys

import pytest

from s4former.errors import ConfigError
from s4former.training.lock import LOCK, check_folder, lock_folder, start_time


def test_a_folder_has_one_run_and_a_run_that_wrote_nothing_leaves_nothing(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with lock_folder(folder) as remarks:
        assert remarks == () and json.loads((folder / LOCK).read_text())["process"] == os.getpid()
        with pytest.raises(ConfigError, match=rf"is in use: process {os.getpid()} on this host trains there; stop it, or give"):
            with lock_folder(folder):
                pass
        assert (folder / LOCK).exists()
    assert not list(tmp_path.iterdir())


def hold(folder, **changes):
    folder.mkdir(exist_ok=True)
    holder = {"host": socket.gethostname(), "process": os.getpid(), "started": start_time(os.getpid()), **changes}
    (folder / LOCK).write_text(json.dumps(holder))


def test_resume_begins_where_nothing_is_only_for_a_launcher_that_starts_again(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="there is nothing to resume"):
        check_folder(tmp_path / "run", True)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    check_folder(tmp_path / "run", True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match="there is nothing to resume"):
        check_folder(tmp_path / "run", True)


def test_the_lock_of_a_process_that_has_ended_is_taken_over_also_where_its_number_came_again(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for changes in ({"process": ended.pid}, {"started": "1"}):
        hold(tmp_path / "run", **changes)
        with lock_folder(tmp_path / "run") as remarks:
            assert "took over" in remarks[0] and "which has ended" in remarks[0]
            assert json.loads((tmp_path / "run" / LOCK).read_text())["started"] == start_time(os.getpid())
    assert (tmp_path / "run").is_dir(), "it was there before"


def test_the_lock_of_another_host_and_one_that_cannot_be_read_are_left_to_the_user(tmp_path):
    hold(tmp_path, host="elsewhere", process=7)
    with pytest.raises(ConfigError, match="belongs to process 7 on elsewhere, and .* if it has ended, delete .*run.lock"):
        with lock_folder(tmp_path):
            pass
    (tmp_path / LOCK).write_text("")
    with pytest.raises(ConfigError, match="an unknown host"):
        with lock_folder(tmp_path):
            pass
