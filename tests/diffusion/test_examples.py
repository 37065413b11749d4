from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage

from meddiff.cases import Case
from meddiff.diffusion.examples import Examples
from meddiff.diffusion.inpainting import encode_images, to_tensor
from meddiff.errors import MeddiffError
from tests.pipelines import embedded


def _two_classes(case: Case) -> Case:
    """The same case with a small lesion of a second class in a corner."""
    mask = case.mask.copy()
    mask[:6, :6] = 2
    return Case(case.id, case.image, mask)


def _examples(cases: list[Case], classes: int = 1) -> Examples:
    return Examples(embedded(torch.stack([to_tensor(case.image) for case in cases])), cases, classes, chunk=3)


def _hidden(examples: Examples, condition: torch.Tensor) -> torch.Tensor:
    """The masked image that a condition encodes, `[B,3,H,W]`."""
    return examples.pipeline.vae.decode(condition[:, 16:]).sample


def _view(examples: Examples, latents: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask that latents were computed from."""
    return next(view for view, own in zip(examples.views, examples.latents, strict=True) if torch.equal(own, latents))


def test_an_example_hides_its_own_class_and_shows_the_other(cases: Callable[..., list[Case]]) -> None:
    made = [_two_classes(case) for case in cases(3)]
    examples = _examples(made, classes=2)
    batch = examples.draw(32, 0.0, torch.Generator().manual_seed(0))
    assert set(batch.labels.tolist()) == {1, 2}
    for i, label in enumerate(batch.labels.tolist()):
        image, mask = _view(examples, batch.latents[i])
        assert np.array_equal(batch.masks[i, 0].numpy() > 0, mask == label)
        expected = to_tensor(image.copy()) * torch.from_numpy(mask != label)
        assert torch.allclose(_hidden(examples, batch.condition[i : i + 1])[0], expected, atol=1e-4)


def test_the_empty_prompt_gets_shapes_away_from_every_lesion(cases: Callable[..., list[Case]]) -> None:
    made = [_two_classes(case) for case in cases(3)]
    examples = _examples(made, classes=2)
    batch = examples.draw(24, 1.0, torch.Generator().manual_seed(1))
    bare = batch.labels == 0
    assert bare.float().mean() > 0.8
    shapes = batch.masks[bare, 0].numpy() > 0
    assert len(np.unique(shapes, axis=0)) > 10
    for shape, latents in zip(shapes, batch.latents[bare], strict=True):
        _, mask = _view(examples, latents)
        assert shape.mean() >= 0.005
        assert not (shape & ndimage.binary_dilation(mask > 0)).any()
    hidden = _hidden(examples, batch.condition[bare])
    covered = torch.from_numpy(shapes)[:, None].expand_as(hidden)
    assert hidden[covered].abs().max() < 1e-3
    assert hidden[~covered].abs().mean() > 0.05


def test_a_lesion_without_room_around_it_keeps_its_prompt(cases: Callable[..., list[Case]]) -> None:
    full = [Case(case.id, case.image, np.ones_like(case.mask)) for case in cases(2)]
    assert _examples(full).draw(8, 1.0, torch.Generator().manual_seed(0)).labels.tolist() == [1] * 8


def test_a_generator_decides_the_batch(cases: Callable[..., list[Case]]) -> None:
    examples = _examples(cases(4))
    one, same, other = (examples.draw(6, 0.5, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.latents, same.latents)
    assert torch.equal(one.condition, same.condition)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.masks, other.masks)


def test_latents_are_those_of_the_case_and_its_mirror_image(cases: Callable[..., list[Case]]) -> None:
    examples = _examples(cases(4))
    for case, own, mirrored in zip(cases(4), examples.latents[::2], examples.latents[1::2], strict=True):
        images = torch.stack([to_tensor(case.image), to_tensor(case.image).flip(-1)])
        assert torch.allclose(torch.stack([own, mirrored]), encode_images(examples.pipeline.vae, images), atol=1e-5)


def test_cases_without_lesion_are_left_out_and_none_is_an_error(cases: Callable[..., list[Case]]) -> None:
    assert len(_examples([*cases(2), *cases(2, seed=1, lesion=False)]).views) == 4
    with pytest.raises(MeddiffError, match="must hold a lesion"):
        _examples(cases(2, lesion=False))


def test_an_unknown_class_names_the_case(cases: Callable[..., list[Case]]) -> None:
    with pytest.raises(MeddiffError, match=r"case_0_000.*classes 1 to 1, not 2"):
        _examples([_two_classes(case) for case in cases(2)])
