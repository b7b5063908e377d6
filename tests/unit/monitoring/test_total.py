"""Whatever comes in, a verdict comes out: nothing raises, no number is NaN, and the state survives a trip through JSON."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from andon.core.clocks import DAY_US, HOUR_US
from andon.core.verdicts import Verdict
from andon.incidents import TriageEvidence, triage
from andon.monitoring import (
    ComparisonState,
    Frame,
    InputsState,
    Policy,
    QualityState,
    Reference,
    concat,
    expectations,
    frame,
    judge_comparison,
    judge_drift,
    judge_inputs,
    judge_quality,
    judge_training_data,
    permutation_importance,
    profile,
    sound,
)

pytestmark = pytest.mark.filterwarnings("error")

numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32), st.integers(-3, 3))
texts = st.one_of(st.none(), st.sampled_from(["a", "b", ""]))


@st.composite
def frames(draw: st.DrawFn, most: int = 40) -> Frame:
    n = draw(st.integers(0, most))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    kind = draw(st.sampled_from(["mixed", "null", "constant"]))
    return frame(
        column(st.integers(0, 40 * 24).map(lambda hour: hour * HOUR_US)),
        {
            "x": column(numbers) if kind == "mixed" else [None if kind == "null" else 1.0] * n,
            "y": column(st.floats(0, 1)),
            "c": column(texts) if kind == "mixed" else [None if kind == "null" else "a"] * n,
        },
        prediction=column(numbers),
        label=column(numbers),
        release="release:s@1",
        source_us=column(st.integers(-1, 40 * 24).map(lambda hour: hour * HOUR_US if hour >= 0 else -1)),
    )


def finite(verdict: Verdict) -> None:
    def walk(value: Any) -> None:
        if isinstance(value, float):
            assert math.isfinite(value), verdict
        elif isinstance(value, dict):
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(msgspec.to_builtins(verdict))
    msgspec.json.encode(verdict)


def agrees(verdict: Verdict) -> None:
    """The light, the number beside its limit and the sentence say the same."""
    told, value, limit = verdict.message, verdict.value, verdict.threshold
    assert "T00:00:00Z" not in told
    assert "nan" not in told
    if verdict.status == "undecided":
        assert value is None
    elif verdict.check == "live-quality":
        assert (verdict.status != "pass") == (value > limit) == ("harmed" in told)
    elif verdict.check == "drift":
        assert (verdict.status == "warn") == (value >= limit and bool(verdict.slices)) == told.startswith("drifted")
    elif verdict.check == "previous-release":
        assert verdict.status != "fail" or value <= limit
        assert ("no better" in told) == (value >= 1)
    elif verdict.check == "training-data":
        assert (verdict.status == "pass") == (told == "no broken day found")
    elif verdict.status == "pass":
        rare = verdict.unit.startswith("tail")
        beyond = verdict.check != "inputs/volume" and (value <= limit if rare else value > limit)
        assert told.startswith("nothing to act on; " if beyond else "nothing unusual")
    else:
        worst = next(one for one in verdict.slices if one.status == verdict.status and told.startswith(f"{one.slice}: "))
        assert verdict.unit.startswith("tail") or worst.value == value


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(frames(), frames(), st.booleans())
def test_every_check_answers_anything(training: Frame, served: Frame, long: bool) -> None:
    policy = Policy(min_labels=2, min_rows=2)
    if long:
        training = concat([training, _regular(40)])
    known = profile(training)
    reference = Reference(training, served)
    expected = expectations(reference, policy)
    quality, comparison, inputs = QualityState(), ComparisonState(), InputsState()
    verdicts: list[Verdict] = [
        judge_training_data(training, subject="s", policy=policy),
        judge_drift(known, training, {}, served, (0, 40 * DAY_US), subject="s", policy=policy),
    ]
    previous = np.where(np.isfinite(served.prediction), served.prediction * 2, np.nan)
    for day in range(0, 40, 10):
        window = (day * DAY_US, (day + 10) * DAY_US)
        some, inputs = judge_inputs(known, inputs, served, window, subject="s", policy=policy)
        one, quality = judge_quality(expected, quality, served, window, subject="s", release="release:s@1", policy=policy)
        two, comparison = judge_comparison(
            comparison, served, previous, window, subject="s", release="release:s@1", previous="release:s@0", policy=policy
        )
        verdicts += [*some, one, two]
    for verdict in verdicts:
        finite(verdict)
        agrees(verdict)
    assert msgspec.json.decode(msgspec.json.encode(quality), type=QualityState) == quality
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=ComparisonState) == comparison
    assert msgspec.json.decode(msgspec.json.encode(inputs), type=InputsState) == inputs
    finding = triage(
        TriageEvidence(
            subject="s",
            release="release:s@1",
            served=served,
            verdicts=tuple(verdicts),
            profile=known,
            expected=expected,
            quality=quality,
            comparison=comparison,
            policy=policy,
            predict=lambda columns: np.zeros(len(columns["y"])),
        )
    )
    msgspec.json.encode(finding)


def _regular(days: int) -> Frame:
    when = np.arange(days * 24, dtype=np.int64) * HOUR_US
    rng = np.random.default_rng(0)
    return frame(
        when,
        {"x": when // HOUR_US % 24, "y": rng.random(len(when)), "c": ["a", "b"] * (days * 12)},
        prediction=rng.random(len(when)),
        label=rng.random(len(when)),
        release="release:s@1",
    )


def test_the_same_events_give_the_same_verdicts_however_they_are_cut() -> None:
    """State carried through JSON between windows changes nothing."""
    served, policy = _regular(40), Policy()
    expected = expectations(Reference(_regular(30), _regular(30)), policy)
    straight, carried = QualityState(), QualityState()
    for day in range(30, 40):
        window = (day * DAY_US, (day + 1) * DAY_US)
        one, straight = judge_quality(expected, straight, served, window, subject="s", release="release:s@1", policy=policy)
        again = msgspec.json.decode(msgspec.json.encode(carried), type=QualityState)
        two, carried = judge_quality(
            expected, again, served.between(window[0] - 8 * DAY_US, window[1]), window, subject="s", release="release:s@1", policy=policy
        )
        assert one == two
    assert straight == carried


def test_a_window_is_judged_once() -> None:
    served, policy = _regular(40), Policy()
    expected = expectations(Reference(_regular(30), _regular(30)), policy)
    window = (30 * DAY_US, 31 * DAY_US)
    _, state = judge_quality(expected, QualityState(), served, window, subject="s", release="release:s@1", policy=policy)
    verdict, again = judge_quality(expected, state, served, window, subject="s", release="release:s@1", policy=policy)
    assert verdict.status == "undecided"
    assert again == state


def test_no_labels_is_undecided_not_fine() -> None:
    rows, policy = _regular(40), Policy()
    expected = expectations(Reference(rows, rows), policy)
    bare = Frame(rows.event_us, rows.inputs, rows.prediction, np.full(len(rows), np.nan), rows.release)
    verdict, _ = judge_quality(expected, QualityState(), bare, (0, DAY_US), subject="s", release="release:s@1", policy=policy)
    assert (verdict.status, verdict.value) == ("undecided", None)


def test_importance_ranks_what_the_model_uses() -> None:
    rows = _regular(20)
    rows = frame(rows.event_us, rows.inputs, label=3 * rows.inputs["y"] + 0.1 * rows.inputs["x"])
    found = permutation_importance(rows, lambda columns: 3 * columns["y"] + 0.05, seed=3)
    assert found["y"] > 0.2 > found["x"] == found["c"] == 0.0


def test_sound_of_nothing_is_nothing() -> None:
    kept, known = sound(frame([], {}), Policy())
    assert (len(kept), known.names) == (0, ())
