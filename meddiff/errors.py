"""The one error a user meets: where it happened, the rule that was broken, and the remedy."""


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
