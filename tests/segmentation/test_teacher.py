"""The mean teacher: whose word counts, what it is an average of, and that a killed training goes on as if it hadn't been."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from meddiff.params import SegmentParams
from meddiff.segmentation.segmenter import train_segmenter
from meddiff.segmentation.teacher import Teacher, settled
from tests.conftest import make_cases

SHORT = SegmentParams(steps=8, batch_size=4, share=0.5)


class Sure(nn.Module):
    """Its logits are the image's levels, times its one weight."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.weight, self.channels = nn.Parameter(torch.tensor(1.0)), channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.weight * images[:, :self.channels]


def test_only_what_the_teacher_is_sure_of_is_a_label() -> None:
    images = torch.tensor([-5.0, -1.0, 1.0, 5.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert Teacher(Sure(), 1, 0.95).label(images).flatten().tolist() == [0, 2, 2, 1]
    assert Teacher(Sure(), 1, 0.6).label(images).flatten().tolist() == [0, 0, 1, 1]
    three = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 0, 5], [1, 1, 1]]).T.view(1, 3, 1, 4)
    assert Teacher(Sure(3), 2, 0.95).label(three).flatten().tolist() == [0, 1, 2, 3]


def test_the_teacher_is_the_mean_of_the_weights_at_first_then_follows_slowly() -> None:
    network, images = Sure(), torch.ones(1, 3, 1, 1)
    teacher = Teacher(network, 1, 0.5)
    for value in (0.0, 3.0, 6.0):
        network.weight.data.fill_(value)
        teacher.label(images)
    (weight,) = (value for value in teacher.state if value.is_floating_point())
    assert weight.item() == pytest.approx(3.0)
    for _ in range(200):
        teacher.label(images)
    before = weight.item()
    network.weight.data.fill_(100 + before)
    teacher.label(images)
    assert weight.item() == pytest.approx(before + 1.0, abs=1e-3)


@pytest.mark.parametrize("classes", [1, 2])
def test_a_pixel_without_a_label_teaches_nothing(classes: int) -> None:
    logits = torch.randn(1, 1 if classes == 1 else 3, 2, 2, requires_grad=True)
    labels = torch.tensor([0.0, classes, classes + 1, classes + 1]).view(1, 1, 2, 2)
    changed, known = settled(logits, labels, classes)
    assert known.flatten().tolist() == [0, classes, 0, 0]
    assert torch.equal(changed[..., 0, :], logits[..., 0, :])
    assert bool((changed.argmax(1) == 0).flatten()[2:].all()) if classes > 1 else bool((changed[..., 1, :] < -10).all())
    changed.sum().backward()
    assert logits.grad is not None
    assert logits.grad[..., 1, :].abs().sum() == 0 < logits.grad[..., 0, :].abs().sum()


@pytest.mark.parametrize("classes", [1, 2])
def test_a_killed_training_with_a_teacher_goes_on_to_the_same_weights(classes: int, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("meddiff.training.CHECKPOINT_SECONDS", 0.0)
    real = make_cases(6)
    if classes == 2:
        real = [replace(case, mask=case.mask * (1 + i % 2)) for i, case in enumerate(real)]
    bare = [*make_cases(3, seed=4), *(replace(case, mask=None) for case in make_cases(9, seed=5))]
    whole = train_segmenter(real, bare, SHORT, 0, classes=classes)

    def kill(done: int, *_: object) -> None:
        if done == 5:
            raise KeyboardInterrupt

    file, steps = tmp_path / "point.safetensors", list[int]()
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(real, bare, SHORT, 0, checkpoint=file, report=kill, classes=classes)
    resumed = train_segmenter(real, bare, SHORT, 0, checkpoint=file, report=lambda done, *_: steps.append(done), classes=classes)
    assert 1 < steps[0] <= 6
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    plain = train_segmenter(real, bare[:3], SHORT, 0, classes=classes)
    assert plain.losses != whole.losses
