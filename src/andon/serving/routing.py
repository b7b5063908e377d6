"""Which release answers a request, while a split is in force.

Assignment is ``releases.assign`` on the request's unit, the same in every replica. **Intention to treat:** what a unit was assigned is what
is exposed and counted, whatever then happened. If the assigned release is not loaded here, or its process is down, production answers, and
the exposure says the assigned arm with the status ``unavailable-here`` (``loading-here`` while it is being loaded for the first time): a
candidate that cannot load is seen to fail, and no user pays for it.

The first arm means whatever the channel ``production`` points to, so that a rollback holds at once, with a split in force too.

**Lease.** A split counts up while somebody looks after it. A replica that has not seen it move for ``LEASE_S`` seconds by its own monotonic
clock, because the controller is gone or because the ledger is, sends everything to production, the last release that it saw confirmed
there, until it moves again. Wall clocks are never compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from andon.models.records import Signature
from andon.releases.splits import LEASE_S, Arm, Live, Split
from andon.serving.loading import Loaded

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

UNAVAILABLE_HERE = "unavailable-here"
LOADING_HERE = "loading-here"
MAX_UNIT = 200
"""Characters; a longer key is told apart by its hash, since it is written down with every request."""


class Choice(NamedTuple):
    """Which release answers a request, and as what."""

    loaded: Loaded
    channel: str
    unit: str | None = None
    """The user, session or request that a split assigned; None when there is no split."""
    split: Split | None = None
    arm: Arm | None = None
    """What the unit was assigned, which is not what answers when ``status`` says so."""
    status: str | None = None
    adaptation: Adaptation | None = None
    """How a request that was read with ``reads``' signature becomes what ``loaded`` takes; None when the two take the same."""

    @property
    def reads(self) -> Loaded:
        """The release whose signature the request is read with: production's while a split is in force."""
        return self.loaded if self.adaptation is None else self.adaptation.source


class Router:
    """The split as this replica sees it."""

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._now = now or lease_clock()
        self._mark: object = None
        self._moved_s = 0.0
        self.live: Live | None = None
        """The split as it was last read, whether its lease holds or not."""

    def heard(self, live: Live | None) -> bool:
        """The ledger was read; whether there is another split than before."""
        mark = None if live is None else (live.split.rollout, live.split.salt, live.revision, live.renewed)
        if mark != self._mark:
            self._mark = mark
            self._moved_s = self._now()
        before, self.live = self.live, live
        return (before and before.split) != (live and live.split)

    @property
    def fallback(self) -> bool:
        """Whether there is a split whose lease has run out here."""
        return self.live is not None and self._now() - self._moved_s > LEASE_S

    @property
    def split(self) -> Split | None:
        """The split in force, or None: production answers."""
        live = self.live
        return None if live is None or self._now() - self._moved_s > LEASE_S else live.split


def lease_clock() -> Callable[[], float]:
    """Seconds that no change of the wall clock moves, and that go on while the machine sleeps where the system can tell."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if boottime is None else lambda: time.clock_gettime(boottime)


def unit_of(
    split: Split,
    signature: Signature,
    key: str | None,
    request_id: str,
    *,
    rows: Sequence[tuple[Any, ...]] | None = None,
    columns: Columns | None = None,
) -> str:
    """The unit that a request belongs to: the split's key field in its first row, else ``key`` (the header), else the request itself."""
    if split.key is not None:
        value = None
        if rows is not None:
            at = next((at for at, column in enumerate(signature.inputs) if column.name == split.key and not column.shape), None)
            value = None if at is None else rows[0][at]
        elif columns is not None and split.key in columns and columns[split.key].ndim == 1:
            first = columns[split.key][:1]
            value = (first.astype("M8[us]").astype("i8") if first.dtype.kind == "M" else first).tolist()[0]
        if value is not None and value == value:  # NaN is a null
            text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            if text:  # else all who leave it empty would be one unit
                return short(text)
    return short(key) if key else request_id


def slices_of(
    split: Split, signature: Signature, rows: Sequence[tuple[Any, ...]] | None = None, columns: Columns | None = None
) -> dict[str, str]:
    """The split's slice fields of a request's first row, as text; a null, or what is no field, is the empty text."""
    found = {}
    for name in split.slices:
        value = None
        if rows is not None:
            at = next((at for at, column in enumerate(signature.inputs) if column.name == name and not column.shape), None)
            value = None if at is None else rows[0][at]
        elif columns is not None and name in columns and columns[name].ndim == 1:
            value = columns[name][:1].tolist()[0]
        found[name] = "" if value is None or value != value else str(value)[:MAX_UNIT]
    return found


def short(text: str) -> str:
    """A unit as it is written down: itself, or the hash of a long one."""
    return text if len(text) <= MAX_UNIT else blake2b(text.encode(), digest_size=16).hexdigest()


class Adaptation:
    """From what was read with one release's signature to what another one takes. Raises ``ValueError`` with the reason when it cannot be.

    Inputs are matched by name; those that the other does not know are left out, and those it does not require may be missing.
    """

    def __init__(self, source: Loaded, target: Loaded) -> None:
        self.source = source
        self._codec = target.codec
        self._names = [column.name for column in target.signature.inputs]
        places = {column.name: at for at, column in enumerate(source.signature.inputs)}
        self._places = [places.get(name, -1) for name in self._names]
        self._floats = [False] * len(self._names)
        for at, wanted in enumerate(target.signature.inputs):
            if self._places[at] < 0:
                if wanted.required:
                    raise ValueError(f"it requires the input {wanted.name!r}, which {source.address} does not take")
                continue
            given = source.signature.inputs[self._places[at]]
            self._floats[at] = (given.dtype, wanted.dtype) == ("long", "double")
            if (given.dtype != wanted.dtype and not self._floats[at]) or given.shape != wanted.shape:
                raise ValueError(f"its input {wanted.name!r} is {wanted.dtype}, and {given.dtype} in {source.address}")
            if wanted.required and not given.required:
                raise ValueError(f"it requires the input {wanted.name!r}, which may be missing in {source.address}")

    def rows(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Checked rows of the source as checked rows of the target."""
        plan = list(zip(self._places, self._floats, strict=True))
        return [tuple(_picked(row, at, to_float) for at, to_float in plan) for row in rows]

    def columns(self, columns: Columns, n: int) -> Columns:
        """Columns likewise."""
        return self._codec.from_columns({name: columns[name] for name in self._names if name in columns}, n)


def _picked(row: tuple[Any, ...], at: int, to_float: bool) -> Any:
    if at < 0:
        return None
    return float(row[at]) if to_float and row[at] is not None else row[at]


def adaptation(source: Loaded, target: Loaded) -> Adaptation | None:
    """None when the two take the same. Raises ``ValueError`` as ``Adaptation`` does."""
    return None if source.signature.inputs == target.signature.inputs else Adaptation(source, target)
