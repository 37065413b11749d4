"""What `auto` becomes on a machine."""

from collections.abc import Mapping

import pytest
import torch

from meddiff.environment import has_bfloat16, use_machine
from meddiff.errors import MeddiffError
from meddiff.finished import key
from meddiff.params import ComputeParams, FinetuneParams, Params


@pytest.fixture(autouse=True)
def threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("able", "expected"), [
    ({"architecture": "x86_64", "avx512_f": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True),
    ({"architecture": "aarch64", "bf16": True}, True), ({"avx512_bf16": False, "amx_bf16": False}, False)])
def test_the_processor_is_asked_for_bfloat16(able: Mapping[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert has_bfloat16("cpu") is expected


def test_a_gpu_is_asked_without_what_it_emulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not has_bfloat16("cuda")


@pytest.mark.parametrize(("asked", "able", "resolved"), [
    ("auto", True, "bfloat16"), ("auto", False, "float32"), ("float32", True, "float32"), ("bfloat16", False, "bfloat16")])
def test_a_stage_computes_all_its_networks_in_one_precision(asked: str, able: bool, resolved: str, tiny: Params,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meddiff.environment.has_bfloat16", lambda device: able)
    params = Params.model_validate(tiny.model_dump() | {"compute": {"threads": 1, "device": "auto", "precision": asked}})
    used = use_machine(params)
    assert used.compute == ComputeParams(threads=1, device="cuda" if torch.cuda.is_available() else "cpu", precision=resolved)
    assert {used.backgrounds.precision, used.finetune.precision, used.generate.precision, used.segment.precision} == {resolved}
    assert used.prepare == params.prepare
    assert torch.get_num_threads() == 1
    assert use_machine(used) == used


def test_a_gpu_that_is_asked_for_must_be_there(tiny: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    params = Params.model_validate(tiny.model_dump() | {"compute": {"device": "cuda"}})
    with pytest.raises(MeddiffError, match=r"compute\.device: `cuda` needs a GPU"):
        use_machine(params)


def test_a_resume_state_is_of_one_seed_and_one_precision() -> None:
    keys = {key(params, "x") for params in (FinetuneParams(), FinetuneParams(seed=1), FinetuneParams(precision="bfloat16"),
                                                 FinetuneParams(seed=0))}
    assert len(keys) == 3
