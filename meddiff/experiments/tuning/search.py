"""The search for guidance, filter bounds and corrosion, the only module that imports optuna.

A trial (see `trials`) runs the pipeline up to `segment`, the synthetic arm alone, in a work tree of its own over the project's
DVC cache, so that what an earlier trial made of the same settings comes from the cache: trials that differ in the filter alone
share one generation. The objective is the mean validation Dice over the training seeds; test data isn't touched.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

import optuna
from optuna.trial import FrozenTrial, TrialState

from meddiff.errors import MeddiffError
from meddiff.experiments.run import TrialOutcome, TrialRow, pipeline_trial, propose, trial_row
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.params.arms import TREATED
from meddiff.params.file import parse_params
from meddiff.params.overrides import Overrides, merged, nested
from meddiff.progress import bar
from meddiff.services import tracking, versioning

STARTUP_TRIALS = 6  # random ones, before the sampler has something to learn from
HEARTBEAT_SECONDS = 60
MOST_FAILURES = 3  # in a row


@dataclass(frozen=True)
class TuneResult:
    """What the search found.

    Attributes:
        study: name of the study in the storage.
        rows: all finished trials, the first with the settings as they stood when the study began.
        best: the trial that is proposed.
        value: its mean validation Dice.
        diff: change of `params.yaml` to the best settings, empty if they stand there already; `diff_file` holds it too.
    """

    study: str
    rows: tuple[TrialRow, ...]
    best: TrialRow
    value: float
    diff: str
    diff_file: Path


RunTrial = Callable[[Overrides, Mapping[str, str]], TrialOutcome]


@dataclass(frozen=True)
class Axis:
    """A setting that is searched, on a grid: values that come again are found in the cache, and stay readable."""

    section: str
    name: str
    step: float
    low: float = 0.0
    high: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    def suggest(self, trial: optuna.Trial) -> float:
        return round(float(trial.suggest_float(self.key, self.low, self.high, step=self.step)), 6)

    def current(self, params: Params) -> float | str:
        value: float | str = getattr(getattr(params, self.section), self.name)
        return value if isinstance(value, str) else float(value)

    def nearest(self, value: float | str) -> float:
        """The grid's value next to this one; the least for a word such as `auto`, which isn't searched but may be current."""
        if isinstance(value, str):
            return self.low
        return min(self.high, max(self.low, self.low + round((value - self.low) / self.step) * self.step))


AXES = (Axis("generate", "guidance_scale", 0.5), Axis("filter", "similarity_low", 0.01), Axis("filter", "similarity_high", 0.005),
        Axis("filter", "corrosion_radius", 0.5))


def tune(layout: Layout, params: Params, trials: int | None = None, run_trial: RunTrial | None = None) -> TuneResult:
    """Search until the study holds `trials` finished trials; interrupted, the same command goes on.

    The study belongs to the settings that aren't searched: change one, and another study begins. Its first trial has the current
    settings. Several processes may share a study in PostgreSQL (`tune.storage`); a few trials too many may run then.

    Args:
        trials: in all, those of earlier calls included; None for `params.tune.trials`.
        run_trial: runs the pipeline with overrides (section -> name -> value) and environment variables; None for
            `trials.pipeline_trial`.

    Raises:
        MeddiffError: a range of `tune` isn't possible, the current settings or three trials in a row fail, a service doesn't
            answer, or nothing was accepted in any trial.
    """
    axes, total = _axes(layout, params), trials or params.tune.trials
    study = _open_study(layout, params, axes)
    whole = tracking.execution_run(layout, params, study.user_attrs["execution"])
    whole.tags({"mlflow.runName": f"tune {study.study_name}"})
    whole.status("RUNNING")
    search = _Search(layout, params, axes, study, whole, run_trial or (lambda *given: pipeline_trial(layout, *given)))
    try:
        with bar("tune") as report:
            while (done := len(_finished(study))) < total:
                report(done, total, _top(study))
                seed = params.tune.seed + len(study.get_trials(deepcopy=False))  # anew, so that a resumed study repeats no draw
                study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
                study.optimize(search, n_trials=1, catch=(MeddiffError,))
                if search.fatal:
                    raise search.fatal
            report(done, total, _top(study))
        result = _result(layout, params, study)
    except BaseException as e:
        whole.status("FAILED" if isinstance(e, Exception) else "KILLED")
        raise
    whole.metrics({"validation_dice": result.value, "cost": result.best.cost, "trials": float(len(result.rows))})
    whole.file(result.diff_file)
    whole.status("FINISHED")
    return result


class _Search:
    """The objective: runs one trial, records it, and sees to what is to be done again."""

    def __init__(self, layout: Layout, params: Params, axes: list[Axis], study: optuna.Study, run: tracking.Run,
                 run_trial: RunTrial) -> None:
        self.layout, self.params, self.axes, self.study, self.run, self.run_trial = layout, params, axes, study, run, run_trial
        self.failures = 0
        self.fatal: MeddiffError | None = None

    def __call__(self, trial: optuna.Trial) -> float:
        settings: dict[str, float | str] = {axis.key: axis.suggest(trial) for axis in self.axes}
        settings = trial.user_attrs.get("settings", settings)  # the first trial's may lie beside the grid
        trial.set_user_attr("settings", settings)
        overrides = nested(settings) | {"segment": {"arms": [TREATED]}}
        whole = Params.model_validate(merged(self.params, overrides))
        execution = f"{self.run.id}-{trial.number}"
        run = tracking.execution_run(self.layout, whole, execution, self.run.id)
        run.tags({"mlflow.runName": f"trial {trial.number}"})
        try:
            outcome = self.run_trial(overrides, {"MEDDIFF_EXECUTION": execution, "MEDDIFF_PARENT_RUN": self.run.id})
        except BaseException as e:
            self._failed(trial, run, e)
            raise
        self.failures = 0
        trial.set_user_attr("outcome", asdict(outcome))
        row = trial_row(trial.number, settings, outcome, self.params.generate)
        numbers = {"validation_dice": row.dice, "cost": row.cost, "accepted": float(outcome.accepted),
                   "generated": float(outcome.generated), "seconds": outcome.seconds}
        run.metrics({name: value for name, value in numbers.items() if math.isfinite(value)})
        run.status("FINISHED")
        if not outcome.accepted:
            raise optuna.TrialPruned("nothing was accepted")
        return row.dice

    def _failed(self, trial: optuna.Trial, run: tracking.Run, error: BaseException) -> None:
        run.status("FAILED" if isinstance(error, Exception) else "KILLED")
        first = "first" in trial.user_attrs
        self.failures += 1
        if isinstance(error, MeddiffError) and (first or self.failures >= MOST_FAILURES):
            self.fatal = error
        if first or not isinstance(error, MeddiffError):
            self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)  # for the next call


def _axes(layout: Layout, params: Params) -> list[Axis]:
    """The grid within the ranges of `tune`.

    Raises:
        MeddiffError: a range is turned round or goes beyond what the setting allows, or the filter's bounds could cross.
    """
    axes = []
    for axis in AXES:
        low, high = getattr(params.tune, axis.name)
        where = f"{layout.params}: tune.{axis.name}"
        if low > high:
            raise MeddiffError(where, f"a range goes from the lesser to the greater value, not from {low} to {high}",
                               "Turn it round")
        for value in (low, high):
            parse_params(merged(params, {axis.section: {axis.name: value}}), where)
        axes.append(replace(axis, low=low, high=low + math.floor((high - low) / axis.step + 1e-6) * axis.step))
    if axes[1].high >= axes[2].low:
        raise MeddiffError(f"{layout.params}: tune.similarity_low",
                           f"its range must end below that of similarity_high, which begins at {axes[2].low}", "Lower its end")
    return axes


def _open_study(layout: Layout, params: Params, axes: list[Axis]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = params.tune.storage or f"sqlite:///{layout.work.resolve() / 'optuna.db'}"
    layout.work.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                url, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=3 * HEARTBEAT_SECONDS,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=2))
            study = optuna.create_study(storage=storage, study_name=_study_name(params), direction="maximize",
                                        load_if_exists=True)
    except Exception as e:  # of the database's driver, whichever that is
        raise MeddiffError("tune.storage", f"the study's database must answer ({' '.join(str(e).split())[:200]})",
                           "Start it, or set a URL of the form sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME") from e
    if "execution" not in study.user_attrs:
        study.set_user_attr("execution", f"tune-{uuid4().hex}")
        current = {axis.key: axis.current(params) for axis in axes}
        nearest = {axis.key: axis.nearest(current[axis.key]) for axis in axes}
        study.enqueue_trial(nearest, {"settings": current, "first": True})
    return study


def _study_name(params: Params) -> str:
    """`tune.study` and a hash of all settings that shape a trial and aren't searched."""
    other = dict.fromkeys(("evaluate", "tracking", "promote", "tune", "ablate", "catalog"), True)
    kept = params.model_dump(mode="json", exclude=other | {"compute": {"threads", "device", "compile"}})
    for axis in AXES:
        del kept[axis.section][axis.name]
    return f"{params.tune.study}-{hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]}"


def _result(layout: Layout, params: Params, study: optuna.Study) -> TuneResult:
    rows = tuple(trial_row(trial.number, trial.user_attrs["settings"], _outcome(trial), params.generate)
                 for trial in _finished(study))
    scored = [row for row in rows if row.outcome.accepted]
    if not scored:
        raise MeddiffError(layout.params, "some samples must pass the filter in some trial",
                           "Loosen filter.agreement, or train the generator longer")
    best = propose(scored)
    changed = {axis.key: best.settings[axis.key] for axis in AXES if best.settings[axis.key] != axis.current(params)}
    diff = versioning.diff_params(layout.params, nested(changed)) if changed else ""
    file = layout.work / "tune/best.diff"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(diff)
    return TuneResult(study.study_name, rows, best, best.dice, diff, file)


def _outcome(trial: FrozenTrial) -> TrialOutcome:
    values = trial.user_attrs["outcome"]
    return TrialOutcome(**values | {"dice": tuple(values["dice"])})


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _top(study: optuna.Study) -> dict[str, float]:
    values = [trial.value for trial in _finished(study) if trial.state == TrialState.COMPLETE]
    return {"dice": max(values)} if values else {}
