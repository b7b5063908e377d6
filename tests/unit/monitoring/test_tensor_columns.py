"""Releases that take or give tensors: what is one value a row is watched, the rest is said not to be, and nothing crashes."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from andon import registry
from andon.core.errors import Incompatible
from andon.logs.predictions import Served, log_predictions
from andon.models import Column, Signature
from andon.monitoring.records import Policy
from andon.monitoring.served import born, served_frame, unwatched
from andon.operations.releasing import column_of
from andon.releases import Examples, ReleaseManifest, read_scored
from andon.releases.records import CodePin, Pin
from andon.releases.scored import keep_scored
from andon.serving.environments import current_lock
from andon.store import Store
from tests.conftest import ANA

INPUTS = (Column("temp", "double"), Column("image", "float", shape=(2, 3)), Column("words", "string", shape=(2,)))
HOUR_US = 3_600_000_000


def manifest(outputs: tuple[Column, ...] = (Column("y", "double"),)) -> ReleaseManifest:
    pin = Pin("dataset:rides@1", "b3:" + "0" * 64)
    settings = {"label": "y", "event_time": "at"}
    return ReleaseManifest(
        service="rides",
        model=Pin("model:rides@1", "b3:" + "1" * 64),
        code=CodePin(),
        environment=current_lock(),
        signature=Signature(INPUTS, outputs),
        data=(pin,),
        scored="b3:" + "2" * 64,
        settings=settings,
    )


def test_served_tensors_are_logged_and_only_single_values_are_watched(store: Store) -> None:
    n = 4
    served = Served(
        service="rides",
        release="release:rides@1",
        release_digest="b3:" + "0" * 64,
        channel="production",
        request_ids=[f"r{at}" for at in range(n)],
        row=[0] * n,
        event_us=[at * HOUR_US for at in range(n)],
        arrival_us=[at * HOUR_US for at in range(n)],
        latency_ms=[1.0] * n,
        inputs={
            "temp": np.arange(n) / 2,
            "image": np.arange(n * 6, dtype="f4").reshape(n, 2, 3),
            "words": np.array([["a", "é"]] * n, dtype=object),
        },
        outputs={"y": np.arange(n, dtype="f4"), "vector": np.arange(n * 2, dtype="i4").reshape(n, 2)},
    )
    log_predictions(store.tables, served)
    frame = served_frame(store, manifest(), 0, n * HOUR_US, n * HOUR_US)
    assert list(frame.inputs) == ["temp"]
    assert frame.prediction.tolist() == [0, 1, 2, 3]
    logged = store.tables.query('select "input.image" as image, "input.words" as words from "predictions/rides" order by event_time')
    assert np.asarray(logged["image"].to_pylist(), dtype=float).reshape(n, 6).tolist() == np.arange(n * 6.0).reshape(n, 6).tolist()
    assert logged["words"].to_pylist()[0] == ["a", "é"]


def test_what_is_not_watched_is_said() -> None:
    assert unwatched(manifest()) == "not watched, since they are tensors: image (float [2, 3]), words (string [2])"
    plain = msgspec.structs.replace(manifest(), signature=Signature(INPUTS[:1], ()))
    assert unwatched(plain) == ""


def test_a_release_that_answers_with_tensors_has_no_live_quality(store: Store) -> None:
    release = registry.register(store, "release", "rides", manifest((Column("scores", "float", shape=(5,)),)), actor=ANA)
    with pytest.raises(Incompatible, match="monitors do not watch"):
        born(store, str(release.address), Policy(), lambda _, columns: np.zeros(len(next(iter(columns.values())))))


def test_examples_with_tensors_are_read_scored_and_kept(store: Store) -> None:
    table = pa.table(
        {
            "image": [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]],
            "ids": pa.array([[1, 2], [3, 4]], type=pa.list_(pa.int32(), 2)),
            "ragged": [[1], [2, 3]],
        }
    )
    columns = {name: column_of(table, name) for name in table.column_names}
    assert columns["image"].tolist() == [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]
    assert (columns["ids"].dtype, columns["ids"].shape) == (np.dtype("i8"), (2, 2))
    assert columns["ragged"].tolist() == [[1], [2, 3]]
    examples = Examples(columns={"image": columns["image"]}, label=np.zeros(2), event_us=np.array([0, 1]))
    digest = keep_scored(store, examples, {"image": columns["image"]}, np.array([0.5, 1.5]))
    assert read_scored(store, digest)["input.image"].to_pylist() == columns["image"].tolist()
