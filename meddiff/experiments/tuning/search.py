"""The search for settings by validation Dice and cost; this room is the only one that imports optuna.

A trial runs the pipeline up to `segment`, the synthetic arm alone: trials that differ in the filter alone share one generation.
The objectives are the mean validation Dice over the training seeds and the cost; test data isn't touched.
"""

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import optuna
from optuna.trial import FrozenTrial, TrialState

from meddiff import finished
from meddiff.cluster import share_out
from meddiff.errors import MeddiffError, ServiceError, causes
from meddiff.experiments.run import Outcome, pipeline_key, read_outcome
from meddiff.experiments.tuning.space import COPIES, Axis, axes_of, current_values
from meddiff.experiments.tuning.trials import (
    Hopeless,
    TrialRow,
    behind,
    network_passes,
    pareto,
    propose,
    run_trial,
    trial_row,
    with_settings,
)
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.params.arms import TREATED
from meddiff.params.overrides import Overrides, nested, setting
from meddiff.progress import bar
from meddiff.services import tracking, versioning
from meddiff.services.catalog import record_action

_STARTUP_TRIALS = 6  # random ones, before the sampler has something to learn from, and before trials are stopped
_LEAST_BEFORE = 4    # trials at no more cost, before one is stopped for being worse than half of them
_DRIVERS = ("sqlalchemy", "psycopg")  # whose errors reach those who use a study
HEARTBEAT_SECONDS = 20
STORAGE_VARIABLE = "MEDDIFF_TUNE_STORAGE"  # wins over `tune.storage`
_MOST_FAILURES = 3  # in a row
_MOST_RETRIES = 2   # of a trial whose worker was killed


@dataclass(frozen=True)
class TuneResult:
    """What the search found.

    Attributes:
        study: name of the study in the storage.
        rows: all finished trials, the first with the settings as they stood when the study began.
        best: the trial that is proposed, and `reason` why it and no other.
        value: its mean validation Dice.
        diff: change of `params.yaml` to the best settings, empty if they stand there already; `diff_file` holds it too.
    """

    study: str
    rows: tuple[TrialRow, ...]
    best: TrialRow
    reason: str
    value: float
    diff: str
    diff_file: Path

    @property
    def ranked(self) -> list[tuple[TrialRow, bool]]:
        """All trials from the best Dice down, those without one last; and whether no other is better in Dice and cost."""
        best = pareto([row for row in self.rows if row.state == "complete"])
        return [(row, row in best) for row in sorted(self.rows, key=lambda row: (math.isnan(row.dice), -row.dice))]


_RunTrial = Callable[[Overrides, Mapping[str, str], Hopeless | None], Outcome]


def tune(layout: Layout, params: Params, trials: int | None = None, run: _RunTrial | None = None) -> TuneResult:
    """Search until the study holds `trials` finished trials; interrupted, the same command goes on.

    The study belongs to the settings that aren't searched, the code and the data: change one, and another study begins. Its
    first trial has the current settings. Trials are units of work for `compute.cluster`; several processes, on several machines,
    may share a study in PostgreSQL (`tune.storage`), too. A trial whose process was killed is tried again by another.

    Args:
        layout, params: the project.
        trials: in all, those of earlier calls included; None for `params.tune.trials`.
        run: runs the pipeline here with overrides (section -> name -> value) and environment variables; None: `run_trial`.

    Raises:
        MeddiffError: a range of `tune.space` isn't possible, the current settings or three trials in a row fail, a service
            or the cluster doesn't answer, or nothing was accepted in any trial.
    """
    total, url = trials or params.tune.trials, study_url(layout, params)
    axes_of(layout, params, current_values(layout, params))  # before a study is begun
    study = _open_study(layout, params, url)
    compute = params.compute if run is None else params.compute.model_copy(update={"cluster": ""})
    with (tracking.recorded_run(layout, params, f"tune {study.study_name}", study.user_attrs["execution"]) as record,
          _answering(), bar("tune") as report):
        search = _Search(layout, params, study, record, total, run or partial(run_trial, layout))

        def tell(_: object = None) -> None:
            report(total - search.missing(), total, _top(study))

        tell()
        while missing := search.missing():
            share_out(range(missing), partial(_Search.begin, layout, params, total, url), _Search.work, tell, compute, search)
        result = _result(layout, params, study)
        record.metrics({"validation_dice": result.value, "cost": result.best.cost, "trials": float(len(result.rows))})
        record.text(result.diff_file.name, result.diff)
        record_action(layout, params, "tuned", f"study {result.study}",
                      f"trial {result.best.number} is proposed: {result.reason}",
                      after=", ".join(f"{key} {result.best.shown(key)}" for key in result.best.settings))
    return result


class _Search:
    """The objective: runs one trial, records it, and sees to what is to be done again."""

    def __init__(self, layout: Layout, params: Params, study: optuna.Study, record: tracking.Run, total: int, run: _RunTrial):
        self.layout, self.params, self.study, self.record, self.total, self.run = layout, params, study, record, total, run
        self.axes: list[Axis] = axes_of(layout, params, study.user_attrs["begun_with"])
        self.failures = 0
        self.fatal: MeddiffError | None = None

    @classmethod
    def begin(cls, layout: Layout, params: Params, total: int, url: str) -> "_Search":
        """In a process that helps the one which began the search."""
        study = _open_study(layout, params, url)
        record = tracking.execution_run(layout, params, study.user_attrs["execution"])
        return cls(layout, params, study, record, total, partial(run_trial, layout))

    def missing(self) -> int:
        return max(0, self.total - len(_finished(self.study)))

    def work(self, units: Sequence[int], receive: Callable[[None], None]) -> None:
        """As many trials, while some are missing that no other process has."""
        for _ in units:
            with _answering():
                if _all_taken(self.study, missing := self.missing()):
                    time.sleep(HEARTBEAT_SECONDS / 4 if missing else 0)  # who dies leaves its trial to this one
                else:
                    self.study.optimize(self, n_trials=1, catch=(MeddiffError,))
            if self.fatal:
                raise self.fatal
            receive(None)

    def __call__(self, trial: optuna.Trial) -> tuple[float, float]:
        seed = self.params.tune.seed + trial.number  # anew, so that neither a resumed study nor a worker repeats a draw
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
        begun_with = self.study.user_attrs["begun_with"] if "first" in trial.user_attrs else {}
        settings = {axis.key: axis.suggest(trial, begun_with.get(axis.key)) for axis in self.axes}
        trial.set_user_attr("settings", settings)
        overrides = nested(settings)
        overrides["segment"] = overrides.get("segment", {}) | {"arms": [TREATED], "seeds": list(self.params.segment.seeds)}
        whole, name = with_settings(self.params, overrides), f"trial {trial.number}"
        cost = network_passes(whole, whole.generate.n) / 1000
        rows = [row for row in _rows(self.study, self.params) if row.state == "complete"]

        def hopeless(first: Outcome) -> bool:
            return behind(first, cost, rows, _LEAST_BEFORE)

        stops = self.params.tune.prune and len(rows) >= _STARTUP_TRIALS
        try:
            with tracking.recorded_run(self.layout, whole, name, f"{self.record.id}-{trial.number}", self.record) as run:
                outcome = self.run(overrides, run.env, hopeless if stops else None)
                trial.set_user_attr("outcome", asdict(outcome))
                row = trial_row(trial.number, settings, outcome, whole)
                numbers = {"validation_dice": row.dice, "cost": row.cost, "accepted": float(outcome.accepted),
                           "generated": float(outcome.generated), "seconds": outcome.seconds}
                run.metrics({name: value for name, value in numbers.items() if math.isfinite(value)})
        except BaseException as e:
            self._failed(trial, e)
            raise
        self.failures = 0
        if not outcome.accepted:
            raise optuna.TrialPruned("nothing was accepted")
        if len(outcome.dice[TREATED]) < len(self.params.segment.seeds):
            raise optuna.TrialPruned("its first training seed is worse than half of those that cost no more")
        return row.dice, row.cost

    def _failed(self, trial: optuna.Trial, error: BaseException) -> None:
        first = "first" in trial.user_attrs
        self.failures += 1
        if isinstance(error, MeddiffError) and (first or self.failures >= _MOST_FAILURES):
            self.fatal = error
        if first or not isinstance(error, MeddiffError):
            self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)  # for the next call


def study_url(layout: Layout, params: Params) -> str:
    """Where studies lie: MEDDIFF_TUNE_STORAGE in the environment, else `tune.storage`, else a SQLite file in `.work/`."""
    return os.environ.get(STORAGE_VARIABLE) or params.tune.storage or f"sqlite:///{layout.work.resolve() / 'optuna.db'}"


def _open_study(layout: Layout, params: Params, url: str, again: bool = True) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    layout.work.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = _Storage(
                url, {"pool_recycle": 0},  # none from before a restart, which a ping may miss
                heartbeat_interval=HEARTBEAT_SECONDS, grace_period=3 * HEARTBEAT_SECONDS,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=_MOST_RETRIES))
            study = optuna.create_study(storage=storage, study_name=_study_name(layout, params),
                                        directions=["maximize", "minimize"], load_if_exists=True)
    except Exception as e:  # of the database's driver, whichever that is
        if again and "already exists" in str(e):  # two workers made the tables at the same moment
            time.sleep(1)
            return _open_study(layout, params, url, again=False)
        raise _silent(e) from e
    if "execution" not in study.user_attrs:
        current = current_values(layout, params)
        study.set_metric_names(["validation Dice", "cost"])
        study.set_user_attr("begun_with", dict(current))
        study.set_user_attr("execution", f"tune-{uuid4().hex}")
        study.enqueue_trial(dict(current), {"first": True}, skip_if_exists=True)
    return study


class _Storage(optuna.storages.RDBStorage):  # type: ignore[misc]
    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life; where the database doesn't take one, the next is tried: optuna would give no other, and another worker
        would take the trial, too."""
        with suppress(Exception):
            super().record_heartbeat(trial_id)


@contextmanager
def _answering() -> Iterator[None]:
    """Tell in a line that the database went away; optuna reconnects only once it is there again."""
    try:
        yield
    except Exception as e:
        # Of optuna comes another one, which it meets as it handles the database's.
        theirs = [each for each in causes(e) if type(each).__module__.partition(".")[0] in _DRIVERS]
        if isinstance(e, MeddiffError) or not theirs:
            raise
        raise _silent(theirs[-1]) from e


def _silent(error: BaseException) -> ServiceError:
    return ServiceError("tune.storage", f"the study's database must answer ({' '.join(str(error).split())[:200]})",
                        "Start it, or set a URL of the form sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")


def _study_name(layout: Layout, params: Params) -> str:
    """`tune.study`, and the name of all that shapes a trial and isn't searched."""
    fixed = nested(dict.fromkeys(params.tune.space))
    fixed["segment"] = fixed.get("segment", {}) | {"arms": [TREATED]}
    key = finished.key(pipeline_key(layout, params, fixed, "segment"), params.tune.model_dump(include={"space"}))
    return f"{params.tune.study}-{key[:8]}"


def _all_taken(study: optuna.Study, missing: int) -> bool:
    """Whether workers that live have all the trials that are missing; those of dead ones are given back first."""
    optuna.storages.fail_stale_trials(study)
    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))) >= missing


def _result(layout: Layout, params: Params, study: optuna.Study) -> TuneResult:
    rows = _rows(study, params)
    scored = [row for row in rows if row.state == "complete"]
    if not scored:
        raise MeddiffError(layout.params, "some samples must pass the filter in some trial",
                           "Loosen filter.agreement, or train the generator longer")
    today = params.filter.similarity_high
    if not (safe := [row for row in scored if float(row.settings.get(COPIES, today)) <= today]):
        raise MeddiffError(f"{layout.params}: {COPIES}", f"no trial keeps to this bound of copies, {today}, which a search never "
                           "loosens", "Begin another search by another tune.study")
    proposal = propose(safe)
    best = proposal.row
    changed = {key: value for key, value in best.settings.items() if value != setting(params, key)}
    diff = versioning.diff_params(layout.params, nested(changed)) if changed else ""
    file = layout.work / "tune/best.diff"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(diff)
    return TuneResult(study.study_name, rows, best, proposal.reason, best.dice, diff, file)


def _rows(study: optuna.Study, params: Params) -> tuple[TrialRow, ...]:
    return tuple(trial_row(trial.number, trial.user_attrs["settings"], read_outcome(trial.user_attrs["outcome"]),
                           with_settings(params, nested(trial.user_attrs["settings"])),
                           "complete" if trial.state == TrialState.COMPLETE else "stopped") for trial in _finished(study))


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _top(study: optuna.Study) -> dict[str, float]:
    values = [trial.values[0] for trial in _finished(study) if trial.state == TrialState.COMPLETE]
    return {"dice": max(values)} if values else {}
