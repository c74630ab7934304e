import pytest
import torch
from tiny_networks import config_of, network_of
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from s4former.method import pasa
from s4former.method import student as student_module
from s4former.method.checks import check_bias_has_effect, check_network, drop_ncr_for_two_classes, shuffle_grid
from s4former.networks.adapters import encode


def test_a_block_that_does_not_divide_the_crop_is_refused_in_words():
    config = config_of(method={"block": 3})
    with pytest.raises(ValueError, match=r"method.block = 3 tokens are 48 pixels, which does not divide data.crop = \[32, 64\]; use sides that are multiples of 48"):  # fmt: skip
        shuffle_grid(config, network_of("setr"))
    assert shuffle_grid(config_of(method={"block": 1}), network_of("setr")) == (2, 4)
    assert shuffle_grid(config_of(method={"block": 3, "teacher": "none"}), network_of("setr")) == (1, 1)


def test_an_encoder_that_drops_the_bias_is_refused(monkeypatch):
    network = network_of("setr").float()
    check_bias_has_effect(network, config_of(method={"block": 2}))
    monkeypatch.setattr(student_module, "encode", lambda network, images, **dropped: encode(network, images))
    with pytest.raises(ValueError, match="method.pasa = 'main' has no effect: this transformers passes no bias"):
        check_bias_has_effect(network, config_of(method={"block": 2}))


def test_a_bias_that_gives_nan_in_the_precision_that_trains_is_refused(monkeypatch):
    network = network_of("setr").float()

    def wrong_in_half_precision(module, query, key, value, mask, **kwargs):
        output, weights = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
        return output * (torch.nan if mask is not None and query.dtype == torch.bfloat16 else 1), weights

    monkeypatch.setattr(pasa, "sdpa_attention_forward", wrong_in_half_precision)
    check_bias_has_effect(network, config_of(method={"block": 2}))
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match="method.pasa = 'main' gives NaN on cpu in torch.bfloat16: .* set run.mixed_precision=no"):
            check_bias_has_effect(network, config_of(method={"block": 2}))


def test_an_effect_that_half_precision_rounds_away_is_an_effect():
    with torch.autocast("cpu", torch.bfloat16):
        check_bias_has_effect(network_of("setr").float(), config_of(method={"block": 2, "pasa_alpha": 1e-3}))


def test_ncr_is_left_out_for_two_classes_and_the_log_says_so():
    config, lines = drop_ncr_for_two_classes(config_of(), 2)
    assert config.method.regularizer == "none" and "two classes: NCR is left out" in lines[0]
    for same in (config_of(method={"regularizer": "all_cr"}), config_of(method={"teacher": "none"})):
        assert drop_ncr_for_two_classes(same, 2) == (same, ())
    assert drop_ncr_for_two_classes(config_of(), 3) == (config_of(), ())


def test_tiles_that_do_not_cut_the_features_are_refused_in_words():
    with pytest.raises(ValueError, match=r"cuts features into 4x4 tiles, and data.crop = \[32, 64\] has 2x4 tokens; use a crop whose sides are multiples of 64"):  # fmt: skip
        check_network(config_of(method={"mix": "mixunmix", "block": 2}), network_of("setr"))
