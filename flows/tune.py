"""Flow `tune`: the search of `meddiff tune`, each trial as a task, and its proposal as an artifact."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from meddiff import params as settings
from meddiff.environment import quiet
from meddiff.errors import redacted
from meddiff.experiments.run import Outcome
from meddiff.experiments.tuning import search
from meddiff.experiments.tuning.trials import Hopeless, run_trial
from meddiff.layout import Layout
from meddiff.pages import markdown_table
from meddiff.params import file as params_file
from meddiff.params.arms import TREATED
from meddiff.params.overrides import Overrides

NOTHING = settings.TuneParams()


@task(name="trial", cache_policy=NO_CACHE, persist_result=False)
def trial(layout: Layout, overrides: Overrides, env: Mapping[str, str], hopeless: Hopeless | None) -> Outcome:
    """Run one trial, and say in the log what it gave."""
    outcome = run_trial(layout, overrides, env, hopeless)
    scores = outcome.dice.get(TREATED, {}).values()
    score = f"validation Dice {fmean(scores):.4f}" if scores else "no Dice"
    get_run_logger().info("%s, %d of %d pairs accepted, with %s", score, outcome.accepted, outcome.samples, overrides)
    return outcome


@flow(name="tune", persist_result=False)
def tune(tune: settings.TuneParams = NOTHING) -> None:
    """Search settings by validation Dice and cost; proposes a change of params.yaml.

    Started again with the same settings, the search goes on until it has all its trials.
    """
    quiet()
    layout = Layout(Path.cwd())
    params = params_file.load_params(layout.params)
    own = params.tune.model_dump() | tune.model_dump(exclude_unset=True)
    params = params_file.parse_params(params.model_dump() | {"tune": own}, layout.params)
    result = search.tune(layout, params, run=lambda *given: trial(layout, *given))
    create_markdown_artifact(proposal(result), key="tune", description="Trials, and the best settings as a change of params.yaml")


def proposal(result: search.TuneResult) -> str:
    """Markdown: the change to apply, and all trials from the best down."""
    names = list(result.best.settings)
    lines = [f"Trial {result.best.number} is proposed: mean validation Dice {result.value:.4f}; {result.reason}.", ""]
    if result.diff:
        lines += ["```diff", redacted(result.diff.rstrip()), "```", "", f"Apply it with `patch -p1 < {result.diff_file}`."]
    else:
        lines += ["`params.yaml` has the best settings already."]
    table = [[row.number, *((f"{row.dice:.4f} ± {row.error:.4f}", f"{row.cost:.1f}{' *' if best else ''}")
                            if row.outcome.accepted else ("nothing accepted", "–")),
              row.outcome.accepted, "" if row.state == "complete" else row.state, *map(row.shown, names)]
             for row, best in result.ranked]
    note = "Cost: thousands of images through the networks. *: no other trial is better in Dice and cost."
    return "\n".join([*lines, "", note, "", markdown_table(["trial", "validation Dice", "cost", "pairs", "", *names], table)])
