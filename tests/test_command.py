"""The console command: every command has its own --help, starts what its module does, and loads no heavy library before it must."""

import sys

import pytest
from folders import make_folder
from scripts import ROOT, run, write_config

from s4former.__main__ import COMMANDS, main

LOADED = (
    "import atexit, runpy, sys\n"
    "heavy = {'torch', 'transformers', 'datasets', 'accelerate'}\n"
    "atexit.register(lambda: print('loaded', sorted(heavy & sys.modules.keys())))\n"
)


def loaded_by(code: str) -> str:
    """What a process that runs the code printed last."""
    return run([sys.executable, "-c", LOADED + code], cwd=ROOT).stdout.splitlines()[-1]


def test_help_lists_every_command_in_a_line(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out == (text := main(["--help"]) or capsys.readouterr().out)
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name:12}{summary}\n" in text
    assert "configs/ are in the\nrepository only" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_own_help_with_an_example(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text.startswith(f"usage: s4former {name} ")
    program = "train_semi.py" if COMMANDS[name][0] == "train_semi" else f"s4former {name} "
    assert any(line.startswith("    ") and program in line for line in text.splitlines())
    assert ("Looks at data, memory, time and disk of a run" in text) == (name == "check")


def test_an_unknown_command_is_one_sentence(capsys):
    assert main(["evalute"]) == main(["xyz"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "s4former: there is no command 'evalute'; did you mean evaluate?",
        f"s4former: there is no command 'xyz'; one of {', '.join(COMMANDS)}",
    ]


@pytest.mark.parametrize("name", ["train", "check"])
def test_train_and_check_run_the_script(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    assert main([name, "--config", "missing.json", "run.seed=1"]) == 1
    assert capsys.readouterr().err.strip().startswith(f"s4former {name}: there is no config file missing.json; ")
    assert sys.argv[1:] == ["--check"] * (name == "check") + ["--config", "missing.json", "run.seed=1"]


@pytest.mark.slow
def test_no_command_loads_a_heavy_library_for_its_help():
    code = (
        "from s4former.__main__ import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit: pass\n"
    )
    assert loaded_by(code) == "loaded []"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train"], ["train", "--config", "none.json"], ["predict", "p", "--checkpoint", "no/such/run"], ["pool", "none", "-o", "x"],
     ["onnx", "none", "x.onnx"], ["study", "none.json"], ["table", "none"], ["report", "none"], ["benchmark", "steps"],
     ["new-config", "none"], ["new-config", "configs", "--encoder", "deit-smal"], ["rasterize", "none"],
     ["onnx", ".", "none/x.onnx"], ["figures", "compare", "runs/none", "--output", "x"], ["figures", "classes", "--output", "x"],
     ["figures", "views", "--config", "none.json", "--output", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_mistakes_in_arguments_and_config_load_no_heavy_library(arguments):
    start = f"sys.argv = ['s4former', *{arguments!r}]\nrunpy.run_module('s4former', run_name='__main__')"
    assert loaded_by(start) == "loaded []"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("train", ["data.root=nothere"], "data.root is 'nothere', but there is no such folder"),
        ("check", ["data.root=/nothere", "data.source=hub"], "data.root is '/nothere', but there is no such folder"),
        ("train", ["data.labeled=lost.txt"], "data.labeled is 'lost.txt', but there is no such list or folder"),
        ("train", ["data.classes=[]", "data.classes_file=lost.json"], "data.classes_file is 'lost.json', but there is no such list"),
        ("train", ["run.output=TAKEN"], "already holds a run; add --resume to go on with it"),
        ("train", ["--resume", "run.output=none"], "there is nothing to resume: "),
        ("check", ["model.encoder=deit-smal"], "did you mean deit-small?"),
        ("check", ["model.start_from=./nothere"], "model.start_from is './nothere', but there is no such folder"),
        ("train", ["run.push_to_hub=a/b/c"], "run.push_to_hub is 'a/b/c': "),
    ],
)
def test_a_wrong_name_or_path_of_a_run_is_answered_before_a_heavy_library_is_loaded(name, overrides, words, tmp_path):
    root = make_folder(tmp_path)
    (tmp_path / "run" / "checkpoints" / "step-00000002").mkdir(parents=True)
    data = {"source": "folder", "root": str(root), "labeled": "labeled.txt", "validation": "test.txt", "classes": ["a", "b", "c"]}
    config = write_config(tmp_path, tree={"data": data, "run": {"output": str(tmp_path / "new")}})
    overrides = [word.replace("TAKEN", str(tmp_path / "run")) for word in overrides]
    done = run([sys.executable, "-c", f"{LOADED}sys.argv = ['s4former', *{[name, '--config', str(config), *overrides]!r}]\n"
                "runpy.run_module('s4former', run_name='__main__')"], cwd=ROOT)  # fmt: skip
    assert words in done.stderr and done.stdout.splitlines()[-1] == "loaded []"
