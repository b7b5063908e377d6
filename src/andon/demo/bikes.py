"""The bikes: what happened hour by hour, what a request holds, and how a model is trained.

Nothing here knows what goes wrong later. ``casual`` and ``registered`` (they sum to the label) and level features such as ``yr`` are
never used.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from andon.core.clocks import DAY_US, HOUR_US
from andon.examples import DATA
from andon.models import Column, Signature

if TYPE_CHECKING:
    import pyarrow as pa

SERVICE = "bikes"
FEATURES = ("hr", "weekday", "workingday", "holiday", "weathersit", "temp", "atemp", "hum", "windspeed")
LABEL, EVENT_TIME, BASELINE = "rentals", "event_time", "last_week"
WEATHER = ("temp", "atemp", "hum", "windspeed")
"""Readings that may be missing; the model was told what to do then. A request without its hour is refused."""
SIGNATURE = Signature(tuple(Column(name, "double", name not in WEATHER) for name in FEATURES), (Column(LABEL, "double"),))
SETTINGS = {"label_delay_s": 86_400}
CODE = Path(__file__).parent / "code"


def day_us(text: str) -> int:
    """Midnight of a date such as ``2011-08-01``, microseconds of event time."""
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()) * 1_000_000


def date_of(at_us: int) -> str:
    """The date of an instant."""
    return dt.datetime.fromtimestamp(at_us / 1e6, tz=dt.UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True)
class History:
    """Every hour there is, in columns, in order: ``event_us`` int64, the features float64, the rentals float64."""

    event_us: Any
    features: dict[str, Any]
    rentals: Any

    @classmethod
    def load(cls) -> History:
        """The data that ships with Andon."""
        import pyarrow.parquet as pq

        table = pq.read_table(DATA / "bike_sharing.parquet", columns=["timestamp", *FEATURES, "cnt"])
        event_us = table["timestamp"].to_numpy().astype("datetime64[us]").astype(np.int64)
        features = {name: table[name].to_numpy().astype(float) for name in FEATURES}
        return cls(event_us, features, table["cnt"].to_numpy().astype(float))

    def between(self, start_us: int, end_us: int) -> slice:
        """Positions of the hours in ``[start_us, end_us)``."""
        low, high = np.searchsorted(self.event_us, [start_us, end_us])
        return slice(int(low), int(high))

    def table(self, start_us: int, end_us: int) -> pa.Table:
        """Hours as a table for training or evaluation: event time, features, rentals, and the same hour last week."""
        rows = self.between(start_us, end_us)
        columns = {name: values[rows] for name, values in self.features.items()}
        return as_table(self.event_us[rows], columns, self.rentals[rows], last_week(self.event_us, self.rentals)[rows])


def last_week(event_us: Any, rentals: Any) -> Any:
    """The honest baseline: the rentals of the same hour a week before, NaN where that hour is missing."""
    before = np.searchsorted(event_us, event_us - 7 * DAY_US)
    found = event_us[np.minimum(before, len(event_us) - 1)] == event_us - 7 * DAY_US
    return np.where(found, rentals[np.minimum(before, len(rentals) - 1)], np.nan)


def as_table(event_us: Any, features: dict[str, Any], rentals: Any, baseline: Any) -> pa.Table:
    """One table for training and evaluation."""
    import pyarrow as pa

    columns = {EVENT_TIME: pa.array(event_us, type=pa.timestamp("us", tz="UTC"))}
    columns |= {name: pa.array(values, type=pa.float64()) for name, values in features.items()}
    columns[LABEL] = pa.array(rentals, type=pa.float64(), from_pandas=True)
    columns[BASELINE] = pa.array(baseline, type=pa.float64(), from_pandas=True)
    return pa.table(columns)


def without_days(table: pa.Table, days_us: list[int]) -> pa.Table:
    """The table without the days that data validation refused."""
    import pyarrow as pa

    day = table[EVENT_TIME].cast(pa.int64()).to_numpy() // DAY_US * DAY_US
    return table.filter(pa.array(~np.isin(day, days_us)))


def fit(table: pa.Table, seed: int, log: Any = None) -> Any:
    """Train on a table; ``log(metrics, step)`` gets the training error as trees are added."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    x = np.column_stack([table[name].to_numpy() for name in FEATURES])
    y = table[LABEL].to_numpy()
    model = HistGradientBoostingRegressor(random_state=seed, max_iter=120)
    model.fit(x, y)
    if log is not None:
        for step, staged in enumerate(model.staged_predict(x), start=1):
            log({"train_mae": float(np.abs(staged - y).mean())}, step=step)
    return model


def example(table: pa.Table, rows: int = 5) -> dict[str, Any]:
    """A few request columns."""
    return {name: table[name].to_numpy()[:rows] for name in FEATURES}


def hours(start_us: int, end_us: int) -> range:
    """The hours in between, microseconds."""
    return range(start_us, end_us, HOUR_US)
