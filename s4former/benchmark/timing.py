"""Two ways to do one thing, compared: first that they agree, then memory, then time, turn by turn.

A machine is never quiet for long, so the two are timed in turn, one run each, and what is reported is the median and the
range of each. Peak memory is what one run needs beyond what is there when it begins: of the GPU's allocator, or on a CPU
the resident memory of the process (Linux only).
"""

import ctypes
import math
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Run = Callable[[], object]


class Disagreement(ValueError):
    """The two ways do not compute the same thing, so their times cannot be compared."""


@dataclass(frozen=True)
class Measured:
    """seconds: of every timed run. memory: bytes at the peak of one run, None where that cannot be measured."""

    seconds: tuple[float, ...]
    memory: int | None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the report. `against` says what the second way is; `images` are those of one run, 0 = none."""

    what: str
    ours: Measured
    other: Measured
    against: str = "straight"
    images: int = 0
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times as fast."""
        return self.other.median / self.ours.median

    @property
    def memory_ratio(self) -> float | None:
        """Our share of the other's memory; None where either is not known or too small to be told from noise."""
        ours, other = self.ours.memory, self.other.memory
        return None if ours is None or not other or other < 2**20 else ours / other


@dataclass(frozen=True)
class Stopwatch:
    """Where and how often things are timed."""

    device: torch.device
    repeats: int

    def compare(self, what: str, ours: Run, other: Run, **details) -> Row:
        """Both in turn, after one run each that is not timed and shows the memory."""
        runs, memory = (ours, other), tuple(peak_memory(run, self.device) for run in (ours, other))
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(self.repeats):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                seconds[which].append(self.time(runs[which]))
        measured = (Measured(tuple(times), peak) for times, peak in zip(seconds, memory))
        return Row(what=what, **dict(zip(("ours", "other"), measured)), **details)

    def time(self, run: Run) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        run()
        synchronize(self.device)
        return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def agree(what: str, ours: Tensor, other: Tensor, tolerance: float) -> None:
    """Raises `Disagreement` unless the two are equal to `tolerance`, relative to the larger entries of the second."""
    ours, other = ours.detach().double(), other.detach().double()
    if ours.shape != other.shape:
        raise Disagreement(f"{what}: ours is {tuple(ours.shape)}, the other {tuple(other.shape)}; nothing was timed")
    error = float((ours - other).norm() / other.norm().clamp(min=1e-12)) if other.numel() else 0.0
    if not error <= tolerance:
        raise Disagreement(f"{what}: the two ways differ by {error:.1e} where {tolerance:.0e} is allowed; nothing was timed")


# ---- memory


def peak_memory(run: Run, device: torch.device) -> int | None:
    """Bytes that one run needs at its peak on top of what is there before, what it returns included."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    reset = reset_resident_peak()
    before = resident("VmRSS") if reset else 0
    run()
    return resident("VmHWM") - before if reset else None


def reset_resident_peak() -> bool:
    """Gives free memory back to the system and lets Linux forget the peak so far; False where there is no such thing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def resident(entry: str) -> int:
    """VmRSS (now) or VmHWM (at the peak), bytes."""
    return 1024 * int(re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


# ---- arithmetic


def flash_on_cpu(query, key, value, *rest, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def flash_on_cpu_backward(gradient, query, key, value, *rest, **kwargs) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def convolution_backward(gradient, images, weight, sizes, stride, padding, dilation, transposed, *rest, **kwargs) -> int:
    """All that is given are shapes. The gradients of images and weights cost what the convolution does, each.

    torch counts the latter as if there were no groups, for a depthwise convolution by the number of its channels too much.
    """
    once = 2 * math.prod(images if transposed else gradient) * math.prod(weight[1:])
    _, _, (of_images, of_weights, _) = rest
    return once * (bool(of_images) + bool(of_weights))


# attention on a CPU torch does not count at all
CORRECTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flash_on_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: flash_on_cpu_backward,
    torch.ops.aten.convolution_backward: convolution_backward,
}


def count_flops(run: Run) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one run, forward and backward."""
    with FlopCounterMode(display=False, custom_mapping=CORRECTED) as counter:
        run()
    return counter.get_total_flops()


def matrix_rate(watch: Stopwatch, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of a few."""
    side = 8192 if watch.device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=watch.device).to(dtype) for _ in range(2))
    watch.time(lambda: left @ right)
    return 2 * side**3 / min(watch.time(lambda: left @ right) for _ in range(max(3, watch.repeats)))
