"""Arithmetic and memory of a step, computed on fake tensors."""

import pytest
import torch
from scripts import TINY

from s4former.benchmark.cost import LiveMemory, count_flops, peak_memory_of_step
from s4former.config import from_dict
from s4former.data.sources import load_sources


def test_flops_of_attention_are_counted_on_a_cpu():
    states = torch.randn(1, 2, 16, 8, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    forward = count_flops(lambda: attend(states, states, states))
    assert forward == 2 * (2 * 2 * 16 * 16 * 8)
    assert count_flops(lambda: attend(states, states, states).sum().backward()) == 3.5 * forward


def test_live_bytes_are_those_of_storages_that_somebody_holds():
    with LiveMemory() as live:
        kept = torch.zeros(1000)  # 4000 bytes
        view = kept.view(10, 100)
        torch.ones(500)  # 2000, let go at once
        assert (live.now, live.peak) == (4000, 6000) and view is not None
        del kept, view
        assert (live.now, live.peak) == (0, 6000)


@pytest.mark.slow
def test_rounds_and_activation_checkpointing_lower_the_computed_peak():
    tree = {**TINY, "data": {**TINY["data"], "crop": [128, 192]}, "method": {**TINY["method"], "pasa": "none"}}

    def peak(rounds=1, checkpointing=False, **options):
        model = {**tree["model"], "activation_checkpointing": checkpointing}
        run = {"batch": {"labeled": 4, "unlabeled": 8, "rounds": rounds}}
        config = from_dict({**tree, "model": model, "run": run})
        return peak_memory_of_step(config, load_sources(config.data), **options)

    whole = peak()
    assert 0.4 * whole < peak(rounds=2) < 0.7 * whole
    assert peak(checkpointing=True) < 0.95 * whole and peak(autocast=False) > 1.05 * whole


def test_pseudo_labels_of_the_student_cost_memory_too():
    def peak(teacher):
        config = from_dict({**TINY, "method": {**TINY["method"], "teacher": teacher}})
        return peak_memory_of_step(config, load_sources(config.data))

    assert peak("student") > 1.05 * peak("none")


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
