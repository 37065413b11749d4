"""The one error a user meets: where it happened, the rule that was broken, and the remedy."""

from collections.abc import Sequence


class MeddiffError(Exception):
    """A fault in input, settings or a service that the user can mend.

    Args:
        where: the file, parameter, bucket or case concerned.
        rule: what should hold and doesn't.
        remedy: what the user can do about it.
    """

    def __init__(self, where: object, rule: str, remedy: str) -> None:
        self.where, self.rule, self.remedy = str(where), rule.rstrip("."), remedy.rstrip(".")
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
