"""DINOv2, DINOv2 with registers and DINOv3 under DPT; and what the method asks of them there and under UperNet."""

import json
import math

import pytest
import tiny_networks
import torch
import torch.nn.functional as F
from exported import runs_alone
from tiny_dino import CLASSES, CONFIGS, PREFIX, SHAPE, SMALL, build, encoders, images, model_of, needs_keywords, tiny
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoBackbone,
    AutoModelForSemanticSegmentation,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
)
from transformers.masking_utils import sdpa_mask

from s4former.config import Method, Model, from_dict, load
from s4former.errors import ConfigError
from s4former.method.checks import check_network, shuffle_grid
from s4former.method.pasa import ATTENTION, attention_bias, pasa_attention
from s4former.method.patch_shuffle import inverse, patch_shuffle
from s4former.method.step import total_loss, train_step
from s4former.method.student import Student, View
from s4former.networks import adapters
from s4former.networks.build import build_network, load_network, save_network
from s4former.networks.dpt import DinoDptConfig, DinoDptForSemanticSegmentation, default_out_indices
from s4former.networks.encoder_weights import IMAGENET
from s4former.training.engine import Teacher, build_optimizer

architectures = pytest.mark.parametrize("architecture", ["dpt", "upernet"])


def blocks_of(network):
    encoder = adapters.encoder_of(network)
    return (encoder.model if hasattr(encoder, "model") else encoder.encoder).layer


# ---- DPT alone


@encoders
def test_forward_is_encode_then_decode(encoder):
    network, x = tiny(encoder=encoder), images()
    features = network.encode(x)
    assert [tuple(f.shape) for f in features] == [(2, 32, 2, 3)] * 4
    assert torch.equal(network.decode(features), network(x).logits)
    assert network(x).logits.shape == (2, CLASSES, 28, 42)


@encoders
def test_features_are_those_of_the_stock_backbone_after_its_norm(encoder):
    network, x = tiny(encoder=encoder), images(42, 56)
    backbone = AutoBackbone.from_config(network.config.backbone_config).eval()
    backbone.load_state_dict(network.encoder.state_dict())
    assert len(network.encode(x)) == 4
    for ours, stock in zip(network.encode(x), backbone(x).feature_maps, strict=True):
        torch.testing.assert_close(ours, stock)


@pytest.mark.parametrize("size", [(28, 42), (29, 41), (9, 20), (50, 33)])
def test_logits_have_the_size_of_any_image(size):
    assert tiny()(images(*size)).logits.shape == (2, CLASSES, *size)
    half = first_version()(images(*size)).logits
    assert half.shape == (2, CLASSES, math.ceil(size[0] / 2), math.ceil(size[1] / 2))
    assert adapters.full_size_logits(tiny(), images(*size)).shape == (2, CLASSES, *size)


def test_padding_is_cut_off_not_squeezed_in():
    network, x = tiny(), images(29, 41)
    padded = network(F.pad(x, (0, 1, 0, 13))).logits
    assert torch.equal(network(x).logits, padded[..., :29, :41])


def first_version():
    """A network with the head as it was before it became UniMatch V2's."""
    options = tiny().config.to_dict() | {"head_version": 1}
    return DinoDptForSemanticSegmentation(DinoDptConfig.from_dict(options)).eval()


def test_the_first_version_has_logits_whole_pixels_apart():
    scales = {14: 7, 16: 4, 8: 4, 12: 4, 13: 13}  # cells per patch: 2, 4, 2, 3 and 1 px
    for patch, scale in scales.items():
        options = {"backbone_config": Dinov2Config(hidden_size=32, num_attention_heads=2, patch_size=patch)}
        config = DinoDptConfig(**options)
        assert config.scale == scale and patch % scale == 0
        assert DinoDptConfig(**options, head_version=2).scale == patch


def test_a_folder_that_names_no_version_keeps_the_head_it_was_trained_with(tmp_path):
    network, x = first_version(), images(29, 41)
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["head_version"]  # as those before it
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = load_network(tmp_path)
    assert again.config.head_version == 1 and torch.equal(again(x).logits, network(x).logits)
    newer = DinoDptForSemanticSegmentation(DinoDptConfig.from_dict({**config, "head_version": 2})).eval()
    newer.load_state_dict(network.state_dict())  # the same tensors, another function
    assert not torch.allclose(F.interpolate(again(x).logits, size=(29, 41), mode="bilinear"), newer(x).logits)


def test_the_head_is_that_of_unimatch_v2():
    """Level by level as its paper's code computes it: 1x1 convolutions after every x2, corners aligned, float64."""
    network = tiny().double()
    head, features = network.head, network.encode(images(28, 56, dtype=torch.float64))
    double = lambda maps: F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)  # noqa: E731
    residual = lambda unit, maps: maps + unit.second(F.relu(unit.first(F.relu(maps))))  # noqa: E731
    one, two, three, four = (level(maps) for level, maps in zip(head.reassemble, features, strict=True))
    maps = residual(head.fusions[3].joint, four)
    maps = head.fusions[3].projection(F.interpolate(maps, size=three.shape[-2:], mode="bilinear", align_corners=True))
    for fusion, level in ((head.fusions[2], three), (head.fusions[1], two), (head.fusions[0], one)):
        maps = fusion.projection(double(residual(fusion.joint, maps + residual(fusion.level, level))))
    logits = head.classifier(F.relu(head.last(maps)))
    assert logits.shape[-2:] == (2 * 8, 4 * 8)  # eight cells per patch and side
    expected = F.interpolate(logits, size=(28, 56), mode="bilinear", align_corners=True)
    torch.testing.assert_close(network.decode(features), expected, rtol=0, atol=1e-12)


def test_the_levels_over_a_large_encoder_are_as_wide_as_in_unimatch_v2():
    for size, widths in (("dinov2-base", [96, 192, 384, 768]), ("dinov2-large", [256, 512, 1024, 1024])):
        with torch.device("meta"):
            network = build_network(Model(architecture="dpt", encoder=size, pretrained=False), id2label={0: "a", 1: "b"}, crop=(28, 28))
        assert [level[0].out_channels for level in network.head.reassemble] == widths


def test_the_four_levels_have_four_two_one_and_half_a_cell_per_patch():
    network = tiny()
    levels = [level(f).shape[1:] for level, f in zip(network.head.reassemble, network.encode(images(42, 70)))]
    assert levels == [(16, 12, 20), (16, 6, 10), (16, 3, 5), (16, 2, 3)]
    assert [level[0].out_channels for level in network.head.reassemble] == [4, 8, 16, 32]


def test_first_cross_entropy_is_close_to_the_logarithm_of_the_classes():
    torch.manual_seed(0)
    network = DinoDptForSemanticSegmentation(DinoDptConfig(Dinov2Config(**SMALL["dinov2-small"]), num_labels=21)).train()
    labels = torch.randint(0, 21, (2, 29, 41), generator=torch.Generator().manual_seed(2))
    labels[:, :4] = 255
    output = network(images(29, 41), labels=labels)
    assert output.loss.item() == pytest.approx(math.log(21), abs=0.05)


def test_outputs_are_given_as_asked_for():
    network, x = tiny(), images()
    assert network(x).hidden_states is None
    assert len(network(x, output_hidden_states=True).hidden_states) == 5
    (logits,) = network(x, return_dict=False)
    assert torch.equal(logits, network(x).logits)


def test_config_survives_its_json():
    config = tiny(encoder="dinov2-reg-small").config
    again = DinoDptConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict() and tuple(again.out_indices) == (0, 1, 2, 3)
    assert again.prefix_tokens == 5 and again.backbone_config.num_hidden_layers == 4
    assert DinoDptConfig().out_indices == (2, 5, 8, 11)


def test_the_fed_blocks_are_at_quarters_of_the_depth():
    assert [default_out_indices(depth) for depth in (4, 12, 24)] == [(0, 1, 2, 3), (2, 5, 8, 11), (4, 11, 17, 23)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_indices": (0, 2, 3)}, r"model.out_indices is \[0, 2, 3\]; write four rising block numbers from 0 to 3"),
        ({"out_indices": (0, 1, 2, 5)}, r"model.out_indices is \[0, 1, 2, 5\]; write rising block numbers from 0 to 4"),
        ({"encoder": "mit-b0", "encoder_config": {}}, "is of type 'segformer', .*'dpt' is built over 'vit' or 'dinov2' or .*dinov2-small"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(Model(**{**vars(model_of()), **changes}))


def test_other_encoders_and_half_patches_are_refused():
    with pytest.raises(ValueError, match="backbone_config is of type 'segformer'; use one of dinov2, dinov2_with_registers"):
        DinoDptConfig({"model_type": "segformer"})
    with pytest.raises(ValueError, match="image of 29x41; pad both sides to multiples of 14, as forward does"):
        tiny().encode(images(29, 41))
    with pytest.raises(ConfigError, match=r"data.crop is \[30, 42\]; model.encoder = 'dinov2-small' needs multiples of 14"):
        build(model_of(), crop=(30, 42))


# ---- encoders and their weights


@pytest.mark.parametrize(
    ("size", "millions"),
    [("dinov2-small", 22.06), ("dinov2-base", 86.58), ("dinov2-large", 304.37), ("dinov2-reg-base", 86.58),
     ("dinov3-small", 21.60), ("dinov3-base", 85.66), ("dinov3-large", 303.13)],
)  # fmt: skip
def test_sizes_have_the_known_numbers_of_parameters(size, millions):
    with torch.device("meta"):
        network = build_network(Model(architecture="dpt", encoder=size, pretrained=False), id2label={0: "a", 1: "b"}, crop=(112, 224))
    assert sum(p.numel() for p in adapters.encoder_of(network).parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert network.config.backbone_config.patch_size == (16 if "v3" in size else 14)


@architectures
@pytest.mark.parametrize("kind", [Dinov2Config, Dinov2WithRegistersConfig, DINOv3ViTConfig])
def test_a_folder_gives_its_weights(architecture, kind, tmp_path):
    from transformers import AutoModel

    torch.manual_seed(3)
    shape = {**SHAPE, **({"intermediate_size": 64} if kind is DINOv3ViTConfig else {"mlp_ratio": 2})}
    original = AutoModel.from_config(kind(**shape)).half()
    original.save_pretrained(tmp_path)
    network = build(Model(architecture=architecture, encoder=str(tmp_path), decoder_channels=16, out_indices=(0, 1, 2, 3)))
    encoder = adapters.encoder_of(network).state_dict()
    assert encoder and all(torch.equal(tensor, original.state_dict()[name].float()) for name, tensor in encoder.items())
    assert not any(".4." in name for name in encoder)  # the block after the last that is read


def test_weights_without_the_last_norm_are_refused(tmp_path):
    original = Dinov2Model(Dinov2Config(**SMALL["dinov2-small"]))
    state = {name: tensor for name, tensor in original.state_dict().items() if not name.startswith("layernorm")}
    original.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ConfigError, match="2 missing: layernorm.bias, layernorm.weight"):
        build(Model(architecture="dpt", encoder=str(tmp_path)))


def test_a_gated_encoder_says_how_it_is_reached():
    with pytest.raises(ConfigError, match="could not be read .*accept its licence .*hf auth login.*dinov3-small"):
        build(Model(architecture="dpt", encoder="dinov3-base"), crop=(32, 48))


@architectures
def test_dinov3_does_not_stretch_its_positions_in_training(architecture):
    network, x = tiny(architecture, "dinov3-small").train(), images()
    assert network.config.backbone_config.pos_embed_rescale is None
    assert torch.equal(adapters.encode(network, x)[-1], adapters.encode(network, x)[-1])
    stretched = tiny(architecture, "dinov3-small", encoder_config={**SMALL["dinov3-small"], "pos_embed_rescale": 2.0}).train()
    assert not torch.equal(adapters.encode(stretched, x)[-1], adapters.encode(stretched, x)[-1])


# ---- what the method asks of a network


@architectures
@encoders
def test_a_bias_reaches_every_block_and_steers_it_as_an_unsure_query_of_sure_prefix_tokens(architecture, encoder):
    needs_keywords(encoder)
    network = tiny(architecture, encoder)
    assert adapters.prefix_tokens(network) == PREFIX[encoder]
    assert adapters.attention_grids(network, 28, 42) == [((2, 3), (2, 3))]
    calls = []

    def spy(module, query, key, value, attention_mask=None, *, pasa=None, **kwargs):
        calls.append((query.shape[-2], key.shape[-2]) if pasa is not None else None)
        return pasa_attention(module, query, key, value, attention_mask, pasa=pasa, **kwargs)

    AttentionInterface.register("dino_spy", spy)
    AttentionMaskInterface.register("dino_spy", sdpa_mask)
    student = Student(network, Method())
    network.base_model.set_attn_implementation("dino_spy")
    tokens = PREFIX[encoder] + 6
    student([View(images()), View(images(), confidence=torch.rand(2, 14, 21))])
    assert calls == [None] * 4 + [(tokens, tokens)] * 4
    bias = student.attention_arguments(View(images(), confidence=torch.rand(2, 14, 21)))["pasa"]
    row, column = bias[tokens, tokens].factors
    prefix = PREFIX[encoder]
    assert row.shape == column.shape == (2, tokens)
    assert (row[:, :prefix] == 1).all() and (column[:, :prefix] == 0).all()  # class token and registers (method C.4)
    assert row[:, prefix:].sum() == 2 * 3 and (column[:, prefix:] > 0).all()


@architectures
@encoders
def test_a_bias_of_zero_changes_nothing_and_another_does(architecture, encoder):
    needs_keywords(encoder)
    network, x = tiny(architecture, encoder).double(), images(dtype=torch.float64)
    plain = adapters.encode(network, x)
    network.base_model.set_attn_implementation(ATTENTION)
    confidence = torch.linspace(0.1, 0.9, 12, dtype=torch.float64).reshape(2, 2, 3)
    for alpha in (0.0, 20.0):
        bias = attention_bias(confidence, adapters.attention_grids(network, 28, 42), PREFIX[encoder], "main", alpha)
        steered = adapters.encode(network, x, pasa=bias)
        for before, after in zip(plain, steered, strict=True):
            assert torch.allclose(before, after, rtol=0, atol=1e-12) == (alpha == 0)


@architectures
@encoders
def test_shuffled_blocks_are_restored_on_every_feature_map(architecture, encoder):
    network = tiny(architecture, encoder).double()
    for block in blocks_of(network):  # without attention, and without positions, a token is a function of its own patch
        torch.nn.init.zeros_(block.layer_scale1.lambda1)
    embeddings = adapters.encoder_of(network).embeddings
    if hasattr(embeddings, "position_embeddings"):
        torch.nn.init.zeros_(embeddings.position_embeddings)
    x = images(28, 56, dtype=torch.float64)
    order = torch.tensor([[[1, 0]], [[0, 1]]])
    moved = adapters.encode(network, patch_shuffle(x, order))
    for feature, original in zip(moved, adapters.encode(network, x), strict=True):
        assert not torch.allclose(feature[0], original[0])
        assert torch.allclose(patch_shuffle(feature, inverse(order)), original, rtol=0, atol=1e-12)
    student = Student(network, Method(pasa="none")).double().eval()
    ((restored, _),) = student([View(patch_shuffle(x, order), order=order)])
    assert torch.allclose(restored, student([View(x)])[0][0], rtol=0, atol=1e-10)


@architectures
@encoders
def test_a_whole_step_gives_every_parameter_that_is_trained_a_gradient(architecture, encoder, monkeypatch):
    monkeypatch.setitem(tiny_networks.SIZES, architecture, (model_of(architecture, encoder), (28, 56)))
    network, batch = tiny_networks.network_of(architecture), tiny_networks.batch_of(architecture)
    student, method = Student(network, tiny_networks.method_of()).double(), tiny_networks.method_of()
    total_loss(train_step(student, Teacher(network), batch, method), method).backward()
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []
    frozen = [name.split(".")[-1] for name, _ in student.named_parameters() if name not in trained]
    assert frozen == ([] if architecture == "dpt" else ["mask_token"])  # of the pre-training


@architectures
def test_the_encoder_has_the_small_rate_and_the_head_the_large_one(architecture):
    student = Student(tiny(architecture), Method())
    groups = build_optimizer(student, from_dict({"optimizer": {"lr": 0.1}}).optimizer).param_groups
    slow = {id(p) for group in groups if group["base"] == 0.1 for p in group["params"]}
    assert slow == {id(p) for p in adapters.encoder_of(student.network).parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in student.parameters())


def test_views_share_the_encoder_pass():
    assert not any(isinstance(module, _BatchNorm) for module in tiny().modules())  # nor has the head of DPT any
    for architecture in ("dpt", "upernet"):
        assert Student(tiny(architecture), Method()).shares_encoder


@architectures
def test_activation_checkpointing_runs_every_block_twice(architecture):
    network = tiny(architecture, activation_checkpointing=True).train()
    calls = []
    blocks_of(network)[0].norm1.register_forward_hook(lambda *_: calls.append(1))
    adapters.decode(network, adapters.encode(network, images())).sum().backward()
    assert len(calls) == 2


def test_blocks_are_counted_in_tokens_of_fourteen_pixels():
    config = from_dict({"data": {"crop": [504, 504]}, "method": {"block": 9}, "model": {"architecture": "dpt"}})
    assert shuffle_grid(config, tiny()) == (4, 4)
    config = from_dict({"data": {"crop": [560, 504]}, "method": {"block": 4}, "model": {"architecture": "dpt"}})
    assert shuffle_grid(config, tiny()) == (10, 9)
    with pytest.raises(ConfigError, match=r"method.block = 8 tokens are 112 pixels, which does not divide data.crop = \[504, 504\]"):
        check_network(from_dict({"data": {"crop": [504, 504]}, "model": {"architecture": "dpt"}}), tiny())


def test_the_config_for_voc_fits_its_network():
    config = load([CONFIGS / "voc_92.json", CONFIGS / "networks" / "dinov2_base.json"], ["model.pretrained=false"])
    with torch.device("meta"):
        network = build_network(config.model, id2label=dict(enumerate("abcde")), crop=config.data.crop)
    assert network.config.scale == 14 and network.config.out_indices == (2, 5, 8, 11)
    assert shuffle_grid(config, network) == (4, 4) and config.schedule.floor < config.optimizer.lr


# ---- saving and loading


@encoders
def test_a_saved_folder_loads_to_equal_logits(encoder, tmp_path):
    network, x = tiny(encoder=encoder), images(29, 41)
    save_network(network, tmp_path, *IMAGENET, short_side=28)
    assert {path.name for path in tmp_path.glob("*.py")} == {"dpt.py", "plain_vit.py"}
    for again in (load_network(tmp_path), AutoModelForSemanticSegmentation.from_pretrained(tmp_path)):
        assert type(again) is type(network) and torch.equal(again(x).logits, network(x).logits)
        assert not [name for name, _ in again.named_parameters() if "mask_token" in name]


@pytest.mark.slow
def test_a_saved_network_works_where_this_package_is_missing(tmp_path):
    assert runs_alone(tiny(encoder="dinov2-reg-small"), tmp_path)
