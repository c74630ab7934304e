"""plain_vit.py: the x2 that the heads over a plain vision transformer share."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from s4former.benchmark.operations import OperationCounter
from s4former.networks.plain_vit import BilinearTwice, enlarge


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(5, 7), (2, 3), (3, 2)])
def test_doubling_has_the_values_and_the_gradient_of_interpolate(dtype, tolerance, layout, size):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *size).to(dtype).to(memory_format=layout)
    gradient = torch.randn(2, 3, 2 * size[0], 2 * size[1]).to(dtype).to(memory_format=layout)

    def run(double, maps, gradient):
        maps = maps.clone().requires_grad_()
        doubled = double(maps)
        return doubled, torch.autograd.grad(doubled, maps, gradient)[0]

    with torch.autocast("cpu", torch.bfloat16):  # which has no say in it
        ours = run(BilinearTwice.apply, maps, gradient)
    expected = run(partial(F.interpolate, scale_factor=2, mode="bilinear"), maps.double(), gradient.double())
    for own, other in zip(ours, expected):
        assert own.dtype == dtype and own.is_contiguous(memory_format=layout)
        torch.testing.assert_close(own.double(), other, atol=tolerance, rtol=tolerance)


def test_doubling_moves_at_most_one_and_a_half_times_its_input_and_output():
    maps = torch.randn(2, 8, 64, 64, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.ones(2, 8, 128, 128, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    with OperationCounter() as forward:
        doubled = BilinearTwice.apply(maps)
    with OperationCounter() as backward:
        torch.autograd.grad(doubled, maps, gradient)
    for counter in (forward, backward):
        assert sum(one.read + one.written for one in counter.operations) <= 1.5 * (maps.nbytes + gradient.nbytes)


def test_a_cpu_keeps_the_resize_of_torch():
    maps = torch.randn(1, 2, 3, 4, requires_grad=True)
    assert "UpsampleBilinear2D" in type(enlarge(maps, (6, 8)).grad_fn).__name__


def test_doubling_takes_no_numbers_from_the_host_for_which_a_gpu_would_be_waited_for():
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            assert "lift_fresh" not in str(function)  # what torch.tensor and new_tensor end with
            return function(*arguments, **(keywords or {}))

    with Names():
        BilinearTwice.apply(torch.randn(1, 2, 3, 4, requires_grad=True)).sum().backward()
        with pytest.raises(AssertionError):
            torch.ones(1).new_tensor([1.0])
