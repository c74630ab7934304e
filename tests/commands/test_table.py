"""Several runs as rows of mean and spread."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from s4former.commands.archive import append, class_table, compare_methods, paired_table, read_archive
from s4former.commands.table import format_scores, main, read_results, results_table
from s4former.config import from_dict, to_dict
from s4former.errors import DataError
from s4former.evaluation.packed_counts import pack_counts

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
    return [[text.strip() for text in line.strip("|").split("|")] for line in results_table([read_results(r) for r in runs]).split("\n")]


def test_a_cell_is_mean_sample_deviation_and_number():
    assert format_scores([0.60, 0.62, 0.64]) == "62.00 ± 2.00 (3)"
    assert format_scores([0.6]) == "60.00 ± - (1)"
    assert format_scores([]) == "-"


def test_a_run_that_was_resumed_with_other_settings_has_a_row_of_its_own(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1)]
    results = json.loads((runs[1] / "results.json").read_text())
    (runs[1] / "results.json").write_text(json.dumps({**results, "changes": ["from step 3: optimizer.lr was 0.01 and is 0.0003"]}))
    body = rows(runs)[2:]
    assert len(body) == 2 and body[1][-1] == "resumed with=from step 3: optimizer.lr was 0.01 and is 0.0003"


def test_runs_on_two_datasets_of_the_hub_are_two_rows(tmp_path):
    data = {"source": "hub", "labeled": "first:3"}
    runs = [write_run(tmp_path / name, seed=seed, data={**data, "root": f"me/{name}"}) for seed, name in enumerate(("leaves", "roads"))]
    assert [row[-1] for row in rows(runs)[2:]] == ["data.root=me/leaves", "data.root=me/roads"]


def test_an_archive_without_paired_and_a_file_that_is_none_are_named(tmp_path, capsys):
    path = tmp_path / "archive.jsonl.gz"
    append(path, archived("base", 0, share(40)))
    assert main([str(path)]) == 1 and "an archive is read with --paired METHOD" in capsys.readouterr().err
    path.write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert main(["--paired", "base", str(path)]) == 1 and "its lines are no records of runs" in capsys.readouterr().err
    for flags in (["--by-image"], ["--by-class"], ["--network", "teacher"], ["--images", "0:2"]):
        with pytest.raises(SystemExit):
            main([str(tmp_path), *flags])
        assert "say how --paired compares" in capsys.readouterr().err


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


def test_seeds_that_differ_in_reporting_keys_and_paths_only_are_one_row(tmp_path):
    write_run(tmp_path / "0", seed=0, student=0.5)
    run = {"log_every": 7, "checkpoint_every": 9, "keep": 5, "trackers": ["tensorboard"], "push_to_hub": "a/b", "push_every": 3}
    data = {"workers": 1, "root": "/elsewhere", "validation": "other/name.txt"}
    write_run(tmp_path / "1", seed=1, student=0.6, run={**run, "seed": 1, "output": "x"}, data=data, evaluation={"batch": 3})
    assert [row[:3] for row in rows([tmp_path / "0", tmp_path / "1"])[2:]] == [["S4Former", "92", "55.00 ± 7.07 (2)"]]


def test_settings_of_one_name_are_rows_that_list_what_differs(tmp_path):
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
    with pytest.raises(DataError, match="have the same setting, lists and seed 0; leave one of them out"):
        rows(runs)


def test_the_same_seed_with_other_lists_is_another_draw(tmp_path):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    results = json.loads((two / "results.json").read_text())
    results["lists"]["labeled"]["sha256"] = "another"
    (two / "results.json").write_text(json.dumps(results))
    assert rows([one, two])[2][2] == "50.00 ± 0.00 (2)"


def test_runs_without_usable_results_are_refused(tmp_path):
    (tmp_path / "going").mkdir()
    with pytest.raises(DataError, match="going.results.json; a run writes its results.json when it ends"):
        read_results(tmp_path / "going")
    (tmp_path / "going" / "results.json").write_text('{"method": "S4Fo')
    with pytest.raises(DataError, match="is not valid JSON"):
        read_results(tmp_path / "going")
    (tmp_path / "going" / "results.json").write_text("{}")
    with pytest.raises(DataError, match="has no method, config, seed, last, best, lists"):
        read_results(tmp_path / "going")


def test_the_command_prints_the_table(tmp_path, capsys):
    main([str(write_run(tmp_path / "one"))])
    assert "| S4Former | 92 " in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("s4former table: there is no ")


# ---- methods in pairs


def archived(method, seed, images, *, study="s", protocol="p", key=None, networks=("student",)):
    """A line of an archive; images are (right, predicted, true) by class, a list for each image."""
    lists = {part: {"images": 1, "sha256": f"{part} {seed}"} for part in ("labeled", "unlabeled")}
    lists["validation"] = {"images": len(images), "sha256": "the same"}
    counts = {network: pack_counts(np.array(images)) for network in networks}
    return {
        "study": study, "method": method, "key": key or f"{study}{protocol}{method}{seed}", "protocol": protocol,
        "draw": {"seed": seed}, "lists": lists, "seconds": 120 if method == "base" else 180,
        "images": {"classes": ["a", "b"], "ids": [str(i) for i in range(len(images))], "counts": counts},
    }  # fmt: skip


# of 100 pixels, all of class a, so many are said to be a, and nothing is said of the rest: IoU in percent, class b is absent
def share(*percents):
    return [[[percent, 0], [percent, 0], [100, 0]] for percent in percents]


def paired_rows(lines, base, *arguments, **named):
    text = paired_table(compare_methods(lines, base, *arguments, **named), base, *arguments)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n") if "|" in line]


def test_pairs_by_hand_without_any_spread():
    lines = [archived("base", seed, share(40 + seed, 40 + seed)) for seed in (0, 1, 2)]
    lines += [archived("better", seed, share(45 + seed, 45 + seed)) for seed in (0, 1, 2)]
    titles, _, row = paired_rows(lines, "base")
    assert titles == ["method", "pairs", "mIoU", "base, same draws", "difference", "95 % interval", "order holds", "minutes a run"]
    assert row == ["better", "3", "46.00", "41.00", "+5.00", "+5.00 to +5.00", "at 3 of 3", "3.0 (2.0)"]


def test_images_are_paired_by_their_names_wherever_they_stand_in_the_list():
    base, other = archived("base", 0, share(10, 50, 90)), archived("m", 0, share(90, 50, 10))
    other["images"]["ids"] = ["2", "1", "0"]
    assert paired_rows([base, other], "base")[2][4:6] == ["+0.00", "+0.00 to +0.00"]
    assert paired_rows([base, other], "base", images=slice(0, 1))[2][2] == "10.00"


def test_pairs_with_other_numbers_of_labels_are_other_tables():
    lines = [archived("base", seed, share(40)) for seed in (0, 1)] + [archived("m", 0, share(60)), archived("m", 1, share(38))]
    for line in (lines[1], lines[3]):
        line["lists"]["labeled"]["images"] = 732
    rows_ = paired_rows(lines, "base")
    assert [row[4] for row in rows_ if row[0] == "m"] == ["+20.00", "-2.00"]
    assert "732 labels" in paired_table(compare_methods(lines, "base"), "base")


def test_an_image_without_any_label_counts_in_no_mean_over_images():
    images = [*share(50), [[0, 0], [100, 0], [0, 0]]]
    assert paired_rows([archived("base", 0, images), archived("m", 0, images)], "base", by_image=True)[2][2] == "50.00"


def test_the_order_is_counted_and_only_common_draws_are_paired():
    lines = [archived("base", seed, share(40)) for seed in (0, 1, 2)]
    lines += [archived("m", seed, share(40 + change)) for seed, change in ((0, 9), (1, -3), (2, 3), (5, 50))]
    row = paired_rows(lines, "base")[2]
    assert row[:5] == ["m", "3", "43.00", "40.00", "+3.00"] and row[6] == "at 2 of 3"
    low, high = map(float, row[5].split(" to "))
    # all three draws the worst: 1 in 27, more than the 2.5 % that are cut off
    assert low == -3 and high == 9


def test_draws_with_other_evaluation_images_are_refused():
    lines = [archived(method, seed, share(40)) for method in ("base", "m") for seed in (0, 1)]
    for line in lines[1::2]:
        line["lists"]["validation"]["sha256"] = "another"
    with pytest.raises(DataError, match="the draws of study s have different evaluation images; give each list a study"):
        compare_methods(lines, "base")


def test_a_resample_draws_the_same_images_for_both_members_of_a_pair():
    lines = [archived("base", 0, share(10, 90, 50)), archived("m", 0, share(12, 92, 52))]
    assert paired_rows(lines, "base")[2][4:6] == ["+2.00", "+2.00 to +2.00"]
    lines = [archived("base", 0, share(10, 90, 50)), archived("m", 0, share(40, 90, 50))]
    row = paired_rows(lines, "base")[2]
    assert row[4:6] == ["+10.00", "+0.00 to +30.00"]


def test_mean_iou_by_hand_with_a_class_that_only_one_run_predicts():
    base = [[[60, 0], [60, 0], [100, 0]]]  # a: 60 / 100; b in neither
    method = [[[80, 0], [80, 20], [100, 0]]]  # a: 80 / 100, b: 0 / 20, so the mean is 40
    assert paired_rows([archived("base", 0, base), archived("m", 0, method)], "base")[2][2:5] == ["40.00", "60.00", "-20.00"]


def test_classes_pair_by_pair_the_most_different_first(tmp_path, capsys):
    # of 100 pixels of a and of b so many are right, and nothing is said of the rest
    images = lambda a, b: [[[a, b], [a, b], [100, 100]]]
    path = tmp_path / "a.jsonl.gz"
    for seed, (a, b) in enumerate([(50, 90), (50, 10)]):
        append(path, archived("base", seed, images(50, 50)))
        append(path, archived("m", seed, images(a, b)))
    main(["--paired", "base", str(path), "--by-class"])
    assert capsys.readouterr().out.count("| class | m |\n| --- | --- |\n| b | +40, -40 |\n| a | +0, +0 |\n") == 1


def test_the_mean_over_images_counts_a_class_as_often_as_it_is_seen():
    # a in both images, b in the second alone: 50, and (100 + 0) / 2 with 20 pixels of a said to be b
    method = [[[50, 0], [50, 0], [100, 0]], [[100, 0], [100, 20], [100, 20]]]
    base = [[[100, 0], [100, 0], [100, 0]], [[100, 20], [100, 20], [100, 20]]]
    rows = paired_rows([archived("base", 0, base), archived("m", 0, method)], "base", by_image=True)
    assert rows[2][2:5] == ["50.00", "100.00", "-50.00"]


def test_some_of_the_images():
    lines = [archived("base", 0, share(40, 10)), archived("m", 0, share(60, 10))]
    assert paired_rows(lines, "base", images=slice(0, 1))[2][4] == "+20.00"
    assert paired_rows(lines, "base", images=slice(1, None))[2][4] == "+0.00"
    with pytest.raises(DataError, match="--images leaves none of the 2 evaluation images"):
        compare_methods(lines, "base", images=slice(5, 9))


def test_networks_of_a_run():
    base, method = archived("base", 0, share(40)), archived("m", 0, share(50), networks=("teacher", "student"))
    method["images"]["counts"]["teacher"] = pack_counts(np.array(share(70)))
    found = {network: paired_rows([base, method], "base", network)[2][4] for network in ("student", "teacher", "mean")}
    assert found == {"student": "+10.00", "teacher": "+30.00", "mean": "+20.00"}


def test_studies_and_protocols_are_not_mixed():
    lines = [archived("base", 0, share(40)), archived("m", 0, share(50), protocol="q"), archived("m", 0, share(60), study="t")]
    lines += [archived("base", 0, share(10), protocol="q")]
    text = paired_table(compare_methods(lines, "base"), "base")
    assert "s (protocol p, 1 label): student, last, against base" in text and "s (protocol q" in text and "t (protocol" not in text
    assert [row[:5] for row in paired_rows(lines, "base") if row[0] == "m"] == [["m", "1", "50.00", "10.00", "+40.00"]]


def test_a_run_that_was_archived_under_another_name_counts_there_too():
    known = archived("plain", 0, share(40), study="first", key="k")
    short = {name: value for name, value in archived("base", 0, share(0), key="k").items() if name != "images"}
    assert paired_rows([known, short, archived("m", 0, share(50))], "base")[2][4] == "+10.00"


def test_pairs_that_cannot_be_made_are_refused():
    lines = [archived("base", 0, share(40)), archived("base", 0, share(41), key="changed")]
    with pytest.raises(DataError, match="study s has two different runs of base with seed 0: the method was changed"):
        compare_methods(lines, "base")
    with pytest.raises(DataError, match="the archive has no method 'bass'; it has base"):
        compare_methods(lines[:1], "bass")


def test_the_command_prints_pairs(tmp_path, capsys):
    path = tmp_path / "a.jsonl.gz"
    for line in (archived("base", 0, share(40, 40)), archived("m", 0, share(50, 60))):
        append(path, line)
    main(["--paired", "base", str(path), "--images", "0:1", "--figure", str(tmp_path / "a.svg")])
    assert "| m | 1 | 50.00 | 40.00 | +10.00 | +10.00 to +10.00 | at 1 of 1 |" in capsys.readouterr().out
    drawn = (tmp_path / "a.svg").read_text()
    main(["--paired", "base", str(path), "--images", "0:1", "--figure", str(tmp_path / "a.svg")])
    assert "<svg" in drawn and (tmp_path / "a.svg").read_text() == drawn
    for arguments in (["--paired", "base", str(path), "--figure", "a.jpg"], [str(tmp_path), "--figure", "a.svg"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "--figure draws what --paired compares, as FILE.svg, FILE.png, FILE.pdf" in capsys.readouterr().err
    assert main(["--paired", "base", str(tmp_path / "none.gz")]) == 1
    assert re.match("s4former table: there is no archive .*none.gz; s4former study writes one", capsys.readouterr().err)


def test_the_paired_tables_of_the_documents_follow_from_the_archive():
    text, lines = (ROOT / "docs" / "measured.md").read_text(), read_archive(ROOT / "docs" / "measured" / "archive.jsonl.gz")
    tables = re.findall(r"<!-- (paired|by class|by image) (\S+) (\S+) (\S+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    for kind, base, network, study, table_ in tables:
        chosen = [line for line in lines if line["study"] == study]
        compared = compare_methods(chosen, base, network, by_image=kind == "by image")
        if kind == "by class":  # some of its rows
            assert set(table_.splitlines()) <= set(class_table(compared, base).splitlines())
        else:
            assert table_ in paired_table(compared, base)
    assert {kind for kind, *_ in tables} == {"paired", "by class", "by image"}
