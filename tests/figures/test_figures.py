"""The figures: right patches, right numbers, files that are there; on the smallest networks and worlds there can be."""

import builtins
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import ROOT, TINY
from tiny_dino import needs_keywords
from transformers import AttentionInterface, AttentionMaskInterface, BeitConfig, SiglipVisionConfig
from transformers.masking_utils import sdpa_mask

from s4former.config import Model, from_dict, to_dict
from s4former.data.batches import validation_set
from s4former.data.shapes import CLASSES
from s4former.errors import UserError
from s4former.figures import attention, checkpoints, classes, views
from s4former.figures.command import FIGURES, main
from s4former.networks import adapters
from s4former.networks.adapters import full_size_logits
from s4former.networks.build import build_network, load_network, save_network
from s4former.networks.dpt import DinoDptConfig, DinoDptForSemanticSegmentation

SMALL_MIT = {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 2], "decoder_hidden_size": 16}
SEGFORMER = {"architecture": "segformer", "encoder": "mit-b0", "pretrained": False, "encoder_config": SMALL_MIT}
SMALL_RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
IMAGE = "1000002"


def save_run(folder, seed, model=None):
    """What a run leaves that a figure needs, of random weights."""
    shapes = {**TINY["data"]["shapes"], "height": 64, "width": 96}
    tree = {**TINY, "data": {**TINY["data"], "shapes": shapes}, "model": model or TINY["model"]}
    config = from_dict(tree | {"evaluation": {"short_side": 0}})
    torch.manual_seed(seed)
    network = build_network(config.model, id2label=dict(enumerate(CLASSES)), crop=config.data.crop)
    with torch.no_grad():  # the queries far from zero, so that attention is far from uniform
        for name, parameter in network.named_parameters():
            parameter.mul_(6.0 if "q_proj.weight" in name or "k_proj.weight" in name else 1.0)
    save_network(network, folder / "teacher", [0.5] * 3, [0.5] * 3, 0)
    for path in (folder / "config.json", folder / "teacher" / "s4former.json"):
        path.write_text(json.dumps(to_dict(config)))
    iou = {name: (i + seed) % 7 / 7 for i, name in enumerate(CLASSES)}
    last = {"teacher": {"iou": iou | {CLASSES[-1]: None}}}
    (folder / "results.json").write_text(json.dumps({"steps": config.schedule.steps, "last": last}))
    (folder / "log.jsonl").write_text(json.dumps({"kind": "start", "step": 0}) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [save_run(root / "a", 0), save_run(root / "b", 1), save_run(root / "segformer", 2, SEGFORMER)]


def assert_written(output):
    with Image.open(output.with_suffix(".png")) as image:
        assert len(set(image.convert("L").tobytes())) > 20  # there is something on it
        assert image.width > 1000
    assert output.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


# ---- the weights of attention


def random_pixels(height=64, width=96):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("which", "grid"), [(0, (4, 6)), (2, (2, 3))])
def test_the_weights_are_those_of_eager_attention_at_the_chosen_patch_and_leave_the_model_as_it_was(runs, which, grid):
    network, pixels = load_network(runs[which] + "/teacher"), random_pixels()
    before, name = full_size_logits(network, pixels), network.base_model.config._attn_implementation
    rows = {patch: attention.patch_attention(network, pixels, patch) for patch in [(0, 0), (1, 2), (grid[0] - 1, grid[1] - 1)]}
    first = attention.patch_attention(network, pixels, (1, 2), layer=0)
    assert network.base_model.config._attn_implementation == name
    assert torch.equal(full_size_logits(network, pixels), before)

    network.base_model.set_attn_implementation("eager")
    with torch.no_grad():
        matrices = [m.mean(dim=1)[0] for m in network(pixel_values=pixels, output_attentions=True).attentions][-2:]
    prefix = 1 if which == 0 else 0
    for (row, column), weights in rows.items():
        expected = matrices[-1][prefix + row * grid[1] + column, prefix:]
        assert weights.shape == grid
        assert weights.sum().item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(weights.flatten(), expected / expected.sum())
    expected = matrices[0][prefix + grid[1] + 2, prefix:]
    torch.testing.assert_close(first.flatten(), expected / expected.sum())
    assert (rows[0, 0] - rows[1, 2]).abs().max() > 1e-3 and (first - rows[1, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["dpt", "upernet"])
def test_the_weights_of_a_dino_leave_its_registers_out(architecture):
    needs_keywords("dinov2-reg-small")
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 14, "mlp_ratio": 2}
    options = {"encoder": "dinov2-reg-small", "encoder_config": shape, "decoder_channels": 16, "out_indices": (0, 1, 2, 3)}
    model = Model(architecture=architecture, pretrained=False, **options)
    network = build_network(model, id2label={0: "sky", 1: "sea"}, crop=(28, 42)).eval()
    matrices = []

    def naive(module, query, key, value, attention_mask=None, **kwargs):
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        matrices.append(weights.mean(dim=1)[0])
        return (weights @ value).transpose(1, 2), weights

    pixels = random_pixels(28, 40)  # the last column of patches is padded
    before = full_size_logits(network, pixels)
    weights = attention.patch_attention(network, pixels, (1, 2))
    assert torch.equal(full_size_logits(network, pixels), before)
    AttentionInterface.register("naive_of_figures", naive)
    AttentionMaskInterface.register("naive_of_figures", sdpa_mask)
    adapters.encoder_of(network).set_attn_implementation("naive_of_figures")
    adapters.encode(network, torch.nn.functional.pad(pixels, (0, 2)))
    expected = matrices[-1][5 + 5, 5:]
    torch.testing.assert_close(weights.flatten(), expected / expected.sum())
    assert weights.shape == (2, 3)


def test_the_weights_of_a_beit_include_its_position_bias_and_siglip_is_left_out():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "intermediate_size": 64}
    beit = DinoDptConfig(backbone_config=BeitConfig(**shape, use_relative_position_bias=True), num_labels=3, decoder_channels=8)
    network, pixels = DinoDptForSemanticSegmentation(beit).eval(), random_pixels(32, 32)
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, std=2.0 if "relative_position" in name else 0.2)
    weights = attention.patch_attention(network, pixels, (1, 0))
    network.encoder.set_attn_implementation("eager")
    expected = network.encoder(pixels, output_attentions=True, **network.encoder_arguments).attentions[-1][0].mean(dim=0)[3, 1:]
    torch.testing.assert_close(weights.flatten(), (expected / expected.sum()).detach())
    siglip = DinoDptConfig(backbone_config=SiglipVisionConfig(**shape, vision_use_head=False), num_labels=3, decoder_channels=8)
    with pytest.raises(UserError, match="siglip_vision_model, so that its weights cannot be recorded; leave its checkpoint out"):
        attention.patch_attention(DinoDptForSemanticSegmentation(siglip).eval(), pixels, (1, 0))


def test_a_network_without_attention_is_named(runs):
    model = Model(architecture="deeplabv3plus", encoder="resnet50", pretrained=False, encoder_config=SMALL_RESNET)
    network = build_network(model, id2label={0: "sky", 1: "sea"}, crop=(32, 48)).eval()
    with pytest.raises(UserError, match="a deeplab\\w* network has no attention; leave its checkpoint out"):
        attention.patch_attention(network, random_pixels(), (0, 0))


def test_a_layer_that_does_not_exist_is_refused(runs):
    network = load_network(runs[0] + "/teacher")
    with pytest.raises(UserError, match="--layer is 2; the blocks are 0 to 1, or -1 for the last"):
        attention.patch_attention(network, random_pixels(), (0, 0), layer=2)


def test_the_middle_of_a_patch_is_a_place_in_the_image(runs):
    first, image = checkpoints.open_checkpoint(runs[0]), np.zeros((64, 90, 3), np.uint8)  # 4 x 5.6 patches
    assert attention.relative_position((1, 4), image, first) == pytest.approx((24 / 64, 72 / 90))
    assert attention.relative_position((0, 5), image, first)[1] == pytest.approx(88 / 90)
    with pytest.raises(UserError, match="--patch 4 0 lies outside the image; there are 4 x 6 patches"):
        attention.relative_position((4, 0), image, first)


def test_the_heat_map_is_hot_where_the_weights_are(runs, monkeypatch):
    checkpoint = checkpoints.open_checkpoint(runs[0])
    asked = []

    def one_patch(network, pixels, patch, layer):
        asked.append(patch)
        weights = torch.full((4, 6), 1e-6)
        weights[3, 5] = 1.0
        return weights

    monkeypatch.setattr(attention, "patch_attention", one_patch)
    heat = attention.heat_map(checkpoint, np.zeros((50, 90, 3), np.uint8), (0.5, 0.9), -1).astype(int)  # no whole patches
    assert asked == [(1, 5)]
    assert heat.shape == (50, 90, 3)
    assert heat[49, 89].sum() > 200 > 10 > heat[:30, :60].sum(axis=-1).max()


def test_a_coarse_heat_map_shows_more_than_its_brightest_patch(runs, monkeypatch):
    weights = torch.full((10, 14), 0.001)
    weights[2:6, 3:8], weights[4, 4] = 0.03, 0.09  # one patch far above those around it
    monkeypatch.setattr(attention, "patch_attention", lambda *_: weights)
    heat = attention.heat_map(checkpoints.open_checkpoint(runs[0]), np.zeros((100, 140, 3), np.uint8), (0.5, 0.5), -1).astype(int)
    assert heat[45, 45].sum() > heat[35, 65].sum() > 0.4 * heat[45, 45].sum() and heat[90, 120].sum() < 0.05 * heat[45, 45].sum()


# ---- the commands


@pytest.mark.slow
def test_attention_writes_a_picture_for_several_networks_and_images(runs, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((70, 50, 3), 90, np.uint8)).save(path)
    arguments = ["attention", *runs, "--image", IMAGE, "--patch", "1", "4", "--image", str(path), "--patch", "4", "3"]
    assert main([*arguments, "--output", str(tmp_path / "S1")]) == 0
    assert_written(tmp_path / "S1")


@pytest.mark.slow
def test_classes_compare_and_views_write_their_pictures(runs, tmp_path):
    assert main(["classes", *runs[:2], "--examples", "2", "--look", "3", "--output", str(tmp_path / "S2")]) == 0
    assert main(["compare", *runs, "--count", "2", "--output", str(tmp_path / "S4.pdf")]) == 0  # the suffix is no matter
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(TINY))
    assert main(["views", "--config", str(config), "run.seed=1", "--output", str(tmp_path / "deeper" / "S3")]) == 0
    for name in ("S2", "S4", "deeper/S3"):
        assert_written(tmp_path / name)


def test_views_are_made_of_the_pixels_of_their_batch():
    config = views.mix_every_image(from_dict(TINY))
    batch = views.build_batch(config, step=3)
    weak, strong, mixed, shuffled, both = views.views(batch, "cutmix")
    own = ~batch.strong[0].mix["boxes"][:, None].expand_as(strong)
    assert torch.equal(mixed[own], strong[own]) and not torch.equal(mixed, strong)
    for before, after in ((strong, shuffled), (mixed, both)):
        assert torch.equal(after.flatten(2).sort().values, before.flatten(2).sort().values) and not torch.equal(after, before)
    assert weak.shape == strong.shape and not torch.equal(weak, strong)


def test_a_mix_that_follows_pseudo_labels_is_refused(tmp_path, capsys):
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(TINY))
    assert main(["views", "--config", str(config), "method.mix=classmix", "--output", str(tmp_path / "S3")]) == 1
    assert "method.mix = 'classmix' follows what a teacher says; the figure has none, use method.mix=cutmix" in capsys.readouterr().err
    assert main(["views", "--config", str(ROOT / "configs" / "methods" / "psmt.json"), "--output", str(tmp_path / "S3")]) == 1
    assert "method.algorithm = 'psmt' shuffles nothing" in capsys.readouterr().err


# ---- numbers and words


def test_the_results_of_a_shorter_training_are_not_drawn(tmp_path):
    run = save_run(tmp_path, 0)
    assert classes.class_iou(run)[CLASSES[1]] == 1 / 7
    (tmp_path / "results.json").write_text(json.dumps({**json.loads((tmp_path / "results.json").read_text()), "steps": 1}))
    with pytest.raises(UserError, match="has no results.json with its numbers; give a run that has ended"):
        classes.class_iou(run)


@pytest.mark.parametrize("arguments", [["compare", "a", "--count"], ["classes", "a", "b", "--look"], ["classes", "a", "b", "--examples"]])
def test_a_count_of_images_is_at_least_one(arguments, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, "0", "--output", "x"])
    assert f"argument {arguments[-1]}: 0 is below 1" in capsys.readouterr().err


def test_changes_are_sorted_and_leave_out_what_was_not_measured():
    a = {"sky": 0.5, "sea": 0.25, "sand": None, "ship": 0.75}
    b = {"sky": 0.25, "sea": 0.5, "sand": 0.5, "ship": 0.75}
    assert classes.changes(a, b) == [("sea", 25, 50), ("ship", 75, 75), ("sky", 50, 25), ("mean", 50, 50)]
    assert [name for name, *_ in classes.most_changed(classes.changes(a, b), 2)] == ["sea", "sky", "mean"]
    assert [classes.format_change(value) for value in (1.26, -0.5, -0.04)] == ["+1.3", "\N{MINUS SIGN}0.5", "0.0"]


def test_examples_are_the_images_with_most_disagreement_on_labelled_pixels(runs):
    a, b = map(checkpoints.open_checkpoint, runs[:2])
    found = classes.largest_disagreements(a, b, look=5, count=5)
    shares = [(one != two)[each.labels != 255].mean() for each, one, two in found]
    assert shares == sorted(shares, reverse=True) and len({each.name for each, *_ in found}) == 5
    assert classes.largest_disagreements(a, b, look=5, count=1)[0][0].name == found[0][0].name


def test_images_are_found_by_path_and_by_id(runs, tmp_path):
    config = checkpoints.open_checkpoint(runs[0]).config
    Image.fromarray(np.full((5, 7, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    photo, known = checkpoints.find_images([str(tmp_path / "photo.png"), IMAGE], config)
    assert photo.image.shape == (5, 7, 3) and photo.labels is None
    item = validation_set(config)[2]
    assert known.name == item.id and np.array_equal(known.labels, item.labels)
    Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 100).save(tmp_path / "deep.png")
    deep, = checkpoints.find_images([str(tmp_path / "deep.png")], replace(config, data=replace(config.data, levels=(0, 3400))))
    assert deep.image[..., 0].ravel().tolist()[::17] == [0, 128, 255]
    with pytest.raises(UserError, match="no file nowhere, and no evaluation image of this id; the first is"):
        checkpoints.find_images(["nowhere"], config)


def test_networks_of_one_method_are_told_apart_by_their_sources(runs):
    assert [each.name for each in checkpoints.open_checkpoints(runs[:1], [], None)] == ["S4Former"]
    assert [each.name for each in checkpoints.open_checkpoints(runs[:2], [], None)] == [f"S4Former ({run})" for run in runs[:2]]


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_has_its_own_help_with_an_example(figure, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        main([figure, "--help"])
    assert f"\n    s4former figures {figure} " in capsys.readouterr().out


def test_without_matplotlib_the_command_says_what_to_install(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["views", "--config", "x", "--output", "y"]) == 1
    assert "s4former figures: needs matplotlib; pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["compare"], "give one checkpoint or more"),
        (["compare", "./nowhere"], "there is no folder nowhere"),
        (["attention", "A", "--image", "x"], "1 --image and 0 --patch; give one for each image"),
        (["classes", "A"], "a change is from one run to another; got 1 runs"),
        (["views", "--config", "none.json", "demo"], "cannot read 'demo'; write section.key=value"),
        (["views", "--config", "none.json"], "there is no config file none.json"),
    ],
)
def test_errors_are_one_sentence(arguments, complaint, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "S")]) == 1
    assert complaint in capsys.readouterr().err
