"""Windows over an image, and scores in bands of rows: the same numbers as all at once, in less memory."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from s4former.config import Evaluation
from s4former.evaluation import windows
from s4former.evaluation.inference import Setting, predict
from s4former.evaluation.windows import resized_bands, sliding_rows, window_places, window_starts
from s4former.method.pseudo import resize_logits


def pointwise(images: Tensor) -> Tensor:
    """Five classes from the colour of the pixel alone."""
    weights = torch.tensor([[1.0, -2, 0.5], [0.3, 1, -1], [-1, 0.2, 2], [0.9, 0.9, -3], [-0.4, 0, 0]])
    return torch.einsum("kc,bchw->bkhw", weights.to(images.dtype), images)


def patchy(images: Tensor) -> Tensor:
    """Logits that depend on all of the window."""
    return pointwise(images) + images.mean(dim=(2, 3), keepdim=True)[:, :1]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def naive_average(image: Tensor, window: tuple[int, int], stride: tuple[int, int], cut: bool) -> Tensor:
    """All planes at full size, one window after the other."""
    total, hits = torch.zeros(5, *image.shape[-2:]), torch.zeros(1, *image.shape[-2:])
    for rows, columns in window_places(tuple(image.shape[-2:]), window, stride, cut):
        logits = patchy(image[None, :, rows, columns])[0]
        total[:, rows, columns] += logits.softmax(dim=0) if cut else logits
        hits[:, rows, columns] += 1
    return total / hits


def test_windows_of_cityscapes_start_at_the_eight_places_of_the_method():
    assert window_starts(1024, 768, 512) == [0, 256]
    assert window_starts(2048, 768, 512) == [0, 512, 1024, 1280]


@pytest.mark.parametrize("length, window, stride", [(100, 30, 20), (90, 30, 30), (30, 30, 7), (20, 30, 20), (31, 30, 1)])
def test_windows_cover_every_pixel_and_differ(length, window, stride):
    starts = window_starts(length, window, stride)
    covered = {pixel for start in starts for pixel in range(start, start + window)}
    assert covered == set(range(max(length, window)))
    assert len(set(starts)) == len(starts)


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(ValueError, match="the stride is 31 for windows of 30 pixels; use 1 to 30, or pixels are missed"):
        window_starts(100, 30, 31)


@pytest.mark.parametrize("height, width", [(40, 61), (16, 24), (10, 61), (7, 9)])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_windows_of_a_pointwise_network_add_up_to_the_whole_image(height, width, batch):
    image = noise(3, height, width)
    rows = list(sliding_rows(pointwise, image, window=(16, 24), stride=(11, 16), batch=batch))
    torch.testing.assert_close(torch.cat(rows, dim=1), pointwise(image[None])[0])


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 50])
def test_rows_yielded_early_equal_those_averaged_over_the_whole_image(cut, batch):
    image, options = noise(3, 67, 45), {"window": (16, 24), "stride": (7, 13), "cut": cut}
    rows = list(sliding_rows(patchy, image, batch=batch, **options))
    torch.testing.assert_close(torch.cat(rows, dim=1), naive_average(image, **options))
    assert batch > 10 or max(chunk.shape[1] for chunk in rows) <= 16 + 7


@pytest.mark.parametrize("size", [(67, 45), (100, 31), (20, 90), (7, 5)])
@pytest.mark.parametrize("most", [1, 5 * 90 * 8, 10**9])
def test_bands_are_resized_like_the_whole_image(size, most):
    scores = noise(5, 33, 45)
    bands = list(resized_bands(scores.split([3, 20, 1, 9], dim=1), 33, size, most))
    torch.testing.assert_close(torch.cat(bands, dim=1), resize_logits(scores[None], size)[0])
    assert all(band.numel() <= max(most, 5 * size[1]) for band in bands)


class LargestTensor(TorchDispatchMode):
    """Remembers how many values the largest tensor had that anything computed."""

    values = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if isinstance(result, Tensor):
            self.values = max(self.values, result.numel())
        return result


@pytest.mark.parametrize("options", [{}, {"scales": (0.5, 1.0), "flip": True}, {"short_side": 48}, {"windows": "cut"}])
def test_never_all_scores_of_a_tall_photo_are_in_memory(options, monkeypatch):
    """64 classes of 800x48 pixels would be 2.5 million values; the map itself has 38400."""
    monkeypatch.setattr(windows, "BAND", 64 * 48 * 16)
    evaluation = Evaluation(mode="sliding", batch=2, **{"short_side": 0, **options})
    setting = Setting(evaluation=evaluation, crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    image = torch.randint(0, 256, (3, 800, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest:
        found = predict(lambda x: x.mean(1, keepdim=True) * torch.arange(64.0)[:, None, None], image, setting)
    assert found.shape == (800, 48)
    assert largest.values < 64 * 800 * 48 / 5


def test_overlapping_windows_are_averaged_as_by_hand():
    def place(windows: Tensor) -> Tensor:  # one class, whose logit is the mean over the window
        return windows.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1, *windows.shape[-2:])

    images = torch.arange(6.0).expand(1, 3, 1, 6)
    (logits,) = sliding_rows(place, images[0], window=(1, 4), stride=(1, 2), batch=8)
    assert logits.flatten().tolist() == [1.5, 1.5, 2.5, 2.5, 3.5, 3.5]


def test_no_more_windows_at_once_than_asked_for():
    seen = []

    def counting(windows: Tensor) -> Tensor:
        seen.append(len(windows))
        return pointwise(windows)

    list(sliding_rows(counting, torch.zeros(3, 40, 61), window=(16, 24), stride=(11, 16), batch=5))
    assert max(seen) == 5 and sum(seen) == 4 * 4


def test_unimatch_cuts_1024_by_2048_into_eight_windows():
    places = window_places((1024, 2048), (801, 801), (534, 534), True)
    assert sorted((rows.start, columns.start) for rows, columns in places) == [
        (y, x) for y in (0, 534) for x in (0, 534, 1068, 1602)
    ]
    assert {(rows.stop, columns.stop) for rows, columns in places} == {(801, 801), (801, 1335), (801, 1869), (801, 2048),
                                                                         (1024, 801), (1024, 1335), (1024, 1869), (1024, 2048)}  # fmt: skip
