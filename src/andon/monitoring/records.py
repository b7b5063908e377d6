"""What monitoring looks at: the served requests, what the release was born with, and the policy that says when to speak up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from andon.core.clocks import DAY_US, HOUR_US
from andon.core.errors import InvalidInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Array = NDArray[Any]
Predict = Callable[[Mapping[str, Array]], Array]
"""A port: columns of equal length in, one prediction per row out. It runs the release's own transform, as serving does."""

YEAR_US = 365 * DAY_US


@dataclass(frozen=True, slots=True)
class Frame:
    """Served requests as columns, in event-time order; build one with :func:`frame`.

    ``event_us`` int64 (n,); ``inputs`` one array (n,) per feature, float64 with NaN for null, or objects with ``None`` for null;
    ``prediction`` and ``label`` float64 (n,), NaN where not known (yet); ``release`` the address that answered each row;
    ``source_us`` int64 (n,), when the slowest upstream source said what the inputs say, ``-1`` where it did not say.
    """

    event_us: Ints
    inputs: Mapping[str, Array]
    prediction: Floats
    label: Floats
    release: Array
    request_id: Array | None = None
    source_us: Ints | None = None

    def __len__(self) -> int:
        return len(self.event_us)

    def take(self, rows: Array) -> Frame:
        """The rows chosen by a mask or by positions."""
        return Frame(
            self.event_us[rows],
            {name: column[rows] for name, column in self.inputs.items()},
            self.prediction[rows],
            self.label[rows],
            self.release[rows],
            None if self.request_id is None else self.request_id[rows],
            None if self.source_us is None else self.source_us[rows],
        )

    def between(self, start_us: int, end_us: int) -> Frame:
        """The rows with ``start_us <= event_us < end_us`` (a view: the frame is sorted)."""
        low, high = np.searchsorted(self.event_us, [start_us, end_us], side="left")
        return self.take(slice(int(low), int(high)))  # type: ignore[arg-type]


def _column(values: Any) -> Array:
    column = np.asarray(values)
    if column.dtype.kind in "biuf":
        numbers = column.astype(np.float64)
        return np.where(np.isfinite(numbers), numbers, np.nan)
    found = [None if _is_null(value) else value for value in column.tolist()]
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, str)) for value in found):
        return _column(np.array([np.nan if value is None else float(value) for value in found], dtype=np.float64))
    texts = np.empty(len(found), dtype=object)
    texts[:] = [None if value is None else str(value) for value in found]
    return texts


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def frame(
    event_us: Any,
    inputs: Mapping[str, Any],
    *,
    prediction: Any = None,
    label: Any = None,
    release: Any = "",
    request_id: Any = None,
    source_us: Any = None,
) -> Frame:
    """A :class:`Frame` from anything array-like: checks lengths, turns ``None`` and infinities into nulls, sorts by event time.

    Raises ``InvalidInput`` naming the column whose length differs.

    >>> rows = frame([7_200_000_000, 3_600_000_000], {"temp": [None, 0.5]}, label=[2, 1])
    >>> rows.event_us.tolist(), rows.inputs["temp"].tolist(), rows.label.tolist()
    ([3600000000, 7200000000], [0.5, nan], [1.0, 2.0])
    """
    when = np.asarray(event_us, dtype=np.int64).reshape(-1)
    n = len(when)

    def known(name: str, values: Any, dtype: Any = None) -> Array:
        column = _column(values) if dtype is None else np.asarray(values, dtype=dtype)
        if column.shape != (n,):
            raise InvalidInput("a column has another length than event_us", field=name, got=str(column.shape), wanted=n)
        return column

    nothing = np.full(n, np.nan)
    address = np.full(n, release, dtype=object) if isinstance(release, str) else known("release", release, object)
    rows = Frame(
        when,
        {name: known(name, values) for name, values in inputs.items()},
        nothing if prediction is None else known("prediction", prediction).astype(np.float64),
        nothing if label is None else known("label", label).astype(np.float64),
        address,
        None if request_id is None else known("request_id", request_id, object),
        None if source_us is None else known("source_us", source_us, np.int64),
    )
    return rows if np.all(when[1:] >= when[:-1]) else rows.take(np.argsort(when, kind="stable"))


def concat(frames: Iterable[Frame]) -> Frame:
    """Frames after one another, in event-time order; an input that one of them lacks is null there."""
    parts = [part for part in frames if len(part)]
    if not parts:
        return frame([], {})
    names = list(dict.fromkeys(name for part in parts for name in part.inputs))

    def joined(name: str) -> Array:
        columns = [part.inputs.get(name, np.full(len(part), np.nan)) for part in parts]
        if len({column.dtype.kind == "O" for column in columns}) > 1:
            columns = [column.astype(object) for column in columns]
        return np.concatenate(columns)

    sources = [part.source_us if part.source_us is not None else np.full(len(part), -1, dtype=np.int64) for part in parts]
    ids = [part.request_id if part.request_id is not None else np.full(len(part), None, dtype=object) for part in parts]
    return frame(
        np.concatenate([part.event_us for part in parts]),
        {name: joined(name) for name in names},
        prediction=np.concatenate([part.prediction for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        release=np.concatenate([part.release for part in parts]),
        request_id=np.concatenate(ids) if any(part.request_id is not None for part in parts) else None,
        source_us=np.concatenate(sources) if any(part.source_us is not None for part in parts) else None,
    )


Loss = Literal["absolute", "squared", "zero-one"]


def losses(prediction: Array, label: Array, kind: Loss = "absolute") -> Floats:
    """The loss of each row, NaN where prediction or label is not known: float64 (n,).

    >>> losses(np.array([1.0, np.nan]), np.array([3.0, 1.0])).tolist()
    [2.0, nan]
    """
    difference = np.asarray(prediction, dtype=np.float64) - np.asarray(label, dtype=np.float64)
    if kind == "squared":
        return np.asarray(difference * difference)
    if kind == "zero-one":
        return np.where(np.isnan(difference), np.nan, (np.abs(difference) >= 0.5).astype(np.float64))
    return np.asarray(np.abs(difference))


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When a monitor speaks up. Each field states its unit; the defaults suit one request an hour and labels a day late."""

    window_us: int = DAY_US
    """Length of a judged window, microseconds of event time. Losses are averaged over one window before any bet is made on them, so
    correlation inside a window cannot be mistaken for evidence."""
    label_delay_us: int = DAY_US
    """How long after its event a label may come, microseconds: a window's quality is judged that long after the window ends."""
    period_us: int = 7 * DAY_US
    """The season that "the same hour last …" looks back, microseconds."""
    loss: Loss = "absolute"
    """How a prediction is scored against its label."""
    alpha: float = 0.003
    """Live quality: 1/alpha bounds from below the mean number of windows between false alarms of a service whose loss is *at* the harm
    margin (a healthier one is quieter)."""
    harm_ratio: float = 1.4
    """Live loss over expected loss (like-hour gate loss, grown with the naive baseline) above which a service is harmed. No unit."""
    rollback_alpha: float = 0.05
    """Release comparison: bounds the chance that a release that is no worse than the previous one *ever* looks worse to the bets, before
    ``rollback_ratio`` is asked as well."""
    rollback_ratio: float = 0.8
    """Roll back only if the previous release's loss on the same requests is at most this share of the live loss. No unit."""
    repair_ratio: float = 0.8
    """An input is to blame if putting its expected value back brings the loss down to at most this share. No unit."""
    min_labels: int = 12
    """Labels a window needs to be scored, rows; fewer give ``undecided``."""
    min_rows: int = 8
    """Rows a window needs for its inputs to be judged, rows."""
    late_us: int = 7 * DAY_US
    """How long before its arrival a row's event may lie, microseconds, to count for when a service began. It matters only where the first
    deploy has no event time: there, an older row that is also older than the deploy is late data and opens no window."""
    data_false_alarms_per_year: float = 1.0
    """Data-quality false alarms a year that one service may expect, over all features, tests and windows together (Bonferroni)."""
    drift_effect: float = 0.5
    """Effect size (0 to 1) at which drift in a feature is worth a line in the digest."""
    max_age_us: int | None = None
    """Age of the inputs (event time less source time) that is stale whatever the reference says, microseconds."""
    bounds: dict[str, tuple[float | None, float | None]] = {}
    """What a person knows to be physically possible, per feature, in the feature's unit; outside is a fault at once."""

    def __post_init__(self) -> None:
        positive = {"window_us": self.window_us, "period_us": self.period_us, "data_false_alarms_per_year": self.data_false_alarms_per_year}
        for name, value in positive.items():
            if value <= 0:
                raise InvalidInput("must be above 0", field=name, got=value)
        if (
            not 0 < self.alpha < 1
            or not 0 < self.rollback_alpha < 1
            or not 0 < self.rollback_ratio < 1
            or self.harm_ratio < 1
            or self.label_delay_us < 0
            or self.late_us < 0
        ):
            raise InvalidInput(
                "alpha and rollback_ratio lie between 0 and 1, harm_ratio is at least 1, a delay is not negative", field="policy"
            )

    def matured(self, now_us: int) -> int:
        """The end of the newest window whose labels are due, event time.

        >>> Policy().matured(3 * DAY_US + HOUR_US) == 2 * DAY_US
        True
        """
        return (now_us - self.label_delay_us) // self.window_us * self.window_us

    def row_alpha(self, tests: int) -> float:
        """The level of one data-quality test so that ``tests`` tests a window keep to the yearly budget.

        >>> round(Policy().row_alpha(50), 7)
        5.48e-05
        """
        return min(0.05, self.data_false_alarms_per_year * self.window_us / YEAR_US / max(1, tests))


@dataclass(frozen=True, slots=True)
class Reference:
    """What a release was born with: its training snapshot and how it did, through the serving transform, on the gate's period."""

    training: Frame
    gate: Frame
    importance: Mapping[str, float] = field(default_factory=dict)
    """Loss ratio less 1 when the feature is permuted on the gate's rows; see :func:`andon.monitoring.importance.permutation_importance`."""


def signature(rows: Frame) -> dict[str, str]:
    """``number`` or ``text`` for each input.

    >>> signature(frame([1], {"hr": [3], "city": ["dc"]}))
    {'hr': 'number', 'city': 'text'}
    """
    return {name: "text" if column.dtype.kind == "O" else "number" for name, column in rows.inputs.items()}


__all__ = [
    "DAY_US", "HOUR_US", "YEAR_US", "Array", "Bools", "Floats", "Frame", "Ints", "Loss", "Policy", "Predict", "Reference",
    "concat", "frame", "losses", "signature",
]  # fmt: skip
