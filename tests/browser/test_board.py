"""The board in a real browser: every page in both themes and at two widths, by keyboard, live, and acting."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert

from andon.registry import register, set_tag
from andon.releases import rollback, service_state
from andon.store import schema as s
from tests.browser.conftest import ARTIFACTS, OpenPage, Served
from tests.browser.making import BEN, keep, others
from tests.browser.seeding import INCIDENT

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.service


def _paths(served: Served) -> dict[str, str]:
    with served.store.ledger.read() as c:
        run = c.execute(s.runs.select().where(s.runs.c.name == "depth-6")).one().id
        bad = c.execute(s.verdicts.select().where(s.verdicts.c.status == "fail", s.verdicts.c.subject == "service:bikes")).first()
    assert bad is not None
    return {
        "line": "/",
        "runs": "/runs",
        "run": f"/runs/{run}",
        "registry": "/registry",
        "entry": "/registry/model/bikes",
        "release": "/releases/bikes/3",
        "refused": "/releases/bikes/2",
        "service": "/services/bikes",
        "incidents": "/incidents",
        "incident": f"/incidents/{INCIDENT}",
        "verdict": f"/verdicts/{bad.id}",
    }


NAMES = ("line", "runs", "run", "registry", "entry", "release", "refused", "service", "incidents", "incident", "verdict")


@pytest.mark.parametrize("name", NAMES)
def test_every_page_in_both_themes_and_at_two_widths(line: Served, open_page: OpenPage, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    path = _paths(line)[name]
    for dark in (False, True):
        page = open_page(line, path, dark=dark)
        if name == "run":
            page.wait_for_selector("[data-drawn] .main-svg")
            assert page.locator(".plotly-host").count() == 2
        assert page.locator("h1").count() == 1
        page.screenshot(path=ARTIFACTS / f"{name}-{'dark' if dark else 'light'}.png", full_page=True)
        page.set_viewport_size({"width": 400, "height": 860})
        page.wait_for_timeout(250 if name == "run" else 60)  # Plotly draws anew a moment after its place has changed
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, "the page scrolls sideways"
        if not dark:
            page.screenshot(path=ARTIFACTS / f"{name}-narrow.png", full_page=True)


def test_an_empty_line_teaches(nothing: Served, open_page: OpenPage) -> None:
    page = open_page(nothing)
    assert page.inner_text("h1") == "An empty line"
    assert "andon demo" in page.inner_text("#services")
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / "empty-light.png", full_page=True)


def test_it_is_used_with_the_keyboard_alone(line: Served, open_page: OpenPage) -> None:
    page = open_page(line)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for keys, title in (("gr", "Runs"), ("ge", "Registry"), ("gi", "Incidents"), ("gl", "The line")):
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_function(f"document.title === {f'{title} · Andon'!r}")
    page.keyboard.press("?")
    assert page.locator("#help").get_attribute("open") is not None
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "/services/bikes"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/services/bikes")


def test_tables_sort_by_keyboard_and_filter(line: Served, open_page: OpenPage) -> None:
    page = open_page(line, "/registry")
    header = page.locator("#entries th", has_text=re.compile("^Changed$"))
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    column = page.locator("#entries thead th").all_inner_texts().index("Changed")
    values = [float(row.locator("td").nth(column).get_attribute("data-v") or "nan") for row in page.locator("#entries tbody tr").all()]
    assert values == sorted(values)
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    page.keyboard.press("/")
    page.keyboard.type("model fraud")
    assert page.locator("#entries tbody tr:visible").count() == 1


def test_a_chart_is_read_with_the_arrow_keys(line: Served, open_page: OpenPage) -> None:
    page = open_page(line, "/services/bikes")
    page.locator("#quality .wide-chart svg.chart").focus()
    page.keyboard.press("End")
    tip = page.locator("#quality .wide-chart .tip")
    assert "fail" in tip.inner_text()
    page.keyboard.press("Home")
    assert tip.inner_text().startswith("1 Aug 2011")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.wait_for_url("**/verdicts/*")


def test_passing_inputs_open_with_the_keyboard(line: Served, open_page: OpenPage) -> None:
    page = open_page(line, "/services/fraud")
    fold = page.locator("#inputs")
    assert fold.locator("summary").inner_text() == "inputs: 4 checks pass"
    assert not fold.locator("a").first.is_visible()
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.locator("a:visible").all_inner_texts() == ["constant", "nulls", "range", "volume"]
    page.keyboard.press("Space")
    assert not fold.locator("a").first.is_visible()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/verdicts/*")


def test_a_fold_stays_open_when_the_page_follows(fresh: Served, open_page: OpenPage) -> None:
    page = open_page(fresh, "/services/fraud")
    page.wait_for_selector("[data-live-lamp][data-state=on]")
    page.locator("#inputs > summary").click()
    keep(fresh.store, [verdict for verdict in others("fraud", 40) if verdict.check == "inputs/nulls"])
    page.wait_for_selector("#checks.changed", timeout=20_000)
    assert page.locator("#inputs").get_attribute("open") is not None


def test_a_flag_on_the_chart_leads_to_its_incident(line: Served, open_page: OpenPage) -> None:
    page = open_page(line, "/services/bikes")
    flag = page.locator("#quality .wide-chart a.flag")
    assert flag.count() == 1
    assert "A bad release: bikes@3" in (flag.get_attribute("aria-label") or "")
    page.locator("#quality .wide-chart svg.chart").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == f"/incidents/{INCIDENT}"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/incidents/{INCIDENT}")
    page.go_back()
    page.locator("#quality .wide-chart a.flag").click()
    page.wait_for_url(f"**/incidents/{INCIDENT}")


def test_a_narrow_chart_says_the_same_words(line: Served, open_page: OpenPage) -> None:
    page = open_page(line, "/services/bikes", width=400)
    page.locator("#quality .narrow svg.chart").focus()
    page.keyboard.press("Home")
    assert page.locator("#quality .narrow .tip").inner_text().startswith("1 Aug 2011")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.wait_for_url("**/verdicts/*")


def test_what_changed_last_says_things_once_and_links_both(line: Served, open_page: OpenPage) -> None:
    page = open_page(line)
    row = page.locator("#feed li", has_text=f"incident:{INCIDENT} opened")
    assert row.locator("a.row").get_attribute("href") == f"/incidents/{INCIDENT}"
    assert row.locator(".aside-why").inner_text() == "A bad release: bikes@3"
    assert re.match(r"13 Sep 2011 · ", row.locator(".when").inner_text()), "a replay is told in event time"
    row.scroll_into_view_if_needed()
    box = row.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)  # the whole row leads there
    page.wait_for_url(f"**/incidents/{INCIDENT}")


def test_a_lineage_fits_its_card_and_begins_at_its_root(line: Served, open_page: OpenPage) -> None:
    for path in (_paths(line)["run"], "/releases/bikes/3", "/registry/model/bikes"):
        page = open_page(line, path)
        pan = page.locator(".pan")
        assert pan.evaluate("pan => pan.scrollWidth <= pan.clientWidth"), path
        inside = "g => [...g.querySelectorAll('path, rect')].every(p => p.getBBox().x + p.getBBox().width <= g.viewBox.baseVal.width)"
        assert page.locator(".graph").evaluate(inside), path
        page.set_viewport_size({"width": 400, "height": 860})
        page.wait_for_timeout(60)
        root = page.locator(".graph .root").bounding_box()
        assert root is not None
        assert root["x"] >= 0
        assert root["x"] + root["width"] <= 400


def test_folds_of_a_release_are_closed_until_asked(line: Served, open_page: OpenPage) -> None:
    page = open_page(line, "/releases/bikes/3")
    assert not page.locator("#lock pre").is_visible()
    page.locator("#lock > summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#lock pre").is_visible()
    page.locator("#judged a.name").first.click()
    page.wait_for_url("**/verdicts/*")


def test_the_theme_is_remembered(line: Served, open_page: OpenPage) -> None:
    page = open_page(line)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch between light and dark").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.goto(line.url + "/runs")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_the_line_follows_what_happens(fresh: Served, open_page: OpenPage) -> None:
    page = open_page(fresh)
    page.wait_for_selector("[data-live-lamp][data-state=on]")
    register(fresh.store, "prompt", "greeting", {"text": "hello"}, actor=BEN, reason="a new one")
    page.wait_for_selector("#feed >> text=prompt:greeting@1 registered", timeout=20_000)
    rollback(fresh.store, "bikes", actor=BEN, reason="by the terminal")
    page.wait_for_selector("#feed >> text=bikes rolled back to release:bikes@1", timeout=20_000)


def test_a_live_page_keeps_what_one_is_typing(fresh: Served, open_page: OpenPage) -> None:
    page = open_page(fresh, "/services/bikes")
    page.wait_for_selector("[data-live-lamp][data-state=on]")
    page.locator("#rollback > summary").click()
    page.locator("#rollback-reason").fill("half a sen")
    _label_replica(fresh)
    page.wait_for_selector("#replicas >> text=draining", timeout=20_000)
    assert page.locator("#rollback-reason").input_value() == "half a sen"
    assert page.locator("#rollback").get_attribute("open") is not None


def _label_replica(served: Served) -> None:
    now = served.store.clock.now_us()
    row = {"id": "R2", "service": "bikes", "url": "http://127.0.0.1:1", "pid": 1, "release": None, "status": "draining", "note": ""}
    served.store.ledger.write(lambda c: c.execute(insert(s.replicas).values(**row, started_us=now, seen_us=now)))


def test_rolling_back_from_the_page_with_a_reason(fresh: Served, open_page: OpenPage) -> None:
    page = open_page(fresh, "/services/bikes")
    page.locator("#rollback > summary").focus()
    page.keyboard.press("Enter")
    assert "Production moves from release:bikes@3 to release:bikes@1" in page.inner_text("#rollback-says")
    button = page.get_by_role("button", name="Roll back to bikes@1")
    button.click()
    assert page.url.endswith("/services/bikes"), "a rollback needs a reason"
    assert service_state(fresh.store, "bikes").current() == "release:bikes@3"
    page.fill("#rollback-reason", "mornings are wrong since the 7th")
    button.click()
    page.wait_for_url("**/services/bikes?done=rolled-back")
    assert "Production was put back to release:bikes@1." in page.inner_text("main")
    assert service_state(fresh.store, "bikes").turns[-1].reason == "mornings are wrong since the 7th"
    assert service_state(fresh.store, "bikes").current() == "release:bikes@1"


def test_two_people_at_once_one_is_told(fresh: Served, open_page: OpenPage) -> None:
    page = open_page(fresh, f"/incidents/{INCIDENT}", expect_error=True)
    page.evaluate("document.querySelectorAll('[data-live]').forEach((part) => part.removeAttribute('data-live'))")
    page.route("**/api/v1/events", lambda route: route.abort())
    rollback(fresh.store, "bikes", actor=BEN, reason="faster")
    page.get_by_role("button", name="Roll back to bikes@1").click()
    page.wait_for_selector("text=Nothing was changed.")
    assert len(service_state(fresh.store, "bikes").turns) == 3


def test_hostile_names_do_nothing(fresh: Served, open_page: OpenPage) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    register(fresh.store, "prompt", "x", {"t": hostile}, actor=BEN, reason=hostile)
    set_tag(fresh.store, "prompt:x", "k", hostile, actor=BEN)
    for path in ("/", "/registry/prompt/x"):
        page = open_page(fresh, path)
        _quiet(page)
        assert "owned" not in page.title()
        assert page.locator("main img").count() == 0


def _quiet(page: Page) -> None:
    page.wait_for_load_state("load")
    page.wait_for_timeout(100)
