"""Parts of the benchmark that run whole training steps: `step`, `kernels`, `agreement`, `yardstick`, `compiled` and `memory`."""

import copy
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ..config import Batch, Config, share_of_process
from ..method.algorithms import ALGORITHMS
from ..method.context import StepContext
from ..method.step import total_loss
from ..networks.adapters import compile_each, compile_network
from ..training.engine import (
    build_accelerator, build_optimizer, precision, predict_with_student, pseudo_labeler, prepare_student, update, use_deterministic_operations,
)  # fmt: skip
from . import reference
from .inputs import StepInputs, build
from .memory import peak_memory_of_step
from .operations import count_flops
from .timing import Benchmark, Row, matrix_product_rate, seconds_of, synchronize

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by run.mixed_precision, else float32
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


def step(benchmark: Benchmark) -> Iterator[Row | str]:
    """A whole step of the config: teacher, student passes, losses, optimizer and moving average.

    With `run.batch.rounds` it is the step of one accumulation round, which is all that is in memory at once.
    """
    config = one_round(benchmark.config)
    batch, crop, dtype = config.run.batch, config.data.crop, TYPES.get(precision(config.run.mixed_precision), torch.float32)
    run, kind = training_step(build(config, benchmark.sources, benchmark.device)), str(dtype).removeprefix("torch.")
    name = (
        f"{config.method.title}, {config.model.architecture} {config.model.encoder},"
        f" {batch.labeled}+{batch.unlabeled} at {crop[0]}x{crop[1]}, {kind}"
    )
    row = benchmark.compare(name, run, images=batch.labeled + (batch.unlabeled if config.method.teacher != "none" else 0))
    flops, possible = count_flops(run), matrix_product_rate(benchmark.device, dtype)
    yield row | {"flops": flops, "matrix_product_rate": possible}
    reached = flops / row["ours"]["median"]
    yield (
        f"{flops / 1e12:.2f} TFLOP, {reached / 1e12:.3f} TFLOP/s, {100 * reached / possible:.0f} % of a {kind} matrix product in"
        f" this run ({possible / 1e12:.3f} TFLOP/s)"
    )


def one_round(config: Config) -> Config:
    """The config with the batch of one of its accumulation rounds, and mix groups that fit into it."""
    labeled, unlabeled = share_of_process(config, 1)
    method = replace(config.method, mix_group=math.gcd(config.method.mix_group, unlabeled))
    return replace(config, method=method, run=replace(config.run, batch=Batch(labeled=labeled, unlabeled=unlabeled)))


def training_step(inputs: StepInputs) -> Callable[[], object]:
    """`engine.update` as training calls it after the burn-in."""
    config = inputs.config
    accelerator = build_accelerator(precision(config.run.mixed_precision), cpu=inputs.batch.weak.device.type == "cpu")
    student, optimizer = prepare_student(accelerator, inputs.student.train(), config.optimizer)
    return partial(update, accelerator, student, inputs.teacher, optimizer, [inputs.batch], config.method.burn_in, config)


def kernels(benchmark: Benchmark) -> Iterator[str]:
    """Milliseconds of one step by kind of kernel."""
    run, device = training_step(build(one_round(benchmark.config), benchmark.sources, benchmark.device)), benchmark.device
    for _ in range(2):
        run()
    synchronize(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        run()
        synchronize(device)
    times, counts = Counter(), Counter()
    for event in profiler.events():
        if device.type == "cpu" or event.device_type == torch.autograd.DeviceType.CUDA:
            kind = next(kind for kind, pattern in KERNELS.items() if re.search(pattern, event.name, re.IGNORECASE))
            times[kind] += (event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total) / 1000
            counts[kind] += 1
    yield from (f"{kind}: {spent:.1f} ms, {counts[kind]}" for kind, spent in times.most_common())
    yield f"all: {times.total():.1f} ms, {counts.total()} kernels"


def agreement(benchmark: Benchmark) -> Iterator[str]:
    """Relative differences of a step's gradient: device to CPU, bfloat16 to float32, run to run."""
    inputs = build(benchmark.config, benchmark.sources, benchmark.device)
    on_cpu = replace(
        inputs, student=copy.deepcopy(inputs.student).cpu(), teacher=inputs.teacher and copy.deepcopy(inputs.teacher).cpu(),
        batch=inputs.batch.map(lambda tensor: tensor.cpu()),
    )  # fmt: skip
    exact, half = gradient(inputs, torch.float32), gradient(inputs, torch.bfloat16)
    for name, one, other in (
        ("float32, to the CPU", exact, gradient(on_cpu, torch.float32).to(exact.device)),
        ("float32, two runs", exact, gradient(inputs, torch.float32)),
        ("bfloat16, to float32", half, exact),
        ("bfloat16, two runs", half, gradient(inputs, torch.bfloat16)),
    ):
        yield f"{name}: {float((one - other).norm() / other.norm()):.1e}"
    use_deterministic_operations()
    try:
        same = torch.equal(gradient(inputs, torch.bfloat16), gradient(inputs, torch.bfloat16))
        yield f"deterministic operations, two runs in bfloat16: {'equal' if same else 'different'}"
    finally:
        torch.use_deterministic_algorithms(False)


def gradient(inputs: StepInputs, dtype: torch.dtype) -> Tensor:
    """The whole gradient of a step, in one vector; without TF32."""
    student, method, precise = inputs.student.train(), inputs.config.method, torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        torch.manual_seed(0)
        with torch.autocast(inputs.batch.weak.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            context = StepContext(predict=partial(predict_with_student, student.network))
            labeler = pseudo_labeler(student.network, inputs.teacher, inputs.config, 1)
            loss = total_loss(ALGORITHMS[method.algorithm](student, labeler, inputs.batch, method, context), method)
        loss.backward()
    finally:
        torch.backends.cudnn.allow_tf32 = precise
    parts = [parameter.grad.float().flatten() for parameter in student.parameters() if parameter.grad is not None]
    student.zero_grad(set_to_none=True)
    return torch.cat(parts)


def yardstick(benchmark: Benchmark) -> Iterator[Row]:
    """A step of UniMatch V2, as its config makes it, against a plain float32 loop that does the same work."""
    inputs = build(benchmark.config, benchmark.sources, benchmark.device)
    plain = copy.deepcopy(inputs)
    optimizer = build_optimizer(plain.student.train(), inputs.config.optimizer)
    other = partial(reference.unimatch_v2_step, plain.student.network, plain.teacher.network, optimizer, plain.batch, plain.config.method)
    images = len(inputs.batch.labeled) + inputs.batch.unlabeled
    yield benchmark.compare("UniMatch V2", training_step(inputs), other, against="plain float32", images=images)


def compiled(benchmark: Benchmark) -> Iterator[Row | str]:
    """The step with `run.compile` against the eager one."""
    eager, inputs = (build(benchmark.config, benchmark.sources, benchmark.device) for _ in range(2))
    compile_each(inputs.student.auxiliary)
    for network in (inputs.student.network, *([inputs.teacher.network] if inputs.teacher else [])):
        compile_network(network)
    run = training_step(inputs)
    yield f"first step {seconds_of(run, benchmark.device):.1f} s"
    yield benchmark.compare("a step, compiled", run, training_step(eager), against="eager")


def memory(benchmark: Benchmark) -> Iterator[str]:
    """The computed peak of a step, in float32 and with bfloat16 autocast."""
    batch = benchmark.config.run.batch
    for kind in ("float32", "bfloat16"):
        peak = peak_memory_of_step(benchmark.config, benchmark.sources, autocast=kind == "bfloat16")
        yield (
            f"{peak / 2**30:.2f} GiB at the peak of a step, computed for {kind}, {batch.labeled}+{batch.unlabeled} images in"
            f" {batch.rounds} round{'s' if batch.rounds > 1 else ''}"
        )
