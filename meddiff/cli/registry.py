"""Commands on registered models, and on who did what with them."""

from typing import Annotated

import typer

from meddiff.cli.project import served_project


def promote_model(
    version: Annotated[str | None, typer.Option(help="Number in the registry; the newest if not given.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Make the previous champion the champion again.")] = False,
    segmenter: Annotated[bool, typer.Option("--segmenter", help="Of the segmenters, not of the generators.")] = False,
    evidence: Annotated[str, typer.Option(help="Id of the run to judge by, in the place of the one judged by before.")] = "",
    reason: Annotated[str, typer.Option(help="Why; stands in the audit log.")] = "",
) -> None:
    """Make a registered generator or segmenter the champion if its gate (promote.*) holds; exit code 1 and reasons if not."""
    from meddiff.delivery import promote as gate
    from meddiff.services.tracking import GENERATOR, SEGMENTER, registered_name

    layout, params = served_project()
    kind = SEGMENTER if segmenter else GENERATOR
    decision = (gate.rollback(layout, params, kind, reason=reason) if rollback else
                gate.promote(layout, params, version, kind, evidence, reason=reason))
    for line in decision.reasons:
        print(line)
    print(decision.verdict(registered_name(params, kind)))
    if not decision.passed:
        raise typer.Exit(1)


def audit(
    subject: Annotated[str, typer.Argument(help="What the subject contains, such as a model's name; all if not given.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Of the last actions.")] = 50,
    everywhere: Annotated[bool, typer.Option("--all", help="Of all projects in the catalogue's database.")] = False,
) -> None:
    """Who promoted, refused, rolled back, withdrew, released, tuned or backed up what, when and why."""
    from meddiff.services.catalog import list_actions

    for row in list_actions(*served_project(), subject, limit, everywhere):
        change = f" ({row.before or 'none'} -> {row.after or 'none'})" if row.before or row.after else ""
        reason = f": {'; '.join(row.reason.splitlines())}" if row.reason else ""
        place = f"{row.project}: " if everywhere else ""
        print(f"{row.at:%Y-%m-%d %H:%M:%S} UTC  {place}{row.person} {row.action} {row.subject}{change}{reason}")


webhook_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who is told of a new champion by the MLflow server.")


@webhook_app.command("add")
def webhook_add(url: Annotated[str, typer.Argument(help="Of the receiver: https://HOST/PATH.")]) -> None:
    """Let the server post changes of aliases there, signed with MEDDIFF_WEBHOOK_SECRET; an example goes out at once."""
    import os

    from meddiff.services import tracking

    hook = tracking.add_webhook(*served_project(), url, os.environ.get(tracking.SECRET_VARIABLE, ""))
    print(f"webhook {hook.id} to {hook.url}; the server posts an example …")
    print(f"the receiver took it: {tracking.try_webhook(*served_project(), hook.id)}")


@webhook_app.command("list")
def webhook_list() -> None:
    """List the webhooks that meddiff made, with their ids."""
    from meddiff.services.tracking import list_webhooks

    for hook in list_webhooks(*served_project()):
        print(f"{hook.id}  {hook.url}{'' if hook.active else '  (off)'}")


@webhook_app.command("try")
def webhook_try(id: Annotated[str, typer.Argument(help="As `list` tells it.")]) -> None:
    """Let the server post an example, and tell what the receiver answered."""
    from meddiff.services.tracking import try_webhook

    print(f"the receiver took it: {try_webhook(*served_project(), id)}")


@webhook_app.command("remove")
def webhook_remove(id: Annotated[str, typer.Argument(help="As `list` tells it.")]) -> None:
    """Remove a webhook."""
    from meddiff.services.tracking import remove_webhook

    remove_webhook(*served_project(), id)
