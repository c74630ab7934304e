"""Agreement, times and memory of two implementations."""

import pytest
import torch

from s4former.benchmark import timing
from s4former.benchmark.timing import Benchmark, MismatchError, check_close, peak_memory

CPU = torch.device("cpu")


def benchmark_of(repeats):
    return Benchmark(config=None, sources=None, device=CPU, repeats=repeats)


def test_agreement_is_relative_and_about_shapes_too():
    check_close("x", torch.tensor([1000.0, 1.0]), torch.tensor([1000.1, 1.0]), 1e-3)
    with pytest.raises(MismatchError, match="x: the two differ by 1.0e-01 where 1e-03 is allowed"):
        check_close("x", torch.tensor([1.1]), torch.tensor([1.0]), 1e-3)
    with pytest.raises(MismatchError, match=r"ours is \(2,\), the other \(1, 2\)"):
        check_close("x", torch.zeros(2), torch.zeros(1, 2), 1e-3)
    with pytest.raises(MismatchError):
        check_close("x", torch.tensor([float("nan")]), torch.tensor([1.0]), 1e-3)


def test_runs_take_turns_and_are_timed_as_often_as_asked():
    order = []
    row = benchmark_of(3).compare("x", lambda: order.append("a"), lambda: order.append("b"), images=2)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]  # the first two show the memory
    assert len(row["ours"]["seconds"]) == len(row["other"]["seconds"]) == 3


def test_a_computation_may_be_timed_alone():
    row = benchmark_of(2).compare("x", lambda: None, images=2)
    assert len(row["ours"]["seconds"]) == 2 and "other" not in row and row["ratio"] is None


def test_the_ratio_is_that_of_medians(monkeypatch):
    seconds = {"ours": [1.0, 1.0, 9.0], "other": [2.0, 0.1, 3.0]}
    ours, other = (lambda: "ours"), (lambda: "other")
    monkeypatch.setattr(timing, "seconds_of", lambda run, device: seconds[run()].pop())
    row = benchmark_of(3).compare("x", ours, other, images=4)
    assert (row["ours"]["median"], row["other"]["median"], row["ratio"], row["images_per_second"]) == (1, 2, 2, 4)


def test_peak_memory_sees_what_a_run_holds_at_once():
    assert peak_memory(lambda: torch.ones(40, 2**18) + torch.ones(40, 2**18), CPU) == 3 * 40 * 2**20
