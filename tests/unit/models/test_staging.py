"""A class in stages, saved and loaded in this process; the page's own example is what is run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from andon.core.errors import InvalidInput, ModelFailed
from andon.models import load_model, save_model
from andon.store import Store
from tests.conftest import ANA

PAGE = Path(__file__).parents[3] / "docs" / "your-own-code.md"


def test_the_example_of_the_page(store: Store, tmp_path: Path) -> None:
    code = re.search(r"```python no-run\n(class Prices:.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    (tmp_path / "prices.py").write_text(code[1])
    (tmp_path / "scale.txt").write_text("0.5")
    version = save_model(store, tmp_path, name="prices", entry="prices:Prices", example=[{"size": 80.0, "rooms": 3}], actor=ANA)
    assert version.manifest["signature"]["outputs"][0]["name"] == "price"
    predictor = load_model(store, version.address)
    assert predictor.predict({"size": np.array([80.0, 10.0]), "rooms": np.array([3, 1])})["price"].tolist() == [120.0, 5.0]
    with pytest.raises(ModelFailed, match="decode failed: TypeError"):
        predictor.predict({"size": np.array(["a"], dtype=object), "rooms": np.array([None], dtype=object)})


def test_a_class_made_with_its_folder_goes_on_working(store: Store, tmp_path: Path) -> None:
    code = (
        "class M:\n    def __init__(self, folder): self.n = len(list(folder.iterdir()))\n    def predict(self, c): return c['x'] + self.n\n"
    )
    (tmp_path / "m.py").write_text(code)
    version = save_model(store, tmp_path, name="m", entry="m:M", example=[{"x": 1.0}], actor=ANA)
    assert load_model(store, version.address).predict({"x": np.array([1.0])})["prediction"].tolist() == [2.0]


def test_a_class_that_fails_on_its_example_is_not_saved(store: Store, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("class M:\n    def predict(self, c): return c['nothing']\n")
    with pytest.raises(InvalidInput, match="refuses the example: predict failed: KeyError: 'nothing'"):
        save_model(store, tmp_path, name="m", entry="m:M", example=[{"x": 1.0}], actor=ANA)
