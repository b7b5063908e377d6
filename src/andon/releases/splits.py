"""Splits: which releases answer which share of a service's requests, while a rollout runs.

A split is one row of the ledger. Rollouts write it, with compare-and-swap, in the transaction of the transition it comes from; every
replica follows it. Who gets which release is a pure function of the split's salt and the request's *unit* (a user, a session, or the
request itself), so that every replica agrees, a unit stays where it is, and a growing share only ever adds units.

A split is leased: whoever looks after it counts ``renewed`` up. A replica that has not seen the count move for ``LEASE_S`` seconds (by its
own monotonic clock, so that no two clocks are compared) sends everything to the release that holds production.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from andon.core.digests import canonical_json
from andon.core.errors import Conflict, InvalidInput
from andon.store import Store
from andon.store.schema import splits

WHOLE = 10_000
"""Shares are in parts of ten thousand: a share of 500 is 5 %."""
LEASE_S = 30.0


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """A release that answers a share of the units. ``channel`` is what its answers are logged as."""

    channel: str
    release: str
    share: int
    upper: bool = False
    """Takes the places at the upper end, which are the last that a growing arm reaches: a control that stays when all others have moved."""


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is sent copies of a share of the requests and never answers; what it says is logged as the channel ``shadow``."""

    release: str
    share: int
    most_rows_s: float = 1_000.0
    """Copies above this many rows a second, in each replica, are dropped and counted: what a shadow may cost is bounded."""


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How a service's requests are shared out. The shares of ``arms`` add up to ``WHOLE``; the first arm is production."""

    rollout: str
    """``rollout:ID``; what exposures are logged under."""
    salt: str
    arms: tuple[Arm, ...]
    mirrors: tuple[Mirror, ...] = ()
    warm: tuple[str, ...] = ()
    """Releases to keep loaded although they get no requests."""
    key: str | None = None
    """The field of a request's first row that names its unit; None: the header ``x-andon-key``. Else each is its own unit."""
    slices: tuple[str, ...] = ()
    """Fields of a request's first row that are written down with its exposure: what failed has no prediction to read them from."""
    stage: int = 0
    """Which step of the rollout this is, for the exposure log."""


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """A split as the ledger holds it."""

    split: Split
    revision: int
    renewed: int


def check_split(split: Split) -> None:
    """Raise ``InvalidInput`` unless the shares add up."""
    if not split.arms or sum(arm.share for arm in split.arms) != WHOLE or any(arm.share < 0 for arm in split.arms):
        raise InvalidInput(f"the shares of a split add up to {WHOLE}", field="arms", got=", ".join(str(arm.share) for arm in split.arms))
    if any(not 0 <= mirror.share <= WHOLE for mirror in split.mirrors):
        raise InvalidInput(f"a mirror takes a share of 0 to {WHOLE}", field="mirrors")
    if len({arm.channel for arm in split.arms}) != len(split.arms):
        raise InvalidInput("each arm has a channel of its own", field="arms")


def place(salt: str, unit: str) -> int:
    """Where a unit stands among ``WHOLE`` places: uniform, and independent between salts.

    >>> place("a", "ana") == place("a", "ana"), 0 <= place("a", "ben") < WHOLE
    (True, True)
    """
    return int.from_bytes(blake2b(unit.encode(), digest_size=8, key=salt.encode()[:64]).digest(), "big") % WHOLE


def arm_at(split: Split, at: int) -> Arm:
    """The arm of the place ``at``. Production's share is what the others leave, so that an arm that grows keeps the units it had."""
    low, high = 0, WHOLE
    for arm in split.arms[1:]:
        if arm.upper:
            high -= arm.share
            if at >= high:
                return arm
        elif low <= at < low + arm.share:
            return arm
        else:
            low += arm.share
    return split.arms[0]


def assign(split: Split, unit: str) -> Arm:
    """The arm that answers a unit.

    >>> arms = (Arm(channel="production", release="release:a@1", share=9_500), Arm(channel="candidate", release="release:a@2", share=500))
    >>> split = Split(rollout="rollout:1", salt="s", arms=arms)
    >>> assign(split, "ana") == assign(split, "ana")
    True
    """
    return arm_at(split, place(split.salt, unit))


def live_split(store: Store, service: str) -> Live | None:
    """The split of a service now, or None when production answers everything."""
    with store.ledger.read() as connection:
        return live_split_in(connection, service)


def live_split_in(connection: Connection, service: str) -> Live | None:
    """``live_split`` inside the caller's transaction."""
    row = connection.execute(select(splits).where(splits.c.service == service)).first()
    if row is None:
        return None
    return Live(split=msgspec.json.decode(row.body, type=Split), revision=row.revision, renewed=row.renewed)


def set_split_in(connection: Connection, service: str, split: Split | None, *, expected: int, now_us: int) -> int:
    """Put a split in place of revision ``expected`` (0: there is none); None takes it away. Returns the new revision.

    Raises ``Conflict`` when somebody moved it meanwhile, ``InvalidInput`` when its shares do not add up.
    """
    live = live_split_in(connection, service)
    found = 0 if live is None else live.revision
    if found != expected:
        raise Conflict("the split has moved since you looked", service=service, expected=expected, found=found)
    if split is None:
        connection.execute(delete(splits).where(splits.c.service == service))
        return 0
    check_split(split)
    values = {"rollout": split.rollout, "body": canonical_json(split).decode(), "revision": expected + 1, "changed_us": now_us}
    if live is None:
        connection.execute(insert(splits).values(service=service, renewed=0, **values))
    else:
        connection.execute(update(splits).where(splits.c.service == service).values(**values))
    return expected + 1


def renew_split_in(connection: Connection, service: str) -> None:
    """Say that somebody looks after the split."""
    connection.execute(update(splits).where(splits.c.service == service).values(renewed=splits.c.renewed + 1))
