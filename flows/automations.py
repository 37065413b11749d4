"""What Prefect does by itself on what happens: the rules of `platform.*`, made by the deployment and kept up to date by it.

A rule that is paused in Prefect stays paused; one that the settings switch off is removed. Rules of others stay as they are.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from meddiff.params import PlatformParams

MEASURED, FELL = "meddiff.acceptance.measured", "meddiff.acceptance.fell"  # events, of `acceptance`
NAMES = LOST, CANCELLED, FAILED, FALLEN, RETUNE = tuple(f"meddiff: {what}" for what in (
    "a run without a sign of life has crashed", "a cancelled run ends", "tell of failures", "tell of a fallen acceptance",
    "search when the acceptance fell"))
BLOCK = "meddiff-notify"
ALIVE = "prefect.flow-run.heartbeat"
_ENDS = {f"prefect.flow-run.{state}" for state in (
    "Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Paused", "Suspended", "Scheduled", "AwaitingRetry")}


def ship(client: SyncPrefectClient, deployments: Mapping[str, UUID], settings: PlatformParams) -> None:
    """Make the rules, or bring them up to date.

    Args:
        client: of the server.
        deployments: name -> id of those that the rules concern; `tune/tune` is among them.
        settings: which rules there are; MEDDIFF_NOTIFY_URL in the environment switches the two that tell on.
    """
    address = os.environ.get("MEDDIFF_NOTIFY_URL", "")
    wanted = {rule.name: rule for rule in rules(deployments, settings, _notifier(address) if address else None)}
    for name in NAMES:
        there, *doubled = client.read_automations_by_name(name) or [None]
        for other in [*doubled, *([there] if there and name not in wanted else [])]:
            client.delete_automation(other.id)
        if name not in wanted:
            continue
        if there is None:
            client.create_automation(wanted[name])
        else:
            client.update_automation(there.id, wanted[name].model_copy(update={"enabled": there.enabled}))


def rules(deployments: Mapping[str, UUID], settings: PlatformParams, notifier: UUID | None) -> list[AutomationCore]:
    """The rules that the settings ask for.

    Args:
        deployments, settings: see `ship`.
        notifier: id of the block that tells people, None without.
    """
    ours = {"prefect.resource.role": "deployment",
            "prefect.resource.id": [f"prefect.deployment.{id}" for id in deployments.values()]}
    run = {"prefect.resource.id": "prefect.flow-run.*"}

    def silence(after: str, expect: set[str], seconds: float) -> EventTrigger:
        return EventTrigger(after={after}, expect=expect, match=run, match_related=ours, for_each={"prefect.resource.id"},
                            posture=Posture.Proactive, threshold=1, within=timedelta(seconds=seconds))

    message = f"No sign of life for {settings.silent_seconds} s: its process or machine is gone. Retry goes on where it stopped."
    made = [
        _rule(LOST, silence(ALIVE, {ALIVE, *_ENDS}, settings.silent_seconds),
              ChangeFlowRunState(state=StateType.CRASHED, message=message)),
        _rule(CANCELLED, silence("prefect.flow-run.Cancelling", _ENDS, settings.silent_seconds),  # which can become nothing else
              ChangeFlowRunState(state=StateType.CANCELLED, message="Its process was gone before it could be cancelled."))]
    fell = EventTrigger(expect={FELL}, posture=Posture.Reactive, threshold=1)
    if notifier:
        failed = EventTrigger(expect={f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}, match=run,
                              match_related=ours, posture=Posture.Reactive, threshold=1)
        about = "meddiff: {{ flow.name }} {{ flow_run.name }} is {{ flow_run.state.name }}"
        made += [_rule(FAILED, failed, SendNotification(block_document_id=notifier, subject=about,
                                                        body="{{ flow_run.state.message }}\n{{ flow_run | ui_url }}")),
                 _rule(FALLEN, fell, SendNotification(block_document_id=notifier, subject="meddiff: fewer pairs are accepted",
                                                      body="{{ event.payload.text }}"))]
    if settings.retune:
        made.append(_rule(RETUNE, fell, RunDeployment(source="selected", deployment_id=deployments["tune/tune"])))
    return made


def _rule(name: str, trigger: EventTrigger, action: Any) -> AutomationCore:
    return AutomationCore(name=name, description="Made by meddiff's deployment.", enabled=True, trigger=trigger, actions=[action])


def _notifier(address: str) -> UUID:
    """The block that posts `{"text": …}` to a webhook, as Slack, Teams, Mattermost and others take it."""
    block = CustomWebhookNotificationBlock(name="meddiff", url="{{ address }}", json_data={"text": "{{ subject }}\n{{ body }}"},
                                           secrets={"address": address})
    id: UUID = block.save(BLOCK, overwrite=True)
    return id
