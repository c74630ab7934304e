"""The parts of `s4former benchmark gpu`: each yields rows, and adds lines to the notes."""

import copy
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ..config import load
from ..errors import ConfigError
from ..method.step import total_loss, train_step
from ..networks import setr
from ..networks.adapters import compile_each, compile_network
from ..training.engine import build_accelerator, build_optimizer, use_deterministic_operations
from . import data_parts, reference, training_parts
from .inputs import benchmark_inputs, build
from .timing import Benchmark, Row, Timer

SQUARE = "data.crop=[{0},{0}] data.resize=[{1},{0}] method.block={2} evaluation.window=[{0},{0}]"
STEPS = {  # name -> the config, its size in pixels and its grid of blocks; and the encoder and size of a rehearsal
    "setr": ("model.encoder=deit-base", (512, 4), "model.encoder=deit-tiny", (64, 2)),
    "setr large": ("model.encoder=vit-large", (512, 4), "model.encoder=deit-tiny", (64, 2)),
    "segformer": (
        "model.architecture=segformer model.encoder=mit-b4 optimizer.name=adamw optimizer.lr=6e-5 schedule.floor=0",
        (768, 4), "model.encoder=mit-b0", (64, 2),
    ),
    "dpt": (
        "model.architecture=dpt model.encoder=dinov2-base model.decoder_channels=128 optimizer.name=adamw optimizer.lr=5e-6"
        " schedule.floor=0", (504, 9), "model.encoder=dinov2-small", (56, 2),
    ),
}  # fmt: skip
UNIMATCH_V2 = (
    "method.strong_views=2 method.complementary_dropout=true method.strong_colour=jitter method.labeled_colour=false"
    " method.mix=cutmix_small method.mix_group=2 method.normalizer=valid method.patch_shuffle=false method.pasa=none"
    " method.regularizer=none"
)
KERNELS = {  # kind -> a pattern of the names of its kernels; the first that fits counts
    "copies and casts": "copy|memcpy|memset|cat_|CatArray",
    "enlargement": "upsample|interpolate",
    "convolutions": "conv|cudnn|implicit_gemm|wgrad|dgrad|fprop|winograd|nchw|nhwc",
    "attention": "flash|fmha|attention|softmax",
    "matrix products": "gemm|cutlass|cublas|nvjet|xmma|sgemm|mm",
    "norms": "norm|welford",
    "sums": "reduce|sum",
    "optimizer and moving average": "multi_tensor|foreach|adam|sgd",
    "other": "",
}


def benchmark_for(device: torch.device, folder: Path, *, tiny: bool) -> Benchmark:
    """The paper's setting for VOC with drawn images, in bfloat16; small sizes where `tiny`."""
    config, sources, _ = benchmark_inputs(config_of("setr", tiny), folder)
    return Benchmark(config=config, sources=sources, timer=Timer(device, 2 if tiny else 8), facts={"tiny": tiny})


def config_of(name: str, tiny: bool, more: str = ""):
    model, size, small, small_size = STEPS[name]
    side, block = small_size if tiny else size
    words = [model, SQUARE.format(side, 4 * side, block), "run.mixed_precision=bf16", more]
    if tiny:
        words += [small, "run.batch.labeled=2 run.batch.unlabeled=2 method.mix_group=2 model.decoder_channels=16"]
    return load([], " ".join(words).split())


def with_config(benchmark: Benchmark, name: str, more: str = "") -> Benchmark:
    """The benchmark of another step, over the same images."""
    config = config_of(name, benchmark.facts["tiny"], more)
    keep = {field: getattr(benchmark.config.data, field) for field in ("source", "root", "classes", "id_map", "labeled", "validation", "unlabeled")}
    config = replace(config, data=replace(config.data, **keep), model=replace(config.model, pretrained=False))
    return replace(benchmark, config=config)


def steps(benchmark: Benchmark) -> Iterator[Row]:
    """S4Former's step over four networks; where a network cannot take PASA, without it."""
    for name in STEPS:
        try:
            yield from training_parts.step(with_config(benchmark, name))
        except ConfigError as error:
            benchmark.notes.append(f"{name} without PASA: {error}")
            yield from training_parts.step(with_config(benchmark, name, "method.pasa=none"))


def kernels(benchmark: Benchmark) -> Iterator[Row]:
    """Milliseconds of one step of SETR by kind of kernel."""
    run, device = step_of(benchmark), benchmark.device.type
    for _ in range(2):
        run()
    benchmark.timer.synchronize()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]) as profiler:
        run()
        benchmark.timer.synchronize()
    times, counts = Counter(), Counter()
    for event in profiler.events():
        if device == "cpu" or event.device_type == torch.autograd.DeviceType.CUDA:
            kind = next(kind for kind, pattern in KERNELS.items() if re.search(pattern, event.name, re.IGNORECASE))
            times[kind] += (event.self_device_time_total if device == "cuda" else event.self_cpu_time_total) / 1000
            counts[kind] += 1
    benchmark.notes.extend([f"{kind}: {spent:.1f} ms, {counts[kind]}" for kind, spent in times.most_common()])
    benchmark.notes.append(f"all: {times.total():.1f} ms, {counts.total()} kernels")
    yield from ()


def step_of(benchmark: Benchmark) -> Callable[[], object]:
    inputs = build(benchmark.config, benchmark.sources, benchmark.device)
    return training_parts.training_step(inputs, build_accelerator("bf16", cpu=benchmark.device.type == "cpu"))


def agreement(benchmark: Benchmark) -> Iterator[Row]:
    """Relative differences of a step's gradient: device to CPU, bfloat16 to float32, run to run."""
    small = with_config(benchmark, "setr", "model.encoder=deit-tiny run.batch.labeled=2 run.batch.unlabeled=2 method.mix_group=2")
    inputs = build(small.config, small.sources, benchmark.device)
    exact = gradient(inputs, torch.float32)
    on_cpu = replace(
        inputs, student=copy.deepcopy(inputs.student).cpu(), teacher=copy.deepcopy(inputs.teacher).cpu(),
        batch=inputs.batch.map(lambda tensor: tensor.cpu()),
    )  # fmt: skip
    half = gradient(inputs, torch.bfloat16)
    differences = {
        "float32, to the CPU": (exact, gradient(on_cpu, torch.float32).to(exact.device)),
        "float32, two runs": (exact, gradient(inputs, torch.float32)),
        "bfloat16, to float32": (half, exact),
        "bfloat16, two runs": (half, gradient(inputs, torch.bfloat16)),
    }
    benchmark.notes.extend([f"{name}: {float((a - b).norm() / b.norm()):.1e}" for name, (a, b) in differences.items()])
    use_deterministic_operations()
    try:
        same = torch.equal(gradient(inputs, torch.bfloat16), gradient(inputs, torch.bfloat16))
        benchmark.notes.append(f"deterministic operations, two runs in bfloat16: {'equal' if same else 'different'}")
    finally:
        torch.use_deterministic_algorithms(False)
    yield from ()


def gradient(inputs, dtype: torch.dtype) -> Tensor:
    """The whole gradient of a step, in one vector; without TF32."""
    student, method, precise = inputs.student.train(), inputs.config.method, torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        torch.manual_seed(0)
        with torch.autocast(inputs.batch.weak.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = total_loss(train_step(student, inputs.teacher, inputs.batch, method), method)
        loss.backward()
    finally:
        torch.backends.cudnn.allow_tf32 = precise
    parts = [parameter.grad.float().flatten() for parameter in student.parameters() if parameter.grad is not None]
    student.zero_grad(set_to_none=True)
    return torch.cat(parts)


def enlargement(benchmark: Benchmark) -> Iterator[Row]:
    """x2 of maps in bfloat16, forward and backward, against torch in the same type and layout."""
    side = 32 if benchmark.facts["tiny"] else 256
    maps = torch.randn(8, side, side, side, device=benchmark.device).to(torch.bfloat16, memory_format=torch.channels_last)
    maps.requires_grad_()

    def run(double: Callable[[Tensor], Tensor]) -> None:
        maps.grad = None
        double(maps).backward(upstream)

    upstream = torch.randn_like(F.interpolate(maps, scale_factor=2))
    torchs = partial(F.interpolate, scale_factor=2, mode="bilinear", align_corners=False)
    ours, other = partial(run, setr.BilinearTwice.apply), partial(run, torchs)
    yield benchmark.timer.compare(f"x2 of 8x{side}x{side}x{side}, bfloat16", ours, other, against="F.interpolate")


def attention(benchmark: Benchmark) -> Iterator[Row]:
    yield from training_parts.attention(benchmark, (64, 96) if benchmark.facts["tiny"] else (512, 768))


def windows(benchmark: Benchmark) -> Iterator[Row]:
    yield from data_parts.windows(benchmark, (96, 128) if benchmark.facts["tiny"] else (1024, 2048))


def yardstick(benchmark: Benchmark) -> Iterator[Row]:
    """UniMatch V2: our step in bfloat16 against a plain float32 loop that does the same work."""
    inputs = with_config(benchmark, "dpt", UNIMATCH_V2)
    inputs = build(inputs.config, inputs.sources, benchmark.device)
    plain = copy.deepcopy(inputs)
    optimizer = build_optimizer(plain.student.train(), inputs.config.optimizer)
    other = partial(reference.unimatch_v2_step, plain.student.network, plain.teacher.network, optimizer, plain.batch, plain.config.method)
    ours = training_parts.training_step(inputs, build_accelerator("bf16", cpu=benchmark.device.type == "cpu"))
    images = len(inputs.batch.labeled) + inputs.batch.unlabeled
    yield benchmark.timer.compare("UniMatch V2, DPT over DINOv2", ours, other, against="plain float32", images=images)


def compiled(benchmark: Benchmark) -> Iterator[Row]:
    """SETR's step with `run.compile` against the eager one."""
    eager, inputs = step_of(benchmark), build(benchmark.config, benchmark.sources, benchmark.device)
    compile_each(inputs.student.auxiliary)
    for network in (inputs.student.network, inputs.teacher.network):
        compile_network(network)
    run = training_parts.training_step(inputs, build_accelerator("bf16", cpu=benchmark.device.type == "cpu"))
    benchmark.timer.synchronize()
    started = time.perf_counter()
    run()
    benchmark.timer.synchronize()
    benchmark.notes.append(f"compiled: first step {time.perf_counter() - started:.1f} s")
    yield benchmark.timer.compare("SETR's step, compiled", run, eager, against="eager")


PARTS: dict[str, Callable[[Benchmark], Iterator[Row]]] = {
    "steps": steps,
    "kernels": kernels,
    "agreement": agreement,
    "enlargement": enlargement,
    "losses": training_parts.losses,
    "ema": training_parts.ema,
    "attention": attention,
    "windows": windows,
    "yardstick": yardstick,
    "compiled": compiled,
}
