"""Reading gate examples: what a label may be, said before anything is scored."""

from __future__ import annotations

import pyarrow as pa
import pytest

from andon import datasets
from andon.core.errors import InvalidInput
from andon.operations.releasing import read_examples
from andon.store import Store
from tests.conftest import ANA


def _dataset(store: Store) -> str:
    table = pa.table(
        {
            "x": [1.0, 2.0],
            "at": pa.array([1, 2], type=pa.timestamp("us", tz="UTC")),
            "y": [True, False],
            "name": ["cat", "dog"],
            "digits": ["0", "1"],
        }
    )
    return str(datasets.register(store, "animals", table, event_time="at", actor=ANA).address)


@pytest.mark.parametrize("column", ["name", "digits", "at"])
@pytest.mark.parametrize("field", ["label", "baseline"])
def test_labels_and_baselines_that_are_no_numbers_are_refused_with_their_type(store: Store, field: str, column: str) -> None:
    named = {"label": "y", "baseline": None} | {field: column}
    with pytest.raises(InvalidInput, match="numbers") as caught:
        read_examples(store, _dataset(store), label=named["label"], event_time="at", baseline=named["baseline"])
    assert caught.value.fields["field"] == field
    assert caught.value.fields["got"] == ("timestamp[us, tz=UTC]" if column == "at" else "string")


def test_classes_are_zero_and_one(store: Store) -> None:
    examples = read_examples(store, _dataset(store), label="y", event_time="at", baseline="x")
    assert examples.label.tolist() == [1.0, 0.0]
    assert examples.baseline is not None
    assert examples.baseline.tolist() == [1.0, 2.0]
