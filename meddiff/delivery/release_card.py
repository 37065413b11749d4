"""The card of a release, its `README.md`, filled from its manifest and the evaluation; its words are in `release_card.md.j2`."""

import json
from pathlib import Path
from typing import Any

from meddiff.errors import MeddiffError
from meddiff.evaluation.bootstrap import Interval
from meddiff.evaluation.page import verdict
from meddiff.pages import render


def release_card(manifest: dict[str, Any], summary: Path) -> str:
    """Markdown for those who will use the pairs.

    Args:
        manifest: of the release, with `name`, `meddiff`, `generators`, `counts` and `params`.
        summary: `summary.json` of `evaluate`; the gain is told as unmeasured where it is missing or of other pairs.

    Raises:
        MeddiffError: `summary` is there and isn't what `evaluate` writes.
    """
    counts = manifest["counts"]
    return render("delivery/release_card.md.j2", **manifest, share=f"{counts['accepted'] / counts['samples']:.0%}",
                  gain=_gain(summary, counts))


def _gain(path: Path, counts: dict[str, Any]) -> str:
    if not path.is_file():
        return "Not measured: no evaluation had run when this was published."
    try:
        summary = json.loads(path.read_text())
        if (summary["generated"], summary["accepted"]) != (counts["samples"], counts["accepted"]):
            return "Not measured: the last evaluation before publication was of other pairs."
        gain = Interval(**summary["gain"]) if summary["gain"] and summary["gain"]["mean"] is not None else None
        return (f"{verdict(gain)}\nNetworks trained for {summary['steps']} steps on {summary['n_real']} annotated images, with "
                "and without these pairs, were compared on real test cases.")
    except (ValueError, KeyError, TypeError) as e:
        raise MeddiffError(path, f"the summary must be what `evaluate` writes ({e!r})", "Run `dvc repro evaluate`") from e
