import io
from types import SimpleNamespace

from s4former.config import from_dict
from s4former.training.log import RunLog


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_moves_every_step_fits_80_columns_and_knows_burn_in_and_evaluations(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    config = from_dict({"schedule": {"steps": 80000, "warm_up": 0}, "method": {"burn_in": 39999}})
    training = SimpleNamespace(
        config=config, folder=tmp_path, accelerator=SimpleNamespace(is_main_process=True, log_with=[], reduce=max), step=39998,
        seconds=0.0, replaced=0, images_until=lambda step: 123 * step,
        pseudo_counts=SimpleNamespace(compute=lambda step, total: None),
    )  # fmt: skip
    log, seen = RunLog(training), []
    for values in ({}, {"confident": 0.99}):
        training.step += 1
        log.count_step([], seconds=1.0, waited=0.5)
        assert log.bar.n == training.step
        log.progress({"loss/total": 10.123, "loss/supervised": 9.0, **values})
        seen.append(str(log.bar))
    log.show_phase("evaluating")
    assert seen[0].startswith("burn-in  50%|") and seen[1].startswith(" 50%|") and str(log.bar).startswith("evaluating  50%|")
    assert seen[1].endswith("left, loss 10.123, confident 99%, 123.0 img/s]") and max(map(len, seen)) <= 80
    log.close()


def test_trackers_get_the_numbers_of_a_mapping_too():
    log, got = RunLog.__new__(RunLog), []
    log.main, log.file, log.training = True, io.StringIO(), SimpleNamespace(step=7)
    log.trackers = SimpleNamespace(log=lambda values, step: got.append((values, step)))
    log.record("teacher", {"confident": 0.5, "share": {"leaf": 0.25, "bud": None}, "classes": ["leaf"], "ended": True})
    assert got == [({"teacher/confident": 0.5, "teacher/share/leaf": 0.25}, 7)]
    assert '"share": {"leaf": 0.25, "bud": null}' in log.file.getvalue()
