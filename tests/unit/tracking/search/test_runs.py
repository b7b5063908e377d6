"""Search over runs: pages, plans, counts, columns, and what runs of the library itself answer to."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from andon.core.actors import Actor
from andon.core.errors import InvalidInput
from andon.store import Store, open_store
from andon.store.statements import rows_of, run_sql
from andon.tracking import Point, create_run, delete_run, get_experiment, log_batch, update_run
from andon.tracking.search import columns_of, count_runs, running, search_runs

ANA = Actor("person", "ana")
START_US = 1_700_000_000_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    ledger = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with open_store(tmp_path / ".andon", ledger=ledger) as opened:
        yield opened


def run(store: Store, n: int, *, experiment: str = "bikes", m: float | None = None, **more: Any) -> str:
    identity = create_run(store, experiment=experiment, run=f"r{n:05d}", name=f"run {n}", started_us=START_US + n, actor=ANA, **more).id
    if m is not None:
        log_batch(store, identity, metrics=[Point("m", m, 0, START_US)], actor=ANA)
    return identity


def found(store: Store, text: str = "", order: list[str] | None = None, *, experiments: list[int] | None = None, **more: Any) -> list[str]:
    """All ids, page by page of three."""
    with store.ledger.read() as connection:
        numbers = [get_experiment(store, "bikes").id] if experiments is None else experiments
        ids, token = [], None
        while True:
            page = search_runs(connection, numbers, text, order, max_results=3, page_token=token, **more)
            ids += page.ids
            token = page.next_page_token
            if token is None:
                return ids


def bulk(store: Store, count: int, value: Callable[[int], float] = float) -> None:
    """Many runs at once, past the verbs: ``m`` by ``value``, the param ``p`` one of ten."""
    run(store, 0)
    number = get_experiment(store, "bikes").id

    def work(connection: Any) -> None:
        runs = [(f"b{n:06d}", number, f"run {n}", "finished", START_US + n, "person:ana", b"{}") for n in range(count)]
        insert = "insert into runs (id, experiment, name, status, started_us, actor, facts) values (?, ?, ?, ?, ?, ?, ?)"
        run_sql(connection, insert, runs)
        series = [(f"b{n:06d}", "m", 0, 0, value(n), 0, 1) for n in range(count)]
        run_sql(connection, "insert into series (run, key, step, at_us, value, special, count) values (?, ?, ?, ?, ?, ?, ?)", series)
        run_sql(
            connection, "insert into params (run, key, value) values (?, ?, ?)", [(f"b{n:06d}", "p", f"v{n % 10}") for n in range(count)]
        )

    store.ledger.write(work)
    delete_run(store, "r00000", actor=ANA)


def test_newest_first_and_views(store: Store):
    ids = [run(store, n) for n in range(8)]
    delete_run(store, ids[3], actor=ANA)
    shown = [one for one in reversed(ids) if one != ids[3]]
    assert found(store) == shown
    assert found(store, view="deleted") == [ids[3]]
    assert found(store, view="all") == ids[::-1]
    assert found(store, experiments=[]) == found(store, experiments=[999]) == []


def test_many_experiments(store: Store):
    numbers = []
    for n in range(40):
        run(store, n, experiment=f"e{n % 20}", m=float(n % 7))
    numbers = [get_experiment(store, f"e{n}").id for n in range(0, 20, 2)]
    expected = [f"r{n:05d}" for n in range(38, -1, -2)]
    assert found(store, experiments=numbers) == expected
    assert found(store, experiments=[*numbers, *numbers]) == expected
    by_m = sorted(expected, key=lambda one: (-(int(one[1:]) % 7), -int(one[1:])))
    assert found(store, order=["metrics.m DESC"], experiments=numbers) == by_m


def test_pages_neither_skip_nor_repeat_while_runs_come_and_go(store: Store):
    for n in range(12):
        run(store, n, m=float(n // 2))
    number = get_experiment(store, "bikes").id
    for order in (None, ["metrics.m DESC"], ["metrics.m"]):
        rng, seen, token, late = random.Random(1), [], None, 100
        while True:
            with store.ledger.read() as connection:
                page = search_runs(connection, [number], "", order, max_results=2, page_token=token)
            seen += page.ids
            token = page.next_page_token
            if token is None:
                break
            run(store, late + (1000 if order is None else 2000 if "DESC" in order[0] else 3000), m=rng.choice((-1.0, 2.0, 9.0)))
            late += 1
        assert len(seen) == len(set(seen))
        assert {f"r{n:05d}" for n in range(12)} <= set(seen)


def test_runs_of_the_library_answer_to_the_tags_that_clients_set(store: Store):
    from andon.tracking import start_run

    with start_run(store, experiment="bikes", name="outer", actor=ANA) as outer:
        pass
    inner = create_run(store, experiment="bikes", name="inner", parent=outer.id, actor=ANA, facts=_facts()).id
    assert found(store, f"tags.mlflow.parentRunId = '{outer.id}'") == [inner]
    assert found(store, "tags.`mlflow.parentRunId` IS NULL") == [outer.id]
    assert found(store, "tags.`mlflow.user` = 'ana' AND user_id = 'ana' AND tags.`mlflow.runName` LIKE 'out%'") == [outer.id]
    update_run(store, inner, name="renamed", actor=ANA)
    assert found(store, "tags.mlflow.runName = 'renamed'") == found(store, "run_name = 'renamed'") == [inner]


def _facts() -> Any:
    from andon.tracking.records import Code, EnvironmentLock, Hardware, RunFacts

    return RunFacts(
        code=Code(),
        environment=EnvironmentLock(python="3.11.7", platform="linux", requirements=()),
        hardware=Hardware(host="h", cpu="c", cores=1, memory_bytes=1),
    )


def test_texts_longer_than_an_index_row(store: Store):
    long = "é" * 3_000
    one = run(store, 1, params={"p": long}, tags={"t": long})
    two = run(store, 2, params={"p": long + "x"}, tags={"t": "short"})
    assert found(store, f"params.p = '{long}'") == found(store, f"tags.t = '{long}'") == [one]
    assert found(store, f"params.p LIKE '{long}%'", ["params.p DESC"]) == [two, one]
    assert found(store, order=["tags.t"]) == [two, one]


@pytest.mark.parametrize("value", [float, lambda n: 1.0, lambda n: float(n % 3)], ids=["all differ", "all alike", "three values"])
def test_every_plan_finds_the_same(store: Store, value: Callable[[int], float], monkeypatch: pytest.MonkeyPatch):
    bulk(store, 240, value)
    made = {}
    for few, counted, size in ((0, 1, 7), (10**9, 10**9, 7), (5, 50, 20)):
        monkeypatch.setattr(running, "_FEW", few)
        monkeypatch.setattr(running, "_COUNTED", counted)
        monkeypatch.setattr(running, "_SLICE", size)
        monkeypatch.setattr(running, "_PATIENCE", size)
        for text in (
            "",
            "params.p = 'v3'",
            "metrics.m >= 1 AND metrics.m < 150 AND params.p LIKE '%7'",
            "params.p = 'v3' AND metrics.m < 0",
        ):
            for order in (["metrics.m DESC"], ["metrics.m"], ["params.p", "metrics.m"], []):
                with store.ledger.read() as connection:
                    number = get_experiment(store, "bikes").id
                    page = search_runs(connection, [number], text, order, max_results=45)
                    ids = [*page.ids]
                    while page.next_page_token:
                        page = search_runs(connection, [number], text, order, max_results=45, page_token=page.next_page_token)
                        ids += page.ids
                assert made.setdefault((text, tuple(order)), ids) == ids
    assert len(made["", ()]) == 240
    assert len(made["params.p = 'v3'", ("metrics.m",)]) == 24


def test_a_search_looks_at_few_rows(tmp_path: Path):
    """SQLite's own count of steps: what a page costs does not follow how many runs there are."""
    steps = {}
    with open_store(tmp_path / ".andon") as store:
        for size in (2_000, 20_000):
            with open_store(tmp_path / str(size)) as store:
                bulk(store, size, lambda n: (n * 7919 % 20_011) / 20_011)
                steps[size] = [_steps(store, text, order) for text, order in _COMMON]
    for small, large, asked in zip(steps[2_000], steps[20_000], _COMMON, strict=True):
        assert large < 3 * small + 200_000, (asked, small, large)  # counting to 10,000 is the 200,000


_COMMON = (
    ("", []),
    ("", ["metrics.m DESC"]),
    ("metrics.m > 0.5", ["metrics.m DESC"]),
    ("metrics.m > 0.5 AND params.p = 'v3'", ["metrics.m"]),
    ("params.p = 'v3'", []),
    ("params.p != 'v3'", ["start_time"]),
    ("run_name = 'run 77'", []),
    ("", ["params.p DESC"]),
)


def _steps(store: Store, text: str, order: list[str]) -> int:
    number = get_experiment(store, "bikes").id
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 100
        return 0

    with store.ledger.read() as connection:
        raw = connection.connection.driver_connection
        raw.set_progress_handler(step, 100)
        try:
            assert search_runs(connection, [number], text, order, max_results=20).ids
        finally:
            raw.set_progress_handler(None, 0)
    return taken


def test_counts_and_columns(store: Store):
    bulk(store, 300)
    run(store, 1, experiment="other", m=1.0, params={"theirs": "x"})
    number, other = get_experiment(store, "bikes").id, get_experiment(store, "other").id
    with store.ledger.read() as connection:
        assert count_runs(connection, [number]) == (300, True)
        assert count_runs(connection, [number], "params.p = 'v3' AND metrics.m >= 100") == (20, True)
        assert count_runs(connection, [number], "params.p LIKE '%3'") == (30, True)
        assert count_runs(connection, [number], most=100) == (100, False)
        assert count_runs(connection, [number], view="deleted") == (1, True)
        assert count_runs(connection, []) == (0, True)
        assert columns_of(connection, [number]) == (["m"], ["p"])
        assert columns_of(connection, [other, number]) == (["m"], ["p", "theirs"])
        assert columns_of(connection, []) == columns_of(connection, [999]) == ([], [])


def test_tokens_that_are_none_of_ours(store: Store):
    for n in range(3):
        run(store, n, m=float(n))
    number = get_experiment(store, "bikes").id
    with store.ledger.read() as connection:
        token = search_runs(connection, [number], "metrics.m >= 0", max_results=1).next_page_token
        assert token is not None
        assert search_runs(connection, [number], "metric.m >= 0", max_results=2, page_token=token).ids == ["r00001", "r00000"]
        for wrong in ("x", "é", token[:-5], token * 2, "W10=", "bnVsbA==", "a" * 200_000):
            with pytest.raises(InvalidInput, match="not one that this server gave out"):
                search_runs(connection, [number], "metrics.m >= 0", page_token=wrong)
        for more in ({"text": "metrics.m >= 1"}, {"order_by": ["metrics.m"]}, {"view": "all"}, {"experiments": [number, 99]}):
            asked = {"experiments": [number], "text": "metrics.m >= 0"} | more
            with pytest.raises(InvalidInput, match="a search for something else"):
                search_runs(connection, **asked, page_token=token)
        for size in (0, -1, 50_001):
            with pytest.raises(InvalidInput, match="max_results"):
                search_runs(connection, [number], max_results=size)
        assert rows_of(connection, "select count(*) from runs")[0][0] == 3
