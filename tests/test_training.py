import time
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch import nn

from meddiff import training
from meddiff.errors import MeddiffError
from meddiff.progress import Report
from meddiff.training import Schedule, side_by_side, train


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


def test_trainings_side_by_side_are_those_in_turn_each_on_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    threads, problems = torch.get_num_threads(), [_problem() for _ in range(5)]
    seen, together = set[int](), Barrier(2)

    def job(number: int, report: Report) -> list[float]:
        if number < 2:
            together.wait(10)  # breaks unless two run at once
        seen.add(torch.get_num_threads())
        model, loss = problems[number]
        return train(model.parameters(), loss, Schedule(20, 0.05, seed=number), report=report)

    torch.set_num_threads(2)
    try:
        losses = side_by_side({f"net {i}": partial(job, i) for i in range(5)}, "cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert seen == {1}
    assert sorted(line.split(":")[0] for line in capsys.readouterr().err.splitlines()) == [f"net {i}" for i in range(5)]
    for number, found in enumerate(losses):
        model, loss = _problem()
        assert found == train(model.parameters(), loss, Schedule(20, 0.05, seed=number))
        assert torch.equal(model.weight, problems[number][0].weight)
    assert side_by_side({}, "cpu") == []


def test_the_first_error_ends_the_trainings_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    steps = []

    def endless(report: Report) -> None:
        while True:
            steps.append(1)
            report(len(steps), 10**9, {})

    def failing(report: Report) -> None:
        while not steps:
            time.sleep(0.01)
        raise MeddiffError("case c", "it must be there", "Add it")

    with pytest.raises(MeddiffError, match="case c"):
        side_by_side({"endless": endless, "failing": failing, "never": endless}, "cpu")
