"""A model's page: its format, what goes in and out, and how near what was saved is to the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from html import unescape

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from andon.models import save_model
from andon.store import Store
from tests.conftest import ANA
from tests.unit.api.conftest import Client, _client
from tests.unit.board.test_run_pages import _sound
from tests.unit.models import test_graphs as graphs

X = np.random.default_rng(0).normal(size=(60, 2))
XSS = "<img src=x onerror=alert(1)>"


@pytest.fixture
def pages(disk_store: Store) -> Iterator[Client]:
    converted = Ridge().fit(X, X[:, 0])
    save_model(disk_store, converted, name="converted", actor=ANA, example={"a": X[:5, 0], XSS: X[:5, 1]}, optional=["a"])
    native = make_pipeline(FunctionTransformer(np.log1p), Ridge()).fit(np.abs(X), X[:, 0])
    save_model(disk_store, native, name="native", actor=ANA, example=np.abs(X[:5]))
    save_model(disk_store, graphs.pooled(1), name="images", actor=ANA, example=np.zeros((2, 3, 4, 5), np.float32))
    save_model(disk_store, {"w": np.zeros(3)}, name="weights", actor=ANA)
    with _client(disk_store) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("converted", ["<dd>onnx</dd>", "a double, or null", "<dt>parity</dt>", "answers 261 rows as the model itself does"]),
        ("native", ["<dd>skops</dd>", "<dt>not ONNX</dt>", "FunctionTransformer"]),
        ("images", ["image float [3, -1, -1]", "means float [3]; brightest float", "one at a time"]),
        ("weights", ["<dd>safetensors</dd>", "not known"]),
    ],
)
def test_the_page_says_what_was_made_of_the_model(pages: Client, name: str, said: list[str]) -> None:
    answer = pages.get(f"/registry/model/{name}")
    assert answer.status_code == 200
    for words in said:
        assert words in unescape(answer.text)
    assert XSS not in answer.text
    _sound(answer.text)
