"""Drift as an effect size: a digest for people, ranked by what it could cost. It never pages, because season is drift.

Per feature the window is compared with *like hours* of training: for numbers Cliff's delta (1993) of the like-hour residuals, for
categories the total variation distance. Both run from 0 to 1 and do not grow with the number of rows, unlike a p-value.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from andon.core.verdicts import Evidence, SliceResult, Status, Verdict
from andon.monitoring.laws import encode
from andon.monitoring.phases import count
from andon.monitoring.profiles import Profile
from andon.monitoring.records import Array, Frame, Policy

_IMPORTANT = 0.1
"""Importance over that of the most important feature from which drift is worth a line."""


def cliffs_delta(new: Array, old: Array) -> float:
    """P(new > old) - P(new < old), in -1 to 1; 0 without data. Nulls are left out.

    >>> cliffs_delta(np.array([2.0, 3.0]), np.array([1.0, 2.5]))
    0.5
    """
    new, old = new[np.isfinite(new)], np.sort(old[np.isfinite(old)])
    if not len(new) or not len(old):
        return 0.0
    new = np.sort(new)  # sorted, so that one search starts where the last one ended
    below = np.searchsorted(old, new, side="left")
    above = len(old) - np.searchsorted(old, new, side="right")
    return float((below.sum() - above.sum()) / (len(new) * len(old)))


def total_variation(new: Array, old: Array) -> float:
    """Half the summed difference of category shares (null is a category), 0 to 1; 0 without data.

    >>> total_variation(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    0.5
    """
    if not len(new) or not len(old):
        return 0.0
    together = (
        np.concatenate([new.astype(object), old.astype(object)]) if "O" in (new.dtype.kind, old.dtype.kind) else np.concatenate([new, old])
    )
    codes, values = encode(together)
    size = len(values) + 1
    share_new = np.bincount(codes[: len(new)] + 1, minlength=size) / len(new)
    share_old = np.bincount(codes[len(new) :] + 1, minlength=size) / len(old)
    return float(np.abs(share_new - share_old).sum() / 2)


def drift_effect(name: str, rows: Frame, training: Frame, profile: Profile) -> float:
    """Effect size of one feature's drift, 0 to 1."""
    new, old = rows.inputs.get(name), training.inputs[name]
    if new is None:
        return 1.0
    number = profile.numbers.get(name)
    if number is not None and new.dtype.kind != "O":
        like = number.like
        return abs(cliffs_delta(new - like.expect_by_day(rows.event_us), old - like.expect_by_day(training.event_us)))
    return total_variation(new, old)


def judge_drift(
    profile: Profile,
    training: Frame,
    importance: Mapping[str, float],
    served: Frame,
    window_us: tuple[int, int],
    *,
    subject: str,
    policy: Policy,
) -> Verdict:
    """The digest over a window (a few weeks say more than a day). ``warn`` at most: an important feature has drifted."""
    rows = served.between(*window_us)
    if len(rows) < policy.min_rows or not len(training):
        return Verdict(
            subject=subject,
            check="drift",
            status="undecided",
            message=f"{count(len(rows), 'row')}; {policy.min_rows} are needed"
            if len(training)
            else "there is no training snapshot to compare with",
            n=len(rows),
            at_us=window_us[1],
            window_us=window_us,
        )
    most = max([0.0, *importance.values()]) or 1.0
    ranked = []
    for name in profile.names:
        effect = drift_effect(name, rows, training, profile)
        weight = max(0.0, importance.get(name, 0.0 if importance else most)) / most
        ranked.append((effect * weight, name, effect, weight))
    ranked.sort(key=lambda row: (-row[0], row[1]))
    important = [row for row in ranked if row[3] >= _IMPORTANT]
    drifted = [row for row in important if row[2] >= policy.drift_effect]
    status: Status = "warn" if drifted else "pass"
    slices = tuple(SliceResult(slice=row[1], status="warn" if row in drifted else "pass", value=row[2], n=len(rows)) for row in ranked)
    table = tuple((name, round(effect, 3), round(weight, 3), round(product, 3)) for product, name, effect, weight in ranked[:30])
    told = ", ".join(f"{name} ({effect:.2f})" for _, name, effect, _ in drifted[:3])
    told += f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    return Verdict(
        subject=subject,
        check="drift",
        status=status,
        message=f"drifted: {told}" if told else "no important feature has drifted",
        value=max((effect for _, _, effect, _ in important), default=0.0),
        unit="largest effect on an important feature",
        threshold=policy.drift_effect,
        n=len(rows),
        slices=slices,
        evidence=(Evidence("Drift, worst first", ("feature", "effect", "importance", "product"), table),),
        at_us=window_us[1],
        window_us=window_us,
    )
