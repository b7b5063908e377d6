"""Checks of a release gate, one by one, and the policy around them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon import registry
from andon.core.clocks import HOUR_US
from andon.core.errors import InvalidInput, NotFound
from andon.core.verdicts import Answer, Judged, Verdict, gate_answer
from andon.gates import DEFAULT_POLICY, BeatsBaseline, Ceiling, GateEvidence, GatePolicy, NotWorse, Rule, judge, policy_at, register_policy
from andon.store import Store
from tests.conftest import ANA, START_US


def evidence(bias: float = 0.0, *, days: int = 28, champion: float | None = 0.0, baseline: float | None = 30.0) -> GateEvidence:
    rng = np.random.default_rng(1)
    n = days * 24
    label = 100 + rng.normal(0, 10, n)
    truth = np.full(n, 100.0)
    weekend = (np.arange(n) // 24 % 7 >= 5).astype(float)
    return GateEvidence(
        subject="release:bikes",
        event_us=START_US + np.arange(n) * HOUR_US,
        inputs={"weekend": weekend, "city": np.array(["dc"] * n, dtype=object)},
        label=label,
        prediction=truth + bias * weekend if bias else truth,
        champion=None if champion is None else truth + champion,
        champion_name="release:bikes@1",
        baseline=None if baseline is None else truth + rng.normal(0, baseline, n),
        baseline_name="last week",
    )


def test_a_ceiling_is_decided_by_its_interval() -> None:
    assert Ceiling(metric="mae", at_most=9.0).run(evidence()).status == "pass"
    assert Ceiling(metric="mae", at_most=7.0).run(evidence()).status == "fail"
    assert Ceiling(metric="mae", at_most=7.96).run(evidence()).status == "undecided"


def test_beating_the_baseline_is_a_share_of_its_loss() -> None:
    verdict = BeatsBaseline(metric="mae").run(evidence())
    assert verdict.status == "pass"
    assert verdict.value == pytest.approx(0.31, abs=0.05)
    assert verdict.interval is not None
    assert verdict.interval.high is not None
    assert verdict.interval.high < 1
    assert "last week has" in verdict.message
    assert BeatsBaseline(metric="mae").run(evidence(baseline=None)).status == "undecided"


def test_not_worse_passes_an_equal_and_refuses_a_worse_candidate() -> None:
    assert NotWorse(metric="mae").run(evidence()).status == "pass"
    worse = msgspec.structs.replace(NotWorse(metric="mae"), margin=0.02).run(evidence(bias=20.0))
    assert worse.status == "fail"
    assert worse.threshold == 1.02
    assert NotWorse(metric="mae").run(evidence(champion=None)).status == "pass"


def test_a_loss_on_one_slice_fails_even_when_the_whole_is_fine() -> None:
    found = evidence(bias=6.0, champion=4.5)
    plain, sliced = NotWorse(metric="mae", margin=0.05), NotWorse(metric="mae", margin=0.05, slices=("weekend", "city"))
    assert plain.run(found).status == "pass"
    verdict = sliced.run(found)
    assert verdict.status == "fail"
    assert verdict.slices[0].slice == "weekend = 1.0"
    assert verdict.slices[0].status == "fail"


def test_it_says_the_smallest_difference_it_would_have_seen() -> None:
    table = NotWorse(metric="mae").run(evidence()).evidence[0]
    seen = dict(zip(table.columns, table.rows[0], strict=True))
    assert seen["blocks"] == 28
    assert float(seen["smallest difference it would have seen"]) >= 0


def test_few_or_missing_labels_are_undecided() -> None:
    found = evidence(days=1)
    assert BeatsBaseline(metric="mae").run(found).status == "undecided"
    nothing = np.full(28 * 24, np.nan)
    for check in (Ceiling(metric="mae", at_most=1.0), BeatsBaseline(metric="mae"), NotWorse(metric="mae")):
        full = evidence()
        blank = GateEvidence(**{**{f: getattr(full, f) for f in full.__dataclass_fields__}, "label": nothing})
        verdict = check.run(blank)
        assert (verdict.status, verdict.n) == ("undecided", 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True, width=32), st.just(0.0)), min_size=1, max_size=400),
    st.sampled_from(["mae", "mse", "error-rate", "brier", "log-loss"]),
)
def test_whatever_is_predicted_a_check_answers(values: list[float], metric: str) -> None:
    n = len(values)
    given_ = GateEvidence(
        subject="release:x",
        event_us=START_US + np.arange(n) * HOUR_US,
        inputs={"a": np.array(values, dtype=float)},
        label=np.ones(n),
        prediction=np.array(values, dtype=float),
        champion=np.zeros(n),
        baseline=np.zeros(n),
    )
    for check in (Ceiling(metric=metric, at_most=1.0), BeatsBaseline(metric=metric), NotWorse(metric=metric, slices=("a",))):
        assert check.run(given_).status in ("pass", "warn", "fail", "undecided")


def test_unknown_metrics_are_named() -> None:
    with pytest.raises(InvalidInput, match="there are mae"):
        Ceiling(metric="mea", at_most=1.0).run(evidence())


def _judged(status: str, blocks: bool = True, waived: bool = False) -> Judged:
    return Judged(Verdict(subject="model:m@1", check="c", status=status, message=""), blocks, waived)  # type: ignore[arg-type]


def test_the_gates_answer() -> None:
    assert gate_answer([_judged("pass"), _judged("warn")]) is Answer.GO
    assert gate_answer([_judged("undecided"), _judged("fail")]) is Answer.NO
    assert gate_answer([_judged("pass"), _judged("undecided")]) is Answer.UNDECIDED
    assert gate_answer([_judged("fail", blocks=False), _judged("fail", waived=True)]) is Answer.GO


def test_policies_are_registered_and_read_back(store: Store) -> None:
    policy = GatePolicy((Rule(Ceiling(metric="mae", at_most=30.0)), Rule(NotWorse(metric="mae", slices=("hr",)), blocks=False)))
    register_policy(store, "gate/strict", policy, actor=ANA)
    version, read = policy_at(store, "policy:gate/strict", actor=ANA)
    assert read == policy
    assert str(version.address) == "policy:gate/strict@1"
    assert [item.blocks for item in judge(read, evidence())] == [True, False]
    assert policy_at(store, "policy:gate/default", actor=ANA)[1] == DEFAULT_POLICY
    with pytest.raises(NotFound):
        policy_at(store, "policy:gate/nope", actor=ANA)


def test_a_policy_with_two_checks_of_one_name_or_none_is_refused(store: Store) -> None:
    with pytest.raises(InvalidInput):
        register_policy(store, "gate/x", GatePolicy((Rule(NotWorse(metric="mae")), Rule(NotWorse(metric="mae")))), actor=ANA)
    with pytest.raises(InvalidInput):
        register_policy(store, "gate/x", GatePolicy(()), actor=ANA)
    registry.register(store, "policy", "gate/odd", {"rules": [{"check": {"type": "no-such"}}]}, actor=ANA)
    with pytest.raises(InvalidInput, match="not a gate"):
        policy_at(store, "policy:gate/odd", actor=ANA)
