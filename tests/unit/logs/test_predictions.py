"""The prediction log: what a batch becomes, whichever of its two forms it is written in."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from andon.core.blocks import Block
from andon.logs import Served, few, log_predictions
from andon.store import Store

INPUTS: dict[str, Any] = {
    "x": np.array([1.5, np.nan, -2.0]),
    "k": np.array([1, 2**62, -3]),
    "ok": np.array([True, False, True]),
    "text": np.array(["é", None, ""], dtype=object),
    "at": np.array([0, 1_700_000_000_000_000, np.iinfo("i8").min], dtype="M8[us]"),
    "small": np.array([0.5, 1.5, 2.5], dtype="f4"),
}


def served(outputs: dict[str, Any]) -> Served:
    return Served(
        service="bikes",
        release="release:bikes@1",
        release_digest="b3:1",
        channel="production",
        request_ids=["a", "a", "b"],
        row=[0, 1, 0],
        event_us=[5, 6, 7],
        arrival_us=[8, 8, 9],
        latency_ms=[0.25, 0.25, 0.5],
        inputs=INPUTS,
        outputs=outputs,
    )


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": np.array([1.0, 2.0, np.nan])},
        {"share": np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])},
        {"big": np.array([1, 2, 2**64 - 1], dtype="u8")},
        {"label": np.array(["a", "b", "c"])},
    ],
    ids=["number", "vector", "unsigned", "text"],
)
def test_both_forms_keep_the_same(store: Store, outputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    log_predictions(store.tables, served(outputs))
    plain = store.tables.scan("predictions/bikes")
    monkeypatch.setattr("andon.logs.predictions.FEW_ROWS", 0)
    log_predictions(store.tables, served(outputs))
    both = store.tables.scan("predictions/bikes").sort_by([("event_time", "ascending"), ("request_id", "ascending")])
    assert both.schema == plain.schema
    assert both.num_rows == 6
    rows = both.to_pylist()
    assert [repr(row) for row in rows[::2]] == [repr(row) for row in rows[1::2]] == [repr(row) for row in plain.to_pylist()]


def test_a_block_is_kept_as_its_columns_are(store: Store) -> None:
    rows = [(1.5, -0.0), (2.0, 1e300), (0.1, 5e-324)]
    block = Block(("a", "b"), np.array(rows), rows)
    for inputs in (block, dict(block)):
        log_predictions(store.tables, msgspec.structs.replace(served({"y": np.ones(3)}), inputs=inputs))
    found = store.tables.scan("predictions/bikes").sort_by([("event_time", "ascending")]).to_pylist()
    assert len(found) == 6
    assert [repr(row) for row in found[::2]] == [repr(row) for row in found[1::2]]
    assert [(row["input.a"], row["input.b"]) for row in found[::2]] == rows


def test_what_is_kept(store: Store) -> None:
    log_predictions(store.tables, served({"y": np.array([1.0, 2.0, 3.0])}))
    found = store.tables.scan("predictions/bikes").to_pydict()
    assert found["input.x"] == [1.5, None, -2.0]
    assert found["input.k"] == [1, 2**62, -3]
    assert found["input.text"] == ["é", None, ""]
    assert found["input.at"][2] is None
    assert found["latency_ms"] == [0.25, 0.25, 0.5]
    assert found["release"] == ["release:bikes@1"] * 3


def test_a_vector_is_left_to_arrays(store: Store) -> None:
    fixed = [[1], [1], ["a"], [0], "r", "d", "production", [1.0]]
    assert not few.log_few(store.tables, "predictions/bikes", fixed, {}, {"v": np.ones((1, 2))}, 1)
    assert store.tables.names() == []
