"""Commands on where things come from, and on patients whose data must go."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from meddiff.cli.project import served_project


def lineage(
    id: Annotated[str | None, typer.Argument(help="A pair, a release or export, models:/NAME/VERSION, NAME@ALIAS, a run in "
                                             "MLflow, a patient (name or hash), a case, or a raw file; else a list.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it, for machines.")] = False,
) -> None:
    """Where something comes from, back to patients (hashed), raw files, commit and settings, and what descends from it."""
    from meddiff.lineage.trace import example_ids, trace
    from meddiff.lineage.words import trace_lines

    layout, params = served_project()
    if id is None:
        for kind, ids in example_ids(layout, params).items():
            print(f"{kind}: {', '.join(ids) or 'none'}")
        return
    made = trace(layout, params, id)
    print(json.dumps(asdict(made), indent=1) if as_json else "\n".join(trace_lines(made)))


def withdraw(
    patient: Annotated[str, typer.Argument(help="Its name in the dataset (its group's, where nobody knows it), or its hash.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else only what would be done is told.")] = False,
    reason: Annotated[str, typer.Option(help="Stands in withdrawals.yaml and on the models; name no one.")] = "consent withdrawn",
    retrain: Annotated[bool, typer.Option("--retrain", help="With --yes: run the chain again at once.")] = False,
) -> None:
    """Take a patient out: quarantine what was made from the data, block the models that learned from it, and train again."""
    from meddiff.lineage.withdrawal import act, plan_lines, plan_withdrawal

    layout, params = served_project()
    plan = plan_withdrawal(layout, params, patient)
    print("\n".join(plan_lines(plan)))
    if not yes:
        print("dry run: nothing was changed. Add --yes to do it, and --retrain to train again at once")
        return
    done, faults = act(layout, params, plan, reason)
    print("\n".join(done), flush=True)
    code = 0
    if retrain:
        from meddiff.cli.repro import run_repro

        code = run_repro(layout.root)
    for fault in faults:
        print(f"meddiff: {' '.join(str(fault).split())}", file=sys.stderr)
    raise typer.Exit(code or int(bool(faults)))
