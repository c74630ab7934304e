import pytest
import torch

from s4former.mixing import cutmix_box, gather, mix_pseudo, mix_source, partners
from s4former.pseudo import IGNORE_INDEX, Pseudo, pseudo_label, shrink


def boxes_of(batch, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([cutmix_box(height, width, generator) for _ in range(batch)])


def test_a_box_has_half_the_area_and_the_drawn_widths():
    areas, widths = [], set()
    for seed in range(300):
        box = cutmix_box(512, 512, torch.Generator().manual_seed(seed))
        rows, columns = box.any(dim=1).sum().item(), box.any(dim=0).sum().item()
        assert box.sum() == rows * columns  # one solid rectangle
        areas.append(rows * columns / 512**2)
        widths.add(columns)
        if columns in (257, 384, 511):
            assert rows == {257: 510, 384: 341, 511: 257}[columns]
    assert all(abs(area - 0.5) < 0.001 for area in areas)
    assert 257 <= min(widths) and max(widths) <= 511 and len(widths) > 150


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (2, 2), (5, 3)])
def test_boxes_stay_inside_any_image(size):
    for seed in range(50):
        assert 0 < cutmix_box(*size, torch.Generator().manual_seed(seed)).sum() <= size[0] * size[1]


def test_partners_are_the_next_of_the_same_group():
    assert partners(8, 4).tolist() == [1, 2, 3, 0, 5, 6, 7, 4]
    assert partners(3, 1).tolist() == [0, 1, 2]


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


def test_all_fields_of_the_teachers_word_move_together_and_unsure_pixels_with_them():
    code = coded()
    label = code.clone()
    label[:, ::2] = IGNORE_INDEX
    pseudo = Pseudo(label=label, logits=code[:, None].expand(-1, 5, -1, -1).float(), confidence=code.float() / 4)
    source = mix_source(boxes_of(4, 16, 24), partners(4, 4))
    mixed = mix_pseudo(pseudo, source)
    assert torch.equal(mixed.logits[:, 2].long(), source) and torch.equal((mixed.confidence * 4).long(), source)
    assert torch.equal(mixed.label, torch.where(torch.arange(16)[:, None] % 2 == 0, IGNORE_INDEX, source))
    left = mix_pseudo(pseudo, source, logits=False)
    assert torch.equal(left.logits, pseudo.logits) and torch.equal(left.label, mixed.label)


def test_maps_of_a_quarter_of_the_size_take_every_fourth_source():
    assert shrink(torch.arange(64).reshape(1, 8, 8), (2, 2)).tolist() == [[[0, 4], [32, 36]]]
    code = coded()
    small = Pseudo(label=code[:, ::4, ::4], logits=code[:, None, ::4, ::4].float(), confidence=code[:, ::4, ::4].float())
    source = mix_source(boxes_of(4, 16, 24), partners(4, 4))
    assert torch.equal(mix_pseudo(small, source).label, source[:, ::4, ::4])
    with pytest.raises(ValueError, match="cannot shrink 16x24 to 5x6"):
        shrink(code, (5, 6))


def test_the_threshold_is_strict_and_padding_is_never_a_pseudo_label():
    logits = torch.tensor([0.9, 0.1]).log().reshape(1, 2, 1, 1).expand(2, 2, 4, 6).double()
    confidence = logits.float().softmax(1).max().item()
    valid = torch.ones(2, 4, 6, dtype=torch.bool)
    valid[1, :, 3:] = False
    assert (pseudo_label(logits, valid, confidence).label == IGNORE_INDEX).all()
    pseudo = pseudo_label(logits, valid, confidence - 1e-6)
    assert torch.equal(pseudo.label == 0, valid) and torch.equal(pseudo.confidence > 0, valid)
    assert not pseudo.logits.requires_grad
