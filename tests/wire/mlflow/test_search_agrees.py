"""Search held against the protocol's own store: the same random records and filters, the same ids in the same order."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from andon.core.actors import Actor
from andon.core.clocks import ManualClock
from andon.core.errors import InvalidInput
from andon.store import Store, open_store
from andon.tracking import (
    Point,
    create_experiment,
    create_run,
    delete_run,
    list_experiments,
    log_batch,
    update_run,
)
from andon.tracking.inputs import DescribedInput, log_described
from andon.tracking.search import running, search_runs

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.filterwarnings("ignore")  # of their own libraries
ANA, BEN = Actor("person", "ana"), Actor("person", "ben")
RUNS, QUERIES, SEED = 70, 400, 20_260_101
NUMBERS = [0.0, 0.5, 0.5, 0.9, -3.25, 1e9, math.nan, math.inf, -math.inf]
TEXTS = ["tree", "Tree", "forest", "line%", "it's", "", "x" * 80, "x" * 80 + "y", "ä", "10", "9"]
LONG = "x" * 80


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Store, list[int]]]:
    """The protocol's store and ours, with the same runs in three experiments."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder: Path = tmp_path_factory.mktemp("agrees")
    ledger = None
    if request.param == "postgres":
        import psycopg

        server = request.getfixturevalue("postgres_server")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("create database agrees")
        ledger = server.rsplit("/", 1)[0] + "/agrees"
    theirs = SqlAlchemyStore(f"sqlite:///{folder}/theirs.db", "mlflow-artifacts:/")
    rng = random.Random(SEED)
    with open_store(folder / "ours", ledger=ledger, clock=ManualClock(1_700_000_000_000_000)) as ours:
        numbers = []
        for name in ("one", "two", "three"):
            numbers.append(int(theirs.create_experiment(name)))
            assert create_experiment(ours, name, actor=ANA).id == numbers[-1]
        for n in range(RUNS):
            _fill(rng, theirs, ours, rng.choice(("one", "one", "two", "three")), n)
        yield theirs, ours, numbers
    theirs.engine.dispose()


def _fill(rng: random.Random, theirs: Any, ours: Store, experiment: str, n: int) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    who = rng.choice((ANA, BEN))
    started_ms = 1_700_000_000_000 + rng.randrange(12) * 500
    name = rng.choice(("alpha", "beta", "gamma run", f"run {n}"))
    number = {"one": "1", "two": "2", "three": "3"}[experiment]
    tags = {key: rng.choice(TEXTS[:-3]) for key in ("team", "a.b", "mlflow.note") if rng.random() < 0.6}
    made = theirs.create_run(number, who.name, started_ms, [RunTag(key, value) for key, value in tags.items()], name)
    run = made.info.run_id
    create_run(
        ours, experiment=experiment, name=name, actor=who, run=run, started_us=started_ms * 1000, tags=tags | {"mlflow.runName": name}
    )
    params = {key: rng.choice(TEXTS[:5] + TEXTS[6:]) for key in ("model", "deep key", "lr") if rng.random() < 0.7}
    metrics = [(key, rng.choice(NUMBERS), step) for key in ("acc", "val/loss", "same") if rng.random() < 0.8 for step in (0, 1)]
    metrics = [(key, 1.0 if key == "same" else value, step) for key, value, step in metrics]
    theirs.log_batch(run, [Metric(k, v, started_ms, s) for k, v, s in metrics], [Param(k, v) for k, v in params.items()], [])
    log_batch(ours, run, metrics=[Point(k, v, s, started_ms * 1000) for k, v, s in metrics], params=params, actor=who)
    for at in range(rng.randrange(3)):
        described = (f"data{rng.randrange(2)}", f"d{at}", rng.choice(("training", "eval")))
        dataset = Dataset(described[0], described[1], "local", "{}", "{}", "{}")
        theirs.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", described[2])])])
        log_described(ours, run, [DescribedInput(name=described[0], digest=described[1], context=described[2])], actor=who)
    if rng.random() < 0.6:
        status, ended_ms = rng.choice((3, 4, 5)), started_ms + rng.randrange(5) * 100
        theirs.update_run_info(run, status, ended_ms, None)
        word = {3: "finished", 4: "failed", 5: "killed"}[status]
        update_run(ours, run, status=word, ended_us=ended_ms * 1000, actor=who)  # type: ignore[arg-type]
    if rng.random() < 0.15:
        theirs.delete_run(run)
        delete_run(ours, run, actor=who)


def _clause(rng: random.Random, ids: list[str]) -> str:
    kind = rng.randrange(6)
    if kind == 0:
        key = rng.choice(("metrics.acc", "metric.`val/loss`", "metrics.same", 'metrics."none"'))
        return f"{key} {rng.choice(('=', '!=', '>', '>=', '<', '<='))} {rng.choice(('0', '0.5', '-3.25', '1e9', '1', '.9'))}"
    if kind in (1, 2):
        key = rng.choice(
            ("params.model", "parameter.`deep key`", "param.lr", "tags.team", "tag.`a.b`", "tags.`mlflow.runName`", "params.none")
        )
        if rng.random() < 0.2:
            return f"{key} is {rng.choice(('', 'not '))}null"
        if rng.random() < 0.4:
            return (
                f"{key} {rng.choice(('LIKE', 'ILIKE', 'like'))} '{rng.choice(('tr%', '%e%', 'T_ee', 'line%', '%', LONG + '%', 'x%y', ''))}'"
            )
        value = rng.choice([text for text in TEXTS if "'" not in text] + ["alpha"])
        return f"{key} {rng.choice(('=', '!='))} " + (f'"{value}"' if rng.random() < 0.3 else f"'{value}'")
    if kind == 3:
        some = rng.sample(ids, 5)
        return rng.choice(
            (
                "status = 'FINISHED'",
                "attributes.status != 'RUNNING'",
                "status LIKE 'F%'",
                "attr.status ilike 'f%'",
                "status = 'finished'",
                "run_name = 'alpha'",
                "attribute.`Run name` != 'beta'",
                "run_name LIKE 'g%'",
                "user_id = 'ana'",
                "user_id ILIKE '%EN'",
                f"run_id = '{some[0]}'",
                f"run_id != '{some[0]}'",
                f"run_id IN ({', '.join(repr(one) for one in some)})",
                f"run_id NOT IN ('{some[0]}', \"{some[1]}\")",
                f"artifact_uri LIKE '%{some[0][:2]}%/artifacts'",
            )
        )
    if kind == 4:
        when = 1_700_000_000_000 + rng.randrange(12) * 500
        return f"{rng.choice(('start_time', 'attributes.end_time', 'created'))} {rng.choice(('=', '!=', '>', '>=', '<', '<='))} {when}"
    return rng.choice(
        (
            "dataset.name = 'data0'",
            "dataset.name != 'data0'",
            "datasets.digest IN ('d0', 'd1')",
            "dataset.context LIKE 't%'",
            "dataset.context NOT IN ('training')",
        )
    )


ORDERS = (
    "metrics.acc",
    "metrics.acc DESC",
    "metric.`val/loss` ASC",
    "metrics.same DESC",
    "params.model",
    "params.`deep key` desc",
    "tags.team DESC",
    "start_time",
    "attributes.start_time DESC",
    "end_time",
    "end_time DESC",
    "run_name",
    "status DESC",
    "user_id",
    "run_id DESC",
    "metrics.none",
    "artifact_uri DESC",
)


def _queries(ids: list[str]) -> Iterator[tuple[str, list[str], int, int]]:
    rng = random.Random(SEED + 1)
    for n in range(QUERIES):
        order: list[str] = []
        for one in rng.sample(ORDERS, rng.choice((0, 1, 1, 2))):
            if not any(one.split()[0].split(".")[-1] == other.split()[0].split(".")[-1] for other in order):
                order.append(one)
        yield " AND ".join(_clause(rng, ids) for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3)))), order, n % 3, rng.choice((2, 3, 7, 1000))


@pytest.mark.parametrize("way", ["as it likes", "walking", "driving"])
def test_runs_agree(both: tuple[Any, Store, list[int]], way: str, monkeypatch: pytest.MonkeyPatch):
    theirs, ours, numbers = both
    if way != "as it likes":  # small ledgers would never see the plans that are made for large ones
        monkeypatch.setattr(running, "_FEW", 0 if way == "walking" else 10**9)
        monkeypatch.setattr(running, "_SLICE", 3)
        monkeypatch.setattr(running, "_COUNTED", 1 if way == "walking" else 10**9)
    ids = [run.info.run_id for run in theirs.search_runs([str(n) for n in numbers], "", 3, 1000)]
    assert len(ids) == RUNS
    matched = 0
    for text, order, view, size in list(_queries(ids))[:: 2 if way == "as it likes" else 4]:
        experiments = numbers if view else numbers[:1]
        expected = [run.info.run_id for run in theirs.search_runs([str(n) for n in experiments], text, view + 1, 1000, order)]
        found: list[str] = []
        token = None
        with ours.ledger.read() as connection:
            while True:
                shown = ("active", "deleted", "all")[view]
                page = search_runs(connection, experiments, text, order, view=shown, max_results=size, page_token=token)  # type: ignore[arg-type]
                found += page.ids
                token = page.next_page_token
                if token is None:
                    break
                assert len(page.ids) == size
        assert found == expected, (text, order, view, size)
        matched += bool(expected)
    assert matched > QUERIES // 16


def test_what_they_refuse_is_refused(both: tuple[Any, Store, list[int]]):
    from mlflow.exceptions import MlflowException

    theirs, ours, numbers = both
    wrong = (
        "metrics.acc > 'a'",
        "metrics.val-loss > 1",
        "params.a = 1",
        "params.a = x",
        "params.a > 'x'",
        "Metrics.a > 1",
        "(metrics.a > 1)",
        "metrics.a > 1 or metrics.b > 1",
        "metrics.a > 1;",
        "metrics.a == 1",
        "metrics.a is null",
        "run_name IN ('a')",
        "run_id IN ()",
        "run_id IN (1)",
        "status > 'A'",
        "start_time > 'x'",
        "dataset.size = 'x'",
        "lifecycle_stage = 'active'",
        "metrics.a",
        "metrics.a >",
        "1 < metrics.a",
        "metrics.a > nan",
        "params.a LIKE 'x' ESCAPE 'y'",
        "params.a = 'x",
        "   ",
    )
    for text in wrong:
        with pytest.raises(MlflowException):
            theirs.search_runs([str(n) for n in numbers], text, 1, 10)
        with ours.ledger.read() as connection, pytest.raises(InvalidInput):
            search_runs(connection, numbers, text)
    for order in ("metrics.a foo", "", "metrics.a-b", "experiment_id", "metrics.a,metrics.b", "dataset.name", "`Run name`"):
        with pytest.raises(MlflowException):
            theirs.search_runs([str(n) for n in numbers], "", 1, 10, [order])
        with ours.ledger.read() as connection, pytest.raises(InvalidInput):
            search_runs(connection, numbers, "", [order])
    assert [found.name for found in list_experiments(ours)] == ["Default", "one", "two", "three"]
