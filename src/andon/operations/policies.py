"""Policies as people write them: what a gate checks, when a monitor speaks up, what the incident controller may do by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from andon import registry
from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.errors import InvalidInput
from andon.operations.session import current_store
from andon.store import Store

KINDS = ("gate/", "monitor/", "incident/", "retention/", "logging/", "serving/", "rollout/")


def register_policy(
    name: str, policy: Mapping[str, Any], *, why: str = "", store: Store | None = None, actor: Actor | None = None
) -> registry.Version:
    """Register ``policy:NAME`` from plain data. The name says what it is: ``gate/NAME``, ``monitor/SERVICE``,
    ``incident/SERVICE``, ``retention/NAME``, ``logging/SERVICE`` or ``rollout/SERVICE``.

    A gate is ``{"rules": [{"check": {"type": "ceiling", "metric": "mae", "at_most": 30}, "blocks": true}, …]}``. Raises ``InvalidInput``
    naming the field; nothing is registered then.
    """
    store, actor = store or current_store(), actor or current_actor()
    at = Address.parse(name, kind="policy")
    record = _record(at.name)
    try:
        read = msgspec.convert(dict(policy), record)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"this is not a {at.name.partition('/')[0]} policy: {error}", field="policy") from None
    from andon import gates

    if isinstance(read, gates.GatePolicy):
        return gates.register_policy(store, at.name, read, actor=actor, reason=why)
    if at.name.startswith("retention/"):
        from andon.tracking.retention import check_policy

        check_policy(read)
    if at.name.startswith("logging/"):
        from andon.logs.policies import check_policy as check_logging

        check_logging(read)
    if at.name.startswith("serving/"):
        from andon.autoscaling import check_policy as check_serving

        check_serving(read)
    if at.name.startswith("rollout/"):
        from andon.rollouts.policies import check_rollout_policy

        check_rollout_policy(read)
    return registry.register(store, "policy", at.name, read, actor=actor, reason=why)


def _record(name: str) -> Any:
    if name.startswith("gate/"):
        from andon.gates import GatePolicy

        return GatePolicy
    if name.startswith("monitor/"):
        from andon.monitoring import Policy

        return Policy
    if name.startswith("incident/"):
        from andon.incidents import IncidentPolicy

        return IncidentPolicy
    if name.startswith("retention/"):
        from andon.tracking.retention import RetentionPolicy

        return RetentionPolicy
    if name.startswith("logging/"):
        from andon.logs.policies import LoggingPolicy

        return LoggingPolicy
    if name.startswith("rollout/"):
        from andon.rollouts import RolloutPolicy

        return RolloutPolicy
    if name.startswith("serving/"):
        from andon.autoscaling import ServingPolicy

        return ServingPolicy
    raise InvalidInput(f"a policy's name starts with {', '.join(KINDS)}", field="name", got=name)
