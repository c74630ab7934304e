"""Class maps of images of any size, whole and in windows, and the pass over a data set."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from s4former.config import Evaluation
from s4former.evaluation.inference import (
    Setting,
    batches_of_one_size,
    evaluate_networks,
    in_precision,
    predict,
    predict_with_confidence,
    resize_for_test,
)
from s4former.evaluation.metrics import ImageCounts

MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)


@dataclass(frozen=True)
class Item:
    image: Tensor
    labels: Tensor
    id: str


def setting(**evaluation) -> Setting:
    return Setting(evaluation=Evaluation(**{"short_side": 0, **evaluation}), crop=(16, 24), mean=MEAN, std=STD)


def pointwise(images: Tensor) -> Tensor:
    """Five classes from the colour of the pixel alone."""
    weights = torch.tensor([[1.0, -2, 0.5], [0.3, 1, -1], [-1, 0.2, 2], [0.9, 0.9, -3], [-0.4, 0, 0]])
    return torch.einsum("kc,bchw->bkhw", weights.to(images.dtype), images)


def constant(images: Tensor) -> Tensor:
    """Class 1 of five, whatever it sees."""
    return torch.eye(5)[1].reshape(1, 5, 1, 1).expand(len(images), 5, *images.shape[-2:])


def make_items(count: int) -> list[Item]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(20, 30), (30, 20), (20, 30), (17, 23)]
    items = []
    for i in range(count):
        height, width = sizes[i % len(sizes)]
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 5, (height, width), generator=generator)
        labels[:3] = 255
        items.append(Item(image, labels, f"image{i}"))
    return items


@pytest.mark.parametrize(
    "size, sides, down, half_up",
    [
        ((375, 500), (512, 2048), (512, 682), (512, 683)),
        ((500, 375), (512, 2048), (682, 512), (683, 512)),
        ((333, 500), (512, 2048), (512, 768), (512, 769)),
        ((100, 1000), (512, 2048), (205, 2048), (205, 2048)),
        ((1024, 2048), (0, 1), (1024, 2048), (1024, 2048)),
        ((1, 900), (8, 90), (1, 90), (1, 90)),
    ],
)
def test_the_size_for_testing_keeps_the_ratio(size, sides, down, half_up):
    for rounding, expected in (("down", down), ("half_up", half_up)):
        assert resize_for_test(size, Evaluation(short_side=sides[0], long_side=sides[1], rounding=rounding)) == expected


def test_class_maps_have_the_size_of_the_image_whatever_the_mode():
    image = make_items(1)[0].image
    for options in ({}, {"short_side": 40}, {"mode": "sliding"}, {"mode": "sliding", "short_side": 33, "stride": (3, 5)}):
        found = predict(pointwise, image, setting(**options))
        assert found.shape == (20, 30) and found.dtype == torch.long, options
    normalised = (image / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.equal(predict(pointwise, image, setting()), pointwise(normalised[None])[0].argmax(dim=0))


def test_a_batch_is_read_like_its_images():
    images = torch.stack([item.image for item in make_items(3)[::2]])
    for options in ({"short_side": 26}, {"mode": "sliding"}):
        together = predict(pointwise, images, setting(**options))
        apart = torch.stack([predict(pointwise, image, setting(**options)) for image in images])
        assert torch.equal(together, apart)


def test_the_window_defaults_to_the_crop_and_the_stride_to_two_thirds_of_it():
    default = Setting(evaluation=Evaluation(), crop=(768, 512), mean=MEAN, std=STD)
    assert default.window == (768, 512) and default.stride == (512, 341)
    given = Setting(evaluation=Evaluation(window=(0, 300), stride=(100, 0)), crop=(768, 512), mean=MEAN, std=STD)
    assert given.window == (768, 300) and given.stride == (100, 200)


def test_batches_hold_one_size_and_every_item_once():
    items = make_items(11)
    batches = list(batches_of_one_size(items, 2, max_batches=2))
    assert sorted(item.id for batch in batches for item in batch) == sorted(item.id for item in items)
    assert all(len({item.image.shape for item in batch}) == 1 and len(batch) <= 2 for batch in batches)


@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 4, "short_side": 24}, {"mode": "sliding", "batch": 3}])
def test_two_networks_in_one_pass_over_three_processes_count_every_image_once(options):
    items = make_items(10)
    networks = {"teacher": pointwise, "student": constant}
    whole = evaluate_networks(networks, items, setting(**options), num_classes=5)
    pixels = sum(int((item.labels != 255).sum()) for item in items)
    assert all(int(matrix.counts.sum()) == pixels for matrix in whole.values())
    parts = [
        evaluate_networks(networks, items, setting(**options), num_classes=5, process_index=i, num_processes=3)
        for i in range(3)
    ]
    for name, matrix in whole.items():
        assert torch.equal(matrix.counts, sum(part[name].counts for part in parts))
    assert not torch.equal(whole["teacher"].counts, whole["student"].counts)


def test_the_counts_of_every_image_are_those_of_the_matrices_over_three_processes():
    items, networks = make_items(10), {"teacher": pointwise, "student": constant}
    counted = []
    for i in range(3):
        counted.append(ImageCounts([item.id for item in items], list(networks), 5))
        evaluate_networks(networks, items, setting(batch=4), num_classes=5, images=counted[i], process_index=i, num_processes=3)
    counts = {name: sum(each.counts[name] for each in counted) for name in networks}
    for place, item in enumerate(items):
        alone = evaluate_networks(networks, [item], setting(), num_classes=5)
        for name, matrix in alone.items():
            derived = torch.stack([matrix.counts.diagonal(), matrix.counts.sum(dim=0), matrix.counts.sum(dim=1)])
            assert torch.equal(counts[name][place], derived)


def test_more_processes_than_images_leave_some_without_work():
    matrices = evaluate_networks(
        {"student": pointwise}, make_items(2), setting(), num_classes=5, process_index=2, num_processes=3
    )
    assert int(matrices["student"].counts.sum()) == 0


def single_pixels(images):
    """A network of single pixels: any window, flip or place gives the same logits."""
    return torch.stack([images.sum(dim=1), -images[:, 0], images[:, 1] * images[:, 2]], dim=1)


def setting_of(**evaluation):
    values = {"short_side": 0, "batch": 3, **evaluation}
    return Setting(evaluation=Evaluation(**values), crop=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    "evaluation",
    [
        {"mode": "sliding", "window": (16, 16), "stride": (10, 10), "windows": "cut"},
        {"flip": True},
        {"mode": "sliding", "window": (16, 16), "stride": (7, 9), "flip": True},
        {"mode": "sliding", "window": (40, 40), "stride": (20, 20), "windows": "cut", "flip": True},
    ],
)
def test_windows_cut_short_and_mirrored_views_agree_with_the_whole_image_for_a_pointwise_network(evaluation):
    images = torch.randint(0, 256, (2, 3, 24, 37), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(predict(single_pixels, images, setting_of(**evaluation)), predict(single_pixels, images, setting_of()))


def test_several_scales_average_probabilities():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = []

    def network(images):
        seen.append(tuple(images.shape[-2:]))
        return single_pixels(images)

    found = predict(network, image, setting_of(scales=(0.5, 1.0, 1.75), flip=True))
    assert seen == [(10, 15), (10, 15), (20, 30), (20, 30), (35, 53), (35, 53)]
    pixels = (image[None] / 255 - 0.5) / 0.5
    total = 0
    for size in ((10, 15), (20, 30), (35, 53)):
        scaled = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=size != (20, 30))
        logits = torch.nn.functional.interpolate(single_pixels(scaled), size=(20, 30), mode="bilinear")
        total = total + 2 * logits.softmax(dim=1)
    assert (found == total[0].argmax(dim=0)).float().mean() > 0.99


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"mode": "sliding"}, {"mode": "sliding", "windows": "cut"}])
def test_confidence_is_the_largest_probability_and_belongs_to_the_label(options):
    image = make_items(1)[0].image
    labels, confidence = predict_with_confidence(pointwise, image, setting(**options))
    assert torch.equal(labels, predict(pointwise, image, setting(**options)))
    pixels = (image / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(confidence, pointwise(pixels[None])[0].softmax(dim=0).amax(dim=0))


def test_pseudo_labels_are_counted_where_the_confidence_is_above_the_threshold():
    items, threshold = make_items(6), 0.8
    networks = {"teacher": pointwise, "student": constant}
    matrices = evaluate_networks(networks, items, setting(), num_classes=5, pseudo=("teacher", threshold))
    assert list(matrices) == ["teacher", "student", "pseudo"]
    counts = torch.zeros(5, 5, dtype=torch.long)
    for item in items:
        labels, confidence = predict_with_confidence(pointwise, item.image, setting())
        for truth, said in zip(*(maps[(confidence > threshold) & (item.labels != 255)].tolist() for maps in (item.labels, labels))):
            counts[truth, said] += 1
    assert torch.equal(matrices["pseudo"].counts, counts) and 0 < counts.sum() < matrices["teacher"].counts.sum()
    assert torch.equal(matrices["teacher"].counts, evaluate_networks(networks, items, setting(), num_classes=5)["teacher"].counts)


def test_few_large_photos_wait_for_others_of_their_size():
    items = make_items(11)
    batches = list(batches_of_one_size(items, 4, max_batches=100, max_values=3 * 20 * 30))
    assert sorted(item.id for batch in batches for item in batch) == sorted(item.id for item in items)
    assert max(map(len, batches)) == 2  # and 4 without the limit


def test_float32_is_without_autocast_and_tf32_and_leaves_the_settings_as_they_were():
    convolution, image = torch.nn.Conv2d(3, 2, 1), torch.rand(1, 3, 4, 6)
    exact, backend = convolution(image), torch.backends.cudnn.conv
    before = backend.fp32_precision
    with torch.autocast("cpu", torch.bfloat16), in_precision("float32", torch.device("cpu")):
        assert torch.equal(convolution(image), exact) and backend.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert backend.fp32_precision == before
    with in_precision("bf16", torch.device("cpu")):
        assert convolution(image).dtype == torch.bfloat16


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
    other = Setting(crop=(32, 48), mean=MEAN, std=STD, evaluation=Evaluation(**evaluation)).other_mode(sizes)
    assert (other and other.evaluation.mode) == mode


def test_whole_images_are_read_one_at_a_time_when_only_compared():
    assert Setting(crop=(32, 48), mean=MEAN, std=STD, evaluation=Evaluation(mode="sliding", short_side=0)).other_mode([(64, 96)]).evaluation.batch == 1
    assert Setting(crop=(32, 48), mean=MEAN, std=STD, evaluation=Evaluation(short_side=0)).other_mode([(64, 96)]).evaluation.batch == Evaluation().batch
