"""What a place for releases must be able to do; `tests/services/test_storage.py` holds every backend to it."""

from typing import Protocol

CONNECTIONS = 8  # calls at the same time that a backend is made for


class ObjectStore(Protocol):
    """Named byte strings, below one place. Methods may be called from several threads; they raise `MeddiffError`.

    A key is names joined by `/`, none of them `.` or `..`; no object's key is the folder of another's.
    """

    @property
    def url(self) -> str:
        """The place, as users write it, with a `/` at its end."""

    def put(self, key: str, data: bytes) -> bool:
        """Create an object; False, with nothing changed, if there is one of this name already."""

    def get(self, key: str) -> bytes | None:
        """An object's content; None if there is none of this name."""

    def folders(self) -> list[str]:
        """The distinct first parts of all names that hold a `/`, sorted."""
