"""What every part of the benchmark is given."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..config import Config
from ..data.sources import Sources
from .timing import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Bench:
    """facts: numbers beside the rows, for the JSON and for later parts. said: sentences of the report, in order."""

    config: Config
    sources: Sources
    watch: Stopwatch
    facts: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.watch.device

    def say(self, sentence: str) -> None:
        self.said.append(sentence)
