"""ONNX files: onnxruntime computes the logits of torch, at sizes that the export did not trace."""

import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig, DPTConfig, DPTForSemanticSegmentation, SegformerConfig, SegformerForSemanticSegmentation, ViTConfig

from s4former.commands import onnx_export
from s4former.commands.onnx import main
from s4former.networks.adapters import full_size_logits
from s4former.networks.build import save_network
from s4former.networks.dpt import DinoDptConfig, DinoDptForSemanticSegmentation
from s4former.networks.setr import SetrConfig, SetrForSemanticSegmentation

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -r requirements.txt")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # inside torch's exporter


def setr():
    encoder = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, patch_size=16)
    return SetrForSemanticSegmentation(SetrConfig(encoder, grid=(2, 3), decoder_channels=8, decoder_stages=2, num_labels=5))


def segformer():
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8}
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=5, **sizes))


def dpt_with_registers():
    """Its stored grid, 4x4, is smaller and larger than those of the images, which are resized with antialiasing."""
    shape = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    config = DinoDptConfig(AutoConfig.for_model("dinov2_with_registers", **shape), decoder_channels=8, num_labels=5, head_version=2)
    return DinoDptForSemanticSegmentation(config)


@pytest.fixture(scope="module", params=[setr, segformer, pytest.param(dpt_with_registers, marks=pytest.mark.slow)])
def exported(request, tmp_path_factory):
    """(network, ONNX file) of an exported folder; logits spread out, so that a difference would show."""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    network = request.param().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_network(network, folder / "model", (0.5, 0.4, 0.3), (0.5,) * 3, 0)
    assert main([str(folder / "model"), str(folder / "model.onnx")]) == 0
    return network, folder / "model.onnx"


@pytest.mark.parametrize("batch, height, width", [(1, 32, 48), (2, 64, 96), (3, 50, 61), (1, 17, 130), (1, 9, 40)])
def test_onnxruntime_gives_the_logits_of_torch_at_any_size(exported, batch, height, width):
    network, path = exported
    pixels = torch.randn(batch, 3, height, width)
    with torch.no_grad():
        expected = full_size_logits(network, pixels).numpy()
    (output,) = onnxruntime.InferenceSession(str(path)).run(None, {"pixel_values": pixels.numpy()})
    assert output.shape == expected.shape == (batch, 5, height, width)
    np.testing.assert_allclose(output, expected, atol=1e-4 * np.abs(expected).max())


def test_there_is_one_file_with_classes_and_constants(exported):
    _, path = exported
    assert [each.name for each in path.parent.iterdir() if "onnx" in each.name] == ["model.onnx"]
    facts = json.loads(onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map["s4former"])
    assert facts["long_side"] == 2048
    assert facts["mean"] == [0.5, 0.4, 0.3] and len(facts["classes"]) == 5


class ChangedByExport(torch.nn.Module):
    """A network that computes something else once it is exported."""

    def forward(self, pixel_values):
        return pixel_values + 1 if torch.compiler.is_exporting() else pixel_values


def test_a_graph_that_differs_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "FullSizeLogits", lambda network: network)
    monkeypatch.setattr(onnx_export, "smallest_side", lambda network: 16)
    with pytest.raises(
        onnx_export.UserError, match="the exported graph differs from torch by .* for images of 48x32; no file is left"
    ):
        onnx_export.export_onnx(ChangedByExport(), tmp_path / "model.onnx", {})
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_one_size_is_refused_before_it_is_exported(tmp_path):
    sizes = {"image_size": 64, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    config = DPTConfig(**sizes, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8)
    with pytest.raises(onnx_export.UserError, match=r"torch cannot export dpt with dynamic sizes \(shape '\[2, 9, 9, 16\]'"):
        onnx_export.export_onnx(DPTForSemanticSegmentation(config), tmp_path / "model.onnx", {})


def test_missing_packages_and_models_are_reported(tmp_path, monkeypatch, capsys):
    assert main([str(tmp_path / "none"), str(tmp_path / "model.onnx")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(onnx_export.UserError, match="onnxruntime is not installed; pip install onnx onnxscript onnxruntime"):
        onnx_export.export_onnx(segformer(), tmp_path / "model.onnx", {})


@pytest.mark.slow
def test_torch_exports_a_dinov2_with_registers_with_free_sizes():
    """Without guards: those of the traced example (an image that is no multiple of the patch) say nothing about others."""
    torch.manual_seed(0)
    model = onnx_export.FullSizeLogits(dpt_with_registers()).eval()
    free = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    program = torch.export.export(model, (torch.randn(2, 3, 79, 90),), dynamic_shapes={"pixel_values": free})
    exported = program.module(check_guards=False)
    for size in ((1, 3, 30, 41), (3, 3, 70, 101)):
        pixels = torch.randn(size)
        with torch.no_grad():
            expected = model(pixels)
            assert (exported(pixels) - expected).abs().max() <= 1e-4 * expected.abs().max()
