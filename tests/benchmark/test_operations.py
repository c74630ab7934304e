"""Operations and bytes, counted by hand on a tiny network."""

import pytest
import torch
from scripts import TINY
from torch import nn

from s4former.benchmark.command import main
from s4former.benchmark.inputs import benchmark_inputs
from s4former.benchmark.operations import Operation, OperationCounter, bytes, count_flops, least_seconds, table
from s4former.benchmark.timing import Benchmark
from s4former.config import from_dict


def test_a_linear_layer_under_autocast_casts_its_input_and_its_weight():
    layer, x = nn.Linear(8, 4, bias=False), torch.randn(3, 8)
    with OperationCounter() as counter, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(x.view(3, 8)).add_(1)
    assert sorted(one for one in counter.operations if one.kind.startswith("cast")) == [
        Operation("cast float32 -> bfloat16, activation or gradient", 3 * 8 * 4, 3 * 8 * 2, 0),
        Operation("cast float32 -> bfloat16, weight", 4 * 8 * 4, 4 * 8 * 2, 0),
    ]
    assert [one for one in counter.operations if not one.kind.startswith("cast")] == [
        Operation("mm", (3 * 8 + 8 * 4) * 2, 3 * 4 * 2, 2 * 3 * 8 * 4),
        Operation("add_", 3 * 4 * 2, 3 * 4 * 2, 0),
    ]


def test_copies_are_told_from_casts_and_views_are_free():
    x = torch.ones(2, 5)
    with OperationCounter() as counter:
        x.t()[1:].clone()
        torch.empty(2, 5, dtype=torch.float64).copy_(x)
    assert counter.operations == [
        Operation("clone float32 -> float32, activation or gradient", 32, 32, 0),
        Operation("copy_ float32 -> float64, activation or gradient", 80 + 40, 80, 0),
    ]


def test_each_operation_takes_the_longer_of_its_bytes_and_its_arithmetic():
    operations = [Operation("mm", 60, 40, 1000), Operation("add", 20, 10, 0)]
    assert least_seconds(operations, bandwidth=10, matrix_rate=50) == 1000 / 50 + 30 / 10
    assert [*table(operations)][-1].split() == ["all", "2", "0.000", "0.000"]


def test_a_step_is_counted_and_its_least_time_is_given():
    config, sources, _ = benchmark_inputs(from_dict(TINY))
    rates, device = (1e9, 1e12), torch.device("cpu")
    *lines, least = bytes(Benchmark(config=config, sources=sources, device=device, repeats=1, rates=rates))
    casts, every = (line.split() for line in lines[-2:])
    assert casts[:2] == ["all", "casts"] and every[0] == "all" and int(every[1]) > int(casts[2]) > 0
    moved = float(every[2]) + float(every[3])  # GB, at 1 GB/s; rounded to MB
    assert float(least.removeprefix("a step takes ").split()[0]) >= 1000 * moved - 1


def test_one_rate_alone_is_refused(capsys):
    assert main(["bytes", "--bandwidth", "4800"]) == 1
    assert "only one of --bandwidth and --matrix-rate is given" in capsys.readouterr().err


def test_flops_of_attention_are_counted_on_a_cpu():
    states = torch.randn(1, 2, 16, 8, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    forward = count_flops(lambda: attend(states, states, states))
    assert forward == 2 * (2 * 2 * 16 * 16 * 8)
    assert count_flops(lambda: attend(states, states, states).sum().backward()) == 3.5 * forward


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
