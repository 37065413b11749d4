"""The dataset card: the `README.md` of a release, filled from its manifest and the evaluation."""

import json
from pathlib import Path
from typing import Any

from meddiff.errors import MeddiffError
from meddiff.evaluation.bootstrap import Interval
from meddiff.evaluation.page import verdict


def dataset_card(manifest: dict[str, Any], summary: Path) -> str:
    """Markdown for those who will use the pairs.

    Args:
        manifest: of the release, with `name`, `meddiff`, `generators`, `counts` and `params`.
        summary: `summary.json` of `evaluate`; the gain is told as unmeasured where it is missing or of other pairs.

    Raises:
        MeddiffError: `summary` is there and isn't what `evaluate` writes.
    """
    counts, made = manifest["counts"], manifest["params"]
    sampling, share = made["generate"], counts["accepted"] / counts["samples"]
    reasons = "\n".join(f"| {reason} | {n} |" for reason, n in counts["reasons"].items())
    return f"""# {manifest["name"]}: synthetic pairs of image and mask

{counts["accepted"]} images, each with the mask of its lesion, made by meddiff {manifest["meddiff"]}: a diffusion model painted
lesions of invented shape into lesion-free images, or at the place of the lesions in images without annotation.

## How they were made
- Source dataset: `{made["prepare"]["dataset"]}`; at most {made["prepare"]["n_labelled"]} annotated cases were seen.
- Size: {made["prepare"]["size"]} × {made["prepare"]["size"]} pixels.
- Foundation: `{made["foundation"]["source"]}`, fine-tuned ({made["finetune"]["mode"]}) for {made["finetune"]["steps"]} steps.
- Sampling: {sampling["steps"]} steps of {sampling["scheduler"]}, guidance scale {sampling["guidance_scale"]}.
- Hash of the model: {", ".join(manifest["generators"])}.

`samples.csv` gives seed, background and scores of each pair, `manifest.json` all settings.

## What was kept
{counts["accepted"]} of {counts["samples"]} samples ({share:.0%}) were accepted; their masks were then tightened.

| left out | samples |
|---|---|
{reasons or "| none | 0 |"}

## What they gain
{_gain(summary, counts)}

## Use
Meant for training a segmentation network beside real annotated images of the same kind. Not for tests or benchmarks, which need
real cases, and not for diagnosis.

## Limits
- Not privacy-preserving: the backgrounds are real images, and the model learned from real ones and may repeat parts of them.
- Variety is bounded by the few annotated cases behind it; rare kinds of lesion are missing.
- A mask is what the model was asked to fill, checked by a segmentation network and not drawn by an expert.
- The terms of the source dataset apply to what is made from it.

## Files
`images/ID.png` (RGB), `masks/ID.png` (0 and 255), `samples.csv`, and `manifest.json` with SHA-256 and size of each file, against
which `meddiff release fetch` checks all of it.
"""


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
