"""The command that searches settings."""

from typing import Annotated

import typer

from meddiff.cli.project import project
from meddiff.errors import redacted


def tune_settings(
    trials: Annotated[int | None, typer.Option(min=1, help="In all, with those of earlier calls; else tune.trials.")] = None,
    study: Annotated[str | None, typer.Option(help="Beginning of its name; else tune.study.")] = None,
    storage: Annotated[str | None, typer.Option(help="Database that workers share; else tune.storage.")] = None,
) -> None:
    """Search the settings of tune.space by validation Dice and cost; shows the best as a change of params.yaml.

    Start it several times, also on several machines, over one database: they work on one study, and a trial whose worker was
    killed is tried again by another.
    """
    import os

    from meddiff.experiments.tuning import search
    from meddiff.params.overrides import merged

    layout, params = project()
    own = {"study": study} if study else {}
    if storage:
        os.environ[search.STORAGE_VARIABLE] = storage
    result = search.tune(layout, type(params).model_validate(merged(params, {"tune": own})), trials)
    print("cost: thousands of images through the networks; *: no other is better in Dice and cost")
    print(f"{'trial':>5} {'dice':>7} {'error':>7} {'cost':>8} {'pairs':>6}   settings, as they ran")
    for row, best in result.ranked:
        settings = ", ".join(f"{name} {row.shown(name)}" for name in row.settings)
        mark = "*" if best else " "
        note = "" if row.state == "complete" else f"{row.state}: "
        numbers = f"{row.number:5d} {row.dice:7.4f} {row.error:7.4f} {row.cost:8.1f} {row.outcome.accepted:6d}"
        print(f"{numbers} {mark} {note}{settings}")
    print(f"proposed: trial {result.best.number}, validation Dice {result.value:.4f}: {result.reason}")
    apply = f"{redacted(result.diff)}apply it with: patch -p1 < {result.diff_file}"
    print(apply if result.diff else "params.yaml has the best settings already")
