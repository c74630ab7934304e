"""Batches come from loader workers as they are; that a killed worker is an error is tested in training/test_survival.py.

Threads keep the order, work no further ahead than asked, and raise in an item's turn.
"""

import signal
import threading
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from tiny_batches import same, steps_of

from s4former.data.loader import SIGTERM_GRACE, copy_batch, prefetch, set_worker_signals, step_loader


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


def test_results_come_in_order_though_the_first_takes_longest():
    second = threading.Event()

    def work(number):
        if number == 0:
            assert second.wait(10), "the second item was not begun while the first was worked on"
        if number == 1:
            second.set()
        return 10 * number

    assert list(prefetch(work, range(5), 2)) == [0, 10, 20, 30, 40]


def test_no_more_items_are_taken_than_asked_for():
    asked = []
    results = prefetch(str, (asked.append(number) or number for number in range(9)), 3)
    assert next(results) == "0" and asked == [0, 1, 2, 3]
    results.close()
    assert len(asked) == 4


def test_an_error_waits_for_its_turn():
    results = prefetch(lambda number: 1 // (2 - number), range(4), 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_batch_is_copied_on_a_stream_of_its_own_which_the_current_one_waits_for(monkeypatch):
    done, current, copies = [], Mock(name="current"), Mock(name="copies")
    tensor = Mock()
    tensor.to = lambda device, non_blocking: done.append((device, non_blocking)) or tensor
    current.wait_stream = lambda stream: done.append(stream)
    tensor.record_stream = lambda stream: done.append(("kept for", stream))
    batch = SimpleNamespace(map=lambda function: [function(tensor), batch][1])

    @contextmanager
    def on(stream):
        done.append("begin")
        yield
        done.append("end")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "stream", on)
    copy_batch(batch, "cuda:1", copies)
    assert done == ["begin", ("cuda:1", True), "end", copies, ("kept for", current)]
    done.clear()
    copy_batch(batch, "cpu", None)
    assert done == [("cpu", True)]
