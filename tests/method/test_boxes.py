import pytest
import torch

from s4former.method.boxes import cutmix_box, square_box


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


def test_adaptive_boxes_have_the_drawn_area_unless_they_are_cut_off():
    boxes = [square_box((64, 64), 0.5, torch.Generator().manual_seed(seed)) for seed in range(200)]
    sides = [(box.any(dim=1).sum().item(), box.any(dim=0).sum().item()) for box in boxes]
    assert max(map(max, sides)) == 32 and all(box.sum() == a * b for box, (a, b) in zip(boxes, sides))


def test_the_box_of_a_seed_pasted_into_a_batch_as_the_docstring_shows():
    box = cutmix_box(4, 6, torch.Generator().manual_seed(0))
    assert box.int().tolist() == [[0] * 6] + 3 * [[1, 1, 1, 1, 0, 0]]
    images = torch.arange(3.0)[:, None, None, None].expand(3, 2, 4, 6)
    mixed = torch.where(box, images.roll(-1, 0), images)
    assert mixed[:, 0][:, box].unique(dim=1).tolist() == [[1], [2], [0]]
    assert mixed[:, 0][:, ~box].unique(dim=1).tolist() == [[0], [1], [2]]
    assert cutmix_box(4, 6).shape == (4, 6)
