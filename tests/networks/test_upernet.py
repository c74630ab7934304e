"""UperNet over a DINO; what the method asks of it is tested beside DPT, in test_dpt.py."""

import pytest
import torch
from exported import runs_alone
from tiny_dino import SMALL, build, encoders, images, model_of, tiny
from transformers import UperNetConfig, UperNetForSemanticSegmentation

from s4former.config import from_dict
from s4former.errors import ConfigError
from s4former.method.checks import check_network, shuffle_grid
from s4former.networks import adapters
from s4former.networks.build import load_network, save_network
from s4former.networks.encoder_weights import IMAGENET


@encoders
def test_decode_of_encode_is_the_stock_forward(encoder):
    network, x = tiny("upernet", encoder), images(28, 56)
    options = {key: value for key, value in network.config.to_dict().items() if key != "model_type"}
    stock = UperNetForSemanticSegmentation(UperNetConfig(**options)).eval()
    stock.load_state_dict(network.state_dict())
    features = adapters.encode(network, x)
    assert [tuple(f.shape) for f in features] == [(2, 32, 2, 4)] * 4
    logits = stock(x).logits
    assert torch.equal(adapters.decode(network, features), logits) and torch.equal(network(x).logits, logits)


def test_any_number_of_rising_blocks_feeds_it():
    network = tiny("upernet", out_indices=(1, 4))
    assert len(adapters.encode(network, images())) == 2 and len(network.backbone.encoder.layer) == 5
    assert network.decode_head.channels == 16
    with pytest.raises(ConfigError, match=r"model.out_indices is \[4, 1\]; write rising block numbers from 0 to 4"):
        build(model_of("upernet", out_indices=(4, 1)))


@pytest.mark.parametrize("size", [(28, 42), (29, 41), (9, 20)])
def test_images_of_any_size_are_padded_to_whole_patches(size):
    network = tiny("upernet")
    logits = adapters.full_size_logits(network, images(*size))
    assert logits.shape == (2, 5, *size)
    padded = torch.zeros(2, 3, -(-size[0] // 14) * 14, -(-size[1] // 14) * 14)
    padded[..., : size[0], : size[1]] = images(*size)
    assert torch.equal(logits, network(pixel_values=padded).logits[..., : size[0], : size[1]])
    labels = torch.randint(5, (2, *size))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    output = network(images(*size), labels=labels, return_dict=False)
    assert torch.equal(output[0], expected) and torch.equal(output[1], logits)


def test_a_crop_of_half_patches_is_refused():
    with pytest.raises(ConfigError, match=r"data.crop is \[30, 42\]; model.encoder = 'dinov2-small' needs multiples of 14"):
        build(model_of("upernet"), crop=(30, 42))


def test_a_run_fits_it():
    config = {"data": {"crop": [504, 504]}, "method": {"block": 9}, "model": {"architecture": "upernet"}}
    network = tiny("upernet", "dinov3-small")
    check_network(from_dict(config), network)
    assert shuffle_grid(from_dict(config), network) == (4, 4)


@pytest.mark.parametrize("encoder", SMALL)
def test_a_saved_folder_loads_to_equal_weights_and_logits_with_nothing_but_its_own_file(encoder, tmp_path):
    network, x = tiny("upernet", encoder), images(30, 41)
    save_network(network, tmp_path, *IMAGENET, short_side=28)
    assert [path.name for path in tmp_path.glob("*.py")] == ["upernet.py"]
    again = load_network(tmp_path)
    state = again.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    torch.testing.assert_close(again(x).logits, network(x).logits)


@pytest.mark.slow
def test_a_saved_folder_runs_where_this_package_is_missing(tmp_path):
    assert runs_alone(tiny("upernet"), tmp_path)
