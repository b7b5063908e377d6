"""Andon against a real ``mlflow server``: the same requests to both, and answers that agree but for a list of differences with reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from andon.wire.mlflow.routes import ROUTES
from tests.wire.mlflow.differential import generated, recorded, written
from tests.wire.mlflow.differential.cases import Case
from tests.wire.mlflow.differential.comparing import Unlike, unlike
from tests.wire.mlflow.differential.differences import DIFFERENCES, Difference
from tests.wire.mlflow.differential.playing import Played, Player
from tests.wire.mlflow.servers import AndonServer, RealServer

CASES: list[Case] = [*recorded.cases(), *generated.cases(), *written.cases()]
OURS = {("PUT", "2.0/mlflow-artifacts/mpu/part/{upload_id}/{part_number}")}
"""Endpoints that the real server does not have."""
BROKEN = "the server failed; its log has the trace"
SAFE_TO_REPEAT = ("spoiled/post/runs/outputs", "spoiled/post/logged-models/model/params")
"""What the real server refuses the second time, as listed."""
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def _play(url: str) -> dict[str, Played]:
    player = Player(url)
    played = {case.name: player.play(case) for case in CASES}
    player.close()
    return played


@pytest.fixture(scope="session")
def real_playing(mlflow_server_starting: RealServer) -> Iterator[Future[dict[str, Played]]]:
    """The real server starting, and then answering every case, in the background."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(lambda: _play(mlflow_server_starting.wait().url))


@pytest.fixture(scope="module")
def ours(real_playing: Future[dict[str, Played]], andon_server: AndonServer) -> dict[str, Played]:
    """Every case as Andon answers it."""
    return _play(andon_server.url)


@pytest.fixture(scope="session")
def real(real_playing: Future[dict[str, Played]]) -> dict[str, Played]:
    """Every case as the real server answers it."""
    return real_playing.result()


@pytest.fixture(scope="session")
def used() -> set[Difference]:
    """The listed differences that were met."""
    return set()


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_a_case_is_answered_alike(name: str, ours: dict[str, Played], real: dict[str, Played], used: set[Difference]) -> None:
    found = list(_unlisted(name, unlike(real[name], ours[name]), used))
    if found:
        pytest.fail("\n".join(_told(real[name], one) for one in found[:8]), pytrace=False)


def test_every_listed_difference_still_occurs(ours: dict[str, Played], real: dict[str, Played], used: set[Difference]) -> None:
    for case in CASES:
        list(_unlisted(case.name, unlike(real[case.name], ours[case.name]), used))
    assert [one for one in DIFFERENCES if one not in used] == []


@pytest.mark.parametrize("case", generated.spoiled(), ids=lambda case: case.name)
def test_what_is_well_formed_is_answered_alike(case: Case, ours: dict[str, Played], real: dict[str, Played]) -> None:
    """No listed difference excuses another status for the one request of a case that is as it should be."""
    last = -1 if case.steps[-1].method == "GET" else -2  # all but a GET's last is in camelCase
    same = real[case.name].answers[last].status == ours[case.name].answers[last].status
    assert same or case.name in SAFE_TO_REPEAT, (real[case.name].answers[last], ours[case.name].answers[last])


def test_nothing_that_is_asked_breaks_the_server(ours: dict[str, Played], andon_server: AndonServer):
    """Some of the protocol's own errors are of status 500; ours that nobody foresaw is told by its words."""
    broken = [(name, number) for name, played in ours.items() for number, answer in enumerate(played.answers) if BROKEN in str(answer.body)]
    assert broken == []
    assert "Traceback" not in andon_server.errors()


def test_every_endpoint_is_asked():
    asked = {
        (step.method, re.sub("<<.*?>>", "x", step.path).removeprefix("/api/").removeprefix("/ajax-api/"))
        for case in CASES
        for step in case.steps
    }
    never = []
    for route in {(route.method, route.template) for route in ROUTES if route.method != "HEAD"} - OURS:
        pattern = re.compile(re.sub(r"\\{[a-z_.]+?(:path)?\\}", lambda found: ".*" if found[1] else "[^/]+", re.escape(route[1])))
        if not any(method == route[0] and pattern.fullmatch(path) for method, path in asked):
            never.append(route)
    assert never == []


def test_the_real_server_agrees_with_itself(real: dict[str, Played]) -> None:
    """What is taken away before comparing takes no difference away that there is: the same play is alike, another case's is not."""
    one, other = real["runs/life"], real["experiments/life"]
    assert list(unlike(one, one)) == []
    assert list(unlike(one, Played(one.case, other.url, other.answers, other.bound, other.began_ms, other.ended_ms)))


def _unlisted(name: str, found: Iterator[Unlike], used: set[Difference]) -> Iterator[Unlike]:
    for one in found:
        listed = next((known for known in DIFFERENCES if known.covers(name, one)), None)
        if listed is None:
            yield one
        else:
            used.add(listed)


def _told(played: Played, one: Unlike) -> str:
    step = played.case.steps[one.step]
    sent = step.query or (step.json if step.text is None else step.text)
    return (
        f"step {one.step}: {one.request} {str(sent)[:300]}\n  {one.where}\n    real: {str(one.real)[:400]}\n    ours: {str(one.ours)[:400]}"
    )
