"""Names of finished work: they change with all that the work depends on and with nothing else; folders are swapped in whole."""

import os
from pathlib import Path

import pytest

from meddiff.finished import code, files_of, finish, forget, key
from meddiff.params import SegmentParams


def test_a_key_changes_with_settings_text_and_the_content_of_files(tmp_path: Path) -> None:
    folder, weights = tmp_path / "raw", tmp_path / "weights"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    weights.write_bytes(b"1")

    def now(steps: int = 5, text: str = "cpu") -> str:
        return key(SegmentParams(steps=steps), folder, weights, tmp_path / "absent", {"b": 1, "a": (2, Path("x"))}, text)

    first = now()
    assert first == now()
    assert len({first, now(steps=6), now(text="cuda")}) == 3
    os.utime(folder / "a.png", (1, 1))
    assert now() == first, "the same content"
    (folder / "a.png").rename(folder / "b.png")
    renamed = now()
    weights.write_bytes(b"22")
    assert len({first, renamed, now()}) == 3


def test_parts_are_told_apart() -> None:
    assert len({key("ab", "c"), key("a", "bc"), key("abc"), key(["ab", "c"]), key("c", "ab")}) == 5
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    assert len(key()) == 16


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """`work.train` imports the ground, its neighbour, and inside a function `deep.below`, which imports `deep.data`."""
    files = {
        "__init__.py": "", "errors.py": "", "ground.py": "", "alone.py": "",
        "work/__init__.py": "", "work/loss.py": "", "work/unused.py": "",
        "work/train.py": "import torch\nfrom meddiff import ground\nfrom meddiff.errors import Wrong\n"
                         "from meddiff.work.loss import dice\ndef train():\n    import meddiff.deep.below\n",
        "deep/__init__.py": "", "deep/below.py": "from meddiff.deep import data\n", "deep/data.py": "from pathlib import Path\n",
        "deep/weights/net.bin": "1",
    }
    for name, text in files.items():
        path = tmp_path / "meddiff" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "meddiff"


def test_code_is_followed_through_its_imports(package: Path) -> None:
    assert {str(path.relative_to(package)) for path in files_of("work.train", package=package)} == {
        "work/__init__.py", "work/train.py", "work/loss.py", "ground.py", "deep/__init__.py", "deep/below.py", "deep/data.py",
        "deep/weights/net.bin"}
    first, room = code("work.train", package=package), code("work", package=package)
    for name in ("errors.py", "alone.py", "work/unused.py"):
        (package / name).write_text("changed = True\n")
    assert code("work.train", package=package) == first
    assert code("work", package=package) != room, "a room is all its modules"
    for name in ("deep/data.py", "deep/weights/net.bin", "work/loss.py"):
        before = code("work.train", package=package)
        (package / name).write_text("changed = True\n")
        assert code("work.train", package=package) != before, name
    before = code("work.train", package=package)
    (package / "ground.py").write_text("import meddiff.alone\n")
    assert package / "alone.py" in files_of("work.train", package=package)
    assert code("work.train", package=package) != before


def test_what_is_finished_is_made_once_and_swapped_in_whole(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "half").touch()
        if len(made) == 1:
            raise KeyboardInterrupt
        (folder / "result").touch()

    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path / "done/k", make)
    assert not list((tmp_path / "done").iterdir())
    for _ in range(2):
        assert finish(tmp_path / "done/k", make) == tmp_path / "done/k"
    assert len(made) == 2
    assert {path.name for path in (tmp_path / "done/k").iterdir()} == {"half", "result"}


def test_what_is_no_longer_asked_for_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/file").touch()
    (tmp_path / "new").mkdir()
    (tmp_path / "old.safetensors").touch()
    forget(tmp_path, [tmp_path / "new"])
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    forget(tmp_path / "absent")
