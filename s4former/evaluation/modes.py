"""Whole images or windows: which is better differs by data, so the end of a run measures both."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it loads torch, which the report does without
    from .inference import Setting

MODES = {"whole": "whole images", "sliding": "windows"}


def other_setting(setting: "Setting", sizes: Iterable[tuple[int, int]]) -> "Setting | None":
    """The setting with the other mode, whole images one at a time; None where no image of these sizes is larger than a window."""
    from .inference import resize_for_test

    evaluation = setting.evaluation
    fitted = [resize_for_test(size, evaluation) for size in sizes]
    larger = any(side > window for size in fitted for side, window in zip(size, setting.window))
    if not larger or any(step > side for step, side in zip(setting.stride, setting.window)):
        return None
    changed = {"mode": "whole", "batch": 1} if evaluation.mode == "sliding" else {"mode": "sliding"}
    return replace(setting, evaluation=replace(evaluation, **changed))


def compare_modes(evaluation: dict[str, Any], score: dict[str, Any]) -> tuple[str, str]:
    """In which mode a network is better, and what to add to the command of evaluate.py for it.

    Args:
        evaluation: the section of the config.
        score: as in results.json.

    Returns:
        'better on windows (58.90 mIoU) than on whole images (56.40)' and '--sliding-window'; empty where one was measured.
    """
    mode, other = evaluation["mode"], score.get("other_mode") or {"mean_iou": None}
    if other["mean_iou"] is None:
        return "", ""
    scores = sorted(((score["mean_iou"], mode), (other["mean_iou"], other["mode"])), key=lambda each: -each[0])  # of equals ours
    (first, best), (second, worse) = scores
    flag = "" if best == mode else "--sliding-window" if best == "sliding" else "evaluation.mode=whole"
    comparison, than = ("better", "than") if first > second else ("as good", "as")
    return f"{comparison} on {MODES[best]} ({100 * first:.2f} mIoU) {than} on {MODES[worse]} ({100 * second:.2f})", flag
