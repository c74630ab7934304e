"""The parts of a training step, each against its straight version: `step`, `attention`, `losses`, `ema`."""

import math
from dataclasses import replace
from typing import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config import Batch, Config, share_of_process
from ..method.losses import cross_entropy, negative_class_ranking
from ..method.pasa import attention_bias, pasa_attention
from ..method.step import total_loss, train_step
from ..method.student import Student, View
from ..networks import adapters
from ..training.engine import Teacher, build_optimizer, precision, update
from . import straight
from .bench import Bench
from .material import Material, build, random_logits, without_chance
from .memory import computed_peak
from .timing import Row, agree, count_flops, matrix_rate

# ---- the whole step


def step(bench: Bench) -> Iterator[Row]:
    """A whole step of the config, teacher, three student passes, losses, optimizer and moving average.

    With `run.batch.rounds` it is the step of one accumulation round, which is all that is in memory at once.
    """
    straight.check_method(bench.config.method)
    config = one_round(bench.config)
    mixed_precision = precision(config.run.mixed_precision)
    accelerator = Accelerator(cpu=bench.device.type == "cpu", mixed_precision=mixed_precision)
    material = build(config, bench.sources, bench.device)
    check_step(material)
    runs = our_step(material, accelerator), straight_step(material)
    batch = config.run.batch
    images = batch.labeled + batch.unlabeled
    kind = "float32" if mixed_precision == "no" else mixed_precision
    what = f"{config.method.title}, {config.model.architecture} {config.model.encoder},"
    row = bench.watch.compare(
        f"{what} {batch.labeled}+{batch.unlabeled} at {config.data.crop[0]}x{config.data.crop[1]}, {kind}",
        *runs, images=images, against="straight, float32",
    )  # fmt: skip
    flops = count_flops(runs[0])
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision, torch.float32)
    reached, possible = flops / row.ours.median, matrix_rate(bench.watch, dtype)
    rates = {"flops_per_second": reached, "matrix_product_flops_per_second": possible}
    bench.facts["step"] = {"flops": flops, **rates, "seconds": row.ours.median, "rounds": bench.config.run.batch.rounds}
    yield row
    bench.say(
        f"step: {flops / 1e12:.2f} TFLOP, {reached / 1e12:.3f} TFLOP/s, {100 * reached / possible:.0f} % of a"
        f" {kind} matrix product in this run ({possible / 1e12:.3f} TFLOP/s)"
    )


def one_round(config: Config) -> Config:
    """The config with the batch of one of its accumulation rounds, and mix groups that fit into it."""
    labeled, unlabeled = share_of_process(config, 1)
    method = replace(config.method, mix_group=math.gcd(config.method.mix_group, unlabeled))
    return replace(config, method=method, run=replace(config.run, batch=Batch(labeled=labeled, unlabeled=unlabeled)))


def our_step(material: Material, accelerator: Accelerator):
    """`engine.update` as train_semi.py calls it."""
    student, teacher = material.copy()
    prepared, optimizer = accelerator.prepare(student.train(), build_optimizer(student, material.config.optimizer))
    return lambda: update(accelerator, prepared, teacher, optimizer, [material.batch], 0, material.config)


def straight_step(material: Material):
    """The same, written straight."""
    student, teacher = material.copy()
    straight.in_its_way(student.train(), teacher)
    optimizer = straight.one_by_one(build_optimizer(student, material.config.optimizer))
    method = material.config.method

    def run() -> dict[str, float]:
        terms = straight.losses(student, teacher.network, material.batch, method)
        terms["total"] = total_loss(terms, method)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        straight.follow(teacher.network, student.network, method.ema)
        return {name: value.item() for name, value in terms.items()}

    return run


def check_step(material: Material) -> None:
    """Loss terms and the whole gradient, both ways, in float32 and without dropout."""
    found = []
    for way in (train_step, straight.losses):
        student, teacher = material.copy()
        if way is straight.losses:
            straight.in_its_way(student, teacher)
        method = material.config.method
        with without_chance(student):
            terms = way(student.train(), teacher.network if way is straight.losses else teacher, material.batch, method)
            total_loss(terms, method).backward()
        terms.pop("confident", None)
        found.append((terms, torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])))
    (ours, our_gradient), (other, other_gradient) = found
    for name, value in other.items():
        agree(f"the loss {name}", ours[name], value, 1e-3)
    agree("the gradient of a step", our_gradient, other_gradient, 1e-2)


# ---- attention


def attention(bench: Bench) -> Iterator[Row]:
    """One attention layer with PASA's bias, and an encoder pass with it against one without."""
    material = build(bench.config, bench.sources, bench.device)
    network, size = material.student.network, bench.config.data.crop
    grids = adapters.attention_grids(network, *size)
    if not grids:
        bench.say(f"attention: {bench.config.model.architecture} has none")
        return
    for dtype in (torch.float32, torch.bfloat16):
        yield layer(bench, grids[-1], adapters.prefix_tokens(network), dtype)
    network.base_model.set_attn_implementation("pasa")
    for side in (512, 768):
        yield encoder_pass(bench, material.student, side)


def layer(bench: Bench, grid: tuple, prefix: int, dtype: torch.dtype) -> Row:
    """Forward and backward of one layer: 12 heads of 64 channels, two images."""
    tokens = [prefix + height * width for height, width in grid]
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 12, n, 64) for n in (tokens[0], tokens[1], tokens[1])]
    states = [torch.randn(shape, generator=generator).to(bench.device, dtype).requires_grad_() for shape in shapes]
    confidence = torch.rand(2, *grid[0], generator=generator).to(bench.device)
    bias = attention_bias(confidence, [grid], prefix, "main", 5.0)
    dense = {key: layer_bias.dense().to(dtype) for key, layer_bias in bias.items()}
    module = nn.Module()
    module.is_causal = False

    def run(function, pasa) -> Tensor:
        output, _ = function(module, *states, None, pasa=pasa, scaling=0.125)
        for state in states:
            state.grad = None
        output.float().square().sum().backward()
        return output

    agree("attention", run(pasa_attention, bias), run(straight.attention, dense), 1e-4 if dtype == torch.float32 else 5e-2)
    return bench.watch.compare(
        f"a layer with bias, {tokens[0]} tokens, {str(dtype)[6:]}",
        lambda: run(pasa_attention, bias), lambda: run(straight.attention, dense), images=2,
    )  # fmt: skip


def encoder_pass(bench: Bench, student: Student, side: int) -> Row:
    """Forward and backward of one image through the encoder, steered and plain."""
    images = torch.randn(1, 3, side, side, device=bench.device)
    confidence = torch.rand(1, side // 16, side // 16, device=bench.device)
    views = View(images, confidence=confidence, seeds=(0,)), View(images)

    def run(view: View) -> None:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=precision(bench.config.run.mixed_precision) == "bf16"):
            features = adapters.encode(student.network, view.images, **student.attention_arguments(view))
        features[-1].float().square().mean().backward()
        student.zero_grad(set_to_none=True)

    return bench.watch.compare(
        f"a pass with PASA, {side}x{side}", lambda: run(views[0]), lambda: run(views[1]), images=1, against="a plain pass"
    )


# ---- losses and the moving average


def losses(bench: Bench) -> Iterator[Row]:
    """Cross-entropy and NCR over the logits of one student branch, forward and backward."""
    classes, images, size = len(bench.sources.classes), bench.config.run.batch.unlabeled, bench.config.data.crop
    student, teacher, labels = random_logits(classes, images, size, bench.device)

    def run(ce, ncr) -> Tensor:
        student.grad = None
        student.requires_grad_()
        (ce(student, labels) + ncr(student, teacher, labels)).backward()
        return student.grad

    ways = (cross_entropy, negative_class_ranking), (straight.cross_entropy, straight.negative_class_ranking)
    agree("the gradient of NCR + CE", run(*ways[0]).clone(), run(*ways[1]), 1e-4)
    what = f"NCR + CE, {images}x{classes}x{size[0]}x{size[1]}"
    yield bench.watch.compare(what, lambda: run(*ways[0]), lambda: run(*ways[1]), images=images)


def ema(bench: Bench) -> Iterator[Row]:
    """The moving average of about 100 million parameters in 300 tensors."""
    shapes = [(768, 768)] * 72 + [(3072, 768)] * 24 + [(768,)] * 204
    students, teachers = (nn.ParameterList(torch.randn(*shape, device=bench.device) for shape in shapes) for _ in range(2))
    ours, other = Teacher(teachers), Teacher(teachers)
    ours.follow(students, 0.999)
    straight.follow(other.network, students, 0.999)
    agree("the moving average", *(torch.cat([p.flatten() for p in x.network]) for x in (ours, other)), 1e-6)
    count = sum(parameter.numel() for parameter in students)
    yield bench.watch.compare(
        f"EMA of {count / 1e6:.0f} M parameters",
        lambda: ours.follow(students, 0.999), lambda: straight.follow(other.network, students, 0.999),
    )  # fmt: skip


# ---- memory


def memory(bench: Bench) -> Iterator[Row]:
    """Says the computed peak of a step, in float32 and with bfloat16 autocast; there is nothing to time."""
    for kind in ("float32", "bfloat16"):
        peak = computed_peak(bench.config, len(bench.sources.classes), half=kind == "bfloat16")
        bench.facts[f"computed_peak_bytes_{kind}"] = peak
        batch = bench.config.run.batch
        bench.say(
            f"memory: {peak / 2**30:.2f} GiB at the peak of a step, computed for {kind}, {batch.labeled}+{batch.unlabeled}"
            f" images in {batch.rounds} round{'s' if batch.rounds > 1 else ''}"
        )
    yield from ()
