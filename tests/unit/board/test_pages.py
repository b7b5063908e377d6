"""Every page over a seeded line and over nothing; hostile names are inert; forms do what they say."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from andon.board import words
from andon.core.actors import Actor
from andon.registry import register, set_tag
from andon.releases import service_state
from andon.store import Store
from tests.browser.making import run
from tests.browser.seeding import INCIDENT, XSS
from tests.unit.api.conftest import Client

HTML = {"accept": "text/html"}
PAGES = (
    "/",
    "/runs",
    "/runs?experiment=bikes",
    "/registry",
    "/registry/model",
    "/registry/model/bikes",
    "/registry/model/bikes?at=1",
    "/registry/prompt/answer",
    "/registry/policy/gate%2Fdefault",
    "/registry/release/bikes",
    "/releases/bikes/1",
    "/releases/bikes/2",
    "/releases/bikes/latest",
    "/services/bikes",
    "/services/power",
    "/services/fraud",
    "/services/answers",
    "/incidents",
    f"/incidents/{INCIDENT}",
)


class _Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if dict(attrs).get("id"):
            self.ids.append(str(dict(attrs)["id"]))


def _read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    return reader


@pytest.mark.parametrize("path", PAGES)
def test_it_renders_sound_html(client: Client, path: str) -> None:
    answer = client.get(path, headers=HTML)
    assert answer.status_code == 200, answer.text
    page = _read(answer.text)
    assert len(page.ids) == len(set(page.ids)), sorted(one for one in page.ids if page.ids.count(one) > 1)
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert "style" not in attributes, (tag, attributes)
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
        target = attributes.get("href") or attributes.get("src") or attributes.get("action") or "/"
        assert re.match(r"(/(?!/)|#|\?)", target), target
        if tag in ("input", "textarea", "select") and attributes.get("type") != "hidden":
            assert any(other == "label" and label.get("for") == attributes.get("id") for other, label in page.tags), attributes


@pytest.mark.parametrize("path", ["/", "/runs", "/registry", "/registry/model", "/incidents"])
def test_empty_pages_teach_the_next_command(empty_client: Client, path: str) -> None:
    answer = empty_client.get(path, headers=HTML)
    assert answer.status_code == 200
    assert re.search(r"<code>(andon|run\.)[^<]*</code>", answer.text)


@pytest.mark.parametrize(
    "path",
    [
        "/runs/nope",
        "/registry/model/nope",
        "/registry/nonsense",
        "/releases/bikes/99",
        "/services/nope",
        "/incidents/nope",
        "/verdicts/nope",
        "/nope",
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(client: Client, path: str) -> None:
    answer = client.get(path, headers=HTML)
    assert answer.status_code in (400, 404)
    assert "<h1>" in answer.text
    assert "Next:" in answer.text


def test_each_run_and_verdict_has_a_page(client: Client) -> None:
    for one in client.get("/api/v1/runs").json()["runs"]:
        assert client.get(f"/runs/{one['id']}", headers=HTML).status_code == 200
    seen = set()
    for verdict in client.get("/api/v1/verdicts?limit=400").json():
        if verdict["check"] not in seen:
            seen.add(verdict["check"])
            answer = client.get(f"/verdicts/{verdict['id']}", headers=HTML)
            assert answer.status_code == 200
            assert str(words.linked(words.sentence(verdict["message"]))) in answer.text
    assert len(seen) >= 8


def test_hostile_text_is_inert_everywhere(client: Client, seeded: Store) -> None:
    eve = Actor("person", XSS)
    register(seeded, "prompt", "xss", {"template": XSS, XSS: "</pre><script>alert(1)</script>"}, actor=eve, reason=XSS)
    set_tag(seeded, "prompt:xss", XSS, XSS, actor=eve, reason=XSS)
    id_ = run(seeded, seeded.clock, XSS, params={XSS: XSS}, loss=(2, 1), experiment=XSS)
    client.post("/services/bikes/rollback", data={"reason": XSS}, headers=HTML)
    paths = ["/", "/runs", f"/runs/{id_}", "/registry/prompt/xss", "/registry/model/bikes", "/services/bikes", "/releases/bikes/3"]
    for path in paths:
        text = client.get(path, headers=HTML).text
        assert "<img" not in text, path
        assert "<script>" not in text, path
        assert "&lt;img src=x onerror=alert(1)&gt;" in text, path


def test_rollback_from_the_page(client: Client, seeded: Store) -> None:
    page = client.get("/services/bikes").text
    assert "Production moves from release:bikes@3 to release:bikes@1." in page
    answer = client.post(
        "/services/bikes/rollback", data={"reason": "mornings are wrong", "expected": "release:bikes@3", "only": ""}, follow_redirects=False
    )
    assert answer.status_code == 303
    assert answer.headers["location"] == "/services/bikes?done=rolled-back"
    assert "Production was put back to release:bikes@1." in client.get(answer.headers["location"]).text
    assert service_state(seeded, "bikes").turns[-1].reason == "mornings are wrong"


def test_a_form_that_is_refused_keeps_what_was_typed(client: Client, seeded: Store) -> None:
    stale = client.post("/services/bikes/rollback", data={"reason": "typed with care", "expected": "release:bikes@1"})
    assert stale.status_code == 409
    assert "Nothing was changed." in stale.text
    assert "typed with care</textarea>" in stale.text
    assert service_state(seeded, "bikes").current() == "release:bikes@3"
    empty = client.post("/services/bikes/rollback", data={"reason": "   "})
    assert empty.status_code == 400
    refused = client.post("/services/bikes/deploy", data={"reason": "x", "release": "release:bikes@2"})
    assert refused.status_code == 409
    assert "the gate refused this release" in refused.text
    assert client.post("/services/bikes/deploy", data={"reason": "x", "release": "release:fraud@1"}).status_code == 400
    assert client.post("/services/bikes/rollback", data={"reason": "x", "only": "weather"}).status_code == 400
    assert client.post("/services/bikes/rollback", data={"reason": "x", "colour": "red"}).status_code == 400


def test_the_incidents_button_does_what_it_says(client: Client, seeded: Store) -> None:
    page = client.get(f"/incidents/{INCIDENT}").text
    assert "Roll back to bikes@1" in page
    answer = client.post(
        f"/incidents/{INCIDENT}/rollback", data={"reason": "as triage says", "expected": "release:bikes@3"}, follow_redirects=False
    )
    assert answer.status_code == 303
    assert service_state(seeded, "bikes").current() == "release:bikes@1"


def test_waive_then_deploy_from_pages(client: Client, seeded: Store) -> None:
    assert client.post("/releases/bikes/2/waive", data={"reason": "we need it"}, follow_redirects=False).status_code == 303
    assert "may be deployed under a waiver" in client.get("/releases/bikes/2").text.replace("May be", "may be")
    answer = client.post(
        "/services/bikes/deploy",
        data={"reason": "waived", "release": "release:bikes@2", "expected": "release:bikes@3"},
        follow_redirects=False,
    )
    assert answer.status_code == 303
    assert service_state(seeded, "bikes").current() == "release:bikes@2"


def test_artifacts_are_saved_never_shown(client: Client, seeded: Store) -> None:
    from sqlalchemy import insert

    from andon.store import schema as s

    hostile = b"<script>alert(1)</script>"
    digest = seeded.blobs.put(hostile)
    id_ = client.get("/api/v1/runs").json()["runs"][0]["id"]
    row = {
        "owner": f"run:{id_}",
        "path": 'out/re"port;.html',
        "digest": digest,
        "size_bytes": len(hostile),
        "media_type": "text/html",
        "at_us": 1,
    }
    seeded.ledger.write(lambda c: c.execute(insert(s.artifacts).values(**row)))
    answer = client.get(f"/runs/{id_}/artifacts/out/re%22port;.html")
    assert answer.content == hostile
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''re%22port%3B.html"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert client.get(f"/runs/{id_}/artifacts/..%2F..%2Fledger.db").status_code == 404


def test_static_files_are_kept_and_plotly_is_the_packages_own(client: Client) -> None:
    urls = re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/").text)
    assert len(urls) >= 4
    for url in urls:
        answer = client.get(url)
        assert answer.status_code == 200
    id_ = client.get("/api/v1/runs").json()["runs"][0]["id"]
    plotly = re.search(r'data-plotly="([^"]+)"', client.get(f"/runs/{id_}").text)
    assert plotly is not None
    answer = client.get(plotly.group(1))
    assert b"plotly.js" in answer.content[:200]
    assert "immutable" in answer.headers["cache-control"]
