"""How MLflow's page opens on the experiment: on its training runs, with the columns by which runs are compared."""

import json
from contextlib import suppress
from typing import Any

_KEY = "meddiff"
_COLUMNS = ("dice_real", "dice_synthetic", "dice_combined", "gain", "gain_lower", "acceptance", "segmenter_dice")
VIEW_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else the page of traces opens
    f"mlflow.sharedViewState.{_KEY}": json.dumps({
        "orderByKey": "attributes.start_time", "orderByAsc": False,
        "selectedColumns": [*(f"metrics.`{name}`" for name in _COLUMNS), "attributes.`Duration`", "attributes.`Dataset`",
                            "params.`prepare.n_labelled`", "params.`prepare.size`"]}),
}


def show_columns(client: Any, experiment: Any) -> None:
    """Give an experiment the tags that its page reads, where they differ; who may only read leaves that to others."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):
        for name, value in VIEW_TAGS.items():
            if experiment.tags.get(name) != value:
                client.set_experiment_tag(experiment.experiment_id, name, value)


def runs_page(address: str, experiment: str) -> str:
    """The page of an experiment's runs at the address of MLflow's server."""
    return f"{address.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={_KEY}"
