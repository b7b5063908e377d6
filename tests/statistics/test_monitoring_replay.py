"""Faults, releases and seasons replayed offline, on the bikes of Washington and on a made-up city: a quick part of the bench's table."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from andon.core.clocks import DAY_US
from andon.monitoring import Policy

pytest.importorskip("sklearn")
threadpool_limits = pytest.importorskip("threadpoolctl").threadpool_limits
TREES = 50


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    path = Path(__file__).parents[2] / "bench" / "monitoring_replay.py"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("monitoring_replay", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["monitoring_replay"] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    with threadpool_limits(1):  # two boosters on two cores wait for each other more than they work
        yield module


@pytest.fixture(scope="module", params=[("washington", 4, 3), ("elsewhere", 2, 5)], ids=["washington", "elsewhere"])
def service(bench: ModuleType, request: pytest.FixtureRequest) -> Any:
    """Retrained every 28 days, boosters of 50 trees. Washington: from its first live day + 4, seed 3; the made-up city: + 2, seed 5."""
    name, offset, seed = request.param
    city = bench.bikes() if name == "washington" else bench.elsewhere(seed)
    return bench.retrained(city, offset_days=offset, seed=seed, policy=Policy(), trees=TREES)


def test_a_retrained_service_is_left_in_peace(bench: ModuleType, service: Any) -> None:
    """Seeds 3 and 5, a year and more, retrained every 28 days: at most one alarm a quarter, and at most one rollback."""
    outcome, weeks = bench.run_clean(service)
    assert weeks >= 52
    assert len(outcome.causes) <= weeks / 13
    assert len(outcome.rollbacks) <= 1


def test_bad_releases_are_rolled_back(bench: ModuleType, service: Any) -> None:
    """Seeds 3 and 5, six broken transforms in each of two terms: of those that cost 40 % or more (at least four) all but one are rolled
    back within 16 days, and none is rolled back twice."""
    harmful = caught = 0
    for term, day in ((2, 8), (7, 11)):
        for name, transform in bench.bad_transforms(service.city).items():
            outcome, start, ratio = bench.run_bad_release(service, term, day, transform)
            if ratio >= 1.4:
                harmful += 1
                caught += bool(outcome.rollbacks) and (outcome.rollbacks[0][0] - start) <= 16 * DAY_US
            assert len(outcome.rollbacks) <= 1, name
    assert harmful >= 4
    assert caught >= harmful - 1


def test_broken_inputs_are_blamed_and_nothing_is_rolled_back(bench: ModuleType, service: Any) -> None:
    """Seeds 3 and 5, fifteen faults in each of two terms, ten days each: 85 % are named, and at most 5 % cause a rollback."""
    total = named = wrong = 0
    for term, day in ((3, 9), (9, 12)):
        for feature, spoil in bench.upstream_faults(service.city).values():
            outcome, start, _ = bench.run_upstream(service, term, day, spoil, days=10)
            total += 1
            named += any(f.cause == "upstream" and feature in f.suspects and when > start for when, f in outcome.incidents)
            wrong += bool(outcome.rollbacks)
    assert named >= 0.85 * total
    assert wrong <= 0.05 * total


def test_a_changing_world_asks_for_a_retrain(bench: ModuleType) -> None:
    """Washington from its first live day + 21, seed 5, never retrained, 120 days: the world is named first, nothing is rolled back."""
    outcome, _ = bench.run_world(bench.bikes(), 21, 5, Policy(), days=120, trees=TREES)
    assert [cause for _, cause, _ in outcome.causes][:1] == ["world"]
    assert outcome.rollbacks == []
