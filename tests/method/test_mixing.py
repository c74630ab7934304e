from dataclasses import replace

import pytest
import torch
from tiny_networks import partners, place

from s4former.config import IGNORE_INDEX
from s4former.method.mixing import (
    ERASED,
    MIXES,
    adaptive_cutmix,
    cutmix,
    cutmix_box,
    gather,
    image_confidence,
    mix_pseudo,
    small_box,
    unmix,
)
from s4former.method.pseudo import Pseudo, downsample_nearest, pseudo_label


def boxes_of(batch, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([cutmix_box(height, width, generator) for _ in range(batch)])


def mix_source(boxes, partner):
    """CutMix's map; what the teacher said does not matter to it."""
    return cutmix({"boxes": boxes, "partner": partner}, random_pseudo(len(boxes)), boxes.shape[-2:])


def random_pseudo(batch=4, height=16, width=24, classes=5):
    generator = torch.Generator().manual_seed(0)
    return pseudo_label(
        5 * torch.randn(batch, classes, height, width, generator=generator), torch.ones(batch, height, width) > 0, 0.5
    )


def coded(batch=4, height=16, width=24):
    code = torch.arange(batch).reshape(-1, 1, 1).expand(-1, height, width)
    return code.contiguous()


def test_pixels_and_labels_come_from_the_same_image_everywhere():
    code = coded()
    source = mix_source(boxes_of(4, 16, 24), partners(4, 4))
    images = code[:, None].expand(-1, 3, -1, -1).float()
    assert torch.equal(gather(images, source)[:, 1].long(), gather(code, source))
    assert torch.equal(gather(code, source), source)  # and from the un-mixed batch, never from a mixed one
    assert (source != torch.arange(4)[:, None, None]).float().mean() == pytest.approx(0.5, abs=0.05)


def test_a_batch_of_one_and_empty_boxes_change_nothing():
    x = torch.randn(1, 3, 16, 24)
    assert torch.equal(gather(x, mix_source(boxes_of(1, 16, 24), partners(1, 1))), x)
    x = torch.randn(4, 3, 16, 24)
    assert torch.equal(gather(x, mix_source(torch.zeros(4, 16, 24, dtype=torch.bool), partners(4, 4))), x)


def test_all_fields_of_pseudo_labels_move_together():
    code = coded()
    label = code.clone()
    label[:, ::2] = IGNORE_INDEX
    pseudo = Pseudo(label=label, taught=label, logits=code[:, None].expand(-1, 5, -1, -1).float(), confidence=code.float() / 4, valid=code != 3)
    source = mix_source(boxes_of(4, 16, 24), partners(4, 4))
    mixed = mix_pseudo(pseudo, source)
    assert torch.equal(mixed.logits[:, 2].long(), source) and torch.equal((mixed.confidence * 4).long(), source)
    assert torch.equal(mixed.valid, source != 3)  # an image of confidence 0 is no padding
    assert torch.equal(mixed.label, torch.where(torch.arange(16)[:, None] % 2 == 0, IGNORE_INDEX, source))
    left = mix_pseudo(pseudo, source, logits=False)
    assert torch.equal(left.logits, pseudo.logits) and torch.equal(left.label, mixed.label)


def test_maps_of_a_quarter_of_the_size_take_every_fourth_source():
    assert downsample_nearest(torch.arange(64).reshape(1, 8, 8), (2, 2)).tolist() == [[[0, 4], [32, 36]]]
    code = coded()
    small = Pseudo(label=code[:, ::4, ::4], taught=code[:, ::4, ::4], logits=code[:, None, ::4, ::4].float(), confidence=code[:, ::4, ::4].float(), valid=code[:, ::4, ::4] >= 0)
    source = mix_source(boxes_of(4, 16, 24), partners(4, 4))
    assert torch.equal(mix_pseudo(small, source).label, source[:, ::4, ::4])
    with pytest.raises(ValueError, match="cannot downsample 16x24 to 5x6"):
        downsample_nearest(code, (5, 6))


def test_the_threshold_is_strict_and_padding_is_never_a_pseudo_label():
    logits = torch.tensor([0.9, 0.1]).log().reshape(1, 2, 1, 1).expand(2, 2, 4, 6)
    confidence = logits.softmax(1).max().item()
    valid = torch.ones(2, 4, 6, dtype=torch.bool)
    valid[1, :, 3:] = False
    assert (pseudo_label(logits, valid, confidence).label == IGNORE_INDEX).all()
    pseudo = pseudo_label(logits, valid, confidence - 1e-6)
    assert torch.equal(pseudo.label == 0, valid) and torch.equal(pseudo.valid, valid) and not pseudo.confidence[~valid].any()
    assert not pseudo.logits.requires_grad


@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_moves_image_label_logits_and_confidence_by_one_map(mix):
    code, labels = coded(4), coded(3)
    pseudo = Pseudo(code, code, code[:, None].expand(-1, 5, -1, -1).float(), code.float() / 10, code >= 0)
    row = MIXES[mix]
    source = row.source(row.draw(place(mix)), pseudo, (16, 24))
    assert source.shape == (4, 16, 24) and source.max() < (7 if row.takes_labeled else 4) and source.min() >= ERASED
    moved = mix_pseudo(pseudo, source, labels=labels if row.takes_labeled else None)
    own, erased = (source >= 0) & (source < 4), source == ERASED
    for field, expected in ((moved.label, source), (moved.logits[:, 3].long(), source), ((moved.confidence * 10).round().long(), source)):
        assert torch.equal(field[own], expected[own])
    assert (moved.label[erased] == IGNORE_INDEX).all() and not moved.confidence[erased].any()
    assert torch.equal(moved.valid, ~erased)
    pasted = source >= 4
    assert torch.equal(moved.label[pasted], source[pasted] - 4) and (moved.confidence[pasted] == 1).all()
    assert (moved.taught[pasted] == IGNORE_INDEX).all()


def test_a_labelled_image_gives_nothing_where_it_has_no_label():
    labels = torch.full((1, 16, 24), 2)
    labels[:, 8:] = IGNORE_INDEX  # padding, or not drawn
    moved = mix_pseudo(random_pseudo(), torch.full((4, 16, 24), 4), labels=labels)
    assert moved.valid[:, :8].all() and (moved.confidence[:, :8] == 1).all()
    assert not moved.valid[:, 8:].any() and not moved.confidence[:, 8:].any()


def test_cutout_erases_half_of_every_image_and_nothing_else():
    images = torch.rand(4, 3, 16, 24) + 1
    source = MIXES["cutout"].source(MIXES["cutout"].draw(place()), random_pseudo(), (16, 24))
    cut = gather(images, source)
    assert (cut == 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(cut[cut != 0], images[cut != 0])


@pytest.mark.parametrize("mix, classes, kept", [("classmix", 1, 1), ("classmix", 2, 2), ("classmix", 3, 2), ("classmix", 4, 3),
                                                ("classmix_half", 1, 0), ("classmix_half", 2, 1), ("classmix_half", 3, 1)])  # fmt: skip
def test_classmix_keeps_half_of_the_classes_and_one_more_or_just_half(mix, classes, kept):
    label = torch.arange(24).remainder(classes).expand(2, 16, 24).clone()
    label[:, 0] = IGNORE_INDEX  # unsure pixels are no class and show the partner
    pseudo = Pseudo(label, label, torch.zeros(2, 5, 16, 24), torch.ones(2, 16, 24), label >= 0)
    source = MIXES[mix].source(MIXES[mix].draw(place(positions=2, group=2)), pseudo, (16, 24))
    for image in range(2):
        shown = {k for k in range(classes) if (source[image][label[image] == k] == image).all()}
        hidden = {k for k in range(classes) if (source[image][label[image] == k] != image).all()}
        assert len(shown) == kept and shown | hidden == set(range(classes))
        assert (source[image, 0] != image).all()


def test_classmix_leaves_an_image_alone_that_has_no_confident_pixel_and_a_batch_that_is_not_mixed():
    label = torch.full((2, 16, 24), IGNORE_INDEX)
    pseudo = Pseudo(label, label, torch.zeros(2, 5, 16, 24), torch.zeros(2, 16, 24), label >= 0)
    own = torch.arange(2)[:, None, None].expand(2, 16, 24)
    assert torch.equal(MIXES["classmix"].source(MIXES["classmix"].draw(place(positions=2, group=2)), pseudo, (16, 24)), own)
    never = MIXES["classmix"].draw(place(positions=2, group=2, probability=0.0))
    assert torch.equal(MIXES["classmix"].source(never, random_pseudo(2), (16, 24)), own)


@pytest.mark.parametrize("stride", [1, 2])
def test_tiles_are_permuted_inside_their_group_and_unmixed_on_features(stride):
    images = torch.randn(8, 3, 16, 24)
    draws = MIXES["mixunmix"].draw(place(positions=8))
    assert draws["tiles"].shape == (8, 4, 4) and (draws["tiles"][:4].sort(dim=0).values == torch.arange(4)[:, None, None]).all()
    assert len({tuple(draws["tiles"][:4, r, c].tolist()) for r in range(4) for c in range(4)}) > 4
    mixed = gather(images, MIXES["mixunmix"].source(draws, random_pseudo(8), (16, 24)))
    assert not torch.equal(mixed, images)
    features = torch.nn.functional.avg_pool2d(mixed, stride)
    assert torch.equal(unmix(features, draws["tiles"]), torch.nn.functional.avg_pool2d(images, stride))
    with pytest.raises(ValueError, match="cannot cut"):
        unmix(torch.zeros(8, 3, 6, 4), draws["tiles"])


def test_image_confidence_has_the_worked_values():
    uniform = torch.zeros(1, 21, 2, 3)
    two = torch.tensor([0.9, 0.1]).log().reshape(1, 2, 1, 1).expand(1, 2, 2, 3)
    many = torch.tensor([0.95] + [0.0025] * 20).log().reshape(1, 21, 1, 1).expand(1, 21, 2, 3)
    label = torch.zeros(1, 2, 3, dtype=torch.long)
    for logits, expected in ((uniform, 0.0), (two, 0.477904), (many, 0.841317)):
        pseudo = Pseudo(label, label, logits, torch.ones(1, 2, 3), label >= 0)
        assert image_confidence(pseudo).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("sure", [True, False])
def test_a_sure_teacher_needs_no_labelled_content_and_an_unsure_one_gets_it_everywhere(sure):
    pseudo = random_pseudo()
    logits = torch.zeros_like(pseudo.logits)
    logits[:, 0] = 200.0 if sure else 0.0
    pseudo = Pseudo(pseudo.label, pseudo.taught, logits, pseudo.confidence, pseudo.valid)
    draws = MIXES["adaptive_cutmix"].draw(place())
    draws["boxes"] = torch.ones_like(draws["boxes"])  # show whole copies, so that what is in them can be seen
    source = adaptive_cutmix(draws, pseudo, (16, 24))
    assert torch.equal(source >= 4, draws["labeled_boxes"][draws["partner"]] & (not sure))


def test_small_boxes_have_the_published_areas_and_shapes_and_every_image_its_own_chance():
    boxes = [small_box(100, 200, torch.Generator().manual_seed(seed)) for seed in range(300)]
    sides = [(box.any(dim=1).sum().item(), box.any(dim=0).sum().item()) for box in boxes]
    assert all(box.sum() == height * width for box, (height, width) in zip(boxes, sides))
    areas = [height * width / 20_000 for height, width in sides]
    assert 0.01 < min(areas) < 0.04 and 0.35 < max(areas) <= 0.4
    assert all(0.25 < height / width < 3.8 for height, width in sides if min(height, width) > 20)
    mixed = torch.cat([MIXES["cutmix_small"].draw(place("cutmix_small", probability=0.5, step=step))["boxes"].flatten(1).any(dim=1)
                       for step in range(100)]).float()  # fmt: skip
    assert 0.4 < mixed.mean() < 0.6 and 0 < mixed.reshape(100, 4).std(dim=1).max()


@pytest.mark.parametrize("mix", ["cutmix", "cutmix_small", "classmix"])
def test_a_second_batch_gives_its_images_and_their_pseudo_labels(mix):
    code = coded(8)
    pseudo = Pseudo(code, code, code[:, None].expand(-1, 8, -1, -1).float(), code.float() / 10, code >= 0)
    row = MIXES[mix]
    source = row.source(row.draw(replace(place(mix), partner=[4, 5, 6, 7])), pseudo.first(4), (16, 24))
    own = torch.arange(4)[:, None, None]
    assert ((source == own) | (source == own + 4)).all()
    assert (source >= 4).any() == (mix != "classmix")  # of an image of one class ClassMix keeps everything
    assert torch.equal(mix_pseudo(pseudo, source).label, source)


def test_views_draw_for_themselves_and_the_first_as_if_it_were_alone():
    alone, first, second = (MIXES["cutmix"].draw(replace(place(), view=view))["boxes"] for view in (0, 0, 1))
    assert torch.equal(alone, first) and not torch.equal(first, second)


def test_masked_hides_blocks_by_their_ratio_each_image_its_own_and_keeps_the_labels():
    row, context = MIXES["masked"], replace(place(), grid=(2, 3))
    draws = row.draw(context)
    assert row.keeps_labels and draws["hidden"].shape == (4, 2, 3) and torch.equal(draws["hidden"], row.draw(context)["hidden"])
    source = row.source(draws, random_pseudo(), (16, 24))
    for image in range(4):
        for r in range(2):
            for c in range(3):
                block = source[image, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8]
                assert (block == (ERASED if draws["hidden"][image, r, c] else image)).all()
    images = torch.rand(4, 3, 16, 24)
    assert torch.equal(gather(images, source), images * (source >= 0)[:, None])
    many = replace(place(positions=64, group=64), grid=(8, 8), ratio=0.7)
    assert row.draw(many)["hidden"].float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert not row.draw(replace(many, ratio=0.0))["hidden"].any() and row.draw(replace(many, ratio=1.0))["hidden"].all()
    assert not torch.equal(row.draw(many)["hidden"], row.draw(replace(many, view=1))["hidden"])
