"""A mean teacher: a moving average of a network that labels, at each step, the images that nobody annotated.

Tarvainen and Valpola, 2017; what the network learns under strong augmentation is what the teacher says of the image as it is
(weak-to-strong consistency: FixMatch, Sohn et al., 2020; UniMatch, Yang et al., 2023), where the teacher is sure.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_DECAY = 0.99
_SURE_LOGIT = 20.0  # of a pixel that teaches nothing, since it agrees with its label


class Teacher:
    """The moving average of a network's weights: the plain one of the first hundred, then with a decay of 0.99.

    Args:
        network: with a logit for one class, or K + 1 of them.
        classes: K.
        confidence: least probability at which the teacher's word counts, 0 to 1.
    """

    def __init__(self, network: nn.Module, classes: int, confidence: float) -> None:
        self._network, self._classes, self._confidence = network, classes, confidence
        self._average = AveragedModel(network, avg_fn=_average).eval()

    @property
    def state(self) -> list[Tensor]:
        """What changes in place, for a checkpoint."""
        return [*self._average.parameters(), *self._average.buffers()]

    @torch.no_grad()
    def label(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` float32 in [-1, 1] -> `[B, 1, H, W]` float32 of 0 to K, and K + 1 where it isn't sure.

        The network's present weights are taken in first: to be called once a step.
        """
        self._average.update_parameters(self._network)
        logits = self._average(images).float()
        if self._classes == 1:
            lesion = logits.sigmoid()
            best, labels = torch.maximum(lesion, 1 - lesion), (lesion > 0.5).float()
        else:
            best, labels = logits.softmax(1).max(1, keepdim=True)
        return torch.where(best < self._confidence, self._classes + 1.0, labels.float())


def _average(average: Tensor, present: Tensor, count: Tensor) -> Tensor:
    return torch.lerp(average, present, max(1 - _DECAY, 1 / (int(count) + 1)))


def settled(logits: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Logits and labels of which the pixels without a sure label teach nothing: both are as if surely background.

    Args:
        logits: `[B, C, H, W]` float32, C of 1 or K + 1.
        labels: `[B, 1, H, W]` float32 of 0 to K, K + 1 where there is none.
        classes: K.
    """
    unsure = labels > classes
    background = torch.full_like(logits, -_SURE_LOGIT)
    if classes > 1:
        background[:, 0] = _SURE_LOGIT
    return torch.where(unsure, background, logits), torch.where(unsure, 0.0, labels)
