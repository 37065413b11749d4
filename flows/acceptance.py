"""The share of accepted pairs as an event in Prefect, by which rules act when it falls (see `automations`)."""

from statistics import median

from prefect import get_run_logger
from prefect.events import emit_event
from prefect.runtime import flow_run

from flows.automations import FELL, MEASURED
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.samples import read_records
from meddiff.params.file import load_params
from meddiff.services import tracking

BEFORE, LEAST = 5, 2  # runs that it is compared with, and how many there must be


def tell_acceptance(tree: Layout) -> None:
    """Emit this run's acceptance, and whether it has fallen: clearly below that of earlier runs on the same dataset."""
    records, params = read_records(tree.synthetic, tree.filtered), load_params(tree.params)
    rate = len(records.accepted) / len(records.samples) if len(records.samples) else 0.0
    try:
        before = tracking.past_metrics(tree, params, "acceptance", BEFORE, str(flow_run.id))
    except MeddiffError as e:
        get_run_logger().warning("The acceptance isn't compared with earlier runs: %s", e)
        before = ()
    text = f"{rate:.0%} of the pairs of {flow_run.name} are accepted"
    fell = len(before) >= LEAST and rate < median(before) * (1 - params.platform.acceptance_drop)
    if before:
        text += f"; in the {len(before)} runs before on this dataset {median(before):.0%} (median)"
    (get_run_logger().warning if fell else get_run_logger().info)(text)
    emit_event(FELL if fell else MEASURED, payload={"acceptance": rate, "before": list(before), "text": text},
               resource={"prefect.resource.id": f"meddiff.acceptance.{params.prepare.dataset}"},
               related=[{"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}])
