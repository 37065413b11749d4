"""Flow `tune`: the search of `meddiff tune`, with its proposal as an artifact."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from meddiff import params as settings
from meddiff import tune as search
from meddiff.environment import quiet
from meddiff.layout import Layout

NOTHING = settings.TuneParams()


@flow(name="tune", persist_result=False)
def tune(tune: settings.TuneParams = NOTHING) -> None:
    """Search guidance, filter bounds and corrosion by validation Dice and cost; proposes a change of params.yaml.

    Started again with the same settings, the search goes on until it has all its trials.
    """
    quiet()
    layout = Layout(Path.cwd())
    params = settings.load_params(layout.params)
    own = params.tune.model_dump() | tune.model_dump(exclude_unset=True)
    params = settings.parse_params(params.model_dump() | {"tune": own}, layout.params)
    result = search.tune(layout, params)
    create_markdown_artifact(proposal(result), key="tune", description="Trials, and the best settings as a change of params.yaml")


def proposal(result: search.TuneResult) -> str:
    """Markdown: the change to apply, and all trials from the best down."""
    names = list(result.best.settings)
    lines = [f"Trial {result.best.number} is proposed: mean validation Dice {result.value:.4f}.", ""]
    if result.diff:
        lines += ["```diff", result.diff.rstrip(), "```", "", f"Apply it with `patch -p1 < {result.diff_file}`."]
    else:
        lines += ["`params.yaml` has the best settings already."]
    lines += ["", f"| trial | validation Dice | cost | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for row in sorted(result.rows, key=lambda row: -row.dice):
        shown = " | ".join(f"{row.settings[name]:g}" for name in names)
        lines.append(f"| {row.number} | {row.dice:.4f} ± {row.error:.4f} | {row.cost:.1f} | {shown} |")
    return "\n".join(lines)
