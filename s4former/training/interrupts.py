"""What ends a run before its last step: signals, losses that are not finite, a device that is too small. A lost console does not."""

import signal
import sys
from contextlib import suppress
from typing import Any, Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from ..networks.hub import first_line


class NonFiniteLoss(RuntimeError):
    """A loss term or the gradient is infinite or NaN; the message names the first step and its terms."""


class FiniteCheck:
    """Records on the device at which step each term was first not finite; `raise_if_not_finite` alone waits for the device."""

    NEVER = 2**62

    def __init__(self) -> None:
        self.first: dict[tuple[str, ...], Tensor] = {}  # a burn-in has other terms than the steps after it

    def update(self, step: int, terms: dict[str, Tensor], *, scaled: bool = False) -> None:
        """Checks the terms of a step. scaled: a gradient scaler is in use, which itself skips steps that overflow."""
        names = tuple(name for name in terms if name != "gradient" or not scaled)
        finite = torch.stack([terms[name].float() for name in names]).isfinite()
        now = torch.where(finite, self.NEVER, step)
        self.first[names] = torch.minimum(self.first.get(names, now), now)

    def raise_if_not_finite(self) -> None:
        found = [pair for names, first in self.first.items() for pair in zip(first.tolist(), names)]
        step = min((step for step, _ in found), default=self.NEVER)
        if step < self.NEVER:
            names = [name for first, name in found if first == step and name != "total"]
            raise NonFiniteLoss(
                f"step {step}: {', '.join(names) or 'total'} is not finite; lower optimizer.lr, set optimizer.clip_norm"
                " (to 1, say), or take run.mixed_precision=no: these three may differ when a run is resumed, and without a"
                " change it would come to the same step again"
            )


def handle_signals(handler: Callable[[int, Any], None]) -> None:
    """Gives a handler the signals that ask a run to stop: of a user, of a terminal that closes, of batch systems."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, handler)


def exit_on_signal(number: int, frame: object) -> None:
    """The handler until there is something to save; unlike the system's own it lets the lock of the folder go."""
    sys.exit(128 + number)


class Signals:
    """The signals of a terminal and of batch systems, recorded instead of ending the process; all processes get the same
    answer at the same step.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.number = accelerator, 0
        handle_signals(self.record)

    def record(self, number: int, frame: object) -> None:
        self.number = self.number or number

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name

    def received(self, may_synchronize: bool) -> bool:
        """Whether there was one; several processes answer no until a step at which they may exchange what they received."""
        if self.accelerator.num_processes == 1:
            return bool(self.number)
        if may_synchronize:
            numbers = self.accelerator.gather(torch.tensor([self.number], device=self.accelerator.device))
            self.number = int(numbers.max())
        return bool(self.number) and may_synchronize


class OptionalConsole:
    """A text stream that drops what can no longer be written: a run goes on without its terminal, log.jsonl has it all."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # gone, or closed
            return self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def ignore_lost_console() -> None:
    """Lets stdout and stderr of this process fail without an error."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), OptionalConsole):
            setattr(sys, name, OptionalConsole(getattr(sys, name)))


def describe_out_of_memory(error: torch.OutOfMemoryError) -> str:
    """The first sentence of torch where a device is too small for a step, and the keys that reduce its memory."""
    return (
        f"{first_line(error).rstrip('. ')}; take a higher run.batch.rounds (smaller passes, the same batch) or, of a"
        " transformer, model.activation_checkpointing=true, which a resumed run may change, or a smaller data.crop or"
        " model.encoder in a new run"
    )
