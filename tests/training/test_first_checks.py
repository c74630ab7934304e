"""first_checks.py: names and paths that cannot be right are refused in a sentence, and nothing is opened for it."""

import pytest

from s4former.config import from_dict
from s4former.errors import ConfigError
from s4former.training.first_checks import check_names, check_repository


def message(**model):
    with pytest.raises(ConfigError) as caught:
        check_names(from_dict({"model": model}))
    return str(caught.value)


def test_a_model_that_is_not_there_and_no_hub_id_is_refused_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "after" / "student").mkdir(parents=True)
    assert message(start_from="runs/aftr/student", architecture="setr") == (
        "model.start_from is 'runs/aftr/student', but there is no such folder; did you mean runs/after/student?"
    )
    check_names(from_dict({"model": {"start_from": "runs/after/student"}}))
    check_names(from_dict({"model": {"start_from": "nvidia/segformer-b0-finetuned-ade-512-512"}}))


def test_an_encoder_of_no_known_name_is_refused():
    assert message(encoder="deit-smal").endswith("; did you mean deit-small?")
    for encoder in ("deit-small", "facebook/deit-small-patch16-224"):
        check_names(from_dict({"model": {"encoder": encoder}}))


@pytest.mark.parametrize("repository", ["", "model", "someone/model", "some-one/My_model.v2"])
def test_an_id_that_the_hub_takes_passes(repository):
    check_repository(repository)


@pytest.mark.parametrize(
    ("repository", "reason"),
    [
        ("a/b/c", "Repo id must be in the form 'repo_name' or 'namespace/repo_name'"),
        ("someone/my model", "Repo id must use alphanumeric chars"),
        ("someone/a--b", "Cannot have -- or .. in repo_id"),
        ("someone/model.git", "Repo_id cannot end by '.git'"),
        ("https://huggingface.co/someone/model", "Repo id must be in the form"),
    ],
)
def test_an_id_that_the_hub_refuses_is_refused_with_its_key(repository, reason):
    with pytest.raises(ConfigError) as caught:
        check_repository(repository)
    assert str(caught.value).startswith(f"run.push_to_hub is {repository!r}: {reason}")
    assert str(caught.value).endswith("; write it as owner/name") and str(caught.value).count(repository) == 1
