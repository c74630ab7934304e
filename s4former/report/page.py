"""The report as one HTML file that refers to nothing outside itself: no script, no font, no picture but its own."""

import json
import shlex
import time
from html import escape
from pathlib import Path
from typing import Any

from ..config import Config, to_dict
from ..evaluation.pictures import has_background
from ..files import write_text
from .charts import Series, curves, histogram, matrix, number, sparkline, stacked
from .parts import bar, card, cards, colours_of, panel, percent, table, tile
from .run import Run, read_run
from .style import STYLE

COLOURS = ("var(--teacher)", "var(--student)", "var(--third)", "var(--fourth)", "var(--faint)")
ROLES = {"teacher": "var(--teacher)", "student": "var(--student)"}
MOMENTS = 5  # steps at which the panel of unlabelled images is shown
MISTAKES = 8  # pairs of classes named below the confusion matrix


def write_report(folder: str | Path) -> Path:
    """Writes FOLDER/report.html from what lies in the folder, whole or not at all."""
    path = Path(folder) / "report.html"
    write_text(path, page(read_run(folder)))
    return path


def page(run: Run) -> str:
    """The whole file."""
    sections = (
        ("", warnings(run)),
        ("Curves", training_curves(run)),
        ("What the teacher is doing", teaching(run)),
        ("Classes", class_table(run)),
        ("Unlabelled images and their pseudo labels", unlabeled_panel(run)),
        ("Evaluation images", evaluation_panel(run)),
        ("Confusion", confusion(run)),
        ("To go on", commands(run)),
        ("What was run", facts(run)),
    )
    body = "".join((f"<h2>{title}</h2>" if title else "") + content for title, content in sections if content)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name(run))}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body><main>{head(run)}{body}{foot(run)}</main></body></html>\n"
    )


def name(run: Run) -> str:
    return f"{run.start['method']}: {run.folder.resolve().name}"


# ---- sections


def head(run: Run) -> str:
    state = "ended" if run.ended else f"step {run.step} of {run.steps} when this was written"
    lists, start = run.start["lists"], run.start
    words = {"labeled": "labelled", "unlabeled": "unlabelled", "validation": "evaluation"}
    data = ", ".join(f"{lists[part]['images']} {word}" for part, word in words.items())
    tiles = []
    for role in run.roles:
        last, best = run.last(f"evaluation/{role}"), run.best(role)
        chosen = f"best {percent(best['mean_iou'])} at step {best['step']}"
        tiles.append(tile(percent(last["mean_iou"]), f"mIoU, {role}, step {last['step']}", chosen))
    if "teacher" in run.entries:
        tiles.append(tile(f"{percent(run.last('teacher')['confident'])} %", "of unlabelled pixels are", "pseudo labels"))
    if "cost" in run.entries:
        cost = run.last("cost")
        hours = cost["hours"]
        tiles.append(tile(f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min", "of training", start["device"]))
        tiles.append(
            tile(f"{cost['images_per_second']:.3g}", "images per second", f"{cost['peak_memory_gib']:.1f} GiB at most")
        )
    chosen = "Best means best on the evaluation images, so it is no estimate for others." if run.roles else ""
    return (
        f"<header><h1>{escape(name(run))}</h1><div class='faint'>{state} &middot; {data} images, {len(run.classes)} classes"
        f" &middot; {escape(run.config['model']['architecture'])} over {escape(Path(run.config['model']['encoder']).name)},"
        f" {start['parameters'] / 1e6:.2g} M parameters</div><div class='tiles'>{''.join(tiles)}</div>"
        f"<div class='faint'>{chosen}</div></header>"
    )


def warnings(run: Run) -> str:
    """What the user should know before anything else."""
    said = [f"Step {entry['step']}: {entry['warning']}." for entry in run.entries.get("missed", [])]
    replaced = run.entries.get("replaced", [])
    if replaced:
        said.append(
            f"{replaced[-1]['total']} unlabelled images could not be read and were replaced; the last:"
            f" {replaced[-1]['reason']}."
        )
    return "".join(f'<div class="warn">{escape(sentence)}</div>' for sentence in [*run.start["notes"], *said])


def training_curves(run: Run) -> str:
    steps = max(run.steps, run.step)
    scores = [Series(role, run.curve(f"evaluation/{role}", "mean_iou"), ROLES[role]) for role in run.roles]
    names = [key for key in run.last("train") if key.startswith("loss/") and key != "loss/total"]
    losses = [
        Series(key.removeprefix("loss/"), run.curve("train", key), COLOURS[i % len(COLOURS)]) for i, key in enumerate(names)
    ]
    confident = [Series("pseudo labels", run.curve("train", "confident"), COLOURS[0])]
    if "evaluation/pseudo" in run.entries:
        confident.append(Series("right, on the evaluation images", run.curve("evaluation/pseudo", "right"), COLOURS[2]))
    spoken = curves(confident, "share of pseudo labels over steps", percent=True, until=steps)
    rate = [Series("learning rate", run.curve("train", "learning_rate"), COLOURS[3])]
    key = lambda series: [(each.name, each.colour) for each in series if each.points]  # noqa: E731
    return cards(
        card("Mean IoU", curves(scores, "mean IoU over steps", percent=True, until=steps), key(scores)),
        card("Losses", curves(losses, "losses over steps", until=steps), key(losses)),
        card("Pixels that become pseudo labels", spoken if confident[0].points else "", key(confident)),
        card("Learning rate of the encoder", curves(rate, "learning rate over steps", until=steps)),
    )  # fmt: skip


def teaching(run: Run) -> str:
    """Pseudo labels by class over time, and how sure the teacher is."""
    spoken = run.entries.get("teacher", [])
    if not spoken:
        return ""
    colours, steps, bare = colours_of(run), max(run.steps, run.step), has_background(run.classes)
    layers = [Series(each, run.class_curve("teacher", "share", each), colours[i]) for i, each in enumerate(run.classes)][bare:]
    heard = [(layer.name, layer.colour) for layer in layers if any(value for _, value in layer.points)]
    threshold, first, last = run.config["method"]["threshold"], spoken[0], spoken[-1]
    note = (
        f"Up to step {last['step']}; dashed: up to step {first['step']}. Beyond the line, {number(threshold)}, a pixel is a"
        " pseudo label."
        + (
            " Classes of which the teacher is less sure have a lower line."
            if run.config["method"].get("thresholds") == "per_class"
            else ""
        )
    )
    more = [f"And {len(heard) - 24} more classes."] if len(heard) > 24 else []
    if bare:
        more.append(f"Without {escape(run.classes[0])}, which has {number(last['share'][run.classes[0]], True)} in the end.")
    shares = stacked(layers, "pseudo labels by class over steps", until=steps)
    confidence = histogram(last["confidence"], threshold, "confidence of the teacher", first["confidence"])
    return cards(
        card("Share of the unlabelled pixels by class", shares, heard[:24], " ".join(more)),
        card("Confidence of the teacher", confidence, (), note),
    )


def class_table(run: Run) -> str:
    """Every class: IoU, its share of the pseudo labels over time, and how many of them are right."""
    if not run.roles:
        return ""
    colours, right = colours_of(run), run.last("evaluation/pseudo").get("right_by_class", {})
    head = ["class", *(f"IoU, {role}" for role in run.roles)]
    head += ["pseudo labels over time", "now, %", "right, %"] if "teacher" in run.entries else []
    rows = []
    for colour, each in zip(colours, run.classes):
        row = [f'<span class="swatch" style="background:{colour}"></span>{escape(each)}']
        row += [bar(run.last(f"evaluation/{role}")["iou"][each], ROLES[role]) for role in run.roles]
        if "teacher" in run.entries:
            shares = [value for _, value in run.class_curve("teacher", "share", each)]
            row += [sparkline(shares, colour), number(100 * shares[-1]), percent(right.get(each))]
        rows.append(row)
    count = len(run.roles) + 1
    note = (
        '<p class="faint">Pseudo labels: the share of the unlabelled pixels, each curve to its own height. Right: of the'
        " pixels of the evaluation images that the teacher is as sure of, read whole and not as training crops, the share whose"
        " truth is the class it names; the masks of unlabelled images are never opened.</p>"
    )
    return f'<div class="card">{table(head, rows, (count + 1, count + 2))}</div>' + (note if "teacher" in run.entries else "")


def rows_of(run: Run, kind: str) -> list[str]:
    return sorted(path.name.removesuffix("-image.jpg") for path in (run.folder / "panels").glob(f"{kind}-*-image.jpg"))


def unlabeled_panel(run: Run) -> str:
    rows = rows_of(run, "unlabeled")
    ends = sorted({path.stem.rsplit("-", 1)[1] for path in (run.folder / "panels").glob("unlabeled-*.png")})
    ends = [end for end in ends if int(end) <= run.step]  # a run that was resumed from before has later ones
    shown = [ends[round(i * (len(ends) - 1) / (MOMENTS - 1))] for i in range(MOMENTS)] if len(ends) > MOMENTS else ends
    return panel(run, rows, [("image", "image.jpg"), *((f"step {int(end)}", f"{end}.png") for end in shown)])


def evaluation_panel(run: Run) -> str:
    columns = [("image", "image.jpg"), ("truth", "truth.png"), *((role, f"{role}.png") for role in run.roles)]
    return panel(run, rows_of(run, "evaluation"), columns)


def confusion(run: Run) -> str:
    """Of the network to use: the matrix, and the most frequent mistakes in words."""
    if not run.confusion or not run.roles:
        return ""
    role, names = run.roles[0], run.confusion["classes"]
    counts = run.confusion["counts"][role]
    everything = sum(map(sum, counts)) or 1
    pairs = sorted(((counts[t][p], t, p) for t in range(len(names)) for p in range(len(names)) if t != p), reverse=True)
    rows = [
        [escape(names[t]), escape(names[p]), percent(count / everything), percent(count / (sum(counts[t]) or 1))]
        for count, t, p in pairs[:MISTAKES] if count
    ]  # fmt: skip
    mistakes = table(["truth", "taken for", "% of all pixels", "% of its class"], rows, (2, 3)) if rows else "<p>None.</p>"
    chart = matrix(counts, names, f"confusion matrix of the {role}")
    note = f"Rows: truth; columns: what the {role} says; in % of the row. Step {run.confusion['step']}."
    return cards(card("", chart, (), note), f'<div class="card"><h3>Most frequent mistakes</h3>{mistakes}</div>')


def commands(run: Run) -> str:
    """Lines to copy."""
    folder = shlex.quote(str(run.folder))
    model = f"{run.folder}/{run.roles[0] if run.roles else 'teacher'}"
    if not (Path(model) / "config.json").is_file():
        model = f"{run.folder}/best-{run.roles[0] if run.roles else 'teacher'}"
    load = (
        "from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation\n"
        f"processor = AutoImageProcessor.from_pretrained({model!r})\n"
        f"model = AutoModelForSemanticSegmentation.from_pretrained({model!r}, trust_remote_code=True)"
    )
    best = "" if run.ended else " --best"
    lines = [
        ("Evaluate", f"python evaluate.py --checkpoint {folder}{best}"),
        ("Read photos", f"python evaluate.py --checkpoint {folder}{best} --images photos --save-predictions out"),
        ("Export to ONNX", f"python -m s4former.commands.onnx {folder} model.onnx{best}"),
        ("Pseudo masks of the pool, and what to label next", f"python -m s4former.commands.pool {folder} -o pool{best}"),
        ("Repeat" if run.ended else "Resume", run.start["command"] + ("" if run.ended else " --resume")),
        ("Load", load),
    ]
    return '<div class="card">' + "".join(f"<h3>{title}</h3><pre>{escape(text)}</pre>" for title, text in lines) + "</div>"


def facts(run: Run) -> str:
    """Lists, programs, and the config: first what differs from the defaults."""
    start = run.start
    lists = [[escape(part), str(entry["images"]), f"<code>{entry['sha256']}</code>"] for part, entry in start["lists"].items()]
    programs = [[escape(program), escape(version)] for program, version in start["versions"].items()]
    programs += [["device", escape(start["device"])], ["precision", escape(start["precision"])]]
    programs += [["went on after a stop", f"{len(run.entries['start']) - 1} times"]] if len(run.entries["start"]) > 1 else []
    defaults = flat(to_dict(Config()))
    changed = [
        [f"<code>{key}</code>", f"<code>{escape(value)}</code>"]
        for key, value in flat(run.config).items()
        if defaults.get(key) != value
    ]
    whole = escape(json.dumps(run.config, indent=2))
    names = table(["list", "images", "SHA-256 of its ids, sorted, one a line"], lists, (1,))
    return (
        f'<div class="card"><h3>Lists</h3>{names}</div><br>'
        + cards(
            f'<div class="card"><h3>What differs from the defaults</h3>{table(["", ""], changed)}</div>',
            f'<div class="card"><h3>Programs</h3>{table(["", ""], programs)}</div>',
        )
        + f"<details><summary>The whole config</summary><pre>{whole}</pre></details>"
    )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Full keys and their values as JSON."""
    result: dict[str, str] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": json.dumps(value)}
    return result


def foot(run: Run) -> str:
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime())
    origin = f"Written by s4former on {written} from {escape(str(run.folder))}."
    return f"<footer>{origin} This file refers to nothing outside itself.</footer>"
