"""The parts of a training step: `step` and `memory` by themselves; `attention`, `losses`, `ema` against a plain implementation."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config import Batch, Config, share_of_process
from ..method.losses import cross_entropy, negative_class_ranking
from ..method.pasa import attention_bias, pasa_attention
from ..method.student import Student, View
from ..networks.adapters import attention_grids, encode, prefix_tokens
from ..training.engine import Teacher, build_accelerator, precision, prepare_student, update
from . import reference
from .cost import count_flops, peak_memory_of_step
from .inputs import StepInputs, build
from .timing import Benchmark, Row, check_close

# ---- the whole step


def step(benchmark: Benchmark) -> Iterator[Row]:
    """A whole step of the config: teacher, student passes, losses, optimizer and moving average.

    With `run.batch.rounds` it is the step of one accumulation round, which is all that is in memory at once.
    """
    config = one_round(benchmark.config)
    batch, crop, mixed_precision = config.run.batch, config.data.crop, precision(config.run.mixed_precision)
    inputs = build(config, benchmark.sources, benchmark.device)
    run = training_step(inputs, build_accelerator(mixed_precision, cpu=benchmark.device.type == "cpu"))
    kinds = {"bf16": ("bf16", torch.bfloat16), "fp16": ("fp16", torch.float16)}
    kind, dtype = kinds.get(mixed_precision, ("float32", torch.float32))
    name = (
        f"{config.method.title}, {config.model.architecture} {config.model.encoder},"
        f" {batch.labeled}+{batch.unlabeled} at {crop[0]}x{crop[1]}, {kind}"
    )
    row = benchmark.timer.compare(name, run, images=batch.labeled + batch.unlabeled)
    flops, seconds = count_flops(run), row.ours.median
    reached, possible = flops / seconds, benchmark.timer.matmul_flops_per_second(dtype)
    benchmark.facts["step"] = {
        "flops": flops, "flops_per_second": reached, "matrix_product_flops_per_second": possible, "seconds": seconds,
        "rounds": benchmark.config.run.batch.rounds,
    }  # fmt: skip
    benchmark.notes.append(
        f"step: {flops / 1e12:.2f} TFLOP, {reached / 1e12:.3f} TFLOP/s, {100 * reached / possible:.0f} % of a"
        f" {kind} matrix product in this run ({possible / 1e12:.3f} TFLOP/s)"
    )
    yield row


def one_round(config: Config) -> Config:
    """The config with the batch of one of its accumulation rounds, and mix groups that fit into it."""
    labeled, unlabeled = share_of_process(config, 1)
    method = replace(config.method, mix_group=math.gcd(config.method.mix_group, unlabeled))
    return replace(config, method=method, run=replace(config.run, batch=Batch(labeled=labeled, unlabeled=unlabeled)))


def training_step(inputs: StepInputs, accelerator: Accelerator) -> Callable[[], object]:
    """`engine.update` as training calls it."""
    student, optimizer = prepare_student(accelerator, inputs.student.train(), inputs.config.optimizer)
    return lambda: update(accelerator, student, inputs.teacher, optimizer, [inputs.batch], 0, inputs.config)


# ---- attention


def attention(benchmark: Benchmark, sides: Sequence[int] = (512, 768)) -> Iterator[Row]:
    """One attention layer with PASA's bias, and an encoder pass with it against one without, on images of these sides."""
    student = build(benchmark.config, benchmark.sources, benchmark.device).student
    grids = attention_grids(student.network, *benchmark.config.data.crop)
    if not grids:
        benchmark.notes.append(f"attention: {benchmark.config.model.architecture} has none")
        return
    for dtype in (torch.float32, torch.bfloat16):
        yield attention_layer(benchmark, grids[-1], prefix_tokens(student.network), dtype)
    student.network.base_model.set_attn_implementation("pasa")
    for side in sides:
        yield encoder_pass(benchmark, student, side)


def attention_layer(benchmark: Benchmark, grids: tuple, prefix: int, dtype: torch.dtype) -> Row:
    """Forward and backward of one layer: 12 heads of 64 channels, two images. grids: of queries and of keys."""
    queries, keys = (prefix + height * width for height, width in grids)
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 12, n, 64) for n in (queries, keys, keys)]
    states = [torch.randn(shape, generator=generator).to(benchmark.device, dtype).requires_grad_() for shape in shapes]
    confidence = torch.rand(2, *grids[0], generator=generator).to(benchmark.device)
    bias = attention_bias(confidence, [grids], prefix, "main", 5.0)
    masks = {key: each.dense().to(dtype) for key, each in bias.items()}
    module = nn.Module()
    module.is_causal = False

    def run(function: Callable, pasa: dict) -> Tensor:
        output, _ = function(module, *states, None, pasa=pasa, scaling=0.125)
        for state in states:
            state.grad = None
        output.float().square().sum().backward()
        return output

    ours, other = partial(run, pasa_attention, bias), partial(run, reference.dense_attention, masks)
    check_close("attention", ours(), other(), 1e-4 if dtype == torch.float32 else 5e-2)
    name = f"a layer with bias, {queries} tokens, {str(dtype)[6:]}"
    return benchmark.timer.compare(name, ours, other, against="plain softmax", images=2)


def encoder_pass(benchmark: Benchmark, student: Student, side: int) -> Row:
    """Forward and backward of one image through the encoder, with PASA's bias and without."""
    images = torch.randn(1, 3, side, side, device=benchmark.device)
    confidence = torch.rand(1, side // 16, side // 16, device=benchmark.device)
    bfloat16 = precision(benchmark.config.run.mixed_precision) == "bf16"

    def run(view: View) -> None:
        with torch.autocast(benchmark.device.type, torch.bfloat16, enabled=bfloat16):
            features = encode(student.network, view.images, **student.attention_arguments(view))
        features[-1].float().square().mean().backward()
        student.zero_grad(set_to_none=True)

    views = View(images, confidence=confidence, seeds=(0,)), View(images)
    runs = [partial(run, view) for view in views]
    return benchmark.timer.compare(f"a pass with PASA, {side}x{side}", *runs, images=1, against="a plain pass")


# ---- losses and the moving average


def losses(benchmark: Benchmark) -> Iterator[Row]:
    """Cross-entropy and NCR over the logits of one student branch, forward and backward."""
    classes, images, size = len(benchmark.sources.classes), benchmark.config.run.batch.unlabeled, benchmark.config.data.crop
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(images, classes, *size, generator=generator) for _ in range(2))
    labels = teacher.argmax(dim=1)
    labels[torch.rand(labels.shape, generator=generator) < 0.5] = 255
    student, teacher, labels = (x.to(benchmark.device) for x in (student, teacher, labels))

    def run(ce: Callable, ncr: Callable) -> Tensor:
        student.grad = None
        student.requires_grad_()
        (ce(student, labels) + ncr(student, teacher, labels)).backward()
        return student.grad

    ours = partial(run, cross_entropy, negative_class_ranking)
    other = partial(run, reference.cross_entropy, reference.negative_class_ranking)
    check_close("the gradient of NCR + CE", ours().clone(), other(), 1e-4)
    yield benchmark.timer.compare(f"NCR + CE, {images}x{classes}x{size[0]}x{size[1]}", ours, other, against="a loop over classes", images=images)


def ema(benchmark: Benchmark) -> Iterator[Row]:
    """The moving average of about 100 million parameters in 300 tensors."""
    shapes = [(768, 768)] * 72 + [(3072, 768)] * 24 + [(768,)] * 204
    student, weights = (nn.ParameterList(torch.randn(*shape, device=benchmark.device) for shape in shapes) for _ in range(2))
    teachers = Teacher(weights), Teacher(weights)
    ours = partial(teachers[0].follow, student, 0.999)
    other = partial(reference.update_ema, teachers[1].network, student, 0.999)
    ours(), other()
    check_close("the moving average", *(torch.cat([p.flatten() for p in x.network]) for x in teachers), 1e-6)
    count = sum(parameter.numel() for parameter in student)
    yield benchmark.timer.compare(f"EMA of {count / 1e6:.0f} M parameters", ours, other, against="a loop over parameters")


# ---- memory


def memory(benchmark: Benchmark) -> Iterator[Row]:
    """The computed peak of a step, in float32 and with bfloat16 autocast."""
    batch = benchmark.config.run.batch
    for kind in ("float32", "bfloat16"):
        peak = peak_memory_of_step(benchmark.config, benchmark.sources, autocast=kind == "bfloat16")
        benchmark.facts[f"computed_peak_bytes_{kind}"] = peak
        benchmark.notes.append(
            f"memory: {peak / 2**30:.2f} GiB at the peak of a step, computed for {kind}, {batch.labeled}+{batch.unlabeled}"
            f" images in {batch.rounds} round{'s' if batch.rounds > 1 else ''}"
        )
    yield from ()
