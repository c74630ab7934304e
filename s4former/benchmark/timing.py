"""A computation in memory and time, or two implementations of one, checked for agreement and then compared.

Two run in turn, since the load of a machine changes; reported are the median and the range of each. Peak memory is what
one run needs beyond what is allocated when it begins: on a GPU by its allocator, on a CPU in the resident memory of the
process (Linux only).
"""

import ctypes
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..data.sources import Sources
from ..errors import UserError

Run = Callable[[], object]


class MismatchError(UserError):
    """The two implementations do not compute the same, so their times cannot be compared."""


@dataclass(frozen=True)
class Measurement:
    """seconds: of every timed run. peak_bytes: of one run; None where it cannot be measured."""

    seconds: tuple[float, ...]
    peak_bytes: int | None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Row:
    """One row of the report. other: a second implementation; against: what it is. images: of one run, 0 = none."""

    name: str
    ours: Measurement
    other: Measurement | None = None
    against: str = ""
    images: int = 0

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the other."""
        return self.other.median / self.ours.median if self.other else None

    @property
    def memory_ratio(self) -> float | None:
        """Our share of the other's peak; None where either is unknown or below a MiB, which is noise."""
        ours, other = self.ours.peak_bytes, self.other and self.other.peak_bytes
        return None if ours is None or not other or other < 2**20 else ours / other

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.ours.median if self.images else None


@dataclass(frozen=True)
class Timer:
    """On which device and how often runs are timed."""

    device: torch.device
    repeats: int

    def compare(self, name: str, ours: Run, other: Run | None = None, **details) -> Row:
        """Times both in turn, after one run of each that is not timed and gives the peak memory."""
        runs = [run for run in (ours, other) if run]
        peaks, seconds = [peak_memory(run, self.device) for run in runs], [[] for _ in runs]
        for repeat in range(self.repeats):
            for i in range(len(runs))[:: 1 if repeat % 2 == 0 else -1]:
                seconds[i].append(self.time(runs[i]))
        return Row(name, *(Measurement(tuple(times), peak) for times, peak in zip(seconds, peaks)), **details)

    def time(self, run: Run) -> float:
        """Seconds of one run."""
        self.synchronize()
        start = time.perf_counter()
        run()
        self.synchronize()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @lru_cache
    def matmul_flops_per_second(self, dtype: torch.dtype) -> float:
        """Of a large square matrix product, the best of a few runs."""
        side = 8192 if self.device.type == "cuda" else 1024
        left, right = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        self.time(lambda: left @ right)
        return 2 * side**3 / min(self.time(lambda: left @ right) for _ in range(max(3, self.repeats)))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What every part is given. facts: numbers beside the rows, for the JSON. notes: lines below the table.

    rates: bytes and matrix FLOP per second of a device, for the least time of a step.
    """

    config: Config
    sources: Sources
    timer: Timer
    rates: tuple[float, float] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.timer.device


def check_close(name: str, ours: Tensor, other: Tensor, tolerance: float) -> None:
    """Raises `MismatchError` unless the norm of the difference is at most `tolerance` times that of `other`."""
    ours, other = ours.detach().double(), other.detach().double()
    if ours.shape != other.shape:
        raise MismatchError(f"{name}: ours is {tuple(ours.shape)}, the other {tuple(other.shape)}; nothing was timed")
    error = float((ours - other).norm() / other.norm().clamp(min=1e-12)) if other.numel() else 0.0
    if not error <= tolerance:
        raise MismatchError(f"{name}: the two differ by {error:.1e} where {tolerance:.0e} is allowed; nothing was timed")


# ---- peak memory


def peak_memory(run: Run, device: torch.device) -> int | None:
    """Peak bytes of one run on top of what is allocated before it, its result included."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    reset = reset_resident_peak()
    before = resident_bytes("VmRSS") if reset else 0
    run()
    return resident_bytes("VmHWM") - before if reset else None


def reset_resident_peak() -> bool:
    """Returns free memory to the system and resets the peak that Linux keeps; False where that is not possible."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def resident_bytes(entry: str) -> int:
    """VmRSS (now) or VmHWM (at the peak)."""
    return 1024 * int(re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
