"""Runs side by side: what differs in params, metrics, code and environment, and their series for one chart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, select

from andon.core.addresses import Address
from andon.core.errors import InvalidInput, NotFound
from andon.operations.showing.records import RunRow
from andon.operations.showing.run_records import CompareRow, MetricRow, RunsComparison, RunSeries, RunsSeries
from andon.operations.showing.runs import MAX_POINTS, read_rows, read_series
from andon.store import Store
from andon.store import schema as s

MOST_RUNS = 30
_LOW = re.compile(
    r"loss|error|(?:^|[^a-z])(?:mae|mse|rmse|mape|smape|rmsle|msle|brier|perplexity|ppl|wer|cer|fid|nll|latency|duration|regret)(?:[^a-z]|$)"
)
_HIGH = re.compile(
    r"accuracy|precision|recall|(?:^|[^a-z])(?:acc|auc|auroc|auprc|roc|f1|fbeta|r2|score|ndcg|map|mrr|bleu|rouge|iou|dice|mcc|kappa|ap|throughput"
    r"|hit|reward|gain)(?:[^a-z]|$)"
)


def aim_of(key: str) -> Literal["low", "high"] | None:
    """Which value of a metric is better, as far as its name tells.

    >>> aim_of("val/mae"), aim_of("test_f1_score"), aim_of("learning_rate")
    ('low', 'high', None)
    """
    name = key.lower()
    if _LOW.search(name):
        return "low"
    return "high" if _HIGH.search(name) else None


def parse_runs(runs: Sequence[str]) -> list[str]:
    """Ids from a URL, each once, in order. Raises ``InvalidInput`` when there are none or too many."""
    found = list(dict.fromkeys(Address.parse(one, kind="run").name for one in runs if one))
    if not found:
        raise InvalidInput("name the runs to compare", field="run", next_step="select runs on /runs, or open /compare?run=ID&run=ID")
    if len(found) > MOST_RUNS:
        raise InvalidInput(f"at most {MOST_RUNS} runs are compared at once", field="run", got=len(found), next_step="select fewer")
    return found


def compare_view(store: Store, runs: Sequence[str]) -> RunsComparison:
    """Runs side by side, deleted ones too. Raises ``NotFound`` naming the first that is not there."""
    ids = parse_runs(runs)
    r = s.runs.c
    with store.ledger.read() as connection:
        rows = {row.id: row for row in read_rows(connection, ids, now_us=store.clock.now_us())}
        missing = next((one for one in ids if one not in rows), None)
        if missing is not None:
            raise NotFound(address=f"run:{missing}", next_step="select runs on /runs")
        facts = {row.id: json.loads(row.facts or b"{}") for row in connection.execute(select(r.id, r.facts).where(r.id.in_(ids)))}
        tags = _tags(connection, ids)
        metrics = _metrics(connection, ids)
    found = [rows[one] for one in ids]
    known = [facts[one] or _facts_of_tags(tags[one]) for one in ids]
    return RunsComparison(
        runs=tuple(found),
        params=_lines([row.params for row in found]),
        metrics=metrics,
        tags=_lines([{key: value for key, value in tags[one].items() if not key.startswith("mlflow.")} for one in ids]),
        code=tuple(line for line in _lines([_said(one) for one in known], ordered=True)),
        packages=tuple(line for line in _lines([_packages(one) for one in facts.values()]) if line.differs) if all(facts.values()) else (),
        uncaptured=tuple(row.name or row.id for row in found if not facts[row.id]),
    )


def _tags(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    t = s.tags.c
    found: dict[str, dict[str, str]] = {one: {} for one in ids}
    for row in connection.execute(select(t.subject, t.key, t.value).where(t.subject.in_([f"run:{one}" for one in ids]))):
        found[row.subject.removeprefix("run:")][row.key] = row.value
    return found


def _metrics(connection: Connection, ids: Sequence[str]) -> tuple[MetricRow, ...]:
    m = s.series.c
    query = select(m.run, m.key, m.value, m.special, m.min, m.max, m.count).where(m.run.in_(ids))
    by_key: dict[str, dict[str, Any]] = {}
    for row in connection.execute(query.order_by(m.key)):
        by_key.setdefault(row.key, {})[row.run] = row
    return tuple(_metric(key, [found.get(one) for one in ids]) for key, found in by_key.items())


def _metric(key: str, rows: Sequence[Any]) -> MetricRow:
    newest = tuple(None if row is None or row.special else row.value for row in rows)
    aim = aim_of(key)
    known = [(value, place) for place, value in enumerate(newest) if value is not None]
    best = None
    if aim is not None and len({value for value, _ in known}) > 1:
        best = (min if aim == "low" else max)(known, key=lambda one: one[0])[1]
    return MetricRow(
        key=key,
        newest=newest,
        lowest=tuple(None if row is None else row.min for row in rows),
        highest=tuple(None if row is None else row.max for row in rows),
        best=best,
        aim=aim,
        points=max(row.count for row in rows if row is not None),
    )


def _lines(found: Sequence[Mapping[str, Any]], *, ordered: bool = False) -> tuple[CompareRow, ...]:
    names: Iterable[str] = dict.fromkeys(name for one in found for name in one)
    made = []
    for name in names if ordered else sorted(names):
        values = tuple(one.get(name) for one in found)
        made.append(CompareRow(name=name, values=values, differs=len(set(values)) > 1))
    return tuple(made)


def _facts_of_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    """What a client of the MLflow wire says of its code in tags."""
    code = {
        "commit": tags.get("mlflow.source.git.commit"),
        "branch": tags.get("mlflow.source.git.branch"),
        "entry_point": tags.get("mlflow.source.name"),
    }
    return {"code": {key: value for key, value in code.items() if value}}


def _said(facts: Mapping[str, Any]) -> dict[str, str]:
    """Code and machine, as lines."""
    code, env, hw = (facts.get(part) or {} for part in ("code", "environment", "hardware"))
    memory = hw.get("memory_bytes")
    said = {
        "commit": (code.get("commit") or "")[:12],
        "branch": code.get("branch"),
        "uncommitted changes": ("none" if code.get("commit") else "") if not code.get("dirty_diff") else code["dirty_diff"][:15],
        "entry point": code.get("entry_point"),
        "command": " ".join(code.get("argv") or ()),
        "Python": env.get("python"),
        "platform": env.get("platform"),
        "machine": f"{hw.get('cpu')}, {hw.get('cores')} cores" + (f", {memory / 2**30:.1f} GiB" if memory else "") if hw else "",
        "GPUs": ", ".join(hw.get("gpus") or ()),
        "seeds": ", ".join(f"{key} {value}" for key, value in sorted((facts.get("seeds") or {}).items())),
    }
    return {key: str(value) for key, value in said.items() if value}


def _packages(facts: Mapping[str, Any]) -> dict[str, str]:
    found = (str(line).partition("==") for line in (facts.get("environment") or {}).get("requirements") or ())
    return {name: version for name, _, version in found}


def series_of_runs(store: Store, runs: Sequence[str], key: str, *, limit: int = MAX_POINTS // 2) -> RunsSeries:
    """One metric of several runs, each thinned to about ``limit`` points."""
    ids = parse_runs(runs)
    with store.ledger.read() as connection:
        rows: dict[str, RunRow] = {row.id: row for row in read_rows(connection, ids, now_us=store.clock.now_us(), values=False)}
        found = [(rows[one], read_series(connection, one, key, limit=limit)) for one in ids if one in rows]
    made = [RunSeries(run=row.id, name=row.name or row.id, started_us=row.started_us, points=points) for row, points in found]
    return RunsSeries(key=key, runs=tuple(made))
