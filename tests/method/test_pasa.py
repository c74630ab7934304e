import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import ViTConfig, ViTModel

from s4former.method import pasa
from s4former.method.pasa import (
    ATTENTION,
    VARIANTS,
    append_bias_channels,
    attention_bias,
    checked_sdpa,
    confident_half,
    pasa_attention,
    pasa_mask,
    pool_confidence,
)

CONFIDENCE = torch.tensor([[0.9, 0.2, 0.6, 0.8]])
ZERO = [0.0, 0.0, 0.0, 0.0]


def close(found, expected, tolerance=1e-5):
    assert torch.allclose(found.float(), torch.tensor(expected), atol=tolerance), found


def test_the_worked_example_of_every_variant():
    close(pasa_mask(CONFIDENCE, "main", 5)[0], [ZERO, [0.5, 4, 2, 1], [0.5, 4, 2, 1], ZERO])
    close(pasa_mask(CONFIDENCE, "reverse1", 5)[0], [[4.5, 1, 3, 4], ZERO, ZERO, [4.5, 1, 3, 4]])
    close(pasa_mask(CONFIDENCE, "reverse2", 5)[0], [ZERO, [4.5, 1, 3, 4], [4.5, 1, 3, 4], ZERO])
    product = pasa_mask(CONFIDENCE, "product", 50)[0]
    close(product, [[0.5, 4, 2, 1], [4, 32, 16, 8], [2, 16, 8, 4], [1, 8, 4, 2]])
    assert torch.equal(product, product.T)
    close(pasa_mask(CONFIDENCE, "all_rows", 5)[0], [[0.5, 4, 2, 1]] * 4)


def test_rand_is_scaled_noise_and_needs_it():
    noise = torch.rand(1, 4, 4)
    close(pasa_mask(CONFIDENCE, "rand", 5, noise), (5 * noise).tolist())
    with pytest.raises(ValueError, match="'rand' needs noise"):
        pasa_mask(CONFIDENCE, "rand", 5)
    with pytest.raises(ValueError, match="pasa variant is 'mian'; one of 'main', 'reverse1'"):
        pasa_mask(CONFIDENCE, "mian", 5)


def test_both_reverses_together_are_the_confidence_on_every_row():
    confidence = torch.rand(3, 11)
    both = pasa_mask(confidence, "reverse1", 5) + pasa_mask(confidence, "reverse2", 5)
    assert torch.allclose(both, 5 * confidence[:, None, :].expand(-1, 11, -1))


@pytest.mark.parametrize("patches", [4, 7, 12])
def test_exactly_half_of_the_rows_are_zero_and_the_others_equal(patches):
    confidence = torch.rand(2, patches)
    mask = pasa_mask(confidence, "main", 5)
    zero = (mask == 0).all(dim=2)
    assert zero.sum(dim=1).tolist() == [patches // 2] * 2
    for image in range(2):
        steered = mask[image][~zero[image]]
        assert torch.equal(steered, (5 * (1 - confidence[image])).expand_as(steered))


def test_ties_go_to_the_lower_index_and_never_empty_the_confident_half():
    assert confident_half(torch.tensor([[1, 1, 1, 0.5]]), torch.ones(1, 4).bool()).tolist() == [[True, True, False, False]]
    assert confident_half(torch.ones(1, 5), torch.ones(1, 5).bool()).sum() == 2


def test_the_half_is_taken_image_by_image():
    confidence = torch.rand(2, 9)
    other = confidence.clone()
    other[1] = torch.rand(9)
    assert torch.equal(pasa_mask(confidence, "main", 5)[0], pasa_mask(other, "main", 5)[0])


def test_full_confidence_biases_nothing():
    assert not pasa_mask(torch.ones(2, 6), "main", 5).any()


def test_pooling_is_the_mean_over_a_patch():
    checkerboard = (torch.arange(32)[:, None] + torch.arange(48)).remainder(2).float()[None]
    assert torch.equal(pool_confidence(checkerboard, (2, 3)), torch.full((1, 6), 0.5))
    assert torch.allclose(pool_confidence(torch.tensor([[[0.99, 0.96], [0.94, 0.5]]]), (1, 1)), torch.tensor([[0.8475]]))
    assert pool_confidence(torch.rand(2, 9, 10), (4, 3)).shape == (2, 12)  # not a whole number of cells per token


def attention(queries, bias=None):
    module = torch.nn.Module()
    module.is_causal = False
    states = queries[None, None]
    return pasa_attention(module, states, states, states, scaling=2**-0.5, pasa=bias)[0][0, :, 0]


def test_the_worked_attention_rows():
    states = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    bias = attention_bias(CONFIDENCE.reshape(1, 2, 2), [((2, 2), (2, 2))], 0, "main", 5)
    expected = torch.tensor([[0.334881, 0.165119, 0.334881, 0.165119], [0.012674, 0.851228, 0.115201, 0.020896],
                             [0.022718, 0.752320, 0.206493, 0.018468], [0.25] * 4])  # fmt: skip
    assert torch.allclose(attention(states, bias), expected @ states, atol=1e-5)


def test_a_class_token_is_an_unconfident_query_and_no_steered_key():
    bias = attention_bias(CONFIDENCE.reshape(1, 2, 2), [((2, 2), (2, 2))], 1, "main", 5)[5, 5]
    close(bias.dense()[0], [[0, 0.5, 4, 2, 1], [0.0] * 5, [0, 0.5, 4, 2, 1], [0, 0.5, 4, 2, 1], [0.0] * 5])
    assert torch.equal(bias.dense(), pasa_mask(CONFIDENCE, prefix=1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_factors_are_the_dense_mask(variant):
    confidence = torch.rand(2, 3, 4)
    bias = attention_bias(confidence, [((3, 4), (3, 4))], 0, variant, 5)[12, 12]
    assert torch.allclose(bias.dense(), pasa_mask(confidence.flatten(1), variant, 5))


def tiny_vit():
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
                       patch_size=8)  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False).double().eval()
    model.set_attn_implementation(ATTENTION)
    return model


def run(model, images, confidence=None, alpha=5.0, variant="main"):
    bias = None if confidence is None else attention_bias(confidence, [((4, 4), (4, 4))], 1, variant, alpha)
    return model(images, pasa=bias).last_hidden_state


def test_alpha_zero_is_plain_attention_and_another_alpha_is_not():
    model, images, confidence = tiny_vit(), torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.rand(2, 8, 8)
    plain = run(model, images)
    assert torch.allclose(run(model, images, confidence, alpha=0.0), plain, atol=1e-12)
    assert not torch.allclose(run(model, images, confidence), plain, atol=1e-3)


def test_patches_without_positions_move_with_their_confidence():
    model = tiny_vit()
    torch.nn.init.zeros_(model.embeddings.position_embeddings)
    images, confidence = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.rand(2, 4, 4)
    moved = run(model, images.roll(8, 3), confidence.roll(1, 2))
    expected = run(model, images, confidence)[:, 1:].reshape(2, 4, 4, -1).roll(1, 2).reshape(2, 16, -1)
    assert torch.allclose(moved[:, 1:], expected, atol=1e-7)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_right_under_activation_checkpointing(reentrant):
    images, confidence = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True), torch.rand(2, 4, 4)
    gradients = []
    for checkpointing in (False, True):
        model = tiny_vit().train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
        loss = (run(model, images, confidence) - run(model, images)).square().sum()  # both kinds under one backward
        loss.backward()
        gradients.append([parameter.grad for name, parameter in model.named_parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients))


def test_a_constant_along_the_keys_moves_attention_only_where_there_is_a_class_token():
    """All patches equally unsure: without a class token nothing changes, with one it loses weight to the patches."""
    states, module = torch.randn(1, 1, 5, 8, dtype=torch.float64), torch.nn.Module()
    module.is_causal = False

    def attend(prefix, confidence):
        bias = attention_bias(confidence, [((1, 5 - prefix), (1, 5 - prefix))], prefix, "all_rows", 5.0)
        return pasa_attention(module, states, states, states, scaling=0.3, pasa=bias)[0]

    plain = pasa_attention(module, states, states, states, scaling=0.3)[0]
    assert torch.allclose(attend(0, torch.full((1, 1, 5), 0.4)), plain, atol=1e-6)
    assert not torch.allclose(attend(1, torch.full((1, 1, 4), 0.4)), plain, atol=1e-3)


def test_the_fused_kernel_agrees_with_the_formula_written_out():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 12, 8, generator=generator) for _ in range(3))
    confidence, module = torch.rand(2, 3, 4, generator=generator), torch.nn.Module()
    module.is_causal = False
    bias = attention_bias(confidence, [((3, 4), (3, 4))], 0, "main", 5.0)
    fused = pasa_attention(module, query, key, value, scaling=0.3, pasa=bias)[0]
    weights = (0.3 * query @ key.mT + pasa_mask(confidence.flatten(1), "main", 5.0)[:, None]).softmax(dim=-1)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 3, 12))
    assert torch.allclose(fused, (weights @ value).transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("variant, alpha", [("main", 5.0), ("main", 100.0), ("reverse1", 50.0), ("product", 100.0)])
def test_in_half_precision_the_bias_loses_nothing_under_autocast(variant, alpha, channels, monkeypatch):
    monkeypatch.setattr(pasa, "takes_wider_mask", lambda device: not channels)
    module = torch.nn.Module()
    module.is_causal = False
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 64, 16, generator=generator).bfloat16() for _ in range(3))
    bias = attention_bias(torch.rand(1, 8, 8, generator=generator), [((8, 8), (8, 8))], 0, variant, alpha)
    exact, _ = pasa_attention(module, query.double(), key.double(), value.double(), scaling=0.25, pasa=bias)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = pasa_attention(module, query, key, value, scaling=0.25, pasa=bias)
    rounded = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias[64, 64].dense().bfloat16()[:, None], scale=0.25
    ).transpose(1, 2)
    error, error_of_rounding = ((x.double() - exact).abs().max() for x in (found, rounded))
    assert found.dtype == torch.bfloat16 and found.shape == (1, 64, 2, 16)
    assert error < 0.02 and (alpha < 50 or error < error_of_rounding / 4)


def test_noise_has_no_factors_and_goes_through_float32():
    module = torch.nn.Module()
    module.is_causal = False
    states = torch.randn(1, 2, 4, 8).bfloat16()
    bias = attention_bias(torch.rand(1, 2, 2), [((2, 2), (2, 2))], 0, "rand", 50.0, seeds=(0,))
    mask = bias[4, 4].mask
    assert mask.shape == (1, 4, 4) and 0 <= mask.min() and mask.max() < 50
    found, _ = pasa_attention(module, states, states, states, scaling=0.3, pasa=bias)
    exact, _ = pasa_attention(module, *(3 * [states.double()]), scaling=0.3, pasa=bias)
    assert torch.allclose(found.double(), exact, atol=1e-4)


@pytest.mark.parametrize("variant", [*VARIANTS, "rand"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_padding_is_no_part_of_an_image(variant, prefix):
    generator = torch.Generator().manual_seed(0)
    confidence, valid = torch.rand(2, 8, 8, generator=generator), torch.ones(2, 8, 8, dtype=torch.bool)
    valid[0, 5:], valid[1, :, 4:] = False, False  # 2x2 pixels a patch: 4 patches are padding of the first, 8 of the second

    def biases(confidence):
        found = attention_bias(confidence, [((4, 4), (4, 4))], prefix, variant, 5.0, valid, seeds=(3, 4))[prefix + 16, prefix + 16]
        return found.dense()[:, prefix:, prefix:]

    bias, real = biases(confidence), valid[:, ::2, ::2].flatten(1)
    assert torch.equal(bias, biases(torch.where(valid, confidence, torch.rand(2, 8, 8, generator=generator))))
    for image in range(2):
        inside = bias[image][real[image]][:, real[image]]
        assert bias[image].count_nonzero() == inside.count_nonzero() > 0
        if variant == "main":
            assert (inside == 0).all(dim=1).sum() == real[image].sum() // 2


def test_a_patch_at_the_border_of_the_image_has_the_mean_of_its_own_pixels():
    confidence, valid = torch.tensor([[[0.2, 0.4], [0.9, 0.9]]]), torch.tensor([[[True, True], [False, False]]])
    row, column = attention_bias(confidence, [((1, 1), (1, 1))], 0, "all_rows", 5.0, valid)[1, 1].factors
    close(column, [[5 * (1 - 0.3)]])


def test_noise_is_that_of_its_image_in_any_company():
    confidence, grids = torch.rand(3, 4, 4), [((2, 2), (2, 2))]
    together = attention_bias(confidence, grids, 1, "rand", 5.0, seeds=(7, 8, 9))[5, 5].mask
    alone = attention_bias(confidence[1:2], grids, 1, "rand", 5.0, seeds=(8,))[5, 5].mask
    assert torch.equal(together[1:2], alone) and not torch.equal(together[0], together[1])
    with pytest.raises(ValueError, match="'rand' needs a seed for each image"):
        attention_bias(confidence, grids, 1, "rand", 5.0)


def test_no_new_parameters_no_gradient_to_the_confidence_and_no_trace_in_a_saved_model(tmp_path):
    model = tiny_vit()
    names = set(ViTModel(model.config, add_pooling_layer=False).state_dict())
    confidence = torch.rand(1, 4, 4, requires_grad=True)
    run(model, torch.randn(1, 3, 32, 32, dtype=torch.float64), confidence).sum().backward()
    assert confidence.grad is None and set(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()


def test_channels_and_the_dense_mask_are_one_thing_in_value_and_gradient():
    generator, module = torch.Generator().manual_seed(0), torch.nn.Module()
    module.is_causal = False
    states = [torch.randn(2, 3, 12, 8, generator=generator) for _ in range(3)]
    bias = attention_bias(torch.rand(2, 3, 4, generator=generator), [((3, 4), (3, 4))], 0, "main", 5.0)
    found = []
    for channels in (False, True):
        leaves = [state.clone().requires_grad_() for state in states]
        if channels:
            widened = append_bias_channels(*leaves, bias[12, 12], 0.3)
            output = pasa_attention(module, *widened, scaling=0.3)[0][..., :8]
        else:
            output = pasa_attention(module, *leaves, scaling=0.3, pasa=bias)[0]
        output.square().sum().backward()
        found.append([output.detach(), *(leaf.grad for leaf in leaves)])
    assert all(torch.allclose(a, b, atol=2e-6) for a, b in zip(*found))


def test_the_channels_of_a_bias_are_made_once_for_all_layers():
    bias = pasa.Bias((torch.rand(2, 12), torch.rand(2, 12)))
    first = bias.channels(torch.bfloat16, 0.3)
    assert all(one is other for one, other in zip(first, bias.channels(torch.bfloat16, 0.3)))
    assert first[1] is not bias.channels(torch.bfloat16, 0.2)[1] and first[0].shape == (2, 1, 12, 8)


@pytest.mark.parametrize("variant", ["main", "rand"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rotary", [False, True])
def test_a_gpu_never_gets_a_mask_of_another_type_than_its_queries(variant, dtype, rotary, monkeypatch):
    """Such a pair gives NaN in silence there (torch 2.11); the states are those of a GPU, without one."""
    given = []

    def kernel(module, query, key, value, mask, **kwargs):
        given.append((query, key, value, mask))
        return query.transpose(1, 2), None

    monkeypatch.setattr(pasa, "sdpa_attention_forward", kernel)
    with FakeTensorMode():
        states = [torch.empty(2, 3, 12, 8, device="cuda", dtype=dtype) for _ in range(3)]
        if rotary and dtype != torch.float64:  # DINOv3: its queries and keys come in float32
            states[:2] = [state.float() for state in states[:2]]
        noise = torch.empty(2, 12, 12, device="cuda")
        factors = [torch.empty(2, 12, device="cuda") for _ in range(2)]
        bias = pasa.Bias(mask=noise) if variant == "rand" else pasa.Bias(factors)
        output, _ = pasa_attention(torch.nn.Module(), *states, scaling=0.3, pasa={(12, 12): bias})
        (query, key, value, mask), half = given[0], dtype in (torch.float16, torch.bfloat16)
        assert query.device.type == "cuda" and query.dtype == key.dtype == value.dtype and output.shape == (2, 12, 3, 8)
        if half and variant == "main":
            assert mask is None and query.dtype == dtype and query.shape[-1] == value.shape[-1] == 16
        else:
            assert mask.dtype == query.dtype == (torch.float32 if half else dtype)
        with pytest.raises(AssertionError, match="mask torch.float32 beside torch.bfloat16 queries on cuda"):
            checked_sdpa(torch.nn.Module(), query.bfloat16(), key, value, noise)
        checked_sdpa(torch.nn.Module(), query, key, value, noise > 0)


def test_float32_queries_of_a_rotary_embedding_are_attended_in_the_type_of_the_values():
    module = torch.nn.Module()
    module.is_causal = False
    query, key, value = (torch.randn(1, 2, 12, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    bias = attention_bias(torch.rand(1, 3, 4), [((3, 4), (3, 4))], 0, "main", 5.0)
    found, _ = pasa_attention(module, query, key, value.bfloat16(), scaling=0.3, pasa=bias)
    expected, _ = pasa_attention(module, query.bfloat16(), key.bfloat16(), value.bfloat16(), scaling=0.3, pasa=bias)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


@pytest.mark.parametrize("own_mask", [None, (1, 1, 12, 12), (5, 1, 12, 12)])
def test_a_bias_of_fewer_images_is_for_the_last_ones_in_value_and_gradient(own_mask):
    generator, module = torch.Generator().manual_seed(0), torch.nn.Module()
    module.is_causal = False
    states = [torch.randn(5, 12, 3, 8, generator=generator, dtype=torch.float64) for _ in range(3)]
    mask = None if own_mask is None else torch.randn(own_mask, generator=generator, dtype=torch.float64)
    masks = (mask, mask) if own_mask is None or own_mask[0] == 1 else mask.split([3, 2])
    bias = attention_bias(torch.rand(2, 3, 4, generator=generator), [((3, 4), (3, 4))], 0, "main", 5.0)
    found = []
    for joint in (True, False):
        leaves = [state.clone().requires_grad_() for state in states]
        query, key, value = (leaf.transpose(1, 2) for leaf in leaves)
        if joint:
            output = pasa_attention(module, query, key, value, mask, scaling=0.3, pasa=bias)[0]
        else:
            first = pasa_attention(module, query[:3], key[:3], value[:3], masks[0], scaling=0.3)[0]
            output = torch.cat([first, pasa_attention(module, query[3:], key[3:], value[3:], masks[1], scaling=0.3, pasa=bias)[0]])
        output.square().sum().backward()
        found.append([output.detach(), *(leaf.grad for leaf in leaves)])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*found))
