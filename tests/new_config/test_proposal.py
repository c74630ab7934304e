"""proposal.py: settings that fit the photos, the machine and each other."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, CLIPConfig, SwinConfig, ViTMAEConfig

from s4former.config import from_dict, share_of_process, without_notes
from s4former.errors import ConfigError
from s4former.networks.encoder_weights import encoder_kind
from s4former.networks.known_encoders import ENCODER_TYPES
from s4former.new_config.proposal import RECIPES, crop_for, fit, propose, usable_gib
from s4former.training.machine import Machine, cores_have_bfloat16

CPU, CARD, FARM = Machine(0, 16.0, 4), Machine(1, 12.0, 16), Machine(4, 80.0, 64)


@pytest.mark.parametrize("encoder, kind", [
    ("deit-tiny", ("vit", 16)), ("nvidia/mit-b2", ("segformer", 32)), ("facebook/dinov2-small", ("dinov2", 14)), ("dinov3-small", ("dinov3_vit", 16)),
    ("resnet50", ("resnet", 16)), ("shapes", ("vit", 8)), ("a/swin", ("swin", 32)), ("a/clip", ("clip_vision_model", 32)),
])  # fmt: skip
@pytest.mark.parametrize("machine", [CPU, CARD, FARM], ids=["cpu", "card", "farm"])
def test_every_proposal_is_a_config_whose_blocks_divide_its_crop(encoder, kind, machine):
    assert encoder.startswith("a/") or encoder_kind(encoder) == kind
    for sizes in ([(360, 480)], [(3000, 4000), (2000, 3000)], [(40, 90)]):
        check(encoder, kind, machine, sizes)


def check(encoder, kind, machine, sizes):
    tree = propose(machine, sizes, 500, encoder, kind)
    config = from_dict({"data": {"source": "shapes"}, **without_notes(tree)})
    assert all(f"{key}.note" in section for section in tree.values() for key in section if not key.endswith(".note"))
    block = config.method.block * kind[1]
    assert config.data.crop[0] % block == 0 and config.data.crop[0] // block == 4 and kind[0] in ENCODER_TYPES[config.model.architecture]
    assert config.evaluation.short_side == config.data.resize[1] and config.evaluation.every <= config.schedule.steps
    share_of_process(config, 1)


def test_an_encoder_of_any_kind_is_known_by_its_config_or_its_tensors(tmp_path):
    assert RECIPES.keys() == {kind for kinds in ENCODER_TYPES.values() for kind in kinds}
    for config, kind in ((SwinConfig(), ("swin", 32)), (CLIPConfig(), ("clip_vision_model", 32)), (ViTMAEConfig(patch_size=14), ("vit", 14))):
        config.save_pretrained(tmp_path / kind[0])
        assert encoder_kind(str(tmp_path / kind[0])) == kind
    save_file({"layer3.0.conv1.weight": torch.zeros(1)}, tmp_path / "r50.safetensors")
    assert encoder_kind(str(tmp_path / "r50.safetensors")) == ("resnet", 16)
    BertConfig().save_pretrained(tmp_path / "words")
    with pytest.raises(ConfigError, match="is of type 'bert'; networks here are built over beit, clip_vision_model, "):
        encoder_kind(str(tmp_path / "words"))


def test_the_crop_is_as_large_as_photos_and_machine_allow():
    assert crop_for([(360, 480)], 64, 512) == (320, 360, 720)
    assert crop_for([(3000, 4000)], 64, 512) == (512, 512, 1024)
    assert crop_for([(3000, 9000)], 64, 512) == (512, 512, 1536)  # the longer side keeps its proportion
    assert crop_for([(360, 480)], 64, 192) == (192, 192, 384)
    assert crop_for([(40, 90)], 64, 512) == (64, 64, 144)  # smaller photos are made as large as the least crop


def test_the_pool_is_seen_sixty_times_within_what_the_machine_can_do():
    steps = {images: propose(CARD, [(500, 500)], images)["schedule"]["steps"] for images in (10, 1000, 10**6)}
    assert steps == {10: 2000, 1000: 7500, 10**6: 80_000}
    assert propose(CPU, [(500, 500)], 10**6)["schedule"]["steps"] == 2000


def test_without_unlabelled_images_labels_alone_are_trained_on():
    assert propose(CPU, [(500, 500)], 0)["method"]["teacher"] == "none"


@pytest.mark.parametrize("flags, there", [("fpu avx512_bf16 vnni", True), ("asimd bf16", True), ("fpu avx512f avx512_bf16_x", False)])
def test_cores_that_multiply_in_bfloat16_are_used_so(flags, there, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    found = cores_have_bfloat16(tmp_path / "cpuinfo")
    assert found == there and not cores_have_bfloat16(tmp_path / "nothing")
    run = propose(Machine(0, 16.0, 4, found), [(500, 500)], 500)["run"]
    assert run.get("mixed_precision", "auto") == ("bf16" if there else "auto")


def test_a_gpu_finds_out_by_itself():
    assert "mixed_precision" not in propose(Machine(1, 12.0, 16, True), [(500, 500)], 500)["run"]


def test_the_labels_come_first_and_short_runs_go_over_to_the_papers_settings():
    trees = [propose(CARD, [(500, 500)], images) for images in (100, 10**6)]
    assert [tree["schedule"]["restart"] for tree in trees] == [0.3, 1] and [tree["method"]["mix_probability"] for tree in trees] == [1, 0.5]
    short, long = (tree["method"] for tree in trees)
    assert short["burn_in"] == 1000 and short["threshold"] == 0.9 and short["ema"] == 0.99 and short["regularizer_weight"] == 0.1
    assert long["burn_in"] == 5000 and long["threshold"] == 0.95 and long["ema"] == 0.999 and long["regularizer_weight"] == 1
    alone = propose(CPU, [(500, 500)], 0)
    assert "burn_in" not in alone["method"] and "restart" not in alone["schedule"]


def test_no_setting_jumps_when_there_is_a_little_more_of_something():
    def settings(images, fewest, shown=1.0):
        tree = propose(CARD, [(500, 500)], images, fewest=fewest, shown=shown)
        method, restart = tree["method"], tree["schedule"]["restart"]
        spread = method.get("threshold_spread", 0.0)
        assert method["thresholds"] == ("per_class" if spread else "fixed")
        return (
            method["threshold"], method["ema"], method["burn_in"] / 5000, method["regularizer_weight"], method["mix_probability"], restart,
            spread,
        )  # fmt: skip

    for one, other in zip(range(100, 12_000, 50), range(150, 12_000, 50)):
        assert settings(one, 9) == pytest.approx(settings(other, 9), abs=0.05)
    spreads = [settings(1000, fewest)[-1] for fewest in range(400)]
    assert max(abs(one - other) for one, other in zip(spreads, spreads[1:])) < 0.025
    assert spreads[23] == 1 and spreads[92] == pytest.approx(0.51) and spreads[300] == 0
    spreads = [settings(1000, 9, percent / 100)[-1] for percent in range(101)]
    assert max(abs(one - other) for one, other in zip(spreads, spreads[1:])) < 0.06
    assert spreads[12] == 0 and spreads[32] == pytest.approx(0.51) and spreads[50] == spreads[100] == 1


def test_the_view_of_pasa_is_left_out_where_there_is_no_pasa():
    assert propose(CARD, [(500, 500)], 1000)["method"]["pasa_view"] == "mixed"
    assert "pasa_view" not in propose(CARD, [(500, 500)], 1000, "resnet50", ("resnet", 16))["method"]


def test_one_threshold_where_an_image_shows_few_of_the_classes():
    method = propose(CARD, [(500, 500)], 1000, fewest=5, shown=0.12)["method"]
    assert method["thresholds"] == "fixed" and method["thresholds.note"].startswith("a labelled image shows 12 % of the classes")
    method = propose(CARD, [(500, 500)], 1000, fewest=500, shown=0.9)["method"]
    assert method["thresholds"] == "fixed" and method["thresholds.note"].startswith("300 images of every class or more")


@pytest.mark.parametrize(
    "gib, encoder, rounds",
    [(4, "deit-tiny", 2), (6, "deit-small", 2), (8, "deit-base", 2), (12, "deit-base", 2), (16, "deit-base", 1), (80, "deit-base", 1)],
)
def test_the_encoder_and_the_rounds_fit_into_the_memory_of_a_card(gib, encoder, rounds):
    tree = propose(Machine(1, float(gib), 16), [(600, 600)], 500)
    assert (tree["model"]["encoder"], tree["run"]["batch"]["rounds"]) == (encoder, rounds) and tree["data"]["crop"] == [512, 512]
    dino = "dinov2-base" if encoder == "deit-base" else "dinov2-small"
    assert f"--encoder {dino}, all three parts over it, is not measured here" in tree["model"]["encoder.note"]


def test_a_large_encoder_on_a_small_card_takes_more_rounds_then_computes_blocks_twice_then_a_smaller_crop():
    machines = [Machine(1, float(gib), 16) for gib in (40, 16, 10, 8)]
    fits = [fit(machine, "vit-large", 512, 64) for machine in machines]
    assert [(each.crop, each.rounds, each.checkpointing) for each in fits[:2]] == [(512, 1, False), (512, 4, False)]
    assert fits[2].crop == 512 and fits[2].checkpointing and fits[3].crop < 512
    assert all(each.peak_gib <= usable_gib(machine) for machine, each in zip(machines, fits))


def test_a_small_computer_takes_more_rounds_and_half_precision_needs_fewer():
    assert [fit(Machine(0, gib, 4), "deit-tiny", 192, 64).rounds for gib in (16.0, 2.0)] == [1, 4]
    assert fit(Machine(0, 2.0, 4, True), "deit-tiny", 192, 64).rounds == 2
