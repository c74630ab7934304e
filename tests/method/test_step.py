import copy
from dataclasses import replace

import pytest
import torch
from tiny_networks import batch_of, changed, method_of, network_of
from torch import nn

from s4former.config import PRESETS, Method, from_dict
from s4former.method import mixing
from s4former.method import step as step_module
from s4former.method import student as student_module
from s4former.method.batch import Strong
from s4former.method.context import StepContext
from s4former.method.losses import REGULARIZERS
from s4former.method.mixing import MIXES, MixContext, cutmix_box, gather
from s4former.method.pasa import VARIANTS
from s4former.method.patch_shuffle import inverse, patch_shuffle
from s4former.method.pseudo import COUNTS, downsample_nearest
from s4former.method.step import total_loss, train_step
from s4former.method.student import Student, View
from s4former.networks.adapters import decode, encode, use_activation_checkpointing
from s4former.training.engine import Teacher

TABLE_S2 = [
    (False, False, False), (True, False, False), (False, True, False), (False, False, True),
    (True, True, False), (False, True, True), (True, False, True), (True, True, True),
]  # fmt: skip


@pytest.mark.parametrize("shuffle, pasa, ncr", TABLE_S2)
def test_every_row_of_the_component_table_trains_exactly_its_terms(shuffle, pasa, ncr):
    method = method_of(shuffle, pasa, ncr)
    network = network_of("setr")
    losses = train_step(Student(network, method).double(), Teacher(network), batch_of("setr"), method)
    branches = ["strong", "pasa"] if pasa else ["strong"]
    expected = {"supervised", "auxiliary", "confident", *COUNTS} | {f"consistency_{b}" for b in branches}
    assert set(losses) == expected | ({f"ncr_{b}" for b in branches} if ncr else set())
    assert all(torch.isfinite(loss).all() for loss in losses.values()) and losses["confident"] > 0
    total_loss(losses, method).backward()


@pytest.mark.parametrize("family", ["setr", "segformer"])
def test_one_joint_forward_equals_the_separate_passes_of_the_paper(family):
    method, network, batch = method_of(), network_of(family), batch_of(family)
    student = Student(network, method).double()
    separate = copy.deepcopy(student)
    confidence = torch.rand(4, 16, 32)
    views = [View(batch.labeled, auxiliary=True), View(batch.strong[0].images, order=batch.strong[0].orders), View(batch.strong[0].images, confidence=confidence)]
    torch.manual_seed(1)
    student.eval(), separate.eval()
    joint = student(views)
    for view, (logits, auxiliary) in zip(views, joint):
        features = encode(separate.network, view.images, **separate.attention_arguments(view))
        if view.order is not None:
            features = tuple(patch_shuffle(x, inverse(view.order)) for x in features)
        assert torch.allclose(logits, decode(separate.network, features), atol=1e-10)
        assert len(auxiliary) == (len(student.auxiliary) if view.auxiliary else 0)


@pytest.mark.parametrize("family", ["setr", "segformer"])
def test_under_autocast_the_view_with_a_bias_joins_the_others(family, monkeypatch):
    student = Student(network_of(family).float(), method_of()).eval()
    batch, passes, plain = batch_of(family), [], student_module.encode
    views = [View(batch.labeled.float()), View(batch.weak.float(), confidence=torch.rand(4, 16, 32))]
    monkeypatch.setattr(student_module, "encode", lambda network, images, **kw: passes.append((len(images), len(kw))) or plain(network, images, **kw))
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append([logits.float() for logits, _ in student(views)])
    assert passes == [(3, 0), (4, 1), (7, 1)]
    assert all((own - half).norm() < 0.03 * own.norm() for own, half in zip(*found))


@pytest.mark.parametrize("family, maps", [("setr", 1), ("segformer", 4)])
def test_only_the_feature_maps_that_the_decoder_reads_are_restored(family, maps, monkeypatch):
    student, batch, restored = Student(network_of(family), method_of()).double(), batch_of(family), []
    monkeypatch.setattr(student_module, "patch_shuffle", lambda x, order: restored.append(x) or patch_shuffle(x, order))
    student([View(batch.strong[0].images, order=batch.strong[0].orders)])
    assert len(restored) == maps and len(student.encode([View(batch.labeled)])[0]) > 2


def test_batch_norms_see_one_view_at_a_time():
    method = method_of(auxiliary_weight=0.0)
    student = Student(network_of("setr"), method).double().train()
    seen = []
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    batch = batch_of("setr")
    student([View(batch.labeled), View(batch.strong[0].images, order=batch.strong[0].orders), View(batch.strong[0].images, confidence=torch.rand(4, 8, 16))])
    assert sorted(set(seen)) == [3, 4] and len(seen) == 3 * 2


def test_the_sum_of_the_paper_of_the_released_code_and_of_the_base():
    terms = {"consistency_strong": 1.0, "consistency_pasa": 2.0, "ncr_strong": 0.5, "ncr_pasa": 0.25, "supervised": 3.0}
    terms = {name: torch.tensor(value) for name, value in terms.items()}
    assert total_loss(terms, Method()) == 4.875
    official = {name: value for name, value in terms.items() if name != "ncr_pasa"}
    assert total_loss(official, Method()) == 4.75
    assert total_loss({name: terms[name] for name in ("supervised", "consistency_strong")}, Method()) == 4
    assert total_loss({**terms, "auxiliary": torch.tensor(1.0)}, Method(unsupervised_weight=0.0)) == pytest.approx(3.4)


def test_the_official_preset_is_what_method_says_it_is():
    method = from_dict({"method": {"preset": "official"}}).method
    assert (method.pasa_confidence, method.regularizer_norm, method.regularizer_on) == ("mask", "l2", "strong")
    assert (method.regularizer_mixed_teacher, method.weak_colour, method.ema_order) == (False, True, "before")
    assert from_dict({"method": {"preset": "official", "weak_colour": False}}).method.weak_colour is False
    assert set(PRESETS) == {"paper", "official"}


def test_labels_only_has_the_gradient_of_the_whole_method_at_weight_zero():
    network = network_of("setr")
    gradients = []
    for method in (method_of(unsupervised_weight=0.0), Method(teacher="none")):
        student = Student(copy.deepcopy(network), method).double()
        torch.manual_seed(3)
        for head in student.auxiliary:
            for parameter in head.parameters():
                nn.init.normal_(parameter, std=0.1)
        teacher = None if method.teacher == "none" else Teacher(network)
        total_loss(train_step(student, teacher, batch_of("setr"), method), method).backward()
        gradients.append([parameter.grad for parameter in student.parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients))


class Pointwise(nn.Module):
    """A network that looks at single pixels: CutMix on student and teacher must then agree everywhere."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 5, 1).double()

    def forward(self, views):
        if isinstance(views, torch.Tensor):
            return self.layer(views)
        return [(self.layer(view.images), ()) for view in views]


@pytest.mark.parametrize("preset, is_zero", [("paper", True), ("official", False)])
def test_teacher_logits_that_are_not_mixed_are_compared_with_another_image(preset, is_zero):
    method = Method(**{**PRESETS[preset], "threshold": 0.0, "pasa": "none", "regularizer_norm": "l2sq"})
    batch = batch_of("setr")
    still = torch.arange(2).reshape(1, 1, 2).expand(4, -1, -1)
    batch = changed(batch, images=batch.weak, orders=still, valid=torch.ones_like(batch.valid))
    network = Pointwise()
    loss = train_step(network, network, batch, method)["ncr_strong"]
    assert (loss.item() < 1e-12) == is_zero


def test_the_pasa_branch_is_left_alone_by_what_happens_to_the_strong_one():
    method, network, batch = method_of(auxiliary_weight=0.0), network_of("setr"), batch_of("setr")
    teacher = Teacher(network)
    student = Student(network, method).double()
    mixed = train_step(student, teacher, batch, method)["consistency_pasa"]
    mix = batch.strong[0].mix
    plain = changed(batch, mix={**mix, "boxes": torch.zeros_like(mix["boxes"])})
    assert torch.equal(mixed, train_step(student, teacher, plain, method)["consistency_pasa"])


def test_the_pasa_branch_may_see_the_mixed_view():
    method = method_of(auxiliary_weight=0.0, shuffle=False, pasa_alpha=0.0, pasa_view="mixed")
    network, batch = network_of("setr"), batch_of("setr")
    batch = changed(batch, orders=torch.tensor([[0, 1]]).expand(4, 1, 2))  # without shuffle and bias both views are one
    losses = train_step(Student(network, method).double(), Teacher(network), batch, method)
    for name in ("consistency", "ncr"):
        torch.testing.assert_close(losses[f"{name}_pasa"], losses[f"{name}_strong"])


def test_the_regularizer_has_a_weight_of_its_own():
    network, batch = network_of("setr"), batch_of("setr")
    teacher = Teacher(network)
    one, third = (
        train_step(Student(network, method).double(), teacher, batch, method)
        for method in (method_of(), method_of(regularizer_weight=0.3))
    )
    torch.testing.assert_close(third["ncr_strong"], 0.3 * one["ncr_strong"])
    assert torch.equal(third["consistency_strong"], one["consistency_strong"])


@pytest.mark.parametrize("views", ["all", "labeled"])
def test_running_statistics_follow_every_view_or_the_labelled_one(views):
    method, batch = method_of(auxiliary_weight=0.0, running_statistics=views), batch_of("setr")
    network, alone = network_of("setr").train(), network_of("setr").train()
    train_step(Student(network, method).double(), Teacher(network), batch, method)
    decode(alone, encode(alone, batch.labeled))
    pairs = [(a.running_mean, b.running_mean) for a, b in zip(network.modules(), alone.modules()) if isinstance(a, nn.BatchNorm2d)]
    assert pairs and all(torch.allclose(*pair) == (views == "labeled") for pair in pairs)


def test_nothing_confident_gives_zero_and_finite_gradients():
    method, network = method_of(threshold=1.0), network_of("setr")
    student = Student(network, method).double()
    losses = train_step(student, Teacher(network), batch_of("setr"), method)
    assert losses["confident"] == 0 == losses["ncr_pasa"] == losses["consistency_strong"]
    total_loss(losses, method).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


def test_the_teacher_gets_no_gradient_and_keeps_its_statistics():
    method, network = method_of(), network_of("setr")
    teacher = Teacher(network)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    student = Student(network, method).double().train()
    total_loss(train_step(student, teacher, batch_of("setr"), method), method).backward()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activation_checkpointing_changes_no_gradient_with_pasa_on(checkpointing):
    gradients = []
    for on in (False, checkpointing):
        network, method = network_of("setr"), method_of(auxiliary_weight=0.0)
        if on:
            use_activation_checkpointing(network)
        student = Student(network, method).double().train()
        total_loss(train_step(student, Teacher(network), batch_of("setr"), method), method).backward()
        gradients.append([parameter.grad for parameter in student.parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients))


@pytest.mark.parametrize("stages, calls", [("last", 1), ("all", 4)])
def test_segformer_is_biased_in_its_last_stage_or_in_all(stages, calls, monkeypatch):
    student = Student(network_of("segformer"), method_of(pasa_stages=stages)).double().eval()
    view = View(torch.randn(2, 3, 64, 128, dtype=torch.float64), confidence=torch.rand(2, 16, 32))
    bias = student.attention_arguments(view)["pasa"]
    assert list(bias) == [(8, 8)] if stages == "last" else len(bias) == 4
    assert all(each.factors[1].shape[1] == 8 for each in bias.values())  # the keys of every stage lie on one grid
    seen = []
    from s4former.method import pasa

    original = pasa.sdpa_attention_forward
    monkeypatch.setattr(pasa, "sdpa_attention_forward", lambda m, q, k, v, mask, **kw: seen.append(mask is not None) or original(m, q, k, v, mask, **kw))  # fmt: skip
    student([view])
    assert sum(seen) == calls and len(seen) == 4


def test_the_step_fits_on_one_screen():
    import inspect

    assert len(inspect.getsource(step_module.train_step).splitlines()) <= 60


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("regularizer", ["none", *REGULARIZERS])
def test_every_mix_trains_with_every_regularizer(mix, regularizer, monkeypatch):
    monkeypatch.setattr(mixing, "TILES", 2)  # these features are 2 x 4 cells
    method = method_of(mix=mix, regularizer=regularizer, auxiliary_weight=0.0)
    batch, network = batch_of("setr"), network_of("setr")
    place = MixContext(seed=0, step=0, positions=[0, 1, 2, 3], partner=[1, 2, 3, 0], size=(32, 64), group=4, probability=1.0, classes=5, labeled=3)
    batch = changed(batch, mix=MIXES[mix].draw(place))
    student = Student(network, method).double()
    losses = train_step(student, Teacher(network), batch, method)
    assert all(torch.isfinite(loss).all() for loss in losses.values()) and losses["consistency_strong"] > 0
    total_loss(losses, method).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


@pytest.mark.parametrize("shuffle", [False, True])
def test_masked_consistency_is_that_of_a_loop_value_and_gradient(shuffle):
    """The student sees a few blocks, shuffled or not, and is compared with the teacher on the whole image."""
    batch, network, teacher = batch_of("setr"), network_of("setr").eval(), network_of("setr", seed=1)
    hidden = torch.tensor([[[1, 0]], [[0, 1]], [[0, 0]], [[1, 1]]], dtype=torch.bool)
    orders = batch.strong[0].orders if shuffle else torch.arange(2).reshape(1, 1, 2).repeat(4, 1, 1)
    batch = changed(batch, mix={"hidden": hidden}, orders=orders)
    method = method_of(False, False, False, mix="masked", threshold=0.2, auxiliary_weight=0.0)
    ours = train_step(Student(network, method).double().eval(), Teacher(teacher), batch, method)["consistency_strong"]
    with torch.no_grad():
        confidence, label = teacher.eval()(batch.weak).logits.softmax(dim=1).max(dim=1)
    total = 0.0
    for image in range(4):
        seen = batch.strong[0].images[image].clone()
        for column in range(2):
            seen[:, :, 32 * column : 32 * column + 32] *= ~hidden[image, 0, column]
        halves = seen.chunk(2, dim=2)
        features = network.encode(torch.cat([halves[i] for i in orders[image].flatten()], dim=2)[None])[-1]
        places = features.chunk(2, dim=3)
        logits = network.head(torch.cat([places[i] for i in orders[image].flatten().argsort()], dim=3))[0]
        cells = [side // small for side, small in zip((32, 64), label.shape[1:])]
        valid = batch.valid[image, :: cells[0], :: cells[1]]
        losses = torch.nn.functional.cross_entropy(logits[None], label[image][None], reduction="none")[0]
        total = total + losses[(confidence[image] > 0.2) & valid].sum() / label.numel()
    assert ours > 0 and torch.allclose(ours, total, rtol=1e-10)
    for own, other in zip(*(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True) for loss in (ours, total))):
        assert own is None and other is None or torch.allclose(own, other, rtol=1e-6, atol=1e-10)


def test_tiles_mixed_between_images_are_unmixed_before_the_decoder_after_blocks_are_restored():
    network = network_of("setr").eval()
    torch.nn.init.zeros_(network.vit.embeddings.position_embeddings)
    for layer in network.vit.layers:  # without attention between them, tokens are a function of their own patch
        torch.nn.init.zeros_(layer.attention.v_proj.weight), torch.nn.init.zeros_(layer.attention.v_proj.bias)
    student = Student(network, method_of()).double().eval()
    batch = batch_of("setr", images=4)
    tiles = torch.stack([torch.randperm(4) for _ in range(2)], dim=1).reshape(4, 1, 2)
    strong = batch.strong[0]
    mixed = gather(strong.images, tiles.repeat_interleave(32, 1).repeat_interleave(32, 2))
    view = View(patch_shuffle(mixed, strong.orders), order=strong.orders, tiles=tiles)
    assert torch.allclose(student([view])[0][0], student([View(strong.images)])[0][0], atol=1e-10)


def test_the_bias_gets_padding_and_the_seeds_of_the_images(monkeypatch):
    given = {}

    def attention_bias(confidence, grids, prefix, variant, alpha, valid, seeds):
        given.update(valid=valid, seeds=seeds)
        return {}

    monkeypatch.setattr(student_module, "attention_bias", attention_bias)
    batch = replace(batch_of("setr"), seeds=(5, 6, 7, 8))
    student = Student(network_of("setr"), method_of(pasa=True)).double()
    train_step(student, Teacher(student.network), batch, method_of(pasa=True))
    assert given["seeds"] == (5, 6, 7, 8) and torch.equal(given["valid"], downsample_nearest(batch.valid, given["valid"].shape[-2:]))
    assert not given["valid"].all()


@pytest.mark.parametrize("variant", ["rand", *VARIANTS])
def test_every_variant_of_the_bias_changes_the_student(variant):
    student = Student(network_of("setr"), method_of(pasa=True, auxiliary_weight=0.0, pasa_alpha=20.0)).double().eval()
    student.method = Method(**{**vars(student.method), "pasa": variant})
    images = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    (plain, _), (steered, _) = student([View(images), View(images, confidence=torch.rand(2, 8, 16), seeds=(0, 1))])
    assert not torch.allclose(plain, steered, atol=1e-8)


# ---- UniMatch and AugSeg


def second_batch_of(images=4, seed=0):
    """A batch with two strong views and a second batch behind the first."""
    first, second = batch_of("setr", images, seed), batch_of("setr", images, seed + 1)
    partner = images + torch.arange(images)
    generator = torch.Generator().manual_seed(seed)

    def view(number):
        both = torch.cat([first.weak, second.weak])
        noise = 0.1 * torch.randn(both.shape, generator=generator, dtype=torch.float64)
        boxes = torch.stack([cutmix_box(32, 64, generator) for _ in range(images)])
        return Strong(images=both + noise, mix={"boxes": boxes, "partner": partner}, orders=first.strong[0].orders.roll(number, 0))

    weak, valid = torch.cat([first.weak, second.weak]), torch.cat([first.valid, second.valid])
    return replace(first, weak=weak, valid=valid, strong=(view(0), view(1)))


UNIMATCH = {"strong_views": 2, "mix_from": "second_batch", "auxiliary_weight": 0.0}


def test_unimatch_weighs_two_strong_views_by_a_quarter_each_and_the_feature_branch_by_a_half():
    method = method_of(False, False, False, feature_dropout=0.5, **UNIMATCH)
    network = network_of("setr").eval()
    student, batch = Student(network, method).double().eval(), second_batch_of()
    terms = train_step(student, Teacher(network), batch, method)
    assert set(terms) == {"supervised", "consistency_strong", "consistency_features", "confident", *COUNTS}
    each = [
        train_step(student, Teacher(network), replace(batch, strong=(view,)), replace(method, strong_views=1, feature_dropout=0.0))
        for view in batch.strong
    ]
    strong = [one["consistency_strong"] for one in each]
    assert not torch.allclose(*strong) and torch.allclose(terms["consistency_strong"], sum(strong) / 2)
    expected = terms["supervised"] + 0.25 * strong[0] + 0.25 * strong[1] + 0.5 * terms["consistency_features"]
    assert torch.allclose(total_loss(terms, method), expected)


def test_pasted_pixels_and_their_labels_come_from_the_second_batch():
    method = method_of(False, False, True, threshold=0.0, **UNIMATCH)
    batch = second_batch_of()
    still = torch.arange(2).reshape(1, 1, 2).expand(4, -1, -1)
    batch = changed(batch, images=batch.weak, orders=still, valid=torch.ones_like(batch.valid))
    network = Pointwise()
    losses = train_step(network, network, batch, method)
    assert losses["ncr_strong"].item() < 1e-12  # the student's pixels and the teacher's word come from the same images
    twisted = batch.weak.clone()
    twisted[4:] = batch.weak[4:].flip(0)
    assert train_step(network, network, changed(batch, images=twisted), method)["ncr_strong"].item() > 1e-4


def test_the_feature_branch_drops_channels_in_training_and_sees_the_view_the_config_names():
    student = Student(network_of("setr"), method_of(auxiliary_weight=0.0)).double()
    images = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    for training, differs in ((True, True), (False, False)):
        student.train(training)
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        (plain, _), (dropped, _) = student([View(images), View(images, dropout=0.5)])
        assert torch.allclose(plain, dropped) != differs
    method = method_of(False, False, False, feature_dropout=0.5, **UNIMATCH)
    network = Pointwise()
    batch = second_batch_of()
    seen = []
    watch = lambda views: seen.append(views[-1].images) or network(views)  # noqa: E731
    for view, expected in (("strong", batch.strong[0].images[:4]), ("weak", batch.weak[:4])):
        train_step(watch, network, batch, replace(method, feature_view=view))
        assert torch.equal(seen[-1], expected)


def test_the_valid_normaliser_divides_by_labels_and_by_what_is_no_padding():
    network, batch = Pointwise(), batch_of("setr")
    method = method_of(False, False, True, threshold=0.0, mix="none")
    plain = train_step(network, network, batch, method)
    valid = train_step(network, network, batch, replace(method, normalizer="valid"))
    labels, pixels = (batch.labels != 255).double().mean(), batch.valid.double().mean()
    assert labels < 1 and pixels < 1
    assert torch.allclose(valid["supervised"], plain["supervised"] / labels)
    for name in ("consistency_strong", "ncr_strong"):
        assert torch.allclose(valid[name], plain[name] / pixels), name
    assert torch.equal(valid["confident"], plain["confident"])


def test_the_valid_normaliser_of_two_processes_is_that_of_their_joint_batch():
    network, method = Pointwise(), method_of(False, False, False, threshold=0.0, mix="none", normalizer="valid")
    batch = batch_of("setr", images=4)
    still = torch.arange(2).reshape(1, 1, 2).expand(4, -1, -1)
    batch = changed(batch, orders=still, labels=torch.cat([batch.labels, batch.labels[:1]]).clone(),
                    labeled=torch.cat([batch.labeled, batch.labeled[:1]]), labeled_valid=torch.ones(4, 32, 64) > 0)  # fmt: skip
    batch.labels[0, :20] = 255

    def part(rows):
        view = Strong(batch.strong[0].images[rows], {}, batch.strong[0].orders[rows])
        return replace(batch, labeled=batch.labeled[rows], labels=batch.labels[rows], weak=batch.weak[rows],
                       valid=batch.valid[rows], strong=(view,))  # fmt: skip

    parts, counts = [part(slice(0, 2)), part(slice(2, 4))], [[], []]
    for count, half in zip(counts, parts):
        train_step(network, network, half, method, StepContext(average=lambda number: count.append(number) or number))
    (first,), (second,) = counts
    assert (first != second).any()
    context = StepContext(average=lambda number: (first + second) / 2)
    halves = [total_loss(train_step(network, network, half, method, context), method) for half in parts]
    assert torch.allclose(sum(halves) / 2, total_loss(train_step(network, network, batch, method), method))
