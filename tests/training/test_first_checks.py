"""first_checks.py: names and paths that cannot be right are refused in a sentence, and a folder has one run."""

import json
import os
import socket
import subprocess
import sys

import pytest

from s4former.config import from_dict
from s4former.errors import ConfigError
from s4former.training.first_checks import LOCK, check_folder, check_names, lock_folder, start_time


def message(**model):
    with pytest.raises(ConfigError) as caught:
        check_names(from_dict({"model": model}))
    return str(caught.value)


def test_a_model_that_is_not_there_and_no_hub_id_is_refused_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "after" / "student").mkdir(parents=True)
    assert message(start_from="runs/aftr/student", architecture="setr") == (
        "model.start_from is 'runs/aftr/student', but there is no such folder; did you mean runs/after/student?"
    )
    check_names(from_dict({"model": {"start_from": "runs/after/student"}}))
    check_names(from_dict({"model": {"start_from": "nvidia/segformer-b0-finetuned-ade-512-512"}}))


def test_an_encoder_of_no_known_name_is_refused():
    assert message(encoder="deit-smal").endswith("; did you mean deit-small?")
    for encoder in ("deit-small", "facebook/deit-small-patch16-224"):
        check_names(from_dict({"model": {"encoder": encoder}}))


@pytest.mark.parametrize("repository", ["", "model", "someone/model", "some-one/My_model.v2"])
def test_an_id_that_the_hub_takes_passes(repository):
    check_names(from_dict({"run": {"push_to_hub": repository}}))


@pytest.mark.parametrize(
    ("repository", "reason"),
    [
        ("a/b/c", "Repo id must be in the form 'repo_name' or 'namespace/repo_name'"),
        ("someone/my model", "Repo id must use alphanumeric chars"),
        ("someone/a--b", "Cannot have -- or .. in repo_id"),
        ("someone/model.git", "Repo_id cannot end by '.git'"),
        ("https://huggingface.co/someone/model", "Repo id must be in the form"),
    ],
)
def test_an_id_that_the_hub_refuses_is_refused_with_its_key(repository, reason):
    with pytest.raises(ConfigError) as caught:
        check_names(from_dict({"run": {"push_to_hub": repository}}))
    assert str(caught.value).startswith(f"run.push_to_hub is {repository!r}: {reason}")
    assert str(caught.value).endswith("; write it as owner/name") and str(caught.value).count(repository) == 1


def test_a_folder_has_one_run_and_a_run_that_wrote_nothing_leaves_nothing(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with lock_folder(folder) as remarks:
        assert remarks == () and json.loads((folder / LOCK).read_text())["process"] == os.getpid()
        with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()} on {socket.gethostname()}; stop it, or give"):
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
            assert "took over" in remarks[0] and "that has ended" in remarks[0]
            assert json.loads((tmp_path / "run" / LOCK).read_text())["started"] == start_time(os.getpid())
    assert (tmp_path / "run").is_dir(), "it was there before"


def test_the_lock_of_another_host_and_one_that_cannot_be_read_are_left_to_the_user(tmp_path):
    hold(tmp_path, host="elsewhere", process=7)
    with pytest.raises(ConfigError, match="is in use by process 7 on elsewhere; .* if it has ended, delete .*run.lock"):
        with lock_folder(tmp_path):
            pass
    (tmp_path / LOCK).write_text("")
    with pytest.raises(ConfigError, match="an unknown host"):
        with lock_folder(tmp_path):
            pass
