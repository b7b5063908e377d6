"""What a service may write down of its requests: ``policy:logging/SERVICE``, which its replicas follow while they run.

::

    {"sample": 0.1, "redact": {"input.email": "hash", "input.birthday": "drop"}, "trace": 0.01}
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from andon.core.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

PREFIX = "logging/"
Redaction = Literal["drop", "hash"]
DIGEST_BYTES = 12
UNIT = "unit"
"""The column of the exposure log that may name a person."""


class LoggingPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged of the requests that a service answers."""

    sample: float = 1.0
    """Share of the requests whose rows enter the prediction log, 0 to 1. Which ones depends on the request's id alone."""
    redact: dict[str, Redaction] = {}
    """Column of the log (``input.NAME`` or ``output.NAME``) -> ``drop`` (null instead) or ``hash`` (a keyed digest instead: equal values
    stay equal, and nobody without the key can try values out). ``unit`` -> ``hash``: who was assigned, in the exposure log; that is
    hashed too where a split's key is an input that is named here. Assignment itself goes by the raw value."""
    trace: float = 0.0
    """Share of the requests that get a trace of their own; one whose caller sends a sampled ``traceparent`` always does."""


def check_policy(policy: LoggingPolicy) -> None:
    """Raise ``InvalidInput`` naming the field that is wrong."""
    for field in ("sample", "trace"):
        value = getattr(policy, field)
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise InvalidInput("a share is a number from 0 to 1", field=field, got=value)
    for column, how in policy.redact.items():
        if column == UNIT:
            if how != "hash":  # what a user saw cannot be counted once for each when nothing tells users apart
                raise InvalidInput("a unit can be hashed, not dropped", field="redact.unit", got=how, next_step='{"unit": "hash"}')
            continue
        if not column.startswith(("input.", "output.")):
            step = f"input.{column} or output.{column}"
            raise InvalidInput(
                "a column of the prediction log is input.NAME or output.NAME, and of the exposures unit",
                field="redact",
                got=column,
                next_step=step,
            )


def hides_unit(policy: LoggingPolicy, key: str | None) -> bool:
    """Whether the units of a split with this key (the name of an input, or None) are hashed where they are written down.

    >>> hides_unit(LoggingPolicy(redact={"input.user": "drop"}), "user"), hides_unit(LoggingPolicy(), "user")
    (True, False)
    """
    return bool(policy.redact) and (UNIT in policy.redact or (key is not None and f"input.{key}" in policy.redact))


def needs_key(policy: LoggingPolicy) -> bool:
    """Whether something is hashed, or would be under some split."""
    return bool(policy.redact)


def digest_of(value: object, key: bytes) -> str:
    """The hexadecimal digest that stands for a value: BLAKE2b of its text, keyed, 12 bytes (RFC 7693, section 2.9)."""
    return blake2b(str(value).encode(), digest_size=DIGEST_BYTES, key=key).hexdigest()


def sampled(request_id: str, share: float) -> bool:
    """Whether a request is among the ``share`` that is logged: the same answer everywhere.

    >>> sampled("a", 1.0), sampled("a", 0.0)
    (True, False)
    """
    if share >= 1.0:
        return True
    return int.from_bytes(blake2b(request_id.encode(), digest_size=6).digest(), "big") < share * 2**48


def redacted(values: np.ndarray[Any, Any], how: Redaction, key: bytes) -> np.ndarray[Any, Any]:
    """A column with its values hidden: object of None, or of hexadecimal digests (a null stays null).

    Raises ``InvalidInput`` without a key to hash with.
    """
    import numpy as np

    if how == "hash" and not key:
        raise InvalidInput("there is no key to hash with", field="redact")
    hidden = np.full(len(values), None, dtype=object)
    if how == "hash":
        for at, value in enumerate(values.tolist()):
            if value is not None and value == value:
                hidden[at] = digest_of(value, key)
    return hidden
