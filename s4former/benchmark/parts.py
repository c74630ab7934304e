"""Parts of a step against plain implementations of the same: `attention`, `enlargement`, `losses`, `ema`, `windows`."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..evaluation.inference import Setting
from ..evaluation.windows import sliding_rows
from ..method.losses import cross_entropy, negative_class_ranking
from ..method.pasa import attention_bias, pasa_attention
from ..method.student import Student, View
from ..networks.plain_vit import resize_by_products
from ..networks.adapters import attention_grids, encode, forward_logits, prefix_tokens
from ..networks.encoder_weights import normalization
from ..training.engine import Teacher, precision
from . import reference
from .inputs import build, initialize
from .timing import Benchmark, Row, check_close


def attention(benchmark: Benchmark) -> Iterator[Row | str]:
    """One attention layer with PASA's bias, and an encoder pass with it against one without: at the crop and half as much again."""
    student, height = build(benchmark.config, benchmark.sources, benchmark.device).student, benchmark.config.data.crop[0]
    grids = attention_grids(student.network, *benchmark.config.data.crop)
    if not grids:
        yield f"{benchmark.config.model.architecture} has none"
        return
    for dtype in (torch.float32, torch.bfloat16):
        yield attention_layer(benchmark, grids[-1], prefix_tokens(student.network), dtype)
    student.network.base_model.set_attn_implementation("pasa")
    patch = height // grids[-1][0][0]
    for side in (height, height * 3 // 2 // patch * patch):
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
    return benchmark.compare(name, ours, other, against="plain softmax", images=2)


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

    runs = [partial(run, view) for view in (View(images, confidence=confidence, seeds=(0,)), View(images))]
    return benchmark.compare(f"a pass with PASA, {side}x{side}", *runs, images=1, against="a plain pass")


def enlargement(benchmark: Benchmark) -> Iterator[Row]:
    """x2 of a decoder's maps in bfloat16, forward and backward, against torch in the same type and layout."""
    config = benchmark.config
    shape = (config.run.batch.unlabeled, config.model.decoder_channels, *(side // 2 for side in config.data.crop))
    maps = torch.randn(shape, device=benchmark.device).to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn_like(F.interpolate(maps, scale_factor=2))

    def run(double: Callable[[Tensor], Tensor]) -> None:
        maps.grad = None
        double(maps).backward(upstream)

    size = config.data.crop
    ours = partial(run, partial(resize_by_products, size=size))
    other = partial(run, partial(F.interpolate, size=size, mode="bilinear", align_corners=False))
    yield benchmark.compare(f"x2 of {'x'.join(map(str, shape))}, bfloat16", ours, other, against="F.interpolate")


def losses(benchmark: Benchmark) -> Iterator[Row]:
    """Cross-entropy and NCR over the logits of one student branch, forward and backward."""
    shape = (benchmark.config.run.batch.unlabeled, len(benchmark.sources.classes), *benchmark.config.data.crop)
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(shape, generator=generator) for _ in range(2))
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
    name = f"NCR + CE, {'x'.join(map(str, shape))}"
    yield benchmark.compare(name, ours, other, against="a loop over classes", images=shape[0])


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
    yield benchmark.compare(f"EMA of {count / 1e6:.0f} M parameters", ours, other, against="a loop over parameters")


def windows(benchmark: Benchmark) -> Iterator[Row]:
    """Logits of one image, two windows of the config high and four wide."""
    config, (mean, std) = benchmark.config, normalization(benchmark.config.model)
    setting = Setting(evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=benchmark.device)
    network = partial(forward_logits, initialize(config, benchmark.sources, benchmark.device).student.network.eval())
    (height, width), stride = setting.window, tuple(side * 2 // 3 for side in setting.window)
    image = torch.rand(1, 3, 2 * height, 4 * width, device=benchmark.device)

    def ours() -> Tensor:
        rows = sliding_rows(network, image[0], window=setting.window, stride=stride, batch=config.evaluation.batch)
        return torch.cat(list(rows), dim=1)[None]

    other = partial(reference.sliding_logits, network, image, setting.window, stride)
    check_close("logits in windows", ours(), other(), 1e-3)
    name = f"{2 * height}x{4 * width} in windows of {height}x{width}"
    yield benchmark.compare(name, ours, other, images=1, against="one at a time")
