"""How a release wants its requests handled, from its manifest's ``settings``: ``batch``, ``queue`` and ``timeout_s``.

::

    settings = {
        "batch": {"max_rows": 64, "max_bytes": 8388608, "max_wait_ms": 2},
        "queue": {"max_rows": 4096, "max_bytes": 67108864},
        "timeout_s": 5,
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from andon.core.errors import LoadFailed

MIB = 1 << 20
_Count = Annotated[int, msgspec.Meta(ge=1)]


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How large a batch may get. A single request is never cut, however large it is."""

    max_rows: _Count = 4096
    max_bytes: _Count = 64 * MIB
    max_wait_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    """How long an idle model may wait for more rows, for accelerators; used only while the measured cost says that it raises throughput."""


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may wait. A request of any size is taken when nothing waits."""

    max_rows: _Count = 65_536
    max_bytes: _Count = 256 * MIB


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a release asks of its replicas."""

    batch: BatchOptions = BatchOptions()
    queue: QueueOptions = QueueOptions()
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    """How long a request may take that says nothing itself (``x-request-timeout-ms``)."""


def options_of(settings: Mapping[str, Any]) -> Options:
    """The options among a release's settings. Raises ``LoadFailed`` naming the one that is wrong.

    >>> options_of({"batch": {"max_rows": 8}, "label": "y"}).batch.max_rows
    8
    """
    given = {name: settings[name] for name in Options.__struct_fields__ if name in settings}
    try:
        return msgspec.convert(given, Options)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise LoadFailed(
            f"a setting of the release is wrong: {text}",
            field="settings" + path.rstrip("`"),
            next_step="release the model again with that setting put right",
        ) from None
