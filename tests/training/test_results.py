"""results.py: what a run writes, and its pushes to the Hub."""

import threading
from types import SimpleNamespace

import pytest

from s4former.config import from_dict
from s4former.training import results
from s4former.training.run import prepare_folder


@pytest.mark.parametrize("processes", [1, 2])
def test_a_push_keeps_no_process_waiting_for_the_hub(processes, monkeypatch, tmp_path):
    """NCCL ends a run in which processes wait for another for minutes; alone it may wait."""
    answers, pushed, said = threading.Event(), [], []

    def push(folder, repository, message):
        assert answers.wait(20)
        pushed.append((folder.name, message))

    monkeypatch.setattr(results, "push", push)
    monkeypatch.setattr(results, "write_model", lambda training, role, name, address: (tmp_path / name).mkdir())
    training = SimpleNamespace(
        accelerator=SimpleNamespace(is_main_process=True, num_processes=processes), networks={"teacher": None}, step=1, push=None,
        config=from_dict({"run": {"push_to_hub": "a/b"}, "schedule": {"steps": 3}}), folder=tmp_path,
    )  # fmt: skip
    if processes == 1:
        answers.set()
    for training.step in (1, 2, 3):
        results.push_model(training, SimpleNamespace(say=said.append))
    if processes == 2:
        assert not pushed and said == ["warning: not pushed to a/b at step 2: the push before is still under way; raise run.push_every"]
    answers.set()
    training.push.join(20)
    steps = (1, 2, 3) if processes == 1 else (1, 3)
    assert pushed == [(f".pushing-{step}", f"S4Former teacher, step {step}") for step in steps]
    assert [line for line in said if "warning" not in line] == [f"pushed to a/b at step {step}" for step in steps]
    assert not list(tmp_path.iterdir())
    training.accelerator.is_main_process = False
    results.push_model(training, SimpleNamespace(say=said.append))
    assert len(pushed) == len(steps)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_push_that_fails_as_none_was_expected_to_is_told_and_leaves_nothing(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(results, "push", lambda *given: {}["no answer"])
    monkeypatch.setattr(results, "write_model", lambda training, role, name, address: (tmp_path / name).mkdir())
    training = SimpleNamespace(
        accelerator=SimpleNamespace(is_main_process=True, num_processes=1), networks={"teacher": None}, step=1, push=None,
        config=from_dict({"run": {"push_to_hub": "a/b"}}), folder=tmp_path,
    )  # fmt: skip
    results.push_model(training, SimpleNamespace(say=said.append))
    assert said == ["warning: could not push to a/b at step 1: an error that was not foreseen; its traceback follows"]
    assert not list(tmp_path.iterdir())


def test_a_run_that_begins_again_has_nothing_of_one_that_died_before_its_first_checkpoint(tmp_path):
    training = SimpleNamespace(
        accelerator=SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None), step=0, config=from_dict({}), folder=tmp_path
    )
    for name in ("best-teacher", "panels", ".pushing-2"):
        (tmp_path / name).mkdir()
    for name in ("log.jsonl", "confusion.json"):
        (tmp_path / name).write_text("")
    prepare_folder(training)
    assert {path.name for path in tmp_path.iterdir()} == {"best-teacher", "panels", "log.jsonl", "confusion.json", "config.json"}  # no run
    training.step = 2
    prepare_folder(training)
    assert (tmp_path / "best-teacher").is_dir() and (tmp_path / "log.jsonl").exists()
    training.step = 0
    prepare_folder(training)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
