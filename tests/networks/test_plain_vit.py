"""plain_vit.py: the resize that the heads over a plain vision transformer share."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from s4former.benchmark.operations import OperationCounter
from s4former.networks.plain_vit import enlarge, resize_by_products


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels, size, new", [(3, (5, 7), (10, 14)), (8, (2, 3), (4, 6)), (16, (3, 2), (7, 2)), (21, (1, 4), (2, 8))])
@pytest.mark.parametrize("corners", [True, False])
def test_products_have_the_values_and_the_gradient_of_interpolate(dtype, tolerance, layout, channels, size, new, corners):
    torch.manual_seed(0)
    maps = torch.randn(2, channels, *size).to(dtype).to(memory_format=layout)
    gradient = torch.randn(2, channels, *new).to(dtype).to(memory_format=layout)

    def run(resize, maps, gradient):
        maps = maps.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):  # which has no say in it
            resized = resize(maps, new, align_corners=corners)
        return resized, torch.autograd.grad(resized, maps, gradient)[0]

    ours = run(resize_by_products, maps, gradient)
    bilinear = lambda maps, size, **keywords: F.interpolate(maps, size=size, mode="bilinear", **keywords)  # noqa: E731
    for own, other in zip(ours, run(bilinear, maps.double(), gradient.double())):
        assert own.dtype == dtype
        assert own.is_contiguous(memory_format=torch.contiguous_format if channels % 8 else torch.channels_last)
        torch.testing.assert_close(own.double(), other, atol=tolerance, rtol=tolerance)


def test_products_move_at_most_twice_their_input_and_output():
    maps = torch.randn(2, 8, 64, 64, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.ones(2, 8, 128, 128, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    resize_by_products(maps, (128, 128))  # which makes the weights, once
    with OperationCounter() as forward:
        doubled = resize_by_products(maps, (128, 128))
    with OperationCounter() as backward:
        torch.autograd.grad(doubled, maps, gradient)
    for counter in (forward, backward):
        weights = (2 + 2 * 128) * 128 * 64 * 2  # once an image, and once a row of all; counted as often as they are used
        moved = sum(one.read + one.written for one in counter.operations) - weights
        assert 0 < moved <= 2 * (maps.nbytes + gradient.nbytes), counter.operations


def test_weights_made_while_predicting_serve_a_training():
    with torch.inference_mode():
        resize_by_products(torch.randn(1, 2, 13, 4), (26, 8))
    resize_by_products(torch.randn(1, 2, 13, 4, requires_grad=True), (26, 8)).sum().backward()


@pytest.mark.parametrize("strict", [True, False])
def test_an_export_leaves_nothing_behind(strict):
    class Twice(torch.nn.Module):
        def forward(self, maps):
            return resize_by_products(maps, (2 * maps.shape[-2], 2 * maps.shape[-1]))

    maps = torch.randn(1, 2, 17, 19)
    exported = torch.export.export(Twice(), (maps,), dynamic_shapes=[{2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}], strict=strict)
    resized = resize_by_products(maps, (34, 38))
    assert type(resized) is torch.Tensor and torch.allclose(exported.module()(maps), resized)


def test_a_cpu_keeps_the_resize_of_torch():
    maps = torch.randn(1, 2, 3, 4, requires_grad=True)
    assert "UpsampleBilinear2D" in type(enlarge(maps, (6, 8)).grad_fn).__name__


def test_products_take_no_numbers_from_the_host_for_which_a_gpu_would_be_waited_for():
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            assert "lift_fresh" not in str(function)  # what torch.tensor and new_tensor end with
            return function(*arguments, **(keywords or {}))

    with Names():
        resize_by_products(torch.randn(1, 2, 9, 4, requires_grad=True), (18, 8)).sum().backward()
        with pytest.raises(AssertionError):
            torch.ones(1).new_tensor([1.0])
