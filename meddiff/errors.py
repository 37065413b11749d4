"""The one error a user meets: where it happened, the rule that was broken, and the remedy; and what nobody is shown."""

import errno
import os
import re
from collections.abc import Iterable, Sequence

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # no terminal shows them, some obey them

# Up to the last `@`: a password that should have been escaped is hidden, too.
_PASSWORD = re.compile(r"""([A-Za-z][\w+.-]*://[^\s:/@'"]*):\S*@""")
_TOKEN = re.compile(r"""(https?://)[^\s:/@'"]+@""")  # in the place of a user's name, as git hosts take it
_NAMED = re.compile(r"(?i)\b(\w*(?:password|passwd|pwd|secret|token|api_?key|access_?key|signature|credential)\w*)=[^\s&;'\"]+")


def redacted(text: str) -> str:
    """A text with `***` for each password and token of the addresses in it, for all that is logged, stored or printed."""
    return _NAMED.sub(r"\1=***", _TOKEN.sub(r"\1***@", _PASSWORD.sub(r"\1:***@", text)))


class MeddiffError(Exception):
    """A fault in input, settings or a service that the user can mend; secrets in it are `redacted`.

    Args:
        where: the file, parameter, bucket or case concerned.
        rule: what should hold and doesn't.
        remedy: what the user can do about it.
    """

    def __init__(self, where: object, rule: str, remedy: str) -> None:
        # A file's name may hold bytes that aren't UTF-8, which no terminal and no service takes.
        place, rule, remedy = (redacted(str(text)).encode(errors="backslashreplace").decode() for text in (where, rule, remedy))
        self.where, self.rule, self.remedy = place, rule.rstrip("."), remedy.rstrip(".")
        super().__init__(f"{self.where}: {self.rule}. {self.remedy}.")

    def __reduce__(self) -> tuple[type["MeddiffError"], tuple[str, str, str]]:
        return type(self), (self.where, self.rule, self.remedy)


class ServiceError(MeddiffError):
    """A service didn't answer: what was asked for may succeed later, unchanged."""


def causes(error: BaseException) -> list[BaseException]:
    """An error, and those that it comes from or came up in."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    return chain


def full_disk(error: BaseException) -> MeddiffError | None:
    """An error that says of itself or of its `causes` that a disk is full, as one that a user can mend; else None."""
    for each in causes(error):
        # That of safetensors has no number.
        if getattr(each, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(each):
            place = getattr(each, "filename", None) or os.getcwd()
            return ServiceError(place, "there must be room on the disk, and none is left",
                                "Make room, as by `meddiff gc`; the same command goes on where it stopped")
    return None


def some(names: Iterable[object], shown: int = 3) -> str:
    """The first of many names, and how many more there are."""
    listed = [CONTROLS.sub("�", str(name)) for name in names]
    more = len(listed) - shown
    return ", ".join(listed[:shown]) + (f" and {more} more" if more > 0 else "")


def likewise(names: Sequence[object]) -> str:
    """What follows a rule that names one of several with the same fault: the others; nothing where there are none."""
    return f"; likewise {some(names)}" if names else ""


def joined(faults: Sequence[MeddiffError]) -> MeddiffError:
    """One error of several: of each kind, told apart by its remedy, the first with names and number of further files."""
    kinds: dict[str, list[MeddiffError]] = {}
    for fault in faults:
        kinds.setdefault(fault.remedy, []).append(fault)
    told = []
    for first, *others in kinds.values():
        names = [other.where.rpartition("/")[2] for other in others]
        told.append((first.where, first.rule + likewise(names), first.remedy))
    further = [f"{where}: {rule}. {remedy}" for where, rule, remedy in told[1:]]
    return MeddiffError(*told[0][:2], ". ".join([told[0][2], *further]))
