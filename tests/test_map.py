"""configs/README.md: every row with a command is a config that builds and takes a step; docs/measured_rows.md."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from s4former.config import load
from s4former.data.sources import load_sources
from s4former.training.engine import update
from s4former.training.run import build_training

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = [  # the same method, on a drawn world and a network of the same kind and depth but narrow
    "data.source=shapes", "data.root=", "data.labeled=", "data.unlabeled=", "data.validation=", "data.workers=0",
    "data.crop=[64,128]", "data.resize=[256,64]", "model.pretrained=false", "model.decoder_channels=8", "method.block=2",
    "method.threshold=0.1", "run.mixed_precision=no",
    'data.shapes={"labeled": 20, "unlabeled": 20, "validation": 1, "height": 64, "width": 128}',
]  # fmt: skip
NARROW = {
    "setr": ["model.encoder_config.hidden_size=32", "model.encoder_config.num_attention_heads=2",
             "model.encoder_config.intermediate_size=32", "model.decoder_stages=2"],
    "dpt": ["model.encoder_config.hidden_size=32", "model.encoder_config.num_attention_heads=2", "data.crop=[56,112]",
            "run.batch.labeled=4", "run.batch.unlabeled=4"],
    "deeplabv3plus": ["model.encoder=resnet50", "run.batch.labeled=4", "run.batch.unlabeled=4"],
}  # fmt: skip


MEASURED = CONFIGS.parent / "docs" / "measured_rows.md"


def rows(page=CONFIGS / "README.md"):
    """(table, cells, numbers by split, REST) of every row of a page."""
    table, header = "", []
    for line in page.read_text().splitlines():
        if line.startswith("## "):
            table, header = line[3:].split(":")[0], []
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|\n").split("|")]
            if not header:
                header = cells
            elif not set(cells[0]) <= set("-") or not cells[0]:
                numbers = {name: cell for name, cell in zip(header, cells) if name.isdigit()}
                yield table, cells, numbers, cells[-1]


ROWS = [
    pytest.param(*row, id=f"{row[0]}, {' '.join(cell or '-' for cell in row[1][:3])}")
    for row in rows()
    if not row[3].startswith("quoted")
]


def arguments(rest):
    """The files and the keys of REST."""
    words = shlex.split(rest.strip("`")) if rest.startswith("`") else []
    files = [words[i + 1] for i, word in enumerate(words) if word == "--config"]
    return files, [word for word in words if "=" in word]


def split_file(split):
    name = f"voc_{split}.json" if split in ("92", "183", "366", "732", "1464") else f"voc_blend_cps_{split}.json"
    return CONFIGS / name


def test_the_map_holds_every_printed_number():
    count = sum(bool(re.fullmatch(r"\d\d\.\d", number)) for _, _, numbers, _ in rows() for number in numbers.values())
    #      S1: 13 rows of 8, one missing;  UniMatch V2;  S2;     S3; S4;    S5;  PASA and NCR
    assert count == 13 * 8 - 1 + 2 * 5 + 8 * 2 + 9 + 3 * 3 + 3 * 3 + 3 + 1


def test_every_measured_row_is_a_config_and_no_two_are_the_same():
    found = [arguments(rest) for _, _, _, rest in rows(MEASURED) if rest]
    below = [CONFIGS / "voc_local.json", CONFIGS / "methods" / "as_printed.json"]
    configs = [load([*below, *(CONFIGS.parent / file for file in files)], keys) for files, keys in found]
    assert len(set(map(repr, configs))) == len(configs) == 36


@pytest.mark.parametrize("table, cells, numbers, rest", ROWS)
def test_every_row_builds_and_takes_a_step(table, cells, numbers, rest, tmp_path):
    files, keys = arguments(rest)
    files = [CONFIGS.parent / file for file in files]
    for split in numbers:
        config = load([split_file(split), *files], keys)
    config = load([split_file("92"), *files], [*keys, *SMALL, *NARROW[config.model.architecture]])
    training = build_training(config, load_sources(config.data), tmp_path, Accelerator(cpu=True))
    before = [parameter.clone() for parameter in training.student.parameters()]
    step = config.method.burn_in
    batch = training.to_device(training.steps.batch(step, 0))
    terms = update(training.accelerator, training.student, training.teacher, training.optimizer, [batch], step, config)
    assert all(torch.isfinite(term).all() for term in terms.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, training.student.parameters()))
    branches = {name.split("_")[-1] for name in terms if name.startswith("consistency_")}
    assert branches == expected_branches(config.method)


def expected_branches(method):
    if method.teacher == "none":
        return set()
    return {"strong"} | ({"pasa"} if method.pasa != "none" else set()) | ({"features"} if method.feature_dropout else set())


@pytest.mark.parametrize("name, title", [
    ("sup_only", "Sup-Only"), ("mean_teacher", "Mean Teacher"), ("base", "S4Former-Base"), ("fixmatch", "FixMatch"),
    ("unimatch", "UniMatch"), ("unimatch_ema", "UniMatch"), ("unimatch_s4former", "UniMatch + S4Former"),
    ("unimatch_v2", "UniMatch V2"), ("unimatch_v2_s4former", "UniMatch V2 + S4Former"),
    ("augseg", "AugSeg"), ("augseg_s4former", "AugSeg + S4Former"), ("official", "S4Former"), ("imas", "iMAS"), ("u2pl", "U2PL"),
    ("psmt", "PS-MT"),
])  # fmt: skip
def test_every_method_file_has_the_title_of_its_row(name, title):
    assert load([CONFIGS / "voc_92.json", CONFIGS / "methods" / f"{name}.json"]).method.title == title


def test_every_method_and_network_file_stands_in_the_map():
    text = (CONFIGS / "README.md").read_text()
    for path in [*(CONFIGS / "methods").glob("*.json"), *(CONFIGS / "networks").glob("*.json")]:
        assert f"{path.parent.name}/{path.name}" in text, path
