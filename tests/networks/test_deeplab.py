"""DeepLabV3+ over a ResNet: shapes, weights, and what the method asks of a network without attention."""

import json
import math

import pytest
import timm
import tiny_networks
import torch
from safetensors.torch import save_file
from exported import runs_alone
from tiny_dino import CONFIGS, images
from transformers import AutoModelForSemanticSegmentation

from s4former.config import Method, Model, from_dict, load
from s4former.errors import ConfigError
from s4former.method.checks import check_batch_norm, check_network, shuffle_grid
from s4former.method.patch_shuffle import inverse, patch_shuffle
from s4former.method.step import total_loss, train_step
from s4former.method.student import Student, View
from s4former.networks import adapters
from s4former.networks.build import build_network, load_network, save_network
from s4former.networks.deeplab import DeepLabConfig, DeepLabForSemanticSegmentation
from s4former.networks.encoder_weights import IMAGENET, normalization
from s4former.training.engine import Teacher, build_optimizer

CLASSES = 5
SMALL = {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 16]}  # c1 has 16 channels, c4 64


def model_of(**changes):
    options = {"encoder": "resnet50", "pretrained": False, "encoder_config": SMALL, "decoder_channels": 16, **changes}
    return Model(architecture="deeplabv3plus", **options)


def build(model, crop=(32, 48)):
    torch.manual_seed(0)
    return build_network(model, id2label={index: f"class {index}" for index in range(CLASSES)}, crop=crop)


def tiny(**changes):
    return build(model_of(**changes)).eval()


def test_forward_is_encode_then_decode_and_features_lie_at_strides_4_and_16():
    network, x = tiny(), images(32, 48)
    features = adapters.encode(network, x)
    assert [tuple(f.shape) for f in features] == [(2, 16, 8, 12), (2, 64, 2, 3)]
    assert torch.equal(adapters.decode(network, features), network(pixel_values=x).logits)
    assert network(x).logits.shape == (2, CLASSES, 32, 48)


@pytest.mark.parametrize("size", [(32, 48), (37, 51), (9, 20)])
def test_images_of_any_size(size):
    network, x = tiny(), images(*size)
    assert network(x).logits.shape == (2, CLASSES, *size)
    assert adapters.full_size_logits(network, x).shape == (2, CLASSES, *size)
    assert adapters.token_grids(network, *size) == [tuple(f.shape[-2:]) for f in adapters.encode(network, x)]


def test_maps_and_logits_are_enlarged_with_aligned_corners_and_an_older_folder_as_it_always_was(tmp_path):
    network, x = tiny().double(), images(33, 49, dtype=torch.float64)
    c1, c4 = network.encode(x)
    head = network.head
    pooled = head.pooling(c4.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *c4.shape[-2:])
    joint = head.projection(torch.cat([*(branch(c4) for branch in head.pyramid), pooled], dim=1))

    def logits(align_corners):
        larger = torch.nn.functional.interpolate(joint, c1.shape[-2:], mode="bilinear", align_corners=align_corners)
        return head.classifier(head.fusion(torch.cat([head.reduction(c1), larger], dim=1)))

    expected = torch.nn.functional.interpolate(logits(True), (33, 49), mode="bilinear", align_corners=True)
    assert torch.allclose(network(x).logits, expected)
    before = logits(False)
    network.float().save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    assert tree.pop("align_corners") is True
    (tmp_path / "config.json").write_text(json.dumps(tree))  # as an older version wrote it
    old = load_network(tmp_path).double()
    assert old(x).logits.shape == (2, CLASSES, 9, 13) and torch.allclose(old(x).logits, before)


def test_weights_with_a_deep_stem_give_one(tmp_path):
    deep = {"stem_type": "deep", "stem_width": 2, "channels": SMALL["channels"]}
    original = timm.create_model("resnet50", **deep).eval()
    torch.save(original.state_dict(), tmp_path / "resnet.pth")
    model = model_of(encoder=str(tmp_path / "resnet.pth"), pretrained=True, encoder_config={"channels": SMALL["channels"]})
    network, x = build(model).eval(), images(64, 96)
    assert [layer.out_channels for layer in network.backbone.conv1 if isinstance(layer, torch.nn.Conv2d)] == [2, 2, 4]
    with torch.no_grad():
        stages = original.forward_intermediates(x, indices=[1], intermediates_only=True)
    torch.testing.assert_close(adapters.encode(network, x)[0], stages[0])
    network.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(load_network(tmp_path / "saved")(x).logits, network(x).logits)


def test_the_real_size_has_the_encoder_of_timm_and_its_pyramid():
    with torch.device("meta"):
        network = build(Model(architecture="deeplabv3plus", encoder="resnet101", pretrained=False))
        classifier = timm.create_model("resnet101", num_classes=0)
    assert sum(p.numel() for p in adapters.encoder_of(network).parameters()) == sum(p.numel() for p in classifier.parameters())
    assert [tuple(branch[0].dilation) for branch in network.head.pyramid] == [(1, 1), (6, 6), (12, 12), (18, 18)]
    assert network.head.reduction[0].out_channels == 48 and network.head.projection[0].in_channels == 5 * 256


def test_pooling_tells_every_place_of_the_whole_image():
    network = tiny().double()
    c1, c4 = torch.zeros(2, 16, 12, 16).double(), torch.randn(2, 64, 3, 4).double()
    for branch in network.head.pyramid:
        torch.nn.init.zeros_(branch[0].weight)
    logits = network.decode((c1, c4))
    inside = logits[..., 16:-16, 16:-16]  # padding of the 3x3 convolutions is seen at the border
    assert torch.allclose(inside, inside[..., :1, :1].expand_as(inside)) and not torch.allclose(logits[0], logits[1])


def test_first_cross_entropy_is_close_to_the_logarithm_of_the_classes():
    torch.manual_seed(0)
    network = DeepLabForSemanticSegmentation(DeepLabConfig("resnet50", SMALL, num_labels=21)).train()
    labels = torch.randint(0, 21, (2, 32, 48), generator=torch.Generator().manual_seed(2))
    labels[:, :4] = 255
    output = network(images(32, 48), labels=labels)
    assert output.loss.item() == pytest.approx(math.log(21), abs=0.1)
    assert len(network(images(32, 48), return_dict=False)) == 1


def test_config_survives_its_json():
    config = tiny().config
    again = DeepLabConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict() and again.dilations == (6, 12, 18)


# ---- weights


@pytest.mark.parametrize("file", ["resnet.pth", "model.safetensors"])
def test_a_file_with_the_names_of_torchvision_gives_the_encoder(file, tmp_path):
    torch.manual_seed(4)
    original = timm.create_model("resnet50", channels=SMALL["channels"]).eval()  # 3, 4, 6 and 3 blocks
    state = {name: t.half() if t.is_floating_point() else t for name, t in original.state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    (save_file if file.endswith("safetensors") else torch.save)(state, tmp_path / file)
    model = model_of(encoder=str(tmp_path / file), pretrained=True, encoder_config={"channels": SMALL["channels"]})
    network, x = build(model).eval(), images(64, 96)
    assert network.config.resnet == "resnet50" and normalization(model) == IMAGENET
    original.load_state_dict(state, strict=False)
    with torch.no_grad():
        stages = original.forward_intermediates(x, indices=[1], intermediates_only=True)
    torch.testing.assert_close(adapters.encode(network, x)[0], stages[0])
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "deit-base"}, "model.encoder = 'deit-base' with .*use one of resnet50, resnet101"),
        ({"encoder": "timm/resnet18"}, "model.encoder = 'timm/resnet18' with .*pretrained = false; use one of resnet50, resnet101"),
        ({"pretrained": True}, "model.encoder = 'resnet50' could not be read .*one of resnet50, resnet101 with"),
        ({"encoder": "missing.pth", "pretrained": True}, "model.encoder = 'missing.pth': there is no such file"),
        ({"encoder_config": {"chanels": [1]}}, "model.encoder_config is .*chanels.*; timm says: .*unexpected keyword"),
        ({"activation_checkpointing": True}, "model.activation_checkpointing = true would run the batch norms"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(model_of(**changes))


def test_a_file_that_does_not_fit_names_the_tensor(tmp_path):
    state = timm.create_model("resnet50", **SMALL).state_dict()
    save_file(state, tmp_path / "one.safetensors")
    with pytest.raises(ConfigError, match="layer3 with 1 blocks instead of 6 or 23"):
        build(model_of(encoder=str(tmp_path / "one.safetensors"), pretrained=True))
    state = timm.create_model("resnet50", channels=SMALL["channels"]).state_dict()
    del state["layer1.0.bn1.running_mean"]
    save_file(state, tmp_path / "two.safetensors")
    with pytest.raises(ConfigError, match="1 missing: layer1.0.bn1.running_mean; .* of another shape: .*instead of"):
        build(model_of(encoder=str(tmp_path / "two.safetensors"), pretrained=True, encoder_config={"channels": [4, 8, 8, 8]}))


# ---- what the method asks of a network


def test_there_is_no_attention_and_pasa_is_refused_in_words():
    network = tiny()
    assert adapters.attention_grids(network, 32, 48) == [] and adapters.prefix_tokens(network) == 0
    assert adapters.coarsest_stride(network) == 16 and adapters.token_grids(network, 320, 320) == [(80, 80), (20, 20)]
    tree = {"data": {"crop": [320, 320]}, "method": {"block": 5}, "model": {"architecture": "deeplabv3plus"}}
    assert shuffle_grid(from_dict(tree), network) == (4, 4)  # blocks of 80 px: 20 cells of c1, 5 of c4
    with pytest.raises(ConfigError, match="method.pasa = 'main' steers attention over the whole image, and this deeplabv3plus has none; set method.pasa=none"):
        check_network(from_dict(tree), network)
    tree["method"]["pasa"] = "none"
    check_network(from_dict(tree), network)


def test_blocks_are_restored_on_both_feature_maps():
    """Blocks of one colour each: away from the border of a block, features must come back to where they belong."""
    network = tiny().double()
    colours = torch.rand(2, 3, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = colours.repeat_interleave(320, 2).repeat_interleave(320, 3)
    order = torch.tensor([[[1, 0]], [[0, 1]]])
    moved = adapters.encode(network, patch_shuffle(x, order))
    for feature, original in zip(moved, adapters.encode(network, x), strict=True):
        restored, side = patch_shuffle(feature, inverse(order)), feature.shape[-2]
        for left in (0, side):
            centre = (..., slice(side // 2, side // 2 + 1), slice(left + side // 2, left + side // 2 + 1))
            assert torch.allclose(restored[centre], original[centre], rtol=0, atol=1e-12)
            assert not torch.allclose(feature[0][centre], original[0][centre])


def test_the_student_restores_before_the_decoder():
    network, x = tiny().double(), images(32, 64, dtype=torch.float64)
    order = torch.tensor([[[1, 0]], [[0, 1]]])
    ((logits, _),) = Student(network, Method(pasa="none")).double().eval()([View(x, order=order)])
    features = tuple(patch_shuffle(f, inverse(order)) for f in adapters.encode(network, x))
    assert torch.equal(logits, adapters.decode(network, features))


def test_views_are_encoded_one_by_one_and_a_step_reaches_every_parameter(monkeypatch):
    monkeypatch.setitem(tiny_networks.SIZES, "deeplabv3plus", (model_of(), (32, 64)))
    network, batch = tiny_networks.network_of("deeplabv3plus"), tiny_networks.batch_of("deeplabv3plus")
    method = tiny_networks.method_of(pasa=False)
    student, teacher = Student(network, method).double().train(), Teacher(network)
    seen = []
    network.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    total_loss(train_step(student, teacher, batch, method), method).backward()
    assert seen == [3, 4]
    assert [name for name, p in student.named_parameters() if p.grad is None or not p.grad.any()] == []
    groups = build_optimizer(student, from_dict({"optimizer": {"lr": 0.1}}).optimizer).param_groups
    slow = {id(p) for group in groups if group["base"] == 0.1 for p in group["params"]}
    assert slow == {id(p) for p in adapters.encoder_of(network).parameters()}


def test_the_config_for_voc_fits_its_network():
    files = [CONFIGS / "voc_92.json", CONFIGS / "networks" / "deeplabv3plus.json"]
    config = load(files, ["model.pretrained=false", "method.patch_shuffle=true"])
    with torch.device("meta"):
        network = build(config.model)
    check_network(config, network)
    assert shuffle_grid(config, network) == (4, 4)


def test_a_pass_of_one_image_is_refused_in_words():
    files = [CONFIGS / "voc_92.json", CONFIGS / "networks" / "deeplabv3plus.json", CONFIGS / "methods" / "fixmatch.json"]
    check_batch_norm(load(files, ["run.batch.rounds=4"]), 1)
    for keys, processes in ((["run.batch.rounds=8"], 1), ([], 8)):
        with pytest.raises(ConfigError, match=r"run.batch of 8 \+ 8 images leaves a pass of one, .*; use larger batches, or fewer"):
            check_batch_norm(load(files, keys), processes)
    upernet = from_dict({"model": {"architecture": "upernet"}, "run": {"batch": {"labeled": 8, "unlabeled": 8, "rounds": 8}}})
    with pytest.raises(ConfigError, match="the batch norms of UperNet cannot train"):
        check_batch_norm(upernet, 1)


# ---- saving and loading


def test_a_saved_folder_loads_to_equal_weights_and_logits(tmp_path):
    network, x = tiny(), images(37, 51)
    save_network(network, tmp_path, *IMAGENET, short_side=32)
    assert (tmp_path / "deeplab.py").is_file()
    for again in (load_network(tmp_path), AutoModelForSemanticSegmentation.from_pretrained(tmp_path)):
        state = again.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
        torch.testing.assert_close(again(x).logits, network(x).logits)


@pytest.mark.slow
def test_a_saved_network_works_where_this_package_is_missing(tmp_path):
    assert runs_alone(tiny(), tmp_path)
