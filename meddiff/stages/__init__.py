"""The nine stages, one file each. A stage reads and writes files, and calls the domain for everything in between."""

import hashlib
from pathlib import Path

from meddiff.layout import Layout
from meddiff.params import Params, Section
from meddiff.params.overrides import merged


def work_key(*parts: Section | Path | str) -> str:
    """Name of a resume state: changes with the settings, files and folders that the state depends on.

    Args:
        parts: settings by value, files and folders by content, text as it is.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Section):
            digest.update(repr(part).encode())  # with the fields that other sections fill
        elif isinstance(part, Path):
            for path in sorted(p for p in (part.rglob("*") if part.is_dir() else [part]) if p.is_file()):
                with path.open("rb") as stream:  # a foundation may be larger than memory should be filled with
                    digest.update(str(path.relative_to(part)).encode() + hashlib.file_digest(stream, "sha256").digest())
        else:
            digest.update(part.encode())
    return digest.hexdigest()[:16]


def checkpoint_file(layout: Layout, stage: str, *parts: Section | Path | str) -> Path:
    """Checkpoint of a stage in `.work/`, for exactly these inputs."""
    return layout.work / stage / f"{work_key(*parts)}.safetensors"


def use_machine(params: Params) -> Params:
    """Set torch's thread count; the settings with `auto` resolved, `device` to `cpu` or `cuda` and `precision` for that device.

    Raises:
        MeddiffError: `cuda` is asked for and there is none.
    """
    import torch

    from meddiff.environment import has_bfloat16
    from meddiff.errors import MeddiffError

    compute = params.compute
    torch.set_num_threads(compute.threads)
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise MeddiffError(
            "compute.device", "`cuda` needs a GPU that torch can use", "Install with `make install CUDA=1`, or set `auto`"
        )
    device = "cuda" if compute.device != "cpu" and torch.cuda.is_available() else "cpu"
    fastest = "bfloat16" if has_bfloat16(device) else "float32"
    precision = fastest if compute.precision == "auto" else compute.precision
    return Params.model_validate(merged(params, {"compute": {"device": device, "precision": precision}}))


def execute(stage: str, root: Path) -> None:
    """Run one stage in the project at `root`, recorded in MLflow.

    When the stage fails below DVC, the outputs that DVC removed before it are brought back from DVC's cache.

    Raises:
        MeddiffError: whatever the settings, the tracking server or the stage find wrong.
    """
    import os
    import sys
    from importlib import import_module

    from meddiff.params.file import load_params

    layout = Layout(root)
    try:
        params = load_params(layout.params)
        from meddiff.services.tracking import stage_run

        with stage_run(layout, params, stage) as tracker:
            import_module(f"meddiff.stages.{stage}").run(layout, params, tracker)
    except BaseException:
        if "DVC_STAGE" in os.environ:
            from meddiff.services.versioning import restore_outs

            try:
                restore_outs(root, stage)
            except Exception as second:  # the stage's own error matters more
                print(f"earlier outputs of {stage} could not be brought back, try `dvc checkout`: {second}", file=sys.stderr)
        raise
