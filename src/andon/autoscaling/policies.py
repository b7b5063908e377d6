"""``policy:serving/SERVICE``: registered and versioned like every policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from andon.autoscaling.records import ServingPolicy
from andon.core.errors import InvalidInput, NotFound
from andon.store import Store

if TYPE_CHECKING:
    from andon import registry

POLICY_PREFIX = "serving/"


def policy_of(store: Store, service: str) -> ServingPolicy | None:
    """The newest ``policy:serving/SERVICE``; None when nobody has registered one."""
    from andon import registry  # a supervisor that reads no policy does without

    try:
        version = registry.get(store, f"policy:{POLICY_PREFIX}{service}")
    except NotFound:
        return None
    return registry.manifest_of(version, ServingPolicy)


def bounded(policy: ServingPolicy, bounds: tuple[int, int] | None) -> ServingPolicy:
    """The policy with other bounds, if some are given."""
    return policy if bounds is None else msgspec.structs.replace(policy, min_replicas=bounds[0], max_replicas=bounds[1])


def register_serving_policy(store: Store, service: str, policy: ServingPolicy, **who: Any) -> registry.Version:
    """Register ``policy:serving/SERVICE``; takes ``actor`` and ``reason``. Raises ``InvalidInput``."""
    from andon import registry

    check_policy(policy)
    return registry.register(store, "policy", f"{POLICY_PREFIX}{service}", policy, **who)


def check_policy(policy: ServingPolicy) -> None:
    """Raises ``InvalidInput`` when the bounds are the wrong way round."""
    if policy.min_replicas > policy.max_replicas:
        raise InvalidInput(
            f"there cannot be at least {policy.min_replicas} and at most {policy.max_replicas} replicas",
            field="min_replicas",
            got=policy.min_replicas,
        )
