"""Flow `promote`: the gate of `meddiff promote`, with the name of the person who asks, and its decision as an artifact."""

from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State
from pydantic import Field

from meddiff.delivery import promote as gate
from meddiff.environment import quiet
from meddiff.errors import redacted
from meddiff.layout import Layout
from meddiff.params.file import load_params
from meddiff.services.tracking import GENERATOR, SEGMENTER, registered_name

Words = Annotated[str, Field(min_length=1, pattern=r"\S")]


@flow(name="promote", persist_result=False)
def promote(person: Words, reason: Words, model: Literal["segmenter", "generator"] = "segmenter", version: str = "",
            evidence: str = "", rollback: bool = False) -> State[Any]:
    """Make a registered model the champion if its gate (`promote.*` of params.yaml) holds; refused, the run fails as `Refused`.

    Args:
        person: who asks; stands in the audit log.
        reason: why; stands there, too.
        model: of which kind.
        version: number in the registry; empty for the newest.
        evidence: id of the run to judge by, in the place of the one that the version was judged by before; usually empty.
        rollback: make the previous champion the champion again, and look at nothing else.
    """
    quiet()
    layout = Layout(Path.cwd())
    params, kind = load_params(layout.params), SEGMENTER if model == "segmenter" else GENERATOR
    decision = (gate.rollback(layout, params, kind, person, reason) if rollback else
                gate.promote(layout, params, version or None, kind, evidence, person, reason))
    text = decision.verdict(registered_name(params, kind))
    create_markdown_artifact(redacted("\n".join([f"**{text}**", "", f"Asked for by {person}: {reason}", "",
                                                 *(f"- {line}" for line in decision.reasons)])),
                             key="promotion", description="What the gate said, rule by rule")
    for line in decision.reasons:
        get_run_logger().info(line)
    return Completed(message=text) if decision.passed else Failed(name="Refused", message=text)
