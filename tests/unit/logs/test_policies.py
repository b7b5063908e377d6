"""What may be logged: samples that everybody agrees on, and columns that are hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from andon.core.errors import InvalidInput
from andon.logs.policies import LoggingPolicy, check_policy, redacted, sampled


def test_a_sample_is_a_share_and_grows_by_adding() -> None:
    ids = [f"r-{n}" for n in range(20_000)]
    tenth = {name for name in ids if sampled(name, 0.1)}
    half = {name for name in ids if sampled(name, 0.5)}
    assert abs(len(tenth) - 2_000) < 4 * (20_000 * 0.1 * 0.9) ** 0.5
    assert tenth < half
    assert not any(sampled(name, 0.0) for name in ids)
    assert all(sampled(name, 1.0) for name in ids)


def test_a_dropped_column_is_null_and_a_hash_keeps_equality() -> None:
    values = np.array(["ana@x", None, "ben@x", "ana@x"], dtype=object)
    assert redacted(values, "drop", b"k").tolist() == [None] * 4
    hashed = redacted(values, "hash", b"k").tolist()
    assert hashed[1] is None
    assert hashed[0] == hashed[3] != hashed[2]
    assert len(hashed[0]) == 24
    assert "ana" not in hashed[0]
    assert redacted(values, "hash", b"other").tolist()[0] != hashed[0]
    assert redacted(np.array([1.0, np.nan]), "hash", b"k").tolist()[1] is None


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"sample": 1.5}, "sample"),
        ({"sample": float("nan")}, "sample"),
        ({"trace": -0.1}, "trace"),
        ({"redact": {"email": "drop"}}, "redact"),
    ],
)
def test_a_policy_that_cannot_be(policy: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_policy(LoggingPolicy(**policy))
    assert refused.value.fields["field"] == field
