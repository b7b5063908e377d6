"""The fold: ``update(state, block)``. Incremental and deterministic; a block may be cut anywhere with the same result to the last bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace

from andon.core.errors import InvalidInput
from andon.rollouts.analysis import odds
from andon.rollouts.analysis.exceedances import add_latencies, add_scores, quantiles_of
from andon.rollouts.analysis.records import (
    AnalysisPolicy,
    AnalysisState,
    ArmState,
    Array,
    Block,
    Coverage,
    Difference,
    ErrorPolicy,
    Exceedances,
    Floats,
    Ints,
    Metric,
    MetricPolicy,
    Odds,
    PairedBlock,
    Slice,
    check_policy,
)
from andon.rollouts.analysis.samples import Pairs, Sample, Units


def start(policy: AnalysisPolicy, *, arms: int = 2, latency_before_ms: Floats | None = None) -> AnalysisState:
    """The state before the first unit. ``arms`` counts the control too.

    ``latency_before_ms``: production's latest latencies before the rollout, so that latency is judged from the first unit on instead of
    from the 257th. Raises ``InvalidInput`` naming the field of the policy that cannot be meant.
    """
    check_policy(policy)
    if arms < 2:
        raise InvalidInput("there is a control and at least one candidate", field="arms", got=arms)
    latency = Exceedances()
    if latency_before_ms is not None and policy.latency is not None and not policy.latency.thresholds_ms and len(latency_before_ms) >= 20:
        latency = Exceedances(thresholds=quantiles_of(latency_before_ms, policy.latency.levels))
    return AnalysisState(counts=(0,) * arms, expected=(0.0,) * arms, arms=tuple(ArmState(arm=k, latency=latency) for k in range(1, arms)))


def update(state: AnalysisState, block: Block, policy: AnalysisPolicy, *, stage: int = 0) -> AnalysisState:
    """Add a block of units of one stage, in order of exposure; ``stage`` is where they were exposed, late labels included.

    Raises ``InvalidInput`` naming the column that does not fit; the state is then unchanged, as it always is.
    """
    check_block(block, len(state.counts), policy)
    if not len(block):
        return state
    counts, expected, ratio = state.counts, state.expected, state.ratio
    if block.fresh is not None and block.fresh.any():
        new = block.fresh
        ratio = odds.bet_on_arms(ratio, block.arm[new], block.chance[new])
        counts = tuple(int(old + (block.arm[new] == k).sum()) for k, old in enumerate(counts))
        expected = tuple(np.cumsum(np.concatenate([[old], block.chance[new, k]]))[-1].item() for k, old in enumerate(expected))
    reached = state.stage if block.latency_ms is None else max(stage, state.stage)  # late labels speak of stages long past
    arms = []
    for one in state.arms:
        rows = _Assigned(block, one.arm)
        after = _versus_control(one, block, policy, rows, restarted=reached > state.stage)
        arms.append(replace(after, slices=_slices(after.slices, block, policy, rows)))
    return replace(_dated(state, block.at_us), counts=counts, expected=expected, ratio=ratio, arms=tuple(arms), stage=reached)


def update_pairs(state: AnalysisState, block: PairedBlock, policy: AnalysisPolicy, *, again: bool = False) -> AnalysisState:
    """Add requests that both arms answered (a shadow against what answered), in order. A state takes blocks or pairs, never both.

    ``again``: these pairs were counted before, and now say what became of them. Raises ``InvalidInput`` naming the column that does not
    fit.
    """
    if len(state.counts) != 2 or state.ratio.n:
        raise InvalidInput("pairs are of one control and one candidate, and of a state of their own", field="state")
    n = len(block)
    columns = {"error": block.error, "latency_ms": block.latency_ms, "score": block.score}
    for name, column in (columns | {f"metrics.{name}": column for name, column in block.metrics.items()}).items():
        if column is not None and column.shape != (n, 2):
            raise InvalidInput("each pair has a value of the control and one of the candidate", field=name, got=str(column.shape))
    if not n:
        return state
    arm = _versus_control(state.arms[0], block, policy, _Mirrored(block), restarted=False)
    if again:
        return replace(state, arms=(arm,))
    both = (state.counts[0] + n, state.counts[1] + n)
    return replace(_dated(state, block.at_us), counts=both, expected=(float(both[0]), float(both[1])), arms=(arm,), stage=0)


def _dated(state: AnalysisState, at_us: Ints) -> AnalysisState:
    return replace(state, first_us=state.first_us or int(at_us[0]), last_us=max(state.last_us, int(at_us.max())))


def check_block(block: Block, arms: int, policy: AnalysisPolicy) -> None:
    """Raise ``InvalidInput`` when a column does not fit the others."""
    n = len(block.arm)
    if block.chance.shape != (n, arms):
        raise InvalidInput("a unit has one chance for each arm", field="chance", got=str(block.chance.shape), expected=f"({n}, {arms})")
    columns: dict[str, Array | None] = {"at_us": block.at_us, "fresh": block.fresh, "error": block.error, "latency_ms": block.latency_ms}
    columns |= {"score": block.score} | {f"metrics.{name}": column for name, column in block.metrics.items()}
    for name, column in columns.items():
        if column is not None and column.shape != (n,):
            raise InvalidInput("every column has one value for each unit", field=name, got=str(column.shape), expected=f"({n},)")
    for name, values in block.slices.items():
        if len(values) != n:
            raise InvalidInput("every column has one value for each unit", field=f"slices.{name}", got=len(values), expected=n)
    if n and not (block.arm.min() >= 0 and block.arm.max() < arms):
        raise InvalidInput("no such arm", field="arm", got=int(block.arm.max()), arms=arms)
    if n and not (np.abs(block.chance.sum(axis=1) - 1) < 1e-9).all():
        raise InvalidInput("the chances of a unit add up to 1", field="chance")
    if n and (block.chance[np.arange(n), block.arm] <= 0).any():
        raise InvalidInput(
            "a unit is in an arm that it had no chance of", field="chance", next_step="leave units astray out: see units.enter"
        )
    if block.error is not None and not np.isin(block.error[~np.isnan(block.error)], (0.0, 1.0)).all():
        raise InvalidInput("an error is 0, 1 or NaN", field="error")
    unknown = set(block.metrics) - {metric.name for metric in policy.metrics}
    if unknown:
        raise InvalidInput("not a metric that the policy declares", field="metrics", got=", ".join(sorted(unknown)))


def harm(values: Floats, metric: MetricPolicy) -> Floats:
    """Values clipped to the metric's limits and put on [0, 1], larger being worse; NaN stays NaN.

    >>> cost = MetricPolicy(name="cost", low=0, high=2, better="lower", margin=0.1)
    >>> harm(np.array([0.5, 9.0]), cost).tolist()
    [0.25, 1.0]
    """
    scaled: Floats = np.clip((values - metric.low) / (metric.high - metric.low), 0.0, 1.0)
    return 1.0 - scaled if metric.better == "higher" else scaled


class _Assigned:
    """The rows of a block that are of the control or of one candidate, with the chance of the candidate among the two."""

    def __init__(self, block: Block, arm: int) -> None:
        self.rows = np.flatnonzero((block.arm == 0) | (block.arm == arm))
        both = block.chance[self.rows, 0] + block.chance[self.rows, arm]
        self.chance: Floats = block.chance[self.rows, arm] / both
        self.arm: Floats = (block.arm[self.rows] == arm).astype(np.float64)
        self.at_us = block.at_us[self.rows]

    def says(self, column: Floats) -> Units:
        """What they say, NaN where nothing."""
        return Units(column[self.rows], self.arm, self.chance, self.at_us)


class _Mirrored:
    """All rows of a block of pairs."""

    def __init__(self, block: PairedBlock) -> None:
        self.at_us = block.at_us

    def says(self, column: Floats) -> Pairs:
        """What both say, NaN where nothing."""
        return Pairs(column, self.at_us)


_Rows = _Assigned | _Mirrored


def _known(sample: Sample) -> Sample:
    """Those that say something; of pairs, those in which both do."""
    if isinstance(sample, Pairs):
        return sample.part(~np.asarray(np.isnan(sample.value).any(axis=1)))
    assert isinstance(sample, Units)
    return sample.part(~np.isnan(sample.value))


def _versus_control(state: ArmState, block: Block | PairedBlock, policy: AnalysisPolicy, rows: _Rows, *, restarted: bool) -> ArmState:
    coverage = dict(state.coverage)
    for name, column in (("errors", block.error), ("latency", block.latency_ms), ("scores", block.score)):
        if column is not None:
            coverage[name] = _covered(coverage.get(name, Coverage()), rows.says(column))
    state = replace(state, coverage=coverage)
    if block.error is not None and policy.errors is not None:
        errors, rate = _errors(state.errors, state.error_rate, _known(rows.says(block.error)), policy.errors)
        state = replace(state, errors=errors, error_rate=rate)
    if block.latency_ms is not None and policy.latency is not None:
        slow, before = policy.latency, replace(state.latency, histogram=((), ())) if restarted else state.latency
        sample = _known(rows.says(block.latency_ms))
        after = add_latencies(
            before,
            sample,
            levels=slow.levels,
            fixed=slow.thresholds_ms,
            tolerated_ratio=slow.tolerated_ratio,
            slack=(slow.slack, slow.slack_ms),
            margins=slow.margins,
        )
        state = replace(state, latency=after)
    if block.score is not None and policy.scores is not None:
        rule, sample = policy.scores, _known(rows.says(block.score))
        state = replace(state, scores=add_scores(state.scores, sample, levels=rule.levels, tolerance=rule.tolerance))
    return replace(state, metrics=_metrics(state.metrics, block, policy, rows))


def _errors(before: Odds, rate: Difference, sample: Sample, rule: ErrorPolicy) -> tuple[Odds, Difference]:
    event, taken, chance = sample.events()
    return odds.bet(before, taken[event], chance[event], tolerated=rule.tolerated_ratio), sample.add(rate, margin=rule.margin)


def _covered(before: Coverage, sample: Sample) -> Coverage:
    """Bet on the arms of units with nothing to say, and, from the first of those on, of units with something to say."""
    silent: Sample
    if isinstance(sample, Pairs):
        silent = Pairs(np.isnan(sample.value).astype(np.float64), sample.at_us)
    else:
        assert isinstance(sample, Units)
        silent = Units(np.isnan(sample.value).astype(np.float64), sample.arm, sample.chance, sample.at_us)
    absent, taken, chance = silent.events()
    if not absent.any() and not before.absent.n:
        return before
    present = ~absent
    present[: 0 if before.absent.n else int(np.argmax(absent))] = False
    if isinstance(sample, Pairs):
        present[:] = False  # where both speak, or neither, nothing tells them apart
    return Coverage(
        absent=odds.bet(before.absent, taken[absent], chance[absent], odds.MISMATCH),
        present=odds.bet(before.present, taken[present], chance[present], odds.MISMATCH),
    )


def _metrics(before: Mapping[str, Metric], block: Block | PairedBlock, policy: AnalysisPolicy, rows: _Rows) -> dict[str, Metric]:
    found = dict(before)
    for rule in policy.metrics:
        column = block.metrics.get(rule.name)
        if column is not None:
            old, sample = found.get(rule.name, Metric()), rows.says(harm(column, rule))
            scale = rule.high - rule.low
            found[rule.name] = Metric(
                coverage=_covered(old.coverage, sample),
                difference=_known(sample).add(old.difference, tolerance=rule.tolerance / scale, margin=rule.margin / scale),
            )
    return found


def _slices(before: Mapping[str, Slice], block: Block, policy: AnalysisPolicy, rows: _Assigned) -> dict[str, Slice]:
    """Error rates and guarded metrics by slice. The first ``most_slices`` values seen take the places, in order of exposure."""
    found = dict(before)
    seen: list[tuple[int, int, str, Array]] = []
    for at, column in enumerate(policy.slices):
        values = block.slices.get(column)
        if values is not None and len(rows.rows):
            texts = np.asarray(values, dtype=str)[rows.rows]
            names, first = np.unique(texts, return_index=True)
            pairs = zip(names.tolist(), first.tolist(), strict=True)
            seen += [(row, at, f"{column} = {value}", texts == value) for value, row in pairs if value]
    for _, _, name, inside in sorted(seen, key=lambda item: item[:2]):
        if name in found or len(found) < policy.most_slices:
            found[name] = _slice(found.get(name, Slice()), block, policy, rows, inside)
    return found


def _slice(part: Slice, block: Block, policy: AnalysisPolicy, rows: _Assigned, inside: Array) -> Slice:
    if block.error is not None and policy.errors is not None:
        errors, rate = _errors(part.errors, part.error_rate, _known(rows.says(block.error).part(inside)), policy.errors)
        part = replace(part, errors=errors, error_rate=rate)
    metrics: dict[str, Difference] = dict(part.metrics)
    for rule in policy.metrics:
        column = block.metrics.get(rule.name)
        if column is not None and rule.guard:
            sample = _known(rows.says(harm(column, rule)).part(inside))
            metrics[rule.name] = sample.add(metrics.get(rule.name, Difference(stride=0)), tolerance=rule.tolerance / (rule.high - rule.low))
    return replace(part, metrics=metrics)
