"""The update of a step: the optimizer, the teacher, and the precision."""

import copy
import itertools
import os
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Callable, Iterable, Iterator, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import Config, Method, Optimizer, share_of_process
from ..errors import ConfigError
from ..evaluation.inference import float32_products
from ..method.algorithms import ALGORITHMS
from ..method.batch import Batch
from ..method.context import Label, StepContext
from ..method.representation import Memory
from ..method.step import student_views, total_loss, valid_pixels
from ..method.student import Student, fixed_running_statistics
from ..networks.adapters import decode, decoder_inputs, encode, encoder_depths
from ..networks.low_precision import low_precision_weights
from ..randomness import Stream, torch_seed
from .schedules import ema_decay, learning_rate


class Teacher(nn.Module):
    """The moving average of the student's network (paper, eq. 1); images (B, 3, H, W) to logits (B, K, h, w).

    Always in eval mode, without gradient; batch norms use the averaged running statistics.
    """

    def __init__(self, network: nn.Module, second: bool = False, memory: Memory | None = None):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.second = copy.deepcopy(self.network) if second else None  # PS-MT's; predictions are then the mean of both
        self.memory = memory  # U2PL's

    def forward(self, images: Tensor) -> Tensor:
        with low_precision_weights(self):
            first, *others = (decode(network, encode(network, images)) for network in self.networks)
        return sum(others, start=first) / len(self.networks) if others else first

    @property
    def networks(self) -> list[nn.Module]:
        """The networks that give the pseudo labels, that which is scored and exported first."""
        return [self.network] if self.second is None else [self.network, self.second]

    def represent(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the features of U2PL's representation head, (B, D, h', w')."""
        with low_precision_weights(self):
            features = decoder_inputs(self.network, encode(self.network, images))
            return decode(self.network, features), self.memory.head(features)

    def train(self, mode: bool = True) -> "Teacher":
        return self  # always in eval mode

    def follow(self, network: nn.Module, decay: float) -> None:
        """theta_T <- decay theta_T + (1 - decay) theta_S."""
        move_average(self.network, network, decay)


def build_teacher(student: Student) -> Teacher:
    """The teacher of a step, with what its algorithm wants of it, where the student is."""
    network, method, head = student.network, student.method, student.representation
    memory = None if head is None else Memory(head, network.config.num_labels, method.memory)
    return Teacher(network, second=method.algorithm == "psmt", memory=memory).to(network.device, network.dtype)


@torch.no_grad()
def move_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Moves an average of a module's weights, running statistics included, counters left alone."""
    pairs = list(zip(average.parameters(), module.parameters(), strict=True))
    for own, other in zip(batch_norms(average), batch_norms(module), strict=True):
        pairs += [(own.running_mean, other.running_mean), (own.running_var, other.running_var)]
    own, other = zip(*pairs)
    torch._foreach_lerp_(list(own), [tensor.detach() for tensor in other], 1 - decay)


def update_teacher(teacher: Teacher, student: Student, step: int, method: Method) -> None:
    """The teacher follows the student, after or before the optimizer step."""
    decay = ema_decay(step, method)
    turn = (step - method.burn_in) // method.teacher_turn % 2
    if teacher.second is None or turn == 0 or decay == 0:  # what copies is for both
        teacher.follow(student.network, decay)
    if teacher.second is not None and (turn == 1 or decay == 0):
        move_average(teacher.second, student.network, decay)
    if teacher.memory is not None:
        move_average(teacher.memory.head, student.representation, decay)


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def build_optimizer(student: Student, settings: Optimizer) -> torch.optim.Optimizer:
    """Encoder and head, each with and without weight decay (none on norms, biases, tokens and position embeddings).

    With `layer_decay` the encoder has a pair of groups for each block: the last one learns at `lr`, every block before
    at `layer_decay` times the rate of the next (as BEiT does). Every group keeps its rate at step 0 as `base`.
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
        {"params": parameters, "base": rate, "weight_decay": settings.weight_decay * decayed}
        for (rate, decayed), parameters in groups.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(described, lr=settings.lr, momentum=settings.momentum, fused=True)
    return torch.optim.AdamW(described, lr=settings.lr, betas=settings.betas, fused=True)


def prepare_student(accelerator: Accelerator, student: Student, settings: Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The student as Accelerate distributes it, and its optimizer.

    Accelerate's forward would copy all logits to float32; the losses do so by chunks, and `update` is under autocast itself.
    """
    prepared, optimizer = accelerator.prepare(student, build_optimizer(student, settings))
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    return prepared, optimizer


@contextmanager
def nondeterminism_explained() -> Iterator[None]:
    """Names the operation that torch refuses under `run.deterministic`, in a `ConfigError`."""
    try:
        yield
    except RuntimeError as error:
        operation, refused, _ = str(error).partition(" does not have a deterministic implementation")
        if not refused:
            raise
        raise ConfigError(
            f"run.deterministic is true, and on this device {operation} has no deterministic implementation;"
            " set run.deterministic=false, or leave out the part of the method or network that needs it"
        ) from error


@contextmanager
def fast_products(device: torch.device, deterministic: bool) -> Iterator[None]:
    """On a GPU float32 is multiplied in TF32, and cuDNN tries its algorithms for the sizes of a step, which are always the same.

    Evaluation does neither: its scores are to be the same everywhere, and its images have many sizes.
    """
    if device.type != "cuda" or deterministic:
        yield
        return
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = True
        with float32_products("tf32"):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


@nondeterminism_explained()
def update(
    accelerator: Accelerator, student: nn.Module, teacher: Teacher | None, optimizer: torch.optim.Optimizer,
    rounds: Iterable[Batch], step: int, config: Config,
) -> dict[str, Tensor]:  # fmt: skip
    """One optimizer step over the accumulation rounds of a step, and the teacher's; returns the mean loss terms.

    `student` is the prepared `Student`. Nothing here waits for the device.
    """
    method, bare = config.method, accelerator.unwrap_model(student)
    network = bare.network
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["base"], step, config.schedule, config.restart_at)
    if config.restart_at and step == config.restart_at:
        optimizer.state.clear()  # the labels' last gradients are small: by their moments the pool's first steps would be far too long
    if teacher is not None and method.ema_order == "before":
        update_teacher(teacher, bare, step, method)
    labeler = pseudo_labeler(network, teacher, config, accelerator.num_processes) if step >= method.burn_in else None
    thresholds = bare.thresholds if labeler is not None else None
    average, labelers = partial(accelerator.reduce, reduction="mean"), itertools.repeat(labeler)
    if method.normalizer == "valid" and config.run.batch.rounds > 1:
        rounds = list(rounds)
        average, labelers = count_all_rounds(accelerator, rounds, labeler, step, config, bare.label)
    context = StepContext(
        label=bare.label, predict=partial(predict_with_student, network), progress=step / config.schedule.steps, average=average,
        seed=torch_seed(config.run.seed, Stream.SHARED, step), processes=accelerator.num_processes, gather=accelerator.gather,
    )  # fmt: skip
    sums: dict[str, Tensor] = {}
    for round_, (batch, labeler) in enumerate(zip(rounds, labelers)):
        # dropout and drop path: from seed, step and process, so that a step can be replayed
        torch.manual_seed(torch_seed(config.run.seed, Stream.DROPOUT, step, accelerator.process_index, round_))
        last = round_ == config.run.batch.rounds - 1
        synced = nullcontext() if last else accelerator.no_sync(student)
        with fast_products(accelerator.device, config.run.deterministic), synced, ExitStack() as copies:
            with accelerator.autocast():
                copies.enter_context(low_precision_weights(bare))  # until the backward: checkpointed blocks need them once more
                if thresholds is not None:
                    labeler = bare.observe(labeler, batch.valid[: batch.unlabeled])
                losses = ALGORITHMS[method.algorithm](student, labeler, batch, method, context)
                losses["total"] = total_loss(losses, method, step)
            accelerator.backward(losses["total"] / config.run.batch.rounds)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() / config.run.batch.rounds
    if thresholds is not None:
        thresholds.update(accelerator.reduce)
    sums["gradient"] = clip(accelerator, student, config.optimizer.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for module in filter(None, (network, bare.representation)):  # what the teacher averages
        average_running_statistics(accelerator, module)
    if teacher is not None and method.ema_order == "after":
        update_teacher(teacher, bare, step, method)
    return sums


@torch.no_grad()
def count_all_rounds(
    accelerator: Accelerator, rounds: Sequence[Batch], labeler: Callable[[Tensor], Tensor] | None, step: int, config: Config,
    label: Label,
) -> tuple[Callable[[Tensor], Tensor], list[Callable[[Tensor], Tensor] | None]]:  # fmt: skip
    """What divides the losses of every round: the valid pixels of all rounds and processes, known before the first backward.

    Returns the `average` of `train_step`, and for each round a labeler that has its predictions already.
    """
    counts, labelers = [], []
    for round_, batch in enumerate(rounds, start=len(rounds)):  # other draws than the student's, for a labeler that has dropout
        torch.manual_seed(torch_seed(config.run.seed, Stream.DROPOUT, step, accelerator.process_index, round_))
        with accelerator.autocast():
            predictions = None if labeler is None else labeler(batch.weak)
            labelers.append(None if predictions is None else lambda images, predictions=predictions: predictions)
            _, targets, _ = student_views(labelers[-1], batch, config.method, label)
        counts.append(valid_pixels(batch, targets))
    joint = accelerator.reduce(torch.stack(counts).mean(dim=0), reduction="mean")
    return lambda own: joint, labelers


def pseudo_labeler(
    network: nn.Module, teacher: Teacher | None, config: Config, processes: int
) -> Callable[[Tensor], Tensor] | None:
    """The function from images to the logits that pseudo labels are made of; None = there are none."""
    if config.method.teacher in ("ema", "none"):
        return teacher
    training = share_of_process(config, processes)[1] if config.method.teacher == "student_in_training" else 0
    fixed = config.method.running_statistics == "labeled"
    return partial(predict_with_student, network, in_training_mode=training, fixed=fixed)


@torch.no_grad()
def predict_with_student(network: nn.Module, images: Tensor, in_training_mode: int = 0, fixed: bool = False) -> Tensor:
    """Logits (B, K, h, w) of images (B, 3, H, W), the first `in_training_mode` of them in training mode, the others in eval mode.

    FixMatch and UniMatch read the images that they train on in training mode; `fixed` leaves running statistics as they are.
    """
    mode, logits = network.training, []
    for part, training in ((images[:in_training_mode], True), (images[in_training_mode:], False)):
        if len(part):
            network.train(training)
            with low_precision_weights(network), fixed_running_statistics(network) if fixed else nullcontext():
                logits.append(decode(network, encode(network, part)))
    network.train(mode)
    return torch.cat(logits)


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
    """Averages the running statistics of batch norms over the processes; synchronised ones (on GPUs) need no averaging."""
    if accelerator.num_processes == 1:
        return
    own = [module for module in batch_norms(network) if not isinstance(module, nn.SyncBatchNorm)]
    statistics = [tensor for module in own for tensor in (module.running_mean, module.running_var)]
    if statistics:
        joint = accelerator.reduce(torch.cat([tensor.flatten() for tensor in statistics]), "mean")
        for tensor, part in zip(statistics, joint.split([tensor.numel() for tensor in statistics])):
            tensor.copy_(part.view_as(tensor))


def build_accelerator(mixed_precision: str, *, cpu: bool, **options: Any) -> Accelerator:
    """The Accelerator of a run. Its processes and devices come from outside, through accelerate launch or torchrun; not so
    its accumulation steps (`update` divides by the rounds itself) and its compiler (run.compile is the project's own).

    `ConfigError` if it is told to shard the model, which `update` and the checkpoints do not know of.
    """
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("true", "1"):
            raise ConfigError(
                f"ACCELERATE_USE_{name} is set, and training here knows plain data parallelism alone; choose it in accelerate"
                " config, or launch with --multi_gpu, or unset the variable"
            )
    # running statistics are averaged after every step; a broadcast would undo what labelling in training mode moved
    options["kwargs_handlers"] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    options |= {"gradient_accumulation_plugin": GradientAccumulationPlugin(num_steps=1), "dynamo_backend": "no"}
    return Accelerator(cpu=cpu, mixed_precision=mixed_precision, **options)


def use_deterministic_operations() -> None:
    """Two runs on one GPU then end in the same bytes; to be called before anything is computed there."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True)


def precision(wanted: str) -> str:
    """`run.mixed_precision`; `auto` is what accelerate launch was told, else bf16 on a GPU that computes in it."""
    if wanted != "auto":
        return wanted
    if (launched := launched_precision()) in ("bf16", "fp16"):
        return launched
    # without emulation: older cards convert, and are slower than in float32
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def launched_precision() -> str:
    """The --mixed_precision of accelerate launch; no where it was not given, which cannot be told apart."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def device_notes(wanted: str) -> tuple[str, ...]:
    """What a run does otherwise than its launcher or its machine suggests, for the log."""
    launched, used, notes = launched_precision(), precision(wanted), []
    if launched not in ("no", used):
        notes.append(
            f"run.mixed_precision = {wanted!r} is followed ({used}), not --mixed_precision {launched} of accelerate launch;"
            " the two are better the same"
        )
    if needs_cpu() and torch.accelerator.is_available():
        notes.append("Apple's GPU (mps) has no float64, in which pixels are counted, so the CPU is used")
    return tuple(notes)


def needs_cpu() -> bool:
    """Whether a run has no device but the CPU. Accelerate is to be told so, or several CPU processes would not know of each other."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return device is None or device.type == "mps"
