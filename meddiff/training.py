"""The one training loop: seeded steps, gradient clip, moving average, checkpoints that resume by the same command.

Small networks are trained side by side, each on one thread: two threads that share one wait for each other at each of its many
small operations, above all where another process wants the processor too.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meddiff.progress import Report, bars, silent

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

CHECKPOINT_SECONDS = 20.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        learning_rate: peak rate of AdamW, reached after `warmup` steps, then constant or decayed by a half cosine.
        accumulation: loss evaluations a step.
        ema_decay: decay of the moving average of the weights; 0 switches it off.
        seed: of the random numbers that `loss` gets.
    """

    steps: int
    learning_rate: float
    seed: int
    weight_decay: float = 1e-2
    gradient_clip: float = 1.0
    accumulation: int = 1
    ema_decay: float = 0.0
    warmup: int = 0
    cosine: bool = False


def step_generator(seed: int, step: int) -> torch.Generator:
    """CPU generator of one training step: the same numbers whether the run was interrupted before it or not."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def finite(weights: Iterable[Tensor]) -> bool:
    """Whether all numbers of a network's weights are finite; a file may hold others."""
    return all(bool(weight.isfinite().all()) for weight in weights)


def side_by_side(jobs: Mapping[str, Callable[[Report], _T]], device: str) -> list[_T]:
    """Trainings that don't depend on each other: on the CPU as many at once as torch has threads, each on one; else in turn.

    The first error, or Ctrl-C, ends the others at their next report.

    Args:
        jobs: by the label of their bar; each calls the `Report` that it is given after each step.
        device: on which they compute.

    Returns:
        What the jobs return, in their order.
    """
    threads, stop = torch.get_num_threads(), Event()

    def work(label: str, job: Callable[[Report], _T]) -> _T:
        def heeding(done: int, total: int, values: Mapping[str, float]) -> None:
            report(done, total, values)
            if stop.is_set():
                raise CancelledError

        if stop.is_set():
            raise CancelledError
        try:
            with begin(label) as report:
                return job(heeding)
        except BaseException:
            stop.set()
            raise

    if device == "cpu":
        torch.set_num_threads(1)  # of the threads to come
    try:
        with bars() as begin, ThreadPoolExecutor(threads if device == "cpu" else 1) as pool:
            futures = [pool.submit(work, label, job) for label, job in jobs.items()]
            try:
                wait(futures)
            except BaseException:
                stop.set()
                raise
    finally:
        torch.set_num_threads(threads)
    for future in futures:
        if (error := future.exception()) and not isinstance(error, CancelledError):
            raise error
    return [future.result() for future in futures]


def train(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[torch.Generator], Tensor],
    schedule: Schedule,
    checkpoint: Path | None = None,
    report: Report = silent,
    buffers: Sequence[Tensor] = (),
    rates: Sequence[float] = (),
) -> list[float]:
    """Minimise `loss` over `parameters` in place.

    Args:
        parameters: the trainable weights; at the end they hold their moving average if `ema_decay` > 0.
        loss: draws its examples and noise from the generator it is given and returns a scalar.
        schedule: see `Schedule`.
        checkpoint: file to save the state to every 20 s, less often where saving takes long, and to resume from; removed by
            nobody here. Its name must change with whatever the weights depend on (data, settings): see `stages.work_key`.
        report: called after each step with the loss.
        buffers: what else the steps change in place, such as the running means of batch norm; saved and resumed with the weights.
        rates: factors of the learning rate, one for each of the parameters; none: 1.

    Returns:
        The loss of each step, those before a resume included.
    """
    every = list(parameters)
    factors = {p: factor for p, factor in zip(every, rates or [1.0] * len(every), strict=True) if p.requires_grad}
    weights = list(factors)
    groups = [{"params": [p for p in weights if factors[p] == factor], "factor": factor} for factor in set(factors.values())]
    optimizer = torch.optim.AdamW(groups, schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
    ema = _moving_average(weights, schedule.ema_decay) if schedule.ema_decay else None
    losses = _resume(checkpoint, weights, buffers, optimizer, ema) if checkpoint and checkpoint.is_file() else []
    saved, cost = time.monotonic(), 0.0
    for step in range(len(losses), schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * group["factor"] * _rate(step, schedule)
        generator, total = step_generator(schedule.seed, step), 0.0
        for _ in range(schedule.accumulation):
            value = loss(generator) / schedule.accumulation
            value.backward()
            total += float(value.detach())
        nn.utils.clip_grad_norm_(weights, schedule.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema:
            ema.step(weights)
        losses.append(total)
        report(step + 1, schedule.steps, {"loss": total})
        if checkpoint and (time.monotonic() - saved > max(CHECKPOINT_SECONDS, 10 * cost)):
            begun = time.monotonic()
            _save(checkpoint, weights, buffers, optimizer, ema, losses)
            saved = time.monotonic()
            cost = saved - begun  # gigabytes for a large UNet: saving takes at most a tenth of the time
    if ema:
        ema.copy_to(weights)
    return losses


def _moving_average(weights: list[nn.Parameter], decay: float) -> "EMAModel":
    from diffusers.training_utils import EMAModel  # seconds of imports

    return EMAModel(weights, decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=weights[0].is_cuda)


def _rate(step: int, schedule: Schedule) -> float:
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if not schedule.cosine:
        return 1.0
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))


def _save(
    path: Path, weights: list[nn.Parameter], buffers: Sequence[Tensor], optimizer: torch.optim.Optimizer, ema: "EMAModel | None",
    losses: list[float],
) -> None:
    tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
    tensors |= {f"buffer.{i}": buffer.contiguous() for i, buffer in enumerate(buffers)}
    for i, weight in enumerate(weights):
        tensors[f"weight.{i}"] = weight.detach().contiguous()
        tensors |= {f"{name}.{i}": value.contiguous() for name, value in optimizer.state[weight].items()}
        if ema:
            tensors[f"ema.{i}"] = ema.shadow_params[i].contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    save_file(tensors, fresh)
    fresh.replace(path)


def _resume(
    path: Path, weights: list[nn.Parameter], buffers: Sequence[Tensor], optimizer: torch.optim.Optimizer, ema: "EMAModel | None",
) -> list[float]:
    tensors = load_file(path)
    losses: list[float] = tensors["losses"].tolist()
    with torch.no_grad():
        for i, buffer in enumerate(buffers):
            buffer.copy_(tensors[f"buffer.{i}"])
        for i, weight in enumerate(weights):
            weight.copy_(tensors[f"weight.{i}"])
            # A fused optimizer counts its steps on the device, and wants each state as its weight lies in memory.
            optimizer.state[weight] = {"step": tensors[f"step.{i}"].to(weight.device)} | {
                name: torch.empty_like(weight).copy_(tensors[f"{name}.{i}"]) for name in ("exp_avg", "exp_avg_sq")
            }
            if ema:
                ema.shadow_params[i].copy_(tensors[f"ema.{i}"])
    if ema:
        ema.optimization_step = len(losses)
    return losses
