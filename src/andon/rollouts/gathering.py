"""From the logs to what the analysis takes: which units are new, in which order, with which chances, and what they did.

Nothing is kept in this process: what was read is said by the marks in :class:`Memory`, and who was seen before is asked of the log itself.
So a controller that was killed goes on where the last transaction left it, and no unit counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from andon.core.clocks import SECOND_US
from andon.gates.losses import loss
from andon.releases.splits import WHOLE
from andon.rollouts.analysis.folding import start, update
from andon.rollouts.analysis.records import AnalysisState, Block, Floats
from andon.rollouts.analysis.units import Place, enter
from andon.rollouts.policies import RolloutPolicy
from andon.rollouts.records import LATEST, Rollout
from andon.rollouts.strategies import duration_us
from andon.store import Store
from andon.telemetry.exposed import Mark, answers, arrived, done_after, exposed, losses, outcomes, seen_before

if TYPE_CHECKING:
    import pyarrow as pa

LATE_US = 2 * SECOND_US
"""Rows of other replicas are on the shared disk this long after they were written."""
SOUND = frozenset({"ok", "invalid-input", "too-large", "not-found", "forbidden", "client-gone", "loading-here"})
"""Statuses that are no failing of the release: the caller's own mistakes, callers who left (their patience is its latency), and a new
replica that still loads what the others have."""
DIED = "runner-died"
BEHIND_US, MOST_ROWS = 60 * SECOND_US, 200_000
"""A controller that was away for longer than that reads so many exposures at a look, so that the split's lease is renewed meanwhile."""
BACK_US = 60 * SECOND_US
"""A clock that was put back by more than this begins the comparison again: else nothing would be read before it is there again."""
QUICK_LEAST = 30
"""So many of the candidate's answers say how long answers take."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one arm at one stage, each counted once, as they were done."""

    requests: int = 0
    failed: int = 0
    died: int = 0
    units: int = 0
    """Units that were compared."""
    slowest_ms: float = 0.0


class Pairs(msgspec.Struct, frozen=True, kw_only=True):
    """What a shadow said beside production, at one stage: request by request, of each unit its first."""

    stage: int = -1
    until_us: int = 0
    n: int = 0
    compared: int = 0
    """Pairs of which both said something, …"""
    agreed: int = 0
    """… and both the same."""
    differences: tuple[int, ...] = ()
    """How far the shadow's numbers were from production's: counts by size, relative to production's, on ``GRID``."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout's controller remembers between two looks; saved in the transaction of what it led to."""

    mark: Mark = Mark()
    matured_us: dict[str, int] = {}
    """Metric -> units that arrived before were compared by it."""
    analysis: AnalysisState | None = None
    tallies: dict[str, Tally] = {}
    """``STAGE/ARM`` (arm 0: the old release, 1: the candidate) -> what it did."""
    pairs: Pairs = Pairs()
    """A shadow's."""
    latest: str = ""
    """The candidate's newest requests, oldest first: ``.`` well, ``x`` failed."""

    def tally(self, stage: int, arm: int) -> Tally:
        """What an arm did at a stage."""
        return self.tallies.get(f"{stage}/{arm}", Tally())


class Told(msgspec.Struct, frozen=True):
    """What is asked of the answers: the output that is the score (None: it is no number), and the columns of slices."""

    output: str | None
    slices: tuple[str, ...] = ()


def gather(store: Store, state: Rollout, memory: Memory, policy: RolloutPolicy, told: Told, now_us: int) -> Memory:
    """The memory after everything that can be known by now. Reads the logs, writes nothing; the same logs give the same memory."""
    if memory.mark.done_us - now_us > BACK_US:
        memory = _again(policy, now_us)
    done_us = max(memory.mark.done_us, now_us - LATE_US)  # a clock that goes back must not make anything unread again
    if done_us - memory.mark.done_us > BEHIND_US:
        done_us = min(done_us, done_after(store, state.service, state.id, memory.mark.done_us, MOST_ROWS) or done_us)
    rows = exposed(store, state.service, state.id, memory.mark, done_us)
    after = _count(memory, state, rows)
    analysis = before = memory.analysis or start(policy.analysis)
    settled_us = max(memory.mark.arrived_us, done_us - _settle_us(after, state, policy))
    if rows.num_rows:
        settled = rows.filter(_below(rows, "arrival_us", settled_us))
        known = _places(state, seen_before(store, state.service, state.id, memory.mark, settled.column("unit").unique().to_pylist()))
        found = answers(store, state.service, settled, told.output, told.slices)
        for stage, block, units in _blocks(state, settled, known, found, told):
            analysis = update(analysis, block, policy.analysis, stage=stage)
            after = _units_seen(after, stage, units)
    after = msgspec.structs.replace(after, mark=Mark(settled_us, done_us))
    matured = dict(memory.matured_us)
    for metric in policy.analysis.metrics:
        until_us = settled_us - policy.delay_us(metric.name)
        since_us = matured.get(metric.name, state.started_us)
        if until_us > since_us:
            analysis = _mature(store, state, analysis, policy, told, metric.name, since_us, until_us)
            matured[metric.name] = until_us
    return msgspec.structs.replace(after, analysis=memory.analysis if analysis is before else analysis, matured_us=matured)


def _again(policy: RolloutPolicy, now_us: int) -> Memory:
    """A memory that knows nothing from before an instant, so that what is read again later is counted once."""
    return Memory(mark=Mark(now_us, now_us), matured_us={metric.name: now_us for metric in policy.analysis.metrics})


def shares(state: Rollout, stage: int) -> tuple[int, int]:
    """The old release's and the candidate's share at a stage; the candidate's places are the lower ones at every stage."""
    cut = state.cuts[stage] if 0 <= stage < len(state.cuts) else 0
    return WHOLE - cut, cut


def failed(status: str) -> bool:
    """Whether a status is a failing of the server's making."""
    return status not in SOUND


def _settle_us(memory: Memory, state: Rollout, policy: RolloutPolicy) -> int:
    """How long to wait for slow answers. While the candidate has hardly answered: the policy's time; then some times its slowest."""
    longest_us = duration_us(policy.settle, "settle")
    control, candidate = memory.tally(state.stage, 0), memory.tally(state.stage, 1)
    if candidate.requests < QUICK_LEAST or control.requests < QUICK_LEAST:
        return longest_us
    return min(longest_us, max(SECOND_US // 2, int(3_000 * max(control.slowest_ms, candidate.slowest_ms))))


def _count(memory: Memory, state: Rollout, rows: pa.Table) -> Memory:
    """Count requests as they are done, the pending ones of the last look not again."""
    if not rows.num_rows:
        return memory
    fresh = rows.filter(_below(rows, "done_us", memory.mark.done_us, negate=True)).sort_by("done_us")
    tallies, latest = dict(memory.tallies), memory.latest
    columns = (fresh.column(name).to_pylist() for name in ("stage", "release", "status", "latency_ms"))
    for stage, release, status, latency_ms in zip(*columns, strict=True):
        arm = _arm(state, release)
        if arm is None:
            continue
        bad = failed(status)
        old = tallies.get(f"{stage}/{arm}", Tally())
        tallies[f"{stage}/{arm}"] = msgspec.structs.replace(
            old,
            requests=old.requests + 1,
            failed=old.failed + bad,
            died=old.died + (status == DIED),
            slowest_ms=max(old.slowest_ms, float(latency_ms)),
        )
        if arm:
            latest = (latest + ("x" if bad else "."))[-LATEST:]
    return msgspec.structs.replace(memory, tallies=tallies, latest=latest)


def _units_seen(memory: Memory, stage: int, units: tuple[int, int]) -> Memory:
    tallies = dict(memory.tallies)
    for arm, n in enumerate(units):
        old = memory.tally(stage, arm)
        tallies[f"{stage}/{arm}"] = msgspec.structs.replace(old, units=old.units + n)
    return msgspec.structs.replace(memory, tallies=tallies)


def _arm(state: Rollout, release: str) -> int | None:
    return 1 if release == state.candidate else 0 if release == state.baseline else None


def _places(state: Rollout, before: Sequence[tuple[str, int, str]]) -> dict[str, Place]:
    """What is known of units from the stages they were seen in."""
    known: dict[str, Place] = {}
    for stage in sorted({stage for _, stage, _ in before}):
        seen = [(unit, arm) for unit, at, release in before if at == stage and (arm := _arm(state, release)) is not None]
        if seen:
            known |= enter(known, [unit for unit, _ in seen], [arm for _, arm in seen], shares(state, stage), stage).places
    return known


def _blocks(
    state: Rollout, rows: pa.Table, known: dict[str, Place], found: dict[tuple[str, str], dict[str, Any]], told: Told
) -> list[tuple[int, Block, tuple[int, int]]]:
    """Units that enter a stage, stage by stage; ``known`` is brought up to date."""
    import pyarrow.compute as pc

    blocks = []
    for stage in sorted(set(rows.column("stage").to_pylist())):
        part = rows.filter(pc.equal(rows.column("stage"), stage))
        part, entered = _enter(state, part, known, stage)
        if not len(entered.rows):
            continue
        part = part.take(entered.rows)
        bad = np.array([failed(status) for status in part.column("status").to_pylist()])
        answered = [found.get(key) for key in zip(part.column("request_id").to_pylist(), part.column("channel").to_pylist(), strict=True)]
        unsaid = np.array([told.output is not None and row is not None and row["score"] is None for row in answered])
        score = np.array([np.nan if row is None or row["score"] is None else float(row["score"]) for row in answered])
        latency = part.column("latency_ms").to_numpy().astype(np.float64)
        block = Block(
            arm=entered.arm,
            chance=entered.chance,
            at_us=part.column("arrival_us").to_numpy(),
            fresh=entered.fresh,
            error=(bad | unsaid).astype(np.float64),
            latency_ms=np.where(bad, np.inf, latency),
            score=np.where(bad, np.nan, score),
            slices=_sliced(part, answered, told.slices),
        )
        candidates = int(entered.arm.sum())
        blocks.append((stage, block, (len(entered.arm) - candidates, candidates)))
    return blocks


def _enter(state: Rollout, part: pa.Table, known: dict[str, Place], stage: int) -> tuple[pa.Table, Any]:
    arms = [_arm(state, release) for release in part.column("release").to_pylist()]
    mine = [n for n, arm in enumerate(arms) if arm is not None]
    part = part.take(mine)
    entered = enter(known, part.column("unit").to_pylist(), [arms[n] or 0 for n in mine], shares(state, stage), stage)
    known.update(entered.places)
    return part, entered


def _mature(
    store: Store, state: Rollout, analysis: AnalysisState, policy: RolloutPolicy, told: Told, metric: str, since_us: int, until_us: int
) -> AnalysisState:
    """Units whose time for a metric is over, with its value where it came in time."""
    import pyarrow.compute as pc

    rows = arrived(store, state.service, state.id, since_us, until_us)
    if not rows.num_rows:
        return analysis
    before = Mark(since_us, 2**62)
    known = _places(state, seen_before(store, state.service, state.id, before, rows.column("unit").unique().to_pylist()))
    found = answers(store, state.service, rows, told.output, told.slices) if told.slices else {}
    values = _values(store, state, policy, told, rows, metric)
    for stage in sorted(set(rows.column("stage").to_pylist())):
        part, entered = _enter(state, rows.filter(pc.equal(rows.column("stage"), stage)), known, stage)
        if not len(entered.rows):
            continue
        part = part.take(entered.rows)
        keys = list(zip(part.column("request_id").to_pylist(), part.column("channel").to_pylist(), strict=True))
        column: Floats = np.array([values.get(key, np.nan) for key in keys])
        block = Block(
            arm=entered.arm,
            chance=entered.chance,
            at_us=part.column("arrival_us").to_numpy(),
            metrics={metric: column},
            slices=_sliced(part, [found.get(key) for key in keys], told.slices),
        )
        analysis = update(analysis, block, policy.analysis, stage=stage)
    return analysis


def _values(store: Store, state: Rollout, policy: RolloutPolicy, told: Told, rows: pa.Table, metric: str) -> dict[tuple[str, str], float]:
    """(request_id, channel) -> the metric: a loss, the mean over the request's rows, or an outcome."""
    delay_us = policy.delay_us(metric)
    if not policy.metric_is_loss(metric):
        by_request = outcomes(store, state.service, rows, metric, delay_us)
        keys = zip(rows.column("request_id").to_pylist(), rows.column("channel").to_pylist(), strict=True)
        return {key: by_request[key[0]] for key in keys if key[0] in by_request}
    if told.output is None:
        return {}
    return mean_losses(store, state.service, rows, told.output, metric, delay_us)


def mean_losses(store: Store, service: str, rows: pa.Table, output: str, metric: str, delay_us: int) -> dict[tuple[str, str], float]:
    """(request_id, channel) -> the mean loss over the request's rows that have a label."""
    pairs = losses(store, service, rows, output, delay_us)
    if not pairs.num_rows:
        return {}
    each = loss(metric, _floats(pairs.column("label")), _floats(pairs.column("prediction")))
    sums: dict[tuple[str, str], tuple[float, int]] = {}
    keys = zip(pairs.column("request_id").to_pylist(), pairs.column("channel").to_pylist(), strict=True)
    for key, value in zip(keys, each.tolist(), strict=True):
        total, n = sums.get(key, (0.0, 0))
        sums[key] = (total + value, n + 1)
    return {key: total / n for key, (total, n) in sums.items()}


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.array([np.nan if value is None else float(value) for value in column.to_pylist()])


def _sliced(part: pa.Table, answered: Sequence[dict[str, Any] | None], names: Sequence[str]) -> dict[str, list[str]]:
    """The slice of each exposure: as the exposure says it, since what failed has no prediction; else as the prediction does."""
    if not names:
        return {}
    told = [{} if text is None else msgspec.json.decode(text, type=dict[str, str]) for text in part.column("slices").to_pylist()]
    return {name: [said[name] if name in said else _text(row, name) for said, row in zip(told, answered, strict=True)] for name in names}


def _text(row: dict[str, Any] | None, name: str) -> str:
    value = None if row is None else row.get(name)
    return "" if value is None else str(value)


def _below(rows: pa.Table, column: str, limit: int, *, negate: bool = False) -> Any:
    import pyarrow.compute as pc

    return pc.greater_equal(rows.column(column), limit) if negate else pc.less(rows.column(column), limit)
