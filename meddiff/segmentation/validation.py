"""A network on the validation cases: their Dice, and the best weights of a training by it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meddiff.cases import Case, Pixels
from meddiff.segmentation.metrics import class_dice


def within_frame(prediction: Pixels, case: Case) -> Pixels:
    """A prediction `[S, S]` without what lies on the bars of `pad`, where there is no image."""
    return prediction if case.frame is None else prediction * case.frame.mask(len(prediction)).astype(np.uint8)


def has_lesion(case: Case) -> bool:
    """Whether its mask holds anything."""
    return case.mask is not None and bool(case.mask.any())


def validation_scores(masks: Pixels, cases: Sequence[Case], classes: int) -> NDArray[np.float64]:
    """`[N]` Dice of predicted masks `[N, S, S]`, the mean over K classes (`class_dice`); NaN for a lesion-free case."""
    return np.array([class_dice(within_frame(mask, case), case.mask, classes) if case.mask is not None and has_lesion(case)
                     else np.nan for mask, case in zip(masks, cases, strict=True)], np.float64)


class BestWeights:
    """The best weights on the validation cases so far, kept in a file beside the checkpoint so that a resume knows them.

    Attributes:
        dice: theirs, the mean over the cases with a lesion; NaN before the first look, 0 where it is defined for none.
    """

    def __init__(self, network: nn.Module, segment: Callable[[Pixels], Pixels], cases: Sequence[Case], classes: int,
                 checkpoint: Path | None) -> None:
        self.network, self._segment, self._classes = network, segment, classes
        self._cases = [case for case in cases if has_lesion(case)]
        self._file = checkpoint.with_suffix(".best") if checkpoint else None
        self.dice, self._weights = float("nan"), dict[str, Tensor]()
        if checkpoint and checkpoint.is_file() and self._file and self._file.is_file():
            self._weights = load_file(self._file)
            self.dice = float(self._weights.pop("validation_dice"))

    def look(self) -> None:
        """Keep today's weights if they are better."""
        if not self._cases:
            return
        self.network.eval()
        predictions = self._segment(np.stack([case.image for case in self._cases]))
        self.network.train()
        score = float(np.nanmean(validation_scores(predictions, self._cases, self._classes)))
        if np.isnan(self.dice) or score > self.dice:
            self.dice = score
            self._weights = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                save_file(self._weights | {"validation_dice": torch.tensor(score, dtype=torch.float64)}, self._file)

    def restore(self) -> None:
        """Load them into the network, where there are any."""
        if self._weights:
            self.network.load_state_dict(self._weights)
