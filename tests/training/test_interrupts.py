import errno
import io
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from tqdm import tqdm

from s4former.training.interrupts import FiniteCheck, NonFiniteLoss, OptionalConsole, Signals


def test_the_first_step_and_term_that_is_not_finite_is_named():
    check = FiniteCheck()
    good, bad = torch.tensor(1.0), torch.tensor(float("nan"))
    check.update(3, {"supervised": good, "total": good})
    check.raise_if_not_finite()
    check.update(4, {"supervised": good, "ncr_pasa": bad, "total": bad})
    check.update(5, {"supervised": bad, "ncr_pasa": bad, "total": bad})
    with pytest.raises(NonFiniteLoss, match=r"^step 4: ncr_pasa is not finite; lower optimizer.lr"):
        check.raise_if_not_finite()


def test_an_overflowing_gradient_is_left_to_a_gradient_scaler():
    check = FiniteCheck()
    check.update(0, {"total": torch.tensor(1.0), "gradient": torch.tensor(float("inf"))}, scaled=True)
    check.raise_if_not_finite()
    check = FiniteCheck()
    check.update(0, {"total": torch.tensor(1.0), "gradient": torch.tensor(float("inf"))})
    with pytest.raises(NonFiniteLoss, match="step 0: gradient is not finite"):
        check.raise_if_not_finite()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_what_a_closed_terminal_and_batch_systems_send_is_recorded_but_an_ignored_hang_up_stays_ignored(number):
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = {each: signal.getsignal(each) for each in numbers}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
        signals = Signals(SimpleNamespace(num_processes=1))
        os.kill(os.getpid(), number)
        assert signals.received(may_synchronize=False) and signals.name == number.name
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert not Signals(SimpleNamespace(num_processes=1)).number and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class Hungup(io.StringIO):
    """A terminal that is gone."""

    def write(self, text=""):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    flush = write


def test_a_console_that_is_gone_ends_nothing(monkeypatch):
    console = OptionalConsole(Hungup())
    print("a line", file=console, flush=True)
    monkeypatch.setattr(sys, "stderr", console)
    with tqdm(total=2, mininterval=0) as bar:
        bar.update()
        bar.write("a line above it", file=sys.stderr)
    assert not console.isatty()
