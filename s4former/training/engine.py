"""What turns losses into steps: the optimizer, the teacher that follows, precision, and two watchmen."""

import copy
import signal
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Callable, Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import Config, Optimizer, share_of_process
from ..errors import ConfigError
from ..method.batch import Batch
from ..method.step import total_loss, train_step
from ..method.student import Student
from ..networks.adapters import decode, encode, encoder_depths
from ..randomness import Stream, torch_seed
from .schedules import ema_decay, learning_rate


class NonFiniteLoss(RuntimeError):
    """Training has left the numbers; the message names the first step and term."""


class Teacher(nn.Module):
    """A copy of the student's network that follows it; images (B, 3, H, W) to logits (B, K, h, w).

    Always in eval mode, never with gradient: batch norms use the followed running statistics (paper, eq. 1).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        return decode(self.network, encode(self.network, images))

    def train(self, mode: bool = True) -> "Teacher":
        return self  # it has no other mode

    @torch.no_grad()
    def follow(self, network: nn.Module, decay: float) -> None:
        """theta_T <- decay theta_T + (1 - decay) theta_S, running statistics included, counters left alone."""
        pairs = [(own, other) for own, other in zip(self.network.parameters(), network.parameters())]
        for own, other in zip(batch_norms(self.network), batch_norms(network)):
            pairs += [(own.running_mean, other.running_mean), (own.running_var, other.running_var)]
        own, other = zip(*pairs)
        torch._foreach_lerp_(list(own), [tensor.detach() for tensor in other], 1 - decay)


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def build_optimizer(student: Student, settings: Optimizer) -> torch.optim.Optimizer:
    """Encoder and head, each with and without weight decay (none on norms, biases, tokens and position embeddings).

    With `layer_decay` the encoder has a pair of groups for each block: the last one learns at `lr`, every block before
    at `layer_decay` times the rate of the next (as BEiT does). Every group remembers its rate at step 0 as `base`;
    `set_learning_rate` does the rest.
    Fused: 1.7 (SGD) and 3.5 (AdamW) times as fast on a CPU core as one parameter after the other; `foreach` gained nothing.
    """
    depths = {id(parameter): depth for parameter, depth in encoder_depths(student.network)}
    last = max(depths.values())
    rates = {key: settings.lr * settings.layer_decay ** (last - depth) for key, depth in depths.items()}
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.dim() > 1 and "position" not in name and "token" not in name
            rate = rates.get(id(parameter), settings.lr * settings.head_multiplier)
            groups.setdefault((rate, decayed), []).append(parameter)
    described = [
        {
            "params": parameters,
            "base": rate,
            "weight_decay": settings.weight_decay if decayed else 0.0,
        }
        for (rate, decayed), parameters in groups.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(described, lr=settings.lr, momentum=settings.momentum, fused=True)
    return torch.optim.AdamW(described, lr=settings.lr, betas=settings.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: Config) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["base"], step, config.schedule)


def update(
    accelerator: Accelerator,
    student: nn.Module,
    teacher: Teacher | None,
    optimizer: torch.optim.Optimizer,
    rounds: Iterable[Batch],
    step: int,
    config: Config,
) -> dict[str, Tensor]:
    """One optimizer step over the accumulation rounds of a step, and the teacher's; returns the mean loss terms.

    `student` is the prepared `Student`. Nothing here waits for the device.
    """
    method, network = config.method, accelerator.unwrap_model(student).network
    set_learning_rate(optimizer, step, config)
    if teacher is not None and method.ema_order == "before":
        teacher.follow(network, ema_decay(step, method))
    speaking = speaker(network, teacher, config, accelerator.num_processes) if step >= method.burn_in else None
    thresholds = accelerator.unwrap_model(student).thresholds
    adaptive = thresholds is not None and speaking is not None
    average = partial(accelerator.reduce, reduction="mean")
    sums: dict[str, Tensor] = {}
    for round_, batch in enumerate(rounds):
        # dropout and drop path: from seed, step and process, so that a step can be replayed
        torch.manual_seed(torch_seed(config.run.seed, Stream.DROPOUT, step, accelerator.process_index, round_))
        last = round_ == config.run.batch.rounds - 1
        with nullcontext() if last else accelerator.no_sync(student):
            with accelerator.autocast():
                heard = thresholds.observe(speaking, batch.valid[: batch.unlabeled]) if adaptive else speaking
                losses = train_step(student, heard, batch, method, average, thresholds.current() if adaptive else None)
                losses["total"] = total_loss(losses, method)
            accelerator.backward(losses["total"] / config.run.batch.rounds)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() / config.run.batch.rounds
    if adaptive:
        thresholds.update(partial(accelerator.reduce, reduction="sum"))
    sums["gradient"] = clip(accelerator, student, config.optimizer.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    average_running_statistics(accelerator, network)
    if teacher is not None and method.ema_order == "after":
        teacher.follow(network, ema_decay(step, method))
    return sums


def speaker(
    network: nn.Module, teacher: Teacher | None, config: Config, processes: int
) -> Callable[[Tensor], Tensor] | None:
    """Who gives the pseudo labels, images to logits; None = nobody."""
    if config.method.teacher in ("ema", "none"):
        return teacher
    learning = share_of_process(config, processes)[1] if config.method.teacher == "student_in_training" else 0
    return partial(own_word, network, learning=learning)


@torch.no_grad()
def own_word(network: nn.Module, images: Tensor, learning: int = 0) -> Tensor:
    """What the student itself says: logits (B, K, h, w) of images (B, 3, H, W).

    Args:
        learning: so many images first it reads in training mode, as FixMatch and UniMatch do with those they train on;
            the others in eval mode.
    """
    mode, said = network.training, []
    try:
        for part, training in ((images[:learning], True), (images[learning:], False)):
            if len(part):
                network.train(training)
                said.append(decode(network, encode(network, part)))
    finally:
        network.train(mode)
    return torch.cat(said)


def out_of_memory(error: torch.OutOfMemoryError, config: Config, processes: int) -> str:
    """The first sentence of torch on a device that is too small for a step, and the ways out that this config has."""
    ways, rounds = [], 2 * config.run.batch.rounds
    try:
        share_of_process(replace(config, run=replace(config.run, batch=replace(config.run.batch, rounds=rounds))), processes)
        ways.append(f"run.batch.rounds={rounds} (smaller passes, the same batch)")
    except ConfigError:
        pass
    if not config.model.activation_checkpointing and config.model.architecture != "deeplabv3plus":
        ways.append("model.activation_checkpointing=true")
    take = f"take {' or '.join(ways)}, which a resumed run may change, or" if ways else "take"
    return f"{str(error).splitlines()[0].rstrip('. ')}; {take} a smaller data.crop or model.encoder in a new run"


def clip(accelerator: Accelerator, student: nn.Module, limit: float) -> Tensor:
    """The norm of the whole gradient before clipping; clips it where `limit` is above 0."""
    accelerator.unscale_gradients()
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(student.parameters(), limit, norm)
    return norm


@torch.no_grad()
def average_running_statistics(accelerator: Accelerator, network: nn.Module) -> None:
    """Makes the running statistics of all processes one; synchronised batch norms (on GPUs) are so already."""
    if accelerator.num_processes == 1:
        return
    statistics = [
        tensor
        for module in batch_norms(network)
        if not isinstance(module, nn.SyncBatchNorm)
        for tensor in (module.running_mean, module.running_var)
    ]
    if statistics:
        joint = accelerator.reduce(torch.cat([tensor.flatten() for tensor in statistics]), "mean")
        for tensor, part in zip(statistics, joint.split([tensor.numel() for tensor in statistics])):
            tensor.copy_(part.view_as(tensor))


class Finiteness:
    """Notices the first non-finite term on the device, and says so only when asked."""

    def __init__(self, device: torch.device):
        self.step = torch.full((), -1, dtype=torch.long, device=device)
        self.terms: tuple[str, ...] = ()
        self.bad: Tensor | None = None

    def watch(self, step: int, terms: dict[str, Tensor], *, scaled: bool = False) -> None:
        """Looks at the terms of a step. scaled: a gradient scaler is at work, which skips what overflows by itself."""
        names = tuple(name for name in terms if name != "gradient" or not scaled)
        bad = torch.stack([~torch.isfinite(terms[name].float()) for name in names])
        first = (self.step < 0) & bad.any()
        if self.bad is None or names != self.terms:  # other terms after the burn-in; what was seen before stays
            self.raise_if_bad()
            self.terms, self.bad = names, torch.zeros_like(bad)
        self.bad = torch.where(first, bad, self.bad)
        self.step = torch.where(first, step, self.step)

    def raise_if_bad(self) -> None:
        step = int(self.step)
        if step >= 0 and self.bad is not None:
            names = [name for name, bad in zip(self.terms, self.bad.tolist()) if bad and name != "total"]
            raise NonFiniteLoss(
                f"step {step}: {', '.join(names) or 'total'} is not finite; lower optimizer.lr, set optimizer.clip_norm"
                " (to 1, say), or take run.mixed_precision=no: these three may differ when a run is resumed, and without a"
                " change it would come to the same step again"
            )


class Signals:
    """SIGTERM and SIGINT as a question: was one caught? All processes give the same answer at the same step."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.number = accelerator, 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note)

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name if self.number else ""

    def note(self, number: int, frame: object) -> None:
        self.number = self.number or number

    def caught(self, may_synchronize: bool) -> bool:
        """With several processes the answer waits for a step at which they may talk to each other."""
        if self.accelerator.num_processes > 1 and may_synchronize:
            numbers = self.accelerator.gather(torch.tensor([self.number], device=self.accelerator.device))
            self.number = int(numbers.max())
        return bool(self.number) and (self.accelerator.num_processes == 1 or may_synchronize)


def precision(wanted: str) -> str:
    """What `run.mixed_precision` means on this machine."""
    if wanted != "auto":
        return wanted
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
