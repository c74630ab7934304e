"""first_checks.py: names and paths that cannot be right are refused in a sentence, and a folder has one run."""

import errno
import os
import socket
import subprocess
import sys
from contextlib import nullcontext

import pytest
from scripts import ROOT

from s4former.config import from_dict
from s4former.errors import ConfigError
from s4former.training import first_checks
from s4former.training.first_checks import LOCK, check_folder, check_names, lock_folder


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


OTHER = """
import sys, time
from pathlib import Path
from s4former.errors import ConfigError
from s4former.training.first_checks import lock_folder
try:
    with lock_folder(Path(sys.argv[1])) as remarks:
        print(*remarks, "held", flush=True)
        time.sleep(float(sys.argv[2]))
except ConfigError as error:
    print(error)
"""


def other_run(folder, seconds=0.0):
    """Another process that holds the folder for so long; its first line says whether it got it."""
    return subprocess.Popen([sys.executable, "-c", OTHER, str(folder), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_folder_has_one_run_and_a_run_that_wrote_nothing_leaves_nothing(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with lock_folder(folder) as remarks:
        assert remarks == ()
        said = other_run(folder).communicate()[0]
        assert said.startswith(f"{folder} is in use by process {os.getpid()} on {socket.gethostname()}; stop it, or give another folder")
        assert (folder / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_resume_begins_where_nothing_is_only_for_a_launcher_that_starts_again(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="there is nothing to resume"):
        check_folder(tmp_path / "run", True)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    check_folder(tmp_path / "run", True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match="there is nothing to resume"):
        check_folder(tmp_path / "run", True)


def test_a_folder_is_taken_over_from_a_process_that_was_killed(tmp_path):
    other = other_run(tmp_path, 60)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"is in use by process {other.pid} on "):
        with lock_folder(tmp_path):
            pass
    other.kill()
    other.communicate()
    assert (tmp_path / LOCK).exists()
    with lock_folder(tmp_path) as remarks:
        assert remarks == (f"took over {tmp_path} from process {other.pid} on {socket.gethostname()}, which has ended",)
    assert not list(tmp_path.iterdir())


def test_the_lock_of_another_host_is_left_to_the_user(tmp_path):
    (tmp_path / LOCK).write_text("process 7 on elsewhere")
    with pytest.raises(ConfigError, match="is in use by process 7 on elsewhere; .* if it has ended on another host, delete .*run.lock"):
        with lock_folder(tmp_path):
            pass
    assert (tmp_path / LOCK).read_text() == "process 7 on elsewhere"


@pytest.mark.parametrize("holder, free", [("", True), (f"process 7 on {socket.gethostname()}", False)])
def test_where_a_file_system_has_no_locks_the_text_decides(holder, free, tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(first_checks.fcntl, "lockf", refuse)
    (tmp_path / LOCK).write_text(holder)
    with nullcontext() if free else pytest.raises(ConfigError, match="is in use by process 7 on"):
        with lock_folder(tmp_path) as remarks:
            assert remarks == ()
