"""The checks of a release gate. Each is a small record, so a policy is data: ``{"type": "not-worse", "metric": "mae", "margin": 0.02}``."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from andon.core.verdicts import Evidence, Interval, SliceResult, Status, Verdict
from andon.gates.evidence import GateEvidence
from andon.gates.losses import loss
from andon.gates.paired import PairedDifference, paired_difference

MAX_SLICES = 40
MIN_EXAMPLES = 30


class Ceiling(msgspec.Struct, frozen=True, tag="ceiling", kw_only=True):
    """The mean loss is at most ``at_most``; decided by its interval, undecided while that straddles the ceiling."""

    metric: str
    at_most: float
    level: float = 0.95

    @property
    def name(self) -> str:
        return f"{self.metric}-ceiling"

    def run(self, evidence: GateEvidence) -> Verdict:
        started = time.perf_counter()
        losses = loss(self.metric, evidence.label, evidence.prediction)
        found = paired_difference(losses, np.zeros_like(losses), evidence.block, level=self.level)
        if found is None or found.n < MIN_EXAMPLES:
            return _too_few(self.name, evidence, found, started)
        status = _against(found.interval, self.at_most, strict=False)
        return _verdict(
            self.name, evidence, status, found, found.mean, found.interval, self.at_most, self.metric, started,
            f"{self.metric} is {found.mean:.4g}, to be at most {self.at_most:.4g}",
        )  # fmt: skip


class BeatsBaseline(msgspec.Struct, frozen=True, tag="beats-baseline", kw_only=True):
    """The loss is at most ``ratio`` of the honest baseline's on the same examples."""

    metric: str
    ratio: float = 1.0
    level: float = 0.95

    @property
    def name(self) -> str:
        return f"{self.metric}-beats-baseline"

    def run(self, evidence: GateEvidence) -> Verdict:
        started = time.perf_counter()
        if evidence.baseline is None:
            return _nothing(self.name, evidence, "undecided", "there is no baseline to compare with; give one when you release", started)
        ours = loss(self.metric, evidence.label, evidence.prediction)
        theirs = loss(self.metric, evidence.label, evidence.baseline)
        return _compare(
            self.name, evidence, ours, theirs, self.ratio, self.level, evidence.baseline_name or "the baseline", (), self.metric, started
        )


class NotWorse(msgspec.Struct, frozen=True, tag="not-worse", kw_only=True):
    """Non-inferiority: the loss is at most ``1 + margin`` times the champion's on the same examples, and no slice is clearly worse.

    ``slices`` are input columns; each value with at least 30 examples is a slice, at most 40 of them. A slice fails when its whole
    Holm-corrected interval lies above the margin. With no champion yet it passes.
    """

    metric: str
    margin: float = 0.02
    slices: tuple[str, ...] = ()
    level: float = 0.95

    @property
    def name(self) -> str:
        return f"{self.metric}-not-worse"

    def run(self, evidence: GateEvidence) -> Verdict:
        started = time.perf_counter()
        if evidence.champion is None:
            return _nothing(self.name, evidence, "pass", "nothing is in production yet, so there is no champion to be worse than", started)
        ours = loss(self.metric, evidence.label, evidence.prediction)
        theirs = loss(self.metric, evidence.label, evidence.champion)
        name = evidence.champion_name or "the champion"
        return _compare(self.name, evidence, ours, theirs, 1 + self.margin, self.level, name, self.slices, self.metric, started)


ReleaseCheck = Ceiling | BeatsBaseline | NotWorse


def _compare(
    name: str,
    evidence: GateEvidence,
    ours: NDArray[Any],
    theirs: NDArray[Any],
    ratio: float,
    level: float,
    against: str,
    slice_columns: tuple[str, ...],
    metric: str,
    started: float,
) -> Verdict:
    """Judge mean(ours) <= ratio * mean(theirs) from the paired differences ``ours - ratio * theirs`` (Fieller's way of testing a ratio)."""
    found = paired_difference(ours, ratio * theirs, evidence.block, level=level)
    if found is None or found.n < MIN_EXAMPLES:
        return _too_few(name, evidence, found, started)
    status = _against(found.interval, 0.0, strict=ratio <= 1.0)
    slices = _slices(evidence, ours, ratio * theirs, slice_columns, level)
    worst = [part for part in slices if part.status == "fail"]
    their_mean = found.mean_b / ratio
    message = f"{metric} is {found.mean_a:.4g}; {against} has {their_mean:.4g} on the same {found.n} examples"
    if worst and status != "fail":
        status = "fail"
        message += f"; clearly worse where {worst[0].slice}"
    share = found.mean_a / their_mean if their_mean > 0 else None
    interval = None
    if found.interval is not None and their_mean > 0 and found.interval.low is not None and found.interval.high is not None:
        interval = Interval(ratio + found.interval.low / their_mean, ratio + found.interval.high / their_mean, level)
    return _verdict(name, evidence, status, found, share, interval, ratio, f"x {against}", started, message, slices)


def _against(interval: Interval | None, threshold: float, *, strict: bool) -> Status:
    """Pass when the whole interval is on the good side, fail when on the bad side. Non-strict: only proven harm fails, else undecided."""
    if interval is None or interval.high is None or interval.low is None:
        return "undecided"
    if interval.high < threshold or (not strict and interval.high == threshold):
        return "pass"
    return "fail" if interval.low > threshold else "undecided"


def _slices(
    evidence: GateEvidence, ours: NDArray[Any], theirs: NDArray[Any], columns: tuple[str, ...], level: float
) -> tuple[SliceResult, ...]:
    masks: list[tuple[str, NDArray[Any]]] = []
    for column in columns:
        values = evidence.inputs.get(column)
        if values is not None and values.ndim == 1:  # a tensor has no slices
            masks += [(f"{column} = {value}", values == value) for value in _values(values)]
    masks = [(label, mask) for label, mask in masks if mask.sum() >= MIN_EXAMPLES][:MAX_SLICES]
    if not masks:
        return ()
    corrected = 1 - (1 - level) / len(masks)  # Bonferroni bounds Holm's first step: what fails here fails there
    results = []
    for label, mask in masks:
        found = paired_difference(ours[mask], theirs[mask], evidence.block[mask], level=corrected)
        if found is None:
            continue
        status = _against(found.interval, 0.0, strict=False)
        results.append(SliceResult(slice=label, status=status, value=found.mean, n=found.n, interval=found.interval))
    return tuple(sorted(results, key=lambda part: -(part.value or 0.0)))


def _values(values: NDArray[Any]) -> list[Any]:
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    distinct, counts = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_counts=True)
    return list(distinct[np.argsort(-counts)][:MAX_SLICES])


def _verdict(
    name: str,
    evidence: GateEvidence,
    status: Status,
    found: PairedDifference,
    value: float | None,
    interval: Interval | None,
    threshold: float,
    unit: str,
    started: float,
    message: str,
    slices: tuple[SliceResult, ...] = (),
) -> Verdict:
    detectable = "too few blocks to say" if found.detectable is None else f"{found.detectable:.4g}"
    table = Evidence(
        "paired comparison",
        ("candidate", "other", "difference", "smallest difference it would have seen", "examples", "blocks"),
        ((found.mean_a, found.mean_b, found.mean, detectable, found.n, found.blocks),),
    )
    return Verdict(
        subject=evidence.subject,
        check=name,
        status=status,
        message=message,
        value=value,
        unit=unit,
        interval=interval,
        threshold=threshold,
        n=found.n,
        slices=slices,
        evidence=(table,),
        duration_ms=(time.perf_counter() - started) * 1000,
        window_us=(int(evidence.event_us.min()), int(evidence.event_us.max()) + 1),
    )


def _too_few(name: str, evidence: GateEvidence, found: PairedDifference | None, started: float) -> Verdict:
    count = 0 if found is None else found.n
    return _nothing(name, evidence, "undecided", f"only {count} labelled examples; at least {MIN_EXAMPLES} are needed", started, count)


def _nothing(name: str, evidence: GateEvidence, status: Status, message: str, started: float, n: int = 0) -> Verdict:
    elapsed = (time.perf_counter() - started) * 1000
    return Verdict(subject=evidence.subject, check=name, status=status, message=message, n=n, duration_ms=elapsed)
