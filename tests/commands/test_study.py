"""A grid of runs: which they are, that none is run twice, and what is left of them."""

import gzip
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from folders import make_folder, write
from scripts import ROOT, TINY, environment, run

from s4former import files
from s4former.commands import grid as grids
from s4former.commands import study
from s4former.commands.archive import append, read_archive
from s4former.commands.grid import expand_grid, read_grid
from s4former.errors import ConfigError, DataError
from s4former.evaluation.packed_counts import pack_counts, unpack_counts
from s4former.training.machine import available_cores, free_memory_gib


def grid_of(tmp_path, **changes):
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    grid = {
        "name": "tiny", "config": [str(tmp_path / "tiny.json")], "overrides": ["schedule.steps=2", "evaluation.every=2"],
        "draws": [0, 1], "methods": {"full": [], "labels": ["method.teacher=none"]},
    }  # fmt: skip
    return {**grid, **changes}


def on_photos(tmp_path):
    root = make_folder(tmp_path)
    data = {"source": "folder", "root": str(root), "labeled": "labeled.txt", "validation": "test.txt", "classes": list("abc")}
    (tmp_path / "photos.json").write_text(json.dumps({"data": data}))
    return grid_of(tmp_path, config=str(tmp_path / "photos.json"), draws=[0], methods={"full": []}, overrides=[]), root


def key_of(grid, *extra):
    return expand_grid(grid, extra)[0].key


# ---- which runs


def test_every_method_runs_on_a_draw_before_the_next_draw_begins(tmp_path):
    runs = expand_grid(grid_of(tmp_path, draws={"labels": [3, 4], "seed": [7, 8]}, overrides=["data.shapes.labeled={labels}"]))
    assert [run.title for run in runs[:3]] == ["full (labels 3, seed 7)", "labels (labels 3, seed 7)", "full (labels 3, seed 8)"]
    drawn = [(run.tree["run"]["seed"], run.tree["data"]["shapes"]["labeled"]) for run in runs[::2]]
    assert drawn == [(7, 3), (8, 3), (7, 4), (8, 4)]
    assert len({run.key for run in runs}) == 8 and len({run.record["protocol"] for run in runs}) == 2


def test_runs_that_start_from_the_networks_of_their_draws_are_of_one_protocol(tmp_path):
    for seed in "01":
        (tmp_path / seed).mkdir()
        write(tmp_path / seed / "model.safetensors", seed)
        write(tmp_path / f"{seed}.json", "{}")
    grid = grid_of(tmp_path, methods={"full": []}, overrides=[str(tmp_path / "{seed}.json"), "schedule.steps=2", "evaluation.every=2"])
    records = [run.record for run in expand_grid(grid, [f"model.start_from={tmp_path}/{{seed}}"])]
    records += [expand_grid(grid_of(tmp_path, draws=[0], methods={"full": []}), [f"model.start_from={tmp_path}/0"])[0].record]
    assert records[0]["key"] == records[2]["key"] != records[1]["key"]
    assert records[0]["protocol"] == records[1]["protocol"] != records[2]["protocol"]


def test_the_overrides_of_a_method_go_over_the_shared_ones(tmp_path):
    write(tmp_path / "low.json", '{"method": {"threshold": 0.2}}')
    methods = {"file": [str(tmp_path / "low.json")], "both": [str(tmp_path / "low.json"), "method.threshold=0.3"]}
    runs = expand_grid(grid_of(tmp_path, overrides=["method.threshold=0.9"], methods=methods, draws=[0]), ["method.threshold=0.8"])
    assert [run.record["config"]["method"]["threshold"] for run in runs] == [0.2, 0.3]


def test_two_names_for_one_run_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"same \(seed 0\) and full \(seed 0\) are the same run; leave one of them out"):
        expand_grid(grid_of(tmp_path, methods={"full": [], "same": ["run.keep=9"]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1]}, "has the key 'seeds'; a grid has name, config, overrides, draws, methods"),
        ({"methods": []}, "'methods' is \\[\\]"),
        ({"methods": {"base": None}}, "methods.base is None; it must be a list"),
        ({"methods": {"base": "method.pasa=none"}}, "methods.base is 'method.pasa=none'; it must be a list"),
        ({"draws": {"seed": [0], "labels": 92}}, "draws.labels is 92; it must be a list"),
        ({"overrides": [["a"]]}, "has \\['a'\\] where a config file or section.key=value belongs"),
    ],
)
def test_a_grid_that_cannot_be_read_is_refused_with_the_reason(tmp_path, changes, message):
    (tmp_path / "grid.json").write_text(json.dumps(grid_of(tmp_path, **changes)))
    with pytest.raises(ConfigError, match=message):
        read_grid(tmp_path / "grid.json")


def test_draws_need_seeds(tmp_path):
    with pytest.raises(ConfigError, match='"draws" names no seeds'):
        expand_grid(grid_of(tmp_path, draws={"labels": [1]}))


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "measured").glob("*.json")), ids=lambda path: path.stem)
def test_the_grids_of_the_documents_can_be_read_and_lack_only_their_data(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if path.stem == "demo":  # its images are drawn
        assert len(expand_grid(read_grid(path))) == 70
        return
    with pytest.raises(DataError, match="data.root is empty"):
        expand_grid(read_grid(path))


# ---- the key


def test_the_key_stays_when_only_paths_and_logging_change(tmp_path):
    grid, root = on_photos(tmp_path)
    key = key_of(grid)
    root.rename(tmp_path / "elsewhere")
    os.rename(tmp_path / "elsewhere" / "labeled.txt", tmp_path / "elsewhere" / "list.txt")
    places = [f"data.root={tmp_path / 'elsewhere'}", "data.labeled=list.txt", "run.output=other", "data.workers=3"]
    assert key_of(grid, *places, "run.log_every=7", "evaluation.batch=2", "evaluation.every=9") == key


def test_a_config_key_that_is_added_later_leaves_the_key_as_it_is():
    tree, defaults = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}}
    later = {"a": 1, "e": 5, "b": {"c": 2, "d": 3, "f": 6}}, {"a": 1, "e": 5, "b": {"c": 2, "d": 4, "f": 6}}
    assert grids.non_defaults(tree, defaults) == {"b": {"d": 3}} == grids.non_defaults(*later)


def test_the_key_changes_with_what_changes_numbers(tmp_path, monkeypatch):
    grid, root = on_photos(tmp_path)
    keys = [key_of(grid), key_of(grid, "optimizer.lr=0.5"), key_of(grid, "evaluation.limit=1"), key_of({**grid, "draws": [1]})]
    write(root / "labeled.txt", "a")
    grids.load_lists.cache_clear()
    keys.append(key_of(grid))
    monkeypatch.setattr(grids, "NUMERICS", grids.NUMERICS + 1)
    keys.append(key_of(grid))
    assert len(set(keys)) == len(keys)


def test_another_dataset_of_the_hub_has_another_key_though_its_rows_have_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "load_lists", lambda data: {})
    grid = grid_of(tmp_path, overrides=["data.source=hub", "data.root=me/leaves", "data.labeled=first:3", 'data.classes=["a", "b"]'])
    keys = {key_of(grid), key_of(grid, "data.root=me/roads"), key_of(grid, "data.unlabeled=extra"), key_of(grid, "data.validation=test")}
    assert len(keys) == 4


def test_a_machine_that_does_not_say_what_is_free_has_its_cores_and_all_of_its_memory(monkeypatch, tmp_path):
    monkeypatch.delattr("os.sched_getaffinity")
    assert available_cores() == os.cpu_count()
    assert free_memory_gib(tmp_path / "meminfo") > free_memory_gib() > 0


def test_weights_are_hashed_by_content(tmp_path):
    grid = grid_of(tmp_path)
    for name, is_file in (("vit.pth", True), ("pytorch_model.bin", False), ("model.safetensors", False)):
        keys = []
        for folder, content in (("one", b"1"), ("two", b"1"), ("three", b"3")):
            place = tmp_path / name / folder / "w"
            place.mkdir(parents=True)
            (place / name).write_bytes(content)
            keys.append(key_of(grid, f"model.encoder={place / name if is_file else place}"))
        assert keys[0] == keys[1] != keys[2]


def test_no_path_is_in_a_record(tmp_path):
    grid, _ = on_photos(tmp_path)
    assert str(tmp_path) not in json.dumps(expand_grid(grid)[0].record)


# ---- the archive


def record_of(number, process=0):
    return {"study": "s", "method": f"m{process}", "key": str(number), "text": os.urandom(3000).hex()}


def append_many(path, process):
    for number in range(20):
        append(path, record_of(number, process))


def test_appends_of_two_processes_are_all_complete(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_many, args=(path, process)) for process in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = sorted((line["method"], int(line["key"])) for line in read_archive(path))
    assert found == [(f"m{process}", number) for process in (0, 1) for number in range(20)]
    with gzip.open(path, "rt") as file:
        assert [json.loads(line) for line in file] == read_archive(path)


def test_a_record_is_written_once(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    assert append(path, record_of(1)) and not append(path, record_of(1)) and append(path, record_of(2))
    assert [line["key"] for line in read_archive(path)] == ["1", "2"]


def test_an_append_that_is_interrupted_leaves_the_archive_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl.gz"
    append(path, record_of(1))
    monkeypatch.setattr(files, "flush", interrupt)
    with pytest.raises(KeyboardInterrupt):
        append(path, record_of(2))
    assert [line["key"] for line in read_archive(path)] == ["1"]


def interrupt(path):
    raise KeyboardInterrupt


@pytest.mark.parametrize("left", [1, 12, 700])
def test_a_damaged_archive_is_named(tmp_path, left):
    path = tmp_path / "a.jsonl.gz"
    append(path, record_of(1))
    os.truncate(path, left)
    with pytest.raises(DataError, match="a.jsonl.gz is not an archive of runs, or is damaged: "):
        read_archive(path)


def test_a_file_that_is_no_archive_is_an_error(tmp_path):
    write(tmp_path / "a.jsonl.gz", "no archive at all, and longer than a header")
    with pytest.raises(DataError, match="a.jsonl.gz is not an archive of runs, or is damaged: "):
        read_archive(tmp_path / "a.jsonl.gz")


def test_counts_are_packed_without_loss():
    counts = np.random.default_rng(0).integers(0, 2**31 - 1, size=(4, 3, 5))
    assert (unpack_counts(pack_counts(counts), 5) == counts).all()


# ---- real runs


def command(tmp_path, grid, *more):
    (tmp_path / "grid.json").write_text(json.dumps(grid))
    places = ["--archive", str(tmp_path / "a.jsonl.gz"), "--work", str(tmp_path / "work"), "--jobs", "2"]
    return [sys.executable, "-m", "s4former", "study", str(tmp_path / "grid.json"), *places, *more]


def run_study(tmp_path, grid, *more):
    return run(command(tmp_path, grid, *more), cwd=ROOT, timeout=500)


@pytest.mark.slow
def test_a_study_that_was_stopped_resumes_and_runs_nothing_twice(tmp_path):
    grid = grid_of(tmp_path, overrides=["schedule.steps=40", "evaluation.every=40", "run.checkpoint_every=40"])
    process = subprocess.Popen(command(tmp_path, grid), env=environment(), cwd=ROOT, text=True, stderr=subprocess.PIPE)
    until = time.monotonic() + 400
    while time.monotonic() < until and not any("step 2/40" in path.read_text() for path in tmp_path.glob("work/*.log")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=400) == 128 + signal.SIGTERM, process.stderr.read()
    process.stderr.close()
    assert any("checkpoint written" in path.read_text() for path in tmp_path.glob("work/*.log"))
    before = read_archive(tmp_path / "a.jsonl.gz")
    assert len(before) < 4
    done = run_study(tmp_path, grid)
    assert done.returncode == 0, done.stderr
    lines = read_archive(tmp_path / "a.jsonl.gz")
    assert lines[: len(before)] == before and len({line["key"] for line in lines}) == len(lines) == 4
    assert not list((tmp_path / "work").iterdir())
    assert_complete(lines)
    again = run_study(tmp_path, grid)
    assert again.stdout == f"4 runs, 4 of them in {tmp_path / 'a.jsonl.gz'}\n" and read_archive(tmp_path / "a.jsonl.gz") == lines
    other = run_study(tmp_path, {**grid, "name": "other", "methods": {"renamed": []}})
    assert other.returncode == 0 and [line.get("same") for line in read_archive(tmp_path / "a.jsonl.gz")[4:]] == [True, True]


def assert_complete(lines):
    for line in lines:
        assert line["train"]["step"][-1] == 40 and len(line["train"]["loss/total"]) == 40
        assert line["machine"]["device"].startswith("1 x ") and line["images"]["step"] == 40
        assert {entry["kind"] for entry in line["evaluations"]} >= {"evaluation/student"}
        for role, score in line["last"].items():
            right, predicted, true = unpack_counts(line["images"]["counts"][role], len(line["images"]["classes"])).sum(axis=0)
            assert true.sum() == 5 * 40 * 56 == predicted.sum()
            union = predicted + true - right
            assert score["mean_iou"] == pytest.approx((right / np.maximum(union, 1))[union > 0].mean(), abs=1e-5)


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path):
    grid = grid_of(tmp_path, draws=[0], methods={"bad": ["model.encoder=/no/such/vit.pth"], "labels": ["method.teacher=none"]})
    done = run_study(tmp_path, grid)
    assert done.returncode == 1 and "failed: bad (seed 0), see " in done.stderr and "/no/such/vit.pth" in done.stderr
    assert [line["method"] for line in read_archive(tmp_path / "a.jsonl.gz")] == ["labels"]


@pytest.mark.slow
def test_a_run_that_another_process_runs_is_left_to_it(tmp_path):
    grid = grid_of(tmp_path, draws=[0], methods={"labels": ["method.teacher=none"]})
    options = {"env": environment(), "cwd": ROOT, "text": True, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command(tmp_path, grid), **options) for _ in range(2)]
    output = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    assert len(read_archive(tmp_path / "a.jsonl.gz")) == 1


def test_a_dry_run_lists_what_is_done_and_starts_nothing(tmp_path, capsys):
    grid = grid_of(tmp_path)
    append(tmp_path / "a.jsonl.gz", expand_grid(grid)[1].record)
    assert study.main([*command(tmp_path, grid)[4:], "--dry-run"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1:] for line in output[1:]] == [
        ["to do", "full (seed 0)"], ["done", "labels (seed 0)"], ["to do", "full (seed 1)"], ["to do", "labels (seed 1)"],
    ]  # fmt: skip
    assert not (tmp_path / "work").exists()
