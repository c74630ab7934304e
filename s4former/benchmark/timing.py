"""A computation in memory and time, or two implementations of one, checked for agreement and then compared.

Two run in turn, since the load of a machine changes. Peak memory is what one run needs beyond what is allocated when it
begins: on a GPU by its allocator, on a CPU the bytes of all tensors that are alive at once.
"""

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..data.sources import Sources
from ..errors import UserError
from .memory import LiveMemory

Run = Callable[[], object]
Row = dict[str, Any]  # of the report: what, ours, other (seconds, median, peak_bytes each), against, ratio, images_per_second


class MismatchError(UserError):
    """The two implementations do not compute the same, so their times cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What every part is given. rates: bytes and matrix FLOP per second of a device, for the least time of a step."""

    config: Config
    sources: Sources
    device: torch.device
    repeats: int
    rates: tuple[float, float] | None = None

    def compare(self, what: str, ours: Run, other: Run | None = None, *, against: str = "", images: int = 0) -> Row:
        """Times both in turn, after one run of each that is not timed and gives the peak memory. images: of one run."""
        runs = {"ours": ours} | ({"other": other} if other else {})
        row: Row = {"what": what, "against": against}
        row |= {side: {"seconds": [], "peak_bytes": peak_memory(run, self.device)} for side, run in runs.items()}
        for repeat in range(self.repeats):
            for side in list(runs)[:: 1 if repeat % 2 == 0 else -1]:
                row[side]["seconds"].append(seconds_of(runs[side], self.device))
        for side in runs:
            row[side]["median"] = statistics.median(row[side]["seconds"])
        row["ratio"] = row["other"]["median"] / row["ours"]["median"] if other else None  # how many times as fast as the other
        row["images_per_second"] = images / row["ours"]["median"] if images else None
        return row


def seconds_of(run: Run, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(run: Run, device: torch.device) -> int:
    """Peak bytes of one run on top of what is allocated before it, its result included."""
    if device.type != "cuda":
        with LiveMemory() as memory:
            run()
        return memory.peak
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@functools.cache
def matrix_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of a large square matrix product, the best of a few runs."""
    side = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: left @ right, device) for _ in range(4))


def check_close(name: str, ours: Tensor, other: Tensor, tolerance: float) -> None:
    """Raises `MismatchError` unless the norm of the difference is at most `tolerance` times that of `other`."""
    ours, other = ours.detach().double(), other.detach().double()
    if ours.shape != other.shape:
        raise MismatchError(f"{name}: ours is {tuple(ours.shape)}, the other {tuple(other.shape)}; nothing was timed")
    error = float((ours - other).norm() / other.norm().clamp(min=1e-12)) if other.numel() else 0.0
    if not error <= tolerance:
        raise MismatchError(f"{name}: the two differ by {error:.1e} where {tolerance:.0e} is allowed; nothing was timed")
