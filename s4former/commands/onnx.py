"""A trained network as one ONNX file, for images of any size, and the proof that it says what the network says.

    s4former onnx runs/demo model.onnx [--best] [--model student]

    import json, onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    facts = json.loads(session.get_modelmeta().custom_metadata_map["s4former"])   # classes, mean, std, short_side
    logits = session.run(None, {"pixel_values": pixels})[0]                       # (B, K, H, W) of (B, 3, H, W)

`pixel_values` are RGB in 0..1 less mean, over std, as the image processor beside the weights gives them. The file is only
kept if onnxruntime comes to the same logits as torch at sizes it was not traced with.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from ..config import from_dict
from ..errors import ConfigError, describe_error
from ..evaluation.model_choice import ROLES, CheckpointError, choose_model, read_mean_std
from ..networks.adapters import coarsest_stride, full_size_logits
from ..networks.build import load_network

TOLERANCE = 1e-3  # of logits, relative to the largest
LARGE = 1.9e9  # bytes; beyond it weights go into a file beside, since protobuf ends at 2 GiB


class OnnxError(RuntimeError):
    """A network that cannot be exported; the message says why, and what to do instead."""


class WholeImage(nn.Module):
    """Logits at the size of the image, whatever the size."""

    def __init__(self, network: PreTrainedModel):
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        return full_size_logits(self.network, pixel_values)


def to_onnx(network: PreTrainedModel, path: Path, facts: dict[str, Any]) -> float:
    """Writes the file, compares, and returns the largest difference of a logit relative to the largest logit.

    Raises:
        OnnxError: a package is missing, torch cannot export the network, or the graph says something else.
    """
    try:
        import onnxruntime  # noqa: F401 - looked for before minutes are spent
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise OnnxError(f"{error.name} is not installed; pip install onnx onnxscript onnxruntime") from None
    model, stride = WholeImage(network).eval(), coarsest_stride(network)
    example = torch.randn(2, 3, 4 * stride + stride // 2, 5 * stride + stride // 3)
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    beside = path.with_name(f".writing-{path.name}")
    large = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values()) > LARGE
    try:
        program = torch.onnx.export(
            model, (example,), dynamo=True, verbose=False, input_names=["pixel_values"], output_names=["logits"],
            dynamic_shapes={"pixel_values": dynamic},
        )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise OnnxError(f"torch cannot export {network.config.model_type} with sizes left open ({reason})") from error
    program.model.metadata_props["s4former"] = json.dumps(facts)
    program.save(path if large else beside, external_data=large)
    written = path if large else beside
    try:
        difference = compare(model, written, stride)
    except OnnxError:
        written.unlink()
        raise
    written.replace(path)
    return difference


@torch.no_grad()
def compare(model: nn.Module, path: Path, stride: int) -> float:
    """The largest relative difference between torch and onnxruntime over batches and sizes, whole tokens and not."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, RuntimeException

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch, height, width in (
        (1, 3 * stride, 2 * stride),
        (3, 2 * stride + 3, 4 * stride - 5),
        (1, stride - 3, 6 * stride + 1),
    ):
        pixels = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        wanted = model(pixels).numpy()
        try:
            found = session.run(None, {"pixel_values": pixels.numpy()})[0]
        except (Fail, InvalidArgument, InvalidGraph, RuntimeException) as error:
            raise OnnxError(
                f"onnxruntime cannot read images of {height}x{width} with it: {str(error).splitlines()[0]}"
            ) from error
        difference = float(np.abs(found - wanted).max() / np.abs(wanted).max()) if found.shape == wanted.shape else float("inf")
        worst = max(worst, difference)
        if not difference <= TOLERANCE:
            raise OnnxError(
                f"the exported graph differs from torch by {difference:.1e} of the largest logit for images of"
                f" {height}x{width}; no file is left"
            )
    return worst


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="s4former onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="a run, a model in it, or a Hub id")
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument("--model", choices=ROLES, help="of a run; default: the teacher where there is one")
    parser.add_argument(
        "--best", action="store_true", help="the best of the run, chosen on the evaluation images, not the last"
    )
    options = parser.parse_args(arguments)
    disable_progress_bar()  # of transformers, one for the tensors it loads
    try:
        choice = choose_model(options.checkpoint, options.model, options.best)
        network = load_network(choice.source)
        mean, std = read_mean_std(choice.source)
        facts = {
            "classes": [network.config.id2label[i] for i in range(network.config.num_labels)],
            "mean": list(mean), "std": list(std),
            "short_side": from_dict(choice.config).evaluation.short_side, "model": choice.description,
        }  # fmt: skip
        difference = to_onnx(network, Path(options.file), facts)
    except (CheckpointError, ConfigError, OnnxError, OSError) as error:
        print(f"s4former onnx: {describe_error(error)}", file=sys.stderr)
        return 1
    size = Path(options.file).stat().st_size / 2**20
    print(
        f"{choice.description}: {options.file}, {size:.0f} MiB; onnxruntime differs from torch by {difference:.0e} of the"
        " largest logit"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
