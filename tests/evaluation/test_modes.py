"""modes.py: when both modes are measured, and what is said of them."""

import pytest

from s4former.config import Evaluation
from s4former.evaluation.inference import Setting
from s4former.evaluation.modes import compare_modes, other_setting


def setting(**evaluation):
    return Setting(evaluation=Evaluation(**evaluation), crop=(32, 48), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    "sizes, evaluation, mode",
    [
        ([(32, 48)], {"short_side": 0}, None),
        ([(32, 48), (32, 49)], {"short_side": 0}, "sliding"),
        ([(320, 480)], {"short_side": 32}, None),  # as large as the crop once it is resized
        ([(320, 490)], {"short_side": 32}, "sliding"),
        ([(64, 96)], {"short_side": 0, "mode": "sliding"}, "whole"),
        ([(64, 96)], {"short_side": 0, "window": (64, 96)}, None),
        ([(64, 96)], {"short_side": 0, "stride": (33, 1)}, None),  # pixels between windows would be missed
    ],
)
def test_the_other_mode_is_measured_where_an_image_is_larger_than_a_window(sizes, evaluation, mode):
    other = other_setting(setting(**evaluation), sizes)
    assert (other and other.evaluation.mode) == mode


def test_whole_images_are_read_one_at_a_time_when_only_compared():
    assert other_setting(setting(mode="sliding", short_side=0), [(64, 96)]).evaluation.batch == 1
    assert other_setting(setting(short_side=0), [(64, 96)]).evaluation.batch == Evaluation().batch


@pytest.mark.parametrize(
    "mode, mean_iou, other, words, flag",
    [
        ("whole", 0.564, 0.589, "better on windows (58.90 mIoU) than on whole images (56.40)", "--sliding-window"),
        ("whole", 0.589, 0.564, "better on whole images (58.90 mIoU) than on windows (56.40)", ""),
        ("sliding", 0.5, 0.6, "better on whole images (60.00 mIoU) than on windows (50.00)", "evaluation.mode=whole"),
        ("sliding", 0.5, 0.5, "as good on windows (50.00 mIoU) as on whole images (50.00)", ""),
        ("whole", 0.5, None, "", ""),
    ],
)
def test_the_better_mode_is_named_first_with_what_to_add_for_it(mode, mean_iou, other, words, flag):
    score = {"mean_iou": mean_iou, "other_mode": {"mode": {"whole": "sliding", "sliding": "whole"}[mode], "mean_iou": other}}
    assert compare_modes({"mode": mode}, score) == (words, flag)
    assert compare_modes({"mode": mode}, {"mean_iou": mean_iou}) == ("", "")
