"""Commands that keep a project in order."""

import sys
from typing import Annotated

import typer

from meddiff.cli.project import project, served_project


def gc(
    keep: Annotated[str, typer.Option(help="What stays beside all that the project, git and the champions refer to: releases, "
                                           "results, and whatever is younger than so many days.")
                    ] = "champion,releases,results,30d",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without a question.")] = False,
) -> None:
    """Say what is unused in DVC's cache, MLflow's files and .work/, with its size, and remove it after a yes."""
    from meddiff.upkeep.unused import find_unused, free_unused, parse_keep

    kept = parse_keep(keep)
    layout, params = served_project()
    unused = find_unused(layout, params, kept)
    for part in unused.parts:
        print(f"{part.what:<50} {len(part.paths):>6} unused  {part.bytes / 1e6:>9.1f} MB")
    for note in unused.notes:
        print(note)
    if not unused.parts:
        print("nothing is unused")
        return
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Remove these {unused.bytes / 1e6:.1f} MB?")):
        print("nothing was removed; --yes removes it")
        return
    free_unused(layout, params, unused)
    print(f"removed: {unused.bytes / 1e6:.1f} MB")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list instead.")] = False,
) -> None:
    """Look at versions, machine, folders, every service and what was left unfinished; exit code 1 if something is amiss."""
    import json
    from dataclasses import asdict

    from meddiff.upkeep.doctor import examine

    symptoms = []
    for symptom in examine(*project()):
        symptoms.append(symptom)
        if not as_json:
            mark = "ok " if symptom.ok else "BAD"
            print(f"{mark} {symptom.name:<11} {symptom.says}" + (f". {symptom.remedy}" if symptom.remedy else ""), flush=True)
    if as_json:
        print(json.dumps([asdict(symptom) for symptom in symptoms], indent=1))
    if not all(symptom.ok for symptom in symptoms):
        raise typer.Exit(1)
