"""README and docs/: every command is one that its program takes, every link leads somewhere.

Those of README's start are run by continuous integration, the others by the tests of their programs on smaller data: most of
those printed here want photographs, a download, a GPU or hours.
"""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from s4former.__main__ import COMMANDS
from s4former.config import load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "configs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETUP = ("python3 -m venv", ". .venv", "pip install", "python -m pytest", "export", "cd")
TEMPLATES = ("SPLIT", "REST", "BEHIND")  # words of configs/README.md that stand for something


def commands():
    for page in PAGES:
        text = page.read_text()
        lone = re.findall(r"^    (s4former .*)$", text, re.MULTILINE) + [
            line.replace("\n", " ") for line in re.findall(r"`(s4former figures [a-z]+ [^`|]*)`", text)
        ]
        for block in [*re.findall(r"```bash\n(.*?)```", text, re.DOTALL), *lone]:
            for line in block.replace("\\\n", " ").splitlines():
                for command in line.split(" && "):
                    words = shlex.split(command, comments=True)
                    if words and not command.strip().startswith(SETUP) and not any(t in w for w in words for t in TEMPLATES):
                        yield pytest.param(words, id=f"{page.name}: {' '.join(words)[:70]}")


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_is_one_that_its_program_takes(words, monkeypatch):
    words = [word for word in words if word != "..."]
    script = next((word for word in words if word in ("train_semi.py", "evaluate.py")), None)
    if script is None and words[0] == "s4former":
        name, arguments = words[1], words[2:]
    else:
        name, arguments = script.removesuffix(".py").replace("train_semi", "train"), words[words.index(script) + 1 :]
    if name in ("train", "check"):
        files = [arguments[place + 1] for place, word in enumerate(arguments) if word == "--config"]
        ours = [ROOT / file for file in files if file.startswith("configs/")]
        load(ours or ROOT / "configs" / "demo.json", [word for word in arguments if re.match(r"[a-z_]+\.[a-z_.]+=", word)])
    if name != "train" or "configs/" not in " ".join(words):  # the script reads its arguments by itself
        assert_parsed(name, arguments, monkeypatch)


def assert_parsed(name, arguments, monkeypatch):
    """The program gets past its arguments; what it would do then is not done."""

    class Parsed(Exception):
        pass

    for method in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, method)

        def parse(self, *given, original=original, **named):
            original(self, *given, **named)
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, method, parse)
    monkeypatch.setattr("sys.argv", [name, *arguments])
    with pytest.raises(Parsed):
        import_module(COMMANDS[name][0]).main()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        headings = [re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in file.read_text().splitlines() if line.startswith("#")] if heading else []  # fmt: skip
        assert not heading or heading in headings, target
