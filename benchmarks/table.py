"""Ways to do the same work: measured in turns, and told in one table with the floors under them."""

import ctypes
import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from floors import Machine, Work, machine

MIB = 2**20
COLUMNS = ("", "images/s", "ratio", "peak [MiB]", "relative error", "first step [s]", "ms an image", "operations' floor",
           "bytes' floor", "share of the larger")


@dataclass
class Variant:
    """One way to do the work.

    Attributes:
        run: does some units of it and returns the seconds of each; the first is a warm-up.
        images: of one unit.
        floor: operations of one unit, and the bytes that it can't do without.
        precision: of its matrix operations.
        error: relative error against the float32 reference; None where it is one.
        fits: false once the device's memory wasn't enough.
    """

    name: str
    run: Callable[[], list[float]]
    images: int
    floor: Callable[[], Work]
    precision: str = "float32"
    error: Callable[[], float] | None = None
    seconds: list[float] = field(default_factory=list)
    start: float = 0.0
    memory: float = 0.0
    fits: bool = True


@contextmanager
def peak(device: str) -> Iterator[Callable[[], float]]:
    """The greatest memory since entry: the GPU's, or the process's resident set [MiB]."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() / MIB
        return
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    yield lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def compare(title: str, variants: Sequence[Variant], device: str, rounds: int) -> None:
    """Let the variants take turns and print the table; one that doesn't fit into memory loses its row alone."""
    for _ in range(rounds):
        for variant in variants:
            if variant.fits:
                measure(variant, device)
    able = machine(device)
    usual = float(np.median(variants[0].seconds)) / variants[0].images if variants[0].fits else float("nan")
    print(f"\n{title}; {able}\n\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for variant in variants:
        print(row(variant, able, usual) if variant.fits else f"| {variant.name} | does not fit |", flush=True)


def measure(variant: Variant, device: str) -> None:
    """Run a variant once; nothing that others have left, compiled code included, makes it faster or takes its memory."""
    torch.compiler.reset()
    with peak(device) as memory:
        try:
            variant.start, *seconds = variant.run()
        except torch.OutOfMemoryError:
            variant.fits = False
            return
        variant.seconds += seconds
        variant.memory = max(variant.memory, memory())


def row(v: Variant, able: Machine, usual: float) -> str:
    each = float(np.median(v.seconds)) / v.images
    floors = [seconds / v.images for seconds in able.floors(v.floor(), v.precision)]
    try:
        wrong = f"{v.error():.1e}" if v.error else "reference"
    except torch.OutOfMemoryError:
        wrong = "the reference does not fit"
    return (f"| {v.name} | {1 / each:.2f} | {usual / each:.2f} | {v.memory:.0f} | {wrong} | {v.start:.1f} | {1000 * each:.2f} "
            f"| {1000 * floors[0]:.2f} | {1000 * floors[1]:.2f} | {max(floors) / each:.0%} |")
