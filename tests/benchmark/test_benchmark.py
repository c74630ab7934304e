"""The benchmark checks before it times; how fast anything is, no test asserts."""

import json
from dataclasses import replace

import pytest
import torch
from scripts import TINY

from s4former.benchmark import parts, reference, steps
from s4former.benchmark.command import main
from s4former.benchmark.inputs import benchmark_inputs, build
from s4former.benchmark.timing import Benchmark, MismatchError
from s4former.config import from_dict
from s4former.training.engine import Teacher


@pytest.fixture
def benchmark():
    config, sources, _ = benchmark_inputs(from_dict(TINY))
    return Benchmark(config=config, sources=sources, device=torch.device("cpu"), repeats=1)


def test_scenes_are_drawn_where_the_data_is_not_there(tmp_path):
    config, sources, description = benchmark_inputs(from_dict({"data": {"root": str(tmp_path / "none"), "labeled": "92.txt"}}))
    assert "drawn scenes of 500x375" in description and len(sources.classes) == 21 and config.model.pretrained is False
    batch = build(replace(config, model=from_dict(TINY).model, run=from_dict(TINY).run), sources, torch.device("cpu")).batch
    assert batch.labels.shape == (2, 512, 512) and len(batch.weak) == 4


def test_windows_are_read_the_same_one_at_a_time(benchmark):
    (row,) = parts.windows(benchmark)
    assert row["what"] == "64x192 in windows of 32x48" and row["against"] == "one at a time" and row["ratio"] > 0


@pytest.mark.parametrize("part, name", [("losses", "negative_class_ranking"), ("ema", "update_ema"), ("attention", "dense_attention")])
def test_a_plain_implementation_that_computes_something_else_is_noticed(benchmark, monkeypatch, part, name):
    original = getattr(reference, name)
    wrong = {
        "negative_class_ranking": lambda student, teacher, labels: student.sum() * 0,
        "update_ema": lambda teacher, student, decay: original(teacher, student, 0.5),
        "dense_attention": lambda *arguments, pasa, **options: original(*arguments, **options),
    }[name]
    monkeypatch.setattr(reference, name, wrong)
    with pytest.raises(MismatchError, match="the two differ by .* nothing was timed"):
        list(getattr(parts, part)(benchmark))


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_it_and_all_numbers(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TINY, "evaluation": {**TINY["evaluation"], "every": 1150}}))
    assert main(["memory", "step", "--config", str(path), "--repeats", "1", "-o", str(tmp_path / "b")]) == 0
    printed, written = capsys.readouterr().out, (tmp_path / "b.md").read_text()
    for text in (printed, written):
        assert "| S4Former, setr deit-tiny, 2+4 at 32x48, float32 " in text and "% of a float32 matrix product" in text
        assert "GiB at the peak of a step, computed for bfloat16, 2+4 images in 1 round" in text
    report = json.loads((tmp_path / "b.json").read_text())["parts"]
    assert list(report) == ["memory", "step"] and len(report["memory"]["notes"]) == 2
    (row,) = report["step"]["rows"]
    assert row["ours"]["median"] > 0 and row["ours"]["peak_bytes"] > 0 and row["flops"] > 0


def test_words_that_are_no_parts_are_refused(capsys):
    assert main(["spet"]) == main(["run.seed=1"]) == main(["gpu", "step"]) == 1
    unknown, none, beside = capsys.readouterr().err.splitlines()
    assert "there is no part 'spet'; name some of step, kernels" in unknown and "no part is named; name some of step" in none
    assert "gpu has parts and configs of its own; leave out the other words" in beside


def test_the_config_is_not_written_over_and_devices_that_are_not_there_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    assert main(["step", "--config", "mine.json", "-o", "mine"]) == main(["step", "--device", "gpu"]) == 1
    over, device = capsys.readouterr().err.splitlines()
    assert "-o mine would write the report over the config mine.json; take another name" in over
    assert "--device gpu: " in device and "write cpu, or cuda where torch sees a GPU" in device


@pytest.mark.parametrize("teacher, follows, images", [("none", 0, 2), ("student", 0, 6), ("ema", 1, 6)])
def test_a_step_has_the_teacher_that_training_has(benchmark, monkeypatch, teacher, follows, images):
    config = from_dict({**TINY, "method": {**TINY["method"], "teacher": teacher}})
    followed = []
    monkeypatch.setattr(Teacher, "follow", lambda *arguments: followed.append(1))
    steps.training_step(build(config, benchmark.sources, benchmark.device))()
    assert len(followed) == follows
    row = next(steps.step(replace(benchmark, config=config)))
    assert row["images_per_second"] == pytest.approx(images / row["ours"]["median"])


def test_a_step_in_rounds_is_timed_as_one_round(benchmark):
    tree = {**TINY, "run": {**TINY.get("run", {}), "batch": {"labeled": 2, "unlabeled": 4, "rounds": 2}}}
    row = next(steps.step(replace(benchmark, config=from_dict(tree))))
    assert row["images_per_second"] == pytest.approx(3 / row["ours"]["median"]) and "1+2 at" in row["what"]


def test_the_step_that_is_timed_lies_behind_the_burn_in(benchmark):
    """Before its end the teacher and the unlabelled images have no part in a step."""
    tree = {**TINY, "method": {**TINY["method"], "burn_in": 3}}
    inputs = build(from_dict(tree), benchmark.sources, benchmark.device)
    assert "consistency_strong" in steps.training_step(inputs)()
