import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import SIZES, Pixelwise, batch_of, changed, network_of

from s4former.config import ConfigError, Method, from_dict
from s4former.method import u2pl
from s4former.method.context import StepContext
from s4former.method.representation import WIDTH, Memory, RepresentationHead
from s4former.method.step import total_loss
from s4former.method.student import Student, View
from s4former.randomness import torch_generator

METHOD = Method(algorithm="u2pl", threshold=0.0, mix_group=2, patch_shuffle=False, pasa="none", regularizer="none", memory=40)
CONTEXT = StepContext(predict=lambda images: images, progress=0.25, seed=7)


def memory_of(classes=5, size=40):
    return Memory(RepresentationHead([3]), classes, size).double()


def test_the_memory_keeps_the_newest_of_every_class_in_a_ring():
    memory = memory_of(classes=2, size=3)
    number = lambda *values: torch.tensor(values, dtype=torch.float64)[:, :, None].expand(-1, -1, WIDTH)  # noqa: E731
    memory.enqueue(number([1, 2], [10, 20]), torch.tensor([[True, True], [False, True]]))
    assert memory.filled.tolist() == [2, 1] and memory.features[:, :3, 0].tolist() == [[1, 2, 0], [20, 0, 0]]
    memory.enqueue(number([3, 4], [30, 40]), torch.tensor([[True, True], [False, False]]))
    assert memory.filled.tolist() == [3, 1] and memory.features[:, :3, 0].tolist() == [[4, 2, 3], [20, 0, 0]]
    assert memory.place.tolist() == [1, 1] and not memory.features[:, 3].any()


def test_a_class_centre_is_that_of_the_step_or_moves_with_its_momentum_and_stays_where_the_class_is_absent():
    memory = memory_of(classes=3)
    ones = torch.ones(3, WIDTH, dtype=torch.float64)
    memory.follow(ones, torch.tensor([True, True, False]), momentum=0.9)
    memory.follow(3 * ones, torch.tensor([True, False, True]), momentum=0.9)
    assert memory.prototypes[:, 0].tolist() == pytest.approx([1.2, 1, 3])
    memory.follow(5 * ones, torch.tensor([True, False, False]), momentum=0.0)
    assert memory.prototypes[:, 0].tolist() == pytest.approx([5, 1, 3])


def test_the_share_of_highest_entropy_is_unreliable_and_padding_is_not():
    confidence = torch.tensor([0.99, 0.9, 0.8, 0.7, 0.6, 0.51, 0.95, 0.5, 0.97, 0.85])
    logits = torch.stack([confidence.log(), (1 - confidence).log()])[None, :, None]
    valid = torch.ones(1, 1, 10) > 0
    found = lambda share: u2pl.find_unreliable(logits, valid, share, CONTEXT).flatten().nonzero().flatten().tolist()  # noqa: E731
    assert found(0.2) == [5, 7] and found(0.0) == []
    valid[..., 7] = False  # the most unsure one
    assert found(0.2) == [4, 5]
    assert not u2pl.find_unreliable(logits, valid & False, 0.2, CONTEXT).any()


def naive_pairs(logits, labels, unreliable):
    labeled, positive, negative = len(labels) - len(unreliable), {}, {}
    for n, i, j in ((n, i, j) for n in range(len(labels)) for i in range(labels.shape[1]) for j in range(labels.shape[2])):
        order = sorted(range(logits.shape[1]), key=lambda k: -logits[n, k, i, j].item())
        for k in range(logits.shape[1]):
            rank, own = order.index(k), labels[n, i, j] == k
            if own and logits[n, :, i, j].softmax(0)[k] > 0.3:
                positive.setdefault(k, set()).add((n, i, j))
            unsure = n >= labeled and unreliable[n - labeled, i, j] and 3 <= rank < 20
            known = n < labeled and labels[n, i, j] != 255 and not own and rank < 3
            if unsure or known:
                negative.setdefault(k, set()).add((n, i, j))
    return positive, negative


def test_anchors_and_negatives_are_those_of_the_paper():
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(3, 22, 4, 6), torch.randint(0, 22, (3, 4, 6))
    labels[:, 0] = 255
    labels = torch.where(torch.rand(3, 4, 6) < 0.5, logits.argmax(dim=1), labels)  # else hardly any is an anchor
    unreliable = torch.rand(2, 4, 6) < 0.4
    found = u2pl.find_pairs(logits, labels, unreliable)
    for mask, expected in zip(found, naive_pairs(logits, labels, unreliable)):
        for k in range(22):
            assert {tuple(x) for x in mask[k].view(3, 4, 6).nonzero().tolist()} == expected.get(k, set())
    assert found[0].any() and found[1].view(22, 3, -1)[:, 1:].any() and found[1].view(22, 3, -1)[:, 0].any()


def naive_contrast(features, positive, keys, memory, seed):
    """Pixel by pixel: the anchors of smallest keys, each with its own row of drawn negatives."""
    draws = torch.rand(len(positive), u2pl.ANCHORS, u2pl.NEGATIVES, generator=torch_generator(seed))
    flat, losses = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]), []
    for k in range(len(positive)):
        anchors = sorted(positive[k].nonzero().flatten().tolist(), key=lambda pixel: keys[pixel].item())[: u2pl.ANCHORS]
        if not anchors or not memory.filled[k]:
            continue
        total = 0
        for row, pixel in enumerate(anchors):
            cosine = lambda other, z=flat[pixel]: (z @ other) / z.norm() / other.norm()  # noqa: E731
            exponentials = [(cosine(memory.prototypes[k]) / 0.5).exp()]
            for number in range(u2pl.NEGATIVES):
                other = memory.features[k, int(draws[k, row, number] * memory.filled[k])]
                exponentials.append((cosine(other) / 0.5).exp())
            total = total - (exponentials[0] / sum(exponentials)).log()
        losses.append(total / len(anchors))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("most", [256, 5], ids=["all anchors", "five of them"])
def test_the_contrast_agrees_with_a_loop_in_value_and_gradient(most, monkeypatch):
    monkeypatch.setattr(u2pl, "ANCHORS", most)
    monkeypatch.setattr(u2pl, "NEGATIVES", 4)
    torch.manual_seed(0)
    features = torch.randn(3, WIDTH, 2, 5, dtype=torch.float64, requires_grad=True)
    positive, keys = torch.rand(5, 30) < 0.4, torch.rand(30, dtype=torch.float64)
    positive[2] = False  # a class without an anchor; class 3 has no negative
    memory = memory_of()
    memory.enqueue(torch.randn(5, 9, WIDTH, dtype=torch.float64), (torch.rand(5, 9) < 0.7) & (torch.arange(5) != 3)[:, None])
    memory.follow(torch.randn(5, WIDTH, dtype=torch.float64), torch.ones(5) > 0, 0.0)
    loss = u2pl.contrastive_loss(features, positive, keys, memory, CONTEXT)
    expected = naive_contrast(features, positive, keys, memory, CONTEXT.seed)
    assert loss.item() == pytest.approx(expected.item())
    assert torch.allclose(*(torch.autograd.grad(x, features)[0] for x in (loss, expected)), atol=1e-12)


def test_an_anchor_that_is_its_centre_and_opposite_to_its_negatives_has_the_worked_loss():
    memory, axis = memory_of(classes=2), torch.eye(WIDTH, dtype=torch.float64)[0]
    memory.follow(axis.expand(2, -1), torch.ones(2) > 0, 0.0)
    memory.enqueue(-axis.expand(2, 3, -1), torch.ones(2, 3) > 0)
    features = axis.view(1, -1, 1, 1).clone().requires_grad_()
    loss = u2pl.contrastive_loss(features, torch.tensor([[True], [False]]), torch.zeros(1).double(), memory, CONTEXT)
    assert loss.item() == pytest.approx(math.log(1 + 50 * math.exp(-4)))  # cosines 1 and -1, temperature 1/2


def test_without_anchors_or_negatives_the_contrast_is_zero_with_a_gradient():
    features = torch.randn(1, WIDTH, 2, 2, dtype=torch.float64, requires_grad=True)
    for anchors in (True, False):
        loss = u2pl.contrastive_loss(features, torch.full((5, 4), anchors), torch.rand(4).double(), memory_of(), CONTEXT)
        assert loss.item() == 0 and torch.autograd.grad(loss, features)[0].abs().max() == 0


def test_too_many_negatives_are_drawn_at_random_and_the_centre_is_the_mean_of_the_anchors(monkeypatch):
    monkeypatch.setattr(u2pl, "REMEMBERED", 2)
    memory, features = memory_of(classes=2), torch.randn(2, WIDTH, 2, 2, dtype=torch.float64)
    keys = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.2, 0.8, 0.7, 0.6], dtype=torch.float64)
    negative = torch.tensor([[1, 0, 1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]]) > 0
    positive = torch.tensor([[0, 1, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0]]) > 0
    u2pl.remember(memory, features, positive, negative, keys, 0.0, CONTEXT)
    flat = u2pl.by_pixel(features)
    assert memory.filled.tolist() == [2, 1] and memory.known.tolist() == [True, False]
    assert torch.equal(memory.features[0, :2], flat[[3, 0]]) and torch.equal(memory.features[1, 0], flat[4])
    assert torch.allclose(memory.prototypes[0], flat[[1, 6]].mean(dim=0))


class Represented(Pixelwise):
    """A network that looks at every pixel alone, with a representation: the pixel, repeated and scaled."""

    def __init__(self, seed):
        super().__init__(seed)
        self.second = torch.nn.Conv2d(3, WIDTH, 1).double()

    def forward(self, views):
        if isinstance(views, torch.Tensor):
            return self.layer(views).detach()
        return [(self.layer(view.images), (self.second(view.images),) if view.represent else ()) for view in views]

    def represent(self, images):
        return self.layer(images).detach(), self.second(images).detach()


def small_batch():
    batch = batch_of("setr", images=4)
    half = lambda x: x[..., ::4, ::8]  # noqa: E731
    mix = {"boxes": half(batch.strong[0].mix["boxes"]), "partner": batch.strong[0].mix["partner"]}
    batch = replace(
        batch, labeled=half(batch.labeled), labels=half(batch.labels), weak=half(batch.weak), valid=half(batch.valid),
        seeds=(1, 2, 3, 4), labeled_seeds=(5, 6, 7),
    )  # fmt: skip
    return changed(batch, images=half(batch.strong[0].images), mix=mix)


def test_the_consistency_of_a_step_agrees_with_a_loop_over_pixels_in_value_and_gradient():
    student, teacher, batch = Represented(0), Represented(1), small_batch()
    teacher.memory = memory_of()
    terms = u2pl.train_step(student, teacher, batch, METHOD, CONTEXT)
    strong, size = batch.strong[0], batch.valid.shape[-2:]
    partner = strong.mix["partner"]
    box = strong.mix["boxes"]
    images = torch.where(box[:, None], strong.images[partner], strong.images)
    label = torch.where(box, teacher(batch.weak).argmax(1)[partner], teacher(batch.weak).argmax(1))
    valid = torch.where(box, batch.valid[partner], batch.valid)
    p = teacher(images).softmax(1)
    entropy = -(p * p.log()).sum(1)
    highest = sorted(entropy[valid].tolist(), reverse=True)
    dropped = math.ceil(0.2 * 0.75 * (len(highest) - 1))  # a share of 0.2, a quarter of the run later
    kept = valid & (entropy < highest[dropped - 1] - 1e-12)
    total = -sum(
        student.layer(images)[n, :, i, j].log_softmax(0)[label[n, i, j]] for n, i, j in kept.nonzero().tolist()
    )
    expected = valid.sum() / kept.sum() * total / kept.sum()
    assert terms["consistency_strong"].item() == pytest.approx(expected.item()) and 0 < dropped < len(highest)
    gradients = [torch.autograd.grad(x, student.layer.weight)[0] for x in (terms["consistency_strong"], expected)]
    assert torch.allclose(*gradients) and size.numel() * 4 > len(highest)
    assert terms["confident"].item() == pytest.approx((kept.sum() / valid.sum()).item())
    contrast = torch.autograd.grad(terms["contrast_strong"], student.second.weight)[0]
    assert contrast.abs().max() > 0 and teacher.memory.filled.min() > 0
    assert total_loss(terms, METHOD).item() == pytest.approx(
        sum(terms[name].item() for name in ("supervised", "consistency_strong", "contrast_strong"))
    )


def test_on_labels_alone_the_head_still_gets_a_gradient():
    student = Represented(0)
    terms = u2pl.train_step(student, None, small_batch(), METHOD, CONTEXT)
    assert set(terms) == {"supervised"}
    assert torch.autograd.grad(terms["supervised"], student.second.weight)[0].abs().max() == 0


@pytest.mark.parametrize("family", SIZES)
def test_the_head_reads_what_the_decoder_of_any_network_reads(family):
    network = network_of(family).train()
    student = Student(network, METHOD).double()
    assert network.training
    images = torch.randn(2, 3, *SIZES[family][1], dtype=torch.float64)
    ((_, (features,)),) = student([View(images, represent=True)])
    assert features.shape[:2] == (2, WIDTH) and features.shape[2] <= images.shape[2] // 4
    assert not any("representation" in name for name in network.state_dict())


def test_any_size_is_picked_as_the_nearest_and_whole_cells_as_the_others_do():
    x = torch.arange(9 * 12).view(1, 9, 12)
    assert torch.equal(u2pl.pick(x, (3, 4)), x[:, ::3, ::3])
    assert torch.equal(u2pl.pick(x, (4, 5)), F.interpolate(x[:, None].float(), (4, 5), mode="nearest")[:, 0].long())


def test_rounds_are_refused_and_told():
    with pytest.raises(ConfigError, match="method.algorithm = 'u2pl' compares the pixels of a whole step, which run.batch.rounds = 2"):
        from_dict({"method": {"algorithm": "u2pl", "pasa": "none", "regularizer": "none", "patch_shuffle": False},
                   "run": {"batch": {"rounds": 2}}})  # fmt: skip


def test_the_contrast_is_float32_under_half_precision():
    student, teacher, batch = Represented(0).float(), Represented(1).float(), small_batch().map(lambda x: x.float() if x.dtype == torch.double else x)
    teacher.memory = memory_of().float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = u2pl.train_step(student, teacher, batch, METHOD, CONTEXT)
    assert {terms[name].dtype for name in ("supervised", "consistency_strong", "contrast_strong")} == {torch.float32}
    assert 0.5 < teacher.memory.prototypes.norm() and teacher.memory.prototypes.dtype == torch.float32
