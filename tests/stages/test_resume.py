"""Names of unfinished work: they change with inputs and with code, and say which stage it is of."""

from pathlib import Path

import pytest

from meddiff.layout import Layout
from meddiff.params import FinetuneParams
from meddiff.stages import resume
from meddiff.stages.resume import checkpoint_file, work_folder


def test_a_checkpoint_is_of_one_stage_its_inputs_and_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    first = checkpoint_file(layout, "finetune", FinetuneParams(), "cpu")
    assert first == work_folder(layout, "finetune", FinetuneParams(), "cpu").with_suffix(".safetensors")
    assert first.parent == layout.work / "finetune"
    assert first != checkpoint_file(layout, "finetune", FinetuneParams(steps=1), "cpu")
    assert first.name != checkpoint_file(layout, "mask_model", FinetuneParams(), "cpu").name
    monkeypatch.setattr(resume, "code", lambda *names: "other code")
    assert first != checkpoint_file(layout, "finetune", FinetuneParams(), "cpu")
