"""The rule, case by case, and over thousands of loads that nobody thought of."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.autoscaling import Decision, Load, Observation, ScalingState, ServingPolicy, decide

POLICY = ServingPolicy(min_replicas=1, max_replicas=8, target_wait_s=0.1, target_busy=0.7, up_window_s=1.0, down_window_s=60.0)
SLEEPY = msgspec.structs.replace(POLICY, min_replicas=0, idle_s=30.0)
LOOK_S = 0.25


def busy(n: int, share: float, **more: float) -> Observation:
    return Observation(loads=tuple(Load(busy=share, in_flight=1, answered=5, **more) for _ in range(n)))


def quiet(n: int) -> Observation:
    return Observation(loads=(Load(),) * n)


def after(
    policy: ServingPolicy, state: ScalingState, seen: Observation, for_s: float, start_s: float = 0.0
) -> tuple[Decision, ScalingState]:
    """The decision when one thing is seen all the time; stops at the first that changes anything."""
    for look in range(int(for_s / LOOK_S) + 1):
        decision, state = decide(policy, state, seen, start_s + look * LOOK_S)
        if decision.action != "hold":
            break
    return decision, state


# --- one thing at a time


def test_more_are_wanted_once_the_need_has_lasted_for_the_window() -> None:
    decision, state = decide(POLICY, ScalingState(wanted=1), busy(1, 1.0), 0.0)
    assert (decision.action, decision.cause, state.wanted) == ("hold", "window", 1)
    decision, state = decide(POLICY, state, busy(1, 1.0), 0.9)
    assert decision.action == "hold"
    decision, state = decide(POLICY, state, busy(1, 1.0), 1.0)
    assert (decision.action, decision.wanted, state.wanted) == ("up", 2, 2)


def test_a_blip_starts_the_window_anew() -> None:
    state = ScalingState(wanted=1)
    for look in range(400):
        seen = busy(1, 0.1) if look % 3 == 2 else busy(1, 1.0)
        decision, state = decide(POLICY, state, seen, look * LOOK_S)
        assert decision.action == "hold"


@pytest.mark.parametrize(("waiting_s", "to"), [(0.0, 2), (0.05, 3), (0.2, 4), (50.0, 4)])
def test_what_waits_counts_and_the_number_at_most_doubles(waiting_s: float, to: int) -> None:
    """One replica that works all the time and has ``waiting_s`` seconds of work waiting, from two wanted."""
    seen = Observation(loads=(Load(busy=1.0, work_s=waiting_s, in_flight=9), Load(busy=0.0)))
    decision, _ = after(POLICY, ScalingState(wanted=2), seen, 2.0)
    assert decision.wanted == to, decision


def test_nothing_more_is_started_while_some_are_starting() -> None:
    seen = Observation(loads=(Load(busy=1.0, in_flight=9, work_s=9.0),), starting=1)
    decision, state = after(POLICY, ScalingState(wanted=2), seen, 30.0)
    assert (decision.action, decision.cause, state.wanted) == ("hold", "starting", 2)


def test_fewer_only_after_the_long_window_and_to_the_most_needed_in_it() -> None:
    state = ScalingState(wanted=6)
    for look in range(240):
        seen = busy(6, 0.6 if look == 100 else 0.1)  # 3.6 / 0.7 = 6 are needed once, at 25 s
        decision, state = decide(POLICY, state, seen, look * LOOK_S)
        assert decision.action == "hold"
    decision, state = after(POLICY, state, busy(6, 0.1), 60.0, 60.0)
    assert (decision.action, decision.wanted) == ("down", 1)
    state = ScalingState(wanted=6)
    decision, state = decide(POLICY, state, busy(6, 0.3), 0.0)  # 1.8 / 0.7: three
    decision, state = after(POLICY, state, busy(6, 0.05), 61.0, LOOK_S)
    assert (decision.action, decision.wanted) == ("down", 3)


def test_it_sleeps_after_idle_s_and_not_while_anything_is_asked_for_or_on_its_way() -> None:
    decision, state = after(SLEEPY, ScalingState(wanted=3), quiet(3), 40.0)
    assert (decision.action, decision.cause, decision.wanted, state.wanted) == ("sleep", "idle", 0, 0)
    for seen in (
        Observation(loads=(Load(answered=1),)),
        Observation(loads=(Load(in_flight=1),)),
        Observation(loads=(Load(work_s=1e-6),)),
        Observation(loads=(Load(),), starting=1),
        Observation(loads=(Load(),), silent=1),
    ):
        decision, _ = after(SLEEPY, ScalingState(wanted=2), seen, 40.0)
        assert decision.wanted > 0, (seen, decision)
    decision, _ = after(POLICY, ScalingState(wanted=1), quiet(1), 4000.0)
    assert (decision.action, decision.wanted) == ("hold", 1)


def test_a_connection_wakes_it_at_once_and_it_stays_up_for_idle_s() -> None:
    decision, state = decide(SLEEPY, ScalingState(wanted=0), Observation(), 1000.0)
    assert (decision.action, decision.cause) == ("hold", "asleep")
    decision, state = decide(SLEEPY, state, Observation(waiting=True), 1000.1)
    assert (decision.action, decision.wanted) == ("wake", 1)
    decision, state = decide(SLEEPY, state, Observation(starting=1), 1000.2)
    assert decision.cause == "starting"
    decision, state = after(SLEEPY, state, quiet(1), 29.0, 1001.0)
    assert decision.action == "hold"
    decision, state = after(SLEEPY, state, quiet(1), 2.0, 1030.5)
    assert decision.action == "sleep"


def test_no_news_is_no_reason_to_act() -> None:
    decision, state = after(SLEEPY, ScalingState(wanted=2), Observation(), 600.0)
    assert (decision.action, decision.cause, state.wanted) == ("hold", "blind", 2)


def test_a_silent_replica_counts_as_wholly_busy_and_so_does_nonsense() -> None:
    for seen in (Observation(loads=(Load(busy=0.7),), silent=1), Observation(loads=(Load(busy=0.7), Load(busy=math.nan)))):
        decision, _ = after(POLICY, ScalingState(wanted=2), seen, 5.0)
        assert (decision.action, decision.wanted, decision.silent) == ("up", 3, 1)


def test_other_bounds_take_hold_at_once() -> None:
    narrow = msgspec.structs.replace(POLICY, max_replicas=2)
    decision, state = decide(narrow, ScalingState(wanted=6), busy(6, 1.0), 0.0)
    assert (decision.action, decision.cause, state.wanted) == ("down", "bounds", 2)
    decision, _ = decide(POLICY, ScalingState(wanted=0), quiet(0), 0.0)
    assert (decision.action, decision.cause, decision.wanted) == ("up", "bounds", 1)


def test_at_the_bounds_it_says_so() -> None:
    decision, _ = after(POLICY, ScalingState(wanted=8), busy(8, 1.0), 600.0)
    assert (decision.cause, decision.needed) == ("at-most", 12)
    four = msgspec.structs.replace(POLICY, min_replicas=4)
    decision, _ = after(four, ScalingState(wanted=4), busy(4, 0.1), 600.0)
    assert (decision.cause, decision.needed) == ("at-least", 1)


# --- whatever comes


loads = st.builds(
    Load,
    busy=st.floats(allow_nan=True, allow_infinity=True),
    work_s=st.floats(allow_nan=True, allow_infinity=True),
    in_flight=st.integers(0, 1000),
    answered=st.integers(0, 1000),
)
observations = st.builds(
    Observation, loads=st.lists(loads, max_size=5).map(tuple), silent=st.integers(0, 3), starting=st.integers(0, 3), waiting=st.booleans()
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(observations, st.floats(0.0, 20.0)), min_size=1, max_size=60), st.integers(0, 3), st.integers(0, 6))
def test_it_never_leaves_its_bounds_and_every_decision_says_why(steps: list[tuple[Observation, float]], least: int, more: int) -> None:
    policy = msgspec.structs.replace(SLEEPY, min_replicas=least, max_replicas=max(1, least + more))
    state, now_s = ScalingState(wanted=max(1, least)), 0.0
    for seen, past_s in steps:
        now_s += past_s
        before = state.wanted
        decision, state = decide(policy, state, seen, now_s)
        assert least <= state.wanted <= policy.max_replicas
        assert (decision.before, decision.wanted) == (before, state.wanted)
        assert (decision.action == "hold") == (before == state.wanted)
        assert decision.why
        assert math.isfinite(decision.demand)
        msgspec.json.encode(decision)


# --- simulated services


class Simulated:
    """A fluid queue of work behind ``n`` equal replicas, of which new ones are ready after ``start_s``; looked at every ``LOOK_S``."""

    def __init__(self, policy: ServingPolicy, wanted: int, rng: np.random.Generator, start_s: float = 0.5, noise: float = 0.1) -> None:
        self.policy, self.rng, self.start_s, self.noise = policy, rng, start_s, noise
        self.state = ScalingState(wanted=wanted)
        self.ready_at = [0.0] * wanted
        self.queue_s = 0.0
        self.now_s = 0.0
        self.longest_wait_s = 0.0
        self.moves: list[tuple[float, str, int]] = []
        self.asleep_with_work = 0

    def look(self, erlangs: float) -> None:
        """One look, with work arriving at ``erlangs`` seconds a second."""
        ready = sum(at <= self.now_s for at in self.ready_at)
        arriving_s = max(0.0, erlangs * (1 + self.noise * self.rng.standard_normal())) * LOOK_S
        done_s = min(self.queue_s + arriving_s, ready * LOOK_S)
        self.queue_s += arriving_s - done_s
        self.longest_wait_s = max(self.longest_wait_s, self.queue_s / max(ready, 1))
        share = done_s / (ready * LOOK_S) if ready else 0.0
        asked = int(arriving_s > 0)
        loads = tuple(Load(busy=share, work_s=self.queue_s / ready, in_flight=asked, answered=asked) for _ in range(ready))
        waiting = not self.ready_at and self.queue_s > 0
        decision, self.state = decide(
            self.policy, self.state, Observation(loads=loads, starting=len(self.ready_at) - ready, waiting=waiting), self.now_s
        )
        if decision.action != "hold":
            self.moves.append((self.now_s, decision.action, self.state.wanted))
            if decision.action == "sleep" and (arriving_s or self.queue_s):
                self.asleep_with_work += 1
        while len(self.ready_at) < self.state.wanted:
            self.ready_at.append(self.now_s + self.start_s)
        del self.ready_at[self.state.wanted :]
        self.now_s += LOOK_S

    def turns(self) -> int:
        """How often it went down after it had gone up."""
        ways = [action in ("up", "wake") for _, action, _ in self.moves]
        return sum(first and not second for first, second in pairwise(ways))


def random_load(rng: np.random.Generator, looks: int) -> np.ndarray:
    """Erlangs over time: steps, ramps, waves, bursts and silence, mixed."""
    at = np.arange(looks) * LOOK_S
    load = np.full(looks, rng.uniform(0, 4))
    load += rng.uniform(0, 2) * np.sin(2 * np.pi * at / rng.uniform(2, 300))
    for _ in range(rng.integers(0, 6)):
        load[rng.integers(looks) :] += rng.uniform(-3, 3)
    for _ in range(rng.integers(0, 10)):
        begin = rng.integers(looks)
        load[begin : begin + rng.integers(1, 40)] += rng.uniform(0, 10)
    if rng.random() < 0.5:
        begin = rng.integers(looks)
        load[begin : begin + rng.integers(1, looks)] = 0.0
    return np.maximum(load, 0.0)


@pytest.mark.parametrize("least", [0, 1])
def test_a_thousand_random_loads_no_flapping_and_no_sleep_at_work(least: int) -> None:
    """500 services for 600 looks each: downs keep their distance, which bounds the turns, whatever the load does."""
    rng = np.random.default_rng(7 + least)
    policy = msgspec.structs.replace(SLEEPY, min_replicas=least, down_window_s=15.0, idle_s=8.0)
    looks = 600
    for _ in range(500):
        service = Simulated(policy, max(1, least), rng, start_s=rng.uniform(0.05, 5.0), noise=rng.uniform(0, 0.5))
        for erlangs in random_load(rng, looks):
            service.look(float(erlangs))
            assert least <= service.state.wanted <= policy.max_replicas
        assert service.asleep_with_work == 0
        last_s = -math.inf
        for at_s, action, _ in service.moves:
            if action == "down":
                assert at_s - last_s >= policy.down_window_s
            if action == "up":
                assert at_s - last_s >= policy.up_window_s
            last_s = at_s
        downs = sum(action == "down" for _, action, _ in service.moves)
        sleeps = sum(action == "sleep" for _, action, _ in service.moves)
        span_s = looks * LOOK_S
        assert downs <= span_s / policy.down_window_s + 1
        assert sleeps <= span_s / policy.idle_s + 1
        assert service.turns() <= span_s / policy.down_window_s + span_s / policy.idle_s * (least == 0) + 1


def test_a_steady_load_with_noise_settles_and_stays() -> None:
    """The reason for the windows: at any steady load, noisy by 20 %, the number moves at most a few times and then no more."""
    rng = np.random.default_rng(3)
    for erlangs in np.linspace(0.05, 5.0, 40):
        service = Simulated(POLICY, 1, rng, noise=0.2)
        for _ in range(4800):
            service.look(float(erlangs))
        assert len(service.moves) <= 6, (erlangs, service.moves)
        assert service.turns() <= 1
        assert service.state.wanted * 1.0 > erlangs
        assert not [move for move in service.moves if move[0] > 400.0], (erlangs, service.moves)


@pytest.mark.parametrize("to", [2.0, 4.0, 5.0])
def test_a_step_in_load_is_answered_in_seconds(to: float) -> None:
    """From 0.3 erlangs to ``to``: enough replicas are ready within log2 steps of window plus start, and the backlog is gone soon after."""
    policy, start_s = POLICY, 0.5
    service = Simulated(policy, 1, np.random.default_rng(1), start_s=start_s, noise=0.0)
    for _ in range(40):
        service.look(0.3)
    begin_s = service.now_s
    while sum(at <= service.now_s for at in service.ready_at) < to:
        service.look(to)
        assert service.now_s - begin_s < 30.0
    doublings = math.ceil(math.log2(to)) + 1
    assert service.now_s - begin_s <= doublings * (policy.up_window_s + start_s + 2 * LOOK_S)
    while service.queue_s > policy.target_wait_s:
        service.look(to)
        assert service.now_s - begin_s < 30.0
