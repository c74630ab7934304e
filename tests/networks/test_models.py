"""Networks from a config: their weights, their adapters, their way to disk and back."""

import argparse
import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from exported import runs_alone
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AttentionInterface,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    pipeline,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from s4former.config import Model
from s4former.errors import ConfigError
from s4former.networks import adapters, encoder_weights
from s4former.networks import build as networks
from s4former.networks.build import build_network, load_network, save_network
from s4former.networks.encoder_weights import (
    ENCODER_CLASSES,
    IMAGENET,
    IMAGENET_INCEPTION,
    KNOWN_ENCODERS,
    describe_normalization,
    normalization,
)
from s4former.networks.timm_weights import read_file

TRAINED = Path(os.environ.get("S4FORMER_TRAINED_VIT", "none"))
SHAPES = Path(KNOWN_ENCODERS["shapes"][0])
NAMES = {0: "sky", 1: "sea", 2: "sand", 3: "ship", 4: "sun"}
SMALL_VIT = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 1, "intermediate_size": 128}
SMALL_MIT = {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}


def random_model(architecture="setr", **changes):
    encoder, small = ("deit-tiny", SMALL_VIT) if architecture == "setr" else ("mit-b0", SMALL_MIT)
    options = {"encoder": encoder, "pretrained": False, "encoder_config": small, "decoder_channels": 16, **changes}
    return Model(architecture=architecture, **options)


def build(model, crop=(32, 48)):
    torch.manual_seed(0)
    return build_network(model, id2label=NAMES, crop=crop)


def images(height=32, width=48, **kwargs):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1), **kwargs)


both = pytest.mark.parametrize("architecture", ["setr", "segformer"])


# ---- adapters


@both
def test_decode_of_encode_is_the_stock_forward(architecture):
    network, x = build(random_model(architecture)).eval(), images()
    features = adapters.encode(network, x)
    assert torch.equal(adapters.decode(network, features), network(pixel_values=x).logits)


@pytest.mark.parametrize(
    ("architecture", "grids", "attention", "stride", "prefix"),
    [
        ("setr", [(4, 6)], [((4, 6), (4, 6))], 16, 1),
        (
            "segformer",
            [(16, 24), (8, 12), (4, 6), (2, 3)],
            [((16, 24), (2, 3)), ((8, 12), (2, 3)), ((4, 6), (2, 3)), ((2, 3), (2, 3))],
            32,
            0,
        ),
    ],
)
def test_grids_are_those_of_the_features_and_of_the_attention_layers(architecture, grids, attention, stride, prefix):
    network, x = build(random_model(architecture)), images(64, 96)
    assert adapters.token_grids(network, 64, 96) == grids
    assert adapters.attention_grids(network, 64, 96) == attention
    assert adapters.coarsest_stride(network) == stride
    assert adapters.prefix_tokens(network) == prefix
    seen = []

    def spy(module, query, key, value, attention_mask=None, **kwargs):
        seen.append((query.shape[-2] - prefix, key.shape[-2] - prefix))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("grid_spy", spy)
    network.set_attn_implementation("grid_spy")
    features = adapters.encode(network, x)
    assert [tuple(f.shape[-2:]) for f in features][-len(grids) :] == grids
    assert sorted(set(seen)) == sorted({(h * w, i * j) for (h, w), (i, j) in attention})


def test_a_segformer_is_decoded_by_level_to_the_same_logits_and_gradients():
    network = build(random_model("segformer")).double().train()
    network.decode_head.dropout.p = 0.0
    features = [maps.detach().requires_grad_() for maps in adapters.encode(network, images(64, 96).double())]
    leaves = [*features, *(p for name, p in network.decode_head.named_parameters() if not name.endswith("proj.bias"))]

    def run(decode):
        logits = decode(features)
        return logits, *torch.autograd.grad(logits, leaves, torch.linspace(-1, 1, logits.numel()).view_as(logits).double())

    ours = run(lambda maps: adapters.decode_by_level(network.decode_head, maps))
    torch.testing.assert_close(ours, run(network.decode_head))  # a bias before a batch norm has a gradient of 0 and noise


def test_a_segformer_is_decoded_by_level_under_autocast_alone(monkeypatch):
    network, called = build(random_model("segformer")), []
    features = adapters.encode(network, images())
    monkeypatch.setattr(adapters, "decode_by_level", lambda head, maps: called.append(len(maps)))
    assert adapters.decode(network, features).shape == (2, len(NAMES), 8, 12) and not called
    with torch.autocast("cpu", torch.bfloat16):
        adapters.decode(network, features)
    assert called == [4]


def test_grids_of_odd_sizes_are_those_of_the_features():
    network = build(random_model("segformer"))
    assert adapters.token_grids(network, 37, 51) == [tuple(f.shape[-2:]) for f in adapters.encode(network, images(37, 51))]


@both
def test_a_keyword_reaches_the_attention_of_every_block(architecture):
    network = build(random_model(architecture))
    notes = []

    def spy(module, query, key, value, attention_mask=None, *, note=None, **kwargs):
        notes.append(note)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("note_spy", spy)
    network.set_attn_implementation("note_spy")
    adapters.encode(network, images(), note="here")
    assert notes == ["here"] * (3 if architecture == "setr" else 4)


@both
def test_encoder_parameters_are_all_but_those_of_the_decoder(architecture):
    network = build(random_model(architecture))
    encoder = {id(parameter) for parameter in adapters.encoder_of(network).parameters()}
    rest = {name.split(".")[0] for name, parameter in network.named_parameters() if id(parameter) not in encoder}
    assert rest == {"head" if architecture == "setr" else "decode_head"}


@both
def test_logits_at_have_the_size_of_any_image(architecture):
    network = build(random_model(architecture)).eval()
    logits = adapters.full_size_logits(network, images(37, 51))
    assert logits.shape == (2, 5, 37, 51) and logits.dtype == torch.float32


@both
def test_logits_of_an_image_smaller_than_a_token_have_its_size(architecture):
    assert adapters.full_size_logits(build(random_model(architecture)).eval(), images(9, 20)).shape[-2:] == (9, 20)


@both
def test_every_parameter_gets_a_gradient(architecture):
    network = build(random_model(architecture))
    network(pixel_values=images()).logits.square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.fixture
def one_thread():
    """Float64 depth-wise convolutions are thousands of tiny parallel regions, slow where others use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@both
@pytest.mark.usefixtures("one_thread")
def test_activation_checkpointing_gives_equal_gradients(architecture):
    def gradients(checkpointing):
        steady = {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0, "mlp_ratios": [1, 1, 1, 1]}
        options = SMALL_VIT if architecture == "setr" else {**SMALL_MIT, **steady}
        model = random_model(architecture, activation_checkpointing=checkpointing, encoder_config=options)
        network = build(model).double().train()
        calls = []
        block = network.vit.layers[0] if architecture == "setr" else network.segformer.stages[0].blocks[0]
        block.layernorm_before.register_forward_hook(lambda *_: calls.append(1))
        adapters.decode(network, adapters.encode(network, images(dtype=torch.double))).square().sum().backward()
        return len(calls), {name: parameter.grad for name, parameter in network.named_parameters()}

    calls, plain = gradients(False)
    calls_again, checkpointed = gradients(True)
    assert (calls, calls_again) == (1, 2)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=0, atol=1e-12)


# ---- building


@pytest.mark.parametrize(
    ("size", "total", "encoder"),
    [
        ("mit-b0", 3.72, 3.32),
        ("mit-b1", 13.68, 13.15),
        ("mit-b2", 27.36, 24.20),
        ("mit-b3", 47.24, 44.07),
        ("mit-b4", 64.01, 60.84),
        ("mit-b5", 84.61, 81.44),
    ],
)
def test_segformer_sizes_have_the_known_numbers_of_parameters(size, total, encoder):
    with torch.device("meta"):
        network = build_network(
            Model(architecture="segformer", encoder=size, pretrained=False),
            id2label={index: str(index) for index in range(21)},
            crop=(512, 512),
        )
    assert round(network.num_parameters() / 1e6, 2) == total
    assert round(sum(p.numel() for p in adapters.encoder_of(network).parameters()) / 1e6, 2) == encoder


@pytest.mark.parametrize(
    ("size", "width", "depth", "blocks"),
    [("deit-tiny", 192, 12, (4, 7, 9, 11)), ("vit-large", 1024, 24, (9, 14, 19, 23))],
)
def test_vit_sizes_have_the_known_numbers_of_parameters(size, width, depth, blocks):
    with torch.device("meta"):
        network = build_network(Model(encoder=size, pretrained=False), id2label=NAMES, crop=(512, 768))
    tokens = 2 + 32 * 48  # the class token, and a position for it and for every patch
    expected = depth * (12 * width**2 + 13 * width) + (3 * 16 * 16 + 1) * width + tokens * width
    assert sum(p.numel() for p in adapters.encoder_of(network).parameters()) == expected
    assert network.config.grid == (32, 48) and network.config.out_indices == blocks
    assert network.vit.layers[0].layernorm_before.eps == 1e-6


def test_the_fed_blocks_follow_the_depth():
    assert networks.setr_out_indices(12) == (4, 7, 9, 11)
    assert networks.setr_out_indices(6) == (1, 3, 4, 5)
    assert [networks.setr_out_indices(depth)[-1] for depth in (1, 2, 4, 24, 40)] == [0, 1, 3, 23, 39]


def test_blocks_above_the_main_head_are_not_built():
    network = build(random_model(out_indices=(0, 1)))
    assert len(network.vit.layers) == network.config.backbone_config.num_hidden_layers == 2


def test_class_names_are_in_the_config():
    for architecture in ("setr", "segformer"):
        config = build(random_model(architecture)).config
        assert config.id2label == NAMES and config.label2id["ship"] == 3 and config.num_labels == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder_config": {"hiden_size": 3}},
            r"unknown key model.encoder_config.hiden_size; did you mean model.encoder_config.hidden_size\?",
        ),
        ({"encoder_config": {"image_size": 3}}, "model.encoder_config.image_size is set by s4former itself; leave it"),
        ({"encoder_config": {"hidden_size": "wide"}}, "model.encoder_config.hidden_size is 'wide'"),
        ({"out_indices": (5,)}, r"model.out_indices is \[5\]; write rising block numbers from 0 to 2"),
        ({"decoder_stages": 5}, "model.decoder_stages is 5; patches of 16 px allow at most 4"),
        (
            {"encoder": "mit-b0", "encoder_config": {}},
            "model.encoder = 'mit-b0' is of type 'segformer', and model.architecture = 'setr'.*deit-tiny",
        ),
        ({"encoder": "nobody/nothing"}, "model.encoder = 'nobody/nothing' could not be read.*without network model.encoder=shapes, .*; or one of .*vit-large with model.pretrained=false"),
        ({"encoder": "nobody/nothing", "pretrained": True}, "model.encoder = 'nobody/nothing' could not be read"),
        ({"pretrained": True, "encoder_config": {}}, "model.encoder = 'deit-tiny' could not be read"),
        ({"encoder": "shape"}, r"'shape' is no known encoder, .*; did you mean shapes\?"),
        ({"encoder": "missing.pth"}, "model.encoder = 'missing.pth': there is no such file"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(random_model(**changes))


def test_a_crop_of_half_patches_is_refused():
    with pytest.raises(ConfigError, match=r"data.crop is \[40, 48\]; model.encoder = .* needs multiples of 16"):
        build(random_model(), crop=(40, 48))


# ---- weights in the format of transformers


def vit_folder(folder, dtype=torch.float32, kind=ViTModel):
    torch.manual_seed(3)
    network = kind(ViTConfig(**SMALL_VIT, image_size=[32, 64], layer_norm_eps=1e-6)).to(dtype)
    network.save_pretrained(folder)
    return network


@pytest.mark.parametrize("kind", [ViTModel, ViTForImageClassification])
def test_a_vit_folder_gives_the_encoder_and_its_positions_are_resized(kind, tmp_path):
    original = vit_folder(tmp_path, kind=kind)
    original = getattr(original, "vit", original).eval()
    network = build(Model(encoder=str(tmp_path)), crop=(32, 64)).eval()
    x = images(32, 64)
    states = original(x, output_hidden_states=True).hidden_states
    feature = adapters.encode(network, x)[-1]
    torch.testing.assert_close(feature.flatten(2).transpose(1, 2), states[-1][:, 1:])
    other = build(Model(encoder=str(tmp_path)), crop=(64, 48))
    stored = original.embeddings.position_embeddings[0, 1:].T.reshape(1, 64, 2, 4)
    expected = F.interpolate(stored, size=(4, 3), mode="bilinear", align_corners=False)
    torch.testing.assert_close(other.vit.embeddings.position_embeddings[0, 1:].T.reshape(1, 64, 4, 3), expected)
    assert other.config.grid == (4, 3)


def test_float16_weights_become_float32(tmp_path):
    vit_folder(tmp_path, dtype=torch.float16)
    network = build(Model(encoder=str(tmp_path)))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_overrides_apply_to_a_folder_and_those_that_do_not_fit_its_weights_are_refused(tmp_path):
    vit_folder(tmp_path)
    network = build(Model(encoder=str(tmp_path), encoder_config={"hidden_dropout_prob": 0.25}))
    assert network.vit.layers[0].dropout.p == 0.25
    with pytest.raises(ConfigError, match="unexpected: .*layers.2"):
        build(Model(encoder=str(tmp_path), encoder_config={"num_hidden_layers": 2}))
    with pytest.raises(ConfigError, match="missing: .*layers.3"):
        build(Model(encoder=str(tmp_path), encoder_config={"num_hidden_layers": 4}))
    with pytest.raises(ConfigError, match=r"of another shape: .*fc1.bias \(128,\) instead of \(96,\)"):
        build(Model(encoder=str(tmp_path), encoder_config={"intermediate_size": 96}))


@pytest.mark.parametrize("kind", [SegformerForImageClassification, SegformerForSemanticSegmentation])
def test_a_segformer_folder_gives_the_encoder_under_a_new_decoder(kind, tmp_path, caplog):
    torch.manual_seed(3)
    original = kind(SegformerConfig(**SMALL_MIT, num_labels=7)).eval()
    original.save_pretrained(tmp_path)
    with caplog.at_level("INFO", logger="s4former"):
        network = build(Model(architecture="segformer", encoder=str(tmp_path))).eval()
    states = original.segformer(images(), output_hidden_states=True).hidden_states
    for ours, theirs in zip(adapters.encode(network, images()), states, strict=True):
        assert torch.equal(ours, theirs)
    assert network(images()).logits.shape == (2, 5, 8, 12)
    assert "not used" in caplog.text and ("classifier" in caplog.text or "decode_head" in caplog.text)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="could not be read"):
        build(Model(encoder=str(tmp_path)))


@pytest.mark.skipif(not (SHAPES / "config.json").is_file(), reason="the weights of the shapes encoder are not there")
@pytest.mark.parametrize("pretrained", [True, False])
def test_the_encoder_that_comes_along_builds(pretrained):
    network = build(Model(encoder="shapes", pretrained=pretrained), crop=(32, 48)).eval()
    assert adapters.coarsest_stride(network) == 8
    assert adapters.full_size_logits(network, images()).shape == (2, 5, 32, 48)


# ---- weights in timm's format


def timm_vit():
    torch.manual_seed(4)
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=3, num_classes=6).eval()


def hidden_of_timm(network, x):
    return network.forward_intermediates(x, indices=[2], intermediates_only=True)[0]


@pytest.mark.parametrize("file", ["vit.pth", "vit.safetensors", "deit.pth"])
def test_a_timm_file_gives_the_hidden_states_of_timm(file, tmp_path):
    original = timm_vit()
    state = original.state_dict()
    path = tmp_path / file
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state} if "deit" in file else state, path)
    network = build(Model(encoder=str(path)), crop=(224, 224)).eval()
    x = images(224, 224)
    with torch.no_grad():
        torch.testing.assert_close(adapters.encode(network, x)[-1], hidden_of_timm(original, x), rtol=1e-4, atol=1e-4)
    assert normalization(Model(encoder=str(path))) == (IMAGENET if "deit" in file else IMAGENET_INCEPTION)


def test_a_repository_of_timm_on_the_hub_is_its_weights_file_with_the_colours_of_its_config(tmp_path, monkeypatch):
    original, asked = timm_vit(), []
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    settings = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(encoder_weights, "hf_hub_download", lambda source, name: asked.append((source, name)) or str(tmp_path / name))
    model = Model(encoder="timm/vit_tiny_patch16_224.augreg_in21k")
    network = build(model, crop=(224, 224)).eval()
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(adapters.encode(network, x)[-1], hidden_of_timm(original, x), rtol=1e-4, atol=1e-4)
    assert normalization(model) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert {source for source, _ in asked} == {model.encoder}
    with pytest.raises(ConfigError, match="is described by its weights, and model.pretrained = false wants none; use one of deit-tiny"):
        build(Model(encoder=model.encoder, pretrained=False), crop=(224, 224))


def test_a_headless_float16_timm_file_loads_as_float32(tmp_path):
    original = timm_vit()
    state = original.state_dict().items()
    half = {name: tensor.half() for name, tensor in state if not name.startswith(("head.", "norm."))}
    torch.save(half, tmp_path / "vit.pth")
    network = build(Model(encoder=str(tmp_path / "vit.pth")), crop=(32, 48))
    assert torch.equal(network.vit.layers[1].attention.k_proj.weight, half["blocks.1.attn.qkv.weight"][192:384].float())
    assert network.config.backbone_config.num_attention_heads == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("blocks.1.attn.proj.bias"), "1 missing: blocks.1.attn.proj.bias"),
        (lambda s: s.pop("cls_token"), "1 missing: cls_token"),
        (lambda s: s.update({"blocks.0.ls1.gamma": torch.ones(192)}), "1 unexpected: blocks.0.ls1.gamma"),
        (
            lambda s: s.update({"blocks.2.attn.qkv.weight": torch.ones(576, 64)}),
            r"1 of another shape: blocks.2.attn.qkv.weight \(576, 64\) instead of \(576, 192\)",
        ),
        (lambda s: s.update({"pos_embed": torch.ones(1, 196, 192)}), "pos_embed: 1 \\+ a square number"),
    ],
)
def test_a_timm_file_that_does_not_fit_names_the_tensor(spoil, message, tmp_path):
    state = timm_vit().state_dict()
    spoil(state)
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(ConfigError, match=message):
        build(Model(encoder=str(tmp_path / "vit.pth")))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"teacher": {**{f"backbone.{name}": t for name, t in s.items()}, "head.mlp.0.weight": torch.ones(2)}, "epoch": 3},
        lambda s: {f"module.{name}": t for name, t in s.items()},
        lambda s: {"state_dict": {f"module.encoder.{name}": t for name, t in s.items()}, "optimizer": {"state": {}}},
    ],
)
def test_nested_and_prefixed_weights_are_unwrapped(wrap, tmp_path):
    state = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1, num_classes=0).state_dict()
    torch.save(wrap(state), tmp_path / "vit.pth")
    read, of_deit = read_file(str(tmp_path / "vit.pth"))
    assert not of_deit and all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_weights_that_are_ambiguous_or_named_otherwise_say_what_was_found(tmp_path):
    state, path = {"cls_token": torch.ones(1)}, tmp_path / "vit.pth"
    for content, message in (
        ({"student": state, "teacher": state, "epoch": 3}, "holds no plain dict of tensors but student, teacher, epoch; save"),
        ({"args": argparse.Namespace(lr=1), "model": state}, r"as tensors alone \(it holds argparse.Namespace\); save"),
        ({**state, "visual.proj": torch.ones(1)}, "3 missing: .*; 1 unexpected: visual.proj; give"),
    ):
        torch.save(content, path)
        with pytest.raises(ConfigError, match=message):
            build(Model(encoder=str(path)))


def test_a_file_that_holds_more_than_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3, "state": timm_vit().state_dict()}, tmp_path / "run.pth")
    with pytest.raises(ConfigError, match="holds no plain dict of tensors"):
        build(Model(encoder=str(tmp_path / "run.pth")))
    torch.save(timm_vit(), tmp_path / "object.pth")
    with pytest.raises(ConfigError, match="cannot be read as tensors alone"):
        build(Model(encoder=str(tmp_path / "object.pth")))


@pytest.mark.skipif(not TRAINED.is_dir(), reason="S4FORMER_TRAINED_VIT names no folder of a trained ViT-Tiny")
def test_trained_weights_still_classify_photographs():
    """The loader's encoder under the file's own norm and head must name what is on 17 photographs."""
    file = "vit_tiny_patch16_224.pth"
    model = Model(encoder=str(TRAINED / file))
    network = build(model, crop=(224, 224)).eval()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in normalization(model))
    tensors = torch.load(TRAINED / file, weights_only=True)
    expected = json.loads((TRAINED / "check_images" / "expected.json").read_text())

    def pixels(name):
        picture = Image.open(TRAINED / "check_images" / name).convert("RGB")
        scale = 248 / min(picture.size)
        picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        picture = picture.crop((left, top, left + 224, top + 224))
        return (torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - mean) / std

    with torch.no_grad():
        batch = torch.stack([pixels(entry["file"]) for entry in expected])
        token = network.vit(batch).last_hidden_state[:, 0]
        token = F.layer_norm(token, (192,), tensors["norm.weight"], tensors["norm.bias"], eps=1e-6)
        found = F.linear(token, tensors["head.weight"], tensors["head.bias"]).argmax(dim=1)
    assert found.tolist() == [entry["class_id"] for entry in expected]


# ---- normalization


def test_normalization_follows_the_weights(tmp_path):
    vit_folder(tmp_path)
    model = Model(encoder=str(tmp_path))
    assert normalization(model) == IMAGENET and "those of ImageNet" in describe_normalization(model)[0]
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}}))
    assert normalization(model) == ((0.5,) * 3, (0.25,) * 3) and describe_normalization(model) == []
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert normalization(model) == ((0.1, 0.2, 0.3), (1, 1, 1))
    torch.save(timm_vit().state_dict(), tmp_path / "vit.pth")
    assert normalization(Model(encoder=str(tmp_path / "vit.pth"))) == ((0.1, 0.2, 0.3), (1, 1, 1))


def test_the_normalization_of_a_weights_file_is_described_and_timm_config_beside_it_is_read(tmp_path):
    model = Model(encoder=str(tmp_path / "vit.pth"))
    torch.save(timm_vit().state_dict(), model.encoder)
    (line,) = describe_normalization(model)
    assert "mean [0.5, 0.5, 0.5] and deviation [0.5, 0.5, 0.5]: as for timm's AugReg ViTs" in line
    assert f"write them as image_mean and image_std into {tmp_path / 'preprocessor_config.json'}" in line
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}}))
    assert normalization(model) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3)) and "from config.json" in describe_normalization(model)[0]
    assert describe_normalization(random_model()) == []


def test_random_weights_are_normalized_as_imagenet_without_a_look_at_the_hub():
    assert normalization(random_model()) == IMAGENET
    with pytest.raises(ConfigError, match="model.encoder = 'deit-tiny' could not be read"):
        normalization(Model(encoder="deit-tiny"))


# ---- saving and loading


@both
def test_a_saved_network_loads_to_equal_logits(architecture, tmp_path):
    network = build(random_model(architecture)).eval()
    save_network(network, tmp_path, *IMAGENET_INCEPTION, short_side=32)
    again = load_network(tmp_path)
    assert type(again) is type(network) and not again.training
    assert torch.equal(again(images(37, 51)).logits, network(images(37, 51)).logits)
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.5] * 3 and processor["size"] == {"shortest_edge": 32}
    assert processor["do_reduce_labels"] is False


@both
@pytest.mark.parametrize("short_side", [32, 0])
def test_the_stock_pipeline_reads_a_saved_folder(architecture, short_side, tmp_path):
    network = build(random_model(architecture)).eval()
    save_network(network, tmp_path, *IMAGENET, short_side=short_side)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 51, 3), dtype=np.uint8))
    results = pipeline("image-segmentation", model=str(tmp_path))(picture)
    assert {result["label"] for result in results} <= set(NAMES.values())
    assert sum(np.array(result["mask"]).astype(bool) for result in results).min() == 1  # every pixel, once
    assert all(result["mask"].size == (51, 37) for result in results)


@pytest.mark.slow
def test_a_saved_setr_works_where_this_package_is_missing(tmp_path):
    assert runs_alone(build(random_model()).eval(), tmp_path)


def test_what_is_no_segmentation_network_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded as a segmentation network"):
        load_network(tmp_path / "missing")
    (tmp_path / "run" / "student").mkdir(parents=True)
    with pytest.raises(ConfigError, match="give a model of that run, .*run/student, or the Hub id"):
        load_network(tmp_path / "run")
    vit_folder(tmp_path / "vit")
    with pytest.raises(ConfigError, match="cannot be loaded as a segmentation network"):
        load_network(tmp_path / "vit")
    SegformerForImageClassification(SegformerConfig(**SMALL_MIT)).save_pretrained(tmp_path / "mit")
    with pytest.raises(ConfigError, match="no complete segmentation network: .*decode_head"):
        load_network(tmp_path / "mit")


def test_every_architecture_of_the_config_has_its_rows():
    choices = {field.name: field for field in dataclasses.fields(Model)}["architecture"].type.__args__
    assert set(choices) == set(ENCODER_CLASSES) == set(adapters.ADAPTERS)


@pytest.mark.parametrize(
    "model, blocks",
    [
        (random_model(encoder_config=SMALL_VIT), 3),
        (random_model("segformer", encoder="mit-b0", encoder_config={**SMALL_MIT, "depths": [1, 2, 1, 1]}), 5),
        (Model(architecture="dpt", encoder="dinov2-small", pretrained=False), 12),
        (Model(architecture="upernet", encoder="dinov2-reg-small", pretrained=False), 12),
        (Model(architecture="dpt", encoder="dinov3-small", pretrained=False), 12),
        (Model(architecture="deeplabv3plus", encoder="resnet50", pretrained=False), 16),
    ],
    ids=lambda value: value.architecture if isinstance(value, Model) else "",
)
def test_every_parameter_of_an_encoder_has_the_number_of_its_block(model, blocks):
    with torch.device("meta"):
        network = build_network(model, id2label=NAMES, crop=(112, 224) if "dinov2" in model.encoder else (64, 128))
    depths = adapters.encoder_depths(network)
    assert [id(p) for p, _ in depths] == [id(p) for p in adapters.encoder_of(network).parameters()]
    assert {depth for _, depth in depths} == set(range(blocks + 1))
    assert [depth for _, depth in depths] == sorted(depth for _, depth in depths), "in the order of the forward pass"


TRAINED_PARTS = {  # patterns, and the names of SMALL_VIT's first block that they leave in training
    "attention": ((r"attention|position",), {"attention"}),
    "biases": ((r"\.bias$",), {"attention", "layernorm_before", "layernorm_after", "mlp"}),
    "one block": ((r"^layers\.2\.",), set()),
}


@pytest.mark.parametrize("patterns, parts", TRAINED_PARTS.values(), ids=TRAINED_PARTS)
def test_of_the_encoder_only_what_the_patterns_name_is_trained(patterns, parts):
    network = build(random_model(encoder_config=SMALL_VIT))
    adapters.freeze_encoder(network, 0, patterns)
    trained = {name for name, parameter in network.vit.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in trained if name.startswith("layers.0.")} == parts
    assert trained == {name for name, _ in network.vit.named_parameters() if re.search(patterns[0], name)}
    assert all(parameter.requires_grad for parameter in network.head.parameters())
    network(images()).logits.sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in network.parameters())


def test_what_is_trained_gets_the_gradient_it_has_when_all_is_trained_and_blocks_stay_frozen():
    gradients = []
    for patterns in ((), ("attention",)):
        network = build(random_model(encoder_config=SMALL_VIT)).eval()
        adapters.freeze_encoder(network, 1, patterns)
        network(images()).logits.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None})
    everything, attention = gradients
    assert {name.split(".")[1:4:2][0] for name in attention if name.startswith("vit.")} == {"layers"}
    assert not [name for name in attention if name.startswith(("vit.layers.0", "vit.embeddings"))]
    assert 0 < len(attention) < len(everything) and all(torch.equal(grad, everything[name]) for name, grad in attention.items())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_graph_is_built_below_the_first_trained_parameter(checkpointing):
    network = build(random_model(encoder_config=SMALL_VIT, activation_checkpointing=checkpointing)).train()
    adapters.freeze_encoder(network, 0, (r"layers\.2\.mlp",))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        states = network.run_encoder(images()).hidden_states
    assert [state.requires_grad for state in states] == [False, False, False, True]
    assert kept and len(kept) <= 12  # of one block's second half, not of its attention
    adapters.freeze_encoder(network, -1)
    assert not any(feature.requires_grad for feature in network.encode(images()))


def test_patterns_that_name_nothing_are_refused():
    network = build(random_model(encoder_config=SMALL_VIT))
    with pytest.raises(ConfigError, match="model.train_only has 'attn', which is found in no name; parameters of this encoder are embeddings"):
        adapters.freeze_encoder(network, 0, ("attention", "attn"))
    with pytest.raises(ConfigError, match=r"model.train_only has '\*bias', which is no regular expression \(nothing to repeat"):
        adapters.freeze_encoder(network, 0, ("*bias",))
    with pytest.raises(ConfigError, match=r"model.train_only is \['bias'\]; the statistics of .* batch norms would go on changing: write \[\]"):
        adapters.freeze_encoder(build(Model(architecture="deeplabv3plus", encoder="resnet50", pretrained=False)), 0, ("bias",))


def test_frozen_blocks_and_what_is_before_them_are_out_of_training():
    network = build(random_model(encoder_config=SMALL_VIT))
    adapters.freeze_encoder(network, 0)
    assert all(parameter.requires_grad for parameter in network.parameters())
    adapters.freeze_encoder(network, 2)
    trained = {name for name, parameter in network.vit.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("layers.2.") for name in trained)
    network(images()).logits.sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in network.parameters())
    adapters.freeze_encoder(network, -1)
    assert not any(parameter.requires_grad for parameter in network.vit.parameters())
    with pytest.raises(ConfigError, match="model.freeze is 4; this encoder has 3 blocks, and -1 freezes all of it"):
        adapters.freeze_encoder(network, 4)
    with pytest.raises(ConfigError, match="an encoder with batch norms would go on changing: write 0"):
        adapters.freeze_encoder(build(Model(architecture="deeplabv3plus", encoder="resnet50", pretrained=False)), -1)
