"""Great Expectations over the table of each synthetic batch, the only module that imports it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations import expectations as gxe
from great_expectations.data_context.types.base import ProgressBarsConfig

from meddiff.params import FilterParams

_SUITE = "synthetic batch"
_AREA = (0.001, 0.9)     # smallest and greatest share of the image that a mask may cover
_LEAST_RANGE = 16        # gray levels between an image's darkest and brightest pixel; less is blank
COMPONENTS = 3           # parts of a mask, unless the training masks have more
_ALMOST_ALL, _MOST, _HALF = 0.95, 0.9, 0.5


@dataclass(frozen=True)
class Finding:
    """What one expectation found in one batch.

    Attributes:
        name: a word or two, such as `mask area`.
        rule: the expectation in a sentence.
        passed: whether it holds.
        observed: what was found instead, or the value measured.
    """

    name: str
    rule: str
    passed: bool
    observed: str


@dataclass(frozen=True)
class BatchVerdict:
    """Whether a batch may be used.

    Attributes:
        batch: its name.
        passed: every expectation holds.
        failures: names of those that don't.
        statistics: expectations evaluated, successful and unsuccessful, and the percentage of successful ones.
        findings: every expectation's.
    """

    batch: str
    passed: bool
    failures: tuple[str, ...]
    statistics: Mapping[str, float]
    findings: tuple[Finding, ...]


def describe_batches(verdicts: Sequence[BatchVerdict]) -> dict[str, Any]:
    """The content of `batches.json`: for each batch whether it may be used, the reasons if not, and every expectation."""
    return {verdict.batch: {"passed": verdict.passed,
                            "reasons": [f"{found.rule}: {found.observed}" for found in verdict.findings if not found.passed],
                            "statistics": dict(verdict.statistics), "expectations": [asdict(found) for found in verdict.findings]}
            for verdict in verdicts}


def check_batches(tables: Mapping[str, pd.DataFrame], params: FilterParams, size: int, docs: Path,
                  components: int = COMPONENTS) -> tuple[BatchVerdict, ...]:
    """Validate batches, and write Great Expectations' own pages (Data Docs; their styles come from the network) into `docs`.

    Args:
        tables: for each batch one row a sample: id, image_sha256, width, height, mode, mask_width, mask_height, image_range
            [gray levels], area (share of the image), components, contrast [gray levels], similarity, agreement (both 0 to 1)
            and accepted (0 or 1).
        params: `min_contrast` and `min_acceptance`.
        size: side that images and masks must have [pixels].
        components: greatest number of parts that a mask may have; give what the training masks have, if that is more.

    Returns:
        A verdict for each batch, in the order given.
    """
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    suite = context.suites.add(gx.ExpectationSuite(name=_SUITE, expectations=expectations(params, size, components)))
    source = context.data_sources.add_pandas("synthetic")
    verdicts = []
    for batch, table in tables.items():
        data = source.add_dataframe_asset(batch).add_batch_definition_whole_dataframe("whole")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=batch, data=data, suite=suite))
        checkpoint = context.checkpoints.add(gx.Checkpoint(name=batch, validation_definitions=[definition]))
        result = checkpoint.run(batch_parameters={"dataframe": table}, run_id=gx.RunIdentifier(run_name=batch))
        verdicts.append(_verdict(batch, next(iter(result.run_results.values())).to_json_dict()))
    site = {"class_name": "SiteBuilder", "site_name": "meddiff", "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"}}
    context.add_data_docs_site("quality", site)
    context.build_data_docs(["quality"])
    return tuple(verdicts)


def expectations(params: FilterParams, size: int, components: int = COMPONENTS) -> list[Any]:
    """The expectations on a batch, each with its name and its rule in words.

    A fault of all samples (size, mode, scores, repeated pixels) fails at the first one; what a sound generator misses now and
    then (a blank image, a tiny mask) may happen to few, since the filter rejects those samples by themselves.
    """
    def between(column: str, low: float | None, high: float | None, name: str, rule: str, mostly: float = 1.0) -> Any:
        share = "" if mostly == 1 else f" in at least {mostly:.0%} of the samples"
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, mostly=mostly,
                                                 description=f"{rule}{share}", meta={"name": name})

    suite = [gxe.ExpectColumnValuesToBeUnique(column="id", description="Ids are unique", meta={"name": "unique ids"}),
             gxe.ExpectColumnValuesToBeUnique(column="image_sha256", description="No two images have the same pixels",
                                              meta={"name": "repeated images"}),
             gxe.ExpectColumnValuesToBeInSet(column="mode", value_set=["RGB"], description="Images have three 8-bit channels",
                                             meta={"name": "image mode"})]
    suite += [between(column, size, size, name, f"The {column.replace('_', ' ')} is {size} pixels")
              for name, columns in {"image size": ("width", "height"), "mask size": ("mask_width", "mask_height")}.items()
              for column in columns]
    suite += [between("image_range", _LEAST_RANGE, 255, "gray range", f"Gray levels span at least {_LEAST_RANGE}", _ALMOST_ALL),
              between("area", *_AREA, "mask area", f"Masks cover {_AREA[0]:.1%} to {_AREA[1]:.0%} of the image", _ALMOST_ALL),
              between("components", 1, components, "mask components", f"Masks have 1 to {components} parts", _MOST),
              between("contrast", params.min_contrast, 255, "contrast",
                      f"Gray levels differ by {params.min_contrast:g} or more across the mask's border", _HALF)]
    for score in ("similarity", "agreement"):
        suite += [gxe.ExpectColumnValuesToNotBeNull(column=score, description=f"Every sample has its {score}",
                                                    meta={"name": score}),
                  between(score, 0, 1, score, f"The {score} lies between 0 and 1")]
    rule = f"At least {params.min_acceptance:.0%} of the samples are accepted"
    return [*suite, gxe.ExpectColumnMeanToBeBetween(column="accepted", min_value=params.min_acceptance, max_value=1,
                                                    description=rule, meta={"name": "acceptance"})]


def _verdict(batch: str, result: Mapping[str, Any]) -> BatchVerdict:
    """Read `ExpectationSuiteValidationResult.to_json_dict()`."""
    findings = tuple(Finding(entry["expectation_config"]["meta"]["name"], entry["expectation_config"]["description"],
                             bool(entry["success"]), _observed(entry)) for entry in result["results"])
    failures = tuple(dict.fromkeys(finding.name for finding in findings if not finding.passed))
    return BatchVerdict(batch, bool(result["success"]), failures, dict(result["statistics"]), findings)


def _observed(entry: Mapping[str, Any]) -> str:
    if entry["exception_info"].get("raised_exception", True):
        return "could not be checked, a column may be missing"
    found = entry["result"]
    if "element_count" not in found:
        return f"{float(found['observed_value']):.3g}" if found.get("observed_value") is not None else "nothing"
    count, total = found["unexpected_count"], found["element_count"]
    values = [f"{v:.4g}" if isinstance(v, float) else str(v)[:16] for v in dict.fromkeys(found["partial_unexpected_list"])]
    such = f", such as {', '.join(values[:3])}" if values and values[0] != "None" else ""
    return f"{count} of {total} samples otherwise{such}" if count else f"all {total} samples"
