"""The search for guidance, filter bounds and corrosion, the only module that imports optuna.

A trial runs the pipeline up to `segment`, the synthetic arm alone: trials that differ in the filter alone share one generation.
The objective is the mean validation Dice over the training seeds; test data isn't touched.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import optuna
from optuna.trial import FrozenTrial, TrialState

from meddiff.errors import MeddiffError
from meddiff.experiments.run import Outcome, pipeline_key, read_outcome
from meddiff.experiments.tuning.trials import AXES, Axis, TrialRow, axes_of, propose, run_trial, trial_row
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.params.arms import TREATED
from meddiff.params.overrides import Overrides, merged, nested
from meddiff.progress import bar
from meddiff.services import tracking, versioning

_STARTUP_TRIALS = 6  # random ones, before the sampler has something to learn from
HEARTBEAT_SECONDS = 60
STORAGE_VARIABLE = "MEDDIFF_TUNE_STORAGE"  # wins over `tune.storage`
_MOST_FAILURES = 3  # in a row


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


_RunTrial = Callable[[Overrides, Mapping[str, str]], Outcome]


def tune(layout: Layout, params: Params, trials: int | None = None, run: _RunTrial | None = None) -> TuneResult:
    """Search until the study holds `trials` finished trials; interrupted, the same command goes on.

    The study belongs to the settings that aren't searched, the code and the data: change one, and another study begins. Its
    first trial has the current settings. Several processes may share a study in PostgreSQL (`tune.storage`); a few trials too
    many may run then.

    Args:
        trials: in all, those of earlier calls included; None for `params.tune.trials`.
        run: runs the pipeline with overrides (section -> name -> value) and environment variables; None for `trials.run_trial`.

    Raises:
        MeddiffError: a range of `tune` isn't possible, the current settings or three trials in a row fail, a service doesn't
            answer, or nothing was accepted in any trial.
    """
    axes, total = axes_of(layout, params), trials or params.tune.trials
    study = _open_study(layout, params, axes)
    with tracking.recorded_run(layout, params, f"tune {study.study_name}", study.user_attrs["execution"]) as record:
        search = _Search(layout, params, axes, study, record, run or (lambda *given: run_trial(layout, *given)))
        with bar("tune") as report:
            while (done := len(_finished(study))) < total:
                report(done, total, _top(study))
                seed = params.tune.seed + len(study.get_trials(deepcopy=False))  # anew, so that a resumed study repeats no draw
                study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
                study.optimize(search, n_trials=1, catch=(MeddiffError,))
                if search.fatal:
                    raise search.fatal
            report(done, total, _top(study))
        result = _result(layout, params, study)
        record.metrics({"validation_dice": result.value, "cost": result.best.cost, "trials": float(len(result.rows))})
        record.text(result.diff_file.name, result.diff)
    return result


class _Search:
    """The objective: runs one trial, records it, and sees to what is to be done again."""

    def __init__(self, layout: Layout, params: Params, axes: list[Axis], study: optuna.Study, record: tracking.Run,
                 run: _RunTrial) -> None:
        self.layout, self.params, self.axes, self.study, self.record, self.run = layout, params, axes, study, record, run
        self.failures = 0
        self.fatal: MeddiffError | None = None

    def __call__(self, trial: optuna.Trial) -> float:
        settings: dict[str, float | str] = {
            axis.key: round(float(trial.suggest_float(axis.key, axis.low, axis.high, step=axis.step)), 6) for axis in self.axes}
        settings = trial.user_attrs.get("settings", settings)  # the first trial's may lie beside the grid
        trial.set_user_attr("settings", settings)
        overrides = nested(settings) | {"segment": {"arms": [TREATED]}}
        whole, name = Params.model_validate(merged(self.params, overrides)), f"trial {trial.number}"
        try:
            with tracking.recorded_run(self.layout, whole, name, f"{self.record.id}-{trial.number}", self.record) as run:
                outcome = self.run(overrides, run.env)
                trial.set_user_attr("outcome", asdict(outcome))
                row = trial_row(trial.number, settings, outcome, self.params.generate)
                numbers = {"validation_dice": row.dice, "cost": row.cost, "accepted": float(outcome.accepted),
                           "generated": float(outcome.generated), "seconds": outcome.seconds}
                run.metrics({name: value for name, value in numbers.items() if math.isfinite(value)})
        except BaseException as e:
            self._failed(trial, e)
            raise
        self.failures = 0
        if not outcome.accepted:
            raise optuna.TrialPruned("nothing was accepted")
        return row.dice

    def _failed(self, trial: optuna.Trial, error: BaseException) -> None:
        first = "first" in trial.user_attrs
        self.failures += 1
        if isinstance(error, MeddiffError) and (first or self.failures >= _MOST_FAILURES):
            self.fatal = error
        if first or not isinstance(error, MeddiffError):
            self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)  # for the next call


def _open_study(layout: Layout, params: Params, axes: list[Axis]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = os.environ.get(STORAGE_VARIABLE) or params.tune.storage or f"sqlite:///{layout.work.resolve() / 'optuna.db'}"
    layout.work.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                url, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=3 * HEARTBEAT_SECONDS,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=2))
            study = optuna.create_study(storage=storage, study_name=_study_name(layout, params), direction="maximize",
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


def _study_name(layout: Layout, params: Params) -> str:
    """`tune.study`, and the name of all that shapes a trial and isn't searched."""
    fixed = nested(dict.fromkeys(axis.key for axis in AXES)) | {"segment": {"arms": [TREATED]}}
    return f"{params.tune.study}-{pipeline_key(layout, params, fixed, 'segment')[:8]}"


def _result(layout: Layout, params: Params, study: optuna.Study) -> TuneResult:
    rows = tuple(trial_row(trial.number, trial.user_attrs["settings"], read_outcome(trial.user_attrs["outcome"]), params.generate)
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


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _top(study: optuna.Study) -> dict[str, float]:
    values = [trial.value for trial in _finished(study) if trial.state == TrialState.COMPLETE]
    return {"dice": max(values)} if values else {}
