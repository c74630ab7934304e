"""What `import s4former` offers, and the page that shows it in a training loop of one's own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import ROOT
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import s4former
from s4former.errors import ConfigError, DataError
from s4former.networks.build import save_network

PAGE = (ROOT / "docs" / "api.md").read_text()


def test_every_name_is_there_and_on_the_page():
    for name in s4former.__all__:
        assert callable(getattr(s4former, name)) and name in dir(s4former)
        assert re.search(rf"^\| `{name}\(", PAGE, re.MULTILINE)
    with pytest.raises(AttributeError, match="module 's4former' has no attribute 'pasa_masks'"):
        s4former.pasa_masks


def test_the_loop_of_the_page_trains_a_plain_vit(monkeypatch):
    loop = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    assert len(loop.splitlines()) <= 40
    torch.manual_seed(0)
    names = {}
    exec(loop.replace("0.95", "0.2"), names)  # an untrained teacher is not that sure
    student, teacher, images, order = (names[name] for name in ("student", "teacher", "weak", "order"))
    assert names["loss"].isfinite() and (names["pseudo"] != 255).any()
    for weight, average in zip(student.parameters(), teacher.module.parameters()):
        assert weight.grad is not None and not torch.equal(weight, average)
    plain = student(images)
    assert not torch.allclose(student(images, confidence=torch.rand(4, 64, 64)), plain)  # PASA
    assert not torch.allclose(student(images, order=order), plain)  # PatchShuffle is undone on what was not shuffled
    assert student(s4former.patch_shuffle(images, order), order=order).shape == plain.shape


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8}
    save_network(SegformerForSemanticSegmentation(SegformerConfig(num_labels=5, **sizes)), folder, (0.5,) * 3, (0.5,) * 3, 0)
    return s4former.load_network(folder)


def test_predict_takes_a_photo_an_array_a_tensor_or_a_batch(network):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    maps = s4former.predict(network, pixels, short_side=0)
    assert (maps.shape, maps.dtype) == ((40, 56), torch.long)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(maps, s4former.predict(network, Image.fromarray(pixels), short_side=0))
    assert torch.equal(maps.expand(2, -1, -1), s4former.predict(network, image.expand(2, -1, -1, -1), short_side=0))
    with torch.no_grad():
        logits = network((image[None].float() / 255 - 0.5) / 0.5).logits
    wanted = torch.nn.functional.interpolate(logits, size=(40, 56), mode="bilinear").argmax(dim=1)[0]
    assert torch.equal(maps, wanted)


def test_predict_reads_deep_images_by_the_levels_and_in_the_precision_beside_the_weights(network):
    values = np.random.default_rng(0).integers(0, 256, (40, 56)).astype(np.uint16)
    with pytest.raises(DataError, match=r"image has more than 8 bits per channel \(mode I;16, values 0 to 4080\); say which"):
        s4former.predict(network, Image.fromarray(16 * values))
    folder = Path(network.name_or_path)
    (folder / "s4former.json").write_text(json.dumps({"data": {"levels": [0, 4080]}, "evaluation": {"short_side": 0}}))
    grey, seen = Image.fromarray(values.astype(np.uint8)), []
    with network.decode_head.register_forward_hook(lambda *given: seen.append(given[2].dtype)):
        assert torch.equal(s4former.predict(network, Image.fromarray(16 * values)), s4former.predict(network, grey))
        s4former.predict(network, grey, precision="bf16")
    (folder / "s4former.json").unlink()
    assert seen == [torch.float32, torch.float32, torch.bfloat16]


def test_predict_refuses_wrong_keys_and_normalised_images(network):
    with pytest.raises(ConfigError, match="unknown key evaluation.flipp; did you mean evaluation.flip?"):
        s4former.predict(network, np.zeros((8, 9, 3), np.uint8), flipp=True)
    with pytest.raises(TypeError, match="the image is torch.float32; give RGB of 0 to 255 as uint8, not normalised"):
        s4former.predict(network, torch.zeros(3, 8, 9))
