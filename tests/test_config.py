import dataclasses
import json
import pickle
import re
import typing
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from s4former.config import (
    Config, Method, Schedule, from_dict, help_config, json_schema, load, share_of_process, to_dict, without_taken_out,
)  # fmt: skip
from s4former.data.sources import SOURCES
from s4former.errors import ConfigError
from s4former.method.losses import REGULARIZERS
from s4former.method.mixing import MIXES
from s4former.method.pasa import VARIANTS
from s4former.training.schedules import learning_rate

SCHEMA = Path(__file__).parent.parent / "configs" / "schema.json"
CONFIGS = sorted(set(SCHEMA.parent.rglob("*.json")) - {SCHEMA})


def complaint(tree):
    with pytest.raises(ConfigError) as caught:
        from_dict(tree)
    return str(caught.value)


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"method": {"treshold": 0.9}}, "unknown key method.treshold; did you mean method.threshold?"),
        ({"run": {"batch": {"labelled": 8}}}, "unknown key run.batch.labelled; did you mean run.batch.labeled?"),
        ({"method": {"mix": "cutmx"}}, "method.mix is 'cutmx'; one of 'none', 'cutmix', 'cutmix_small', 'cutmix_beta', 'cutmix_hardness', 'cutout', 'classmix', 'classmix_half', 'mixunmix', 'adaptive_cutmix', 'masked'"),
        ({"run": {"seed": "one"}}, "run.seed is 'one'; it must be a whole number"),
        ({"run": {"seed": True}}, "run.seed is True; it must be a whole number"),
        ({"method": {"threshold": 1.5}}, "method.threshold is 1.5; it must be at most 1"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr is 0; it must be above 0"),
        ({"schedule": {"steps": 0}}, "schedule.steps is 0; it must be at least 1"),
        ({"data": {"crop": 512}}, "data.crop is 512; it must be a list, like [...]"),
        ({"data": {"crop": [512]}}, "data.crop is [512]; it must have 2 entries"),
        ({"data": {"crop": [0, 9, 9]}}, "data.crop is [0, 9, 9]; it must have 2 entries"),
        ({"data": {"crop": [0, 512]}}, "data.crop[0] is 0; it must be at least 1"),
        ({"data": {"id_map": {"3": "sky"}}}, "data.id_map.3 is 'sky'; it must be a whole number"),
        ({"data": {"id_map": [3]}}, 'data.id_map is [3]; it must be a mapping, like {"key": value}'),
        ({"data": {"ratio": [2, 1]}}, "data.ratio is [2.0, 1.0]; write the smaller number first"),
        ({"evaluation": {"scales": []}}, "evaluation.scales is []; it must have at least 1 entry"),
        ({"optimizer": {"lr": "1"}}, "optimizer.lr is '1'; it must be a number"),
        ({"evaluation": {"flip": 1}}, "evaluation.flip is 1; it must be true or false"),
        ({"data": {"root": None}}, "data.root is None; it must be a string"),
        ({"dta": {}}, "unknown key dta; did you mean data?"),
        ({"data": {"resize": [512, 2048]}}, "data.resize is [512, 2048]; write the longest side first, then the shortest"),
        ({"data": []}, "data is []; it must be a section, like {...}"),
        ({"data": {"palette": {"red": 1}}}, "data.palette has the key 'red'; write colours as \"#rrggbb\", such as \"#804080\""),
        ({"data": {"colours": ["", "grey"]}}, "data.colours[1] is 'grey'; write colours as \"#rrggbb\", such as \"#804080\""),
        ({"data": {"levels": [9, 1]}}, "data.levels is [9.0, 1.0]; write the value that becomes black first, then the white one"),
        ({"run": {"batch": {"unlabeled": 6}}}, "run.batch.unlabeled = 6 is not made of whole mix groups of 4; use 4 or 8, or change method.mix_group"),
        ({"method": {"mix_group": 1}}, "method.mix_group = 1 gives every image to itself; set it to 2 or more, or method.mix=none"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer.betas[1] is 1.0; it must be below 1"),
        ({"method": {"mix": "adaptive_cutmix"}, "run": {"batch": {"labeled": 6, "unlabeled": 16}}},
         "method.mix = 'adaptive_cutmix' parts run.batch.labeled = 6 among 4 mix groups; use 4 or 8"),
        ({"method": {"regularizer_on": "pasa", "pasa": "none"}},
         "method.regularizer_on = 'pasa' names a student pass that method.pasa = 'none' leaves out; set"
         " method.regularizer_on=both, or method.regularizer=none"),
        ({"method": {"previous": 3}}, "method.previous = 3 is of an older version; leave it out (docs/measured.md says why it went)"),
        ({"method": {"preset": [1]}}, "method.preset is [1]; one of 'paper', 'official'"),
        ({"data": {"crop": [96, 96]}, "evaluation": {"mode": "sliding", "window": [0, 640], "stride": [512, 512]}},
         "evaluation.stride is [512, 512] for windows of [96, 640] pixels, so pixels between them would be missed; take a stride of"
         " at most the window, or set evaluation.window (0: the training crop, data.crop)"),
        ({"data": {"classes": ["a", "b"], "classes_file": "c.json"}}, "data.classes and data.classes_file are both given; keep one of them"),
    ],
)  # fmt: skip
def test_messages_name_the_key_the_value_and_the_repair(tree, message):
    assert complaint(tree) == message


def test_an_unknown_key_without_a_likeness_gets_the_whole_list():
    assert complaint({"optimizer": {"zzz": 1}}).startswith("unknown key optimizer.zzz; optimizer has name, lr, head_multiplier")


def test_the_resolved_config_gives_itself_back():
    config = from_dict({"method": {"preset": "official"}, "data": {"id_map": {"3": 0}, "classes": ["a", "b"]}})
    assert from_dict(to_dict(config)) == config


def test_keys_of_older_versions_are_left_out_where_they_had_no_effect():
    old = {"method": {"previous": 0, "pseudo_weight": "none", "mix": "none"}, "run": {"seed": 1}}
    assert from_dict(old) == from_dict({"method": {"mix": "none"}, "run": {"seed": 1}}) and "previous" in old["method"]
    used = {"method": {"previous": 3, "mix": "none"}}
    assert without_taken_out(used) == used and without_taken_out(used, even_in_use=True) == {"method": {"mix": "none"}}
    assert without_taken_out({"method": []}) == {"method": []}


def test_the_floor_of_the_rate_follows_the_optimizer_unless_it_is_given():
    assert Config().schedule.floor == from_dict({"optimizer": {"lr": 1e-2}}).schedule.floor == 1e-4
    adamw = from_dict({"optimizer": {"name": "adamw", "lr": 6e-5}})
    assert adamw.schedule.floor == 0 and learning_rate(6e-5, adamw.schedule.steps - 1, adamw.schedule) < 1e-8
    assert from_dict({"optimizer": {"name": "adamw"}, "schedule": {"floor": 1e-6}}).schedule.floor == 1e-6
    assert complaint({"optimizer": {"name": "adamw"}, "schedule": []}) == "schedule is []; it must be a section, like {...}"
    floors = {path.stem: load(path).schedule.floor for path in CONFIGS}
    assert {name for name, floor in floors.items() if floor == 0} >= {"demo", "segformer_b4", "cityscapes_186", "dinov2_base"}
    assert floors["voc_92"] == floors["coco_232"] == floors["official"] == 1e-4  # SGD, as in the paper


def test_overrides_win_and_read_json(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"run": {"seed": 3}}')
    config = load(path, ["run.seed=4", "data.crop=[96, 64]", "data.root=some where", "run.batch.labeled=2"])
    assert (config.run.seed, config.data.crop, config.data.root, config.run.batch.labeled) == (4, (96, 64), "some where", 2)
    with pytest.raises(ConfigError, match="cannot read the argument 'run.seed'; write section.key=value"):
        load(path, ["run.seed"])
    with pytest.raises(ConfigError, match="cannot set run.seed.x: seed is not a section"):
        load(path, ["run.seed.x=1"])


def test_missing_and_broken_files_are_told(tmp_path):
    with pytest.raises(ConfigError, match="there is no config file .*dmeo.json; did you mean .*configs/demo.json?"):
        load(SCHEMA.with_name("dmeo.json"))
    with pytest.raises(ConfigError, match="there is no config file .*nowhere.json"):
        load(tmp_path / "nowhere.json")
    (tmp_path / "broken.json").write_text('{"run": }')
    with pytest.raises(ConfigError, match="broken.json is not valid JSON: line 1, column 9"):
        load(tmp_path / "broken.json")


def test_a_later_file_goes_over_an_earlier_one_key_by_key_and_an_override_over_both(tmp_path):
    below, above = tmp_path / "below.json", tmp_path / "above.json"
    below.write_text(json.dumps({"data": {"crop": [32, 48], "shapes": {"labeled": 3}}, "method": {"mix": "none", "block": 2}}))
    above.write_text(json.dumps({"data": {"shapes": {"unlabeled": 7}}, "method": {"mix": "classmix"}}))
    config = load([below, above], ["method.block=4"])
    assert config.data.crop == (32, 48) and (config.data.shapes.labeled, config.data.shapes.unlabeled) == (3, 7)
    assert (config.method.mix, config.method.block) == ("classmix", 4)
    above.write_text("[1]")
    with pytest.raises(ConfigError, match=r"above.json holds \[1\]; it must hold sections, like"):
        load([below, above])


def test_a_mix_that_takes_nothing_from_a_second_batch_is_refused_and_groups_need_not_be_whole_with_one():
    with pytest.raises(ConfigError, match="method.mix = 'mixunmix' takes nothing from a second batch; set method.mix_from=group"):
        from_dict({"method": {"mix": "mixunmix", "mix_from": "second_batch"}})
    assert share_of_process(from_dict({"method": {"mix_from": "second_batch"}}), 4) == (2, 2)
    assert share_of_process(from_dict({"method": {"mix": "cutout"}}), 8) == (1, 1)  # takes nothing from anywhere


def test_a_batch_is_shared_over_processes_and_rounds_or_refused():
    config = from_dict({"run": {"batch": {"labeled": 8, "unlabeled": 16, "rounds": 2}}})
    assert share_of_process(config, 1) == (4, 8) and share_of_process(config, 2) == (2, 4)
    with pytest.raises(ConfigError) as caught:
        share_of_process(from_dict({}), 3)
    assert str(caught.value) == "run.batch.labeled = 8 cannot be divided over 3 processes; use 6 or 9"
    assert share_of_process(from_dict({}), 8) == (1, 1)  # what a group has elsewhere is borrowed
    for keys in ({"mix": "mixunmix"}, {"teacher": "student_in_training"}):
        with pytest.raises(ConfigError, match="leaves 2 images each, which is not made of whole mix groups of 4; use 16,"):
            share_of_process(from_dict({"method": keys}), 4)
    assert share_of_process(from_dict({"method": {"mix": "none"}}), 4) == (2, 2)


def test_the_words_of_the_config_are_those_of_the_tables():
    hints = typing.get_type_hints(Method)
    assert set(typing.get_args(hints["regularizer"])) == {"none", *REGULARIZERS}
    assert set(typing.get_args(hints["pasa"])) == {"none", "rand", *VARIANTS}
    assert set(typing.get_args(hints["mix"])) == set(MIXES)
    source = typing.get_type_hints(type(Config().data))["source"]
    assert set(typing.get_args(source)) == set(SOURCES)


def test_every_method_of_the_tables_has_its_name():
    off = {"patch_shuffle": False, "pasa": "none", "regularizer": "none"}
    assert Method().title == "S4Former" and Method(teacher="none").title == "Sup-Only"
    assert Method(mix="none", **off).title == "Mean Teacher" and Method(**off).title == "S4Former-Base"
    assert Method(teacher="student", **off).title == "FixMatch"
    assert Method(mix="cutout", **off).title == "Mean Teacher + CutOut"
    assert Method(mix="classmix", **{**off, "patch_shuffle": True}).title == "Mean Teacher + ClassMix + PatchShuffle"
    assert Method(regularizer="none").title == "S4Former-Base + PatchShuffle + PASA"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_in_the_folder_loads_and_says_only_what_differs(path):
    load(path)
    tree = json.loads(path.read_text())
    assert (path.parent / tree.pop("$schema")).resolve() == SCHEMA.resolve()
    defaults = to_dict(Config())

    def repeated(tree, default, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict) and isinstance(default[key], dict) and default[key]:
                yield from repeated(value, default[key], f"{prefix}{key}.")
            elif value == default[key]:
                yield prefix + key

    assert not list(repeated(tree, defaults)) or path.stem == "as_printed"  # which undoes what another file set


def test_what_the_small_protocol_changes_of_the_method_is_undone_by_as_printed():
    method = load([SCHEMA.parent / "voc_local.json", SCHEMA.parent / "methods" / "as_printed.json"]).method
    assert replace(method, block=8, ema=0.999, ema_warm_up=False, auxiliary_weight=0.4) == Method()


def test_the_schema_for_editors_is_current_and_explains_every_key():
    command = "import json, s4former.config as c; print(json.dumps(c.json_schema(), indent=2))"
    assert json.loads(SCHEMA.read_text()) == json_schema(), f"write it again: python -c '{command}' > configs/schema.json"
    sections = {name: section["properties"] for name, section in json_schema()["$defs"].items()}
    assert all(section["additionalProperties"] is False for section in json_schema()["$defs"].values())
    assert [key for keys in sections.values() for key, spec in keys.items() if not {"description", "$ref"} & spec.keys()] == []
    assert sections["Method"]["threshold"]["maximum"] == 1 and "cutmix" in sections["Method"]["mix"]["enum"]


def test_a_note_beside_a_key_is_read_over_and_nothing_looser_is(tmp_path):
    def read(**section):
        (tmp_path / "mine.json").write_text(json.dumps({"method": section}))
        return load(tmp_path / "mine.json", ["run.seed=3"])

    jsonschema = pytest.importorskip("jsonschema")
    sound = {"threshold": 0.9, "threshold.note": "a short run"}
    assert read(**sound).method == Method(threshold=0.9)
    jsonschema.validate({"method": sound}, json_schema())
    for section, message in {
        "note alone": ({"threshold.note": "why"}, "unknown key method.threshold.note; did you mean method.threshold?"),
        "no sentence": ({**sound, "threshold.note": 3}, "method.threshold.note is 3; a note must be a string"),
        "of no key": ({"treshold": 0.9, "treshold.note": "why"}, "unknown key method.treshold; did you mean method.threshold?"),
        "another form": ({"threshold": 0.9, "threshold_note": "why"}, "unknown key method.threshold_note; did you mean method.threshold?"),
    }.values():  # fmt: skip
        with pytest.raises(ConfigError, match=re.escape(message)):
            read(**section)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"method": section}, json_schema())
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"run": {"batch": {"rounds": 2, "rounds.note": "why"}, "batch.note": "why"}}))
    assert load(path).run.batch.rounds == 2


def test_the_help_has_the_default_the_rule_and_the_meaning_of_every_key_as_wide_as_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = help_config()
    assert max(map(len, text.splitlines())) <= 60
    keys = {line.split(" = ")[0] for line in text.splitlines() if re.match(r"[a-z]\S+ = ", line)}
    flat = {f"{section}.{key}" for section, keys in to_dict(Config()).items() for key in keys}
    assert keys >= flat - {"data.shapes", "run.batch"} and {"data.shapes.seed", "run.batch.rounds"} <= keys
    assert help_config("schedule").splitlines()[:6] == [
        "schedule", "    Polynomial decay to a floor, after an optional linear", "    warm-up.",
        "schedule.steps = 80000 (at least 1)", "    optimizer steps of the run", "schedule.power = 0.9 (above 0)",
    ]  # fmt: skip
    assert 'optimizer.name = "sgd" (one of sgd, adamw)' in help_config("optimizer")
    assert help_config("data.crop").startswith("data.crop = [512, 512] (at least 1)\n")
    with pytest.raises(ConfigError, match="the config has no section metod; use method"):
        help_config("metod")
    with pytest.raises(ConfigError, match="the config has no section zzz; use data, model, method, "):
        help_config("zzz")


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_dict({}).run.seed = 3


def test_a_changed_config_is_checked_again_and_travels_to_other_processes():
    config = from_dict({"data": {"palette": {"#804080": 1}}})
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ConfigError, match="method.burn_in = 9 leaves none of the schedule.steps = 9"):
        replace(config, method=replace(config.method, burn_in=9), schedule=Schedule(steps=9))
    with pytest.raises(ValidationError, match="Input should be less than or equal to 1"):
        replace(config.method, threshold=2.0)


@pytest.mark.parametrize("burn_in", [0, 9])
def test_a_restart_without_a_burn_in_before_it_is_refused(burn_in):
    tree = {"method": {"burn_in": burn_in}, "schedule": {"steps": 9, "restart": 0.3}}
    with pytest.raises(ConfigError, match=f"schedule.restart = 0.3 begins after .*which is {burn_in} of 9"):
        from_dict(tree)
    alone = from_dict({**tree, "method": {"burn_in": 5, "teacher": "none"}})  # labels alone: one fall, whatever the burn-in
    assert alone.restart_at == 0 and replace(alone, method=replace(alone.method, teacher="ema")).restart_at == 5


def test_a_burn_in_as_long_as_the_run_is_refused():
    with pytest.raises(ConfigError, match="method.burn_in = 9 leaves none of the schedule.steps = 9 .*method.teacher=none"):
        from_dict({"method": {"burn_in": 9}, "schedule": {"steps": 9}})
    assert from_dict({"method": {"burn_in": 9, "teacher": "none"}, "schedule": {"steps": 9}}).method.burn_in == 9


def test_levels_that_are_not_finite_are_refused():
    with pytest.raises(ConfigError, match=r"data.levels\[0] is nan; it must be a finite number"):
        from_dict({"data": {"levels": [float("nan")] * 2}})
