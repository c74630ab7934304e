"""SETR alone: shapes, identities, gradients, and what a saved folder holds."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, ViTConfig, ViTModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from s4former.benchmark.operations import OperationCounter
from s4former.networks.setr import SetrConfig, SetrForSemanticSegmentation, UpHead, resize_positions

CLASSES = 5


def vit_config(patch=8, depth=3, **changes):
    return ViTConfig(
        hidden_size=32,
        num_hidden_layers=depth,
        num_attention_heads=2,
        intermediate_size=64,
        patch_size=patch,
        layer_norm_eps=1e-6,
        **changes,
    )


def tiny(grid=(4, 6), classes=CLASSES, patch=8, **changes):
    torch.manual_seed(0)
    options = {"out_indices": (0, 2), "decoder_channels": 16, **changes}
    config = SetrConfig(vit_config(patch), grid=grid, num_labels=classes, **options)
    return SetrForSemanticSegmentation(config).eval()


def images(height=32, width=48, batch=2, **kwargs):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1), **kwargs)


def test_forward_is_encode_then_decode():
    network, x = tiny(), images()
    features = network.encode(x)
    assert [tuple(f.shape) for f in features] == [(2, 32, 4, 6)] * 2
    assert torch.equal(network.decode(features), network(x).logits)


def test_features_are_the_hidden_states_of_a_plain_vit_before_its_final_norm():
    network, x = tiny(), images()
    plain = ViTModel(network.config.backbone_config, add_pooling_layer=False).eval()
    missing, unexpected = plain.load_state_dict(network.vit.state_dict(), strict=False)
    assert sorted(missing) == ["layernorm.bias", "layernorm.weight"] and not unexpected
    states = {}
    for index in network.config.out_indices:
        plain.layers[index].register_forward_hook(lambda m, a, out, i=index: states.__setitem__(i, out))
    plain(x)
    for index, feature in zip(network.config.out_indices, network.encode(x)):
        assert torch.equal(feature, states[index][:, 1:].transpose(1, 2).reshape(2, 32, 4, 6))


def test_under_autocast_blocks_stay_in_bfloat16_but_not_in_float16():
    network, x = tiny(), images()
    exact, found = network.encode(x), {}
    for dtype in (torch.bfloat16, torch.float16):
        with torch.no_grad(), torch.autocast("cpu", dtype), OperationCounter() as counter:
            found[dtype] = network.encode(x)
        casts = [one for one in counter.operations if one.kind.startswith("cast") and "activation" in one.kind]
        assert len(casts) == 2 + (1 if dtype == torch.bfloat16 else 2 * 3)  # image and patches; their sum, or what every norm returns
        for own, feature in zip(found[dtype], exact):
            assert own.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
            assert (own - feature).norm() < (0.02 if dtype == torch.bfloat16 else 0.002) * feature.norm()


def test_position_embedding_is_resized_bilinearly_between_grids_that_are_not_square():
    positions = torch.randn(1, 1 + 2 * 3, 4)
    resized = resize_positions(positions, (2, 3), (4, 9))
    assert torch.equal(resized[:, 0], positions[:, 0])
    old = positions[0, 1:].reshape(2, 3, 4)
    new = resized[0, 1:].reshape(4, 9, 4)
    # cell (1, 4) of 4x9 lies at ((1.5 / 2) - 0.5, (4.5 / 3) - 0.5) = (0.25, 1) of 2x3
    torch.testing.assert_close(new[1, 4], 0.75 * old[0, 1] + 0.25 * old[1, 1])
    assert resize_positions(positions, (2, 3), (2, 3)) is positions


def test_a_network_stored_at_one_grid_reads_another():
    network, other = tiny(grid=(4, 6)), tiny(grid=(2, 5))
    state = network.state_dict()
    key = "vit.embeddings.position_embeddings"
    state[key] = resize_positions(state[key], (4, 6), (2, 5))
    other.load_state_dict(state)
    x = images(16, 40)
    torch.testing.assert_close(network(x).logits, other(x).logits)


def test_without_position_embedding_the_encoder_does_not_care_where_a_patch_lies():
    network = tiny().double()
    x = images().double()
    swapped = torch.cat([x[..., 24:], x[..., :24]], dim=-1)

    def restored():
        feature = network.encode(swapped)[-1]
        return torch.cat([feature[..., 3:], feature[..., :3]], dim=-1)

    with torch.no_grad():
        assert (restored() - network.encode(x)[-1]).abs().max() > 1e-3
        network.vit.embeddings.position_embeddings.zero_()
        assert (restored() - network.encode(x)[-1]).abs().max() < 1e-12


@pytest.mark.parametrize("size", [(32, 48), (29, 41), (8, 17), (50, 33)])
def test_logits_have_the_size_of_any_image(size):
    assert tiny()(images(*size)).logits.shape == (2, CLASSES, *size)


def test_padding_is_cut_off_not_squeezed_in():
    network, x = tiny(), images(29, 41)
    padded = network(F.pad(x, (0, 7, 0, 3))).logits
    assert torch.equal(network(x).logits, padded[..., :29, :41])


def test_fewer_stages_give_smaller_logits_rounded_up():
    network = tiny(decoder_stages=1)
    assert network(images(29, 41)).logits.shape == (2, CLASSES, math.ceil(29 / 4), math.ceil(41 / 4))


def test_the_head_classifies_before_its_last_upsampling_to_the_same_result():
    head = UpHead(32, 16, CLASSES, convolutions=2, scale=4).double().eval()
    x = torch.randn(3, 32, 4, 6, dtype=torch.double)
    maps = F.layer_norm(x.permute(0, 2, 3, 1), (32,), eps=1e-6).permute(0, 3, 1, 2)
    for convolution in head.convolutions:
        maps = F.interpolate(convolution(maps), scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(x), head.classifier(maps), rtol=0, atol=1e-12)
    assert head(x).shape == (3, CLASSES, 64, 96)


def test_the_head_starts_as_in_the_released_code():
    for head in (tiny(decoder_channels=64).head, UpHead(32, 64, CLASSES, convolutions=2, scale=4)):
        weight = head.convolutions[1][0].weight
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)  # fan_out
        assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.2)
        assert not head.classifier.bias.any() and head.convolutions[0][0].bias is None


def test_first_cross_entropy_is_close_to_the_logarithm_of_the_classes():
    network = tiny(classes=21).train()
    labels = torch.randint(0, 21, (2, 32, 48), generator=torch.Generator().manual_seed(2))
    labels[:, :4] = 255
    output = network(images(), labels=labels)
    assert output.loss.item() == pytest.approx(math.log(21), abs=0.05)
    expected = F.cross_entropy(output.logits, labels, ignore_index=255)
    torch.testing.assert_close(output.loss, expected)


def test_every_parameter_gets_a_gradient_from_the_main_head():
    network = tiny().train()
    network(images()).logits.square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_outputs_are_given_as_asked_for():
    network, x = tiny(), images()
    assert network(x).hidden_states is None
    assert len(network(x, output_hidden_states=True).hidden_states) == 4
    (logits,) = network(x, return_dict=False)
    assert torch.equal(logits, network(x).logits)


def test_encode_refuses_half_patches():
    with pytest.raises(ValueError, match="image of 29x41; pad both sides to multiples of 8, as forward does"):
        tiny().encode(images(29, 41))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_indices": (2, 1)}, r"out_indices is \[2, 1\]; write rising block numbers from 0 to 2"),
        ({"out_indices": (3,)}, r"out_indices is \[3\]"),
        ({"decoder_stages": 4}, "decoder_stages is 4; patches of 8 px allow at most 3"),
        ({"patch": 14}, "decoder_stages is 0, to full size, but 14 px is no power of 2; give 1 to 3"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


CALLS = []


def spying_attention(module, query, key, value, attention_mask=None, *, note=None, **kwargs):
    CALLS.append((module, note))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register("spying", spying_attention)
AttentionMaskInterface.register("spying", sdpa_mask)


@pytest.mark.parametrize("through", ["encode", "forward"])
def test_a_keyword_reaches_the_attention_of_every_block_and_is_not_saved(through, tmp_path):
    network = tiny()
    plain = network(images()).logits
    network.set_attn_implementation("spying")
    CALLS.clear()
    if through == "encode":
        network.encode(images(), note="here")
    else:
        assert torch.equal(network(images(), note="here").logits, plain)
    assert CALLS == [(layer.attention, "here") for layer in network.vit.layers]
    network.save_pretrained(tmp_path)
    assert "spying" not in (tmp_path / "config.json").read_text()


def test_config_survives_its_json():
    config = tiny(id2label=None).config
    again = SetrConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    assert again.grid == (4, 6) and tuple(again.backbone_config.image_size) == (32, 48)
    assert SetrConfig().backbone_config.layer_norm_eps == 1e-6


def test_a_saved_folder_loads_to_equal_logits(tmp_path):
    network, x = tiny(), images(29, 41)
    network.save_pretrained(tmp_path)
    again, report = SetrForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(again(x).logits, network(x).logits)
