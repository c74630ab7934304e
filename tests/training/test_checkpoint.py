import pytest
import torch

from s4former import files
from s4former.training import checkpoint


def state(step):
    return {"step": step, "weights": torch.full((300,), float(step)), "best": {"teacher": {"mean_iou": 0.5, "step": step}}}


def test_the_newest_comes_back_and_only_so_many_are_kept(tmp_path):
    assert checkpoint.load_newest(tmp_path) == (None, [])
    for step in (2, 9, 10):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step-00000009", "step-00000010"]
    loaded, refused = checkpoint.load_newest(tmp_path)
    assert loaded["step"] == 10 and torch.equal(loaded["weights"], state(10)["weights"]) and not refused


@pytest.mark.parametrize("harm", ["truncated", "flipped", "no manifest", "half a manifest", "no state"])
def test_a_damaged_one_is_told_and_the_one_before_is_taken(tmp_path, harm):
    checkpoint.save(tmp_path, 1, state(1), keep=2)
    newest = checkpoint.save(tmp_path, 2, state(2), keep=2)
    file, content = newest / "state.pt", bytearray((newest / "state.pt").read_bytes())
    if harm == "truncated":
        file.write_bytes(content[:-7])
    elif harm == "flipped":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif harm == "no state":
        file.unlink()
    elif harm == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text('{"step": 2,')
    loaded, refused = checkpoint.load_newest(tmp_path)
    assert loaded["step"] == 1
    assert len(refused) == 1 and "step-00000002 is damaged (" in refused[0] and refused[0].endswith("taking the one before it")
    checkpoint.save(tmp_path, 2, state(2), keep=2)  # and the step is written again when the run comes there
    assert checkpoint.load_newest(tmp_path)[0]["step"] == 2


def test_a_write_that_dies_half_way_is_never_picked_up(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1), keep=2)

    def dies(content, path):
        path.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", dies)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, 2, state(2), keep=1)
    assert checkpoint.load_newest(tmp_path)[0]["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_an_undamaged_checkpoint_of_the_same_step_is_never_deleted(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1), keep=1)
    monkeypatch.setattr(type(tmp_path), "rename", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    checkpoint.save(tmp_path, 1, state(1), keep=1)
    assert checkpoint.load_newest(tmp_path)[0]["step"] == 1


def test_a_text_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_text(path, "old")
    monkeypatch.setattr(files, "flush", lambda path: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError):
        files.write_text(path, "new")
    assert path.read_text() == "old"


def test_a_folder_is_replaced_whole_and_put_back_if_that_fails(tmp_path, monkeypatch):
    def folder(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text(text)
        return tmp_path / name

    target = folder("teacher", "old")
    files.replace_folder(folder("beside", "new"), target)
    assert (target / "model").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["teacher"]
    beside, rename = folder("beside", "newer"), type(target).rename

    def fails(self, other):
        if self == beside:
            raise OSError("read-only")
        return rename(self, other)

    monkeypatch.setattr(type(target), "rename", fails)
    with pytest.raises(OSError, match="read-only"):
        files.replace_folder(beside, target)
    assert (target / "model").read_text() == "new"
