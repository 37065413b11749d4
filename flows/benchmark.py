"""Flow `benchmark`: the benchmark of `meddiff benchmark`, each cell as a task, its gains as an artifact."""

from collections.abc import Mapping
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from meddiff import params as settings
from meddiff.environment import quiet
from meddiff.errors import MeddiffError
from meddiff.experiments.benchmark import benchmark as benchmarking
from meddiff.experiments.benchmark.cells import Cell, run_cell
from meddiff.layout import Layout
from meddiff.params import file as params_file

NOTHING = settings.BenchmarkParams()


@task(name="cell", cache_policy=NO_CACHE, persist_result=False)
def cell_task(layout: Layout, cell: Cell, env: Mapping[str, str], out: Path) -> None:
    """Run one cell of the benchmark."""
    run_cell(layout, cell, env, out)
    get_run_logger().info("%s is finished", cell.name)


@flow(name="benchmark", persist_result=False)
def benchmark(benchmark: settings.BenchmarkParams = NOTHING) -> None:
    """Run the pipeline on every dataset, label budget and seed, and test the gains.

    Started again after an interrupt or a failure, it goes on with what isn't finished. Cells run one after the other,
    each stage's units of work where `compute.cluster` says.
    """
    quiet()
    layout = Layout(Path.cwd())
    params = params_file.load_params(layout.params)
    own = params.benchmark.model_dump() | benchmark.model_dump(exclude_unset=True)
    params = params_file.parse_params(params.model_dump() | {"benchmark": own}, layout.params)

    def run(cell: Cell, env: Mapping[str, str], out: Path) -> None:
        cell_task.with_options(task_run_name=cell.name)(layout, cell, env, out)

    result = benchmarking.benchmark(layout, params, run)
    columns = ["dataset", "budget", "arm", "against", "mean", "lower", "upper", "p_holm", "cases", "seeds"]
    create_table_artifact(result.gains[columns].round(4).to_dict("records"), key="benchmark-gains",
                          description=f"Differences of test Dice; the page: `{result.page}`")
    if result.missing:
        raise MeddiffError("benchmark", f"{len(result.missing)} cells are missing: {result.missing[0]}",
                           "The page names them all; what is finished is kept")
