"""`method.ignored_as_unlabeled`: labelled images whose masks are sparse serve as unlabelled ones too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from folders import save_image, save_mask
from tiny_networks import batch_of, changed, method_of, network_of

from s4former.config import IGNORE_INDEX, from_dict
from s4former.data.batches import StepDataset
from s4former.data.sources import load_sources
from s4former.errors import DataError
from s4former.method.pseudo import pseudo_label, with_labels
from s4former.method.step import train_step
from s4former.method.student import Student
from s4former.training.engine import Teacher
from s4former.training.preflight import Report, check_sparse, check_unlabeled

HEIGHT, WIDTH = 32, 48


def test_labels_stand_where_there_are_some_and_the_teacher_speaks_elsewhere():
    logits = torch.tensor([[[[3.0, 0.0, 0.1]], [[0.0, 3.0, 0.0]]]])  # (1, 2, 1, 3): classes 0, 1, and unsure
    pseudo = pseudo_label(logits, torch.ones(1, 1, 3) > 0, 0.9)
    both = with_labels(pseudo, torch.tensor([[[1, 255, 0]]]))
    assert pseudo.label.tolist() == [[[0, 1, 255]]]
    assert both.label.tolist() == [[[1, 1, 0]]] and both.taught.tolist() == [[[255, 1, 255]]]
    assert both.confidence.flatten().tolist() == pytest.approx([1.0, pseudo.confidence[0, 0, 1].item(), 1.0])
    assert with_labels(pseudo, None) is pseudo


def test_the_loss_is_that_of_a_loop_over_pixels_value_and_gradient():
    batch, network, teacher = batch_of("setr"), network_of("setr").eval(), network_of("setr", seed=1).eval()
    known = torch.full((4, 32, 64), IGNORE_INDEX)
    known[0, :9, :30], known[2, 20:, 10:] = 3, 1
    still = torch.arange(2).reshape(1, 1, 2).repeat(4, 1, 1)
    batch = changed(replace(batch, known=known), orders=still)
    method = method_of(False, False, False, mix="none", threshold=0.2, auxiliary_weight=0.0)
    terms = train_step(Student(network, method).double().eval(), Teacher(teacher), batch, method)
    with torch.no_grad():
        confidence, label = teacher(batch.weak).logits.softmax(dim=1).max(dim=1)
    down = [side // small for side, small in zip((32, 64), label.shape[1:])]
    logits, total = network(batch.strong[0].images).logits, 0.0
    for image in range(4):
        for row in range(label.shape[1]):
            for column in range(label.shape[2]):
                place = image, row * down[0], column * down[1]
                target = known[place] if known[place] != IGNORE_INDEX else label[image, row, column]
                if known[place] != IGNORE_INDEX or confidence[image, row, column] > 0.2 and batch.valid[place]:
                    total = total + F.cross_entropy(logits[image, :, row, column], target)
    total = total / label.numel()
    ours = terms["consistency_strong"]
    assert torch.allclose(ours, total, rtol=1e-10)
    for own, other in zip(*(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True) for loss in (ours, total))):
        assert own is None and other is None or torch.allclose(own, other, rtol=1e-6, atol=1e-10)
    plain = train_step(Student(network, method).double().eval(), Teacher(teacher), replace(batch, known=None), method)
    assert torch.equal(plain["pseudo_labels"], terms["pseudo_labels"])  # what is counted is what the teacher says


@pytest.fixture
def sparse(tmp_path):
    """Four labelled images, two of them with a drawn line alone, and two unlabelled ones; a function from keys to a config."""
    for index in range(4):
        mask = np.full((HEIGHT, WIDTH), IGNORE_INDEX if index < 2 else 0, np.uint8)
        mask[10:12] = 1
        save_image(tmp_path / "images" / f"{index}.png", HEIGHT, WIDTH)
        save_mask(tmp_path / "masks" / f"{index}.png", mask)
    for name in ("u", "v"):
        save_image(tmp_path / "unlabeled" / f"{name}.png", HEIGHT, WIDTH)
    (tmp_path / "labeled.txt").write_text("0\n1\n2\n")
    (tmp_path / "validation.txt").write_text("3\n")

    def config(pool="unlabeled", **method):
        data = {"source": "folder", "root": str(tmp_path), "labeled": "labeled.txt", "unlabeled": pool,
                "validation": "validation.txt", "classes": ["a", "b"], "crop": [32, 48], "resize": [64, 32]}  # fmt: skip
        return from_dict({"data": data, "method": {"mix_group": 2, **method}, "run": {"batch": {"labeled": 2, "unlabeled": 4}}})

    return config


def test_partly_labelled_images_are_in_the_pool_with_their_labels(sparse):
    config = sparse(ignored_as_unlabeled=True)
    sources = load_sources(config.data)
    steps = StepDataset(config, sources, (1, 1), 0, 1)
    assert steps.sparse == [0, 1]
    drawn = [steps.read_unlabeled(0, position)[1] is not None for position in range(4)]
    assert sum(drawn) == 2  # a cycle has each of the four once
    shown = []
    for step in range(6):
        batch = steps.batch(step, 0)
        partly = [steps.read_unlabeled(step, position)[1] is not None for position in range(4)]
        has = [(each != IGNORE_INDEX).any().item() for each in batch.known]
        assert not any(label and not part for label, part in zip(has, partly))
        shown += [label for label, part in zip(has, partly) if part]
        assert set(batch.known.unique().tolist()) <= {1, IGNORE_INDEX}
        halves = [StepDataset(config, sources, (1, 1), process, 2).batch(step, 0).known for process in (0, 1)]
        assert torch.equal(torch.cat(halves), batch.known)  # groups of two lie in one process
    assert sum(shown) > len(shown) / 2  # a crop may miss the line
    plain = StepDataset(sparse(), sources, (1, 1), 0, 1)
    assert plain.sparse == [] and plain.batch(0, 0).known is None


def test_a_pool_of_nothing_else_is_enough(sparse):
    config = sparse(ignored_as_unlabeled=True)
    sources = load_sources(config.data)
    empty = replace(sources, unlabeled=sources.unlabeled.select([]))
    assert StepDataset(config, empty, (1, 1), 0, 1).batch(0, 0).known.shape == (4, 32, 48)
    with pytest.raises(DataError, match="there are no unlabelled images"):
        StepDataset(sparse(), empty, (1, 1), 0, 1)


def test_the_check_counts_ignored_pixels_and_says_what_they_can_do(sparse, capsys):
    config = sparse()
    labeled = np.zeros((3, IGNORE_INDEX + 1), int)
    labeled[:, 0], labeled[:2, IGNORE_INDEX] = 100, 400
    assert check_sparse(labeled, config, Report()) == 0
    assert "2 labelled images with ignored pixels (73% of all their pixels); method.ignored_as_unlabeled=true" in capsys.readouterr().out
    on = sparse(ignored_as_unlabeled=True)
    assert check_sparse(labeled, on, Report()) == 2
    assert "2 labelled images with ignored pixels (73% of all their pixels) in the pool" in capsys.readouterr().out
    sources = load_sources(on.data)
    report = Report()
    check_unlabeled(replace(sources, unlabeled=sources.unlabeled.select([])), on, report, 2)
    assert report.failed == [] and "none but the 2 labelled images with ignored pixels" in capsys.readouterr().out
