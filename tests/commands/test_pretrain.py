"""Pretraining, by running it small."""

import hashlib

import pytest
import torch
from transformers import ViTModel

from s4former.commands import pretrain, pretraining

SMALL = ["--steps", "2", "--batch", "4", "--scenes", "4", "--width", "32", "--layers", "1", "--workers", "0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "HELD_OUT", 5)
    pretrain.main(["--output", str(tmp_path / "vit"), *SMALL])
    return tmp_path / "vit"


def test_the_folder_loads_as_a_float32_vit_with_nothing_missing(folder):
    model, report = ViTModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.dtype == torch.float32
    assert model(torch.zeros(2, 3, 96, 96)).last_hidden_state.shape == (2, 1 + 12 * 12, 32)


def test_the_readme_states_the_hash_and_the_command(folder):
    text = (folder / "README.md").read_text()
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in text
    assert "--steps 2 --seed 7 --batch 4 --scenes 4" in text
    assert [path.name for path in folder.parent.iterdir()] == ["vit"]  # nothing half-written lies beside it


def test_the_same_options_give_the_same_weights(folder, tmp_path):
    pretrain.main(["--output", str(tmp_path / "again"), *SMALL])
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("vit", "again"))
    assert first == second


def test_a_folder_that_exists_is_never_overwritten(tmp_path, capsys):
    with pytest.raises(SystemExit):
        pretrain.parse_arguments(["--output", str(tmp_path)])
    assert "exists and is never overwritten; remove it or name another folder" in capsys.readouterr().err
