"""The pages of runs in a real browser: found, sorted, grouped, compared, followed while they run, noted on."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pytest

from andon.registry import tag_history, tags_of
from andon.store import Store, open_store
from andon.tracking import create_run, list_experiments, log_batch, run_command, update_run
from andon.tracking.command import spool_of
from tests.browser.conftest import ARTIFACTS, OpenPage, Served
from tests.browser.making import ANA
from tests.browser.sweep import EXPERIMENT, curve, sweep

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.service
LONG_MS = 20_000
TABLE = f"/runs?experiment={quote(EXPERIMENT, safe='')}"


class Home(Served):
    """A server over a home on disk, with the ids of the sweep's runs."""

    ids: dict[str, str]


def _home(folder: Path) -> Iterator[Home]:
    with open_store(folder) as store:
        ids = sweep(store)
        served = Home(store)
        served.ids = ids
        yield served
        served.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home for tests that only read."""
    yield from _home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Home]:
    """A home of a test's own."""
    yield from _home(tmp_path)


def _until(page: Page, condition: str) -> None:
    """Wait for a condition in the page. Playwright's own ``wait_for_function`` looks again by ``eval``, which our pages forbid."""
    deadline = time.monotonic() + LONG_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(25)


def _names(page: Page) -> list[str]:
    return page.locator("#runs tbody td.named > a").all_inner_texts()


def _column(page: Page, title: str) -> list[str]:
    heads = [text.split("\n")[0].strip() for text in page.locator("#runs thead th").all_inner_texts()]
    return [row.locator("td").nth(heads.index(title)).inner_text() for row in page.locator("#runs tbody tr").all()]


def _find(page: Page, text: str) -> None:
    page.keyboard.press("/")
    page.locator("#filter").fill(text)
    page.keyboard.press("Enter")


PAGES = ("table", "groups", "wrong", "run", "wire", "parent", "compare", "picture", "rows", "nothing")


def _path(home: Home, name: str) -> str:
    best = home.ids["depth-6/seed-1"]
    three = "&".join(f"run={home.ids[one]}" for one in ("depth-4/seed-0", "depth-6/seed-1", "depth-8/seed-2"))
    return {
        "table": f"{TABLE}&order={quote('metrics.`mae` ASC')}",
        "groups": f"{TABLE}&group=params.depth",
        "wrong": f"/runs?filter={quote('metrics.mae < 30 and params.depth = 6')}",
        "run": f"/runs/{best}",
        "wire": f"/runs/{home.ids['wire']}",
        "parent": f"/runs/{home.ids['parent']}",
        "compare": f"/compare?{three}",
        "picture": f"/runs/{best}/files/plots/residuals.png",
        "rows": f"/runs/{best}/files/eval/rides.parquet",
        "nothing": "/runs/nope/files/x",
    }[name]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_of_runs_in_both_themes_and_at_two_widths(home: Home, open_page: OpenPage, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    for dark in (False, True):
        page = open_page(home, _path(home, name), dark=dark, expect_error=name in ("wrong", "nothing"))
        for host in page.locator(".plotly-host").all():
            host.locator(".main-svg").first.wait_for(timeout=LONG_MS)
        assert page.locator("h1").count() == 1
        page.screenshot(path=ARTIFACTS / f"runs-{name}-{'dark' if dark else 'light'}.png", full_page=True)
        page.set_viewport_size({"width": 400, "height": 860})
        _until(page, "document.documentElement.scrollWidth <= 400")
        _until(page, "[...document.querySelectorAll('.main-svg')].every((svg) => svg.clientWidth <= 400)")
        if not dark:
            page.screenshot(path=ARTIFACTS / f"runs-{name}-narrow.png", full_page=True)


def test_runs_are_filtered_and_a_wrong_filter_is_said_at_its_box(home: Home, open_page: OpenPage) -> None:
    page = open_page(home, TABLE, expect_error=True)
    _find(page, "params.depth = '6' and params.seed != '0'")
    page.wait_for_selector("text=3 of 3 that match", timeout=LONG_MS)
    assert set(_names(page)) == {"depth-6"}
    assert len(_names(page)) == 3
    _find(page, "params.depth = '6' and metrics.mae < 'x'")
    page.wait_for_selector("#wrong", timeout=LONG_MS)
    box = page.locator("#filter")
    assert box.input_value() == "params.depth = '6' and metrics.mae < 'x'"
    assert box.get_attribute("aria-invalid") == "true"
    assert "at character" in page.inner_text("#wrong")
    box.fill("")
    page.keyboard.press("Enter")
    page.wait_for_selector("#runs tbody tr", timeout=LONG_MS)
    assert "experiment=" in page.url, "the experiment is kept"


def test_any_column_sorts_on_the_server(home: Home, open_page: OpenPage) -> None:
    page = open_page(home, TABLE)
    page.locator("#runs th a", has_text=re.compile("^mae$")).click()
    page.wait_for_selector("#runs th[aria-sort=ascending]", timeout=LONG_MS)
    values = [float(text) for text in _column(page, "mae") if text != "–"]
    assert values == sorted(values)
    assert len(values) == 12
    assert _column(page, "mae")[-1] == "–", "what has no value comes last"
    page.locator("#runs th a", has_text=re.compile("^mae$")).click()
    page.wait_for_selector("#runs th[aria-sort=descending]", timeout=LONG_MS)
    assert [float(text) for text in _column(page, "mae") if text != "–"] == sorted(values, reverse=True)


def test_runs_are_grouped_over_seeds_and_a_group_opens(home: Home, open_page: OpenPage) -> None:
    page = open_page(home, TABLE)
    page.locator("#group").select_option("params.depth")
    page.wait_for_selector("tr.grouping", timeout=LONG_MS)
    assert "group=params.depth" in page.url
    row = page.locator("tr.grouping", has=page.locator("td.named", has_text=re.compile("^6$")))
    assert row.locator("td").nth(2).inner_text() == "4"
    assert re.fullmatch(r"\d+\.\d+\n\d+\.\d+ to \d+\.\d+", row.locator("td.spread", has_text=" to ").first.inner_text())
    row.locator("[data-opens]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("tr.inside", timeout=LONG_MS)
    assert page.locator("tr.inside").count() == 4
    assert set(page.locator("tr.inside td.named > a").all_inner_texts()) == {"depth-6"}
    page.keyboard.press("Enter")
    assert page.locator("tr.inside:visible").count() == 0


def test_chosen_columns_are_remembered_and_shared_by_url(home: Home, open_page: OpenPage) -> None:
    page = open_page(home, TABLE)
    page.locator("#columns > summary").click()
    page.get_by_label("Find a column").fill("val/")
    assert page.locator("#columns label:visible").all_inner_texts() == ["val/mae"]
    page.get_by_label("Find a column").fill("")
    page.locator("#columns input[name=column]:checked").evaluate_all("boxes => boxes.forEach((box) => { box.checked = false; })")
    page.locator("#columns input[value='metrics.val/mae']").check()
    page.locator("#columns input[value='tags.team']").check()
    page.get_by_role("button", name="Show these").click()
    page.wait_for_url(re.compile("column="), timeout=LONG_MS)
    heads = ["", "Run", "val/mae", "team"]
    assert [text.strip() for text in page.locator("#runs thead th").all_inner_texts()] == heads
    shared = page.url
    page.goto(home.url + TABLE)
    page.wait_for_url(re.compile("column="), timeout=LONG_MS)
    assert [text.strip() for text in page.locator("#runs thead th").all_inner_texts()] == heads
    page.goto(home.url + "/runs")
    assert "column=" not in page.url, "another experiment has its own"
    other = open_page(home, shared[len(home.url) :])
    assert [text.strip() for text in other.locator("#runs thead th").all_inner_texts()] == heads
    page.goto(home.url + TABLE)
    page.wait_for_url(re.compile("column="), timeout=LONG_MS)
    page.locator("#columns > summary").click()
    page.get_by_role("link", name="Defaults").click()
    page.wait_for_selector("#runs th >> text=Status", timeout=LONG_MS)
    assert "column=" not in page.url


def test_selected_runs_are_compared(home: Home, open_page: OpenPage) -> None:
    page = open_page(home, f"{TABLE}&order={quote('metrics.`mae` ASC')}")
    assert not page.locator("#picked-bar").is_visible()
    page.keyboard.press("j")
    page.keyboard.press("x")
    assert page.locator("[data-picked-count]").inner_text() == "1"
    assert page.get_by_role("button", name="Compare").is_disabled()
    boxes = page.locator("#runs tbody input[name=run]")
    boxes.nth(3).click(modifiers=["Shift"])
    assert page.locator("[data-picked-count]").inner_text() == "4"
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare?*", timeout=LONG_MS)
    assert page.locator("#compared li").count() == 4
    page.wait_for_selector("#charts [data-key=mae] .main-svg", timeout=LONG_MS)
    assert page.locator("#charts .scatterlayer .trace").count() == 4


def test_a_comparison_shows_what_differs_and_which_is_best(home: Home, open_page: OpenPage) -> None:
    page = open_page(home, _path(home, "compare"))
    params = page.locator("#compare-params tbody tr:visible th")
    assert params.all_inner_texts() == ["depth", "seed"]
    page.locator("#only-params").uncheck()
    assert params.all_inner_texts() == ["depth", "learning_rate", "loss", "seed"]
    row = page.locator("#compare-metrics tr[data-name=mae]")
    values = [float(cell.get_attribute("data-v") or "nan") for cell in row.locator("td").all()]
    assert row.locator("td.best").get_attribute("data-v") == str(min(values))
    row.locator(".aim").click()
    assert row.locator("td.best").get_attribute("data-v") == str(max(values)), "whoever looks knows better"
    page.reload()
    assert row.locator("td.best").get_attribute("data-v") == str(max(values))
    assert page.locator("#compare-packages tbody th").all_inner_texts() == ["numpy"]
    assert "uncommitted changes" in page.locator("#compare-code tbody tr:visible th").all_inner_texts()
    page.wait_for_selector("[data-scatter][data-drawn='params.depth metrics.mae']", timeout=LONG_MS)
    page.locator("#scatter-x").select_option("params.loss")
    page.wait_for_selector("[data-scatter][data-drawn='params.loss metrics.mae'] .main-svg", timeout=LONG_MS)
    page.locator("#overlay-key").select_option("learning_rate")
    page.wait_for_selector("#charts [data-key=learning_rate]", timeout=LONG_MS)
    page.get_by_role("button", name="Time").first.click()
    page.wait_for_selector("#charts >> text=since the start", timeout=LONG_MS)
    page.get_by_label("log", exact=True).first.check()
    page.locator("[data-smooth]").first.fill("0.6")
    _until(page, "document.querySelectorAll('#charts .scatterlayer .trace').length === 6")
    assert unquote(page.url).endswith("#learning_rate")


def test_a_running_runs_chart_follows(own: Home, open_page: OpenPage) -> None:
    run = create_run(own.store, experiment="live", name="going on", actor=ANA)
    log_batch(own.store, run.id, metrics=curve(run.id, run.started_us, end=20, steps=10), actor=ANA)
    page = open_page(own, f"/runs/{run.id}")
    page.wait_for_selector("#charts .plotly-host[data-points='20'] .main-svg", timeout=LONG_MS)
    page.wait_for_selector("[data-live-lamp][data-state=on]", timeout=LONG_MS)
    log_batch(own.store, run.id, metrics=curve(run.id, run.started_us, end=20, first=10, steps=15), actor=ANA)
    page.wait_for_selector("#charts .plotly-host[data-points='50']", timeout=LONG_MS)
    now = own.store.clock.now_us()
    log_batch(own.store, run.id, metrics=[("accuracy", 0.4, 1, now), ("accuracy", 0.9, 2, now + 1)], actor=ANA)
    page.wait_for_selector("#series >> text=accuracy", timeout=LONG_MS)
    page.wait_for_selector("#charts .plotly-host[data-drawn][data-keys*=accuracy]", timeout=LONG_MS)
    update_run(own.store, run.id, actor=ANA, status="finished")
    page.wait_for_selector("#head >> text=finished", timeout=LONG_MS)


def test_the_first_metric_of_a_running_run_brings_its_chart(own: Home, open_page: OpenPage) -> None:
    run = create_run(own.store, experiment="live", name="just begun", actor=ANA)
    page = open_page(own, f"/runs/{run.id}")
    page.wait_for_selector("[data-live-lamp][data-state=on]", timeout=LONG_MS)
    assert page.locator(".plotly-host, .chart-tools:visible").count() == 0
    log_batch(own.store, run.id, metrics=curve(run.id, run.started_us, end=20, steps=5), actor=ANA)
    page.wait_for_selector("#charts .plotly-host[data-drawn] .main-svg", timeout=LONG_MS)
    assert page.locator(".chart-tools").is_visible()


SCRIPT = """
import sys, time, pathlib
print("epoch 1 of 2 <script>document.title='owned'</script>", flush=True)
print("a warning", file=sys.stderr, flush=True)
sys.stdout.write("10 %\\r20 %\\r")
sys.stdout.flush()
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
print("30 %\\n\\x1b[32mepoch 2 of 2\\x1b[0m", flush=True)
"""


def test_output_is_followed_while_the_command_runs(own: Home, open_page: OpenPage, tmp_path: Path) -> None:
    go = tmp_path / "go"
    out, done = (tmp_path / "out").open("wb"), dict[str, Any]()

    def command() -> None:
        told = [sys.executable, "-c", SCRIPT, str(go)]
        done["result"] = run_command(own.store, told, actor=ANA, experiment="live", name="printing", out=out, err=out)

    thread = threading.Thread(target=command)
    thread.start()
    try:
        until_s = time.monotonic() + 30
        while not any(one.name == "live" for one in list_experiments(own.store)):  # until then there is no such page
            assert time.monotonic() < until_s
            time.sleep(0.02)
        page = open_page(own, "/runs?experiment=live")
        page.wait_for_selector("text=printing", timeout=LONG_MS)
        page.locator("#runs a", has_text="printing").click()
        page.wait_for_selector("#log-stdout >> text=epoch 1 of 2", timeout=LONG_MS)
        page.wait_for_selector("#log-stdout >> text=20 %", timeout=LONG_MS)
        assert page.inner_text("[data-log-state]") == "following"
        page.screenshot(path=ARTIFACTS / "runs-output-light.png", full_page=True)
    finally:
        go.touch()
    page.wait_for_selector("#log-stdout >> text=epoch 2 of 2", timeout=LONG_MS)
    thread.join(30)
    out.close()
    text = page.inner_text("#log-stdout")
    assert "\x1b" not in text
    assert "10 %" not in text, "a progress bar is one line"
    assert page.title().startswith("printing")
    page.get_by_role("tab", name="stderr").click()
    page.wait_for_selector("#log-stderr >> text=a warning", timeout=LONG_MS)
    _until(page, "[...document.querySelectorAll('[data-log]')].every((one) => one.dataset.done === 'yes')")
    assert not spool_of(own.store, done["result"].run.id).exists()
    page.reload()
    assert "epoch 2 of 2" in page.inner_text("#log-stdout"), "the kept log says the same"


def test_a_note_is_edited_and_its_change_is_kept(own: Home, open_page: OpenPage) -> None:
    run = own.ids["depth-4/seed-0"]
    page = open_page(own, f"/runs/{run}")
    page.locator("#edit-note > summary").click()
    page.locator("#note-text").fill("First line.\n<b>not bold</b>")
    page.get_by_role("button", name="Save note").click()
    page.wait_for_url("**#note", timeout=LONG_MS)
    assert page.inner_text(".note-text") == "First line.\n<b>not bold</b>"
    assert page.locator(".note-text b").count() == 0
    changes = tag_history(own.store, f"run:{run}")
    assert [one.value for one in changes if one.key == "mlflow.note.content"] == ["First line.\n<b>not bold</b>"]
    page.locator("#add-tag > summary").click()
    page.locator("#tag-key").fill("reviewed")
    page.locator("#tag-value").fill("yes")
    page.get_by_role("button", name="Set", exact=True).click()
    page.wait_for_selector("#tags >> text=reviewed", timeout=LONG_MS)
    page.get_by_role("button", name="remove the tag reviewed").click()
    _until(page, "!document.querySelector('#tags').textContent.includes('reviewed')")
    assert "reviewed" not in tags_of(own.store, f"run:{run}")


def test_deleted_runs_are_restored_from_their_view(own: Home, open_page: OpenPage) -> None:
    page = open_page(own, TABLE)
    page.locator("#runs tbody input[name=run]").first.check()
    name = _names(page)[0]
    page.get_by_role("button", name="Delete").click()
    page.wait_for_selector("text=1 run deleted", timeout=LONG_MS)
    assert len(_names(page)) == 12
    page.get_by_role("link", name="Deleted").click()
    page.wait_for_url(re.compile("view=deleted"), timeout=LONG_MS)
    assert _names(page) == [name]
    page.locator("#runs tbody input[name=run]").first.check()
    page.get_by_role("button", name="Restore").click()
    page.wait_for_selector("text=1 run restored", timeout=LONG_MS)
    page.get_by_role("link", name="Active").click()
    page.wait_for_selector("text=13 runs", timeout=LONG_MS)


def test_pictures_are_shown_and_pages_of_the_run_are_not(home: Home, open_page: OpenPage) -> None:
    page = open_page(home, _path(home, "run"))
    picture = page.locator(".gallery img").first
    picture.scroll_into_view_if_needed()
    _until(page, "document.querySelector('.gallery img').naturalWidth > 0")
    page.locator("#files a", has_text="report.html").click()
    page.wait_for_selector("#preview pre", timeout=LONG_MS)
    assert "<script>" in page.inner_text("#preview pre")
    assert page.title().startswith("report.html")
    page.locator(".tree a", has_text="predictions.json").click()
    page.wait_for_selector("#preview table", timeout=LONG_MS)
    assert page.locator("#preview tbody tr").count() == 100
    assert "The first 100 of 130 rows." in page.inner_text("#preview")
    page.locator(".tree a", has_text="broken.parquet").click()
    page.wait_for_selector("text=It is not what its name says", timeout=LONG_MS)


def test_a_table_follows_new_runs_and_keeps_what_is_selected(own: Home, open_page: OpenPage) -> None:
    page = open_page(own, TABLE)
    page.wait_for_selector("[data-live-lamp][data-state=on]", timeout=LONG_MS)
    box = page.locator("#runs tbody input[name=run]").nth(2)
    box.check()
    chosen = box.get_attribute("value")
    create_run(own.store, experiment=EXPERIMENT, name="newcomer", actor=ANA)
    page.wait_for_selector("#runs >> text=newcomer", timeout=LONG_MS)
    assert page.locator("#runs input[name=run]:checked").evaluate_all("boxes => boxes.map((box) => box.value)") == [chosen]
    assert page.locator("[data-picked-count]").inner_text() == "1"


def test_the_address_that_an_mlflow_client_prints_leads_to_the_run(home: Home, open_page: OpenPage) -> None:
    page = open_page(home, f"/#/experiments/1/runs/{home.ids['wire']}")
    page.wait_for_url(f"**/runs/{home.ids['wire']}", timeout=LONG_MS)
    page = open_page(home, "/#/experiments/1")
    page.wait_for_url(f"**{TABLE}", timeout=LONG_MS)


def test_pages_turn_by_token(own: Home, open_page: OpenPage) -> None:
    store: Store = own.store
    for n in range(60):
        create_run(store, experiment="many", name=f"run {n}", actor=ANA)
    page = open_page(own, "/runs?experiment=many")
    assert "50 of 60 runs" in page.inner_text(".table-foot")
    first = _names(page)
    page.get_by_role("link", name="Next page").click()
    page.wait_for_selector("text=First page", timeout=LONG_MS)
    assert sorted(first + _names(page)) == sorted(f"run {n}" for n in range(60))
