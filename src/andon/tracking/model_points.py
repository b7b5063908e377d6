"""Points of a run that are about a logged model, and maybe about a dataset: kept beside the run's own, by model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from andon.core.errors import InvalidInput
from andon.core.texts import check_text
from andon.store.statements import IN_ONE, places, rows_of, run_sql
from andon.tracking.points import group, real_value

MAX_DATASET_BYTES = 1_000
MAX_DIGEST_BYTES = 144


class ModelPoint(NamedTuple):
    """A point of a run that is about a logged model. ``dataset`` and ``dataset_digest`` as the run described it; empty: about none."""

    model: str
    key: str
    value: float
    step: int
    at_us: int
    dataset: str = ""
    dataset_digest: str = ""


class ModelMetric(msgspec.Struct, frozen=True, kw_only=True):
    """A point as a model has it. ``value`` may be NaN or infinite."""

    key: str
    value: float
    step: int
    at_us: int
    run: str
    dataset: str = ""
    dataset_digest: str = ""


def log_model_points_in(connection: Connection, run: str, points: Iterable[ModelPoint]) -> None:
    """Keep points of a run that are about logged models, beside the run's own; again is nothing.

    Raises ``InvalidInput`` for a model that is not there, or naming what else is wrong.
    """
    about: dict[tuple[str, str, str], list[tuple[str, float, int, int]]] = {}
    for point in points:
        subject = (point.model, point.dataset, point.dataset_digest)
        about.setdefault(subject, []).append((point.key, point.value, point.step, point.at_us))
    if not about:
        return
    missing = {model for model, _, _ in about} - known_models_in(connection, [model for model, _, _ in about])
    if missing:
        raise InvalidInput("there is no such logged model", field="model_id", got=min(missing)[:80])
    rows = []
    for (model, dataset, digest), given in about.items():
        check_text(dataset, "dataset_name", at_most=MAX_DATASET_BYTES)
        check_text(digest, "dataset_digest", at_most=MAX_DIGEST_BYTES)
        rows += [(model, item.key, run, *row, dataset, digest) for item in group(given) for row in item.rows]
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "insert into model_metrics select * from unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::float8[],"
            " %s::smallint[], %s::text[], %s::text[]) on conflict do nothing",
            tuple(list(column) for column in zip(*rows, strict=True)),
        )
    else:
        run_sql(connection, "insert or ignore into model_metrics values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def model_metrics_in(connection: Connection, models: Sequence[str]) -> dict[str, list[ModelMetric]]:
    """Every point about each of these models, by key, then time; models that nothing was measured of are left out."""
    found: dict[str, list[ModelMetric]] = {}
    for start in range(0, len(models), IN_ONE):
        part = models[start : start + IN_ONE]
        query = (
            "select model, key, value, special, step, at_us, run, dataset, dataset_digest from model_metrics"
            f" where model in ({places(len(part))}) order by model, key, at_us, step, run, dataset, dataset_digest"
        )
        for model, key, value, special, step, at_us, run, dataset, digest in rows_of(connection, query, part):
            found.setdefault(model, []).append(
                ModelMetric(
                    key=key, value=real_value(value, special), step=step, at_us=at_us, run=run, dataset=dataset, dataset_digest=digest
                )
            )
    return found


def known_models_in(connection: Connection, models: Iterable[str]) -> set[str]:
    """Which of these ids are logged models, deleted ones too."""
    wanted, known = sorted(set(models)), set()
    for start in range(0, len(wanted), IN_ONE):
        part = wanted[start : start + IN_ONE]
        known |= {str(row[0]) for row in rows_of(connection, f"select id from logged_models where id in ({places(len(part))})", part)}
    return known
