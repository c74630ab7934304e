import collections
from dataclasses import replace

import numpy as np
import pytest
import torch
from folders import HEIGHT, WIDTH, save_image, save_mask, write
from scripts import TINY
from tiny_batches import parts, same, steps_of

from s4former.config import from_dict
from s4former.data.batches import StepDataset, ValidationSet, labeled_indices, mix_partners, shuffled_index
from s4former.data.device_colour import colour_on_device
from s4former.data.sources import load_sources
from s4former.errors import DataError
from s4former.method.mixing import MIXES, gather, mix_pseudo
from s4former.method.pseudo import pseudo_label


def test_a_batch_is_a_function_of_seed_and_step():
    steps = steps_of()
    first = steps[5, 0]
    steps[0, 0], steps[7, 0]
    assert same(first, steps[5, 0]) and same(first, steps_of()[5, 0])
    assert not torch.equal(first.weak, steps[6, 0].weak)
    assert not torch.equal(first.weak, steps_of(run={"seed": 1})[5, 0].weak)


def joined(batches, name):
    return torch.cat([parts(batch)[name] for batch in batches])


@pytest.mark.parametrize("names", [("labeled", "labels", "weak", "images0", "valid", "boxes0", "orders0")])
def test_processes_and_rounds_share_one_global_batch(names):
    whole = steps_of()[3, 0]
    processes = [steps_of(process, 2)[3, 0] for process in (0, 1)]
    rounds = [steps_of(run={"batch": {"labeled": 2, "unlabeled": 4, "rounds": 2}})[3, round_] for round_ in (0, 1)]
    for name in names:
        assert torch.equal(joined(processes, name), parts(whole)[name]), name
        assert torch.equal(joined(rounds, name), parts(whole)[name]), name
    assert parts(whole)["partner0"].tolist() == [1, 0, 3, 2] and parts(processes[0])["partner0"].tolist() == [1, 0]


def test_every_image_comes_up_once_in_a_cycle():
    counts = collections.Counter(shuffled_index(0, 1, draw, 7) for draw in range(7 * 13 + 3))
    assert set(counts) == set(range(7)) and set(counts.values()) == {13, 14}
    first, second = ([shuffled_index(0, 1, draw, 7) for draw in range(7 * cycle, 7 * cycle + 7)] for cycle in (0, 1))
    assert sorted(first) == sorted(second) and first != second


def test_weak_and_strong_are_one_crop_in_two_colours_and_the_weak_one_is_plain():
    steps = steps_of(data={"ratio": [1.0, 1.0], "flip": 0.0, "crop": [32, 40], "resize": [200, 40]})
    batch = steps[0, 0]
    strong = batch.strong[0].images
    assert not torch.equal(batch.weak, strong)
    coloured = steps_of(data={"ratio": [1.0, 1.0], "flip": 0.0, "crop": [32, 40], "resize": [200, 40]},
                        method={"weak_colour": True})[0, 0]  # fmt: skip
    assert torch.equal(strong, coloured.strong[0].images) and not torch.equal(batch.weak, coloured.weak)


def test_padding_is_invalid_black_in_the_batch_and_the_mean_colour_on_the_device():
    batch = steps_of(data={"ratio": [0.5, 0.6]})[0, 0]
    assert not batch.valid.all() and not batch.labeled_valid.all()
    assert (batch.labels[~batch.labeled_valid] == 255).all()
    mean = std = torch.full((3, 1, 1), 0.25)
    ready = batch.on(torch.device("cpu"), mean, std)
    strong = ready.strong[0].images
    for images, valid in ((strong, batch.valid), (ready.weak, batch.valid), (ready.labeled, batch.labeled_valid)):
        assert not images[(~valid)[:, None].expand_as(images)].any()
        assert images.dtype == torch.float32
    assert ready.labels.dtype == torch.int64
    inside = batch.valid[:, None].expand_as(batch.weak)
    assert torch.allclose(ready.weak[inside], (batch.weak[inside] / 255 - 0.25) / 0.25)


def test_one_coin_decides_for_the_whole_batch_whether_it_is_mixed():
    steps = steps_of()
    mixed = [steps.mix(step, [0, 1, 2, 3], [1, 2, 3, 0])["boxes"].flatten(1).any(dim=1) for step in range(200)]
    assert all(images.all() or not images.any() for images in mixed)
    assert 70 < sum(images.all().item() for images in mixed) < 130


@pytest.mark.parametrize("mix", ["classmix", "mixunmix", "adaptive_cutmix"])
def test_every_mix_is_drawn_for_the_global_batch(mix):
    whole = steps_of(method={"mix": mix}).batch(3, 0).strong[0].mix
    halves = [steps_of(process, 2, method={"mix": mix}).batch(3, 0).strong[0].mix for process in (0, 1)]
    for name, value in whole.items():
        if value.dim() == 0:
            assert value == halves[0][name] == halves[1][name]
        elif name in ("partner", "tiles", "labeled_partner"):  # numbers of images, counted from the first of the process
            first = 1 if name == "labeled_partner" else 2
            assert torch.equal(torch.cat([halves[0][name], halves[1][name] + first]), value), name
        else:
            assert torch.equal(torch.cat([half[name] for half in halves]), value), name


@pytest.mark.parametrize("mix", ["cutmix", "cutmix_small", "classmix", "cutout"])
@pytest.mark.parametrize("processes, rounds", [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_a_group_that_lies_in_several_processes_or_rounds_mixes_as_in_one(mix, processes, rounds):
    sections = {
        "method": {"mix": mix, "mix_group": 4, "mix_probability": 1.0}, "data": {"ratio": [0.5, 1.0]},
        "run": {"batch": {"labeled": 4, "unlabeled": 8}},
    }  # fmt: skip
    shared = {**sections, "run": {"batch": {"labeled": 4, "unlabeled": 8, "rounds": rounds}}}

    def mixed(batch):
        everything = pseudo_label(batch.weak.float() / 9, batch.valid, 0.4)  # three colours as three classes
        pseudo, strong = everything.first(batch.unlabeled), batch.strong[0]
        source = MIXES[mix].source(strong.mix, pseudo, strong.images.shape[-2:])
        return gather(strong.images, source), mix_pseudo(everything, source).label, mix_pseudo(everything, source).logits

    batch = steps_of(**sections).batch(3, 0)
    whole = mixed(batch)
    assert not torch.equal(whole[0], batch.strong[0].images)
    batches = [steps_of(p, processes, **shared).batch(3, r) for p in range(processes) for r in range(rounds)]
    parts = [mixed(batch) for batch in batches]
    for index, value in enumerate(whole):
        assert torch.equal(torch.cat([part[index] for part in parts]), value)
    assert sum((batch.seeds for batch in batches), ()) == batch.seeds and len(set(batch.seeds)) == 8


def test_partners_are_the_next_of_the_same_group_wherever_it_lies():
    config = from_dict({})
    assert mix_partners(config, list(range(8))) == ([], [1, 2, 3, 0, 5, 6, 7, 4])
    assert mix_partners(config, [6, 7]) == ([4], [1, 2])  # 7 is here, 4 comes behind
    assert mix_partners(config, [3]) == ([0], [1])
    assert mix_partners(from_dict({"method": {"mix_from": "second_batch"}}), [6, 7]) == ([14, 15], [2, 3])
    assert mix_partners(from_dict({"method": {"mix": "cutout"}}), [6, 7]) == ([], [0, 1])


def test_an_unreadable_image_is_reported_once_by_the_process_that_trains_on_it(tmp_path):
    root = tmp_path / "few"
    for index in range(7):
        save_image(root / "images" / f"{index}.png")
        save_mask(root / "masks" / f"{index}.png")
    (root / "images" / "6.png").write_bytes(b"no picture")
    write(root / "labeled.txt", "0", "1")
    write(root / "validation.txt", "2")
    data = {"source": "folder", "root": str(root), "labeled": "labeled.txt", "validation": "validation.txt",
            "classes": ["a", "b", "c"]}  # fmt: skip
    sections = {"method": {"mix_group": 4}, "data": data}
    alone = [steps_of(**sections).batch(step, 0).replaced for step in range(6)]
    parts = [[steps_of(process, 2, **sections).batch(step, 0).replaced for process in (0, 1)] for step in range(6)]
    assert [one + two for one, two in parts] == alone and any(alone)


def test_orders_are_identities_where_patch_shuffle_is_off():
    orders = steps_of(method={"patch_shuffle": False}).orders(0, [0, 1, 2, 3])
    assert (orders.flatten(1) == torch.arange(6)).all()


def test_labels_only_has_no_unlabelled_images():
    batch = steps_of(method={"teacher": "none"})[0, 0]
    assert len(batch.labeled) == 2 and len(batch.weak) == len(batch.strong) == batch.unlabeled == 0


def test_a_burn_in_reads_no_unlabelled_images_and_changes_nothing_of_the_steps_after_it():
    burning, plain = steps_of(method={"burn_in": 1}), steps_of()
    assert same(burning[0, 0], steps_of(method={"teacher": "none"})[0, 0])
    assert same(burning[1, 0], plain[1, 0])


UNIMATCH = {"mix": "cutmix_small", "mix_from": "second_batch", "strong_views": 2, "strong_colour": "jitter",
            "labeled_colour": False, "mix_probability": 1.0}  # fmt: skip


def test_two_strong_views_are_one_crop_with_colours_boxes_and_orders_of_their_own():
    steps = steps_of(method=UNIMATCH, data={"crop": [64, 96], "resize": [200, 64]})
    batch = steps[0, 0]
    assert batch.unlabeled == 4 and len(batch.strong) == 2
    one, two = batch.strong
    assert one.images.shape == batch.weak.shape == (8, 3, 64, 96)  # the second batch lies behind
    for name in ("images", "orders"):
        assert not torch.equal(getattr(one, name), getattr(two, name)), name
    assert not torch.equal(one.mix["boxes"], two.mix["boxes"])
    assert one.mix["partner"].tolist() == two.mix["partner"].tolist() == [4, 5, 6, 7]
    single = steps_of(method={**UNIMATCH, "strong_views": 1}, data={"crop": [64, 96], "resize": [200, 64]})[0, 0]
    assert torch.equal(single.strong[0].images, one.images) and torch.equal(single.strong[0].orders, one.orders)


def test_a_second_batch_comes_in_an_order_of_its_own_and_is_shared_like_the_first():
    whole = steps_of(method=UNIMATCH)[3, 0]
    assert not torch.equal(whole.weak[:4], whole.weak[4:])
    halves = [steps_of(process, 2, method=UNIMATCH)[3, 0] for process in (0, 1)]
    for part in (0, 1):  # own images first, then those of the second batch
        joint = torch.cat([half.weak[2 * part : 2 * part + 2] for half in halves])
        assert torch.equal(joint, whole.weak[4 * part : 4 * part + 4])
    for view in (0, 1):
        joint = torch.cat([half.strong[view].mix["boxes"] for half in halves])
        assert torch.equal(joint, whole.strong[view].mix["boxes"])


@pytest.mark.parametrize("method", [{"weak_colour": True}, UNIMATCH, {"labeled_colour": False, "strong_colour": "random_intensity"}])
def test_the_device_gives_the_colours_that_the_host_gives(method):
    host, device = (steps_of(device_colour=on, method=method) for on in (False, True))
    for step in range(4):
        packed = device[step, 0]
        batch = colour_on_device(packed, device.config.method)
        assert same(batch, host[step, 0])
        sizes = {len(view.images) for view in packed.strong}
        assert sizes == ({len(batch.weak)} if method.get("strong_colour") == "random_intensity" else {0})
    burning = steps_of(device_colour=True, method={**method, "burn_in": 2})[0, 0]
    assert torch.equal(colour_on_device(burning, device.config.method).labeled, host[0, 0].labeled)


def test_labelled_images_keep_their_colours_where_the_config_says_so():
    coloured, plain = (steps_of(method={"labeled_colour": on})[0, 0] for on in (True, False))
    assert torch.equal(coloured.labels, plain.labels) and not torch.equal(coloured.labeled, plain.labeled)


def test_evaluation_images_keep_their_size():
    config = from_dict(TINY)
    validation = ValidationSet(config, load_sources(config.data), limit=3)
    assert len(validation) == 3 and len(validation.classes) == 9
    item = validation[2]
    assert item.image.shape == (3, 40, 56) and item.labels.shape == (40, 56) and item.labels.dtype == torch.int64
    with pytest.raises(IndexError):
        validation[3]


def test_images_with_rare_classes_come_up_more_often_and_steps_stay_pure(tmp_path):
    root = tmp_path / "few"
    for index in range(9):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:4] = 1
        mask[8:, :9] = 2 * (index == 4)
        save_image(root / "images" / f"{index}.png")
        save_mask(root / "masks" / f"{index}.png", mask)
    write(root / "labeled.txt", *range(9))
    save_image(root / "val" / "images" / "v.png")
    save_mask(root / "val" / "masks" / "v.png")
    save_image(root / "images" / "pool.png")
    folder = {"source": "folder", "root": str(root), "labeled": "labeled.txt", "validation": "val", "classes": ["a", "b", "c"]}
    plain = {name: value for name, value in TINY["data"].items() if name != "shapes"} | folder
    config = from_dict({**TINY, "data": {**plain, "repeat_rare": 1.0}})
    sources = load_sources(config.data)
    assert labeled_indices(config, sources) == [0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8]  # sqrt(1 / (1/9)) = 3
    half = from_dict({**TINY, "data": {**plain, "repeat_rare": 0.5}})
    assert labeled_indices(half, sources) == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]  # sqrt(0.5 / (1/9)) = 2.1
    assert labeled_indices(from_dict({**TINY, "data": plain}), sources) == list(range(9))
    steps = StepDataset(config, sources, (2, 3), 0, 1)
    first = steps[3, 0]
    steps[0, 0]
    assert same(first, steps[3, 0])
    draws = collections.Counter(steps.indices[shuffled_index(0, 0, draw, len(steps.indices))] for draw in range(11 * 20))
    assert draws[4] == 60 and draws[0] == 20


def test_an_empty_pool_is_refused_before_training():
    config = from_dict(TINY)
    sources = load_sources(config.data)
    sources = replace(sources, unlabeled=sources.unlabeled.select([]))
    with pytest.raises(DataError, match="there are no unlabelled images; name their list or folder with data.unlabeled"):
        StepDataset(config, sources, (2, 3), 0, 1)
    StepDataset(from_dict({**TINY, "method": {"teacher": "none"}}), sources, (2, 3), 0, 1)
