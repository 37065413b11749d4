from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from meddiff.errors import MeddiffError
from meddiff.params import Params
from meddiff.params.arms import arm_of
from meddiff.params.file import load_params, parse_params

PROJECT = Path(__file__).parents[2] / "params.yaml"


def test_the_projects_file_lists_every_setting_and_nothing_else() -> None:
    written = yaml.safe_load(PROJECT.read_text())
    for name, field in Params.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        assert set(written[name]) == set(field.annotation.model_fields), name
    assert set(written) == set(Params.model_fields)


def test_the_projects_file_holds_the_defaults() -> None:
    assert load_params(PROJECT) == Params()


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Params().prepare.size = 128


@pytest.mark.parametrize(("text", "message"), [
    ("prepare: {sise: 64}", r"there is no setting `prepare.sise`.*n_labelled"),
    ("prepair: {size: 64}", r"there is no setting `prepair`.*foundation"),
    ("prepare: {size: 65}", r"`prepare.size` = 65"),
    ("generate: {guidance_scale: strong}", r"`generate.guidance_scale` = 'strong'"),
    ("segment: {arms: [real, synthetik]}", r"`segment.arms` = 'synthetik'.*must be real, synthetic, .*synthetic_xRATIO"),
    ("segment: {arms: [synthetic_x0]}", r"`segment.arms` = 'synthetic_x0'.*a number above 0"),
    ("segment: {arms: [synthetic_x-1]}", r"`segment.arms` = 'synthetic_x-1'.*synthetic_xRATIO"),
    ("segment: {arms: [real, real]}", r"`segment.arms` = .*arms must differ"),
    ("{segment: {arms: [self_training]}, backgrounds: {finder_steps: 0}}", r"self_training .* needs backgrounds.finder_steps"),
    ("{segment: {arms: [real, combined]}, backgrounds: {finder_steps: 0}}", r"arm combined .* needs backgrounds.finder_steps"),
    ("prepare: [", r"settings must be YAML"),
    ("- prepare", r"settings must be named sections"),
])
def test_a_fault_names_file_and_setting(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(MeddiffError, match=message) as caught:
        load_params(path)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


def test_the_ratio_is_read_from_the_arms_name() -> None:
    arms = parse_params({"segment": {"arms": ["real", "synthetic_only", "synthetic_x2", "synthetic_x0.25"]}}, "here").segment.arms
    assert [arm_of(arm).ratio for arm in arms] == [None, None, 2, 0.25]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match=r"params\.yaml"):
        load_params(tmp_path / "params.yaml")


def test_an_empty_mapping_gives_the_defaults() -> None:
    assert parse_params({}, "here") == Params()
