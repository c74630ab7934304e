"""Encoders that people have, from tiny random folders: the features of the library's own model, under DPT, SETR and UperNet."""

import json

import pytest
import timm
import tiny_networks
import torch
import torch.nn.functional as F
from exported import runs_alone
from test_dpt import CLASSES, build, images
from timm.models import save_for_hf
from transformers import (
    BeitConfig, BeitModel, CLIPConfig, CLIPModel, CLIPVisionModel, ConvNextBackbone, ConvNextConfig, ConvNextModel, DeiTConfig,
    DeiTModel, HieraConfig, HieraModel, SiglipConfig, SiglipModel, SiglipVisionModel, SwinBackbone, SwinConfig, SwinModel, ViTConfig, ViTMAEConfig,
    ViTMAEForPreTraining, ViTMAEModel, ViTModel,
)  # fmt: skip

from s4former.config import Method, Model
from s4former.errors import ConfigError
from s4former.method.checks import check_bias_has_effect, check_network
from s4former.method.patch_shuffle import inverse, patch_shuffle
from s4former.method.step import total_loss, train_step
from s4former.method.student import Student, View
from s4former.networks import adapters
from s4former.networks.build import load_network
from s4former.networks.encoder_weights import find_normalization
from s4former.training.engine import Teacher

SHAPE = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 48, "patch_size": 16}
TEXT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
EPSILON = {"layer_norm_eps": 1e-6}
TOWERS = {"vision_config": SHAPE, "text_config": TEXT}
RELATIVE = {"use_relative_position_bias": True, "use_mask_token": True, "layer_scale_init_value": 0.5}
SAVED = {  # what a folder holds, and the library's model whose hidden states are the features
    "vit": (lambda: ViTModel(ViTConfig(**SHAPE, **EPSILON)), ViTModel),
    "mae": (lambda: ViTMAEForPreTraining(ViTMAEConfig(**SHAPE, **EPSILON, decoder_hidden_size=32, decoder_num_hidden_layers=1,
                                                      decoder_num_attention_heads=1, decoder_intermediate_size=32)), ViTMAEModel),
    "deit": (lambda: DeiTModel(DeiTConfig(**SHAPE, **EPSILON)), DeiTModel),
    "beit": (lambda: BeitModel(BeitConfig(**SHAPE, **EPSILON, **RELATIVE)), BeitModel),
    "clip": (lambda: CLIPModel(CLIPConfig(**TOWERS)), CLIPVisionModel),
    "siglip": (lambda: SiglipModel(SiglipConfig(**TOWERS)), SiglipVisionModel),
}  # fmt: skip
PREFIX = {"deit": 2, "siglip": 0}
plain = pytest.mark.parametrize("kind", SAVED)


def saved(kind, folder, seed=3):
    """A folder with a random model in which no tensor is constant."""
    torch.manual_seed(seed)
    model = SAVED[kind][0]()
    for parameter in model.parameters():
        if parameter.numel() > 1 and not parameter.std() > 0:
            torch.nn.init.normal_(parameter, mean=1, std=0.2)
    model.save_pretrained(folder)
    return str(folder)


def library_features(kind, folder, x):
    """The states of every block (B, N, D) without prefix tokens, from the library's own model."""
    keywords = {"noise": torch.arange(x.shape[2] * x.shape[3] // 256).repeat(len(x), 1)} if kind == "mae" else {}
    options = {"mask_ratio": 0.0} if kind == "mae" else {}
    model = SAVED[kind][1].from_pretrained(folder, **options).eval()
    states = model(x, output_hidden_states=True, interpolate_pos_encoding=True, **keywords).hidden_states[1:]
    norm = {"deit": "layernorm", "vit": "layernorm", "mae": "layernorm", "siglip": "post_layernorm"}.get(kind)
    return [(getattr(model, norm)(state) if norm else state)[:, PREFIX.get(kind, 1) :] for state in states]


@plain
@pytest.mark.parametrize("size", [(48, 48), (32, 64)])
def test_dpt_reads_the_features_of_the_librarys_own_model(kind, size, tmp_path):
    folder, x = saved(kind, tmp_path), images(*size)
    network = build(Model(architecture="dpt", encoder=folder, decoder_channels=8), crop=(48, 48)).eval()
    expected = library_features(kind, folder, x)
    for ours, theirs in zip(network.encode(x), expected, strict=True):
        assert ours.std() > 0
        torch.testing.assert_close(ours.flatten(2).transpose(1, 2), theirs, rtol=1e-5, atol=1e-5)


def test_setr_reads_the_features_of_a_mae(tmp_path):
    folder, x = saved("mae", tmp_path), images(48, 48)
    network = build(Model(encoder=folder, decoder_channels=8, decoder_stages=2), crop=(48, 48)).eval()
    model = ViTMAEModel.from_pretrained(folder, mask_ratio=0.0).eval()
    states = model(x, noise=torch.arange(9).repeat(2, 1), output_hidden_states=True).hidden_states
    torch.testing.assert_close(network.encode(x)[-1].flatten(2).transpose(1, 2), states[-1][:, 1:], rtol=1e-5, atol=1e-5)


def step_with(network, method, monkeypatch, crop):
    """One step of a method over a network, which gives every trained parameter a gradient."""
    monkeypatch.setitem(tiny_networks.SIZES, "this", (None, crop))
    batch = tiny_networks.batch_of("this")
    network = network.double().train()
    student = Student(network, method).double()
    total_loss(train_step(student, Teacher(network), batch, method), method).backward()
    return {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}


@plain
def test_a_whole_step_with_pasa_gives_every_parameter_a_gradient(kind, tmp_path, monkeypatch):
    network = build(Model(architecture="dpt", encoder=saved(kind, tmp_path), decoder_channels=8), crop=(32, 64))
    check_bias_has_effect(network, tiny_networks.config_of(model={"architecture": "dpt"}, method={"pasa": "main"}))
    trained = step_with(network, tiny_networks.method_of(pasa=True), monkeypatch, (32, 64))
    missing = [name for name, p in trained.items() if p.grad is None]
    assert missing == [] and sum(p.grad.abs().sum() > 0 for p in trained.values()) > 0.9 * len(trained)
    assert adapters.prefix_tokens(network) == PREFIX.get(kind, 1)


def test_a_layers_own_mask_is_added_to_the_bias_of_pasa(tmp_path):
    network = build(Model(architecture="dpt", encoder=saved("beit", tmp_path), decoder_channels=8), crop=(48, 48)).double().eval()
    student, x = Student(network, Method()), images(48, 48, dtype=torch.float64)
    plain = network.encode(x)[-1]
    biases = student.attention_arguments(unsure_view(x))["pasa"]
    nothing = {key: type(bias)(mask=torch.zeros_like(bias.dense())) for key, bias in biases.items()}
    torch.testing.assert_close(network.encode(x, pasa=nothing)[-1], plain, rtol=0, atol=1e-12)
    assert not torch.allclose(network.encode(x, pasa=biases)[-1], plain)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_bias_of_pasa_reaches_the_attention_of_siglip_as_a_dense_mask_would(checkpointing, tmp_path):
    model = Model(architecture="dpt", encoder=saved("siglip", tmp_path), decoder_channels=8, activation_checkpointing=checkpointing)
    network, x = build(model, crop=(48, 48)).double(), images(48, 48, dtype=torch.float64)
    student = Student(network, Method())
    biases = student.attention_arguments(unsure_view(x))["pasa"]
    (mask,) = (bias.dense()[:, None].double() for bias in biases.values())
    biased = network.encode(x, pasa=biases)[-1]
    biased.sum().backward()
    gradient = network.encoder.encoder.layers[0].self_attn.q_proj.weight.grad.clone()
    network.zero_grad()
    masked = network.encoder.embeddings(x, interpolate_pos_encoding=True)
    for layer in network.encoder.encoder.layers:
        masked = layer(masked, attention_mask=mask)
    masked = network.encoder.post_layernorm(masked).transpose(1, 2).unflatten(2, (3, 3))
    masked.sum().backward()
    torch.testing.assert_close(biased, masked)
    torch.testing.assert_close(network.encoder.encoder.layers[0].self_attn.q_proj.weight.grad, gradient)
    assert not torch.allclose(network.encode(x)[-1], biased)
    assert all(layer.self_attn.pasa is None for layer in network.encoder.encoder.layers), "a pass leaves nothing behind"


def unsure_view(x):
    return View(x, confidence=torch.rand(len(x), 3, 3, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("kind", ["deit", "beit", "clip", "siglip"])
def test_a_saved_network_loads_again(kind, tmp_path):
    network = build(Model(architecture="dpt", encoder=saved(kind, tmp_path / "encoder"), decoder_channels=8), crop=(48, 48)).eval()
    network.save_pretrained(tmp_path / "network")
    x = images(40, 56)
    assert torch.equal(load_network(tmp_path / "network")(x).logits, network(x).logits)


@pytest.mark.slow
def test_a_saved_network_over_clip_works_where_this_package_is_missing(tmp_path):
    encoder = saved("clip", tmp_path / "encoder")
    assert runs_alone(build(Model(architecture="dpt", encoder=encoder, decoder_channels=8), crop=(48, 48)).eval(), tmp_path)


# ---- pyramids under UperNet

PYRAMIDS = {
    "swin": (SwinModel, SwinBackbone, SwinConfig(embed_dim=16, depths=[1, 2, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64)),
    "hiera": (HieraModel, None, HieraConfig(embed_dim=16, depths=[1, 2, 1, 1], num_heads=[1, 1, 2, 2], image_size=[64, 64])),
    "convnext": (ConvNextModel, ConvNextBackbone, ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1], image_size=64)),
}
pyramids = pytest.mark.parametrize("kind", PYRAMIDS)


def pyramid(kind, folder, **keys):
    torch.manual_seed(3)
    model = PYRAMIDS[kind][0](PYRAMIDS[kind][2])
    if kind == "hiera":
        torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(folder)
    return build(Model(architecture="upernet", encoder=str(folder), decoder_channels=8, **keys), crop=(64, 128))


def library_stages(kind, folder, x):
    """The maps of the four stages from the library's own backbone; of a Hiera, whose backbone is broken, from its model."""
    if kind != "hiera":
        return PYRAMIDS[kind][1].from_pretrained(folder, out_features=["stage1", "stage2", "stage3", "stage4"]).eval()(x).feature_maps
    stored = HieraModel.from_pretrained(folder)
    model = HieraModel(HieraConfig(**{**PYRAMIDS[kind][2].to_dict(), "image_size": list(x.shape[-2:])})).eval()
    positions = stored.embeddings.interpolate_pos_encoding(torch.zeros(1, 512, 16), stored.embeddings.position_embeddings, *x.shape[-2:])
    model.load_state_dict(stored.state_dict() | {"embeddings.position_embeddings": positions})
    states = model(x, output_hidden_states=True).reshaped_hidden_states[1:]
    return [F.layer_norm(state, state.shape[-1:]).permute(0, 3, 1, 2) + 0.02 for state in states]  # a norm begins with that bias


@pyramids
def test_upernet_reads_the_stages_of_the_librarys_own_model(kind, tmp_path):
    network, x = pyramid(kind, tmp_path).eval(), images(64, 128)
    features = network.encode(x)
    assert [tuple(f.shape[-2:]) for f in features] == [(16, 32), (8, 16), (4, 8), (2, 4)]
    for ours, theirs in zip(features, library_stages(kind, tmp_path, x), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(network.decode(features), network(x).logits) and network(images(50, 70)).logits.shape == (2, CLASSES, 50, 70)
    assert adapters.token_grids(network, 64, 128) == [(16, 32), (8, 16), (4, 8), (2, 4)] and adapters.coarsest_stride(network) == 32
    assert {depth for _, depth in adapters.encoder_depths(network)} == set(range(6))


@pyramids
def test_a_step_over_a_pyramid_shuffles_and_ranks_and_has_no_pasa(kind, tmp_path, monkeypatch):
    network = pyramid(kind, tmp_path)
    config = tiny_networks.config_of(data={"source": "shapes", "crop": [64, 128]}, model={"architecture": "upernet"}, method={"block": 1})
    with pytest.raises(ConfigError, match="'main' steers attention over the whole image, and this upernet has none; set method.pasa=none"):
        check_network(config, network)
    trained = step_with(network, tiny_networks.method_of(pasa=False), monkeypatch, (64, 128))
    assert trained and all(parameter.grad is not None for parameter in trained.values())
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == ({"backbone.swin.layernorm.weight", "backbone.swin.layernorm.bias"} if kind == "swin" else set())
    order = torch.tensor([[[1, 0]]])
    for feature in network.encode(images(64, 128, batch=1, dtype=torch.float64)):
        assert torch.equal(patch_shuffle(patch_shuffle(feature, order), inverse(order)), feature)


def test_stages_of_a_pyramid_are_not_chosen(tmp_path):
    with pytest.raises(ConfigError, match=r"model.out_indices is \[0, 1\]; UperNet reads the four stages of a swin: leave it out"):
        pyramid("swin", tmp_path, out_indices=(0, 1))


@pyramids
def test_a_saved_pyramid_loads_again(kind, tmp_path):
    network, x = pyramid(kind, tmp_path / "encoder").eval(), images(50, 70)
    network.save_pretrained(tmp_path / "network")
    torch.testing.assert_close(load_network(tmp_path / "network")(x).logits, network(x).logits)


# ---- folders of timm


@pytest.mark.parametrize("architecture", ["setr", "dpt"])
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_tiny_patch16_224"])
def test_a_folder_that_timm_saved_gives_its_features_and_its_own_mean(architecture, name, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name, depth=2, img_size=48, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}).eval()
    save_for_hf(model, tmp_path)
    settings = {"decoder_stages": 2} if architecture == "setr" else {"out_indices": (0, 1)}
    wanted = Model(architecture=architecture, encoder=str(tmp_path), decoder_channels=8, **settings)
    assert find_normalization(wanted) == (((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), "from config.json beside the weights")
    if architecture == "dpt":  # which reads four blocks
        with pytest.raises(ConfigError, match="write four rising block numbers"):
            build(wanted, crop=(48, 48))
        return
    network, x = build(wanted, crop=(48, 48)).eval(), images(48, 48)
    blocks = model.forward_intermediates(x, indices=[1], norm=False, intermediates_only=True)
    torch.testing.assert_close(network.encode(x)[-1], blocks[-1], rtol=1e-5, atol=1e-5)


def test_a_folder_with_a_broken_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="config.json is not valid JSON"):
        build(Model(architecture="dpt", encoder=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert find_normalization(Model(architecture="dpt", encoder=str(tmp_path)))[1] == "those of ImageNet"
