"""The benchmark checks before it times; how fast anything is, no test asserts."""

import json

import numpy as np
import pytest
import torch
from scripts import TINY

from s4former.benchmark import data_parts, reference_data, reference_step, training_parts
from s4former.benchmark.command import main, split_arguments
from s4former.benchmark.cost import count_flops, flops_of_evaluation, flops_of_step
from s4former.benchmark.inputs import benchmark_inputs, build
from s4former.benchmark.timing import Benchmark, MismatchError, Timer
from s4former.config import from_dict
from s4former.data.batches import StepDataset
from s4former.errors import ConfigError

CPU = torch.device("cpu")
SEGFORMER = {
    **TINY,
    "data": {**TINY["data"], "crop": [64, 96]},
    "model": {"architecture": "segformer", "encoder": "mit-b0", "pretrained": False, "encoder_config": {
        "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}},
}  # fmt: skip


@pytest.fixture
def benchmark(tmp_path):
    config, sources, _ = benchmark_inputs(from_dict(TINY), tmp_path)
    return Benchmark(config=config, sources=sources, timer=Timer(CPU, 1))


@pytest.mark.parametrize("tree", [TINY, SEGFORMER])
def test_our_step_and_the_reference_have_the_same_losses_and_gradient(tree, tmp_path):
    config, sources, _ = benchmark_inputs(from_dict(tree), tmp_path)
    inputs = build(config, sources, CPU)
    confident = training_parts.train_step(inputs.student, inputs.teacher, inputs.batch, inputs.config.method)["confident"]
    assert 0.2 < confident < 0.8  # a comparison in which no pixel counts would say nothing
    training_parts.check_step(inputs)


@pytest.mark.parametrize("name, wrong", [
    ("negative_class_ranking", lambda student, teacher, labels: student.sum() * 0),
    ("cross_entropy", lambda logits, labels: torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)),
    ("dense_masks", lambda bias: {}),
    ("inverse", lambda order: order),
])  # fmt: skip
def test_a_reference_step_that_is_another_method_is_noticed(benchmark, monkeypatch, name, wrong):
    config = from_dict({**TINY, "method": {**TINY["method"], "shuffle_probability": 1.0}})
    monkeypatch.setattr(reference_step, name, wrong)
    with pytest.raises(MismatchError, match="the two differ by .* nothing was timed"):
        training_parts.check_step(build(config, benchmark.sources, CPU))


def test_a_reference_loader_of_other_colours_is_noticed(benchmark, monkeypatch):
    steps, other = (
        kind(benchmark.config, benchmark.sources, (1, 1), 0, 1) for kind in (StepDataset, reference_data.ReferenceDataset)
    )
    data_parts.check_loader(steps, other)
    monkeypatch.setattr(reference_data, "distort", lambda image, colour: np.zeros_like(image))
    with pytest.raises(MismatchError, match="the labelled images of a step differ by .* grey levels"):
        data_parts.check_loader(steps, other)


def test_a_method_without_a_reference_is_refused():
    config = from_dict({**TINY, "method": {**TINY["method"], "mix": "classmix"}})
    with pytest.raises(ConfigError, match="no reference for method.mix = 'classmix'"):
        reference_step.check_method(config.method)


def test_pictures_are_drawn_where_the_data_is_not_there(tmp_path):
    config, sources, description = benchmark_inputs(from_dict({"data": {"root": str(tmp_path / "none"), "labeled": "92.txt"}}), tmp_path)
    assert "drawn JPEGs of 500x375" in description and len(sources.classes) == 21
    assert (len(sources.labeled), len(sources.unlabeled), len(sources.validation)) == (4, 4, 4)
    assert config.model.pretrained is False


def test_counting_agrees_with_histograms_and_with_the_evaluate_package(benchmark):
    rows = list(data_parts.scoring(benchmark, maps=3, size=(16, 24), classes=5))
    assert [row.against for row in rows] == ["NumPy histograms", "NumPy Arrow-backed histograms"]


def test_windows_are_read_the_same_one_at_a_time(benchmark):
    network = build(benchmark.config, benchmark.sources, CPU).teacher.network
    row = data_parts.windows(benchmark, lambda images: data_parts.full_size_logits(network, images), (50, 100))
    assert row.against == "one at a time"


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
    assert report["rows"][0]["ratio"] > 0 and report["facts"]["step"]["flops"] > 0


def test_an_unknown_part_and_a_key_are_told_apart(capsys):
    assert split_arguments(["ema", "run.seed=1", "step"]) == (["step", "ema"], ["run.seed=1"])
    assert main(["spet"]) == 1
    assert "there is no part 'spet'; one of step, attention" in capsys.readouterr().err


@pytest.mark.slow
def test_the_arithmetic_of_a_run_is_counted_without_running_it(benchmark):
    inputs = build(benchmark.config, benchmark.sources, CPU)
    measured = count_flops(training_parts.our_step(inputs, training_parts.Accelerator(cpu=True)))
    assert flops_of_step(benchmark.config, benchmark.sources) == measured
    whole = flops_of_evaluation(benchmark.config, benchmark.sources, (32, 48))
    sliding = from_dict({**TINY, "evaluation": {"mode": "sliding", "short_side": 0, "stride": [32, 48]}})
    assert flops_of_evaluation(sliding, benchmark.sources, (64, 96)) == 4 * whole > 0


@pytest.mark.slow
def test_the_budget_of_evaluation_covers_time_too_once_a_step_was_timed(benchmark):
    list(data_parts.budget(benchmark))
    assert "every 1150 steps" in benchmark.notes[1] and benchmark.notes[1].endswith("% of a training's arithmetic")
    assert 0 < benchmark.facts["evaluation_share_every_1150"] < benchmark.facts["evaluation_share_every_3"] < 1
    benchmark.facts["step"] = {"seconds": 10.0, "rounds": 2}
    list(data_parts.budget(benchmark))
    assert "20.0 s a step" in benchmark.notes[-1]
    long, short = (benchmark.facts[f"evaluation_share_of_time_every_{every}"] for every in (1150, 3))
    assert 0 < long < short < 1


def test_a_step_in_rounds_is_timed_as_one_round(benchmark):
    tree = {**TINY, "run": {**TINY.get("run", {}), "batch": {"labeled": 2, "unlabeled": 4, "rounds": 2}}}
    rounds = Benchmark(config=from_dict(tree), sources=benchmark.sources, timer=benchmark.timer)
    row = next(training_parts.step(rounds))
    assert row.images == 3 and "1+2 at" in row.name and rounds.facts["step"]["rounds"] == 2
    assert training_parts.one_round(rounds.config).run.batch.rounds == 1
