"""Arrow arrays made of buffers are what pyarrow itself makes of the same values, and pandas stays out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.logs import arrays

TIME = pa.timestamp("us", tz="UTC")


@given(st.lists(st.floats() | st.just(float("nan"))))
def test_doubles(values: list[float]) -> None:
    made = arrays.doubles(np.array(values, dtype="f8"))
    made.validate(full=True)
    assert made.equals(pa.array(np.array(values, dtype="f8"), type=pa.float64(), from_pandas=True))


@given(st.lists(st.none() | st.text()))
def test_texts(values: list[str | None]) -> None:
    made = arrays.texts(values)
    made.validate(full=True)
    assert made.equals(pa.array([None if v is None else v.encode(errors="replace").decode() for v in values], type=pa.string()))


@given(st.text(), st.integers(0, 50))
def test_one_text_many_times(value: str, n: int) -> None:
    made = arrays.same(value, n)
    made.validate(full=True)
    assert made.equals(pa.array([value.encode(errors="replace").decode()] * n, type=pa.string()))


@given(st.lists(st.booleans()))
def test_booleans(values: list[bool]) -> None:
    made = arrays.booleans(np.array(values, dtype=bool))
    made.validate(full=True)
    assert made.equals(pa.array(values, type=pa.bool_()))


def test_numbers_and_instants() -> None:
    assert arrays.numbers([1, 2, 3], pa.int32(), "i4").equals(pa.array([1, 2, 3], type=pa.int32()))
    assert arrays.numbers([1.5], pa.float32(), "f4").equals(pa.array([1.5], type=pa.float32()))
    strided = np.arange(10, dtype="i8")[::3]
    assert arrays.numbers(strided, pa.int64(), "i8").equals(pa.array([0, 3, 6, 9], type=pa.int64()))
    assert arrays.instants([5, 6], np.array([False, True])).equals(pa.array([5, None], type=TIME))


@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 2), (0, 4), (2, 0)])
def test_lists(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    made = arrays.lists(values)
    made.validate(full=True)
    assert made.to_pylist() == values.reshape(shape[0], int(np.prod(shape[1:]))).astype("f8").tolist()
    words = values.astype(str).astype(object)
    assert arrays.lists(words).type == pa.list_(pa.string())
    assert arrays.lists(words).to_pylist() == words.reshape(shape[0], int(np.prod(shape[1:]))).tolist()


LOGS = """
import sys
import numpy as np
from andon.logs.exposures import Exposure, log_exposures
from andon.logs.predictions import Served, log_predictions
from andon.store import open_store

inputs = {"a": np.array([1.0, np.nan] * 100), "b": np.array([1, 2] * 100), "c": np.array(["x", None] * 100, dtype=object),
          "d": np.array(["2020-01-01", "NaT"] * 100, dtype="M8[us]"), "e": np.array([True, False] * 100), "f": np.ones((200, 3))}
with open_store(sys.argv[1]) as store:
    for n in (1, 200):
        some = {name: values[:n] for name, values in inputs.items()}
        log_predictions(store.tables, Served(service="s", release="release:s@1", release_digest="b3:0", channel="production",
            request_ids=["r"] * n, row=[0] * n, event_us=[1] * n, arrival_us=[1] * n, latency_ms=[1.0] * n, inputs=some, outputs=some))
    log_exposures(store.tables, "s", [Exposure(event_us=1, arrival_us=1, request_id="r", unit="u", rollout="rollout:1", stage=0,
        channel="c", release="release:s@1", status="ok", latency_ms=1.0, rows=1)])
    print("pandas" in sys.modules)
"""


def test_writing_logs_does_not_import_pandas(tmp_path: object) -> None:
    """50 MB in every replica of an environment that has it."""
    pytest.importorskip("pandas")
    done = subprocess.run([sys.executable, "-c", LOGS, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
