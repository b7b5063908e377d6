"""How a release may come to production: five strategies, each a frozen record that says how much traffic goes where, and for how long.

Shares are per cent here, as people say them; splits hold them in parts of ten thousand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from andon.core.clocks import HOUR_US, MINUTE_US, SECOND_US
from andon.core.errors import InvalidInput
from andon.releases.splits import WHOLE

_UNITS_US = {"s": SECOND_US, "m": MINUTE_US, "h": HOUR_US, "d": 24 * HOUR_US, "w": 168 * HOUR_US}
Promotion = Literal["auto", "by-hand"]
Rule = Literal["person", "winner"]


class Canary(msgspec.Struct, frozen=True, kw_only=True, tag_field="strategy", tag="canary"):
    """A growing share of the units, guarded at every look, promoted when it is proven to be no worse.

    ``steps`` are shares in per cent, growing, the last 100. A step below 100 lasts at least ``step_us`` and until ``step_units`` units have
    been shown the candidate in it; the last is reached only on proof. After it, ``holdback`` per cent of the units stay with the old
    release for ``holdback_us``, so that what is known late is compared too.
    """

    steps: tuple[float, ...] = (5.0, 25.0, 50.0, 100.0)
    key: str | None = None
    promotion: Promotion = "auto"
    step_us: int = MINUTE_US
    step_units: int = 100
    deadline_us: int = 7 * 24 * HOUR_US
    holdback: float = 0.0
    holdback_us: int = 24 * HOUR_US


class Shadow(msgspec.Struct, frozen=True, kw_only=True, tag_field="strategy", tag="shadow"):
    """Copies of a share of the requests, whose answers nobody gets. ``for_us`` None: a standing challenger, without an end.

    ``most_rows_s`` bounds what it may cost: copies above that, in each replica, are dropped and counted.
    """

    share: float = 100.0
    for_us: int | None = 24 * HOUR_US
    most_rows_s: float = 1_000.0
    key: str | None = None


class BlueGreen(msgspec.Struct, frozen=True, kw_only=True, tag_field="strategy", tag="blue-green"):
    """Warm the candidate in every replica, switch all at once, and keep the old release warm for ``keep_us`` for an instant return."""

    keep_us: int = HOUR_US
    key: str | None = None


class AB(msgspec.Struct, frozen=True, kw_only=True, tag_field="strategy", tag="ab"):
    """``share`` per cent of the units see the candidate, and stay with it, until a person or the declared rule decides.

    ``rule`` "winner": the candidate takes production once ``metric`` is proven better, and is withdrawn once it is proven worse.
    """

    share: float = 50.0
    key: str | None = None
    rule: Rule = "person"
    metric: str | None = None
    deadline_us: int = 28 * 24 * HOUR_US


Strategy = Canary | Shadow | BlueGreen | AB


def canary(
    *,
    steps: Sequence[float] = (5, 25, 50, 100),
    key: str | None = None,
    promotion: Promotion = "auto",
    step: str = "1m",
    step_units: int = 100,
    deadline: str = "7d",
    holdback: float = 0.0,
    holdback_for: str = "1d",
) -> Canary:
    """A canary: ``steps`` in per cent, sticky by the field ``key`` of a request (None: by the header ``x-andon-key``).

    Each step below 100 lasts at least ``step`` (such as ``30s`` or ``1h``) and ``step_units`` units. After ``deadline`` it holds,
    undecided. Raises ``InvalidInput`` naming the field.

    >>> canary(steps=[10, 100]).steps
    (10.0, 100.0)
    """
    shares = tuple(_share(value, "steps") for value in steps)
    if not shares or list(shares) != sorted(set(shares)) or shares[-1] != 100.0 or len(shares) < 2:
        raise InvalidInput("the steps of a canary grow, and the last of at least two is 100", field="steps", got=str(list(steps))[:80])
    if not 0 <= holdback <= 50:
        raise InvalidInput("a holdback is 0 to 50 per cent", field="holdback", got=holdback)
    if promotion not in ("auto", "by-hand"):
        raise InvalidInput("a canary is promoted auto or by-hand", field="promotion", got=str(promotion)[:40])
    if not 0 <= step_units < 2**31:
        raise InvalidInput("a step lasts for 0 units or more", field="step_units", got=step_units)
    return Canary(
        steps=shares,
        key=key,
        promotion=promotion,
        step_us=duration_us(step, "step"),
        step_units=step_units,
        deadline_us=duration_us(deadline, "deadline"),
        holdback=_share(holdback, "holdback") if holdback else 0.0,
        holdback_us=duration_us(holdback_for, "holdback_for"),
    )


def shadow(*, share: float = 100.0, for_: str = "1d", most_rows_s: float = 1_000.0, key: str | None = None) -> Shadow:
    """A shadow: copies of ``share`` per cent of the requests for a while, at most ``most_rows_s`` rows a second in each replica."""
    _check_rows(most_rows_s)
    return Shadow(share=_share(share, "share"), for_us=duration_us(for_, "for_"), most_rows_s=most_rows_s, key=key)


def challenger(*, share: float = 100.0, most_rows_s: float = 1_000.0, key: str | None = None) -> Shadow:
    """Champion and challenger: a standing shadow, until a person ends it or another rollout begins."""
    _check_rows(most_rows_s)
    return Shadow(share=_share(share, "share"), for_us=None, most_rows_s=most_rows_s, key=key)


def blue_green(*, keep: str = "1h") -> BlueGreen:
    """Blue and green: warm up, switch, keep the old release warm for ``keep``."""
    return BlueGreen(keep_us=duration_us(keep, "keep"))


def ab(*, share: float = 50.0, key: str | None = None, rule: Rule = "person", metric: str | None = None, deadline: str = "28d") -> AB:
    """An A/B test; with ``rule="winner"``, the proof that ``metric`` is better or worse decides it."""
    if rule not in ("person", "winner"):
        raise InvalidInput("an A/B test is decided by a person, or by the rule winner", field="rule", got=str(rule)[:40])
    if rule == "winner" and not metric:
        raise InvalidInput("the rule winner needs the metric to win by", field="metric")
    if not 0 < share < 100:
        raise InvalidInput("the share of an A/B test lies between 0 and 100 per cent", field="share", got=share)
    return AB(share=_share(share, "share"), key=key, rule=rule, metric=metric, deadline_us=duration_us(deadline, "deadline"))


def check_strategy(strategy: Strategy) -> None:
    """Raise ``InvalidInput`` naming the field of a record, however it was made, that the functions above would not have made."""
    if isinstance(strategy, Canary):
        canary(steps=strategy.steps, promotion=strategy.promotion, step_units=strategy.step_units, holdback=strategy.holdback)
    elif isinstance(strategy, AB):
        ab(share=strategy.share, rule=strategy.rule, metric=strategy.metric)
    elif isinstance(strategy, Shadow):
        shadow(share=strategy.share, most_rows_s=strategy.most_rows_s)
    for field in ("step_us", "deadline_us", "holdback_us", "keep_us", "for_us"):
        if (getattr(strategy, field, None) or 1) < 0:
            raise InvalidInput("a duration is not negative", field=field, got=getattr(strategy, field))


def share_of(percent: float) -> int:
    """Per cent in parts of ten thousand.

    >>> share_of(12.5)
    1250
    """
    return round(percent * WHOLE / 100)


def duration_us(text: str, field: str) -> int:
    """Microseconds from ``90s``, ``15m``, ``12h``, ``7d`` or ``2w``. Raises ``InvalidInput`` naming ``field``.

    >>> duration_us("90s", "step")
    90000000
    """
    unit = _UNITS_US.get(text[-1:]) if isinstance(text, str) else None
    try:
        number = float(text[:-1])
    except (ValueError, TypeError):
        number = -1.0
    if unit is None or not 0 < number < 1e6:
        raise InvalidInput("a duration is a number and a unit: 90s, 15m, 12h, 7d or 2w", field=field, got=str(text)[:40])
    return int(number * unit)


def _share(percent: float, field: str) -> float:
    if not isinstance(percent, int | float) or isinstance(percent, bool) or not math.isfinite(percent) or not 0 < percent <= 100:
        raise InvalidInput("a share is above 0 and at most 100 per cent", field=field, got=str(percent)[:40])
    if share_of(percent) == 0:
        raise InvalidInput("the smallest share is 0.01 per cent", field=field, got=percent)
    return float(percent)


def _check_rows(most_rows_s: float) -> None:
    if not (isinstance(most_rows_s, int | float) and math.isfinite(most_rows_s) and most_rows_s > 0):
        raise InvalidInput("what a shadow may cost is a number of rows a second above 0", field="most_rows_s", got=str(most_rows_s)[:40])
