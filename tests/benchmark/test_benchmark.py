"""The benchmark checks before it times; how fast anything is, no test asserts."""

import json

import pytest
import torch
from scripts import TINY

from s4former.benchmark import data_parts, reference, training_parts
from s4former.benchmark.command import main, split_arguments
from s4former.benchmark.inputs import benchmark_inputs
from s4former.benchmark.timing import Benchmark, MismatchError, Timer
from s4former.config import from_dict

CPU = torch.device("cpu")
@pytest.fixture
def benchmark(tmp_path):
    config, sources, _ = benchmark_inputs(from_dict(TINY), tmp_path)
    return Benchmark(config=config, sources=sources, timer=Timer(CPU, 1))


def test_pictures_are_drawn_where_the_data_is_not_there(tmp_path):
    config, sources, description = benchmark_inputs(from_dict({"data": {"root": str(tmp_path / "none"), "labeled": "92.txt"}}), tmp_path)
    assert "drawn JPEGs of 500x375" in description and len(sources.classes) == 21
    assert (len(sources.labeled), len(sources.unlabeled), len(sources.validation)) == (4, 4, 4)
    assert config.model.pretrained is False


def test_windows_are_read_the_same_one_at_a_time(benchmark):
    (row,) = data_parts.windows(benchmark, (50, 100))
    assert row.against == "one at a time" and row.ratio > 0


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
        list(getattr(training_parts, part)(benchmark))


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TINY, "evaluation": {**TINY["evaluation"], "every": 1150}}))
    assert main(["step", "loader", "memory", "--config", str(path), "--repeats", "1", "--json", str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr().out
    assert "S4Former, setr deit-tiny, 2+4 at 32x48, float32" in printed and "% of a float32 matrix product" in printed
    assert "GiB at the peak of a step, computed for bfloat16, 2+4 images in 1 round" in printed
    report = json.loads((tmp_path / "b.json").read_text())
    assert [row["part"] for row in report["rows"]] == ["step", "loader"]
    assert report["rows"][0]["ours"]["median"] > 0 and report["facts"]["step"]["flops"] > 0


def test_an_unknown_part_and_a_key_are_told_apart(capsys):
    assert split_arguments(["ema", "run.seed=1", "step"]) == (["step", "ema"], ["run.seed=1"])
    assert main(["spet"]) == 1
    assert "there is no part 'spet'; one of step, attention" in capsys.readouterr().err


def test_a_step_in_rounds_is_timed_as_one_round(benchmark):
    tree = {**TINY, "run": {**TINY.get("run", {}), "batch": {"labeled": 2, "unlabeled": 4, "rounds": 2}}}
    rounds = Benchmark(config=from_dict(tree), sources=benchmark.sources, timer=benchmark.timer)
    row = next(training_parts.step(rounds))
    assert row.images == 3 and "1+2 at" in row.name and rounds.facts["step"]["rounds"] == 2
    assert training_parts.one_round(rounds.config).run.batch.rounds == 1
