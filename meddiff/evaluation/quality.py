"""What became of the synthetic samples, in numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Quality:
    """What became of the synthetic samples.

    Attributes:
        generated, accepted: samples.
        copies: samples too near to a real lesion, those of quarantined batches included.
        batches, quarantined: batches made, and those that the quality check kept out.
        reasons: samples left out, by reason.
        kept: of the accepted samples those that people accepted although a rule was against them.
    """

    generated: int
    accepted: int
    copies: int
    batches: int
    quarantined: int
    reasons: dict[str, int]
    kept: int = 0

    @property
    def acceptance(self) -> float:
        """Accepted share of the generated samples; NaN without any."""
        return self.accepted / self.generated if self.generated else math.nan

    @property
    def copied(self) -> float:
        """Share of the generated samples rejected as copies; NaN without any."""
        return self.copies / self.generated if self.generated else math.nan


def assess(decisions: pd.DataFrame, batches: Sequence[str], quarantined: int) -> Quality:
    """Count what the filter decided.

    Args:
        decisions: one row a sample, with `verdict` (accepted, rejected, quarantined) and `reason`: the rule of the filter that
            the sample broke, such as `copy`; that of a quarantined sample follows the batch's failures and `; `. `person` where
            a person decided otherwise.
        batches: batch of each generated sample.
        quarantined: batches that the quality check kept out.
    """
    left = decisions[decisions["verdict"] != "accepted"]
    reasons = left["reason"].where(left["verdict"] != "quarantined", "batch quarantined").astype(str)
    copies = sum(str(reason).split("; ")[-1] == "copy" for reason in decisions["reason"])
    kept = int(((decisions["verdict"] == "accepted") & (decisions["reason"] == "person")).sum())
    return Quality(len(batches), len(decisions) - len(left), copies, len(set(batches)), quarantined,
                   {str(reason): int(n) for reason, n in reasons.value_counts().items()}, kept)
