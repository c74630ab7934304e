"""Files with the same bytes are found whatever they are called."""

from s4former.data.duplicates import find_duplicates


def test_files_of_one_content_are_grouped_in_the_order_given(tmp_path):
    for name, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"three", "e": b"two", "f": b"six"}.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in "fedcba"]
    assert find_duplicates(paths) == [[str(tmp_path / name) for name in pair] for pair in ("eb", "ca")]


def test_a_file_that_is_not_there_has_no_duplicates(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    assert find_duplicates([tmp_path / "a", tmp_path / "gone", tmp_path / "gone too"]) == []
