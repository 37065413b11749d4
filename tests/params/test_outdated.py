"""A params.yaml of before: ten seeds, four precisions and five switches, told in one line, and rewritten."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from meddiff.errors import MeddiffError
from meddiff.params import Params
from meddiff.params.file import compose_params, load_params, upgrade_params
from meddiff.params.outdated import upgraded

SEEDS = ("foundation", "backgrounds", "mask_model", "finetune", "generate", "filter", "evaluate", "tune")
PRECISIONS = ("backgrounds", "finetune", "generate", "segment")
LEVELS = ("noise", "condition", "shape", "pose", "placement")


def old(**changes: object) -> dict[str, dict[str, object]]:
    """All settings, as the file of before held them, with some changed: `section__name`."""
    values: dict[str, dict[str, object]] = Params().model_dump(mode="json")
    del values["compute"]["precision"], values["generate"]["mask_randomness"]
    values["prepare"]["demo_seed"] = 0
    for section in SEEDS:
        values[section]["seed"] = 0
    for section in PRECISIONS:
        values[section]["precision"] = "float32"
    values["generate"] |= {f"mask_{level}": True for level in LEVELS}
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    return values


def write(path: Path, values: Mapping[str, object]) -> Path:
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False))
    return path


def test_all_outdated_settings_are_told_in_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match=r"`meddiff params --upgrade`") as caught:
        load_params(write(tmp_path / "params.yaml", old()))
    told = str(caught.value)
    assert "\n" not in told
    keys = ["prepare.demo_seed", *(f"{section}.seed" for section in SEEDS), *(f"{section}.precision" for section in PRECISIONS),
            *(f"generate.mask_{level}" for level in LEVELS)]
    assert all(f"`{key}`" in told for key in keys)
    assert all(f"`{key}` does now what" in told for key in ("prepare.seed", "compute.precision", "generate.mask_randomness"))


def test_an_upgrade_gives_todays_file_and_keeps_what_was_changed(tmp_path: Path) -> None:
    path, kept = write(tmp_path / "params.yaml", old()), tmp_path / "work/old.yaml"
    assert upgrade_params(path, kept) == []
    assert path.read_text() == compose_params(Params())
    assert yaml.safe_load(kept.read_text()) == old()
    assert upgrade_params(path, kept) == []
    assert yaml.safe_load(kept.read_text()) == old(), "the old one stays"

    changes = {"prepare__n_labelled": 12, "generate__rim": 0, "tune__trials": 3, "generate__mask_pose": False}
    changes |= {f"{section}__precision": "bfloat16" for section in PRECISIONS}
    changes |= {"prepare__seed": 4} | {f"{section}__seed": 4 for section in SEEDS}
    assert upgrade_params(write(path, old(**changes)), kept) == []
    expected = {"prepare": {"n_labelled": 12, "seed": 4}, "generate": {"rim": 0, "mask_randomness": [*LEVELS[:3], LEVELS[4]]},
                "tune": {"trials": 3}, "compute": {"precision": "bfloat16"}}
    assert load_params(path) == Params.model_validate(expected)


def test_what_an_upgrade_cannot_keep_is_told(tmp_path: Path) -> None:
    changed = old(prepare__demo_seed=3, finetune__seed=5, backgrounds__precision="bfloat16")
    lost = upgrade_params(write(tmp_path / "params.yaml", changed), tmp_path / "old.yaml")
    assert lost == ["prepare.demo_seed was 3: prepare.seed is 0", "finetune.seed was 5: prepare.seed is 0",
                    "bfloat16 stood in some sections alone: compute.precision is auto"]
    assert load_params(tmp_path / "params.yaml") == Params()


def test_a_part_of_the_old_settings_is_upgraded_too() -> None:
    assert upgraded({"generate": {"seed": 0, "mask_noise": False, "n": 3}}) == (
        {"generate": {"n": 3, "mask_randomness": list(LEVELS[1:])}}, [])
    assert upgraded({"finetune": {"precision": "bfloat16"}})[0] == {"finetune": {}, "compute": {"precision": "bfloat16"}}


def test_another_fault_is_told_and_changes_nothing(tmp_path: Path) -> None:
    for values, fault in ((old(generate__n=-1), r"`generate.n` = -1"), ({"prepare": 3}, r"`prepare` must be a section")):
        path = write(tmp_path / "params.yaml", values)
        text = path.read_text()
        with pytest.raises(MeddiffError, match=fault):
            upgrade_params(path, tmp_path / "old.yaml")
        assert path.read_text() == text
    assert not (tmp_path / "old.yaml").exists()
