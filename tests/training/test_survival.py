"""Runs are broken on purpose, and nothing may be lost: the same bits at the end, and words on the way.

What takes part here in one process is a whole run of train_semi.py. A longer bench, which kills and stops real runs with
loader workers at random moments, takes as many minutes as S4FORMER_SURVIVAL_MINUTES says.
"""

import errno
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import TINY, command, environment, run, write_config

import train_semi
from s4former import errors, files
from s4former.report.run import read_run
from s4former.training import checkpoint, engine, log, results
from s4former.training.resume import resume_hint

GOES_ON = "once that is mended, the same command with --resume goes on from there"
MINUTES = float(os.environ.get("S4FORMER_SURVIVAL_MINUTES", "0"))


# ---- a folder of photos and whole runs over it, in this process


def photos(folder, count=8):
    """Eight images with masks of three classes: three labelled, two for evaluation, the others without."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(mask()).save(folder / "masks" / f"{index}.png")
    (folder / "labeled.txt").write_text("0\n1\n2\n")
    (folder / "validation.txt").write_text("3\n4\n")
    data = {**TINY["data"], "source": "folder", "root": str(folder), "classes": ["ground", "leaf", "bud"]}
    data |= {"labeled": "labeled.txt", "validation": "validation.txt"}
    data.pop("shapes")
    return write_config(folder, tree={**TINY, "data": data})


def mask(height=40, width=56, highest=2):
    ids = np.zeros((height, width), np.uint8)
    ids[:20], ids[:, :9] = 1, highest
    return ids


class Run:
    """A run of train_semi.py in this process, over photos of its own."""

    def __init__(self, folder):
        self.photos, self.folder = folder / "photos", folder / "run"
        self.config = photos(self.photos)

    def go(self, *arguments):
        """The exit status, and what was said."""
        output = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stderr(output):
            patch.setattr(sys, "argv", command(self.config, self.folder, *arguments)[1:])
            status = train_semi.main()
        return status, output.getvalue()

    def go_with(self, step, act, *arguments):
        """The same, with something done to the world while the update of `step` is under way."""
        update = engine.update

        def disturbed(*given):
            if given[5] == step:
                act()
            return update(*given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "update", disturbed)
            return self.go(*arguments)

    @property
    def steps(self):
        return [int(path.name[5:]) for path in checkpoint.complete(self.folder / "checkpoints")]

    def log(self, kind):
        lines = [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]
        return [line["step"] for line in lines if line["kind"] == kind]


@pytest.fixture(autouse=True, scope="module")
def one_core():
    """On several the additions of a sum change places, and a small run is slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def handlers():
    """A run takes the signals of the process; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def broken(tmp_path):
    return Run(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_core):
    """The folder of a run that nothing has happened to."""
    run = Run(tmp_path_factory.mktemp("whole"))
    assert run.go()[0] == 0
    return run.folder


def assert_nothing_is_lost(whole, folder):
    """The same bits, the same scores, and each line of the log once."""
    (one, refused), (other, again) = (checkpoint.load_newest(run / "checkpoints") for run in (whole, folder))
    assert not refused and not again and one["step"] == other["step"]
    for part in ("student", "teacher"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items()), part
    for index, slots in one["optimizer"]["state"].items():
        assert all(torch.equal(value, other["optimizer"]["state"][index][name]) for name, value in slots.items())
    one, other = (json.loads((run / "results.json").read_text()) for run in (whole, folder))
    assert one["last"] == other["last"] and one["best"] == other["best"]
    one, other = ([json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, folder))
    for kind in ("train", "evaluation/teacher", "evaluation/student"):
        assert steps_of(kind, one) == steps_of(kind, other)
    assert not [path for path in folder.rglob(".*")]


def steps_of(kind, lines):
    return [line["step"] for line in lines if line["kind"] == kind]


# ---- death at every moment of a write


class Killed(BaseException):
    """What kill -9 does: nobody gets to clean up."""


class Audit:
    """Counts what a process asks the file system for, and kills it at one such moment. Python keeps its hooks for ever."""

    armed = None

    @classmethod
    def hook(cls, event, _):
        if cls.armed is not None and (event == "open" or event.startswith("os.")):
            cls.armed -= 1
            if cls.armed < 0:
                cls.armed = None
                raise Killed(event)


sys.addaudithook(Audit.hook)


def killed_at_every_moment(work):
    """Lets `work` die at its first, second, third ... moment, yields after each death, and ends when it has survived."""
    for moment in range(1000):
        Audit.armed = moment
        try:
            work()
        except Killed:
            yield moment
        else:
            return
        finally:
            Audit.armed = None
    raise AssertionError("a thousand moments")


def state_of(step):
    return {"step": step, "weights": torch.full((50,), float(step))}


def test_a_save_may_die_at_any_moment_and_a_whole_checkpoint_is_there(tmp_path):
    def begin():
        shutil.rmtree(tmp_path)
        for step in (1, 2):
            checkpoint.save(tmp_path, step, state_of(step), keep=2)

    moments = 0
    begin()
    for _ in killed_at_every_moment(lambda: checkpoint.save(tmp_path, 3, state_of(3), keep=2)):
        loaded, refused = checkpoint.load_newest(tmp_path)
        assert loaded["step"] in (2, 3) and not refused
        assert torch.equal(loaded["weights"], state_of(loaded["step"])["weights"])
        begin()
        moments += 1
    assert moments > 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_model_that_is_replaced_is_the_old_or_the_new_one_whenever_the_process_dies(tmp_path):
    def export(text):
        shutil.rmtree(tmp_path / ".writing-teacher", ignore_errors=True)
        (tmp_path / ".writing-teacher").mkdir()
        (tmp_path / ".writing-teacher" / "model").write_text(text)
        files.replace_folder(tmp_path / ".writing-teacher", tmp_path / "teacher")

    moments = 0
    export("old")
    for _ in killed_at_every_moment(lambda: export("new")):
        files.recover_replaced_folders(tmp_path)
        assert (tmp_path / "teacher" / "model").read_text() in ("old", "new")
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        export("old")
        moments += 1
    assert moments > 5 and [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_what_a_dead_run_left_half_written_goes_with_the_next_save(tmp_path):
    (tmp_path / ".writing-00000437").mkdir()
    checkpoint.save(tmp_path, 500, state_of(500), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000500"]


# ---- damaged checkpoints


def test_a_manifest_may_be_damaged_in_any_place(tmp_path):
    manifest = checkpoint.save(tmp_path, 1, state_of(1), keep=1) / "manifest.json"
    content = manifest.read_bytes()
    for place in range(len(content)):
        for bit in (0, 2, 7):
            spoiled = bytearray(content)
            spoiled[place] ^= 1 << bit
            manifest.write_bytes(spoiled)
            complaint = checkpoint.find_damage(manifest.parent)
            assert complaint or b'"step"' not in spoiled or json.loads(spoiled)["step"] != 1
    for text in ("[]", "null", "{}", '{"sha256": 3}'):
        manifest.write_text(text)
        assert checkpoint.find_damage(manifest.parent)


@pytest.mark.slow
def test_where_none_is_whole_the_run_stops_in_words_and_touches_nothing(broken):
    assert broken.go()[0] == 0
    there = checkpoint.complete(broken.folder / "checkpoints")
    for path in there:
        (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:-9])
    status, output = broken.go("--resume")
    assert status == 1 and output.splitlines()[-1].startswith("train_semi.py: no checkpoint can be resumed from: ")
    assert all(f"{path} is damaged (state.pt does not match" in output for path in there)
    assert output.endswith(f"Put a copy of one of them back; or delete {broken.folder}/checkpoints to begin again at step 0\n")
    assert "taking the one before" not in output and checkpoint.complete(broken.folder / "checkpoints") == there


def test_a_damaged_checkpoint_does_not_count_among_those_that_are_kept(tmp_path):
    for step in (2, 4, 6):
        checkpoint.save(tmp_path, step, state_of(step), keep=3)
    for step in (4, 6):
        (tmp_path / f"step-0000000{step}" / "state.pt").write_bytes(b"")
    assert checkpoint.load_newest(tmp_path)[0]["step"] == 2
    checkpoint.save(tmp_path, 3, state_of(3), keep=2)
    assert checkpoint.load_newest(tmp_path)[0]["step"] == 3
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step-00000002", "step-00000003"]


def test_a_checkpoint_of_a_stranger_that_brings_code_is_refused_and_never_run(tmp_path):
    checkpoint.save(tmp_path, 1, state_of(1), keep=2)
    evil = checkpoint.save(tmp_path, 2, {"step": 2, "weights": Trap(tmp_path / "ran")}, keep=2)
    loaded, (sentence,) = checkpoint.load_newest(tmp_path)
    assert loaded["step"] == 1 and not (tmp_path / "ran").exists()
    assert sentence.startswith(f"{evil} is damaged (state.pt does not hold tensors and plain values alone: ")
    assert sentence.endswith("); taking the one before it")


class Trap:
    """Unpickled it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# ---- the disk


def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize(
    ("step", "what"), [(2, "best-teacher"), (3, "checkpoints/step-00000004")], ids=["export", "checkpoint"]
)
@pytest.mark.slow
def test_a_disk_that_takes_no_more_stops_the_run_in_words_and_it_goes_on_later(step, what, broken, whole):
    try:
        status, output = broken.go_with(step, lambda: limit_files(60_000))
    finally:
        limit_files(resource.RLIM_INFINITY)
    assert status == 1 and "Traceback" not in output
    sentence = output.splitlines()[-1]
    assert sentence.startswith(f"train_semi.py: {broken.folder}/{what}")
    assert " could not be written: File too large; raise the limit on the size of files (ulimit -f). Nothing" in sentence
    assert sentence.endswith(
        f". Nothing is lost up to step 2, whose checkpoint is in {broken.folder}; {GOES_ON}"
    )
    assert broken.steps == [2] and not [path for path in broken.folder.rglob(".writing*")]
    assert broken.go("--resume")[0] == 0
    assert_nothing_is_lost(whole, broken.folder)


@pytest.mark.parametrize(
    ("number", "output"),
    [
        (errno.ENOSPC, "No space left on device (7.0 MiB free); free some space on that disk, or write to another one (a"),
        (errno.EDQUOT, "Disk quota exceeded (7.0 MiB free); free some space: the quota of this account is used up"),
        (errno.EROFS, "Read-only file system; make that disk writable, or write to another one (a run: run.output=FOLDER)"),
        (errno.EACCES, "Permission denied; make that folder writable, or write to another one (a run: run.output=FOLDER)"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_each_way_in_which_a_disk_refuses_has_its_way_out(number, output, tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state_of(1), keep=2)

    def refuses(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(checkpoint, "flush", refuses)
    monkeypatch.setattr(errors.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 2, 7 * 2**20))
    with pytest.raises(errors.WriteError) as caught:
        checkpoint.save(tmp_path, 2, state_of(2), keep=1)
    assert str(caught.value).startswith(f"{tmp_path}/step-00000002 (0.0 MiB) could not be written: {output}")
    assert checkpoint.load_newest(tmp_path)[0]["step"] == 1 and [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.slow
def test_a_log_that_cannot_be_written_names_the_folder(broken):
    record = log.RunLog.record

    def full(log, kind, values):
        if log.training.step == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what a write to an open file raises names no file
        record(log, kind, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log.RunLog, "record", full)
        status, output = broken.go()
    assert status == 1 and output.splitlines()[-1].startswith(f"train_semi.py: {broken.folder}: No space left on device (")
    assert "Nothing is lost up to step 4" in output.splitlines()[-1]


def test_a_text_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path, monkeypatch):
    files.write_text(tmp_path / "report.html", "old")
    monkeypatch.setattr(files, "flush", lambda path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(errors.WriteError, match="report.html could not be written: full"):
        files.write_text(tmp_path / "report.html", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_an_error_that_is_none_of_the_disk_is_not_taken_for_one(tmp_path):
    with pytest.raises(RuntimeError, match="^no such kernel$"):
        with files.writing(tmp_path / "target", tmp_path / "beside"):
            raise RuntimeError("no such kernel")


# ---- images and masks that change while a run is under way


def vanish(path):
    return lambda: path.rename(path.with_suffix(".gone"))


def come_back(path):
    path.with_suffix(".gone").rename(path)


@pytest.mark.slow
def test_a_labelled_image_that_vanishes_stops_the_run_where_it_is(broken, whole):
    image = broken.photos / "images" / "1.png"
    status, output = broken.go_with(2, vanish(image))
    assert status == 1 and "Traceback" not in output
    sentence = output.splitlines()[-1]
    assert sentence.startswith(f"train_semi.py: image {image} does not exist. Nothing is lost up to step ")
    assert sentence.endswith(f", whose checkpoint is in {broken.folder}; {GOES_ON}")
    assert broken.steps[-1] == broken.log("train")[-1] >= 3  # every step that was made is saved
    status, output = broken.go("--resume")
    assert status == 1 and f"{broken.photos}/labeled.txt names 1 id without an image in" in output
    come_back(image)
    assert broken.go("--resume")[0] == 0
    assert_nothing_is_lost(whole, broken.folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (mask(highest=7), "has the id 7, but the 3 classes have ids 0, 1, 2"),
        (mask(height=30), "is 56x30 (width x height); both must have the same size"),
    ],
    ids=["ids", "size"],
)
@pytest.mark.slow
def test_a_mask_that_changes_stops_the_run_where_it_is(change, complaint, broken, whole):
    def spoil():
        for name in "012":
            Image.fromarray(change).save(broken.photos / "masks" / f"{name}.png")

    status, output = broken.go_with(2, spoil)
    assert status == 1 and "Traceback" not in output
    assert complaint in output and "Nothing is lost up to step 3, whose checkpoint is in" in output.splitlines()[-1]
    status, output = broken.go("--resume")
    assert status == 1 and complaint in output  # before anything is done
    for name in "012":
        Image.fromarray(mask()).save(broken.photos / "masks" / f"{name}.png")
    assert broken.go("--resume")[0] == 0
    assert_nothing_is_lost(whole, broken.folder)


@pytest.mark.slow
def test_an_evaluation_image_that_vanishes_costs_no_step_and_its_evaluation_is_made_up_for(broken, whole):
    image = broken.photos / "images" / "4.png"
    status, output = broken.go_with(2, vanish(image))
    assert status == 1 and f"image {image} does not exist. Nothing is lost up to step 3" in output.splitlines()[-1]
    assert broken.log("evaluation/teacher") == []
    come_back(image)
    assert broken.go("--resume")[0] == 0
    assert_nothing_is_lost(whole, broken.folder)


@pytest.mark.slow
def test_an_unlabelled_image_that_vanishes_is_replaced_and_a_resumed_run_says_that_the_list_is_another(broken):
    image = broken.photos / "images" / "6.png"
    status, output = broken.go_with(1, vanish(image), "schedule.steps=6", "data.workers=0")
    assert status == 0
    assert f": replaced an unlabelled image, the 1. of this run: image {image} does not exist" in output
    results = json.loads((broken.folder / "results.json").read_text())
    assert results["replaced_images"] > 0 and results["changes"] == []
    shutil.rmtree(broken.folder / "checkpoints" / "step-00000006")
    status, output = broken.go("--resume")
    change = (
        "from step 4: the unlabelled list has 2 images and had 3 (other ids, by their SHA-256), so the run will not end as an"
        " uninterrupted one would"
    )
    assert status == 0 and f"changed {change}" in output
    assert json.loads((broken.folder / "results.json").read_text())["changes"] == [change]


@pytest.mark.slow
def test_a_pool_of_which_nothing_is_left_is_a_sentence(broken):
    def empty():
        for name in "567":
            (broken.photos / "images" / f"{name}.png").write_bytes(b"half a")

    status, output = broken.go_with(2, empty)
    assert status == 1 and "20 unlabelled images in a row could not be read, the last: image" in output.splitlines()[-1]
    assert "check data.root and data.unlabeled. Nothing is lost up to step 3" in output.splitlines()[-1]


@pytest.mark.slow
def test_scores_of_another_measurement_or_branch_are_never_compared(broken):
    """An ended run is measured again, and report, results and best-*/ name the same step."""
    assert broken.go("evaluation.every=1")[0] == 0
    before = json.loads((broken.folder / "results.json").read_text())
    status, output = broken.go("--resume", "evaluation.every=1", "data.id_map.2=255")
    after = json.loads((broken.folder / "results.json").read_text())
    assert status == 0 and after["last"] != before["last"] and after["changes"] == [
        "from step 6: data.id_map.2 was None and is 255",
        "from step 6: scores of before are of another measurement, so the best model is chosen among those from here on",
    ]
    assert {best["step"] for best in after["best"].values()} == {6} == {read_run(broken.folder).best(role)["step"] for role in after["best"]}
    shutil.rmtree(broken.folder / "checkpoints" / "step-00000006")
    status, output = broken.go("--resume", "evaluation.every=6", "optimizer.lr=1e-9")
    after = json.loads((broken.folder / "results.json").read_text())
    for role, best in after["best"].items():  # best-*/ was of step 6 of the other branch
        assert f"best-{role} is not of step {before['best'][role]['step']} any more, so the best {role} is chosen from here on" in output
        assert best["step"] == 6 and after["last"][role]["mean_iou"] == best["mean_iou"] == read_run(broken.folder).best(role)["mean_iou"]


# ---- processes


@pytest.mark.slow
def test_a_loader_worker_that_is_killed_is_a_sentence_and_the_run_goes_on_later(broken, whole):
    def kill():  # both, since either may have delivered all that it was asked for; the last batch nobody was yet
        for worker in multiprocessing.active_children():
            worker.kill()

    status, output = broken.go_with(0, kill, "data.workers=2")
    assert status == 1 and "Traceback" not in output
    sentence = output.splitlines()[-1]
    assert sentence.startswith(
        "train_semi.py: a loader worker was ended by SIGKILL, as a system that runs out of memory ends processes; take a lower"
        " data.workers (it is 2, and 0 does without). Nothing is lost up to step "
    )
    assert broken.steps[-1] == broken.log("train")[-1] and not multiprocessing.active_children()
    assert broken.go("--resume", "data.workers=0")[0] == 0
    assert_nothing_is_lost(whole, broken.folder)


@pytest.mark.slow
def test_sigterm_again_and_again_saves_once_and_an_evaluation_that_was_due_is_made_up_for(broken, whole, monkeypatch):
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    save = checkpoint.save

    def impatient(*given):
        twice()
        return save(*given)

    monkeypatch.setattr(checkpoint, "save", impatient)
    status, output = broken.go_with(2, twice)  # after step 2 the save has sent some, too
    assert status == 128 + signal.SIGTERM
    assert output.splitlines()[-1] == (
        "stopped by SIGTERM after step 3, checkpoint written; the same command with --resume goes on"
    )
    monkeypatch.setattr(checkpoint, "save", save)
    assert broken.steps[-1] == 3 and broken.log("evaluation/teacher") == []
    assert broken.go("--resume")[0] == 0
    assert_nothing_is_lost(whole, broken.folder)


@pytest.mark.slow
def test_a_device_that_is_too_small_is_told_what_makes_a_step_smaller(broken, monkeypatch):
    update = engine.update

    def too_large(accelerator, student, *given):
        if given[3] == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return update(accelerator, student, *given)

    monkeypatch.setattr(engine, "update", too_large)
    status, output = broken.go()
    assert status == 1 and output.splitlines()[-1].startswith(
        "train_semi.py: CUDA out of memory. Tried to allocate 2.00 GiB; take a higher run.batch.rounds (smaller passes, the same batch)"
        " or, of a transformer, model.activation_checkpointing=true, which a resumed run may change, or a smaller data.crop or model.encoder in a new run."
        " Nothing is lost up to step 2"
    )
    monkeypatch.setattr(engine, "update", update)
    status, output = broken.go("--resume", "run.batch.rounds=2", "model.activation_checkpointing=true")
    assert status == 0 and "changed from step 2: run.batch.rounds was 1 and is 2" in output


@pytest.mark.slow
def test_an_evaluation_that_is_too_large_is_told_what_makes_it_smaller(broken, monkeypatch):
    def too_large(*given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(results, "evaluate_networks", too_large)
    status, output = broken.go()
    assert status == 1 and output.splitlines()[-1].startswith(
        "train_semi.py: the evaluation: CUDA out of memory; take a smaller evaluation.batch, or evaluation.mode=sliding. Nothing"
    )


@pytest.mark.slow
@pytest.mark.parametrize("when", ["during", "after", "damaged"])
def test_a_run_that_is_killed_at_an_evaluation_keeps_the_steps_before_it(broken, whole, monkeypatch, when):
    evaluate = results.evaluate

    def killed(*given):
        if when != "during":
            evaluate(*given)
        raise Killed

    monkeypatch.setattr(results, "evaluate", killed)
    with pytest.raises(Killed):
        broken.go("run.checkpoint_every=1")
    step = broken.steps[-1]
    if when == "damaged":
        (broken.folder / "checkpoints" / f"step-{step:08d}" / checkpoint.SCORES).write_bytes(b"half of it")
    monkeypatch.setattr(results, "evaluate", evaluate)
    status, output = broken.go("--resume", "run.checkpoint_every=1")
    assert status == 0 and f"from step {step}" in output and "any more" not in output
    assert_nothing_is_lost(whole, broken.folder)
    assert checkpoint.load_newest(broken.folder / "checkpoints")[0]["evaluated_at"] == broken.steps[-1]


@pytest.mark.slow
def test_a_best_model_of_an_evaluation_that_comes_again_is_of_the_step_that_the_scores_say(broken, monkeypatch):
    record, writes = results.write_model, []

    def killed(*given, **named):
        record(*given, **named)
        writes.append(given)
        if len(writes) == 3:  # the first model of the second evaluation
            raise Killed

    monkeypatch.setattr(results, "write_model", killed)
    scores = iter([0.3, 0.3, 0.4, 0.2, 0.2, 0.1, 0.1])  # that evaluation is worse the second time
    as_dict = results.ConfusionMatrix.as_dict
    monkeypatch.setattr(results.ConfusionMatrix, "as_dict", lambda *given: {**as_dict(*given), "mean_iou": next(scores)})
    with pytest.raises(Killed):
        broken.go("run.checkpoint_every=1")
    step = broken.steps[-1]
    monkeypatch.setattr(results, "write_model", record)
    status, output = broken.go("--resume", "run.checkpoint_every=1", f"evaluation.every={step}")
    best = json.loads((broken.folder / "results.json").read_text())["best"]
    assert status == 0 and "any more" not in output
    for role in ("teacher", "student"):
        assert f" after {best[role]['step']} steps " in (broken.folder / f"best-{role}" / "README.md").read_text()


@pytest.mark.slow
def test_pictures_that_are_too_large_are_left_out_and_the_run_goes_on(broken, monkeypatch):
    def too_large(*given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(results, "draw_panels", too_large)
    status, output = broken.go()
    assert status == 0 and "the memory is too small for pictures of the unlabelled images; take evaluation.mode=sliding" in output


@pytest.mark.slow
def test_a_loss_that_is_not_finite_tells_what_may_be_changed_and_the_change_is_on_record(broken, monkeypatch):
    update = engine.update

    def poisoned(accelerator, student, *given):
        if given[3] == 3:
            with torch.no_grad():
                next(student.parameters()).fill_(float("nan"))
        return update(accelerator, student, *given)

    monkeypatch.setattr(engine, "update", poisoned)
    status, output = broken.go()
    assert status == 1 and output.splitlines()[-1].startswith("train_semi.py: step 3: supervised, ")
    assert output.splitlines()[-1].endswith(
        " is not finite; lower optimizer.lr, set optimizer.clip_norm (to 1, say), or take run.mixed_precision=no: these three may"
        " differ when a run is resumed, and without a change it would come to the same step again. Nothing is lost up to step 2,"
        f" whose checkpoint is in {broken.folder}; {GOES_ON}"
    )
    assert broken.steps == [2]
    monkeypatch.setattr(engine, "update", update)
    status, output = broken.go("--resume", "optimizer.lr=0.0001", "optimizer.clip_norm=1")
    changes = [
        "from step 2: optimizer.clip_norm was 0.0 and is 1.0",
        "from step 2: optimizer.lr was 0.001 and is 0.0001",
    ]
    assert status == 0 and all(f"changed {change}" in output for change in changes)
    assert json.loads((broken.folder / "results.json").read_text())["changes"] == changes
    lines = [json.loads(line) for line in (broken.folder / "log.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if line["kind"] == "train"]
    assert rates[2] < rates[1] / 5


# ---- the long bench: real processes with loader workers, broken at random moments


def kill_the_run(process):
    process.kill()


def stop_the_run_twice(process):
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)


def kill_a_worker(process):
    workers = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if parent_of(pid) == process.pid]
    if workers:
        os.kill(random.choice(workers), signal.SIGKILL)


def parent_of(pid):
    try:
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return None


def fill_the_disk(process):
    """For a moment: no file may grow past 60 kB, and then past any size again."""
    for size in (60_000, resource.RLIM_INFINITY):
        try:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        except ProcessLookupError:
            return
        time.sleep(0.5)


@pytest.mark.skipif(not MINUTES, reason="S4FORMER_SURVIVAL_MINUTES says for how long")
def test_runs_that_are_broken_at_random_moments_end_in_the_same_bits(tmp_path):
    generator, until, broken = random.Random(time.time_ns()), time.monotonic() + 60 * MINUTES, 0
    longer = ["schedule.steps=24", "data.workers=2"]
    reference = Run(tmp_path / "reference")
    done = run(command(reference.config, reference.folder, *longer))
    assert done.returncode == 0, done.stderr
    for number in range(10_000):
        if number and time.monotonic() > until:
            break
        one, resume = Run(tmp_path / str(number)), ()
        for attempt in range(100):
            process = subprocess.Popen(
                command(one.config, one.folder, *longer, *resume), env=environment(), stderr=subprocess.PIPE, text=True
            )
            mischief = generator.choice([kill_the_run, stop_the_run_twice, kill_a_worker, fill_the_disk])
            threading.Timer(generator.uniform(3, 20), mischief, [process]).start()
            output = process.communicate(timeout=600)[1]
            if process.returncode == 0:
                break
            broken += 1
            assert "Traceback" not in output, output
            assert process.returncode in (1, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM), output
            assert process.returncode != 1 or resume_hint(one.folder) in output, output
            resume = ("--resume",)
        assert_nothing_is_lost(reference.folder, one.folder)
        shutil.rmtree(one.folder)
    print(f"{broken} runs were broken and resumed, {number} came to their end")
