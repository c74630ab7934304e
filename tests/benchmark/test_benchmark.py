"""The benchmark checks before it times; how fast anything is, no test asserts."""

import json

import numpy as np
import pytest
import torch
from scripts import TINY

from s4former.benchmark import data_parts, straight, straight_data, timing, training_parts
from s4former.benchmark.__main__ import main, split_words
from s4former.benchmark.bench import Bench
from s4former.benchmark.material import at_hand, build
from s4former.benchmark.memory import LiveBytes, computed_peak, flops_of_evaluation, flops_of_step
from s4former.benchmark.timing import Disagreement, Measured, Row, Stopwatch, agree, count_flops, peak_memory
from s4former.config import from_dict
from s4former.errors import ConfigError

CPU = torch.device("cpu")
SEGFORMER = {
    **TINY,
    "data": {**TINY["data"], "crop": [64, 96]},
    "model": {"architecture": "segformer", "encoder": "mit-b0", "pretrained": False, "encoder_config": {
        "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}},
}  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    config, sources, _ = at_hand(from_dict(TINY), tmp_path)
    return Bench(config=config, sources=sources, watch=Stopwatch(CPU, 1))


@pytest.mark.parametrize("tree", [TINY, SEGFORMER])
def test_our_step_and_the_straight_one_have_the_same_losses_and_gradient(tree, tmp_path):
    config, sources, _ = at_hand(from_dict(tree), tmp_path)
    material = build(config, sources, CPU)
    confident = training_parts.train_step(material.student, material.teacher, material.batch, material.config.method)["confident"]
    assert 0.2 < confident < 0.8  # a comparison in which no pixel counts would say nothing
    training_parts.check_step(material)


@pytest.mark.parametrize("name, wrong", [
    ("negative_class_ranking", lambda student, teacher, labels: student.sum() * 0),
    ("cross_entropy", lambda logits, labels: torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)),
    ("pasa_masks", lambda confidence, valid, network, size, method: None),
    ("move_blocks", lambda x, order, back=False: x),
])  # fmt: skip
def test_a_straight_step_that_is_another_method_is_noticed(bench, monkeypatch, name, wrong):
    config = from_dict({**TINY, "method": {**TINY["method"], "shuffle_probability": 1.0}})
    monkeypatch.setattr(straight, name, wrong)
    with pytest.raises(Disagreement, match="the two ways differ by .* nothing was timed"):
        training_parts.check_step(build(config, bench.sources, CPU))


def test_a_straight_loader_that_cuts_elsewhere_is_noticed(bench, monkeypatch):
    steps = build(bench.config, bench.sources, CPU).steps
    constants = np.zeros(3, np.float32), np.ones(3, np.float32)
    data_parts.check_loader(steps, *constants)
    monkeypatch.setattr(straight_data, "cut_whole", lambda image, geometry: np.zeros((*geometry.crop, 3), np.uint8))
    with pytest.raises(Disagreement, match="the labelled pictures of a step differ by .* grey levels"):
        data_parts.check_loader(steps, *constants)


def test_a_method_without_a_straight_version_is_refused():
    config = from_dict({**TINY, "method": {**TINY["method"], "mix": "classmix"}})
    with pytest.raises(ConfigError, match="no straight version of method.mix = 'classmix'"):
        straight.check_method(config.method)


def test_agreement_is_relative_and_about_shapes_too():
    agree("x", torch.tensor([1000.0, 1.0]), torch.tensor([1000.1, 1.0]), 1e-3)
    with pytest.raises(Disagreement, match="x: the two ways differ by 1.0e-01 where 1e-03 is allowed"):
        agree("x", torch.tensor([1.1]), torch.tensor([1.0]), 1e-3)
    with pytest.raises(Disagreement, match=r"ours is \(2,\), the other \(1, 2\)"):
        agree("x", torch.zeros(2), torch.zeros(1, 2), 1e-3)
    with pytest.raises(Disagreement):
        agree("x", torch.tensor([float("nan")]), torch.tensor([1.0]), 1e-3)


def test_runs_take_turns_and_are_timed_as_often_as_asked():
    order = []
    row = Stopwatch(CPU, 3).compare("x", lambda: order.append("a"), lambda: order.append("b"), images=2)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]  # the first two show the memory
    assert len(row.ours.seconds) == len(row.other.seconds) == 3


def test_the_ratio_is_that_of_medians():
    row = Row(what="x", ours=Measured((1.0, 1.0, 9.0), 2**20), other=Measured((2.0, 0.1, 3.0), 2**22))
    assert row.ratio == 2 and row.memory_ratio == 0.25


@pytest.mark.skipif(not timing.reset_resident_peak(), reason="only Linux tells the peak of resident memory")
def test_peak_memory_sees_what_a_run_holds_at_once():
    held = peak_memory(lambda: torch.ones(40, 2**18) + torch.ones(40, 2**18), CPU)
    assert 3 * 40 * 2**20 <= held + 2**22 and held < 4 * 40 * 2**20


def test_flops_of_attention_are_counted_on_a_cpu_too():
    states = torch.randn(1, 2, 16, 8, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    forward = count_flops(lambda: attend(states, states, states))
    assert forward == 2 * (2 * 2 * 16 * 16 * 8)
    assert count_flops(lambda: attend(states, states, states).sum().backward()) == 3.5 * forward


def test_pictures_are_drawn_where_the_data_is_not_there(tmp_path):
    config, sources, said = at_hand(from_dict({"data": {"root": str(tmp_path / "none"), "labeled": "92.txt"}}), tmp_path)
    assert "drawn JPEGs of 500x375" in said and len(sources.classes) == 21
    assert (len(sources.labeled), len(sources.unlabeled), len(sources.validation)) == (4, 4, 4)
    assert config.model.pretrained is False


def test_counting_agrees_with_histograms_and_with_the_evaluate_package(bench):
    rows = list(data_parts.counting(bench, maps=3, size=(16, 24), classes=5))
    assert [row.against for row in rows] == ["NumPy histograms", "NumPy Arrow-backed histograms"]


def test_windows_are_read_the_same_one_at_a_time(bench):
    network = build(bench.config, bench.sources, CPU).teacher.network
    row = data_parts.windows(bench, lambda images: data_parts.full_size_logits(network, images), (50, 100))
    assert row.against == "one at a time"


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TINY, "evaluation": {**TINY["evaluation"], "every": 1150}}))
    assert main(["step", "loader", "--config", str(path), "--repeats", "1", "--json", str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr().out
    assert "S4Former, setr deit-tiny, 2+4 at 32x48, float32" in printed and "% of a float32 matrix product" in printed
    report = json.loads((tmp_path / "b.json").read_text())
    assert [row["part"] for row in report["rows"]] == ["step", "loader"]
    assert report["rows"][0]["ratio"] > 0 and report["facts"]["step"]["flops"] > 0


def test_an_unknown_part_and_a_key_are_told_apart(capsys):
    assert split_words(["ema", "run.seed=1", "step"]) == (["step", "ema"], ["run.seed=1"])
    assert main(["spet"]) == 1
    assert "there is no part 'spet'; one of step, attention" in capsys.readouterr().err


def test_live_bytes_are_those_of_storages_that_somebody_holds():
    with LiveBytes() as live:
        kept = torch.zeros(1000)  # 4000 bytes
        view = kept.view(10, 100)
        torch.ones(500)  # 2000, let go at once
        assert (live.now, live.peak) == (4000, 6000) and view is not None
        del kept, view
        assert (live.now, live.peak) == (0, 6000)


def test_rounds_and_activation_checkpointing_lower_the_computed_peak():
    tree = {**TINY, "data": {**TINY["data"], "crop": [128, 192]}, "method": {**TINY["method"], "pasa": "none"}}

    def peak(rounds=1, checkpointing=False, **options):
        model = {**tree["model"], "activation_checkpointing": checkpointing}
        run = {"batch": {"labeled": 4, "unlabeled": 8, "rounds": rounds}}
        return computed_peak(from_dict({**tree, "model": model, "run": run}), 9, **options)

    whole = peak()
    assert 0.4 * whole < peak(rounds=2) < 0.7 * whole
    assert peak(checkpointing=True) < 0.95 * whole and peak(half=False) > 1.05 * whole


def test_the_command_says_the_computed_peak(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    assert main(["memory", "--config", str(path)]) == 0
    assert "GiB at the peak of a step, computed for bfloat16, 2+4 images in 1 round" in capsys.readouterr().out


def test_the_arithmetic_of_a_run_is_counted_without_running_it(bench):
    material = build(bench.config, bench.sources, CPU)
    measured = count_flops(training_parts.our_step(material, training_parts.Accelerator(cpu=True)))
    assert flops_of_step(bench.config, len(bench.sources.classes)) == measured
    whole = flops_of_evaluation(bench.config, 9, (32, 48))
    sliding = from_dict({**TINY, "evaluation": {"mode": "sliding", "short_side": 0, "stride": [32, 48]}})
    assert flops_of_evaluation(sliding, 9, (64, 96)) == 4 * whole > 0


def test_the_budget_of_evaluation_is_said_of_time_too_once_a_step_was_timed(bench):
    list(data_parts.budget(bench))
    assert "every 1150 steps" in bench.said[1] and bench.said[1].endswith("% of a training's arithmetic")
    assert 0 < bench.facts["evaluation_share_every_1150"] < bench.facts["evaluation_share_every_3"] < 1
    bench.facts["step"] = {"seconds": 10.0, "rounds": 2}
    list(data_parts.budget(bench))
    assert "20.0 s a step" in bench.said[-1]
    long, short = (bench.facts[f"evaluation_share_of_time_every_{every}"] for every in (1150, 3))
    assert 0 < long < short < 1


def test_a_step_in_rounds_is_timed_as_one_round(bench):
    tree = {**TINY, "run": {**TINY.get("run", {}), "batch": {"labeled": 2, "unlabeled": 4, "rounds": 2}}}
    rounds = Bench(config=from_dict(tree), sources=bench.sources, watch=bench.watch)
    row = next(training_parts.step(rounds))
    assert row.images == 3 and "1+2 at" in row.what and rounds.facts["step"]["rounds"] == 2
    assert training_parts.one_round(rounds.config).run.batch.rounds == 1


@pytest.mark.parametrize("layer, places", [
    (torch.nn.Conv2d(6, 4, 3, padding=1), 5 * 7), (torch.nn.Conv2d(6, 6, 3, padding=1, groups=6), 5 * 7),
    (torch.nn.ConvTranspose2d(6, 4, 2, stride=2), 5 * 7),
])  # fmt: skip
def test_the_arithmetic_of_a_convolution_backward_is_twice_its_own_with_groups_too(layer, places):
    images = torch.randn(2, 6, 5, 7, requires_grad=True)
    once = 2 * 2 * places * layer.weight.numel()
    assert count_flops(lambda: layer(images)) == once
    assert count_flops(lambda: layer(images).sum().backward()) == 3 * once
    assert count_flops(lambda: layer(images.detach()).sum().backward()) == 2 * once
