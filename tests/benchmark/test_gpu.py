"""`s4former benchmark gpu`: its parts on tiny sizes, its time limits, and what it writes when a part fails."""

import json
import time

import pytest
import torch

from s4former.benchmark import command, gpu, steps
from s4former.benchmark.command import main
from s4former.networks import adapters


def test_the_shares_of_the_parts_add_up_to_all_of_the_time():
    assert {entry.part for entry in gpu.PLAN.values()} < set(command.PARTS)
    assert sum(entry.share for entry in gpu.PLAN.values()) == pytest.approx(1)


def test_what_takes_longer_than_its_time_is_stopped_even_where_exceptions_are_caught():
    started = time.monotonic()
    with pytest.raises(command.OutOfTimeError), command.time_limit(0.05):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass
    assert time.monotonic() - started < 5
    with pytest.raises(command.OutOfTimeError), command.time_limit(-1):
        raise AssertionError("nothing runs when the time is over before it begins")


def test_parts_that_fail_are_told_and_the_others_are_written(tmp_path, monkeypatch, capsys):
    ours = {"seconds": [0.25], "median": 0.25, "peak_bytes": 2**30}
    other = {"seconds": [0.5], "median": 0.5, "peak_bytes": 2**29}
    row = {"what": "a step", "ours": ours, "other": other, "against": "plain", "ratio": 2.0, "images_per_second": 16.0}

    def failing(benchmark):
        yield "one line before"
        yield row
        raise torch.OutOfMemoryError("too much\nand more lines")

    def working(benchmark):
        yield row

    monkeypatch.setattr(command, "PLAN", {"first": gpu.Entry("step", 0.5), "second": gpu.Entry("kernels", 0.5)})
    monkeypatch.setattr(steps, "step", failing)
    monkeypatch.setattr(steps, "kernels", working)
    assert main(["gpu", "--rehearse", "-o", str(tmp_path / "out")]) == 0
    parts = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert parts["first"]["stopped"] == "OutOfMemoryError: too much" and parts["first"]["notes"] == ["one line before"]
    assert "stopped" not in parts["second"] and parts["second"]["notes"] == []
    assert [part["rows"] for part in parts.values()] == [[row], [row]]
    text = (tmp_path / "out.md").read_text()
    cells = [line.split() for line in text.splitlines() if "a step" in line]
    assert cells == 2 * ["| a step | 250.00 | 1.00 | plain | 500.00 | 0.50 | 2.00 | 16.00 |".split()]
    assert "Stopped: OutOfMemoryError: too much." in text and "second: done" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["gpu"]) == 1
    assert "torch sees no GPU; --rehearse runs tiny sizes without one" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks there when it compiles
def test_a_rehearsal_runs_every_part(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "COMPILER", "aot_eager")  # traces as inductor does, and writes no code
    assert main(["gpu", "--rehearse", "--minutes", "300", "--repeats", "1", "-o", str(tmp_path / "out")]) == 0
    parts = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert {name: part.get("stopped") for name, part in parts.items()} == dict.fromkeys(gpu.PLAN)
    assert all(len(part["rows"]) == 1 for name, part in parts.items() if name.startswith("step "))
    assert parts["yardstick over DPT"]["rows"][0]["ratio"] > 0
    differences = dict(note.rsplit(": ", 1) for note in parts["agreement"]["notes"])
    assert float(differences["float32, to the CPU"]) < 1e-5 and float(differences["bfloat16, to float32"]) < 0.5
