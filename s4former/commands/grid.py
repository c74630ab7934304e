"""From the JSON file of a study to its runs, each with the key by which an archive knows it."""

import copy
import functools
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from ..config import NUMERICS, Config, from_dict, merged, read_tree, set_override, to_dict
from ..errors import ConfigError
from ..files import sha256
from .table import HUB_IDENTITY, WITHOUT_INFLUENCE

# The lists' hashes stand for their paths; when a run is evaluated on its way does not change how it ends.
NOT_IN_KEY = (*WITHOUT_INFLUENCE, "data.labeled", "data.unlabeled", "evaluation.every")
GRID_KEYS = {"name": str, "config": (str, list), "overrides": list, "draws": (list, dict), "methods": dict}


@dataclass(frozen=True)
class Run:
    """One run of a grid. tree: its config as train_semi.py is given it. record: what the archive says of it before it has been run."""

    tree: dict[str, Any]
    record: dict[str, Any]

    @property
    def key(self) -> str:
        return self.record["key"]

    @property
    def title(self) -> str:
        return f"{self.record['method']} ({', '.join(f'{name} {value}' for name, value in self.record['draw'].items())})"


def hash_of(value: Any) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_grid(path: Path) -> dict[str, Any]:
    grid = read_tree(path)
    for name in [*grid, *GRID_KEYS]:
        if name not in GRID_KEYS:
            raise ConfigError(f"{path} has the key {name!r}; a grid has {', '.join(GRID_KEYS)}")
        if not isinstance(grid.setdefault(name, [] if name == "overrides" else None), GRID_KEYS[name]):
            raise ConfigError(f"{path}: {name!r} is {grid[name]!r}; s4former study --help shows how a grid is written")
    lists = {f"draws.{name}": values for name, values in draws_of(grid).items()} | {f"methods.{name}": each for name, each in grid["methods"].items()}
    for name, values in lists.items():
        if not isinstance(values, list):
            raise ConfigError(f"{path}: {name} is {values!r}; it must be a list")
    for each in (word for words in [grid["overrides"], *grid["methods"].values()] for word in words):
        if not isinstance(each, str):
            raise ConfigError(f"{path} has {each!r} where a config file or section.key=value belongs")
    return grid


def draws_of(grid: dict[str, Any]) -> dict[str, Any]:
    """The draws of a grid by name; a plain list is one of seeds."""
    return grid["draws"] if isinstance(grid["draws"], dict) else {"seed": grid["draws"]}


def expand_grid(grid: dict[str, Any], extra: Sequence[str] = ()) -> list[Run]:
    """The runs of a grid in their order; `extra` overrides go over the grid's own, below those of a method.

    Raises:
        ConfigError, DataError: a config or its lists cannot be used, or two methods are the same.
    """
    files = [grid["config"]] if isinstance(grid["config"], str) else grid["config"]
    draws = draws_of(grid)
    if "seed" not in draws:
        raise ConfigError('"draws" names no seeds; write {"seed": [0, 1, 2]} or [0, 1, 2]')
    starts = [word.partition("=")[2] for word in (*grid["overrides"], *extra) if word.startswith("model.start_from=")]
    runs: dict[str, Run] = {}  # by key
    for draw in (dict(zip(draws, values)) for values in itertools.product(*draws.values())):
        shared = merge_overrides({}, [*files, f"run.seed={draw['seed']}", *grid["overrides"], *extra], draw)
        protocol = config_for_key(from_dict(shared))
        protocol["run"].pop("seed")
        if starts and "{" in starts[-1]:  # a network for each draw
            protocol["model"]["start_from"] = Path(starts[-1]).name
        protocol = hash_of({"config": non_defaults(protocol), "numerics": NUMERICS})  # only runs of one protocol are compared
        for method, overrides in grid["methods"].items():
            tree = merge_overrides(shared, overrides, draw)
            config = from_dict(tree)
            resolved, lists = config_for_key(config), load_lists(json.dumps(to_dict(config.data)))
            key = hash_of({"config": non_defaults(resolved), "lists": lists, "numerics": NUMERICS})
            run = Run(tree, {
                "study": grid["name"], "method": method, "key": key, "protocol": protocol, "draw": draw, "config": resolved,
                "lists": lists, "numerics": NUMERICS,
            })  # fmt: skip
            if run.key in runs:
                raise ConfigError(f"{run.title} and {runs[run.key].title} are the same run; leave one of them out")
            runs[run.key] = run
    return list(runs.values())


def merge_overrides(tree: dict[str, Any], overrides: Sequence[str], draw: dict[str, Any]) -> dict[str, Any]:
    """A copy of a tree with config files and section.key=value laid over it, in the order given."""
    tree = copy.deepcopy(tree)
    for override in overrides:
        for name, value in draw.items():
            override = override.replace("{" + name + "}", str(value))
        if "=" in override:
            set_override(tree, override)
        else:
            tree = merged(tree, read_tree(Path(override)))
    return tree


def config_for_key(config: Config) -> dict[str, Any]:
    """The resolved config without what has no influence on the numbers; weights on this machine by their hash."""
    tree = to_dict(config)
    for key in NOT_IN_KEY:
        if config.data.source == "hub" and key in HUB_IDENTITY:
            continue
        section, name = key.split(".")
        del tree[section][name]
    if config.run.mixed_precision == "auto":
        from ..training.engine import precision  # loads torch, to look for a GPU

        tree["run"]["mixed_precision"] = precision("auto")
    for name in ("encoder", "start_from"):
        path = Path(tree["model"][name]).expanduser()
        if tree["model"][name] and path.exists():
            files = [path] if path.is_file() else sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))  # as they are loaded
            tree["model"][name] = f"{path.name} {hash_of([hash_file(file) for file in files])}"
    return tree


hash_file = functools.cache(sha256)


def non_defaults(tree: dict[str, Any], defaults: dict[str, Any] | None = None) -> dict[str, Any]:
    """What differs from the defaults: a config key that is added later leaves the keys of older runs as they are.

    A default that changes is a change of numbers, so it raises NUMERICS.
    """
    if defaults is None:  # those of "auto" depend on the machine
        defaults = config_for_key(from_dict({"run": {"mixed_precision": "no"}}))
    return {
        name: non_defaults(value, defaults[name]) if isinstance(value, dict) and isinstance(defaults.get(name), dict) else value
        for name, value in tree.items()
        if name not in defaults or value != defaults[name]
    }


@functools.cache
def load_lists(data: str) -> dict[str, dict[str, Any]]:
    """Number and SHA-256 of the images of each part, of a section `data` in JSON."""
    from ..data.sources import load_sources  # loads datasets

    return load_sources(from_dict({"data": json.loads(data)}).data).lists
