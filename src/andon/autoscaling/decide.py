"""The rule: from what replicas say to how many there should be. Pure; a look a second or more often is meant, and any pace is safe.

Demand is in replicas: ``D = sum(busy) + work_s / target_wait_s``. The first term is the work that arrives (a share of one replica's time is
one erlang), the second the capacity that clears what waits within ``target_wait_s``; it is the fluid limit of a queue. ``ceil(D /
target_busy)`` replicas leave the head-room that keeps waiting short while arrivals are random. A replica that says nothing counts as wholly
busy: a saturated event loop is the usual reason.

Up fast, down slowly, as the stabilisation windows of Kubernetes' horizontal autoscaler: up to the *fewest* that were needed all through
``up_window_s``, at most twice as many at once, and not while others are still starting, whose help cannot be seen yet; down to the *most*
that were needed all through ``down_window_s``. Every change starts both windows anew, so a step down comes at least ``down_window_s``
after the step before it, whatever the load does: there are at most ``T / down_window_s + 1`` turns from up to down in a time T.
"""

from __future__ import annotations

import math

import msgspec

from andon.autoscaling.records import Action, Cause, Decision, Load, Observation, ScalingState, ServingPolicy

MOST = 1e9
"""More work than this, in seconds or in replicas, is as good as this: what is written down stays a finite number."""


def decide(policy: ServingPolicy, state: ScalingState, seen: Observation, now_s: float) -> tuple[Decision, ScalingState]:
    """How many replicas to want from now on. ``now_s`` is a clock that does not go back (monotonic seconds).

    >>> policy = ServingPolicy(min_replicas=1, max_replicas=4, up_window_s=0.0)
    >>> decision, state = decide(policy, ScalingState(wanted=1), Observation(loads=(Load(busy=1.0, work_s=0.05),)), 0.0)
    >>> decision.action, decision.wanted, decision.needed
    ('up', 2, 3)
    """
    sound = [load for load in seen.loads if _is_sound(load)]
    silent = seen.silent + len(seen.loads) - len(sound)
    work_s = min(sum(load.work_s for load in sound), MOST)
    demand = min(sum(min(load.busy, 1.0) for load in sound) + silent + work_s / policy.target_wait_s, MOST)
    needed = math.ceil(demand / policy.target_busy - 1e-9)
    idle = bool(sound) and not silent and not seen.starting and not seen.waiting and all(_is_idle(load) for load in sound)
    state = _remember_idle(state, idle, now_s)
    may_sleep = policy.min_replicas == 0 and state.idle_since_s is not None and now_s - state.idle_since_s >= policy.idle_s
    n = state.wanted

    def say(action: Action, cause: Cause, wanted: int, why: str, after: ScalingState | None = None) -> tuple[Decision, ScalingState]:
        decision = Decision(
            action=action,
            cause=cause,
            before=n,
            wanted=wanted,
            why=why,
            demand=round(demand, 4),
            needed=needed,
            work_s=round(work_s, 6),
            busy=round(sum(min(load.busy, 1.0) for load in sound) / len(sound), 4) if sound else 0.0,
            ready=len(sound),
            silent=silent,
            starting=seen.starting,
        )
        moved = msgspec.structs.replace(state, wanted=wanted, above_since_s=None, above_least=0, below_since_s=None, below_most=0)
        return decision, moved if after is None else after

    if not policy.min_replicas <= n <= policy.max_replicas:
        to = min(max(n, policy.min_replicas), policy.max_replicas)
        return say("up" if to > n else "down", "bounds", to, f"the policy allows {policy.min_replicas} to {policy.max_replicas}")
    if n == 0:
        if seen.waiting:
            return say("wake", "waiting", 1, "a connection waits")
        return say("hold", "asleep", 0, "nothing is asked", state)
    if may_sleep:
        return say("sleep", "idle", 0, f"nothing was asked for {policy.idle_s:g} s")
    if not sound and not silent:
        why = f"{seen.starting} of {n} replicas are starting, none answers yet" if seen.starting else "no replica says anything"
        return say("hold", "starting" if seen.starting else "blind", n, why, _forget(state))
    needed = max(needed, 1)
    wanted = min(max(needed, policy.min_replicas), policy.max_replicas)
    state = _remember(state, wanted, now_s)
    if wanted > n:
        assert state.above_since_s is not None
        if seen.starting:
            return say("hold", "starting", n, f"{needed} are needed, but {seen.starting} are still starting", state)
        if now_s - state.above_since_s < policy.up_window_s:
            return say("hold", "window", n, f"{needed} are needed, but not yet for {policy.up_window_s:g} s", state)
        to = min(state.above_least, n * 2)
        return say("up", "demand", to, f"{needed} are needed for {demand:.2f} replicas' work at {policy.target_busy:g} of their time")
    if wanted < n:
        assert state.below_since_s is not None
        if now_s - state.below_since_s < policy.down_window_s:
            return say("hold", "window", n, f"{needed} would do, but not yet for {policy.down_window_s:g} s", state)
        return say("down", "demand", state.below_most, f"{state.below_most} were enough for {policy.down_window_s:g} s")
    if needed > n:
        return say("hold", "at-most", n, f"{needed} are needed, but the policy allows {policy.max_replicas}", state)
    if needed < n:
        return say("hold", "at-least", n, f"{needed} would do, but the policy wants {policy.min_replicas}", state)
    return say("hold", "steady", n, f"{n} are what is needed", state)


def _is_sound(load: Load) -> bool:
    return math.isfinite(load.work_s) and math.isfinite(load.busy) and load.work_s >= 0.0 and load.busy >= 0.0


def _is_idle(load: Load) -> bool:
    return load.in_flight == 0 and load.answered == 0 and load.work_s == 0.0


def _remember_idle(state: ScalingState, idle: bool, now_s: float) -> ScalingState:
    since = (now_s if state.idle_since_s is None else state.idle_since_s) if idle and state.wanted else None
    return msgspec.structs.replace(state, idle_since_s=since)


def _forget(state: ScalingState) -> ScalingState:
    return msgspec.structs.replace(state, above_since_s=None, above_least=0, below_since_s=None, below_most=0)


def _remember(state: ScalingState, wanted: int, now_s: float) -> ScalingState:
    """Note since when more, or fewer, than what is there would do."""
    n, change = state.wanted, msgspec.structs.replace
    if wanted > n:
        state = change(state, below_since_s=None, below_most=0)
        if state.above_since_s is None:
            return change(state, above_since_s=now_s, above_least=wanted)
        return change(state, above_least=min(state.above_least, wanted))
    state = change(state, above_since_s=None, above_least=0)
    if wanted == n:
        return change(state, below_since_s=None, below_most=0)
    if state.below_since_s is None:
        return change(state, below_since_s=now_s, below_most=wanted)
    return change(state, below_most=max(state.below_most, wanted))
