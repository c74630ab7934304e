import pytest
import torch

from s4former.method.patch_shuffle import draw_order, inverse, patch_shuffle


def random_order(batch, rows, columns):
    places = torch.stack([torch.randperm(rows * columns, generator=torch.Generator().manual_seed(i)) for i in range(batch)])
    return places.reshape(batch, rows, columns)


@pytest.mark.parametrize("size, grid", [((16, 24), (2, 3)), ((12, 8), (3, 2)), ((6, 30), (1, 5)), ((16, 16), (4, 4))])
def test_restoring_gives_back_the_image_bit_for_bit(size, grid):
    x = torch.randn(3, 2, *size)
    order = random_order(3, *grid)
    shuffled = patch_shuffle(x, order)
    assert torch.equal(patch_shuffle(shuffled, inverse(order)), x)
    assert torch.equal(shuffled.flatten(1).sort().values, x.flatten(1).sort().values)


def test_the_worked_example():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    order = torch.tensor([[[2, 0], [3, 1]]])
    shuffled = patch_shuffle(x, order)
    assert shuffled[0, 0].tolist() == [[8, 9, 0, 1], [12, 13, 4, 5], [10, 11, 2, 3], [14, 15, 6, 7]]
    assert inverse(order).tolist() == [[[1, 3], [0, 2]]]
    assert patch_shuffle(shuffled, order)[0, 0].tolist() == [[10, 11, 8, 9], [14, 15, 12, 13], [2, 3, 0, 1], [6, 7, 4, 5]]


def test_place_q_receives_the_block_of_place_order_q_as_a_naive_loop_says():
    x, order = torch.randn(2, 3, 8, 18), random_order(2, 4, 3)
    expected = torch.empty_like(x)
    for image in range(2):
        for place in range(12):
            source = order[image].flatten()[place].item()
            (row, column), (from_row, from_column) = divmod(place, 3), divmod(source, 3)
            block = x[image, :, 2 * from_row : 2 * from_row + 2, 6 * from_column : 6 * from_column + 6]
            expected[image, :, 2 * row : 2 * row + 2, 6 * column : 6 * column + 6] = block
    assert torch.equal(patch_shuffle(x, order), expected)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_features_of_any_stride_come_back_in_order(stride):
    order = random_order(2, 2, 3)
    probe = torch.arange(6.0).reshape(1, 1, 2, 3).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(2, 1, 8, 12)
    features = torch.nn.functional.avg_pool2d(patch_shuffle(probe, order), stride)
    assert torch.equal(patch_shuffle(features, inverse(order)), torch.nn.functional.avg_pool2d(probe, stride))


def test_restoring_commutes_with_pointwise_layers_and_batch_norm_in_training():
    x, order = torch.randn(3, 5, 8, 12, dtype=torch.float64), random_order(3, 2, 3)
    layer = torch.nn.Sequential(torch.nn.Conv2d(5, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).double()
    after = patch_shuffle(layer(patch_shuffle(x, order)), inverse(order))
    assert torch.allclose(after, layer(x), atol=1e-12)


def test_sides_that_are_no_multiple_are_refused():
    with pytest.raises(ValueError, match="cannot cut 16x25 into 2x3 blocks; both sides must be multiples"):
        patch_shuffle(torch.zeros(1, 1, 16, 25), random_order(1, 2, 3))


def test_about_half_of_the_images_are_shuffled_and_each_in_its_own_way():
    orders = [draw_order(4, 4, 0.5, torch.Generator().manual_seed(i)).flatten().tolist() for i in range(1000)]
    shuffled = [order for order in orders if order != list(range(16))]
    assert 440 < len(shuffled) < 560
    assert len({tuple(order) for order in shuffled}) == len(shuffled)
    assert all(sorted(order) == list(range(16)) for order in orders)
