"""Batches come from loader workers as they are; that a killed worker is an error is tested in training/test_survival.py."""

import signal

from tiny_batches import same, steps_of

from s4former.data.loader import SIGTERM_GRACE, set_worker_signals, step_loader


def test_loader_workers_change_nothing():
    steps = steps_of()
    for workers in (1, 2):
        batches = list(step_loader(steps, 2, 5, workers=workers, pin_memory=False))
        assert [batch.step for batch in batches] == [2, 3, 4]
        assert all(same(batch, steps[batch.step, 0]) for batch in batches)


def test_a_worker_leaves_sigint_to_the_parent_and_outlives_a_sigterm(monkeypatch):
    handlers, alarms = {}, []
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(signal, "alarm", alarms.append)
    set_worker_signals(0)
    assert handlers[signal.SIGINT] is signal.SIG_IGN
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert alarms == [SIGTERM_GRACE]
