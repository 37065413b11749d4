"""Recipes: known settings, the paper's numbers, and how they get into params.yaml."""

from pathlib import Path

import pytest
import yaml

from meddiff.errors import MeddiffError
from meddiff.experiments.recipes import NO_FILTER, PAPER, PROFILES, RELEASED, profile_settings
from meddiff.params import Params
from meddiff.params.file import parse_params, write_params
from meddiff.params.overrides import merged, nested

TEXT = (Path(__file__).parents[2] / "params.yaml").read_text()


@pytest.mark.parametrize("settings", [NO_FILTER, PAPER, *PROFILES.values()])
def test_a_recipe_holds_known_settings(settings: dict[str, object]) -> None:
    found = parse_params(merged(Params(), nested(settings)), "recipe").model_dump()
    for key, value in settings.items():
        section, name = key.split(".")
        assert found[section][name] == value, key


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_takes_effect_and_keeps_comments(name: str, tmp_path: Path) -> None:
    params, settings = tmp_path / "params.yaml", profile_settings(name)
    params.write_text(TEXT)
    told = write_params(params, nested(settings))
    found = parse_params(yaml.safe_load(params.read_text()), params).model_dump()
    for key, value in settings.items():
        section, setting = key.split(".")
        assert found[section][setting] == value
        assert any(line.startswith(f"{key}: ") for line in told)
    assert params.read_text().count("#") == TEXT.count("#")


def test_the_papers_numbers_stand_in_its_profile_and_in_its_rival() -> None:
    found = parse_params(nested(profile_settings("paper")), "paper")
    assert found.prepare.size == 512
    assert found.foundation.source == "stable-diffusion-v1-5/stable-diffusion-inpainting"
    tune = found.finetune
    assert (tune.mode, tune.batch_size, tune.accumulation, tune.learning_rate, tune.steps) == ("full", 1, 2, 3e-6, 500)
    assert (tune.weight_decay, tune.gradient_clip, tune.ema_decay, tune.prompt_dropout) == (1e-2, 1.0, 0.0, 0.0)
    assert (found.generate.steps, found.generate.guidance_scale, found.generate.batch_size) == (50, 7.5, 1)
    for key, value in RELEASED.items():
        assert PAPER[key] == profile_settings("paper")[key] == value, key


def test_an_unknown_profile_names_those_there_are() -> None:
    with pytest.raises(MeddiffError, match="Choose one of: paper"):
        profile_settings("papers")
