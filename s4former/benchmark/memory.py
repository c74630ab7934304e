"""What a training step takes, computed without running it: on tensors that have shapes and types but no numbers.

Memory: the bytes of all storages that are alive at once: weights, gradients, optimizer, teacher, activations
and what operators hand to each other. Not counted: the context of a GPU (0.5 GiB and more), the workspaces of its
libraries, and the allocator's waste; leave a tenth of the card free for them. Arithmetic: see `timing.count_flops`.
"""

import weakref
from dataclasses import replace
from typing import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..config import Config, share_of_process
from ..data.batches import mix_partners
from ..evaluation.inference import Setting, resize_for_test
from ..evaluation.windows import window_places
from ..method.batch import Batch, Strong
from ..method.checks import shuffle_grid
from ..method.mixing import MIXES, MixContext
from ..method.step import total_loss, train_step
from ..method.student import Student
from ..networks.adapters import full_size_logits
from ..networks.build import build_network
from ..training.engine import Teacher, build_optimizer
from .timing import count_flops


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operators made and nobody has let go: now, and at most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.note(leaf.untyped_storage())
        return result

    def note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, key, size)

    def hold(self, tensor: Tensor) -> Tensor:
        """A tensor that was there before."""
        self.note(tensor.untyped_storage())
        return tensor

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def computed_peak(config: Config, classes: int, *, half: bool = True) -> int:
    """Bytes at the peak of the second step of a run on one process; in the first the optimizer has no state yet.

    Args:
        classes: K.
        half: with bfloat16 autocast, as on a GPU.
    """
    live, step = fake_step(config, classes, half=half)
    step()
    live.peak = live.now
    step()
    return live.peak


def fake_step(config: Config, classes: int, *, half: bool = True) -> tuple[LiveBytes, Callable[[], None]]:
    """A step of a run on fake tensors, to be called any number of times, and what counts its memory."""
    config = replace(config, model=replace(config.model, pretrained=False))
    fake = FakeTensorMode()
    live = LiveBytes()
    network = build_network(config.model, id2label={i: str(i) for i in range(classes)}, crop=config.data.crop)
    teacher = Teacher(network) if config.method.teacher == "ema" else None
    student = Student(network, config.method).train()
    batch = empty_batch(config, shuffle_grid(config, network), classes).map(lambda x: live.hold(fake.from_tensor(x)))
    for module in [*student.modules(), *(teacher.modules() if teacher else [])]:
        for name, tensor in module.named_parameters(recurse=False):
            held = live.hold(fake.from_tensor(tensor.detach()))
            setattr(module, name, nn.Parameter(held, requires_grad=tensor.requires_grad))
        for name, tensor in module.named_buffers(recurse=False):
            setattr(module, name, live.hold(fake.from_tensor(tensor)))
    optimizer = build_optimizer(student, config.optimizer)

    def step() -> None:
        with fake, live:
            for _ in range(min(2, config.run.batch.rounds)):  # the second round finds the gradient of the first
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    terms = train_step(student, teacher, batch, config.method)
                    total = total_loss(terms, config.method)
                total.backward()
                del terms, total
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return live, step


def flops_of_step(config: Config, classes: int) -> int:
    """Floating-point operations of a whole step, counted as if in one accumulation round.

    Where a mix group lies over several rounds, the teacher reads an image of each round once more; that is left out.
    """
    one_round = replace(config, run=replace(config.run, batch=replace(config.run.batch, rounds=1)))
    return count_flops(fake_step(one_round, classes)[1])


def flops_of_evaluation(config: Config, classes: int, size: tuple[int, int]) -> int:
    """Floating-point operations of reading one image of `size` = (height, width) as the config does, by one network."""
    model, fake = replace(config.model, pretrained=False), FakeTensorMode(allow_non_fake_inputs=True)
    network = build_network(model, id2label={i: str(i) for i in range(classes)}, crop=config.data.crop).eval()
    setting = Setting(evaluation=config.evaluation, crop=config.data.crop, mean=(0.5,) * 3, std=(0.5,) * 3)
    times = 1
    if config.evaluation.mode == "sliding":
        times = len(window_places(size, setting.window, setting.stride, config.evaluation.windows == "cut"))
        target = setting.window
    else:
        target = resize_for_test(*size, short_side=config.evaluation.short_side, long_side=config.evaluation.long_side)
    with fake, torch.no_grad():
        return times * count_flops(lambda: full_size_logits(network, torch.empty(1, 3, *target)))


def empty_batch(config: Config, grid: tuple[int, int], classes: int) -> Batch:
    """A normalised batch of one accumulation round without content."""
    labeled, unlabeled = share_of_process(config, 1)
    method, crop = config.method, config.data.crop
    parts = [list(range(first, first + unlabeled)) for first in range(0, config.run.batch.unlabeled, unlabeled)]
    borrowed, partner = max((mix_partners(config, positions) for positions in parts), key=lambda found: len(found[0]))
    place = MixContext(
        seed=0, step=0, positions=list(range(unlabeled)), partner=partner, size=crop, group=method.mix_group, probability=1.0,
        classes=classes, labeled=labeled,
    )  # fmt: skip
    seen = unlabeled + len(borrowed) if method.teacher != "none" else 0
    orders = torch.arange(grid[0] * grid[1]).reshape(1, *grid).repeat(unlabeled, 1, 1)
    views = method.strong_views if seen else 0
    strong = [Strong(torch.zeros(seen, 3, *crop), MIXES[method.mix].draw(place), orders.clone()) for _ in range(views)]
    masks = [torch.ones(count, *crop, dtype=torch.bool) for count in (labeled, seen)]
    return Batch(
        step=0, labeled=torch.zeros(labeled, 3, *crop), labels=torch.zeros(labeled, *crop, dtype=torch.long),
        labeled_valid=masks[0], weak=torch.zeros(seen, 3, *crop), valid=masks[1], strong=tuple(strong),
        seeds=tuple(range(unlabeled)),
    )  # fmt: skip
