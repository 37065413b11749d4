from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import load_yaml
from pydantic import ValidationError

from meddiff.errors import MeddiffError
from meddiff.params import MAIN, BenchmarkDataset, Params, Section
from meddiff.params.arms import arm_of
from meddiff.params.file import compose_params, load_params, parse_params

PROJECT = Path(__file__).parents[2] / "params.yaml"


def test_the_projects_file_holds_the_settings_that_people_set_with_their_defaults_and_meanings() -> None:
    assert PROJECT.read_text() == compose_params(Params()), (
        'python -c "from meddiff.params import Params; from meddiff.params.file import compose_params; '
        'print(compose_params(Params()), end=str())" > params.yaml')
    written = yaml.safe_load(PROJECT.read_text())
    assert {section: tuple(own) for section, own in written.items()} == MAIN
    assert sum(map(len, MAIN.values())) <= 30
    assert load_params(PROJECT) == Params()


def test_every_setting_has_a_meaning() -> None:
    sections = [Params.model_fields[name].annotation for name in Params.model_fields]
    for section in (*sections, BenchmarkDataset):
        assert isinstance(section, type)
        assert issubclass(section, Section)
        assert section.__doc__
        assert not [name for name, field in section.model_fields.items() if not field.description], section


def test_one_seed_and_one_precision_reach_every_section_and_stand_nowhere_else() -> None:
    params = parse_params({"prepare": {"seed": 7}, "compute": {"precision": "bfloat16"}}, "here")
    sections = [getattr(params, name) for name in Params.model_fields]
    seeded = [section for section in sections if "seed" in section.shared()]
    assert len(seeded) == 8
    assert {section.seed for section in seeded} == {7}
    assert [section.precision for section in sections if "precision" in section.shared()] == ["bfloat16"] * 4
    assert "seed" not in params.model_dump()["finetune"]
    assert "seed" not in type(params.finetune).model_json_schema()["properties"]
    assert Params.model_validate(params.model_dump()) == params
    assert parse_params({}, "here").finetune.precision == "float32"  # `auto`, until a stage asks the machine


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
    ("prepare: {seed: 1, seed: 2}", r"settings must be YAML .*duplicate key"),
    ("finetune: {seed: 1}", r"`prepare.seed` does now what `finetune.seed` did. Run `meddiff params --upgrade`"),
    ("prepare: [", r"settings must be YAML"),
    ("- prepare", r"settings must be named sections"),
    ("prepare:\nfinetune: {steps: 3}", r"`prepare` must be a section"),
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


def test_the_file_is_read_as_dvc_reads_it(tmp_path: Path) -> None:
    """As YAML 1.2: numbers without a dot, words that YAML 1.1 takes for truth values, and leading zeros."""
    path = tmp_path / "params.yaml"
    path.write_text("finetune: {learning_rate: 1e-3, prompt: yes}\ngenerate: {n: 010}\n")
    params = load_params(path)
    assert (params.finetune.learning_rate, params.finetune.prompt, params.generate.n) == (0.001, "yes", 10)
    assert load_yaml(str(path)) == {"finetune": {"learning_rate": 0.001, "prompt": "yes"}, "generate": {"n": 10}}


def test_the_levels_of_randomness_are_a_set() -> None:
    chosen = parse_params({"generate": {"mask_randomness": ["pose", "noise", "pose"]}}, "here").generate.mask_randomness
    assert chosen == ("noise", "pose")
