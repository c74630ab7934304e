"""docs/measured/gradients.py on the checkpoint of a tiny run."""

import sys
from pathlib import Path

import pytest

from scripts import ROOT, run, train, write_config


@pytest.mark.slow
def test_the_same_view_twice_has_the_same_gradients(tmp_path):
    assert train(write_config(tmp_path), tmp_path / "run").returncode == 0
    checkpoint = str(sorted(Path(tmp_path, "run", "checkpoints").iterdir())[-1])
    options = ["--batches", "2", "--images", "4", "--json", str(tmp_path / "numbers.jsonl"), "--view", "twin", "strong", "pasa=none"]
    result = run([sys.executable, str(ROOT / "docs" / "measured" / "gradients.py"), checkpoint, *options])
    assert result.returncode == 0, result.stderr
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if line.startswith("|")]
    rows = {term: cells for term, *cells in table}
    assert rows["labels"][0].startswith("+1.00") and rows["labels"][2].startswith("+1.00")
    assert rows["twin: consistency"] == rows["CutMix: consistency"] and rows["twin: ncr"] == rows["CutMix: ncr"]
    assert rows["CutMix: consistency"][1] == rows["CutMix: consistency"][3] == "+0.00 ± 0.00"
    assert rows["PASA: consistency"] != rows["strong colours alone: consistency"]
    assert (tmp_path / "numbers.jsonl").read_text().count("\n") == 1
