"""The line with its ledger on Postgres: the same story, verdict for verdict, as on SQLite, though a control plane dies in the middle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from andon import releases
from andon.core.clocks import DAY_US, SystemClock
from andon.core.settings import load
from andon.demo import bikes
from andon.operations.session import use
from andon.operations.watching import judged_until_us, watch
from andon.store import Store, open_store
from andon.store.schema import leases, replicas
from tests.conftest import START_US
from tests.faults.watched import DAYS, SERVICE, Plane, make_home, told
from tests.scenario.replaying import Line, shifted
from tests.unit.serving.clients import Client, run

pytestmark = pytest.mark.service


@pytest.fixture
def on_postgres(postgres_url: str, tmp_path: Path) -> Iterator[Store]:
    """A store whose ledger is on Postgres; bytes and tables are in a folder."""
    with open_store(load(tmp_path / "home", ledger=postgres_url), clock=SystemClock()) as store:
        yield store


@pytest.fixture
def watched(on_postgres: Store, tmp_path: Path) -> Store:
    """Days of traffic that nobody has judged yet."""
    (tmp_path / "scratch").mkdir()
    make_home(on_postgres, tmp_path / "scratch")
    return on_postgres


@pytest.fixture
def on_sqlite(tmp_path: Path) -> list[tuple[Any, ...]]:
    """What the monitors say of the same days when the ledger is a file and nothing goes wrong."""
    (tmp_path / "scratch-sqlite").mkdir()
    with open_store(tmp_path / "sqlite", clock=SystemClock()) as store:
        make_home(store, tmp_path / "scratch-sqlite")
        watch(f"service:{SERVICE}", store=store)
        return told(store)


def wait(true: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    until_s = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < until_s, f"waited for {what}"
        time.sleep(0.02)
    return found


def test_a_control_plane_killed_while_it_judges_is_succeeded_and_tells_the_same(
    watched: Store, on_sqlite: list[tuple[Any, ...]], postgres_url: str
) -> None:
    """A broken input and a bad release, answered once each: by two processes, of which the first dies before its ninth commit."""
    home = Path(watched.settings.home)
    postgres = {"ANDON_LEDGER": postgres_url}

    def reached(day: int) -> bool:
        return (judged_until_us(f"service:{SERVICE}", store=watched) or 0) >= START_US + day * DAY_US

    with Plane(home, "--no-serve", environ=postgres | {"ANDON_FAULT": "ledger.before_commit:9"}) as first:
        wait(lambda: first.process.poll() is not None, "the first to be killed")
        assert reached(1)
        assert not reached(DAYS - 1)
        with Plane(home, "--no-serve", environ=postgres) as second:
            wait(lambda: reached(DAYS - 1), "the second to take over")
            with watched.ledger.read() as connection:
                holder = connection.execute(select(leases.c.holder).where(leases.c.name == "controllers")).scalar()
            assert f"/{second.process.pid}/" in str(holder)
            assert second.terminate() == (0, "")
    assert told(watched) == on_sqlite
    assert releases.service_state(watched, SERVICE).held() == ["release:bikes@1", "release:bikes@2", "release:bikes@1"]


def test_one_round_over_http(watched: Store, postgres_url: str) -> None:
    """Served by a child, asked, labelled by way of both servers, rolled back through the API, and followed."""
    home = Path(watched.settings.home)
    with Plane(home, environ={"ANDON_LEDGER": postgres_url}) as plane:

        def ready() -> Any:
            with watched.ledger.read() as connection:
                return connection.execute(select(replicas).where(replicas.c.status == "ready")).first()

        port = int(wait(ready, "the service to be ready").url.rpartition(":")[2])
        watched_until = (DAYS - 1) * DAY_US + START_US
        wait(lambda: (judged_until_us(f"service:{SERVICE}", store=watched) or 0) >= watched_until, "every day to be judged")

        async def main() -> None:
            service, control = Client(port), Client(plane.port)
            asked = {"rows": [{"x": 1.0, "k": 2}], "request_id": "r1", "event_time": "2011-08-20T00:00:00Z"}
            while (answer := await service.post("/predict", asked)).json["release"] != "release:bikes@1":
                pass  # it is about to follow the rollback that the monitors asked for
            assert answer.json["outputs"] == [{"y": 104.0}]
            for client, path in ((service, "/labels"), (control, f"/api/v1/services/{SERVICE}/labels")):
                told = await client.post(path, {"labels": [{"request_id": "r1", "label": 103.0}]})
                assert told.status == 200, told.body
            waived = await control.post(f"/api/v1/releases/{SERVICE}/2/waive", {"reason": "once more"})
            assert waived.status == 200, waived.body
            moved = await control.post(f"/api/v1/services/{SERVICE}/deploy", {"release": "release:bikes@2", "reason": "once more"})
            assert moved.status in (200, 201), moved.body
            while (await service.post("/predict", asked)).json["release"] != "release:bikes@2":
                pass
            back = await control.post(f"/api/v1/services/{SERVICE}/rollback", {"reason": "worse again", "expected": "release:bikes@2"})
            assert back.json["release"] == "release:bikes@1", back.body
            while (await service.post("/predict", asked)).json["release"] != "release:bikes@1":
                pass

        run(main())
        code, errors = plane.terminate()
        assert (code, errors) == (0, "")
    labels = watched.tables.query(f'select label from "labels/{SERVICE}" where request_id = ?', ["r1"]).to_pylist()
    assert [row["label"] for row in labels] == [103.0, 103.0]


@pytest.mark.slow
def test_real_hours_with_a_clock_in_another_zone(on_postgres: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's model and data, trained, gated, released and watched with this ledger under it."""
    pytest.importorskip("sklearn")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with use(on_postgres):
        line = Line(on_postgres, bikes.day_us("2012-02-20"), 1)
        line.live(3)
        assert line.state.incidents == ()
        line.live(3, shifted("hr", 5, 24, line.now_us))
        assert [incident.cause for incident in line.state.incidents] == ["upstream"]
        assert "hr" in line.state.incidents[0].suspects
        line.close()
