from collections.abc import Callable

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline

from meddiff.cases import Case
from meddiff.finetuning import finetune
from meddiff.inpainting import to_tensor
from meddiff.params import FinetuneParams
from tests.pipelines import embedded, stable_diffusion


@pytest.fixture(params=["embedded", "stable diffusion"])
def pipeline(request: pytest.FixtureRequest, cases: Callable[..., list[Case]]) -> StableDiffusionInpaintPipeline:
    return (
        embedded(torch.stack([to_tensor(case.image) for case in cases(6)])) if request.param == "embedded" else stable_diffusion()
    )


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_only_the_unet_changes_and_its_layers_stay_the_same(
    pipeline: StableDiffusionInpaintPipeline, cases: Callable[..., list[Case]], mode: str, tmp_path
) -> None:
    before = {
        name: {k: v.clone() for k, v in getattr(pipeline, name).state_dict().items()} for name in ("unet", "vae", "text_encoder")
    }
    losses = finetune(
        pipeline, cases(6), FinetuneParams(mode=mode, steps=3, batch_size=2, accumulation=2, learning_rate=1e-2), "cpu"
    )
    assert len(losses) == 3
    after = {name: getattr(pipeline, name).state_dict() for name in before}
    for name in ("vae", "text_encoder"):
        assert all(torch.equal(before[name][k], after[name][k]) for k in before[name])
    assert before["unet"].keys() == after["unet"].keys()
    changed = {k for k in after["unet"] if not torch.equal(before["unet"][k], after["unet"][k])}
    assert changed
    if mode == "lora":
        assert all(".to_" in k for k in changed)
    pipeline.save_pretrained(tmp_path)


def test_resumes_from_its_checkpoint(cases: Callable[..., list[Case]], tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meddiff.training.CHECKPOINT_SECONDS", 0.0)
    params = FinetuneParams(steps=6, batch_size=2)
    images = torch.stack([to_tensor(case.image) for case in cases(6)])
    whole = embedded(images)
    expected = finetune(whole, cases(6), params, "cpu")

    def stop(done: int, total: int, values: object) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(embedded(images), cases(6), params, "cpu", tmp_path / "c.safetensors", stop)
    again = embedded(images)
    assert finetune(again, cases(6), params, "cpu", tmp_path / "c.safetensors") == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.unet.parameters(), again.unet.parameters(), strict=True))
