"""Aliases: they move by compare-and-swap, one mover wins, and every move is kept."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from andon.core.addresses import Address
from andon.core.errors import AliasMoved, Gone, InvalidAddress, InvalidInput, NotFound
from andon.registry import alias_revision, aliases_of, delete, get, move_alias, moves, register, remove_alias, resolve
from andon.store import Store
from tests.conftest import ANA
from tests.unit.registry.conftest import Add

CHAMPION = "model:bikes@champion"


@pytest.fixture
def three(add: Add) -> None:
    for n in (1, 2, 3):
        add("model", "bikes", {"n": n})


@pytest.mark.usefixtures("three")
def test_an_alias_moves_and_its_history_is_complete(store: Store) -> None:
    move_alias(store, CHAMPION, "model:bikes@1", actor=ANA, reason="first", expected=None)
    move_alias(store, CHAMPION, "model:bikes@2", actor=ANA, expected="model:bikes@1")
    move_alias(store, CHAMPION, "model:bikes@1", actor=ANA, expected=Address("model", "bikes", 2))
    remove_alias(store, CHAMPION, actor=ANA, reason="retired")
    move_alias(store, CHAMPION, "model:bikes", actor=ANA, expected=None)
    found = moves(store, CHAMPION)
    assert [(move.revision, move.source, move.target) for move in found] == [
        (1, None, "model:bikes@1"),
        (2, "model:bikes@1", "model:bikes@2"),
        (3, "model:bikes@2", "model:bikes@1"),
        (4, "model:bikes@1", None),
        (5, None, "model:bikes@3"),
    ]
    assert (found[0].reason, found[3].reason, found[0].actor) == ("first", "retired", "person:ana")
    assert alias_revision(store, CHAMPION) == 5
    assert moves(store, CHAMPION, limit=2) == found[-2:]
    assert aliases_of(store, "model:bikes@2") == {"champion": "model:bikes@3"}


@pytest.mark.usefixtures("three")
def test_moving_to_where_it_is_records_nothing_and_returns_the_last_move(store: Store) -> None:
    first = move_alias(store, CHAMPION, "model:bikes@1", actor=ANA, reason="why it is there")
    store.clock.advance(5)  # type: ignore[attr-defined]
    assert move_alias(store, CHAMPION, "model:bikes@1", actor=ANA, reason="again") == first
    assert move_alias(store, CHAMPION, "model:bikes@1", actor=ANA, expected="model:bikes@1") == first
    assert len(moves(store, CHAMPION)) == alias_revision(store, CHAMPION) == 1
    with pytest.raises(AliasMoved):
        move_alias(store, CHAMPION, "model:bikes@1", actor=ANA, expected="model:bikes@2")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("expected", [None, "model:bikes@2"])
def test_whoever_looked_before_the_move_is_refused(store: Store, expected: str | None) -> None:
    move_alias(store, CHAMPION, "model:bikes@1", actor=ANA)
    with pytest.raises(AliasMoved) as caught:
        move_alias(store, CHAMPION, "model:bikes@3", actor=ANA, expected=expected)
    assert caught.value.fields == {"alias": CHAMPION, "expected": expected, "found": "model:bikes@1"}
    with pytest.raises(AliasMoved):
        remove_alias(store, CHAMPION, actor=ANA, expected="model:bikes@3")
    assert resolve(store, CHAMPION) == Address("model", "bikes", 1)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("alias", "to", "options", "kind"),
    [
        ("model:bikes", "model:bikes@1", {}, InvalidAddress),
        ("model:bikes@2", "model:bikes@1", {}, InvalidAddress),
        ("model:bikes@latest", "model:bikes@1", {}, InvalidAddress),
        (CHAMPION, "model:other@1", {}, InvalidAddress),
        (CHAMPION, "dataset:bikes@1", {}, InvalidAddress),
        (CHAMPION, "model:bikes@9", {}, NotFound),
        (CHAMPION, "model:bikes@nobody", {}, NotFound),
        (CHAMPION, "model:bikes@1", {"expected": "model:bikes"}, InvalidAddress),
        (CHAMPION, "model:bikes@1", {"reason": "\x00"}, InvalidInput),
        ("service:bikes@production", "model:bikes@1", {}, InvalidAddress),
    ],
)
def test_what_is_wrong_is_refused(store: Store, alias: str, to: str, options: dict[str, str], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        move_alias(store, alias, to, actor=ANA, **options)
    assert moves(store, "model:bikes") == []


@pytest.mark.usefixtures("three")
def test_an_alias_never_points_to_what_was_deleted(store: Store) -> None:
    delete(store, "model:bikes@2", actor=ANA, reason="x")
    with pytest.raises(Gone):
        move_alias(store, CHAMPION, "model:bikes@2", actor=ANA)
    with pytest.raises(NotFound):
        remove_alias(store, CHAMPION, actor=ANA)


def test_a_services_channel_points_to_a_release(add: Add, store: Store) -> None:
    add("release", "bikes", {"n": 1})
    move_alias(store, "service:bikes@production", "release:bikes@latest", actor=ANA)
    assert get(store, "service:bikes@production").address == Address("release", "bikes", 1)
    assert aliases_of(store, "service:bikes") == {"production": "release:bikes@1"}
    assert [move.target for move in moves(store, "service:bikes")] == ["release:bikes@1"]


def _race(store: Store, rounds: int, movers: int) -> list[int]:
    """Winners of each round, where every mover tries the same compare-and-swap."""
    starting = threading.Barrier(movers)
    wins = [0] * rounds

    def run(me: int) -> None:
        for turn in range(rounds):
            starting.wait()
            before = None if turn == 0 else f"model:bikes@{turn}"
            try:
                move_alias(store, CHAMPION, f"model:bikes@{turn + 1}", actor=ANA, reason=str(me), expected=before)
                wins[turn] += 1
            except AliasMoved:
                pass

    with ThreadPoolExecutor(movers) as pool:
        for future in [pool.submit(run, me) for me in range(movers)]:
            future.result()
    return wins


def test_one_of_eight_threads_wins_each_round(shared_store: Store) -> None:
    rounds = 10
    for n in range(rounds):
        register(shared_store, "model", "bikes", {"n": n}, actor=ANA)
    assert _race(shared_store, rounds, 8) == [1] * rounds
    assert [move.target for move in moves(shared_store, CHAMPION)] == [f"model:bikes@{n + 1}" for n in range(rounds)]


MOVER = """
import json, sys
from andon.core.actors import Actor
from andon.core.errors import AliasMoved
from andon.registry import move_alias
from andon.store import open_store

home, ledger, me, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
won = []
with open_store(home, ledger=ledger) as store:
    print("ready", flush=True)
    for turn in range(rounds):
        sys.stdin.readline()  # all start together
        before = None if turn == 0 else f"model:bikes@{turn}"
        try:
            move_alias(store, "model:bikes@champion", f"model:bikes@{turn + 1}", actor=Actor("process", me), expected=before)
            won.append(turn)
        except AliasMoved:
            pass
        print("done", flush=True)
print(json.dumps(won))
"""


def test_one_of_four_processes_wins_each_round(shared_store: Store) -> None:
    rounds = 8
    for n in range(rounds):
        register(shared_store, "model", "bikes", {"n": n}, actor=ANA)
    home, ledger = shared_store.settings.home, shared_store.settings.ledger
    movers = [
        subprocess.Popen(
            [sys.executable, "-c", MOVER, home, ledger, f"m{me}", str(rounds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for me in range(4)
    ]
    try:
        for mover in movers:
            assert mover.stdout is not None
            assert mover.stdout.readline() == "ready\n"
        for _ in range(rounds):
            for mover in movers:
                assert mover.stdin is not None
                mover.stdin.write("go\n")
                mover.stdin.flush()
            for mover in movers:
                assert mover.stdout is not None
                assert mover.stdout.readline() == "done\n"
        won = sorted(turn for mover in movers for turn in json.loads(mover.stdout.readline()))
    finally:
        for mover in movers:
            mover.kill()
            mover.communicate()
    assert won == list(range(rounds))
    history = moves(shared_store, CHAMPION)
    assert [(move.revision, move.target) for move in history] == [(n + 1, f"model:bikes@{n + 1}") for n in range(rounds)]
