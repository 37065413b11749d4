"""Objects as files of a folder, such as one on a network share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from meddiff.errors import MeddiffError


class FolderStore:
    """A folder that exists already, as a bucket does: a share that isn't mounted must not pass for an empty one.

    Args:
        root: the folder; its file system must know hard links.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        return f"{self.root.as_uri().rstrip('/')}/"

    def put(self, key: str, data: bytes) -> bool:
        path, fresh = self.root / key, self.root / f".{uuid4().hex}"
        with self._errors(key):
            try:
                fresh.write_bytes(data)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.hardlink_to(fresh)  # unlike a renaming it replaces nothing, and no reader sees half an object
            except FileExistsError:
                return False
            finally:
                fresh.unlink(missing_ok=True)
        return True

    def get(self, key: str) -> bytes | None:
        with self._errors(key):
            if not self.root.is_dir():
                raise FileNotFoundError(f"there is no folder {self.root}")
            path = self.root / key
            return path.read_bytes() if path.is_file() else None

    def folders(self) -> list[str]:
        with self._errors(""):
            return sorted(path.name for path in self.root.iterdir() if any(below.is_file() for below in path.rglob("*")))

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise MeddiffError(self.url + key, f"the folder must be there, open to you, and know hard links ({e.strerror or e})",
                               "Mount the share, make the folder, or choose another") from e
