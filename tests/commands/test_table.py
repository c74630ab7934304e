"""Several runs as rows of mean and spread."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from s4former.commands.table import TableError, cell, read_results, table
from s4former.config import from_dict, to_dict

ROOT = Path(__file__).parent.parent.parent


def write_run(folder: Path, *, method="S4Former", seed=0, student=0.5, teacher=None, images=92, **sections) -> Path:
    tree = {"run": {"seed": seed, "output": str(folder)}, "data": {"labeled": f"lists/seed{seed}/labeled.txt"}}
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    last, best = {"student": score(student)}, {"student": {**score(student + 0.1), "step": 900}}
    if teacher is not None:
        last["teacher"], best["teacher"] = score(teacher), {**score(teacher + 0.1), "step": 600}
    results = {
        "method": method, "config": to_dict(from_dict(tree)), "seed": seed, "steps": 1200, "last": last, "best": best,
        "lists": {
            "labeled": {"images": images, "sha256": f"labeled {seed}"},
            "unlabeled": {"images": 1292, "sha256": f"unlabeled {seed}"},
            "validation": {"images": 500, "sha256": "the same"},
        },
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def score(mean_iou: float) -> dict:
    return {"mean_iou": mean_iou, "iou": {"a": mean_iou}, "pixel_accuracy": 0.9}


def rows(runs) -> list[list[str]]:
    return [[text.strip() for text in line.strip("|").split("|")] for line in table([read_results(r) for r in runs]).split("\n")]


def test_a_cell_is_mean_sample_deviation_and_number():
    assert cell([0.60, 0.62, 0.64]) == "62.00 ± 2.00 (3)"
    assert cell([0.6]) == "60.00 ± - (1)"
    assert cell([]) == "-"


def test_seeds_become_one_row_per_method_and_number_of_labels(tmp_path):
    runs = [write_run(tmp_path / f"full{i}", seed=i, student=0.5 + i / 100, teacher=0.55) for i in range(3)]
    runs.append(write_run(tmp_path / "sup", method="Sup-Only", student=0.4))
    runs.append(write_run(tmp_path / "more", images=183, student=0.6, teacher=0.7))
    title, line, *body = rows(runs)
    assert title == ["method", "labelled", "student, last", "student, best", "teacher, last", "teacher, best"]
    assert set("".join(line)) == {"-"}
    assert body == [
        ["S4Former", "92", "51.00 ± 1.00 (3)", "61.00 ± 1.00 (3)", "55.00 ± 0.00 (3)", "65.00 ± 0.00 (3)"],
        ["Sup-Only", "92", "40.00 ± - (1)", "50.00 ± - (1)", "-", "-"],
        ["S4Former", "183", "60.00 ± - (1)", "70.00 ± - (1)", "70.00 ± - (1)", "80.00 ± - (1)"],
    ]


def test_settings_of_one_name_stand_apart_and_say_in_what(tmp_path):
    runs = [
        write_run(tmp_path / "short", schedule={"steps": 100}),
        write_run(tmp_path / "long", schedule={"steps": 200}, run={"log_every": 3}),
        write_run(tmp_path / "long1", seed=1, schedule={"steps": 200}),
    ]
    title, _, *body = rows(runs)
    assert title[-1] == "differs in"
    assert [(row[2], row[-1]) for row in body] == [
        ("50.00 ± - (1)", "schedule.steps=100"),
        ("50.00 ± 0.00 (2)", "schedule.steps=200"),
    ]


def test_the_same_seed_and_lists_twice_is_refused(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("one", "two")]
    with pytest.raises(TableError, match="have the same setting, lists and seed 0; leave one of them out"):
        rows(runs)


def test_the_same_seed_with_other_lists_is_another_draw(tmp_path):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    results = json.loads((two / "results.json").read_text())
    results["lists"]["labeled"]["sha256"] = "another"
    (two / "results.json").write_text(json.dumps(results))
    assert rows([one, two])[2][2] == "50.00 ± 0.00 (2)"


def test_runs_without_usable_results_are_named(tmp_path):
    (tmp_path / "going").mkdir()
    with pytest.raises(TableError, match="going.results.json; a run writes its results.json when it ends"):
        read_results(tmp_path / "going")
    (tmp_path / "going" / "results.json").write_text('{"method": "S4Fo')
    with pytest.raises(TableError, match="is not valid JSON"):
        read_results(tmp_path / "going")
    (tmp_path / "going" / "results.json").write_text("{}")
    with pytest.raises(TableError, match="has no method, config, seed, last, best, lists"):
        read_results(tmp_path / "going")


def test_the_command_prints_the_table(tmp_path):
    run = write_run(tmp_path / "one")
    command = [sys.executable, "-m", "s4former.commands.table"]
    result = subprocess.run([*command, str(run)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "| S4Former | 92 " in result.stdout, result.stderr
    result = subprocess.run([*command, str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.startswith("error: there is no ")
