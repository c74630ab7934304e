"""UniMatch V2: complementary dropout of channels, and the whole loss beside a loop."""

from dataclasses import replace

import pytest
import tiny_dino
import tiny_networks
import torch
import torch.nn.functional as F

from s4former.config import from_dict
from s4former.data.batches import StepDataset
from s4former.data.sources import load_sources
from s4former.errors import ConfigError
from s4former.method.batch import Strong
from s4former.method.boxes import cutmix_box
from s4former.method.step import total_loss, train_step
from s4former.method.student import Student, View, complementary_dropout
from s4former.networks.adapters import decode, encode
from s4former.training.engine import Teacher

V2 = {"strong_views": 2, "complementary_dropout": True, "normalizer": "valid"}


def test_a_channel_is_doubled_in_one_view_and_dropped_in_the_other_on_every_map():
    maps = tuple(torch.randn(3, channels, 2, 3, dtype=torch.float64) for channels in (8, 8, 5))
    first, second = (complementary_dropout(maps, (7, 0, 9), complement) for complement in (False, True))
    factors = [(a / x)[:, :, 0, 0] for a, x in zip(first, maps)]
    assert set(factors[0][[0, 2]].flatten().tolist()) == {0.0, 2.0} and (factors[0][1] == 1).all()  # 0: all are kept
    assert not torch.equal(factors[0][0], factors[0][2])
    assert torch.equal(factors[0], factors[1]) and torch.equal(factors[0][:, :5], factors[2])  # the same mask for all
    for x, a, b in zip(maps, first, second):
        assert torch.equal(a + b, 2 * x)
    again = complementary_dropout(tuple(x[2:] for x in maps), (9,), False)  # whatever else is in the batch
    assert all(torch.equal(a[2:], b) for a, b in zip(first, again))


def test_half_of_the_channels_are_kept_on_average():
    (kept,) = complementary_dropout((torch.ones(64, 256, 1, 1),), tuple(range(1, 65)), False)
    assert abs(kept.mean().item() - 1) < 5 / (64 * 256) ** 0.5  # five deviations


def steps_of(process=0, processes=1, **keys):
    config = from_dict({
        "data": {"source": "shapes", "crop": [32, 64], "resize": [64, 32], "shapes": {"labeled": 3, "unlabeled": 9, "validation": 1}},
        "method": {**V2, "mix_group": 2, **keys}, "run": {"batch": {"labeled": 2, "unlabeled": 6}},
    })  # fmt: skip
    return StepDataset(config, load_sources(config.data), (1, 2), process, processes)


def test_a_random_half_of_the_global_batch_keeps_all_channels_whatever_the_processes():
    seeds = [steps_of().batch(step, 0).channel_seeds for step in range(4)]
    assert all(sum(seed == 0 for seed in each) == 3 for each in seeds) and len({tuple(map(bool, each)) for each in seeds}) > 1
    for step in range(4):
        halves = [steps_of(process, 2).batch(step, 0).channel_seeds for process in (0, 1)]
        assert halves[0] + halves[1] == seeds[step]
    assert steps_of(complementary_dropout=False, strong_views=1).batch(0, 0).channel_seeds == ()


def test_one_strong_view_has_nothing_to_part_its_channels_with():
    with pytest.raises(ConfigError, match="parts the channels between two strong views, and method.strong_views = 1; set method.strong"):
        from_dict({"method": {"complementary_dropout": True}})


def batch_of(images=4):
    """A batch with two strong views in which all images but one lose channels."""
    batch, generator = tiny_networks.batch_of("dpt", images), torch.Generator().manual_seed(5)
    size, partner = batch.weak.shape[-2:], torch.arange(images).flip(0)  # the batch flipped, as in its code
    still = torch.arange(2).reshape(1, 1, 2).expand(images, -1, -1)

    def view():
        noise = 0.1 * torch.randn(batch.weak.shape, generator=generator, dtype=torch.float64)
        boxes = torch.stack([cutmix_box(*size, generator) for _ in range(images)])
        return Strong(images=batch.weak + noise, mix={"boxes": boxes, "partner": partner}, orders=still)

    return replace(batch, strong=(view(), view()), channel_seeds=(3, 0, 5, 8)[:images])


def loop_loss(network, teacher, batch, threshold):
    """The loss of UniMatch V2, image by image and view by view: (L_x + (L_s1 + L_s2) / 2) / 2, at full size."""
    with torch.no_grad():
        confidence, label = decode(teacher, encode(teacher, batch.weak)).softmax(dim=1).max(dim=1)
    prediction = decode(network, encode(network, batch.labeled))
    supervised = F.cross_entropy(prediction, batch.labels, ignore_index=255)
    views = []
    for number, strong in enumerate(batch.strong):
        summed, counted = 0.0, 0
        for image, seed in enumerate(batch.channel_seeds):
            partner, box = len(batch.weak) - 1 - image, strong.mix["boxes"][image]
            mixed = torch.where(box, strong.images[partner], strong.images[image])
            target, sure, valid = (torch.where(box, x[partner], x[image]) for x in (label, confidence, batch.valid))
            mask = 2.0 * torch.randint(2, (32,), generator=torch.Generator().manual_seed(seed)) if seed else torch.ones(32)
            mask = 2 - mask if number else mask
            taps = [tap * mask[None, :, None, None] for tap in encode(network, mixed[None])]
            losses = F.cross_entropy(decode(network, taps), target[None], reduction="none")[0]
            summed, counted = summed + (losses * ((sure >= threshold) & valid)).sum(), counted + valid.sum()
        views.append(summed / counted)
    return (supervised + sum(views) / 2) / 2


def test_the_loss_is_twice_that_of_a_loop_over_images_and_views_value_and_gradient(monkeypatch):
    monkeypatch.setitem(tiny_networks.SIZES, "dpt", (tiny_dino.model_of(), (28, 56)))
    network, batch = tiny_networks.network_of("dpt"), batch_of()
    teacher = tiny_networks.network_of("dpt", seed=1)
    for each in (network, teacher):
        torch.nn.init.normal_(each.head.classifier.weight, std=20)
    confidence = decode(teacher, encode(teacher, batch.weak)).softmax(dim=1).amax(dim=1)
    threshold = confidence.median().item() + 1e-9  # above for one, at least for the other: no pixel is just there
    method = tiny_networks.method_of(False, False, False, threshold=threshold, **V2)
    student = Student(network, method).double()
    terms = train_step(student, Teacher(teacher), batch, method)
    assert 0.1 < terms["confident"] < 0.9
    ours = total_loss(terms, method)
    gradients = torch.autograd.grad(ours, list(network.parameters()))
    expected = 2 * loop_loss(network, teacher, batch, threshold)  # half of ours, which AdamW does not see
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)  # pixels are counted in float32
    for own, other in zip(gradients, torch.autograd.grad(expected, list(network.parameters())), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)


def test_channels_are_dropped_after_the_blocks_are_back_in_place(monkeypatch):
    monkeypatch.setitem(tiny_networks.SIZES, "dpt", (tiny_dino.model_of(), (28, 56)))
    network = tiny_networks.network_of("dpt")
    student = Student(network, tiny_networks.method_of()).double()
    images, order = torch.randn(1, 3, 28, 56, dtype=torch.float64), torch.tensor([[[1, 0]]])
    ((logits, _),) = student([View(images, order=order, channel_seeds=(3,), complement=True)])
    features = complementary_dropout(encode(network, images), (3,), True)
    swapped = tuple(torch.cat(x.chunk(2, dim=3)[::-1], dim=3) for x in features)
    torch.testing.assert_close(logits, decode(network, swapped), rtol=0, atol=1e-12)
