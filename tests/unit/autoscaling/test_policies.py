"""The policy, and the record of decisions."""

from __future__ import annotations

import msgspec
import pytest

from andon.autoscaling import (
    Decision,
    Load,
    Observation,
    ScalingState,
    ServingPolicy,
    bounded,
    decide,
    policy_of,
    register_serving_policy,
    worth_recording,
)
from andon.core.errors import InvalidInput
from andon.store import Store
from tests.conftest import ANA


def test_a_policy_is_registered_and_found_again(store: Store) -> None:
    assert policy_of(store, "bikes") is None
    policy = ServingPolicy(min_replicas=0, max_replicas=3, idle_s=5.0)
    register_serving_policy(store, "bikes", policy, actor=ANA)
    assert policy_of(store, "bikes") == policy
    assert bounded(policy, None) is policy
    assert bounded(policy, (1, 2)) == msgspec.structs.replace(policy, min_replicas=1, max_replicas=2)


def test_bounds_the_wrong_way_round_are_refused_by_name(store: Store) -> None:
    with pytest.raises(InvalidInput) as refused:
        register_serving_policy(store, "bikes", ServingPolicy(min_replicas=3, max_replicas=2), actor=ANA)
    assert refused.value.fields["field"] == "min_replicas"
    assert policy_of(store, "bikes") is None


def _decision(seen: Observation, wanted: int = 1) -> Decision:
    return decide(ServingPolicy(max_replicas=2, up_window_s=0.0), ScalingState(wanted=wanted), seen, 0.0)[0]


def test_every_change_is_recorded_and_each_reason_to_do_nothing_once() -> None:
    said: dict[str, int] = {}
    steady = _decision(Observation(loads=(Load(busy=0.5),)))
    blind = _decision(Observation())
    up = _decision(Observation(loads=(Load(busy=1.0),)))
    assert (steady.cause, blind.cause, up.action) == ("steady", "blind", "up")
    assert worth_recording(said, steady, 0)
    assert not worth_recording(said, steady, 10**12)
    assert worth_recording(said, blind, 1)
    assert not worth_recording(said, blind, 2)
    assert worth_recording(said, blind, 61_000_000)  # it should not last, so it is said again each minute
    assert worth_recording(said, up, 61_000_001)
    assert worth_recording(said, up, 61_000_002)
    assert worth_recording(said, steady, 61_000_003)
