"""The pages of rollouts and jobs: what they say while one runs, and that a person can end it there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from andon.core.clocks import ManualClock
from andon.releases import service_state
from andon.rollouts import RolloutPolicy, canary, shadow
from andon.rollouts.analysis import AnalysisPolicy, ErrorPolicy, MetricPolicy
from andon.serving.jobs import Job, note
from andon.store import memory_store
from tests.browser.conftest import ARTIFACTS, OpenPage, Served
from tests.conftest import ANA
from tests.unit.rollouts.rig import NEW, OLD, Rig, failing, slow

pytestmark = pytest.mark.service
BEGAN_US = 1_790_000_000_000_000
"""A fixed time: a rollout's salt comes from it, and with it who gets which release. One in twenty such canaries is aborted by its luck."""
BOUGHT = MetricPolicy(name="bought", low=0.0, high=1.0, margin=0.05, better="higher")
POLICY = RolloutPolicy(analysis=AnalysisPolicy(errors=ErrorPolicy(margin=0.02), metrics=(BOUGHT,)))


@pytest.fixture
def served() -> Iterator[tuple[Served, Rig]]:
    """A service whose candidate is a little slower and a little worse, forty seconds into its canary."""
    clock = ManualClock(BEGAN_US)
    with memory_store(clock) as store:
        rig = Rig(store, clock)
        rig.behaviour = {OLD: failing(0.01), NEW: failing(0.015)}
        rig.start(canary(steps=[10, 25, 50, 100], step="10s", step_units=200, deadline="1d"), POLICY)
        rig.go(40)
        served = Served(rig.store)
        yield served, rig
        served.close()


def shot(page: object, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=Path(ARTIFACTS, f"{name}.png"), full_page=True)  # type: ignore[attr-defined]


def test_a_canary_on_its_page_and_on_its_services(served: tuple[Served, Rig], open_page: OpenPage) -> None:
    server, rig = served
    path = f"/rollouts/{rig.rollout.removeprefix('rollout:')}"
    page = open_page(server, path)
    assert page.inner_text("h1") == "canary of bikes@2"
    rows = page.locator("#arms tbody tr")
    assert rows.count() == 2
    share = rig.split.arms[1].share / 100 if rig.split else 0
    assert f"{share:g} %" in rows.nth(1).inner_text()
    assert page.locator("#sequences svg.chart").count() >= 2
    page.locator("#sequences svg.chart").first.focus()
    page.keyboard.press("ArrowRight")
    page.locator("#sequences .tip", has_text="units").first.wait_for()
    assert "rollout/errors" in page.inner_text("#verdicts")
    assert "stepped" in page.inner_text("#timeline")
    shot(page, "rollout-light")
    page.set_viewport_size({"width": 400, "height": 860})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400, "the page scrolls sideways"
    shot(page, "rollout-narrow")
    shot(open_page(server, path, dark=True), "rollout-dark")
    page = open_page(server, "/services/bikes")
    assert "A canary is under way" in page.inner_text("#rollout")
    shot(page, "service-rollout-light")
    page.click("text=Look at it, promote or abort it")
    page.wait_for_url(f"**{path}")


def test_a_person_aborts_it_from_the_page(served: tuple[Served, Rig], open_page: OpenPage) -> None:
    server, rig = served
    page = open_page(server, f"/rollouts/{rig.rollout.removeprefix('rollout:')}")
    page.locator("#abort > summary").click()
    assert "rejected" in page.inner_text("#abort .will")
    button = page.get_by_role("button", name="Abort")
    button.click()
    assert rig.state.phase == "running", "an abort needs a reason"
    page.fill("#abort-reason", "the tone is wrong")
    button.click()
    page.wait_for_selector("text=It is over.")
    assert rig.state.phase == "aborted"
    assert rig.split is None
    assert service_state(rig.store, "bikes").rejections[NEW].why.endswith("the tone is wrong")
    assert "the tone is wrong" in page.inner_text("#timeline")


def test_what_one_has_not_seen_is_not_done(served: tuple[Served, Rig], open_page: OpenPage) -> None:
    server, rig = served
    page = open_page(server, f"/rollouts/{rig.rollout.removeprefix('rollout:')}", expect_error=True)
    page.evaluate("document.querySelectorAll('[data-live]').forEach((part) => part.removeAttribute('data-live'))")
    page.route("**/api/v1/events", lambda route: route.abort())
    rig.steer("abort", "faster")
    page.locator("#promote > summary").click()
    page.fill("#promote-reason", "looks good")
    page.get_by_role("button", name="Promote").click()
    page.wait_for_selector("text=Nothing was changed.")
    assert rig.production == OLD


def test_a_shadow_can_only_be_ended_or_paused(open_page: OpenPage) -> None:
    clock = ManualClock(BEGAN_US)
    with memory_store(clock) as store:
        rig = Rig(store, clock)
        rig.behaviour = {NEW: slow(2.0)}
        rig.start(shadow(share=50))
        rig.go(15)
        server = Served(rig.store)
        page = open_page(server, f"/rollouts/{rig.rollout.removeprefix('rollout:')}")
        assert "alike" in page.inner_text("#arms")
        assert page.locator("#abort").count() == 0
        assert page.locator("#pause").count() == 1
        shot(page, "rollout-shadow-light")
        page.close()
        server.close()


def test_jobs(served: tuple[Served, Rig], open_page: OpenPage) -> None:
    server, rig = served
    now_us = rig.clock.now_us()
    whole = {"service": "bikes", "source": "rows.parquet", "target": "answers", "started_us": now_us}
    note(rig.store, Job(id="j1", kind="batch", release=OLD, rows=500, rows_total=1_000, rows_s=250.0, **whole), "started", actor=ANA)
    stream = {**whole, "source": "inbox:rows", "target": "inbox:<b>out</b>"}
    failed = Job(id="j2", kind="stream", release=OLD, rows=7, errors=2, lag=3, state="failed", problem="the broker is away", **stream)
    note(rig.store, failed, "failed", {"rows": 7}, actor=ANA)
    page = open_page(server, "/jobs")
    assert page.locator("#jobs tbody tr").count() == 2
    assert "inbox:<b>out</b>" in page.inner_text("#jobs")
    shot(page, "jobs-light")
    page.click("text=stream of bikes")
    page.wait_for_url("**/jobs/j2")
    assert "the broker is away" in page.inner_text("main")
    shot(page, "job-light")
    assert "batch" in open_page(server, "/services/bikes").inner_text("#jobs")
