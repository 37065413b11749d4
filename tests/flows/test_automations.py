"""Which rules there are, whom they concern, and that a deployment makes each once and leaves what a person has paused."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from flows import automations
from meddiff.params import Params, PlatformParams

DEPLOYMENTS = {"pipeline/pipeline": UUID(int=1), "tune/tune": UUID(int=2)}
ALWAYS = {automations.LOST, automations.CANCELLED}


def test_settings_switch_rules_on() -> None:
    assert {rule.name for rule in automations.rules(DEPLOYMENTS, PlatformParams(), None)} == ALWAYS
    made = automations.rules(DEPLOYMENTS, Params.model_validate({"platform": {"retune": True}}).platform, UUID(int=3))
    assert {rule.name for rule in made} == set(automations.NAMES)
    (retune,) = [rule for rule in made if rule.name == automations.RETUNE]
    assert retune.actions[0].deployment_id == DEPLOYMENTS["tune/tune"]
    assert retune.trigger.expect == {automations.FELL}


def test_silence_counts_for_runs_of_these_deployments_alone() -> None:
    settings = Params.model_validate({"platform": {"silent_seconds": 77}}).platform
    for rule in automations.rules(DEPLOYMENTS, settings, None):
        assert rule.trigger.within.total_seconds() == 77
        ids = rule.trigger.match_related.model_dump()["prefect.resource.id"]
        assert ids == [f"prefect.deployment.{id}" for id in DEPLOYMENTS.values()]
        assert rule.trigger.for_each == {"prefect.resource.id"}


class Client:
    """The part of Prefect's client that `ship` uses."""

    def __init__(self) -> None:
        self.made: dict[UUID, Any] = {}

    def read_automations_by_name(self, name: str) -> list[Any]:
        return [SimpleNamespace(id=id, enabled=rule.enabled) for id, rule in self.made.items() if rule.name == name]

    def create_automation(self, rule: Any) -> None:
        self.made[uuid4()] = rule

    def update_automation(self, id: UUID, rule: Any) -> None:
        self.made[id] = rule

    def delete_automation(self, id: UUID) -> None:
        del self.made[id]


def test_a_second_deployment_changes_nothing_but_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDDIFF_NOTIFY_URL", raising=False)
    client: Any = Client()
    with_search = Params.model_validate({"platform": {"retune": True}}).platform
    automations.ship(client, DEPLOYMENTS, with_search)
    first = dict(client.made)
    assert {rule.name for rule in first.values()} == ALWAYS | {automations.RETUNE}
    paused = next(id for id, rule in first.items() if rule.name == automations.LOST)
    client.made[paused] = first[paused].model_copy(update={"enabled": False})
    client.made[uuid4()] = first[paused].model_copy(update={"name": "of somebody else"})
    automations.ship(client, DEPLOYMENTS, with_search)
    assert set(first) < set(client.made)
    assert not client.made[paused].enabled
    automations.ship(client, DEPLOYMENTS, PlatformParams())
    assert {rule.name for rule in client.made.values()} == ALWAYS | {"of somebody else"}
