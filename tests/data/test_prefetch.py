"""Threads keep the order, work no further ahead than asked, and raise in an item's turn."""

import threading

import pytest

from s4former.data.prefetch import prefetch


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
