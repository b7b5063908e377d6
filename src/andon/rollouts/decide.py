"""What to do about a rollout: pure decisions, one look at a time, and the fold that remembers them.

The hands call :func:`decide` at each look, carry its action out and journal it; :func:`fold` makes the next state of the journal. The order
of the questions is the order of their weight: is it broken, is anybody hurt, can the arms be compared, is it time, is it proven.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from andon.core.clocks import MINUTE_US
from andon.core.errors import Conflict
from andon.releases.splits import WHOLE
from andon.rollouts.records import (
    Aborted,
    Action,
    Ended,
    Held,
    Inputs,
    Judged,
    Observation,
    Overruled,
    Paused,
    Phase,
    Promoted,
    Rebased,
    Resumed,
    Rollout,
    Started,
    Stepped,
    Waited,
)
from andon.rollouts.strategies import AB, BlueGreen, Canary, Shadow, share_of

WARM_US = 30 * MINUTE_US
"""How long a candidate may take to be loaded everywhere, building its environment included."""
DEATHS = 3
"""So many requests that died with the candidate's process are no accident."""
BREAKER_LEAST, BREAKER_SHARE = 20, 0.5
"""Of the candidate's newest requests, this many at least must be known, and more than this share have failed, for the breaker to open: it
needs no control, and so it also watches over a switch that left none."""


def decide(state: Rollout, seen: Observation, now_us: int) -> Action:
    """The one thing to do now; doing nothing is an action with a reason.

    >>> from andon.rollouts.strategies import canary
    >>> state = Rollout(id="rollout:1", service="s", candidate="release:s@2", baseline="release:s@1", strategy=canary(), policy={})
    >>> decide(state, Observation(production="release:s@1"), 0).why
    'no replica of service:s is ready'
    """
    inputs = _inputs(state, seen)
    if state.over:
        return Waited(at_us=now_us, why=f"it is {state.phase}", inputs=inputs)
    return (
        _moved_under(state, seen, now_us, inputs)
        or _unfit(state, seen, now_us, inputs)
        or _broken(state, seen, now_us, inputs)
        or _warm_up(state, seen, now_us, inputs)
        or _hurt(state, seen, now_us, inputs)
        or _go_on(state, seen, now_us, inputs)
    )


def by_hand(state: Rollout, verb: str, now_us: int, why: str) -> Action:
    """What a person asks for: ``promote``, ``abort``, ``end``, ``pause`` or ``resume``. Raises ``Conflict`` when it makes no sense now."""
    if state.over:
        raise Conflict(f"this rollout is {state.phase} already", rollout=state.id, next_step=f"andon show {state.id}")
    if verb == "abort":
        return Aborted(at_us=now_us, why=why)
    if verb == "end" or (verb == "promote" and state.phase == "keeping"):
        return Ended(at_us=now_us, why=why)
    if verb == "promote":
        return Promoted(at_us=now_us, why=why, keep=keeps(state))
    if verb == "pause" and not state.paused:
        return Paused(at_us=now_us, why=why)
    if verb == "resume" and (state.paused or state.phase == "undecided"):
        return Resumed(at_us=now_us, why=why)
    raise Conflict("it is paused already" if verb == "pause" else "it is neither paused nor held", rollout=state.id)


def keeps(state: Rollout) -> bool:
    """Whether the old release stays for a while once the candidate has production."""
    return isinstance(state.strategy, BlueGreen) or (isinstance(state.strategy, Canary) and state.strategy.holdback > 0)


def _inputs(state: Rollout, seen: Observation) -> Inputs:
    judged = seen.judgement
    return {
        "phase": state.phase,
        "step": float(state.step),
        "production": seen.production,
        "replicas": float(len(seen.replicas)),
        "loaded": float(sum(replica.holds for replica in seen.replicas)),
        "units": float(seen.units),
        "deaths": float(seen.deaths),
        "latest": float(seen.latest),
        "latest_failed": float(seen.latest_failed),
        "incidents": ", ".join(seen.incidents),
        "unfit": seen.unfit,
        "harm": "; ".join(judged.harm),
        "unproven": "; ".join(judged.unproven),
        "mismatch": judged.mismatch,
    }


def _moved_under(state: Rollout, seen: Observation, at: int, inputs: Inputs) -> Action | None:
    if seen.production == state.production:
        return None
    if isinstance(state.strategy, Shadow) and seen.production is not None:
        if seen.production == state.candidate:
            return Ended(at_us=at, why="the shadow itself holds production now", inputs=inputs)
        return Rebased(at_us=at, why=f"{seen.production} holds production now", inputs=inputs, baseline=seen.production)
    return Ended(at_us=at, why=f"production was moved to {seen.production or 'nothing'} from outside", inputs=inputs)


def _unfit(state: Rollout, seen: Observation, at: int, inputs: Inputs) -> Action | None:
    """What no channel would take now gets no share either; once it holds production, that is production's affair."""
    if not seen.unfit or state.phase == "keeping":
        return None
    return Ended(at_us=at, why=f"the candidate may not be deployed any more: {seen.unfit}", inputs=inputs)


def _broken(state: Rollout, seen: Observation, at: int, inputs: Inputs) -> Action | None:
    """What needs no statistics."""
    failing = [replica for replica in seen.replicas if replica.problem and not replica.holds]
    if failing and (state.phase == "warming" or len(failing) == len(seen.replicas)):
        return Aborted(at_us=at, why=f"the candidate cannot run: {failing[0].problem}", inputs=inputs)
    if seen.deaths >= DEATHS:
        return Aborted(at_us=at, why=f"the candidate's process died under {DEATHS} requests or more", inputs=inputs)
    if seen.latest >= BREAKER_LEAST and seen.latest_failed > BREAKER_SHARE * seen.latest:
        return Aborted(at_us=at, why="most of the candidate's latest requests failed", inputs=inputs)
    return None


def _warm_up(state: Rollout, seen: Observation, at: int, inputs: Inputs) -> Action | None:
    if state.phase != "warming":
        return None
    if not seen.replicas:
        why = f"no replica of service:{state.service} is ready"
        return Waited(at_us=at, why=why, inputs=inputs)
    if not all(replica.holds for replica in seen.replicas):
        if at - state.since_us > WARM_US:
            return Aborted(at_us=at, why="the candidate was not loaded everywhere after 30 minutes", inputs=inputs)
        return Waited(at_us=at, why="the candidate is being loaded", inputs=inputs)
    stop = _standstill(state, seen)
    if stop:
        return Waited(at_us=at, why=stop, inputs=inputs)
    if isinstance(state.strategy, BlueGreen):
        return Promoted(at_us=at, why="the candidate is warm in every replica", inputs=inputs, keep=True)
    return Stepped(at_us=at, why="the candidate is warm in every replica", inputs=inputs, step=0, share=_share_at(state, 0))


def _hurt(state: Rollout, seen: Observation, at: int, inputs: Inputs) -> Action | None:
    if seen.judgement.mismatch:
        if state.phase == "running":
            return Held(at_us=at, why=seen.judgement.mismatch, inputs=inputs)
        return None  # nothing is compared, so nothing is proven: neither harm nor the lack of it
    if seen.judgement.harm:
        return Aborted(at_us=at, why=seen.judgement.harm[0], inputs=inputs)
    return None


def _go_on(state: Rollout, seen: Observation, at: int, inputs: Inputs) -> Action:
    strategy = state.strategy
    if state.phase == "keeping":
        keep_us = strategy.keep_us if isinstance(strategy, BlueGreen) else strategy.holdback_us if isinstance(strategy, Canary) else 0
        if at - state.since_us >= keep_us:
            return Ended(at_us=at, why="nothing has spoken against the candidate", inputs=inputs)
        return Waited(at_us=at, why="the old release is kept for a while", inputs=inputs)
    if state.phase == "undecided":
        return Waited(at_us=at, why=f"undecided ({state.why}): a person promotes, aborts or resumes", inputs=inputs)
    if isinstance(strategy, Shadow):
        if strategy.for_us is not None and at - state.since_us >= strategy.for_us:
            return Ended(at_us=at, why="the shadow's time is over", inputs=inputs)
        return Waited(at_us=at, why="the shadow is compared", inputs=inputs)
    stop = _standstill(state, seen)
    if stop:
        return Waited(at_us=at, why=stop, inputs=inputs)
    if not isinstance(strategy, Shadow | BlueGreen) and at - state.deadline_from_us >= strategy.deadline_us:
        return Held(at_us=at, why="the deadline has passed without a proof", inputs=inputs)
    if isinstance(strategy, AB):
        return _test(strategy, seen, at, inputs)
    assert isinstance(strategy, Canary)
    return _climb(state, strategy, seen, at, inputs)


def _standstill(state: Rollout, seen: Observation) -> str:
    """Why it must stay where it is, whatever is proven."""
    if state.paused:
        return "paused by a person"
    if seen.incidents:
        return f"{seen.incidents[0]} is open: no step while the line is stopped"
    if not seen.replicas:
        return f"no replica of service:{state.service} is ready"
    if not all(replica.holds for replica in seen.replicas):
        return "a replica does not hold the candidate"
    return ""


def _test(strategy: AB, seen: Observation, at: int, inputs: Inputs) -> Action:
    if strategy.rule == "person":
        return Waited(at_us=at, why="a person decides this test", inputs=inputs)
    if seen.judgement.winner == "candidate":
        return Promoted(at_us=at, why=f"{strategy.metric} is proven better", inputs=inputs, keep=False)
    if seen.judgement.winner == "control":
        return Ended(at_us=at, why=f"{strategy.metric} is proven worse", inputs=inputs)
    return Waited(at_us=at, why=f"{strategy.metric} is not proven better or worse", inputs=inputs)


def _climb(state: Rollout, strategy: Canary, seen: Observation, at: int, inputs: Inputs) -> Action:
    highest = len(strategy.steps) - 2
    if at - state.since_us < strategy.step_us:
        return Waited(at_us=at, why=f"step {state.step + 1} has not lasted long enough", inputs=inputs)
    if state.step < highest:
        if seen.units < strategy.step_units:
            return Waited(at_us=at, why=f"step {state.step + 1} has not had {strategy.step_units} units", inputs=inputs)
        why = f"step {state.step + 1} is over and nobody is proven to be hurt"
        return Stepped(at_us=at, why=why, inputs=inputs, step=state.step + 1, share=_share_at(state, state.step + 1))
    if seen.judgement.unproven:
        return Waited(at_us=at, why=_not_proven(seen.judgement.unproven), inputs=inputs)
    if strategy.promotion == "by-hand":
        return Waited(at_us=at, why="proven to be no worse; a person promotes it", inputs=inputs)
    return Promoted(at_us=at, why="proven to be no worse", inputs=inputs, keep=keeps(state))


def _not_proven(unproven: tuple[str, ...]) -> str:
    """The same words for as long as the same things are not proven: the numbers are in the inputs."""
    return "not proven yet: " + ", ".join(sorted(item.partition(":")[0] for item in unproven))


def _share_at(state: Rollout, step: int) -> int:
    strategy = state.strategy
    if isinstance(strategy, Canary):
        return share_of(strategy.steps[step])
    return share_of(strategy.share) if isinstance(strategy, AB | Shadow) else 0


def fold(state: Rollout, actions: Iterable[Action]) -> Rollout:
    """The state after these actions. Each one that is journaled counts one event."""
    for action in actions:
        state = _apply(state, action)
    return state


def begin(id_: str, started: Started) -> Rollout:
    """The state after the first event."""
    return Rollout(
        id=id_,
        service=started.service,
        candidate=started.candidate,
        baseline=started.baseline,
        strategy=started.strategy,
        policy=started.policy,
        started_us=started.at_us,
        since_us=started.at_us,
        deadline_from_us=started.at_us,
        why=started.why,
        last_event=1,
    )


def _apply(state: Rollout, action: Action) -> Rollout:
    counted = msgspec.structs.replace(state, last_event=state.last_event + 1)
    if isinstance(action, Waited):
        return msgspec.structs.replace(counted, said=action.why)
    if isinstance(action, Judged):
        return msgspec.structs.replace(counted, statuses=state.statuses | action.statuses)
    moved = msgspec.structs.replace(counted, said="", why=action.why, since_us=action.at_us)
    at = action.at_us
    if isinstance(action, Stepped):
        first = {"deadline_from_us": at} if state.phase == "warming" else {}
        cuts = (*state.cuts, 0 if isinstance(state.strategy, Shadow) else action.share)
        return msgspec.structs.replace(moved, phase="running", step=action.step, stage=state.stage + 1, cuts=cuts, **first)
    if isinstance(action, Promoted):
        if not action.keep:
            return _over(moved, "promoted", at)
        held_back = share_of(state.strategy.holdback) if isinstance(state.strategy, Canary) else 0
        cuts = (*state.cuts, WHOLE - held_back)
        return msgspec.structs.replace(moved, phase="keeping", stage=state.stage + 1, cuts=cuts, paused=False)
    if isinstance(action, Aborted):
        return _over(moved, "aborted", at)
    if isinstance(action, Ended):
        return _over(moved, "promoted" if state.phase == "keeping" else "ended", at)
    if isinstance(action, Overruled):
        return _over(moved, _overruled(state, action), at)
    if isinstance(action, Held):
        return msgspec.structs.replace(moved, phase="undecided", since_us=state.since_us)
    if isinstance(action, Rebased):
        cuts = (*state.cuts, state.cuts[-1])
        return msgspec.structs.replace(moved, baseline=action.baseline, stage=state.stage + 1, cuts=cuts, since_us=state.since_us)
    if isinstance(action, Paused):
        return msgspec.structs.replace(moved, paused=True, since_us=state.since_us)
    if isinstance(action, Resumed):
        phase: Phase = "running" if state.phase == "undecided" else state.phase
        return msgspec.structs.replace(moved, phase=phase, paused=False, since_us=state.since_us, deadline_from_us=at)
    return moved  # started: the first event, which begin() has read


def _overruled(state: Rollout, action: Overruled) -> Phase:
    """Rolled back from production it was aborted; deployed past then, it had been promoted; else it ended before it was anything."""
    if state.phase != "keeping":
        return "ended"
    return "aborted" if action.by == "rolled-back" else "promoted"


def _over(state: Rollout, phase: Phase, at: int) -> Rollout:
    return msgspec.structs.replace(state, phase=phase, ended_us=at, paused=False)
