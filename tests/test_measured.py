"""The scripts of docs/measured on the checkpoint of a tiny run."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from scripts import ROOT, run, train, write_config

MEASURED = ROOT / "docs" / "measured"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    assert train(write_config(folder), folder / "run").returncode == 0
    return str(sorted(Path(folder, "run", "checkpoints").iterdir())[-1])


def rows_of(script, *arguments):
    """The printed table by its first column."""
    result = run([sys.executable, str(MEASURED / script), *arguments])
    assert result.returncode == 0, result.stderr
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if line.startswith("|")]
    return {name: cells for name, *cells in table}


@pytest.mark.slow
def test_the_same_view_twice_has_the_same_gradients(checkpoint, tmp_path):
    options = ["--batches", "2", "--images", "4", "--json", str(tmp_path / "numbers.jsonl"), "--view", "twin", "strong", "pasa=none"]
    rows = rows_of("gradients.py", checkpoint, *options)
    assert rows["labels"][0].startswith("+1.00") and rows["labels"][2].startswith("+1.00")
    assert rows["twin: consistency"] == rows["CutMix: consistency"] and rows["twin: ncr"] == rows["CutMix: ncr"]
    assert rows["CutMix: consistency"][1] == rows["CutMix: consistency"][3] == "+0.00 ± 0.00"
    assert rows["PASA: consistency"] != rows["strong colours alone: consistency"]
    assert (tmp_path / "numbers.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
def test_the_margins_of_every_pseudo_label(checkpoint):
    rows = rows_of("margins.py", checkpoint, "--batches", "2")
    assert list(rows)[:2] == ["pseudo label", "---"] and list(rows)[-1] == "all objects"
    counted = list(rows.values())[2:-1]
    assert counted and all(int(pixels) > 0 and float(cross_entropy) >= 0 for pixels, cross_entropy, _ in counted)


@pytest.mark.slow
def test_a_checkpoint_has_the_score_that_its_run_had_there(checkpoint):
    rows = rows_of("scores.py", checkpoint)
    last = json.loads((Path(checkpoint).parents[1] / "results.json").read_text())["last"]["teacher"]
    assert list(rows.values())[-1] == ["0", Path(checkpoint).name.removeprefix("step-").lstrip("0"), f"{100 * last['mean_iou']:.2f}"]


@pytest.mark.slow
def test_every_pixel_is_in_one_bin_of_confidence(checkpoint):
    steps = list(rows_of("calibration.py", checkpoint, "--images", "4").items())[2:]
    [(step, cells)] = steps
    assert step == Path(checkpoint).name.removeprefix("step-").lstrip("0")
    shares = [int(re.search(r"\((\d+)\)", cell)[1]) for cell in cells[:-1]]
    assert 95 <= sum(shares) <= 105 and 0 <= float(cells[-1]) <= 100


@pytest.mark.parametrize("options", [[], ["--by-image"]])
def test_pairs_across_studies_are_those_of_the_document(options):
    text = (MEASURED.parent / "measured.md").read_text()
    words = re.search(r"python docs/measured/across.py (.*?)\n\n", text, re.S)[1].replace("\\\n", " ").split()
    result = run([sys.executable, str(MEASURED / "across.py"), *options, *words])
    rows = [line for line in result.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 3 and "\n".join(rows) in text
    assert "no runs of b/c; write NAME=STUDY/METHOD" in run([sys.executable, str(MEASURED / "across.py"), "a=b/c"]).stderr


def test_bins_of_confidence_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(MEASURED)
    from calibration import count_by_confidence

    probabilities = torch.tensor([[0.6, 0.4], [0.96, 0.04], [0.01, 0.99], [0.97, 0.03]])
    labels = torch.tensor([0, 1, 1, 255])
    pixels, confidence, right = count_by_confidence(probabilities.log().T.view(1, 2, 2, 2), labels.view(1, 2, 2))
    assert pixels.tolist() == [0, 1, 0, 0, 0, 1, 1] and right.tolist() == [0, 1, 0, 0, 0, 0, 1]
    torch.testing.assert_close(confidence, torch.tensor([0, 0.6, 0, 0, 0, 0.96, 0.99]).double(), atol=1e-6, rtol=0)


def test_a_margin_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(MEASURED)
    from margins import margin_changes

    student, teacher = torch.zeros(1, 3, 1, 2), torch.tensor([2.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    cross_entropy, ncr = margin_changes(student, torch.tensor([[[0, 255]]]), teacher)
    # probabilities are 1/3: 1 - 1/3 for the label, -1/3 for its rival, class 1
    torch.testing.assert_close(cross_entropy, torch.tensor([[[1.0, 0.0]]]))
    # the negatives are 0.5, 0.5 and softmax(1, 0) = 0.731, 0.269; the gradient of the rival is -2 * 0.5 * 0.231
    torch.testing.assert_close(ncr, torch.tensor([[[-0.2311, 0.0]]]), atol=1e-4, rtol=0)
