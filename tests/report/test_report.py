"""The report of a run: its numbers, its charts, its references, and how a real browser shows it."""

import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import tostring

import numpy as np
import pytest
from PIL import Image

from s4former.config import from_dict, to_dict
from s4former.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Series, curves, downsample, format_number, histogram, log_ticks, matrix, stacked, ticks
from s4former.report.page import main, render_report, write_report
from s4former.report.run import ReportError, compare_modes, read_run

CLASSES = ["back<ground", "leaf", "<script>bud</script>"]
BUD = CLASSES[2]
LISTS = {part: {"images": 7, "sha256": part[0] * 64} for part in ("labeled", "unlabeled", "validation")}


def score(value):
    return {"mean_iou": value, "pixel_accuracy": value, "iou": {"back<ground": value, "leaf": value / 2, BUD: None}}


def write_run(folder: Path, steps=4, until=4, teacher=True) -> Path:
    """A run of `steps` steps that has come to step `until`, evaluated at every second one."""
    (folder / "panels").mkdir(parents=True)
    method = {} if teacher else {"method": {"teacher": "none"}}
    (folder / "config.json").write_text(json.dumps(to_dict(from_dict({"schedule": {"steps": steps}, **method}))))
    start = {
        "method": "S4Former", "command": "python train_semi.py --config mine.json", "device": "1 x cpu", "precision": "no",
        "parameters": 40849, "classes": CLASSES, "lists": LISTS, "notes": [f"no labelled pixel shows {BUD}"], "versions": {"torch": "2.14.1"},
    }  # fmt: skip
    lines = [("start", 0, start)]
    for step in range(1, until + 1):
        lines.append(
            ("train", step, {"loss/total": 2.0 / step, "loss/supervised": 1.0 / step, "confident": 0.5, "learning_rate": 1e-3})
        )
        if teacher:
            share = {"back<ground": 0.25, "leaf": 0.125 * (step - 1), BUD: 0.0}
            lines.append(("teacher", step, {"pixels": 100, "confident": 0.5, "share": share, "confidence": [0.0] * 19 + [1.0]}))
        if step % 2 == 0:
            lines.append(("evaluation/student", step, score(0.1 * step)))
            if teacher:
                lines.append(("evaluation/teacher", step, score(0.1 * step + 0.05)))
                right = {"back<ground": 0.875, "leaf": 0.5, BUD: None}
                lines.append(("evaluation/pseudo", step, {"confident": 0.5, "right": 0.75, "right_by_class": right}))
                Image.new("P", (9, 6)).save(folder / "panels" / f"unlabeled-0-{step:08d}.png")
            lines.append(("cost", step, {"hours": 0.5, "images_per_second": 3.0, "peak_memory_gib": 1.5, "replaced_images": 0}))
    if teacher:
        lines.append(
            ("missed", until, {"classes": [BUD], "warning": f"for 50 steps no pixel has become a pseudo label of {BUD}"})
        )
    text = "".join(json.dumps({"kind": kind, "step": step, "time": 0.0, **values}) + "\n" for kind, step, values in lines)
    (folder / "log.jsonl").write_text(text + '{"kind": "train", "st')
    counts = [[90, 8, 2], [5, 15, 0], [0, 0, 0]]
    roles = ("teacher", "student") if teacher else ("student",)
    (folder / "confusion.json").write_text(
        json.dumps({"step": until, "classes": CLASSES, "counts": {role: counts for role in roles}})
    )
    for name in ("evaluation-0", "unlabeled-0"):
        Image.fromarray(np.full((6, 9, 3), 90, np.uint8)).save(folder / "panels" / f"{name}-image.jpg")
    for role in ("truth", *roles):
        Image.new("P", (9, 6)).save(folder / "panels" / f"evaluation-0-{role}.png")
    if until == steps:
        (folder / "results.json").write_text(json.dumps({"steps": steps}))
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run")


# ---- charts


def test_ticks_are_round_numbers_inside_the_range():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1] and ticks(0, 0.83) == [0, 0.2, 0.4, 0.6, 0.8]
    assert ticks(0, 80_000, 5) == [0, 20_000, 40_000, 60_000, 80_000]
    assert ticks(3, 3) == [3]


def test_ticks_of_a_logarithmic_axis_are_powers_of_ten_and_some_between():
    assert log_ticks(0.003, 2.5) == [0.01, 0.1, 1] and log_ticks(0.15, 3) == [0.2, 0.5, 1, 2]
    assert log_ticks(1.1, 3.2) == ticks(1.1, 3.2) and len(ticks(1.1, 3.2)) > 2


def test_a_long_curve_is_downsampled_by_means_and_keeps_its_end():
    points = [(step, 2.0 * step) for step in range(10_000)]
    thin = downsample(points, 100)
    assert len(thin) <= 100 and thin[-1] == points[-1]
    assert all(y == pytest.approx(2 * x) for x, y in thin)
    assert downsample(points[:50], 100) == points[:50]


def places(element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


def test_a_curve_goes_through_its_points():
    chart = curves([Series("a & b", [(0, 0.0), (5, 1.0), (10, 0.5)], "red")], until=10)
    (left, low), (middle, high), (right, half) = places(chart.find("polyline"))
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    assert low - half == pytest.approx((low - high) / 2, abs=0.2) and high < half < low
    assert curves([Series("a", [], "red")]) is None


def test_a_late_axis_shows_what_the_later_half_does_and_a_logarithmic_one_ratios():
    points = [(1, 0.05), (2, 0.3), (3, 0.5), (4, 0.52), (5, 0.51), (6, 0.53)]
    (first, *_, near, last) = places(curves([Series("a", points, "red")], until=6, scale="late").find("polyline"))
    plain = places(curves([Series("a", points, "red")], until=6).find("polyline"))
    assert near[1] - last[1] > 5 * (plain[-2][1] - plain[-1][1]) > 0
    assert first[1] == HEIGHT - BOTTOM  # what lies below is cut off
    few = places(curves([Series("a", points[:3], "red")], until=6, scale="late").find("polyline"))
    assert few[0][1] < HEIGHT - BOTTOM  # but of a few points
    chart = curves([Series("a", [(0, 1.0), (1, 0.1), (2, 0.01), (3, 0.0)], "red")], until=3, scale="log")
    ys = [y for _, y in places(chart.find("polyline"))]
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.2) and ys[3] == HEIGHT - BOTTOM
    assert {"1", "0.1", "0.01"} <= {text.text for text in chart.findall("text")}


def test_the_burn_in_is_marked_on_the_time_axis():
    chart = curves([Series("a", [(0, 0.0), (10, 1.0)], "red")], until=10, burn_in=5)
    (band,), (line,) = ([each for each in chart if each.get("class") == kind] for kind in ("burn-in", "pool"))
    assert float(band.get("x")) + float(band.get("width")) == float(line.get("x1")) == pytest.approx((LEFT + WIDTH - RIGHT) / 2)
    assert {"with the pool", "labels alone"} <= {each.text for each in chart.findall("text")}
    assert not [each for each in curves([Series("a", [(0, 0.0), (10, 1.0)], "red")], until=10) if each.get("class") == "burn-in"]


def test_stacked_shares_lie_on_each_other():
    series = [Series("a", [(0, 0.2), (4, 0.4)], "red"), Series("b", [(0, 0.2), (4, 0.0)], "blue")]
    lower, upper = stacked(series, until=4).findall("polygon")
    assert places(lower)[:2] == places(upper)[:1:-1]
    assert places(upper)[1] == places(upper)[2]  # b has nothing at the end


def test_a_histogram_marks_what_lies_beyond_the_threshold():
    bars = histogram([0.1, 0.2, 0.3, 0.4], 0.75, before=[]).findall("rect")
    assert [each.get("class") for each in bars] == ["unsure", "unsure", "unsure", "sure"]
    heights = [float(each.get("height")) for each in bars]
    assert heights[3] == pytest.approx(4 * heights[0], abs=0.3)


def test_a_matrix_has_rows_of_shares_and_a_class_without_pixels_does_not_break_it():
    cells = matrix([[3, 1], [0, 0]], ["a", "b"]).findall(".//rect")[:4]
    assert [float(cell.get("fill-opacity")) for cell in cells] == [0.75, 0.25, 0, 0]
    assert [cell.get("class") for cell in cells] == ["hit", "miss", "miss", "hit"]
    assert len(tostring(matrix([[1] * 150] * 150, [f"class {i}" for i in range(150)]))) < 5_000_000


def test_numbers_are_short():
    assert [format_number(0.12345, True), format_number(0.5), format_number(80_000)] == ["12.3 %", "0.5", "80\u2009000"]


# ---- the page


def text_of(run: Path) -> str:
    return render_report(read_run(run))


def test_the_report_holds_scores_cost_lists_versions_config_and_commands(run):
    text = text_of(run)
    for part in (
        "S4Former: run", "ended", "45.0", "best 45.0 at step 4", "30.0 min", "1.5 GiB at most", "l" * 64, "2.14.1", "schedule.steps",
        "python evaluate.py --checkpoint", "AutoModelForSemanticSegmentation.from_pretrained", "no labelled pixel shows &lt;script&gt;bud",
        "Step 4: for 50 steps no pixel has become a pseudo label of &lt;script&gt;bud&lt;/script&gt;.", "back&lt;ground", "87.5", "confusion matrix",
    ):  # fmt: skip
        assert part in text, part
    assert "back<ground" not in text and "<script" not in text and text.count("data:image/") == 3 + 4 and "--resume" not in text


def test_classes_have_the_colours_of_the_masks(run):
    config = json.loads((run / "config.json").read_text())
    config["data"]["colours"] = ["#010203", "#0a0b0c"]
    (run / "config.json").write_text(json.dumps(config))
    page = render_report(read_run(run))
    assert "background:#010203" in page and "background:#0a0b0c" in page


def test_a_run_that_is_training_or_was_killed_shows_its_step_and_how_to_resume(tmp_path):
    text = text_of(write_run(tmp_path / "run", steps=400, until=3))
    assert "step 3 of 400 at 20" in text and '<meta http-equiv="refresh"' in text and "python train_semi.py --config mine.json --resume" in text


def test_the_end_of_a_run_names_the_better_way_of_reading_images_with_its_flag(run):
    assert "--sliding-window" not in text_of(run) and "refresh" not in text_of(run)
    lines = (run / "log.jsonl").read_text().splitlines()[:-1]
    last = {**score(0.45), "other_mode": {"mode": "sliding", "mean_iou": 0.5}}
    (run / "log.jsonl").write_text("\n".join([*lines, json.dumps({"kind": "evaluation/teacher", "step": 4, "time": 0.0, **last})]) + "\n")
    text = text_of(run)
    assert "The teacher is best on windows (50.00 mIoU; on whole images 45.00): <code>--sliding-window</code>." in text
    assert text.count(" --sliding-window</pre>") == 2


def test_a_run_without_a_teacher_has_a_report_without_one(tmp_path):
    text = text_of(write_run(tmp_path / "run", teacher=False))
    assert "<h2>Pseudo labels" not in text and "mIoU, student" in text and "pseudo labels over time" not in text


def test_a_run_that_was_resumed_has_whole_curves_and_no_pictures_of_later_steps(run):
    with open(run / "log.jsonl", "a") as log:
        log.write("\n" + json.dumps({"kind": "start", "step": 4, "time": 1.0, **read_run(run).last("start")}) + "\n")
    Image.new("P", (9, 6)).save(run / "panels" / "unlabeled-0-00000009.png")
    text = text_of(run)
    assert "<td>resumed</td><td>1 times</td>" in text and "step 9" not in text
    assert [step for step, _ in read_run(run).curve("train", "loss/total")] == [1, 2, 3, 4]


def test_names_and_paths_are_text_and_never_markup(tmp_path):
    text = render_report(read_run(write_run(tmp_path / "<script>run")))
    assert "<script" not in text and "--checkpoint &#39;" in text and text.count("&lt;script&gt;run") > 5


class References(HTMLParser):
    """Everything by which a page can ask for something outside itself."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.styles = set(), [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for key, value in attributes:
            if key in ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "background", "formaction"):
                self.addresses.append(value)
            if key == "style":
                self.styles += value
            assert not key.startswith("on"), key

    def handle_data(self, data):
        if self.lasttag == "style":
            self.styles += data


def test_the_file_refers_to_nothing_outside_itself(run):
    page = References()
    page.feed(write_report(run).read_text())
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    assert not page.tags & {"script", "iframe", "object", "embed", "base", "form", "audio", "video"}
    assert "url(" not in page.styles and "@import" not in page.styles and "src" not in page.styles


def test_the_command_writes_the_file_and_names_what_is_no_run(run, tmp_path, capsys):
    assert main([str(run)]) == 0 and capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").read_text().endswith("</html>\n")
    assert main([str(tmp_path)]) == 1
    assert "has no config.json and log.jsonl of a run that has begun; give the folder that train_semi.py writes" in capsys.readouterr().err
    (run / "log.jsonl").write_text("")
    with pytest.raises(ReportError, match="log.jsonl of a run that has begun"):
        read_run(run)


@pytest.mark.parametrize(
    "mode, mean_iou, other, words, flag",
    [
        ("whole", 0.564, 0.589, "best on windows (58.90 mIoU; on whole images 56.40)", "--sliding-window"),
        ("whole", 0.589, 0.564, "best on whole images (58.90 mIoU; on windows 56.40)", ""),
        ("sliding", 0.5, 0.6, "best on whole images (60.00 mIoU; on windows 50.00)", "evaluation.mode=whole"),
        ("sliding", 0.5, 0.5, "best on windows (50.00 mIoU; on whole images 50.00)", ""),
        ("whole", 0.5, None, "", ""),
    ],
)
def test_the_better_mode_is_named_first_with_what_to_add_for_it(mode, mean_iou, other, words, flag):
    score = {"mean_iou": mean_iou, "other_mode": {"mode": {"whole": "sliding", "sliding": "whole"}[mode], "mean_iou": other}}
    assert compare_modes({"mode": mode}, score) == (words, flag)
    assert compare_modes({"mode": mode}, {"mean_iou": mean_iou}) == ("", "")


# ---- in a browser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    " --hide-scrollbars"
).split()


def browse(path: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(folder)})


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_a_real_browser_shows_it_light_and_dark_wide_and_narrow(run, tmp_path):
    path = write_report(run)
    dumped = browse(path, tmp_path, "--dump-dom").stdout
    assert dumped.count("<svg") == text_of(run).count("<svg") and "Confusion" in dumped
    shades = {}
    for name, flags in {
        "light": [],
        "dark": ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"],
        "narrow": [],
    }.items():
        picture = tmp_path / f"{name}.png"
        size = "500,1200" if name == "narrow" else "1200,1200"
        browse(path, tmp_path, f"--screenshot={picture}", f"--window-size={size}", *flags)
        with Image.open(picture) as image:
            assert image.width == int(size.split(",")[0])
            pixels = np.asarray(image.convert("L"))
        shades[name] = np.median(pixels)
        assert len(np.unique(pixels)) > 30  # text and charts, not an empty page
    assert shades["light"] > 200 and shades["narrow"] > 200 and shades["dark"] < 60, shades


def test_the_line_in_the_histogram_is_the_threshold_in_force(tmp_path):
    folder = write_run(tmp_path / "run")
    assert "Beyond the line, 0.95, a pixel" in render_report(read_run(folder))
    log = (folder / "log.jsonl").read_text().rsplit("\n", 1)[0]
    line = {"kind": "calibration", "step": 4, "time": 0.0, "confident": 0.0, "right": None, "threshold": 0.55}
    (folder / "log.jsonl").write_text(f"{log}\n{json.dumps(line)}\n")
    text = render_report(read_run(folder))
    assert "Beyond the line, 0.55, a pixel" in text and "Of the confident pixels" not in text


@pytest.mark.parametrize("right, calibration, words", [
    (0.96, None, "Of the confident pixels of the evaluation images 96.0% are right, and the threshold is 0.95: they are right as often as it asks for"),
    (0.9, None, "fewer than it asks for. method.thresholds=calibrated holds a twentieth of the labels out"),
    (0.99, {"right": 0.8, "threshold": 0.714}, "held-out labelled images 80.0% are right, and the threshold is 0.95: fewer than it asks"
     " for, so pixels above 0.71 weigh as much as their confidence."),
])  # fmt: skip
def test_the_report_says_what_the_share_of_right_pixels_means_for_the_threshold(tmp_path, right, calibration, words):
    folder = write_run(tmp_path / "run")
    log = (folder / "log.jsonl").read_text().replace('"right": 0.75', f'"right": {right}').rsplit("\n", 1)[0]
    line = json.dumps({"kind": "calibration", "step": 4, "time": 0.0, "confident": 0.5, **calibration}) + "\n" if calibration else ""
    (folder / "log.jsonl").write_text(log + "\n" + line)
    assert words in render_report(read_run(folder))
