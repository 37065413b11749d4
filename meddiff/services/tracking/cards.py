"""What the pages of registered models show: the numbers that were measured with them, by data set, a description, and tags."""

import re
import time
from collections.abc import Mapping
from typing import Any

from meddiff.params import Params
from meddiff.services.tracking.models import GENERATOR, KINDS_OF_MODELS
from meddiff.services.tracking.runs import Run, data_words
from meddiff.services.tracking.server import answering, is_absent

_TAGGED = ("dice_synthetic", "dice_combined", "gain", "acceptance", "copies")  # of a version, and of the execution's run


def show_numbers(own: Run, whole: Run, models: Mapping[str, str], values: Mapping[str, float], dataset: Any) -> None:
    """Link a stage's numbers to the models that its execution registered or used, and to the data that they were measured on.

    Args:
        own: the stage's run, whose inputs the models become.
        whole: the execution's, which gets the few that a person looks for as tags.
        models: tag of a kind of model -> NAME/VERSION.
        values: the numbers.
        dataset: MLflow's `Dataset` that the stage noted last, None without any.
    """
    from mlflow.entities import LoggedModelInput, Metric

    now, client = int(time.time() * 1000), own.server.client
    about = {"dataset_name": dataset.name, "dataset_digest": dataset.digest} if dataset else {}
    tags = {name: f"{values[name]:.4g}" for name in _TAGGED if name in values}
    whole.tags(tags)
    for kind in KINDS_OF_MODELS:
        version = _registered_version(own, models.get(kind.tag, "")) if values else None
        if version is None:
            continue
        with answering(own.server.uri):
            for key, value in tags.items() if kind == GENERATOR else ():
                client.set_model_version_tag(version.name, version.version, key, value)
            model = logged_model(version.source)
            if model:
                client.log_inputs(own.id, models=[LoggedModelInput(model)])
                client.log_batch(own.id, metrics=[Metric(key, value, now, 0, model_id=model, run_id=own.id, **about)
                                                  for key, value in values.items()])


def describe_generator(whole: Run, params: Params, version: str) -> None:
    """Write the card of a generator, with what its execution has measured so far, as the version's description.

    Args:
        whole: the execution's run.
        version: NAME/VERSION.
    """
    registered = _registered_version(whole, version)
    if registered is None:
        return
    client, settings, name, number = whole.server.client, params.finetune, registered.name, registered.version
    with answering(whole.server.uri):
        run = client.get_run(whole.id)
        numbers = run.data.metrics
        lines = [f"Paints lesions under invented masks into images of {data_words(params)}: fine-tuned (`{settings.mode}`, "
                 f"{settings.steps} steps) from the foundation `{params.foundation.source}`.", "",
                 "**Research use only. Its samples aren't anonymous:** they lie on images of patients, which travel with it.", "",
                 "| measured | |", "|---|---|"]
        lines += [f"| Dice of a segmenter, trained on {key.removeprefix('dice_')} | {value:.4f} |"
                  for key, value in sorted(numbers.items()) if key.startswith("dice_")]
        if "gain" in numbers:
            gain, lower, upper = (100 * numbers[key] for key in ("gain", "gain_lower", "gain_upper"))
            lines.append(f"| gain of the synthetic pairs, points | {gain:+.1f} ({lower:+.1f} to {upper:+.1f}) |")
        lines += [f"| {words} | {numbers[key]:.1%} |" for key, words in (
            ("acceptance", "samples that the filter accepts"), ("copies", "near-copies among all samples")) if key in numbers]
        lines += ["", f"Commit {run.data.tags.get('mlflow.source.git.commit', 'unknown')[:12]}, run `{run.info.run_name}` "
                  f"({whole.id}). Of whom it learned: `meddiff lineage models:/{version}`."]
        client.update_model_version(name, number, "\n".join(lines)[:5000])
        client.set_model_version_tag(name, number, "data", data_words(params))


def logged_model(source: str | None) -> str:
    """Id of the logged model that a version was registered from; MLflow's database keeps it in the source alone. Else empty."""
    match = re.fullmatch("models:/(m-[0-9a-f]+)", source or "")
    return match[1] if match else ""


def _registered_version(run: Run, id: str) -> Any:
    """A version by NAME/VERSION; None where there is none (any more): somebody may have deleted it."""
    name, _, number = id.rpartition("/")
    with answering(run.server.uri):
        from mlflow.exceptions import MlflowException

        try:
            return run.server.client.get_model_version(name, number) if name else None
        except MlflowException as e:
            if is_absent(e):
                return None
            raise
