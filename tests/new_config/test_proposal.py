"""proposal.py: settings that fit the photos, the machine and each other."""

import pytest

from s4former.config import from_dict, share_of_process
from s4former.new_config.proposal import RECIPES, crop_for, propose
from s4former.training.machine import Machine, cores_have_bfloat16

CPU, CARD, FARM = Machine(0, 0.0, 4), Machine(1, 12.0, 16), Machine(4, 80.0, 64)


@pytest.mark.parametrize("encoder", ["", "mit-b2", "dinov2-small", "dinov3-small", "resnet50", "shapes", "some/vit"])
@pytest.mark.parametrize("machine", [CPU, CARD, FARM], ids=["cpu", "card", "farm"])
def test_every_proposal_is_a_config_whose_blocks_divide_its_crop(encoder, machine):
    for sizes in ([(360, 480)], [(3000, 4000), (2000, 3000)], [(40, 90)]):
        check(encoder, machine, sizes)


def check(encoder, machine, sizes):
    config = from_dict({"data": {"source": "shapes"}, **propose(machine, sizes, 500, encoder)})
    stride = next(recipe.stride for start, recipe in RECIPES.items() if (encoder or "deit").startswith(start))
    assert config.data.crop[0] % (config.method.block * stride) == 0 and config.data.crop[0] // (config.method.block * stride) == 4
    assert config.evaluation.short_side == config.data.resize[1] and config.evaluation.every <= config.schedule.steps
    share_of_process(config, 1)


def test_the_crop_is_as_large_as_photos_and_machine_allow():
    assert crop_for([(360, 480)], 16, 512) == (320, 360, 720)
    assert crop_for([(3000, 4000)], 16, 512) == (512, 512, 1024)
    assert crop_for([(3000, 9000)], 16, 512) == (512, 512, 1536)  # the longer side keeps its proportion
    assert crop_for([(360, 480)], 16, 192) == (192, 192, 384)
    assert crop_for([(40, 90)], 16, 512) == (64, 64, 144)  # smaller photos are made as large as the least crop


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
    run = propose(Machine(0, 0.0, 4, found), [(500, 500)], 500)["run"]
    assert run.get("mixed_precision", "auto") == ("bf16" if there else "auto")


def test_a_gpu_finds_out_by_itself():
    assert "mixed_precision" not in propose(Machine(1, 12.0, 16, True), [(500, 500)], 500)["run"]


def test_a_short_run_begins_with_the_labels_alone_and_a_long_one_is_the_papers():
    short, long = (propose(CARD, [(500, 500)], images)["method"] for images in (1000, 10**6))
    assert short["burn_in"] == 7500 // 2 and short["threshold"] == 0.9
    assert not {"burn_in", "threshold", "ema"} & long.keys()
    assert "burn_in" not in propose(CPU, [(500, 500)], 0)["method"]
