"""What there is to train on: GPUs, memory and cores of this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """What there is to train on: GPUs and the memory of the smallest one in GiB (0 without), and CPU cores."""

    gpus: int
    memory_gib: float
    cores: int
    bfloat16: bool = False  # whether the cores multiply in bfloat16; a GPU's is found out by `run.mixed_precision=auto`

    @property
    def words(self) -> str:
        if not self.gpus:
            return f"{self.cores} CPU cores{' with bfloat16' if self.bfloat16 else ''}, no GPU"
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''} of {self.memory_gib:.0f} GiB, {self.cores} CPU cores"


def this_machine() -> Machine:
    gpus = torch.cuda.device_count()
    memory = [torch.cuda.get_device_properties(index).total_memory / 2**30 for index in range(gpus)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has no affinity
    return Machine(gpus, min(memory, default=0.0), cores, cores_have_bfloat16())


def cores_have_bfloat16(listing: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Linux says so; torch computes in bfloat16 on any CPU, but without the instructions for it slowly."""
    return listing.is_file() and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(listing.read_text().split())
