"""Memory of a step, computed on fake tensors, which have shapes and types but no values.

It is the bytes of all storages that are alive at once: weights, gradients, optimizer state, teacher, activations and
temporaries. Not counted: the context of a GPU (0.5 GiB and more), the workspaces of its libraries, and fragmentation;
leave a tenth of the card free for them.
"""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..config import Config
from ..data.sources import Sources
from ..errors import ConfigError
from ..method.algorithms import ALGORITHMS
from ..method.context import StepContext
from ..method.step import total_loss
from ..training.engine import build_optimizer, predict_with_student, pseudo_labeler
from .inputs import initialize


class LiveMemory(TorchDispatchMode):
    """Bytes of the storages that are referenced: now, and at the peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.track(leaf)
        return result

    def track(self, tensor: Tensor) -> Tensor:
        """Counts the storage of a tensor as long as it is referenced; returns the tensor."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.release, key, size)
        return tensor

    def release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak_memory_of_step(config: Config, sources: Sources, *, autocast: bool = True) -> int:
    """Peak bytes of the second step of a run on one process; in the first the optimizer has no state yet.

    autocast: with bfloat16 autocast, as on a GPU.
    """
    memory, step = fake_step(config, sources, autocast=autocast)
    step()
    memory.peak = memory.now
    step()
    return memory.peak


def fake_step(
    config: Config, sources: Sources, *, autocast: bool = True, observer: AbstractContextManager | None = None
) -> tuple[LiveMemory, Callable[[], None]]:
    """A training step on fake tensors that can be run repeatedly, and its memory. observer: entered for each run."""
    if config.method.algorithm == "u2pl":
        raise ConfigError("what a step of U2PL keeps depends on the images, and is not computed; --check measures real steps")
    inputs = initialize(config, sources, torch.device("cpu"))
    student, teacher = inputs.student.train(), inputs.teacher
    labeler = pseudo_labeler(student.network, teacher, config, 1)
    context = StepContext(predict=partial(predict_with_student, student.network))
    fake, memory = FakeTensorMode(), LiveMemory()

    def convert(tensor: Tensor) -> Tensor:
        return memory.track(fake.from_tensor(tensor.detach()))

    batch = inputs.batch.map(convert)
    for module in [*student.modules(), *(teacher.modules() if teacher else [])]:
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(convert(parameter), requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, convert(buffer))
    optimizer = build_optimizer(student, config.optimizer)

    def step() -> None:
        with fake, memory, observer or nullcontext():
            for _ in range(min(2, config.run.batch.rounds)):  # the second round finds the gradient of the first
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    terms = ALGORITHMS[config.method.algorithm](student, labeler, batch, config.method, context)
                    total = total_loss(terms, config.method)
                total.backward()
                del terms, total
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if teacher is not None:
                teacher.follow(student.network, config.method.ema)

    return memory, step
