"""The direction of imports: a folder imports what stands above it in ORDER, never what stands below."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "s4former"
ORDER = ({"config", "errors", "files", "randomness"}, {"networks"}, {"method"}, {"data"}, {"evaluation"}, {"report"}, {"training"})
LAST = len(ORDER)  # figures, benchmark, new_config, prepare, commands: what people run; these may import each other
OWNERS = {  # the folders or modules through which a library of the ecosystem enters
    "accelerate": {"training", "benchmark", "commands/evaluate_model", "train_semi"},
    "datasets": {"data", "benchmark", "evaluation/mean_iou"},
    "timm": {"networks/deeplab"},
    "transformers": {"networks", "method/pasa", "figures", "benchmark", "commands", "train_semi"},
    "onnxruntime": {"commands"},
    "matplotlib": {"figures"},
    "pycocotools": {"prepare"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return "/".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path):
    """The modules that a file imports, as paths: s4former/FOLDER/MODULE for those of this package."""
    here = ("s4former", *path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else ()
            module = (*base, *(node.module or "").split(".")) if node.module else base
            yield from ["/".join(module)] if node.module else ["/".join((*module, alias.name)) for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.replace(".", "/") for alias in node.names)


def position(name):
    top = name.split("/")[0]
    return next((place for place, names in enumerate(ORDER) if top in names), LAST)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_folder_imports_only_what_stands_above_it(path):
    own = [name.removeprefix("s4former/") for name in imports(path) if name.startswith("s4former/")]
    below = [name for name in own if position(name) > position(name_of(path))]
    assert not below, f"{name_of(path)}.py imports {below}"


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_enters_through_its_own_folders(library):
    entered = {name_of(path) for path in FILES if any(name.split("/")[0] == library for name in imports(path))}
    strangers = {name for name in entered if not any(name == owner or name.startswith(f"{owner}/") for owner in OWNERS[library])}
    assert not strangers
