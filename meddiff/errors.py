"""The one error a user meets: where it happened, the rule that was broken, and the remedy; and what nobody is shown."""

import re
from collections.abc import Sequence

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
        texts = (redacted(str(text)).encode(errors="backslashreplace").decode() for text in (where, rule, remedy))
        self.where, self.rule, self.remedy = (text.rstrip(".") if i else text for i, text in enumerate(texts))
        super().__init__(f"{self.where}: {self.rule}. {self.remedy}.")


def joined(faults: Sequence[MeddiffError], shown: int = 4) -> MeddiffError:
    """One error of several: of each kind, told apart by its remedy, the first with names and number of further files."""
    kinds: dict[str, list[MeddiffError]] = {}
    for fault in faults:
        kinds.setdefault(fault.remedy, []).append(fault)
    told = []
    for first, *others in kinds.values():
        names = ", ".join(other.where.rpartition("/")[2] for other in others[:shown - 1])
        more = f" and {len(others) - shown + 1} more" if len(others) >= shown else ""
        told.append((first.where, first.rule + (f"; likewise {names}{more}" if others else ""), first.remedy))
    further = [f"{where}: {rule}. {remedy}" for where, rule, remedy in told[1:]]
    return MeddiffError(*told[0][:2], ". ".join([told[0][2], *further]))
