"""Retention: pure decisions, and deletions that really are."""

from __future__ import annotations

import pytest

from andon.core.clocks import DAY_US, ManualClock
from andon.core.errors import Gone, InvalidInput, NotFound
from andon.logs.traces import TraceRecord, tell_trace_in, traces_in
from andon.operations import retaining, upkeep
from andon.operations.policies import register_policy
from andon.registry import Parent, register, set_tag
from andon.registry import delete as delete_version
from andon.store import Store, memory_store, open_store
from andon.store import schema as s
from andon.tracking import Point, create_run, get_run, list_runs, log_artifact, log_batch, metrics_of, update_run
from andon.tracking.experiments import create_experiment, delete_experiment, find_experiment_in
from andon.tracking.retention import Aged, RetentionPolicy, carry_out, decide, disk_use, policy_for
from tests.conftest import ANA

NOW = 1_000 * DAY_US


def aged(**changes: object) -> Aged:
    given = {
        "address": "run:A",
        "experiment": "bikes",
        "ended_us": NOW - 100 * DAY_US,
        "deleted_us": None,
        "has_files": True,
        "registered": False,
    }
    return Aged(**(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "item", "expected"),
    [
        (RetentionPolicy(), aged(), None),
        (RetentionPolicy(), aged(deleted_us=NOW - 30 * DAY_US), "purge"),
        (RetentionPolicy(), aged(deleted_us=NOW - 30 * DAY_US + 1), None),
        (RetentionPolicy(deleted_days=None), aged(deleted_us=0), None),
        (RetentionPolicy(runs_days=100), aged(), "purge"),
        (RetentionPolicy(runs_days=101), aged(), None),
        (RetentionPolicy(runs_days=100), aged(ended_us=None), None),  # it still runs
        (RetentionPolicy(artifacts_days=90), aged(), "free"),
        (RetentionPolicy(artifacts_days=90), aged(has_files=False), None),
        (RetentionPolicy(artifacts_days=90, runs_days=99), aged(), "purge"),
        (RetentionPolicy(runs_days=1), aged(registered=True), "spare"),
        (RetentionPolicy(), aged(deleted_us=0, registered=True), "spare"),
        (RetentionPolicy(runs_days=1), aged(tagged=True), "spare"),
        (RetentionPolicy(), aged(deleted_us=0, tagged=True), "purge"),  # who deletes it has said so
        (RetentionPolicy(runs_days=1), aged(best_by="mae"), "spare"),
        (RetentionPolicy(runs_days=0), aged(ended_us=NOW), "purge"),
    ],
)
def test_decisions(policy: RetentionPolicy, item: Aged, expected: str | None) -> None:
    made = decide([item], {"retention/x": policy}, NOW)
    assert [action.what for action in made] == ([] if expected is None else [expected])


def test_the_most_particular_policy_holds() -> None:
    policies = {
        "all": RetentionPolicy(experiments=("*",)),
        "bikes": RetentionPolicy(experiments=("bikes/*", "exact")),
        "deep": RetentionPolicy(experiments=("bikes/deep*",)),
        "star": RetentionPolicy(experiments=("exac*", "exac?*")),
    }
    named = {experiment: policy_for(experiment, policies)[0] for experiment in ("x", "bikes/a", "bikes/deep", "exact")}
    assert named == {"x": "all", "bikes/a": "bikes", "bikes/deep": "deep", "exact": "bikes"}
    assert policy_for("x", {}) == ("the default", RetentionPolicy())


@pytest.fixture
def old(tmp_path: object) -> Store:
    with memory_store(ManualClock(NOW)) as store:
        yield store  # type: ignore[misc]


def finished(store: Store, experiment: str, *, days_ago: float, mae: float = 1.0) -> str:
    at = store.clock.now_us() - int(days_ago * DAY_US)
    run = create_run(store, experiment=experiment, actor=ANA, started_us=at - 1, params={"depth": 6}, tags={"team": "x"}).id
    log_batch(store, run, metrics=[Point("mae", mae, n, at) for n in range(20)], actor=ANA)
    log_artifact(store, run, run.encode(), "own.bin", actor=ANA)
    log_artifact(store, run, b"everybody's", "shared.bin", actor=ANA)
    update_run(store, run, actor=ANA, status="finished", ended_us=at)
    return run


def rows_about(store: Store, run: str) -> dict[str, int]:
    """How many rows of each table name the run in any text column."""
    found = {}
    with store.ledger.read() as connection:
        series = [row.id for row in connection.execute(s.series.select().where(s.series.c.run == run))]
        for table in s.metadata.sorted_tables:
            count = sum(any(isinstance(value, str) and run in value for value in row) for row in connection.execute(table.select()))
            if count:
                found[table.name] = count
        points = sum(row.series in series for row in connection.execute(s.points.select()))
    return found | ({"points": points} if points else {})


def test_a_purged_run_leaves_a_tombstone_and_nothing_else(old: Store) -> None:
    gone, kept = finished(old, "bikes", days_ago=400), finished(old, "bikes", days_ago=10)
    register_policy("retention/bikes", {"experiments": ["bikes"], "runs_days": 365}, store=old, actor=ANA)
    before = rows_about(old, kept)
    planned = retaining.free(old, dry_run=True, actor=ANA)
    assert (planned.purged, [action.address for action in planned.actions]) == (1, [f"run:{gone}"])
    assert get_run(old, gone).status == "finished", "a dry run changes nothing"
    done = retaining.free(old, actor=ANA)
    assert done.purged == 1
    assert rows_about(old, gone) == {"tombstones": 1}
    with pytest.raises(Gone, match="deleted for good"):
        get_run(old, gone)
    assert rows_about(old, kept) == before
    assert metrics_of(old, kept)["mae"].count == 20
    assert retaining.free(old, actor=ANA).purged == 0


def test_what_production_may_need_is_spared(old: Store) -> None:
    run = finished(old, "bikes", days_ago=400)
    register(old, "model", "bikes", {"x": 1}, actor=ANA, parents=[Parent(f"run:{run}", "run")])
    tagged, best = finished(old, "bikes", days_ago=400), finished(old, "bikes", days_ago=400, mae=0.1)
    set_tag(old, f"run:{tagged}", "keep", "yes", actor=ANA)
    register_policy("retention/all", {"runs_days": 30, "keep_best": {"mae": "min"}}, store=old, actor=ANA)
    done = retaining.free(old, actor=ANA)
    assert (done.purged, done.spared) == (0, 3)
    why = {action.address: action.why for action in done.actions}
    assert "registered" in why[f"run:{run}"]
    assert "tagged keep" in why[f"run:{tagged}"]
    assert "mae" in why[f"run:{best}"]
    delete_version(old, "model:bikes@1", actor=ANA, reason="not needed")
    assert retaining.free(old, actor=ANA).purged == 1


def test_files_may_go_before_their_run(old: Store) -> None:
    run = finished(old, "bikes", days_ago=100)
    register_policy("retention/all", {"artifacts_days": 90}, store=old, actor=ANA)
    assert retaining.free(old, actor=ANA).freed == 1
    assert metrics_of(old, run)["mae"].count == 20
    assert "artifacts" not in rows_about(old, run)
    assert retaining.free(old, actor=ANA).freed == 0


def test_a_run_registered_after_the_decision_stays(old: Store) -> None:
    run = finished(old, "bikes", days_ago=400)
    register_policy("retention/all", {"runs_days": 30}, store=old, actor=ANA)
    actions = retaining.plan(old)
    register(old, "model", "bikes", {"x": 1}, actor=ANA, parents=[Parent(f"run:{run}", "run")])
    assert carry_out(old, actions, actor=ANA) == 0
    assert get_run(old, run).deleted_us is None


def test_a_deleted_experiment_goes_with_its_runs_and_frees_its_name(old: Store) -> None:
    number = create_experiment(old, "trial", tags={"a": "b"}, actor=ANA).id
    run = finished(old, "trial", days_ago=1)
    delete_experiment(old, number, actor=ANA)
    with pytest.raises(Gone):
        create_run(old, experiment="trial", actor=ANA)
    old.clock.advance(31 * DAY_US)  # type: ignore[attr-defined]
    done = retaining.free(old, actor=ANA)
    assert (done.purged, done.experiments) == (1, ("trial",))
    with old.ledger.read() as connection:
        assert find_experiment_in(connection, "trial") is None
    assert create_experiment(old, "trial", actor=ANA).id != number
    with pytest.raises(Gone):
        get_run(old, run)


def told_trace(store: Store, identity: str, experiment: int, days_ago: float) -> None:
    at = store.clock.now_us() - int(days_ago * DAY_US)
    record = TraceRecord(id=identity, experiment=experiment, state="ok", requested_us=at)
    store.ledger.write(lambda c: tell_trace_in(c, record))


def test_traces_go_by_age_and_with_their_experiment(old: Store) -> None:
    kept, gone = create_experiment(old, "kept", actor=ANA).id, create_experiment(old, "gone", actor=ANA).id
    for days in (1, 40):
        told_trace(old, f"tr-kept-{days}", kept, days)
    told_trace(old, "tr-gone", gone, 1)
    register_policy("retention/all", {"traces_days": 30}, store=old, actor=ANA)
    assert retaining.free(old, dry_run=True, actor=ANA).traces == 1
    assert retaining.free(old, actor=ANA).traces == 1
    delete_experiment(old, gone, actor=ANA)
    register_policy("retention/all", {"deleted_days": 0}, store=old, actor=ANA)
    done = retaining.free(old, actor=ANA)
    assert (done.traces, done.experiments) == (1, ("gone",))
    with old.ledger.read() as connection:
        assert sorted(traces_in(connection, ["tr-kept-1", "tr-kept-40", "tr-gone"])) == ["tr-kept-1"]


def test_killed_half_way_it_goes_on(old: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(old, "bikes", days_ago=400)
    register_policy("retention/all", {"runs_days": 30}, store=old, actor=ANA)
    monkeypatch.setattr("andon.tracking.retention.PURGE_POINTS", 3)
    monkeypatch.setattr("andon.tracking.retention._purge_rest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        retaining.free(old, actor=ANA)
    assert list_runs(old) == [], "hidden before anything of it goes"
    monkeypatch.undo()
    old.clock.advance(31 * DAY_US)  # type: ignore[attr-defined]
    assert retaining.free(old, actor=ANA).purged == 1
    assert rows_about(old, run) == {"tombstones": 1}


def test_disk_use_and_real_space(tmp_path: object) -> None:
    with open_store(str(tmp_path / "home")) as store:  # type: ignore[operator]
        run = create_run(store, experiment="big", actor=ANA).id
        for batch in range(30):
            log_batch(store, run, metrics=[Point("x", n / 7, batch * 1_000 + n, n) for n in range(1_000)], actor=ANA)
        log_artifact(store, run, b"z" * 1_000_000, "z.bin", actor=ANA)
        update_run(store, run, actor=ANA, status="finished")
        uses = {use.experiment: use for use in disk_use(store)}
        assert (uses["big"].points, uses["big"].files, uses["big"].own_bytes) == (30_000, 1, 1_000_000)
        retaining.delete(store, f"run:{run}", why="a trial", actor=ANA)
        assert {use.experiment: use.deleted_runs for use in disk_use(store)}["big"] == 1
        register_policy("retention/all", {"deleted_days": 0}, store=store, actor=ANA)
        done = retaining.free(store, older_than="90s", actor=ANA)
        assert (done.purged, done.blobs) == (1, 0), "bytes written just now are left for whoever is about to name them"
        assert done.ledger_bytes > 300_000
        assert upkeep.needed_blobs(store) == set()


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"runs_days": -1}, "runs_days"),
        ({"experiments": []}, "experiments"),
        ({"runs_day": 3}, "runs_day"),
        ({"keep_best": {"a": "up"}}, "keep_best"),
    ],
)
def test_a_wrong_policy_names_its_field(old: Store, policy: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        register_policy("retention/all", policy, store=old, actor=ANA)
    assert field in str(caught.value)


def test_restoring(old: Store) -> None:
    run = finished(old, "bikes", days_ago=1)
    retaining.delete(old, f"run:{run}", why="by mistake", actor=ANA)
    assert list_runs(old) == []
    retaining.restore(old, f"run:{run}", actor=ANA)
    assert [found.id for found in list_runs(old)] == [run]
    with pytest.raises(NotFound):
        retaining.restore(old, "experiment:nothing", actor=ANA)
    with pytest.raises(InvalidInput):
        retaining.delete(old, "model:bikes", why="x", actor=ANA)
