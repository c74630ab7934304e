"""Memory of a step, computed on fake tensors."""

import pytest
import torch
from scripts import TINY

from s4former.benchmark.memory import LiveMemory, peak_memory_of_step
from s4former.config import from_dict
from s4former.data.sources import load_sources


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


@pytest.mark.parametrize("algorithm", ["psmt", "imas"])
def test_steps_of_other_systems_are_counted_as_they_are(algorithm):
    method = {**TINY["method"], "pasa": "none", "patch_shuffle": False, "regularizer": "none", "mix": "cutmix"}
    plain = from_dict({**TINY, "method": method})
    method |= {"algorithm": algorithm, "mix": "cutmix_beta" if algorithm == "psmt" else "cutmix_hardness", "adversarial_noise": 1.0}
    config = from_dict({**TINY, "method": method})
    first, second = (peak_memory_of_step(each, load_sources(each.data)) for each in (plain, config))
    assert first != second and (algorithm == "imas" or second > 1.05 * first)  # a second teacher, and passes through the noise
