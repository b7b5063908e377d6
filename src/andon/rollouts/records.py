"""Rollouts: what was seen, what was decided, and the state that the decisions add up to. All JSON with msgspec.

A rollout is the event stream ``rollout:ID``. Its events are the actions below, and its state is their fold.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from andon.rollouts.strategies import Strategy

Phase = Literal["warming", "running", "undecided", "keeping", "promoted", "aborted", "ended"]
OVER: frozenset[Phase] = frozenset({"promoted", "aborted", "ended"})
Inputs = dict[str, str | float | None]


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout as the fold over its events leaves it. Times are wall time, microseconds.

    ``keeping``: the candidate holds production, and the old release is a small control arm, or warm for an instant return.
    ``stage`` counts the times that the traffic was shared out anew; the exposure log carries it.
    """

    id: str
    """``rollout:ID``."""
    service: str
    candidate: str
    baseline: str
    """What held production when it began (for a shadow: what holds it now)."""
    strategy: Strategy
    policy: dict[str, Any]
    """What the analysis compares, and how strictly: see ``andon.rollouts.analysis``."""
    phase: Phase = "warming"
    step: int = -1
    stage: int = 0
    paused: bool = False
    started_us: int = 0
    since_us: int = 0
    """When the present step or phase began."""
    deadline_from_us: int = 0
    said: str = ""
    """The last reason to do nothing."""
    why: str = ""
    """Why it came to the present phase."""
    cuts: tuple[int, ...] = (0,)
    """For each stage: units at places below it, of ten thousand, were the candidate's."""
    statuses: dict[str, str] = {}
    """The last recorded status of each verdict, by check."""
    ended_us: int | None = None
    last_event: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.phase in OVER

    @property
    def production(self) -> str:
        """What must hold production while it runs."""
        return self.candidate if self.phase in ("keeping", "promoted") else self.baseline


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """What a fresh, ready replica says of the candidate: whether it is loaded and well, or why it is not."""

    id: str
    holds: bool
    problem: str = ""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What the analysis makes of everything seen so far, in sentences. All of it is valid at any look.

    ``harm``: guards that are proven to be hurt. ``unproven``: what must be proven before a promotion and is not yet. ``mismatch``: why the
    arms cannot be compared at all (more units in one than its share). ``winner``: of an A/B test's metric.
    """

    harm: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ("nothing has been seen",)
    mismatch: str = ""
    winner: Literal["", "candidate", "control"] = ""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What the hands saw at one look."""

    production: str | None
    replicas: tuple[Replica, ...] = ()
    units: int = 0
    """Units that were shown the candidate at the present stage."""
    deaths: int = 0
    """Requests of the candidate whose process died under them, at the present stage."""
    latest: int = 0
    """The candidate's newest requests that are remembered, at most ``LATEST``, …"""
    latest_failed: int = 0
    """… and how many of them failed."""
    incidents: tuple[str, ...] = ()
    unfit: str = ""
    """Why the candidate may not be deployed any more: it was rejected, its waiver has run out, it was deleted."""
    judgement: Judgement = Judgement()


LATEST = 40
"""How many of the candidate's newest requests the breaker looks at."""


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="action"):
    at_us: int
    why: str
    inputs: Inputs = {}


class Started(_Event, frozen=True, kw_only=True, tag="started"):
    """It begins: the candidate is loaded everywhere before anybody sees it."""

    service: str
    candidate: str
    baseline: str
    strategy: Strategy
    policy: dict[str, Any]


class Stepped(_Event, frozen=True, kw_only=True, tag="stepped"):
    """The candidate gets this share of the units (of the copies, for a shadow), in parts of ten thousand."""

    step: int
    share: int


class Promoted(_Event, frozen=True, kw_only=True, tag="promoted"):
    """The candidate takes production. ``keep``: the old release stays, as a control arm or warm."""

    keep: bool


class Aborted(_Event, frozen=True, kw_only=True, tag="aborted"):
    """Everything goes to the old release at once; the candidate is rejected."""


class Ended(_Event, frozen=True, kw_only=True, tag="ended"):
    """It is over, and production stays with what holds it; nobody is rejected."""


class Held(_Event, frozen=True, kw_only=True, tag="held"):
    """Undecided: the shares stay as they are, and only a person promotes. Guards go on and may abort."""


class Rebased(_Event, frozen=True, kw_only=True, tag="rebased"):
    """Another release has come to hold production; the shadow is compared with that one from now on."""

    baseline: str


class Paused(_Event, frozen=True, kw_only=True, tag="paused"):
    """A person stops it where it is: no step and no promotion. Guards go on and may abort."""


class Resumed(_Event, frozen=True, kw_only=True, tag="resumed"):
    """A person lets it go on; the deadline counts from here."""


class Judged(_Event, frozen=True, kw_only=True, tag="judged"):
    """Verdicts have changed: the status of each that did, by check, and their ids."""

    statuses: dict[str, str]
    verdicts: tuple[str, ...]


class Overruled(_Event, frozen=True, kw_only=True, tag="overruled"):
    """Somebody rolled back or deployed past it; everything has gone to what holds production now."""

    by: str
    production: str


class Waited(_Event, frozen=True, kw_only=True, tag="waited"):
    """Nothing is done, and why. Recorded when the reason changes."""


Action = Started | Stepped | Promoted | Aborted | Ended | Held | Rebased | Paused | Resumed | Judged | Overruled | Waited
