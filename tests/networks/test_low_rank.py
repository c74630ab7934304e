"""low_rank.py: adapters on the linear layers of an encoder, trained in its place and merged at export."""

import sys
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from scripts import TINY
from tiny_networks import CLASSES, SETR

from s4former.config import from_dict
from s4former.data.sources import load_sources
from s4former.errors import ConfigError
from s4former.networks.adapters import encoder_of
from s4former.networks.build import build_network, load_network, save_network
from s4former.networks.low_rank import add_adapters, merge_adapters, restrict_training
from s4former.training import resume
from s4former.training.engine import update
from s4former.training.run import build_training
from s4former.training.resume import export_newest

IMAGES = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
HALF = (0.5,) * 3


def network_of(**keys):
    torch.manual_seed(0)
    return build_network(replace(SETR, **keys), id2label=CLASSES, crop=(32, 64)).eval()


def randomize_adapters(network):
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)


def test_without_peft_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError) as error:
        add_adapters(network_of(), 4)
    assert str(error.value) == (
        "model.low_rank = 4 needs the package peft, which is not installed: pip install 's4former[adapters]', or set model.low_rank=0"
    )


def test_adapters_in_an_encoder_that_is_frozen_whole_are_refused():
    with pytest.raises(ConfigError, match="model.low_rank = 4 adds adapters to an encoder of which model.freeze = -1 trains nothing"):
        from_dict({"model": {"low_rank": 4, "freeze": -1}})


def test_the_network_is_the_same_at_first_and_only_adapters_and_head_are_trained():
    pytest.importorskip("peft")
    plain, network = network_of(), network_of()
    restrict_training(network, replace(SETR, low_rank=4, train_only=(r"attention",)))
    assert torch.equal(plain(IMAGES).logits, network(IMAGES).logits)
    trained = {name for name, parameter in encoder_of(network).named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name and "attention" in name for name in trained)
    assert all(parameter.requires_grad for parameter in network.head.parameters())
    total = sum(p.numel() for p in encoder_of(network).parameters() if p.requires_grad)
    assert total == 4 * 4 * 4 * 2 * 32  # blocks, layers of each, rank, two matrices of the width


def test_merged_and_saved_it_is_a_plain_model_of_the_same_logits(tmp_path):
    pytest.importorskip("peft")
    network = network_of()
    add_adapters(network, 4)
    randomize_adapters(network)
    expected = network(IMAGES).logits
    assert not torch.allclose(expected, network_of()(IMAGES).logits, atol=1e-3)
    save_network(network, tmp_path, HALF, HALF, 32)
    loaded = load_network(tmp_path)
    assert torch.allclose(loaded(IMAGES).logits, expected, atol=1e-5)
    assert loaded.state_dict().keys() == network_of().state_dict().keys()
    assert torch.equal(network(IMAGES).logits, expected), "training goes on with the adapters"
    assert merge_adapters(loaded) is loaded


def test_a_network_without_linear_layers_has_none():
    pytest.importorskip("peft")
    network = build_network(
        replace(SETR, architecture="deeplabv3plus", encoder="resnet50", encoder_config={}), id2label=CLASSES, crop=(32, 64)
    )
    with pytest.raises(ConfigError, match="model.low_rank = 4 has no linear layer to adapt in this encoder; set model.low_rank=0"):
        add_adapters(network, 4)


def test_a_run_trains_them_with_pasa_and_its_checkpoint_is_resumed_and_exported(tmp_path):
    pytest.importorskip("peft")
    config = from_dict({**TINY, "model": {**TINY["model"], "low_rank": 2}})
    training = build_training(config, load_sources(config.data), tmp_path, Accelerator(cpu=True))
    student = training.networks["student"]
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    for step in range(2):
        batch = training.to_device(training.steps.batch(step, 0))
        terms = update(training.accelerator, training.student, training.teacher, training.optimizer, [batch], step, config)
        assert all(torch.isfinite(term).all() for term in terms.values())
    moved = {name for name, parameter in student.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved and all(("lora_" in name) == name.startswith("vit.") for name in moved) and any("lora_A" in name for name in moved)
    training.step = 2
    resume.save(training)
    again = build_training(config, load_sources(config.data), tmp_path, Accelerator(cpu=True))
    resume.restore(again, resume.find_state(tmp_path, config, again.sources, again.accelerator))
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.networks["student"].parameters()))
    images = torch.randn(1, 3, 32, 48)
    exported = load_network(export_newest(tmp_path) / "teacher")
    assert torch.allclose(exported(images).logits, training.teacher.network(images).logits, atol=1e-5)
