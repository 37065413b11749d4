"""What a flow run shows in Prefect's UI: its data, models, quality, Dice table, accepted pairs, and the run in MLflow."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from meddiff.errors import ServiceError, redacted
from meddiff.layout import Layout
from meddiff.outputs.tables import CASES
from meddiff.pages import data_uri, markdown_table
from meddiff.params.file import load_params
from meddiff.services import tracking

_PARTS = ("train", "val", "test")
METRICS = {"dice": ("Dice", 3), "iou": ("IoU", 3), "hd95": ("HD95 [px]", 1), "nsd": ("NSD", 3)}


def show_data(layout: Layout) -> None:
    """Artifact `data`: images of each part, how many are annotated, and the outlines of the masks."""
    text = data_table(json.loads(layout.split.read_text()), int(CASES.read(layout.cases("train"))["labelled"].sum()))
    if layout.outlines.is_file():
        text += f"\n\n{picture(layout.outlines, 'Outlines of the masks')}"
    create_markdown_artifact(text, key="data", description="What the run learns from and is tested on")


def show_result(layout: Layout) -> None:
    """Artifacts `dice` (each arm's scores, and the gain) and `pairs` (accepted pairs, drawn at random)."""
    summary = json.loads((layout.report / "summary.json").read_text())
    create_markdown_artifact(dice_table(summary), key="dice", description="Scores on the test cases, with their intervals")
    sheet = layout.report / "pictures/pairs.png"
    if sheet.is_file():
        create_markdown_artifact(picture(sheet, "Accepted pairs"), key="pairs", description="Accepted pairs, drawn at random")


def show_quality(layout: Layout) -> None:
    """Artifact `quality`: each batch, whether it may be used, and the reasons if not."""
    batches = json.loads((layout.filtered / "batches.json").read_text())
    create_markdown_artifact(quality_table(batches), key="quality", description="Quality check of the synthetic batches")


def show_run(layout: Layout, execution: str) -> None:
    """Artifact `mlflow`: where this execution is recorded."""
    with _patient():
        run = tracking.execution_run(layout, load_params(layout.params), execution)
        page = _page(run)
        link = (f"[Run in MLflow]({page}/#/experiments/{run.server.experiment}/runs/{run.id}), "
                f"[beside the others]({tracking.runs_page(page, run.server.experiment)})")
        text = link if page else f"Run `{run.id}` at {run.server.uri}; `make ui` shows it."
        create_markdown_artifact(redacted(text), key="mlflow", description="Settings, curves and files of this execution")


def show_models(layout: Layout, execution: str) -> None:
    """Artifact `model`: the generator and the segmenters that this execution registered or used again."""
    with _patient():
        run = tracking.execution_run(layout, load_params(layout.params), execution)
        page, lines = _page(run), list[str]()
        for kind, version in tracking.registered_models(run).items():
            name, _, number = version.rpartition("/")
            words = f"{name} version {number}"
            shown = f"[{words}]({page}/#/models/{name}/versions/{number})" if page else words
            lines.append(f"- {kind}: {shown}, `models:/{version}`")
        if lines:
            create_markdown_artifact(redacted("\n".join(lines)), key="model", description="Registered models of this run")


def _page(run: tracking.Run) -> str:
    """The address of MLflow's pages, empty where no server shows them."""
    return (os.environ.get("MEDDIFF_MLFLOW_URL") or (run.server.uri if run.server.uri.startswith("http") else "")).rstrip("/")


@contextmanager
def _patient() -> Iterator[None]:
    """A link that can't be made now must not end a run whose stages work."""
    try:
        yield
    except ServiceError as e:
        get_run_logger().warning("An artifact is missing: %s", e)


def data_table(split: Mapping[str, Sequence[str]], annotated: int) -> str:
    """A Markdown table from the content of `data/split.json`."""
    rows = [[part, len(ids), annotated if part == "train" else "all"] for part, ids in split.items() if part in _PARTS]
    return markdown_table(["part", "images", "annotated"], rows)


def dice_table(summary: dict[str, Any]) -> str:
    """A Markdown table from the content of `summary.json` (see `meddiff.evaluation.summary.Summary`)."""
    rows = [[arm, *(_interval(scores[name], digits) for name, (_, digits) in METRICS.items())]
            for arm, scores in summary["arms"].items()]
    gain = summary["gain"]
    lines = [markdown_table(["trained on", *(label for label, _ in METRICS.values())], rows), "",
             f"**Gain: {_interval(gain, 3, '+')} Dice** over {gain['cases']} test cases and {gain['seeds']} training seeds."
              if gain else "No gain: that needs both arms."]
    return "\n".join([*lines, "", f"{summary['accepted']} of {summary['generated']} synthetic pairs accepted, "
                      f"{summary['n_real']} annotated images."])


def headline(summary: dict[str, Any]) -> str:
    """The result in a line, from the content of `summary.json`."""
    arms = ", ".join(f"{arm} {_interval(scores['dice'], 3)}" for arm, scores in summary["arms"].items())
    return f"Dice: {arms}" + (f"; gain {_interval(summary['gain'], 3, '+')}" if summary["gain"] else "")


def quality_table(batches: dict[str, Any]) -> str:
    """A Markdown table from the content of `filtered/batches.json`."""
    passed = sum(batch["passed"] for batch in batches.values())
    rows = [[name, "passed" if batch["passed"] else "**quarantined**", "; ".join(batch["reasons"])]
            for name, batch in batches.items()]
    return f"{passed} of {len(batches)} batches passed.\n\n{markdown_table(['batch', 'verdict', 'reasons'], rows)}"


def picture(path: Path, title: str) -> str:
    """A PNG inside of Markdown: the page shows it without a file server."""
    return f"![{title}]({data_uri(path.read_bytes())})"


def _interval(value: dict[str, Any], digits: int, sign: str = "") -> str:
    if value["mean"] is None:
        return "–"
    mean, lower, upper = (f"{value[name]:{sign}.{digits}f}" for name in ("mean", "lower", "upper"))
    return f"{mean} ({lower} to {upper})"
