"""A trace for a terminal."""

from collections.abc import Sequence

from meddiff.lineage.trace import Execution, Image, Product, Trace
from meddiff.pages import counted

_ROWS = 12  # of a list, unless all are asked for
_BEGINNINGS = ("patient", "case", "file")


def trace_lines(trace: Trace) -> list[str]:
    """What an id is, where it comes from, and what became of it, one line each."""
    lines = [f"{trace.kind} {trace.id}", *(f"  {name:<14} {words}" for name, words in trace.facts.items())]
    if trace.executions:
        how = "used in" if trace.kind in _BEGINNINGS else "made by"
        lines += ["", f"{how} {counted(len(trace.executions), 'execution')}"]
        lines += _shown([line for execution in trace.executions[:4] for line in _execution(execution)], len(trace.executions) - 4,
                        "executions", 40)
    if trace.images:
        patients = {image.patient for image in trace.images}
        lines += ["", f"{counted(len(trace.images), 'image')} of {counted(len(patients), 'patient')}: patient (hash), image, "
                  "part, SHA-256 of the raw file, what has seen it"]
        lines += _shown([_image(image) for image in trace.images[:_ROWS]], len(trace.images) - _ROWS, "images")
    if trace.products:
        lines += ["", "what descends from it" if trace.kind in _BEGINNINGS else "what it went into, or came with it"]
        lines += _shown([_product(product) for product in trace.products[:2 * _ROWS]], len(trace.products) - 2 * _ROWS, "more")
    return lines


def _shown(lines: Sequence[str], left: int, what: str, most: int = 2 * _ROWS) -> list[str]:
    return [*lines[:most], *([f"  … and {left} {what}: --json has all"] if left > 0 else [])]


def _execution(execution: Execution) -> list[str]:
    run = f", run {execution.run} `{execution.name}`" if execution.run else ""
    lines = [f"  {execution.id}{run}, {execution.at}, commit {execution.commit[:12] or 'unknown'}"
             + ("-dirty" if execution.commit.endswith("-dirty") else "")]
    if execution.metrics:
        told = {name: value for name, value in execution.metrics.items() if not name.endswith(("_lower", "_upper"))}
        lines.append("    " + ", ".join(f"{name} {value:.4g}" for name, value in sorted(told.items())))
    if execution.settings:
        lines.append("    not the defaults: " + ", ".join(f"{name} {value}" for name, value in execution.settings.items()))
    return lines


def _image(image: Image) -> str:
    part = f"{image.part}, annotated" if image.labelled and image.part == "train" else image.part
    return f"  {image.patient}  {image.id}  {part}  {image.file[:16] or 'no raw file'}  {', '.join(image.seen_by)}"


def _product(product: Product) -> str:
    return f"  {product.kind:<10} {product.id}  {product.words}" + ("" if product.learned else " (measured on it, not learned)")
