"""The settings of what is done with the stages, and of the services."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from meddiff.params.section import ArmName, DatabaseUrl, DatasetName, Fraction, Positive, Section, Seed, SharedSeed


class TrackingParams(Section):
    """Where runs are recorded. MLFLOW_TRACKING_URI in the environment wins."""

    uri: str = Field("", description="empty: a SQLite file in `.work/`")
    experiment: str = Field("meddiff", pattern=r"\S", description="name of the experiment in MLflow")


class PromoteParams(Section):
    """The registered generator and segmenter, and the gates that they must pass to become champion."""

    model: str = Field("meddiff-generator", pattern=r"^[^/:\s][^/:]*$", description="name of the registered generator")
    confidence: Annotated[float, Field(ge=0.9, lt=1)] = Field(
        0.95, description="least evaluate.confidence of a run that is to be evidence, here as in the next four"
    )
    min_seeds: Positive = Field(3, description="least number of segment.seeds; the gain of a generator needs 3 in any case")
    min_steps: Positive = Field(150, description="least segment.steps")
    min_resamples: Positive = Field(1000, description="least evaluate.resamples")
    arms: tuple[ArmName, ...] = Field(("real", "synthetic"), description="of segment.arms, for a generator")
    min_gain_lower: float = Field(0.0, description="least lower bound of the Dice gain's interval")
    min_acceptance: Fraction = Field(0.2, description="least share of accepted samples")
    max_copies: Annotated[float, Field(ge=0, le=0.2)] = Field(
        0.05, description="greatest share of generated samples rejected as copies"
    )
    memorised_alpha: Annotated[float, Field(ge=0.001, le=1)] = Field(
        0.05, description="least p-value of the accepted lesions being no nearer to the training lesions than held-back real ones"
    )
    segmenter: str = Field("meddiff-segmenter", pattern=r"^[^/:\s][^/:]*$", description="name of the registered segmenter")
    segmenter_min_dice: Fraction = Field(0.5, description="least mean test Dice of the segmenter, all seeds together")
    segmenter_min_gain_lower: float = Field(
        0.0, description="least lower bound of the interval of its Dice gain over the champion, on the same test cases"
    )


class SearchRange(Section):
    """What is tried of a setting: numbers from `low` to `high`, or `choices`."""

    low: float | None = Field(None, description="least value")
    high: float | None = Field(None, description="greatest value")
    step: Annotated[float, Field(gt=0)] | None = Field(None, description="between values: what comes again is found in the cache")
    log: bool = Field(False, description="draw evenly by orders of magnitude")
    choices: tuple[float | str, ...] = Field((), description="the values themselves, in the place of a range")

    @model_validator(mode="after")
    def _one_of_both(self) -> "SearchRange":
        if self.choices and (self.low, self.high, self.step) != (None, None, None):
            raise ValueError("it has either `choices` or a range")
        if not self.choices and (self.low is None or self.high is None):
            raise ValueError("it needs `low` and `high`, or `choices`")
        if not self.choices and self.low > self.high:  # type: ignore[operator]
            raise ValueError(f"a range goes from the lesser to the greater value, not from {self.low} to {self.high}")
        if self.log and (self.step is not None or self.low is None or self.low <= 0):
            raise ValueError("with `log` it has no `step`, and begins above 0")
        return self


def _range(low: float, high: float, step: float | None = None, log: bool = False) -> SearchRange:
    return SearchRange(low=low, high=high, step=step, log=log)


class TuneParams(Section):
    """The search for settings, by validation Dice and cost."""

    trials: Positive = Field(20, description="in all, with those of earlier calls")
    storage: DatabaseUrl = Field("", description="Optuna storage URL; MEDDIFF_TUNE_STORAGE wins; empty: a file in `.work/`")
    study: str = Field("meddiff", description="beginning of the study's name in the storage")
    space: Annotated[dict[str, SearchRange], Field(min_length=1)] = Field(
        {
            "backgrounds.finder_steps": _range(65, 260, 65),
            "finetune.steps": _range(50, 200, 25),
            "finetune.learning_rate": _range(1e-4, 1e-3, log=True),
            "generate.n": _range(50, 200, 25),
            "generate.guidance_scale": _range(1.0, 4.0, 0.5),
            "filter.similarity_low": _range(0.0, 0.3, 0.01),
            "filter.similarity_high": _range(0.9, 0.995, 0.005),
            "filter.agreement": _range(0.0, 0.6, 0.1),
            "filter.corrosion_radius": SearchRange(choices=("auto", 0.0, 1.0, 2.0, 3.0, 4.0)),
            "segment.ratio": _range(2.0, 20.0, 2.0),
            "segment.share": _range(0.25, 0.75, 0.125),
        },
        description="`section.name` of each setting that is searched -> {low, high, step, log} or {choices}; that of copies is "
        "never loosened",
    )
    prune: bool = Field(
        True, description="stop a trial whose first training seed is worse than half of those that cost no more"
    )
    seed: SharedSeed = 0


class AblateParams(Section):
    """The ablation: the full method, then each part switched in turn, on validation Dice."""

    parts: tuple[str, ...] = Field((), description="names of the parts that are switched in turn; empty: all")
    seeds: tuple[Seed, ...] = Field((), description="training seeds of the segmenters; empty: those of `segment`")
    shown: Annotated[int, Field(ge=1, le=32)] = Field(6, description="samples of each variant on the contact sheet")


class BenchmarkDataset(Section):
    """One dataset of the benchmark, with settings of its own, `section.name` -> value."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$", description="on the page and in its tables")]
    dataset: DatasetName = Field(description="as prepare.dataset")
    path: Annotated[str, Field(min_length=1)] = Field("raw", description="as prepare.path")
    settings: dict[str, Any] = Field({}, description="`section.name`: value, for this dataset alone")


class BenchmarkParams(Section):
    """The benchmark: the pipeline on several datasets, label budgets and seeds, on the test parts."""

    datasets: Annotated[tuple[BenchmarkDataset, ...], Field(min_length=1)] = Field(
        (BenchmarkDataset(name="demo", dataset="demo"),),
        description="each {name, dataset, path, settings: {section.name: value}}",
    )
    budgets: Annotated[tuple[Positive | Literal["all"], ...], Field(min_length=1)] = Field(
        (10, 40), description="annotated training cases; `all` takes every one"
    )
    budget: Positive = Field(40, description="budget of the `further` arms, the paper's recipe and the verdict")
    samples_per_case: Annotated[float, Field(gt=0)] | None = Field(
        None, description="samples made for each annotated case, in the place of generate.n; `all` gets at least as many as the "
        "largest budget; null: generate.n throughout"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        (0, 1, 2, 3, 4), description="each chooses its annotated cases, trains its own generator and its own segmenters"
    )
    arms: tuple[ArmName, ...] = Field(("real", "augmented", "copy_paste", "synthetic"), description="at every budget")
    further: tuple[ArmName, ...] = Field(
        ("combined", "copy_paste_sites", "self_training", "uncorroded", "unfiltered", "synthetic_only", "synthetic_x0.5",
         "synthetic_x1", "synthetic_x2", "synthetic_x5"),
        description="further arms at `budget`",
    )
    paper: bool = Field(True, description="also run the paper's published recipe at `budget`")

    @field_validator("datasets")
    @classmethod
    def _datasets_differ(cls, datasets: tuple[BenchmarkDataset, ...]) -> tuple[BenchmarkDataset, ...]:
        if len({dataset.name for dataset in datasets}) < len(datasets):
            raise ValueError("names of datasets must differ")
        return datasets


class CatalogParams(Section):
    """The database of samples and decisions. MEDDIFF_CATALOG_URL in the environment wins."""

    url: DatabaseUrl = Field("", description="SQLAlchemy URL with its driver; empty: a SQLite file in `.work/`")
    project: str = Field("", description="name of this project's rows in a shared database; empty: the folder's name")
    person: str = Field("", description="who acts, for the audit log; MEDDIFF_PERSON in the environment wins; empty: the account")


class PlatformParams(Section):
    """What Prefect does by itself. MEDDIFF_NOTIFY_URL in the environment is the webhook that is told of failures."""

    silent_seconds: Annotated[int, Field(ge=40)] = Field(
        120, description="a flow run that gave no sign of life for so long is ended as crashed; signs come every 30, and an "
        "orderly cancellation takes up to 80 [s]"
    )
    acceptance_drop: Fraction = Field(
        0.3, description="share by which the acceptance must lie below the median of the five runs before, on the same dataset, "
        "to count as fallen"
    )
    retune: bool = Field(False, description="start the search of `tune` when the acceptance has fallen")


class ComputeParams(Section):
    """The machine."""

    threads: Positive = Field(
        2, description="of torch; segmenters are trained side by side, one on each, other results are equal for equal counts only"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="what the networks run on; `auto`: a GPU where there is one"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the networks' activations in training and painting; `auto`: bfloat16 where the machine has it in "
        "hardware"
    )
    gpu_runs: Positive = Field(1, description="stages that may use a GPU at the same time, of all runs on it; others wait")
    compile: bool = Field(False, description="compile the UNet: minutes at the start, then faster steps on GPUs")
    cluster: Annotated[str, Field(pattern=r"^(|local(:[1-9]\d*)?|\w+://\S+)$")] = Field(
        "", description="where units of work are done: empty: in the own process; `local:N`: in "
        "N further ones; `tcp://HOST:PORT`: by the `meddiff worker`s of a Dask scheduler, which see the project at the same path"
    )
