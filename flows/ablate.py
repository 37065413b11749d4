"""Flow `ablate`: the ablation of `meddiff ablate`, each variant as a task, its table and contact sheet as artifacts."""

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from meddiff import params as settings
from meddiff.environment import quiet
from meddiff.errors import MeddiffError
from meddiff.experiments.ablation import ablation
from meddiff.experiments.ablation.variants import run_variant
from meddiff.experiments.run import Outcome
from meddiff.layout import Layout
from meddiff.pages import data_uri
from meddiff.params import file as params_file
from meddiff.params.overrides import Overrides

NOTHING = settings.AblateParams()
WIDEST = 1600  # of the sheet inside an artifact [pixels]


@task(name="variant", cache_policy=NO_CACHE, persist_result=False)
def variant(layout: Layout, shown: int, name: str, overrides: Overrides, env: Mapping[str, str], tiles: Path) -> Outcome:
    """Run one variant, and say in the log what it gave."""
    outcome = run_variant(layout, shown, name, overrides, env, tiles)
    get_run_logger().info("%s: %d of %d pairs accepted, %.0f s", name, outcome.accepted, outcome.samples, outcome.seconds)
    return outcome


@flow(name="ablate", persist_result=False)
def ablate(ablate: settings.AblateParams = NOTHING) -> None:
    """Run the full method, then each part switched in turn, with the same sample and training seeds.

    Started again after an interrupt or a failure, it goes on with what isn't finished.
    """
    quiet()
    layout = Layout(Path.cwd())
    params = params_file.load_params(layout.params)
    own = params.ablate.model_dump() | ablate.model_dump(exclude_unset=True)
    params = params_file.parse_params(params.model_dump() | {"ablate": own}, layout.params)

    def run(name: str, overrides: Overrides, env: Mapping[str, str], tiles: Path) -> Outcome:
        task_of = variant.with_options(task_run_name=name)
        outcome: Outcome = task_of(layout, params.ablate.shown, name, overrides, env, tiles)
        return outcome

    result = ablation.ablate(layout, params, run=run)
    create_markdown_artifact(result.page.read_text(), key="ablation", description="Each part switched in turn")
    create_markdown_artifact(preview(result.page.parent / "sheet.png"), key="ablation-sheet",
                             description="The same seeds of every variant")
    if result.failed:
        raise MeddiffError("ablate", f"{len(result.failed)} variants failed: {', '.join(result.failed)}",
                           "The table has their errors; what is finished is kept")


def preview(sheet: Path) -> str:
    """Markdown: the contact sheet, small enough for a page."""
    with Image.open(sheet) as whole:
        shown = whole.convert("RGB")
    shown.thumbnail((WIDEST, 100 * WIDEST))
    stream = io.BytesIO()
    shown.save(stream, "JPEG", quality=85)
    return f"![Contact sheet]({data_uri(stream.getvalue(), 'jpeg')})\n\nIn full: `{sheet}`"
