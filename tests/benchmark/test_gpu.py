"""`s4former benchmark gpu`: its parts on tiny sizes, its time limits, and what it writes when a part fails."""

import json
import time

import pytest
import torch
from accelerate.state import AcceleratorState

from s4former.benchmark import gpu, gpu_parts
from s4former.benchmark.timing import Measurement, Row
from s4former.networks import adapters


def test_the_shares_of_the_parts_add_up_to_all_of_the_time():
    assert set(gpu.SHARES) == set(gpu_parts.PARTS) and sum(gpu.SHARES.values()) == pytest.approx(1)


def test_what_takes_longer_than_its_time_is_stopped_even_where_exceptions_are_caught():
    started = time.monotonic()
    with pytest.raises(gpu.OutOfTimeError), gpu.time_limit(0.05):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass
    assert time.monotonic() - started < 5
    with pytest.raises(gpu.OutOfTimeError), gpu.time_limit(-1):
        raise AssertionError("nothing runs when the time is over before it begins")


def test_parts_that_fail_are_told_and_the_others_are_written(tmp_path, monkeypatch, capsys):
    row = Row("a step", Measurement((0.25,), 2**30), Measurement((0.5,), None), "plain", 4)

    def failing(benchmark):
        benchmark.notes.append("one line before")
        yield row
        raise torch.OutOfMemoryError("too much\nand more lines")

    def working(benchmark):
        yield row

    monkeypatch.setattr(gpu, "SHARES", {"first": 0.5, "second": 0.5})
    monkeypatch.setattr(gpu_parts, "PARTS", {"first": failing, "second": working})
    assert gpu.main(["--rehearse", "-o", str(tmp_path / "out")]) == 0
    parts = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert parts["first"]["stopped"] == "OutOfMemoryError: too much" and parts["first"]["notes"] == ["one line before"]
    assert "stopped" not in parts["second"] and parts["second"]["notes"] == []
    assert [part["rows"][0]["ratio"] for part in parts.values()] == [2, 2]
    text = (tmp_path / "out.md").read_text()
    assert text.count("| a step | 250.00 | 1.00 | plain | 500.00 |  | 2.00 | 16.00 |") == 2
    assert "Stopped: OutOfMemoryError: too much." in text and "second: done" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "torch sees no GPU; --rehearse runs tiny sizes without one" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks there when it compiles
def test_a_rehearsal_runs_every_part(tmp_path, monkeypatch):
    AcceleratorState._reset_state(True)  # another test may have made one in float32
    monkeypatch.setattr(adapters, "COMPILER", "aot_eager")  # traces as inductor does, and writes no code
    assert gpu.main(["--rehearse", "--minutes", "30", "-o", str(tmp_path / "out")]) == 0
    parts = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert {name: part.get("stopped") for name, part in parts.items()} == dict.fromkeys(gpu_parts.PARTS)
    assert len(parts["steps"]["rows"]) == len(gpu_parts.STEPS) and parts["yardstick"]["rows"][0]["ratio"] > 0
    differences = dict(note.rsplit(": ", 1) for note in parts["agreement"]["notes"])
    assert float(differences["float32, to the CPU"]) < 1e-5 and float(differences["bfloat16, to float32"]) < 0.5
