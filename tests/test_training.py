from pathlib import Path

import pytest
import torch
from torch import nn

from meddiff import training
from meddiff.training import Schedule, train


def _problem() -> tuple[nn.Linear, "training.Callable[[torch.Generator], torch.Tensor]"]:
    model = nn.Linear(3, 1)
    nn.init.constant_(model.weight, 0.5)
    nn.init.zeros_(model.bias)

    def loss(generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(8, 3, generator=generator)
        return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()

    return model, loss


def test_loss_falls_and_each_step_is_reported() -> None:
    model, loss = _problem()
    seen = []
    losses = train(
        model.parameters(), loss, Schedule(60, 0.05, seed=1), report=lambda done, total, values: seen.append((done, total))
    )
    assert losses[-1] < losses[0] / 10
    assert seen == [(i, 60) for i in range(1, 61)]


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_interrupted_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decay: float) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    schedule = Schedule(12, 0.05, seed=3, ema_decay=decay, warmup=3, cosine=True, accumulation=2)
    whole, loss = _problem()
    expected = train(whole.parameters(), loss, schedule)

    def stop(done: int, total: int, values: object) -> None:
        if done == 7:
            raise KeyboardInterrupt

    first, loss = _problem()
    with pytest.raises(KeyboardInterrupt):
        train(first.parameters(), loss, schedule, tmp_path / "state.safetensors", stop)
    second, loss = _problem()
    losses = train(second.parameters(), loss, schedule, tmp_path / "state.safetensors")
    assert losses == expected
    assert torch.equal(second.weight, whole.weight)
