"""From the JSON file of a study to its runs, each with the key by which an archive knows it."""

import functools
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from ..config import NUMERICS, Config, Data, from_dict, merged, read_tree, set_override, to_dict
from ..data.sources import load_sources
from ..errors import ConfigError
from ..files import sha256
from ..training.engine import precision
from .table import WITHOUT_INFLUENCE

# The lists' hashes stand for their paths; when a run is evaluated on its way does not change how it ends.
LEFT_OUT = (*WITHOUT_INFLUENCE, "data.labeled", "data.unlabeled", "data.validation", "data.cache", "evaluation.every")
GRID = {"name": str, "config": (str, list), "overrides": list, "draws": (list, dict), "methods": dict}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a grid."""

    study: str
    method: str
    draw: dict[str, Any]  # with the seed
    tree: dict[str, Any]  # its config as it is given to train_semi.py
    config: dict[str, Any]  # what its numbers follow from: the resolved config without LEFT_OUT, paths replaced by hashes
    lists: dict[str, dict[str, Any]]
    protocol: str  # hash of what all methods share: only runs of one protocol are compared

    @property
    def key(self) -> str:
        return digest({"config": changes(self.config), "lists": self.lists, "numerics": NUMERICS})

    @property
    def title(self) -> str:
        return f"{self.method} ({', '.join(f'{name} {value}' for name, value in self.draw.items())})"

    @property
    def line(self) -> dict[str, Any]:
        """What the archive says of it before it has been run."""
        facts = {name: getattr(self, name) for name in ("study", "method", "key", "protocol", "draw", "config", "lists")}
        return {**facts, "numerics": NUMERICS}


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_grid(path: Path) -> dict[str, Any]:
    grid = read_tree(path)
    for name in [*grid, *GRID]:
        if name not in GRID:
            raise ConfigError(f"{path} has the key {name!r}; a grid has {', '.join(GRID)}")
        if not isinstance(grid.setdefault(name, [] if name == "overrides" else None), GRID[name]):
            raise ConfigError(
                f"{path}: {name!r} is {grid[name]!r}; python -m s4former.commands.study --help shows how a grid is written"
            )
    return grid


def draws_of(grid: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the lists of "draws"; a plain list is one of seeds."""
    draws = grid["draws"] if isinstance(grid["draws"], dict) else {"seed": grid["draws"]}
    if not isinstance(draws.get("seed"), list):
        raise ConfigError('"draws" names no seeds; write {"seed": [0, 1, 2]} or [0, 1, 2]')
    return [dict(zip(draws, values)) for values in itertools.product(*draws.values())]


def runs_of(grid: dict[str, Any], extra: Sequence[str] = ()) -> list[Run]:
    """The runs of a grid in their order; `extra` overrides go over the grid's own, below those of a method.

    Raises:
        ConfigError, DataError: something about a config or its lists, or two methods that are the same.
    """
    files = [grid["config"]] if isinstance(grid["config"], str) else grid["config"]
    runs: list[Run] = []
    for draw in draws_of(grid):
        shared = tree_of({}, [*files, f"run.seed={draw['seed']}", *grid["overrides"], *extra], draw)
        ground = protocol_of(from_dict(shared))
        for method, changes in grid["methods"].items():
            tree = tree_of(shared, changes, draw)
            config = from_dict(tree)
            lists = lists_of(config.data)
            facts = {"study": grid["name"], "method": method, "draw": draw, "protocol": ground}
            run = Run(tree=tree, config=influential(config), lists=lists, **facts)
            twin = next((other for other in runs if other.key == run.key), None)
            if twin:
                raise ConfigError(f"{run.title} and {twin.title} are the same run; leave one of them out")
            runs.append(run)
    return runs


def tree_of(below: dict[str, Any], changes: Sequence[str], draw: dict[str, Any]) -> dict[str, Any]:
    """A tree with config files and overrides laid over it, in the order given."""
    tree = json.loads(json.dumps(below))
    for change in changes:
        for name, value in draw.items():
            change = change.replace("{" + name + "}", str(value))
        if "=" in change:
            set_override(tree, change)
        else:
            tree = merged(tree, read_tree(Path(change)))
    return tree


@functools.cache
def hash_of_file(path: Path) -> str:
    return sha256(path)


def influential(config: Config) -> dict[str, Any]:
    """The resolved config without what has no influence on the numbers; weights on this machine by their hash."""
    tree = to_dict(config)
    for key in LEFT_OUT:
        *sections, name = key.split(".")
        functools.reduce(dict.__getitem__, sections, tree).pop(name)
    tree["run"]["mixed_precision"] = precision(config.run.mixed_precision)
    for name in ("encoder", "start_from"):
        path = Path(tree["model"][name]).expanduser()
        if tree["model"][name] and path.exists():
            files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
            tree["model"][name] = f"{path.name} {digest([hash_of_file(file) for file in files])}"
    return tree


def protocol_of(config: Config) -> str:
    """The hash of what all methods of a grid share, the draw left out."""
    tree = influential(config)
    tree["run"].pop("seed")
    return digest({"config": changes(tree), "numerics": NUMERICS})


def changes(tree: dict[str, Any], defaults: dict[str, Any] | None = None) -> dict[str, Any]:
    """What differs from the defaults: a config key that is added later leaves the keys of older runs as they are.

    A default that changes is a change of numbers, so it raises NUMERICS.
    """
    if defaults is None:  # those of "auto" depend on the machine
        defaults = influential(from_dict({"run": {"mixed_precision": "no"}}))
    return {
        name: changes(value, defaults[name]) if isinstance(value, dict) and isinstance(defaults.get(name), dict) else value
        for name, value in tree.items()
        if name not in defaults or value != defaults[name]
    }


def lists_of(data: Data) -> dict[str, dict[str, Any]]:
    return load_lists(json.dumps(to_dict(data)))


@functools.cache
def load_lists(data: str) -> dict[str, dict[str, Any]]:
    return load_sources(from_dict({"data": json.loads(data)}).data).lists
