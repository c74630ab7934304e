"""Arithmetic, operations, bytes, casts and copies: on a GPU most of a step's time goes to reading and writing."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from .memory import fake_step
from .timing import Benchmark, Run

SHOWN = 20  # kinds of operations in the table
FREE = {  # operations that move no bytes, beside those that torch marks as views
    "_unsafe_view", "alias", "detach", "device", "empty", "empty_like", "empty_strided", "expand", "new_empty", "permute",
    "select", "slice", "squeeze", "t", "transpose", "unsqueeze", "view",
}  # fmt: skip


def convolution_backward(gradient, images, weight, sizes, stride, padding, dilation, transposed, *rest, **kwargs) -> int:
    """FLOPs from shapes. The gradients of images and weights each cost what the convolution does.

    torch ignores the groups in the latter, which multiplies a depthwise convolution by the number of its channels.
    """
    once = 2 * math.prod(images if transposed else gradient) * math.prod(weight[1:])
    of_images, of_weights, _ = rest[2]
    return once * (bool(of_images) + bool(of_weights))


FLOP_FORMULAS = {  # torch counts no attention on a CPU
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
    torch.ops.aten.convolution_backward: convolution_backward,
}


def count_flops(run: Run) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one run, forward and backward."""
    with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        run()
    return counter.get_total_flops()


class Operation(NamedTuple):
    """One operation that ran. kind: its name, and of a cast or copy the types and whether it is of a parameter."""

    kind: str
    read: int  # bytes of its arguments, those that it changes in place included
    written: int  # bytes of what it returns
    flops: int


class OperationCounter(TorchDispatchMode):
    """Lists the operations that run inside it, views left out."""

    def __init__(self):
        super().__init__()
        self.operations: list[Operation] = []
        self.formulas = FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS).flop_registry

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        name = function._schema.name.split("::")[1]
        if not function.is_view and name not in FREE:
            formula = self.formulas.get(function._overloadpacket)
            flops = formula(*arguments, **keywords, out_val=result) if formula else 0
            kind, read, written = kind_of(name, arguments, result), total_bytes((arguments, keywords)), total_bytes(result)
            self.operations.append(Operation(kind, read, written, flops))
        return result


def kind_of(name: str, arguments: tuple, result: object) -> str:
    if name not in ("_to_copy", "copy_", "clone"):
        return name
    source = arguments[1] if name == "copy_" else arguments[0]
    before, after = (str(tensor.dtype).removeprefix("torch.") for tensor in (source, result))
    what = "weight" if isinstance(source, torch.nn.Parameter) else "activation or gradient"
    return f"{'cast' if name == '_to_copy' else name} {before} -> {after}, {what}"


def total_bytes(tree: object) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def least_seconds(operations: Iterable[Operation], bandwidth: float, matrix_rate: float) -> float:
    """Operations run one after the other; each takes as long as its bytes (per second) or its arithmetic (FLOP/s)."""
    return sum(max((one.read + one.written) / bandwidth, one.flops / matrix_rate) for one in operations)


def table(operations: list[Operation]) -> Iterator[str]:
    """A line for each kind of operation, most bytes first, and one for all."""
    kinds: dict[str, list[Operation]] = {}
    for one in operations:
        kinds.setdefault(one.kind, []).append(one)
    rows = sorted(kinds.items(), key=lambda row: -sum(one.read + one.written for one in row[1]))
    casts = [one for one in operations if one.kind.startswith("cast ")]
    rows = [*rows[:SHOWN], *(row for row in rows[SHOWN:] if " -> " in row[0]), ("all casts", casts), ("all", operations)]
    yield f"{'operation':62} {'count':>6} {'GB read':>9} {'GB written':>10}"
    for kind, group in rows:
        read, written = (sum(getattr(one, side) for one in group) / 1e9 for side in ("read", "written"))
        yield f"{kind:62} {len(group):6} {read:9.3f} {written:10.3f}"


def bytes(benchmark: Benchmark) -> Iterator[str]:
    """The operations of a step with bfloat16 autocast, on tensors without values."""
    counter = OperationCounter()
    _, step = fake_step(benchmark.config, benchmark.sources, observer=counter)
    step()
    yield from table(counter.operations)
    if benchmark.rates:
        yield f"a step takes {1000 * least_seconds(counter.operations, *benchmark.rates):.1f} ms at least, at the given rates"
