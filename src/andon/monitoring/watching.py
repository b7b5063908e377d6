"""Judging a service window by window, in event time: what is due, from what the logs hold, with the state carried along.

A window is judged once a request with a later event time has been answered: its inputs at once, the quality of the newest window whose
labels are due (``Policy.label_delay_us`` later) at the same moment. A label counts if it was known by then, so the same events always give
the same verdicts, whatever the wall clock. A row that comes after its window was judged changes no verdict; it counts where later windows
look back. The first window is that of the launch: what was late even then opens none. Of a long silence the first windows are judged,
until nothing of it is left to judge; the rest is passed over in one step.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict

import msgspec
import numpy as np

from andon import releases
from andon.core.addresses import Address
from andon.core.clocks import DAY_US, to_iso
from andon.core.errors import AndonError, Unavailable
from andon.core.verdicts import Verdict
from andon.monitoring.comparison import ComparisonState, judge_comparison
from andon.monitoring.drift import judge_drift
from andon.monitoring.inputs import InputsState, judge_inputs
from andon.monitoring.quality import QualityState, judge_quality
from andon.monitoring.records import Frame, Policy
from andon.monitoring.served import Born, Replay, born, policy_of, replay_or_none, served_frame, typed, unwatched
from andon.registry import get, manifest_of
from andon.releases import ReleaseManifest
from andon.store import Store
from andon.telemetry import Reach, first_us, reach

HISTORY_US = 28 * DAY_US
"""How much of the log before a window is read: the season, the long runs, and what triage looks back over."""
DIGEST_US = 7 * DAY_US
"""How often the drift digest is written; it covers ``HISTORY_US``."""


HISTORY_ROWS = 100_000
"""About how many rows of that history are read. The judged windows are read whole; what came before says what is usual, and there a
sample says as much."""


def thinning(rows: int) -> int:
    """One in how many requests of a history of ``rows`` is enough: a power of two, so that neighbouring windows see the same ones.

    >>> thinning(90_000), thinning(5_600_000)
    (1, 64)
    """
    return 1 << max(0, math.ceil(math.log2(max(1, rows) / HISTORY_ROWS)))


class WatchState(msgspec.Struct, frozen=True, kw_only=True):
    """Where the monitors of one service are. ``next_us`` is the start of the next window; None before the first request."""

    next_us: int | None = None
    inputs: InputsState = InputsState()
    quality: QualityState = QualityState()
    comparison: ComparisonState = ComparisonState()


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One judged window. ``born`` and ``served`` are None when the release was made without anything to compare with; ``passed_over``
    says why a stretch of windows has no verdicts."""

    at_us: int
    release: str
    verdicts: tuple[Verdict, ...]
    state: WatchState
    policy: Policy
    born: Born | None = None
    served: Frame | None = None
    passed_over: str = ""


class Watcher:
    """Judges windows; keeps what releases were born with in memory, so one watcher should live as long as the process."""

    def __init__(self, replay: Replay) -> None:
        self.replay = typed(replay)
        self._born: OrderedDict[tuple[object, ...], Born] = OrderedDict()

    def judge_next(self, store: Store, service: str, state: WatchState) -> Judged | None:
        """Judge the next window that is due, or None when none is. Writes nothing."""
        policy = policy_of(store, service)
        first = _first_us(store, service, policy) if state.next_us is None else None
        if state.next_us is None:
            if first is None:
                return None
            state = msgspec.structs.replace(state, next_us=first // policy.window_us * policy.window_us)
        assert state.next_us is not None
        start, end = state.next_us, state.next_us + policy.window_us
        # From here on back nothing is left to judge: neither this window nor the one whose labels are due now, and the one before was
        # judged to be empty.
        silent_since = min(start, policy.matured(end) - policy.window_us) - policy.window_us
        seen = reach(store, service, silent_since, end)
        if seen.next_us is None:
            return None
        if not seen.rows:
            resumed = seen.next_us // policy.window_us * policy.window_us
            why = f"nothing was asked between {to_iso(silent_since)} and {to_iso(seen.next_us)}"
            moved_on = msgspec.structs.replace(state, next_us=resumed)
            return Judged(at_us=resumed, release="", verdicts=(), state=moved_on, policy=policy, passed_over=why)
        judged = self._judge(store, service, state, (start, end), policy, seen)
        if first is not None and first > start:
            inputs = msgspec.structs.replace(judged.state.inputs, counts=())  # a part of a window is no count of one
            judged = msgspec.structs.replace(
                judged,
                verdicts=tuple(_unless_counted(verdict, first) for verdict in judged.verdicts),
                state=msgspec.structs.replace(judged.state, inputs=inputs),
            )
        return judged

    def _judge(self, store: Store, service: str, state: WatchState, window: tuple[int, int], policy: Policy, seen: Reach) -> Judged:
        began = time.perf_counter()
        start, end = window
        live = _live(store, service, end, seen.arrived_us)
        subject = str(Address("service", service))
        moved_on = msgspec.structs.replace(state, next_us=end)
        if live is None:
            return Judged(at_us=end, release="", verdicts=(), state=moved_on, policy=policy, passed_over="nothing held production")
        try:
            known = self.born(store, live, policy)
        except Unavailable:
            raise  # the disk or the ledger is away for a while: this window waits for it
        except AndonError as error:
            # What the release was born with is not there, is damaged, or cannot be run: said in every window, and no page for it.
            message = f"{error.message} ({error.next_step})" if error.next_step else error.message
            verdict = Verdict(subject=subject, check="live-quality", status="undecided", message=message, at_us=end, window_us=window)
            return Judged(at_us=end, release=live, verdicts=(verdict,), state=moved_on, policy=policy)
        judged_from = min(start, policy.matured(end) - policy.window_us)
        windows = (end - judged_from) // policy.window_us + 1  # what `seen` counted, with the window before
        thin = thinning(seen.rows // windows * (HISTORY_US // policy.window_us))
        served = served_frame(store, known.manifest, start - HISTORY_US, end, end, thin=thin, whole_from_us=judged_from)
        verdicts, after = self._checks(store, known, state, served, window, subject, policy)
        elapsed_ms = (time.perf_counter() - began) * 1000 / max(1, len(verdicts))
        stamped = tuple(msgspec.structs.replace(verdict, at_us=end, duration_ms=elapsed_ms) for verdict in verdicts)
        after = msgspec.structs.replace(after, next_us=end)
        return Judged(at_us=end, release=live, verdicts=stamped, state=after, policy=policy, born=known, served=served)

    def _checks(
        self, store: Store, known: Born, state: WatchState, served: Frame, window: tuple[int, int], subject: str, policy: Policy
    ) -> tuple[list[Verdict], WatchState]:
        input_verdicts, inputs = judge_inputs(known.profile, state.inputs, served, window, subject=subject, policy=policy)
        verdicts = list(input_verdicts)
        due = policy.matured(window[1])
        labelled = (due - policy.window_us, due)
        quality_verdict, quality = judge_quality(
            known.expected, state.quality, served.between(0, due), labelled, subject=subject, release=known.address, policy=policy
        )
        rows = served.between(*labelled)
        previous = releases.rollback_target(store, known.manifest.service) or ""
        previous = "" if previous == known.address else previous  # an old window, judged after a rollback to what was live in it
        other = manifest_of(get(store, previous), ReleaseManifest) if previous else None
        answers = replay_or_none(self.replay, other, rows) if len(rows) and np.isfinite(rows.label).any() else None
        comparison_verdict, comparison = judge_comparison(
            state.comparison, rows, answers, labelled, subject=subject, release=known.address, previous=previous, policy=policy
        )
        verdicts += [quality_verdict, comparison_verdict]
        if message := unwatched(known.manifest):
            verdicts.append(Verdict(subject=subject, check="tensor-inputs", status="undecided", message=message, window_us=window))
        if window[1] // policy.window_us * policy.window_us % DIGEST_US < policy.window_us:
            span = (window[1] - HISTORY_US, window[1])
            reference = known.reference
            verdicts.append(
                judge_drift(known.profile, reference.training, reference.importance, served, span, subject=subject, policy=policy)
            )
        after = WatchState(inputs=inputs, quality=quality, comparison=comparison)
        return verdicts, after

    def born(self, store: Store, release: str, policy: Policy) -> Born:
        """What a release was born with, computed on first use. Raises ``NotFound`` when it was made without."""
        key = (release, policy.window_us, policy.period_us, policy.loss)
        if key not in self._born:
            self._born[key] = born(store, release, policy, self.replay)
            while len(self._born) > 4:
                self._born.popitem(last=False)
        return self._born[key]


def _unless_counted(verdict: Verdict, first_us: int) -> Verdict:
    """A service that went live in the evening has not lost the morning's rows."""
    if verdict.check != "inputs/volume":
        return verdict
    why = f"the first request came at {to_iso(first_us)}; a whole window is needed"
    return msgspec.structs.replace(verdict, status="undecided", message=why, slices=())


def _first_us(store: Store, service: str, policy: Policy) -> int | None:
    """The first request since the service began, which says where its windows begin.

    It began with its first deploy, in that deploy's event time. If nobody gave one, the service lives in wall time: a request that names
    an event long before it arrived, and before the deploy, is late data and opens no window.
    """
    launch = next((turn for turn in releases.turns(store, service) if turn.channel == releases.PRODUCTION), None)
    if launch is None:
        return first_us(store, service)
    if launch.event_us is not None:
        return first_us(store, service, since_us=launch.event_us // policy.window_us * policy.window_us)
    return first_us(store, service, late_us=policy.late_us, launched_us=launch.at_us, replay_rows=max(2, policy.min_rows))


def _live(store: Store, service: str, end_us: int, arrived_us: int | None) -> str | None:
    """The release that held production at a window's end.

    A move counts if it was made before: by its event time, or, if nobody gave one, if the window's newest request came in after it. So a
    controller that repeats a window after a crash, or catches up with a week, sees the same release as the first time.
    """
    turns = [turn for turn in releases.turns(store, service) if turn.channel == releases.PRODUCTION]

    def before(turn: releases.Turn) -> bool:
        if turn.event_us is not None:
            return turn.event_us < end_us
        return arrived_us is None or turn.at_us <= arrived_us

    earlier = [turn for turn in turns if before(turn)]
    chosen = earlier[-1:] or turns[:1]
    return chosen[0].release if chosen else None
