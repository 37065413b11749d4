"""What a later stage would refuse is refused before the first one works."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from meddiff.errors import MeddiffError
from meddiff.params import Params
from meddiff.params.file import parse_params
from meddiff.stages.preflight import check_ahead
from meddiff.stages.runner import execute

COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def settings(file: Path) -> dict[str, tuple[dict, str]]:
    """What is wrong -> settings, and the refusal."""
    encoder = {"network": "encoder_unet", "encoder": str(file)}
    return {
        "encoder weights": ({"segment": encoder}, r"w\.safetensors: an encoder must load"),
        "size for the network": ({"segment": {"network": "swin_unetr"}, "prepare": {"size": 48}},
                                 r"prepare\.size: image sides must be multiples of 32 from 64 on for swin_unetr"),
        "foundation folder": ({"foundation": {"source": str(file.parent)}}, "a foundation folder is a saved diffusers pipeline"),
        "foundation missing": ({"foundation": {"source": "./nowhere"}}, "the model folder must be there"),
        "hub id without commit": ({"foundation": {"source": "some/model"}}, r"needs foundation\.revision"),
        "hub id that isn't there": ({"foundation": {"source": "some/model", "revision": COMMIT}}, "must load"),
        "extractor file": ({"filter": {"extractor": f"resnet18:{file}"}}, "a feature extractor must load"),
        "extractor without commit": ({"filter": {"extractor": "some/model"}}, r"needs filter\.extractor_revision"),
        "own score": ({"evaluate": {"metric": "no_such_module:score"}}, "the function must be there and its module load"),
        "own score that takes one": ({"evaluate": {"metric": "math:sqrt"}}, "it must return a number"),
        "own score of a taken name": ({"evaluate": {"metric": "meddiff.segmentation.metrics:dice"}}, "a name of its own"),
        "extractor folder": ({"filter": {"extractor": str(file.parent)}}, "a feature extractor must load"),
    }


@pytest.mark.parametrize("name", settings(Path()))
@pytest.mark.parametrize("content", ["missing", "pickle", "pointer", "nothing", "another network"])
def test_files_and_settings_of_later_stages_are_checked(name: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    if content == "pickle":
        torch.save({"a": torch.zeros(1)}, file)
    elif content == "another network":
        save_file({"conv1.weight": torch.zeros(1)}, file)
    elif content != "missing":
        file.write_text("version https://git-lfs.github.com/spec/v1\n" if content == "pointer" else "")
    values, rule = settings(file)[name]
    with pytest.raises(MeddiffError, match=rule) as caught:
        check_ahead(parse_params(values, "here"), "prepare")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(MeddiffError, match="needs a GPU"):
        check_ahead(parse_params({"compute": {"device": "cuda"}}, "here"), "prepare")


def test_what_is_behind_is_not_looked_at_again(tmp_path: Path) -> None:
    for name, (values, _) in settings(tmp_path / "w.safetensors").items():
        check_ahead(parse_params(values, name), "evaluate")
    check_ahead(Params(), "prepare")


def test_a_stage_does_no_work_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "meddiff.stages.prepare", None)
    (tmp_path / "params.yaml").write_text("foundation: {source: /nowhere/model}\n")
    with pytest.raises(MeddiffError, match="the model folder must be there"):
        execute("prepare", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_code_of_others_is_not_run(tmp_path: Path) -> None:
    named = {"AutoConfig": "mine.Config", "AutoModel": "mine.Mine"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": named}))
    (tmp_path / "mine.py").write_text("raise SystemExit('this code must not run')")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(MeddiffError, match="a feature extractor must load"):
        check_ahead(parse_params({"filter": {"extractor": str(tmp_path)}}, "here"), "prepare")
