from dataclasses import replace
from types import SimpleNamespace

import pytest

from s4former.config import NUMERICS, from_dict, to_dict
from s4former.errors import ConfigError
from s4former.training import resume
from s4former.training.resume import changed_keys, other_digits

LISTS = {part: {"images": 3, "sha256": part} for part in ("labeled", "unlabeled", "validation")}
SOURCES = SimpleNamespace(lists=LISTS, classes=("ground", "leaf"))
CONFIG = from_dict({"data": {"source": "folder", "root": "/one", "labeled": "l.txt", "validation": "v.txt"}})
STATE = {"config": to_dict(CONFIG), "lists": LISTS, "classes": ["ground", "leaf"]}


def changed(sources=SOURCES, state=STATE, **keys):
    return set(changed_keys(state, replace(CONFIG, data=replace(CONFIG.data, **keys)), sources))


def test_data_may_lie_elsewhere_when_a_run_is_resumed_as_long_as_the_lists_are_the_same():
    moved = {"root": "/two", "labeled": "/lists/l.txt", "unlabeled": "u.txt", "validation": "other.txt"}
    assert changed(**moved) == set()
    other = SimpleNamespace(lists={**LISTS, "labeled": {"images": 4, "sha256": "x"}}, classes=SOURCES.classes)
    assert changed(other, **moved) == {"data.root", "data.labeled", "data.unlabeled"}
    assert changed(SimpleNamespace(lists=LISTS, classes=("leaf", "ground")), **moved) == {"data.root", "data.labeled", "data.unlabeled"}
    assert changed(other) == set()  # another list under the same path is noted, not refused


def test_masks_may_be_repaired_and_more_shapes_evaluated_when_a_run_is_resumed(monkeypatch):
    state = {**STATE, "lists": LISTS}
    monkeypatch.setattr(resume, "read_state", lambda folder, say: state)
    accelerator = SimpleNamespace(is_main_process=True)
    for keys in ({"id_map": {"255": 1}}, {"palette": {"#000000": 0}}):
        (name,) = keys
        assert all(key.startswith(f"data.{name}.") for key in changed(**keys))
        assert resume.find_state(None, replace(CONFIG, data=replace(CONFIG.data, **keys)), SOURCES, accelerator) is state
    assert changed(shapes=replace(CONFIG.data.shapes, validation=50)) == set()
    with pytest.raises(ConfigError, match="data.crop was .* and is .*data.palette, evaluation may differ"):
        resume.find_state(None, replace(CONFIG, data=replace(CONFIG.data, crop=(32, 48))), SOURCES, accelerator)


def test_another_dataset_of_the_hub_is_another_run_also_where_its_rows_have_the_same_numbers():
    state = {**STATE, "config": to_dict(replace(CONFIG, data=replace(CONFIG.data, source="hub")))}
    assert changed(state=state, source="hub", root="/two") == {"data.root"}


def test_a_checkpoint_from_before_classes_were_saved_is_resumed_with_its_own_paths():
    state = {"config": STATE["config"]}
    assert changed(state=state) == set() and changed(state=state, root="/two") == {"data.root"}


def test_a_checkpoint_from_before_a_key_was_taken_out_is_resumed_if_the_key_had_no_effect():
    method = STATE["config"]["method"]
    without, with_ = ({**STATE, "config": {**STATE["config"], "method": {**method, "previous": value}}} for value in (0, 3))
    assert changed(state=without) == set() and changed(state=with_) == {"method.previous"}


def test_a_checkpoint_of_code_with_other_digits_is_resumed_with_a_remark():
    state = {**STATE, "numerics": NUMERICS}
    assert other_digits(state, LISTS) == []
    (remark,) = other_digits({**state, "numerics": NUMERICS - 1}, LISTS)
    assert remark == (
        f"NUMERICS of the code was {NUMERICS - 1} and is {NUMERICS} (config.py says what that changes), so the run will not end as an"
        " uninterrupted one would"
    )
    assert "was of before 6" in other_digits(STATE, LISTS)[0]
    assert len(other_digits({}, LISTS)) == 1
