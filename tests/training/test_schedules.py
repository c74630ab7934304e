import pytest

from s4former.config import Method, Schedule
from s4former.training.schedules import ema_decay, learning_rate

SGD = Schedule(steps=80001, power=0.9, floor=1e-4)
ADAMW = Schedule(steps=40000, power=1.0, floor=0.0, warm_up=1500, warm_up_ratio=1e-6)


@pytest.mark.parametrize("step, encoder, head", [(0, 1e-3, 1e-2), (20000, 7.947e-4, 7.7417e-3), (40000, 5.823e-4, 5.4053e-3),
                                                 (60000, 3.585e-4, 2.9431e-3), (80000, 1.000348e-4, 1.003827e-4)])  # fmt: skip
def test_the_published_rates_of_setr(step, encoder, head):
    assert learning_rate(1e-3, step, SGD) == pytest.approx(encoder, rel=2e-4)
    assert learning_rate(1e-2, step, SGD) == pytest.approx(head, rel=2e-4)


@pytest.mark.parametrize("step, rate", [(0, 6.0e-11), (750, 2.94375e-5), (1500, 5.775e-5), (20000, 3.0e-5)])
def test_the_published_rates_of_segformer(step, rate):
    assert learning_rate(6e-5, step, ADAMW) == pytest.approx(rate, rel=1e-4)


def test_a_restart_falls_to_the_floor_on_the_labels_and_again_on_the_pool():
    once, twice = Schedule(steps=60, power=1.0, floor=0.0), Schedule(steps=100, power=1.0, floor=0.0, warm_up=4, restart=0.25)
    rates = [learning_rate(1e-3, step, twice, restart_at=40) for step in range(100)]
    assert rates[:40] == [learning_rate(1e-3, step, Schedule(steps=40, power=1.0, floor=0.0, warm_up=4)) for step in range(40)]
    assert rates[44:] == [learning_rate(0.25e-3, step, once) for step in range(4, 60)] and rates[40] < rates[41] < rates[43]
    assert learning_rate(1e-4, 50, Schedule(steps=60, floor=1e-4, restart=0.1), restart_at=40) == pytest.approx(1e-5)  # below the floor


def test_the_warm_up_of_the_teacher_ends_at_its_decay():
    method = Method(ema=0.99, ema_warm_up=True)
    assert [ema_decay(step, method) for step in (0, 1, 3, 99, 5000)] == [0.0, 0.5, 0.75, 0.99, 0.99]
    assert ema_decay(0, Method(ema=0.99)) == 0.99
