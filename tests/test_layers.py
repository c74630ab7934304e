"""The floors of the house: a room imports from lower floors only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "s4former"
FLOORS = [
    {"config", "pseudo", "randomness", "class_names", "shapes", "refusals", "hub_answers", "ahead"},
    {"patch_shuffle", "pasa", "losses", "mixing", "augment", "colour", "schedules", "metrics"}
    | {"setr", "dpt", "deeplab", "pictures", "checkpoint", "reading", "writing"}
    | {"windows", "report.style", "report.charts", "report.run"}
    | {"duplicates", "new_config.proposal"},
    {"prepare.download", "prepare.coco_masks", "lists", "weights", "runlog", "table", "pretrain", "hf_evaluate", "inference"}
    | {"choosing", "photos", "teaching", "report.parts"}
    | {"new_config.numbering", "thresholds"},
    {"report.page"},
    {"layouts", "hub_source", "models", "published", "prepare.sbd"}
    | {"report.__main__"},
    {"sources", "student", "export", "prepare.trees", "decoded"}
    | {"new_config.finding", "start"},
    {"data", "prepare.__main__"}
    | {"pool", "to_onnx", "new_config.survey"},
    {"step", "new_config.__main__"},
    {"engine", "panels"},
    {"training", "figures.page", "figures.checkpoints"},
    {"probe", "outcome"},
    {"preflight"},
    {"figures.attention", "figures.classes", "figures.views", "figures.compare"},
    {"figures.__main__"},
    {"benchmark.timing", "benchmark.material", "benchmark.straight", "benchmark.straight_data"},
    {"benchmark.bench", "benchmark.memory"},
    {"benchmark.training_parts", "benchmark.data_parts"},
    {"benchmark.__main__"},
]
OWNERS = {  # who may import a library of the ecosystem
    "accelerate": {"runlog", "engine", "training", "preflight", "benchmark.training_parts"},
    "datasets": {"sources", "hub_source", "lists", "benchmark.straight_data"},
    "timm": {"deeplab"},
    "transformers": {"pasa", "setr", "dpt", "deeplab", "weights", "models", "pretrain", "student", "pool", "to_onnx", "start"}
    | {"figures.__main__", "figures.attention", "benchmark.straight"},
    "onnxruntime": {"to_onnx"},
    "matplotlib": {"figures.page", "figures.attention", "figures.classes", "figures.__main__"},
}


def imports(room):
    """What a room imports; rooms of this package as s4former.ROOM, those in a folder as s4former.FOLDER.ROOM."""
    for node in ast.walk(ast.parse((PACKAGE / f"{room.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            own = node.level or (node.module or "").split(".")[0] == "s4former"
            module = (node.module or "").removeprefix("s4former").lstrip(".")
            names = [module] if module else [alias.name for alias in node.names]
            beside = room.rpartition(".")[0] if node.level == 1 else ""
            yield from (".".join(filter(None, ["s4former" if own else "", beside, name])) for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


FOLDERS = ("benchmark", "figures", "new_config", "prepare", "report")
ROOMS = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
ROOMS += sorted(f"{name}.{path.stem}" for name in FOLDERS for path in (PACKAGE / name).glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_lower_floors(room):
    floor = next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)
    assert floor is not None, f"{room}.py has no floor yet; give it one in this file"
    lower = set().union(*FLOORS[:floor])
    own = {name.removeprefix("s4former.") for name in imports(room) if name.startswith("s4former.")}
    above = {name for name in own if name not in lower and name.split(".")[0] not in lower}
    assert not above, f"{room}.py imports {sorted(above)}"


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_enters_through_its_own_rooms(library):
    entered = {room for room in ROOMS if any(name.split(".")[0] == library for name in imports(room))}
    assert entered <= OWNERS[library]
