"""What the rule reads and what it answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MAX_REPLICAS = 256
Action = Literal["up", "down", "wake", "sleep", "hold"]
Cause = Literal["bounds", "waiting", "idle", "demand", "window", "starting", "at-most", "at-least", "steady", "blind", "asleep"]
"""``blind``: no replica says anything; ``window``: it has not been so for long enough yet; the others are as they read."""


class ServingPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of ``policy:serving/SERVICE``: how many replicas, and when to have more or fewer."""

    min_replicas: Annotated[int, msgspec.Meta(ge=0, le=MAX_REPLICAS)] = 1
    """At least so many; 0 lets the service sleep."""
    max_replicas: Annotated[int, msgspec.Meta(ge=1, le=MAX_REPLICAS)] = 1
    """At most so many."""
    target_wait_s: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 0.1
    """Work that waits should be done within this time."""
    target_busy: Annotated[float, msgspec.Meta(ge=0.05, le=1.0)] = 0.7
    """Which share of its time a replica should work."""
    up_window_s: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 1.0
    """More replicas once that many were needed all through this time."""
    down_window_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)] = 60.0
    """Fewer replicas once fewer were enough all through this time."""
    idle_s: Annotated[float, msgspec.Meta(ge=0.0, le=604_800.0)] = 300.0
    """No replica at all (where ``min_replicas`` is 0) once nothing was asked all through this time."""

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to decide."""
        return self.min_replicas == self.max_replicas


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica says of itself since the last look."""

    work_s: float = 0.0
    """Seconds of work that wait or run there, by the measured cost of the rows (or tokens) in them."""
    busy: float = 0.0
    """Share of the time it worked, 0 to 1."""
    in_flight: int = 0
    """Requests it has not answered yet."""
    answered: int = 0
    """Requests it answered since the last look."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at a service's replicas found."""

    loads: tuple[Load, ...] = ()
    """Of the replicas that answer and were heard from."""
    silent: int = 0
    """Replicas that should answer and were not heard from: they count as wholly busy."""
    starting: int = 0
    waiting: bool = False
    """Whether a connection waits and no replica is there to take it."""


class ScalingState(msgspec.Struct, frozen=True, kw_only=True):
    """What the rule remembers: a few numbers, whatever the windows are."""

    wanted: int
    above_since_s: float | None = None
    """Since when more than ``wanted`` were needed, without a break."""
    above_least: int = 0
    """The fewest that were needed in that time."""
    below_since_s: float | None = None
    below_most: int = 0
    """The most that were needed since ``below_since_s``."""
    idle_since_s: float | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, also when that is nothing, and why."""

    action: Action
    cause: Cause
    before: int
    wanted: int
    why: str
    demand: float
    """How many replicas' time the work took up, before the allowance for ``target_busy``."""
    needed: int
    """How many replicas that comes to."""
    work_s: float
    busy: float
    """Mean over the replicas that were heard from; 0 when there are none."""
    ready: int
    silent: int
    starting: int
