"""Threads keep the order, work no further ahead than asked, and raise in an item's turn."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from s4former.data.prefetch import copy_batch, prefetch


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
