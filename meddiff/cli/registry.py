"""Commands on registered models, and on who did what with them."""

from typing import Annotated

import typer

from meddiff.cli.project import project


def promote_model(
    version: Annotated[str | None, typer.Option(help="Number in the registry; the newest if not given.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Make the previous champion the champion again.")] = False,
    segmenter: Annotated[bool, typer.Option("--segmenter", help="Of the segmenters, not of the generators.")] = False,
) -> None:
    """Make a registered generator or segmenter the champion if its gate (promote.*) holds; exit code 1 and reasons if not."""
    from meddiff.delivery import promote as gate
    from meddiff.services.tracking import GENERATOR, SEGMENTER

    layout, params = project()
    kind = SEGMENTER if segmenter else GENERATOR
    decision = gate.rollback(layout, params, kind) if rollback else gate.promote(layout, params, version, kind)
    for reason in decision.reasons:
        print(reason)
    name = params.promote.segmenter if segmenter else params.promote.model
    print(f"{name} version {decision.version} is {'the champion' if decision.passed else 'refused'}")
    if not decision.passed:
        raise typer.Exit(1)


def audit(
    subject: Annotated[str, typer.Argument(help="What the subject contains, such as a model's name; all if not given.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Of the last actions.")] = 50,
    everywhere: Annotated[bool, typer.Option("--all", help="Of all projects in the catalogue's database.")] = False,
) -> None:
    """Who promoted, refused, rolled back, withdrew, released, tuned or backed up what, when and why."""
    from meddiff.services.catalog import list_actions

    for row in list_actions(*project(), subject, limit, everywhere):
        change = f" ({row.before or 'none'} -> {row.after or 'none'})" if row.before or row.after else ""
        reason = f": {'; '.join(row.reason.splitlines())}" if row.reason else ""
        place = f"{row.project}: " if everywhere else ""
        print(f"{row.at:%Y-%m-%d %H:%M:%S} UTC  {place}{row.person} {row.action} {row.subject}{change}{reason}")
