"""From a network to an ONNX file that onnxruntime was seen to compute as torch does."""

import json
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import UserError
from ..networks.adapters import full_size_logits, smallest_side

TOLERANCE = 1e-3  # of logits, relative to the largest


class FullSizeLogits(nn.Module):
    """Logits at the size of the image, whatever the size."""

    def __init__(self, network: PreTrainedModel):
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        return full_size_logits(self.network, pixel_values)


def export_onnx(network: PreTrainedModel, path: Path, metadata: dict[str, Any]) -> float:
    """Writes the file, compares, and returns the largest difference of a logit relative to the largest logit.

    Raises:
        UserError: a package is missing, torch cannot export the network, or the graph computes other logits.
    """
    try:
        import onnxruntime  # noqa: F401 - looked for before minutes are spent
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install onnx onnxscript onnxruntime") from None
    model, stride = FullSizeLogits(network).eval(), smallest_side(network)
    example = torch.randn(2, 3, 4 * stride + stride // 2, 5 * stride + stride // 3)
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    try:
        with torch.no_grad():
            model(example)  # before minutes are spent on one that reads images of one size
        program = torch.onnx.export(
            model, (example,), dynamo=True, verbose=False, input_names=["pixel_values"], output_names=["logits"],
            dynamic_shapes={"pixel_values": dynamic},
        )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        kind, reason = network.config.model_type, first_words(error.__cause__ or error)
        raise UserError(f"torch cannot export {kind} with dynamic sizes ({reason})") from error
    program.model.metadata_props["s4former"] = json.dumps(metadata)
    # beside its place until it was compared; weights of more than 2 GiB are written into a second file, which it names
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.absolute().parent) as folder:
        program.save(Path(folder) / path.name)
        difference = largest_difference(model, Path(folder) / path.name, stride)
        for file in Path(folder).iterdir():
            file.replace(path.with_name(file.name))
    return difference


def first_words(error: BaseException) -> str:
    return textwrap.shorten(str(error), 160, placeholder=" ...")


@torch.no_grad()
def largest_difference(model: nn.Module, path: Path, stride: int) -> float:
    """The largest relative difference between torch and onnxruntime over batches and sizes, multiples of the stride and not."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, RuntimeException

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for shape in (
        (1, 3, 3 * stride, 2 * stride),
        (3, 3, 2 * stride + 3, 4 * stride - 5),
        (1, 3, stride - 3, 6 * stride + 1),
    ):
        pixels, size = torch.randn(shape, generator=torch.Generator().manual_seed(0)), "{}x{}".format(*shape[2:])
        expected = model(pixels).numpy()
        try:
            output = session.run(None, {"pixel_values": pixels.numpy()})[0]
        except (Fail, InvalidArgument, InvalidGraph, RuntimeException) as error:
            raise UserError(f"onnxruntime cannot read images of {size} with it: {first_words(error)}") from error
        same_shape = output.shape == expected.shape
        difference = float(np.abs(output - expected).max() / np.abs(expected).max()) if same_shape else float("inf")
        if not difference <= TOLERANCE:
            raise UserError(
                f"the exported graph differs from torch by {difference:.1e} of the largest logit for images of {size};"
                " no file is left"
            )
        differences.append(difference)
    return max(differences)
