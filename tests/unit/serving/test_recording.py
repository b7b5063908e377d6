"""What a front writes down: the policy's sample, what it hides and how, and that nothing is written which could not be hidden."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.core.errors import InvalidInput
from andon.logs.policies import LoggingPolicy, check_policy, digest_of, hides_unit, redacted, sampled
from andon.operations.policies import register_policy
from andon.releases.splits import assign
from andon.serving import front as front_module
from andon.serving.batching import Work
from andon.serving.front import Front
from andon.serving.metrics import Metrics
from andon.serving.recording import Recorder, logging_key
from andon.store import Store
from tests.conftest import ANA
from tests.unit.serving.line import Line
from tests.unit.serving.splitting import a_split, exposures, holding, put_split, until, with_front

LOADED: Any = SimpleNamespace(address="release:bikes@1", digest="b3:0")
KEY = bytes(range(32))


def work(request_id: str, n: int = 1) -> Work:
    return Work(n, None, None, request_id, [1] * n, 1, "production", SimpleNamespace())  # type: ignore[arg-type]


def columns(n: int) -> dict[str, Any]:
    return {"x": np.arange(float(n)), "email": np.array([f"ana{at % 2}@example.org" for at in range(n)], dtype=object)}


def recorder(store: Store, **policy: Any) -> Recorder:
    made = Recorder(store.tables, "bikes", Metrics("bikes"))
    made.policy, made.key = LoggingPolicy(**policy), KEY
    return made


def logged(store: Store) -> list[dict[str, Any]]:
    return store.tables.query('select * from "predictions/bikes" order by request_id, row').to_pylist()


# --- the policy


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (LoggingPolicy(sample=1.5), "sample"),
        (LoggingPolicy(sample=float("nan")), "sample"),
        (LoggingPolicy(trace=-0.1), "trace"),
        (LoggingPolicy(redact={"email": "hash"}), "redact"),
        (LoggingPolicy(redact={"unit": "drop"}), "redact.unit"),
    ],
)
def test_a_policy_that_is_none(policy: LoggingPolicy, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_policy(policy)
    assert refused.value.fields["field"] == field


def test_a_policy_may_hash_units(store: Store) -> None:
    register_policy("logging/bikes", {"redact": {"unit": "hash", "input.email": "drop"}}, store=store, actor=ANA)


@pytest.mark.parametrize(
    ("redact", "key", "hidden"),
    [
        ({}, "user", False),
        ({"unit": "hash"}, None, True),
        ({"input.user": "hash"}, "user", True),
        ({"input.user": "drop"}, "user", True),
        ({"input.user": "hash"}, None, False),
        ({"input.user": "hash"}, "city", False),
    ],
)
def test_whose_units_are_hidden(redact: Any, key: str | None, hidden: bool) -> None:
    assert hides_unit(LoggingPolicy(redact=redact), key) is hidden


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_sample_holds_the_smaller(one: float, other: float) -> None:
    low, high = sorted((one, other))
    ids = [f"r-{at}" for at in range(50)]
    assert {id_ for id_ in ids if sampled(id_, low)} <= {id_ for id_ in ids if sampled(id_, high)}


def test_the_share_of_a_sample() -> None:
    n = sum(sampled(f"r-{at}", 0.3) for at in range(20_000))
    assert abs(n - 6_000) < 4 * (20_000 * 0.3 * 0.7) ** 0.5


# --- what is hidden


def test_equal_values_have_equal_digests_and_nulls_stay() -> None:
    values = np.array(["a", "b", "a", None], dtype=object)
    hidden = redacted(values, "hash", KEY).tolist()
    assert hidden[0] == hidden[2] == digest_of("a", KEY)
    assert hidden[0] != hidden[1]
    assert hidden[3] is None
    assert redacted(values, "hash", b"another").tolist()[0] != hidden[0]
    assert redacted(np.array([1.5, np.nan]), "hash", KEY).tolist()[1] is None
    assert redacted(values, "drop", b"").tolist() == [None] * 4


def test_columns_are_hidden_in_the_log(store: Store) -> None:
    made = recorder(store, redact={"input.email": "hash", "output.y": "drop", "input.nothing": "hash"})
    made.record(LOADED, [work("r-1", 3)], columns(3), {"y": np.ones(3)})
    rows = logged(store)
    assert [row["input.email"] for row in rows] == [digest_of(f"ana{at}@example.org", KEY) for at in (0, 1, 0)]
    assert [row["output.y"] for row in rows] == [None] * 3
    assert [row["input.x"] for row in rows] == [0, 1, 2]


def test_a_column_that_was_a_number_may_be_hashed_later(store: Store) -> None:
    recorder(store).record(LOADED, [work("r-1")], columns(1), {"y": np.ones(1)})
    made = recorder(store, redact={"input.x": "hash"})
    made.record(LOADED, [work("r-2")], columns(1), {"y": np.ones(1)})
    assert made.problem is None
    assert [str(row["input.x"]) for row in logged(store)] == ["0.0", digest_of("0.0", KEY)]


def test_a_sample_keeps_whole_requests(store: Store) -> None:
    made = recorder(store, sample=0.5)
    batch = [work(f"r-{at:03}", 1 + at % 3) for at in range(100)]
    n = sum(one.n for one in batch)
    made.record(LOADED, batch, columns(n), {"y": np.arange(float(n))})
    rows = logged(store)
    kept = {one.request_id: one.n for one in batch if sampled(one.request_id, 0.5)}
    assert 30 < len(kept) < 70
    assert {id_: sum(row["request_id"] == id_ for row in rows) for id_ in kept} == kept
    assert {row["request_id"] for row in rows} == set(kept)
    assert all(row["input.x"] == row["output.y"] for row in rows)
    assert made._metrics.log_unsampled_rows == n - len(rows)


def test_what_cannot_be_hashed_is_not_logged(store: Store) -> None:
    made = recorder(store, redact={"input.email": "hash"})
    made.key = b""
    made.record(LOADED, [work("r-1", 2)], columns(2), {"y": np.ones(2)})
    assert "predictions/bikes" not in store.tables.names()
    assert made._metrics.log_dropped_rows == 2
    assert made.problem is not None


def test_the_key_is_its_owners_alone_and_made_once(tmp_path: Path) -> None:
    key = logging_key(str(tmp_path))
    assert len(key) == 32
    assert logging_key(str(tmp_path)) == key
    [file] = (tmp_path / "secrets").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


# --- units of a split


def in_force(front: Front, policy: dict[str, Any]) -> bool:
    return front._recorder.policy == LoggingPolicy(**policy)


@pytest.mark.parametrize("redact", [{"unit": "hash"}, {"input.k": "drop"}])
def test_units_are_hashed_and_nobody_changes_arms(line: Line, redact: dict[str, str]) -> None:
    old, new = line.onnx(), line.onnx((3.0, 1.0))
    line.point(old)
    split = a_split(old, new, key="k")

    async def use(front: Front, _: Any) -> None:
        put_split(line, split)
        await holding(front, old, new)
        register_policy("logging/bikes", {"redact": redact}, store=line.store, actor=ANA)
        await until(lambda: in_force(front, {"redact": redact}))
        for user in (*range(700_100, 700_120), *range(700_100, 700_120)):
            await front.predict([{"x": 1.0, "k": user}])

    with_front(line, use)
    key = logging_key(line.store.settings.home)
    rows = exposures(line, "unit, channel")
    wanted = {digest_of(str(user), key): assign(split, str(user)).channel for user in range(700_100, 700_120)}
    assert len(rows) == 40
    assert dict(rows) == wanted  # the arm is the raw user's, and each user is one unit
    assert set(wanted.values()) == {"production", "candidate"}


def test_without_a_key_units_are_not_written_and_the_key_is_asked_for_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    old = line.onnx()
    line.point(old)
    policy = {"redact": {"unit": "hash"}}
    broken = True

    def key(home: str) -> bytes:
        if broken:
            raise PermissionError("not yours")
        return logging_key(home)

    monkeypatch.setattr(front_module, "logging_key", key)

    async def use(front: Front, _: Any) -> None:
        nonlocal broken
        put_split(line, a_split(old))
        await holding(front, old)
        register_policy("logging/bikes", policy, store=line.store, actor=ANA)
        await until(lambda: in_force(front, policy))
        await front.predict([{"x": 1.0, "k": 1}], key="ana")
        assert front.metrics.exposures_dropped == 1
        broken = False
        register_policy("monitor/other", {}, store=line.store, actor=ANA)  # anything: the ledger is looked at
        await until(lambda: front._exposer.key)
        await front.predict([{"x": 1.0, "k": 1}], key="ana")

    with_front(line, use)
    assert [unit for [unit] in exposures(line, "unit")] == [digest_of("ana", logging_key(line.store.settings.home))]
