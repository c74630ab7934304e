"""The learning rate and the teacher's decay as pure functions of the step."""

from ..config import Method, Schedule


def learning_rate(base: float, step: int, schedule: Schedule, restart_at: int = 0) -> float:
    """Polynomial decay to the floor, times a linear warm-up (mmsegmentation's, as the released code uses it).

    With a restart both happen twice: in the steps before it, and from it on from that share of `base`.

    Args:
        base: of the group at step 0 (without warm-up).
        step: 0 .. schedule.steps - 1.
        restart_at: see `Config.restart_at`.
    """
    steps = schedule.steps
    if step < restart_at:
        steps = restart_at
    elif restart_at:
        base, step, steps = schedule.restart * base, step - restart_at, steps - restart_at
    floor = min(schedule.floor, base)  # a group that starts below the floor stays where it is
    rate = (base - floor) * (1 - step / steps) ** schedule.power + floor
    if step < schedule.warm_up:
        rate *= 1 - (1 - step / schedule.warm_up) * (1 - schedule.warm_up_ratio)
    return rate


def ema_decay(step: int, method: Method) -> float:
    """The share of itself that the teacher keeps at the update of step 0, 1, ..."""
    if step < method.ema_copies:
        return 0.0
    if method.ema_warm_up:
        return min(1 - 1 / (step + 1), method.ema)
    return method.ema
