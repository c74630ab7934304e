"""The machine: its GPUs, memory and cores, and how much memory was used."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it takes seconds; a mistake in what a user gives to new-config is told before
    import torch


@dataclass(frozen=True)
class Machine:
    """What there is to train on: GPUs, the memory of the smallest one, or without one the RAM, in GiB, and CPU cores."""

    gpus: int
    memory_gib: float
    cores: int
    bfloat16: bool = False  # whether the cores multiply in bfloat16; `run.mixed_precision=auto` asks the GPU

    @property
    def description(self) -> str:
        if not self.gpus:
            return f"{self.cores} CPU cores{' with bfloat16' if self.bfloat16 else ''}, {self.memory_gib:.0f} GiB, no GPU"
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''} of {self.memory_gib:.0f} GiB, {self.cores} CPU cores"


def this_machine() -> Machine:
    import torch

    gpus = torch.cuda.device_count()
    memory = [total_memory_gib(torch.device("cuda", index)) for index in range(gpus)] or [total_memory_gib(torch.device("cpu"))]
    return Machine(gpus, min(memory), available_cores(), cores_have_bfloat16())


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has no affinity


def cores_have_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Linux says so; torch computes in bfloat16 on any CPU, but without the instructions for it slowly."""
    return cpuinfo.is_file() and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpuinfo.read_text().split())


def total_memory_gib(device: "torch.device", limit: Path = Path("/sys/fs/cgroup/memory.max")) -> float:
    """Of a GPU; else the RAM, or what `limit` leaves of it to a container."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory / 2**30
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(allowed) if allowed.isdecimal() else total) / 2**30


def free_memory_gib(meminfo: Path = Path("/proc/meminfo")) -> float:
    """Of the RAM; all of it where the system does not say what is free."""
    if not meminfo.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return next(int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable")) / 2**20


def peak_memory_gib(device: "torch.device") -> float:
    """Of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
