"""What a user sees of a stage: notes, and of long loops a bar with the remaining time; without a terminal a line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")
_LINE_SECONDS = 20.0  # between lines of a loop where there is no terminal, as in the log of a flow run


class Report(Protocol):
    """What a loop calls after each step: steps done, steps in all, and values worth showing."""

    def __call__(self, done: int, total: int, values: Mapping[str, float]) -> None: ...


def silent(done: int, total: int, values: Mapping[str, float]) -> None:
    """A `Report` that does nothing."""


@contextmanager
def bars() -> Iterator[Callable[[str], AbstractContextManager[Report]]]:
    """Yield what begins a `bar` of a label, beside those of other threads: a terminal has room for one display alone."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[values]}"),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        @contextmanager
        def begin(label: str) -> Iterator[Report]:
            begun, last = time.monotonic(), (0, 0, "")
            said = begun
            task = progress.add_task(label, total=None, values="")

            def report(done: int, total: int, values: Mapping[str, float]) -> None:
                nonlocal last, said
                text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
                last = (done, total, text)
                progress.update(task, completed=done, total=total, values=text)
                now = time.monotonic()
                if not console.is_terminal and done < total and now - said > _LINE_SECONDS:
                    said, left = now, (now - begun) / max(done, 1) * (total - done)
                    print(f"{label}: {done}/{total} {text} after {now - begun:.0f} s, about {left:.0f} s left", file=sys.stderr)

            yield report
            if not console.is_terminal and last[1]:
                print(f"{label}: {last[0]}/{last[1]} {last[2]} in {time.monotonic() - begun:.0f} s", file=sys.stderr)

        yield begin


@contextmanager
def bar(label: str) -> Iterator[Report]:
    """Yield a `Report` that draws a bar labelled `label` on standard error."""
    with bars() as begin, begin(label) as report:
        yield report


def with_progress(label: str, total: int, items: Iterable[T]) -> Iterator[T]:
    """The items, with a `bar` that counts those that are done with."""
    with bar(label) as report:
        for done, item in enumerate(items, start=1):
            yield item
            report(done, total, {})


def tell(stage: str, lines: Iterable[str]) -> None:
    """What a user must know of a stage, a line each, on standard error."""
    for line in lines:
        print(f"{stage}: {line}", file=sys.stderr)
