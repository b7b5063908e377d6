"""The pages of runs: what they show, what they refuse, and that nothing which people named becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest

from andon.api.guard import SANDBOX_POLICY
from andon.board.run_pages import where_wrong
from andon.board.trees import file_tree
from andon.core.clocks import ManualClock
from andon.core.errors import InvalidInput
from andon.operations.showing.records import ArtifactRow
from andon.registry import set_tag, tag_history, tags_of
from andon.store import Store, open_store
from andon.tracking import create_run, delete_run, get_run, log_artifact, log_batch
from andon.tracking.command import spool_of
from tests.browser.making import ANA
from tests.browser.sweep import EXPERIMENT, png, sweep
from tests.unit.api.conftest import Client, _client
from tests.unit.board.test_pages import HTML, _read

XSS = "<img src=x onerror=alert(1)>\"'`;--<script>alert(2)</script>"
TABLE = f"/runs?experiment={quote(EXPERIMENT, safe='')}"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Store]:
    """A home on disk with a sweep in it."""
    with open_store(tmp_path) as store:
        yield store


@pytest.fixture
def ids(home: Store) -> dict[str, str]:
    return sweep(home)


@pytest.fixture
def pages(home: Store, ids: dict[str, str]) -> Iterator[Client]:
    with _client(home) as client:
        yield client


def _names(text: str) -> list[str]:
    return re.findall(r'<td class="named"><a href="/runs/[^"]+" data-row>([^<]*)</a>', text)


def _sound(text: str) -> None:
    page = _read(text)
    assert len(page.ids) == len(set(page.ids)), sorted(one for one in page.ids if page.ids.count(one) > 1)
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert "style" not in attributes, (tag, attributes)
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
        target = attributes.get("href") or attributes.get("src") or attributes.get("action") or attributes.get("formaction") or "/"
        assert re.match(r"(/(?!/)|#|\?)", target), target
        if tag in ("input", "textarea", "select") and attributes.get("type") != "hidden":
            labels = [one.get("for") for other, one in page.tags if other == "label"]
            labelled = attributes.get("aria-label") or attributes.get("id") in labels
            assert labelled or attributes.get("type") in ("checkbox", "range"), attributes


def _table_paths(ids: dict[str, str]) -> list[str]:
    best = ids["depth-6/seed-1"]
    return [
        TABLE,
        f"{TABLE}&group=params.depth",
        f"{TABLE}&group=attributes.run_name&column=metrics.mae",
        f"{TABLE}&column=",
        "/runs?view=deleted",
        f"/runs?filter={quote('params.depth = 6')}",
        f"/runs/{best}",
        f"/runs/{ids['parent']}",
        f"/runs/{ids['wire']}",
        f"/compare?run={best}",
        f"/compare?run={best}&run={ids['wire']}&run={ids['parent']}",
        *(f"/runs/{best}/files/{path}" for path in ("eval/predictions.json", "eval/by_hour.csv", "eval/rides.parquet", "report.html")),
        *(f"/runs/{best}/files/{path}" for path in ("plots/residuals.png", "config.json", "broken.parquet", "model/model.skops")),
    ]


def test_every_page_is_sound(pages: Client, ids: dict[str, str]) -> None:
    for path in _table_paths(ids):
        answer = pages.get(path, headers=HTML)
        assert answer.status_code == (400 if "6%27" not in path and "filter=" in path else 200), (path, answer.text[:300])
        _sound(answer.text)


def test_what_is_wrong_with_a_filter_is_said_and_the_text_is_kept(pages: Client) -> None:
    text = "metrics.mae < 30 and params.depth = 6"
    answer = pages.get(f"{TABLE}&filter={quote(text)}", headers=HTML)
    assert answer.status_code == 400
    assert f'value="{text.replace("<", "&lt;")}"' in answer.text
    assert "In the filter, at character 37" in answer.text
    assert "<mark>6</mark>" in answer.text
    assert "Nothing is shown until the filter reads." in answer.text
    for query, said in (
        ("order=metrics.a.b.c%20SIDEWAYS", "In the order"),
        ("token=forged", "In the page"),
        ("column=colour.red", "In the columns"),
        ("group=metrics.mae", "In the grouping"),
        ("experiment=nobody", "there is no experiment of this name"),
    ):
        answer = pages.get(f"/runs?{query}", headers=HTML)
        assert answer.status_code in (400, 404), query
        assert said in answer.text, query


@pytest.mark.parametrize(
    ("text", "message", "fields", "place"),
    [
        ("params.depth = 6", "Got value 6", {"field": "filter"}, (15, 16)),
        ("metrik.x = 1", "Invalid entity type 'metrik'. Valid values are ['metric']", {"field": "filter"}, (0, 6)),
        ("a = 1", "said", {"field": "filter", "position": 2}, (2, 5)),
        ("a = 1", "said", {"field": "filter", "position": 99}, None),
        ("a = 1", "Invalid 'a'", {"field": "order_by"}, None),
        ("", "Invalid ''", {}, None),
    ],
)
def test_where_a_filter_is_wrong(text: str, message: str, fields: dict[str, object], place: tuple[int, int] | None) -> None:
    assert where_wrong(text, InvalidInput(message, **fields)) == place


def test_columns_are_what_the_url_says(pages: Client) -> None:
    page = pages.get(f"{TABLE}&column=metrics.val%2Fmae&column=tags.team&column=attributes.run_id", headers=HTML).text
    head = re.search(r"<thead>(.*?)</thead>", page, re.DOTALL)
    assert head is not None
    assert re.findall(r'title="([a-z]+\.[^"]+)"', head.group(1)) == ["metrics.val/mae", "tags.team", "attributes.run_id"]
    assert "night shift" in page
    none = pages.get(f"{TABLE}&column=", headers=HTML).text
    assert re.findall(r'title="([a-z]+\.[^"]+)"', re.findall(r"<thead>.*?</thead>", none, re.DOTALL)[0]) == []
    sorter = re.search(r'href="([^"]+)" title="metrics.val/mae"', page)
    assert sorter is not None
    assert "column=tags.team" in sorter.group(1), "a click keeps the columns"


def test_sorting_and_filtering_happen_on_the_server(pages: Client) -> None:
    wanted = quote("params.seed = '2' and params.depth != '4'")
    asked = f"{TABLE}&filter={wanted}&order={quote('metrics.`mae` DESC')}&column=metrics.mae"
    page = pages.get(asked, headers=HTML).text
    values = [float(one) for one in re.findall(r'<td class="num" data-v="([\d.]+)">', page)]
    assert len(values) == 2
    assert values == sorted(values, reverse=True)
    assert 'aria-sort="descending"' in page


def test_pages_hold_each_run_once(pages: Client, home: Store) -> None:
    for n in range(130):
        create_run(home, experiment="many", name=f"n{n}", actor=ANA)
    path, seen = "/runs?experiment=many", list[str]()
    for _ in range(3):
        page = pages.get(path, headers=HTML).text
        seen += _names(page)
        more = re.search(r'rel="next" href="([^"]+)"', page)
        path = unescape(more.group(1)) if more else ""
    assert path == ""
    assert len(seen) == 130
    assert len(set(seen)) == 130


def test_groups_have_mean_least_most_and_n(pages: Client, ids: dict[str, str]) -> None:
    table = pages.get("/api/v1/runs/table", params={"experiment": EXPERIMENT, "group": "params.depth", "column": "metrics.mae"}).json()
    runs = pages.get("/api/v1/runs/table", params={"experiment": EXPERIMENT, "column": ["metrics.mae", "params.depth"]}).json()["rows"]
    assert [group["value"] for group in table["groups"]] == ["8", "6", "4", None]
    for group in table["groups"][:3]:
        values = [row["cells"][0] for row in runs if row["cells"][1] == group["value"]]
        spread = group["cells"][0]
        assert group["count"] == len(values) == spread["n"] == 4
        assert (spread["min"], spread["max"]) == (min(values), max(values))
        assert spread["mean"] == pytest.approx(sum(values) / 4)
        inside = pages.get("/api/v1/runs/table", params={"experiment": EXPERIMENT, "filter": group["filter"]}).json()
        assert len(inside["rows"]) == 4
    assert table["groups"][3]["cells"] == [None]
    assert table["grouped_all"] is True
    page = pages.get(f"{TABLE}&group=params.depth", headers=HTML).text
    assert "4 groups over all 13 runs" in page


def test_how_many_match(pages: Client) -> None:
    count = pages.get("/api/v1/runs/count", params={"experiment": EXPERIMENT, "filter": "params.depth = '6'"}).json()
    assert count == {"count": 4, "exact": True}
    assert pages.get("/api/v1/runs/count", params={"filter": "x y z"}).status_code == 400


def test_runs_are_deleted_and_restored_from_the_table(pages: Client, home: Store, ids: dict[str, str]) -> None:
    one, two = ids["depth-4/seed-0"], ids["depth-4/seed-1"]
    answer = pages.post(f"/runs/delete?back={quote(TABLE)}", data={"run": [one, two]}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{TABLE}&done=deleted%202")
    assert get_run(home, one).deleted_us is not None
    assert "2 runs deleted" in pages.get(answer.headers["location"], headers=HTML).text
    gone = pages.get("/runs?view=deleted", headers=HTML).text
    assert sorted(_names(gone)) == ["depth-4", "depth-4"]
    assert "This run was deleted" in pages.get(f"/runs/{one}", headers=HTML).text
    answer = pages.post("/runs/restore?back=https://evil.example/", data={"run": one}, follow_redirects=False)
    assert answer.headers["location"] == "/runs?done=restored%201"
    assert get_run(home, one).deleted_us is None
    assert pages.post("/runs/restore", data={}, headers=HTML).status_code == 400
    assert pages.post("/runs/restore", data={"run": "nobody"}, headers=HTML).status_code == 404


def test_a_comparison_says_what_differs(pages: Client, ids: dict[str, str]) -> None:
    three = [ids[f"depth-{depth}/seed-{seed}"] for depth, seed in ((4, 0), (6, 1), (8, 2))]
    found = pages.get("/api/v1/compare", params={"run": three}).json()
    assert {row["name"] for row in found["params"] if row["differs"]} == {"depth", "seed"}
    assert [row["name"] for row in found["packages"]] == ["numpy"]
    mae = next(row for row in found["metrics"] if row["key"] == "mae")
    assert mae["newest"][mae["best"]] == min(mae["newest"])
    assert found["metrics"][0]["key"] == "learning_rate"
    assert found["metrics"][0]["best"] is None, "its name does not tell"
    wire = pages.get(f"/compare?run={three[0]}&run={ids['wire']}", headers=HTML).text
    assert "Not captured for placid-hare-17" in wire
    assert "77aa01c2d9" in wire
    series = pages.get("/api/v1/series", params={"run": [*three, ids["wire"]], "key": "mae"}).json()
    assert [None if one["points"] is None else one["points"]["total"] for one in series["runs"]] == [60, 60, 60, None]
    assert pages.get("/compare", headers=HTML).status_code == 400
    assert pages.get("/compare?run=nobody", headers=HTML).status_code == 404
    assert pages.get("/compare?" + "&".join(f"run=R{n}" for n in range(31)), headers=HTML).status_code == 400


def test_a_note_is_a_journaled_tag_in_plain_text(pages: Client, home: Store, ids: dict[str, str]) -> None:
    run = ids["depth-4/seed-0"]
    answer = pages.post(
        f"/runs/{run}/note", data={"note": f"one\r\ntwo {XSS}"}, headers={"x-andon-actor": "person:ben"}, follow_redirects=False
    )
    assert answer.status_code == 303
    assert tags_of(home, f"run:{run}")["mlflow.note.content"] == f"one\ntwo {XSS}"
    last = tag_history(home, f"run:{run}")[-1]
    assert (last.key, last.actor) == ("mlflow.note.content", "person:ben")
    page = pages.get(f"/runs/{run}", headers=HTML).text
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    before = len(tag_history(home, f"run:{run}"))
    pages.post(f"/runs/{run}/note", data={"note": f"one\r\ntwo {XSS}"})
    assert len(tag_history(home, f"run:{run}")) == before, "the same note is no change"
    too_long = pages.post(f"/runs/{run}/note", data={"note": "x" * 400_001}, headers=HTML)
    assert too_long.status_code == 400
    assert "x" * 400_001 in too_long.text, "what was typed is kept"
    pages.post(f"/runs/{run}/note", data={"note": " "})
    assert "mlflow.note.content" not in tags_of(home, f"run:{run}")
    assert pages.post("/runs/nobody/note", data={"note": "x"}, headers=HTML).status_code == 404


def test_tags_are_set_and_removed(pages: Client, home: Store, ids: dict[str, str]) -> None:
    run = ids["depth-4/seed-0"]
    assert pages.post(f"/runs/{run}/tags", data={"key": "k", "value": "v"}, follow_redirects=False).status_code == 303
    assert tags_of(home, f"run:{run}")["k"] == "v"
    assert pages.post(f"/runs/{run}/tags", data={"key": "", "value": "v"}, headers=HTML).status_code == 400
    pages.post(f"/runs/{run}/tags", data={"remove": "k"})
    assert "k" not in tags_of(home, f"run:{run}")
    assert pages.post(f"/runs/{run}/tags", data={"remove": "k"}, headers=HTML).status_code == 404


def test_a_runs_page_links_everything(pages: Client, ids: dict[str, str]) -> None:
    page = pages.get(f"/runs/{ids['depth-6/seed-1']}", headers=HTML).text
    for link in ("/registry/model/rides?at=1", "/releases/rides/1", f"/runs/{ids['parent']}", "s3://rides/2011/hour.parquet", "m-8d1f0c2a"):
        assert link in page, link
    answer = pages.get("/logged-models/m-8d1f0c2a", follow_redirects=False)
    assert answer.headers["location"] == f"/runs/{ids['depth-6/seed-1']}#made"
    parent = pages.get(f"/runs/{ids['parent']}", headers=HTML).text
    assert parent.count(">depth-6</a>") == 4
    wire = pages.get(f"/runs/{ids['wire']}", headers=HTML).text
    assert "came over the MLflow wire" in wire
    assert "andon run -- python train.py" in wire
    assert wire.count("missing</span>") >= 5


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'),
        ("a.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("b.png", b"<html><script>alert(1)</script>"),
        ("c.gif", b"GIF8"),
        ("d.webp", b"RIFF0000WAVE"),
        ("e.jpg", b""),
    ],
)
def test_only_pictures_are_served_as_pictures(pages: Client, home: Store, ids: dict[str, str], path: str, data: bytes) -> None:
    run = ids["depth-4/seed-0"]
    log_artifact(home, run, data, path, actor=ANA)
    assert pages.get(f"/runs/{run}/images/{path}").status_code == 404
    page = pages.get(f"/runs/{run}/files/{path}", headers=HTML).text
    assert "<svg xmlns" not in page
    assert 'class="picture"' not in page


def test_a_picture_is_served_sandboxed(pages: Client, ids: dict[str, str]) -> None:
    answer = pages.get(f"/runs/{ids['depth-6/seed-1']}/images/plots/residuals.png")
    assert answer.content == png()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-security-policy"] == SANDBOX_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("..%2F..%2Fledger.db", "%2e%2e/ledger.db", "/etc/passwd", "plots"):
        assert pages.get(f"/runs/{ids['depth-6/seed-1']}/images/{path}").status_code == 404, path


def test_previews(pages: Client, ids: dict[str, str]) -> None:
    run = ids["depth-6/seed-1"]

    def shown(path: str) -> str:
        return pages.get(f"/runs/{run}/files/{path}", headers=HTML).text

    assert shown("eval/predictions.json").count("<tr>") == 101
    assert "The first 100 of 130 rows." in shown("eval/predictions.json")
    assert "The first 100 of 240 rows." in shown("eval/rides.parquet")
    assert shown("eval/by_hour.csv").count("<tr>") == 25
    assert "&lt;script&gt;document.title" in shown("report.md")
    assert "It is not what its name says" in shown("broken.parquet")
    assert "There is no preview" in shown("model/model.skops")
    assert "&#34;depth&#34;: 6" in shown("config.json")
    assert pages.get(f"/runs/{run}/files/nope", headers=HTML).status_code == 404


def test_output_is_read_by_offset_while_it_grows(pages: Client, home: Store) -> None:
    run = create_run(home, experiment="live", name="printing", actor=ANA).id
    url = f"/api/v1/runs/{run}/log?stream=stdout"
    assert pages.get(url).json() == {"stream": "stdout", "text": "", "next_offset": 0, "size_bytes": 0, "known": False, "done": False}
    folder = spool_of(home, run)
    folder.mkdir(parents=True)
    log = folder / "stdout.log"
    log.write_bytes("one\nzwei \u00fc".encode()[:-1])
    part = pages.get(url).json()
    assert part["text"] == "one\nzwei ", "a character that is cut comes whole next time"
    with log.open("ab") as file:
        file.write("\u00fc".encode()[1:] + b"\x1b[31mred\x1b[0m\x07\n\x1b[3")
    part = pages.get(f"{url}&offset={part['next_offset']}").json()
    assert part["text"] == "\u00fcred\n"
    assert part["done"] is False
    page = pages.get(f"/runs/{run}", headers=HTML).text
    assert "zwei \u00fcred" in page
    log.write_bytes(XSS.encode())
    assert "<img src=x" not in pages.get(f"/runs/{run}", headers=HTML).text
    assert pages.get(f"{url}&offset=-1").status_code == 400
    assert pages.get(f"/api/v1/runs/{run}/log?stream=../stdout").status_code == 400
    assert pages.get("/api/v1/runs/nobody/log").status_code == 404


def test_a_link_in_the_spool_is_not_followed(pages: Client, home: Store, tmp_path: Path) -> None:
    run = create_run(home, experiment="live", name="linking", actor=ANA).id
    secret = tmp_path / "secret"
    secret.write_text("the key")
    spool_of(home, run).mkdir(parents=True)
    (spool_of(home, run) / "stdout.log").symlink_to(secret)
    assert pages.get(f"/api/v1/runs/{run}/log").json()["known"] is False


def test_hostile_names_are_inert_on_every_page_of_runs(pages: Client, home: Store) -> None:
    given = {"params": {XSS: XSS, "depth": XSS}, "tags": {XSS: XSS, "t": XSS}}
    made = [create_run(home, experiment=XSS, name=XSS, actor=ANA, **given).id for _ in range(2)]
    for run in made:
        now = home.clock.now_us()
        log_batch(home, run, metrics=[(XSS, 1.0, 0, now), (XSS, 2.0, 1, now)], actor=ANA)
        log_artifact(home, run, f"a,{XSS}\n{XSS},2\n".encode(), "x<b>.csv", actor=ANA)
        log_artifact(home, run, XSS.encode(), f"logs/{XSS.replace('/', '')}.txt", actor=ANA)
        set_tag(home, f"run:{run}", "mlflow.note.content", XSS, actor=ANA)
        set_tag(home, f"run:{run}", "mlflow.source.name", XSS, actor=ANA)
    named = quote(XSS, safe="")
    paths = [
        "/runs",
        f"/runs?experiment={named}",
        f"/runs?experiment={named}&group=params.depth",
        f"/runs?experiment={named}&group=params.{named}&column=metrics.{named}&column=params.{named}&column=tags.{named}",
        f"/runs?filter={named}",
        f"/runs?order={named}&group={named}&token={named}&column={named}&view={named}&done={named}",
        f"/runs/{made[0]}",
        f"/runs/{made[0]}?done={named}",
        f"/compare?run={made[0]}&run={made[1]}",
        f"/compare?run={named}",
        f"/runs/{made[0]}/files/x%3Cb%3E.csv",
        f"/runs/{made[0]}/files/{named}",
    ]
    for path in paths:
        text = pages.get(path, headers=HTML).text
        assert "<img src=x" not in text, path
        assert "<script>alert" not in text, path
        assert "<b>.csv" not in text, path
        _sound(text)


def test_a_run_whose_process_is_gone_is_not_shown_as_running(empty: Store, empty_client: Client) -> None:
    run = create_run(empty, experiment="e", name="gone", actor=ANA, holder="no-such-process")
    clock = empty.clock
    assert isinstance(clock, ManualClock)
    clock.advance(24 * 3_600_000_000)
    for path in ("/runs", f"/runs/{run.id}"):
        assert "killed" in empty_client.get(path, headers=HTML).text
    assert empty_client.get(f"/api/v1/runs/{run.id}/log").json()["done"] is True, "nobody waits for more of its output"


def test_a_store_in_memory_has_no_output(empty: Store, empty_client: Client) -> None:
    run = create_run(empty, experiment="e", name="x", actor=ANA)
    assert empty_client.get(f"/api/v1/runs/{run.id}/log").json()["known"] is False
    delete_run(empty, run.id, actor=ANA)
    assert empty_client.get(f"/runs/{run.id}", headers=HTML).status_code == 200


def test_a_tree_opens_what_is_on_the_way() -> None:
    files = [ArtifactRow(path=f"a/b{n}/c.txt", digest="b3:0", size_bytes=1, media_type="text/plain") for n in range(1_200)]
    root = file_tree(files, opened="a/b3/c.txt")
    assert root.hidden == 200
    assert root.folders[0].open
    assert [folder.name for folder in root.folders[0].folders if folder.open] == ["b3"]
    assert root.folders[0].count == 1_000
