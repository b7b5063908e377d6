"""What a front counts: names and units, both texts as Prometheus' own parsers read them, and the sums of several replicas."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from andon.releases.splits import Arm, Split
from andon.serving.exposition import Family, counter, gauge, histogram, labels, text, together, wants_openmetrics
from andon.serving.front import Front
from andon.serving.metrics import BUCKETS_S, Metrics, process_families
from andon.serving.siblings import Siblings, group_folder
from tests.unit.serving.line import Line
from tests.unit.serving.splitting import ROW, holding, put_split, with_front

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(shown: str, *, openmetrics: bool = False) -> Series:
    """(sample, labels) -> value, as a scraper reads it; none twice."""
    found: Series = {}
    for family in (parse_openmetrics if openmetrics else parse_text)(shown):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def busy_metrics(service: str = "bikes", release: str = "release:bikes@1") -> Metrics:
    metrics = Metrics(service)
    for taken_s in (0.0004, 0.003, 20.0):
        metrics.answered(release, 2, taken_s, 0.0001)
    metrics.batches[release].seen(6)
    metrics.refused(release, "busy", "queue-full")
    metrics.refused(release, "busy")
    metrics.refused("", "invalid-input")
    metrics.shadow_dropped("release:bikes@2", 5)
    return metrics


def test_both_texts_say_the_same() -> None:
    families = [*busy_metrics().families(), *process_families()]
    plain, open_ = series(text(families)), series(text(families, openmetrics=True), openmetrics=True)
    assert plain == open_
    mine = (("release", "release:bikes@1"), ("service", "bikes"))
    assert plain["andon_request_duration_seconds_count", mine] == 3
    assert plain["andon_request_duration_seconds_sum", mine] == pytest.approx(20.0034)
    assert plain["andon_request_duration_seconds_bucket", (("le", "0.0005"), *mine)] == 1
    assert plain["andon_request_duration_seconds_bucket", (("le", "10.0"), *mine)] == 2
    assert plain["andon_request_duration_seconds_bucket", (("le", "+Inf"), *mine)] == 3
    assert plain["andon_queue_wait_seconds_sum", mine] == pytest.approx(0.0003)
    assert plain["andon_batch_rows_bucket", (("le", "4.0"), *mine)] == 0
    assert plain["andon_batch_rows_bucket", (("le", "8.0"), *mine)] == 1
    assert {key[1][0][1]: n for key, n in plain.items() if key[0] == "andon_requests_rejected_total"} == {"queue-full": 1, "busy": 1}
    assert plain["andon_shadow_dropped_rows_total", (("release", "release:bikes@2"), ("service", "bikes"))] == 5
    assert plain["process_resident_memory_bytes", ()] > 1e7
    assert 0 < plain["process_open_fds", ()] < plain["process_max_fds", ()]
    assert abs(plain["process_start_time_seconds", ()] - Path("/proc/self").stat().st_ctime) < 60
    assert [dict(named)["version"] for name, named in plain if name == "andon_build_info"]


def test_names_are_conventional() -> None:
    for family in [*busy_metrics().families(), *process_families()]:
        assert re.fullmatch(r"(andon|process)_[a-z_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.name.endswith("_info") == (family.kind == "info"), family.name
        assert not re.search(r"_(ms|us|ns|mb|kb|milliseconds|percent)(_|$)", family.name), family.name
        assert family.said.endswith("."), family.name


@given(st.text(), st.text())
def test_labels_come_back_as_they_were(service: str, release: str) -> None:
    families = [counter("andon_rows_total", 'Rows \\ "of"\nothers.', {labels(service=service, release=release): 1})]
    for openmetrics in (False, True):
        if not openmetrics or not any(char in service + release for char in "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
            shown = text(families, openmetrics=openmetrics)
            lines = shown.split("\n")  # the parsers split where Python does, which is more often than the formats say
            assert sum(line.startswith("andon_rows_total{") for line in lines) == 1
            if shown.splitlines() == lines[:-1]:
                assert series(shown, openmetrics=openmetrics) == {("andon_rows_total", (("release", release), ("service", service))): 1}


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8, text/plain;q=0.5", True),
        ("application/openmetrics-text; version=2.0.0, text/plain;q=0.5", False),
        ("text/plain;version=0.0.4;q=0.3,application/openmetrics-text;version=1.0.0;q=0.5", True),
        ("application/openmetrics-text;q=0, */*;q=0.1", False),
        ("application/openmetrics-text;q=nonsense", False),
    ],
)
def test_which_text_a_client_wants(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


def test_sums_of_processes() -> None:
    one, two = busy_metrics(), busy_metrics(release="release:bikes@9")
    of_one = [*one.families(), gauge("andon_queued_rows", "Rows.", {labels(service="bikes"): 3})]
    of_two = [*two.families(), gauge("andon_queued_rows", "Rows.", {labels(service="bikes"): 4})]
    found = series(text(together([("1", of_one), ("2", of_two), ("3", of_one)]), openmetrics=True), openmetrics=True)
    assert found["andon_rows_total", (("release", "release:bikes@1"), ("service", "bikes"))] == 12
    assert found["andon_rows_total", (("release", "release:bikes@9"), ("service", "bikes"))] == 6
    assert found["andon_request_duration_seconds_sum", (("release", "release:bikes@1"), ("service", "bikes"))] == pytest.approx(40.0068)
    assert [found["andon_queued_rows", (("replica", at), ("service", "bikes"))] for at in "123"] == [3, 4, 3]


def test_seconds_are_shown_to_the_nanosecond() -> None:
    shown = text([histogram("a_seconds", "A.", BUCKETS_S, {(): ([0] * 15, 12_000_000_003)}, nano=True)])
    assert "a_seconds_sum 12.000000003\n" in shown


# --- of a front


def test_a_split_is_told(line: Line) -> None:
    old, new = line.onnx(), line.onnx((3.0, 1.0))
    line.point(old)
    arms = (Arm(channel="production", release=old, share=9_500), Arm(channel="candidate", release=new, share=500))

    async def use(front: Front, _: Any) -> None:
        assert await front.wait_ready(10)
        await front.predict([ROW, ROW])
        put_split(line, Split(rollout="rollout:1", salt="s", arms=arms))
        await holding(front, new)
        found = series(await front.exposition(openmetrics=True), openmetrics=True)
        share = {dict(named)["channel"]: value for (name, named), value in found.items() if name == "andon_split_share_ratio"}
        assert share == {"production": 0.95, "candidate": 0.05}
        assert found["andon_split_fallback", (("service", "bikes"),)] == 0
        assert found["andon_batch_rows_sum", (("release", old), ("service", "bikes"))] == 2
        assert found["andon_queue_wait_seconds_count", (("release", old), ("service", "bikes"))] == 1
        assert series(front.metrics_text()).keys() == found.keys()

    with_front(line, use)


def test_every_metric_is_in_the_docs(line: Line) -> None:
    docs = Path(__file__).parents[3].joinpath("docs", "observing.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`((?:andon|process)_[a-z_]+)`", docs))

    async def use(front: Front, _: Any) -> None:
        from andon.wire.prometheus.ledger import families

        there = {family.name for family in [*front.families(), *families(line.store)]}
        assert there <= listed, f"docs/observing.md says nothing of {sorted(there - listed)}"
        assert {name for name in listed if not name.startswith("andon_stream")} <= there, "docs/observing.md lists what is not there"

    with_front(line, use)


# --- of a group

COUNT = """
import asyncio, os, sys
from pathlib import Path
from andon.serving.exposition import counter, gauge
from andon.serving.siblings import Siblings
mine = Siblings(Path(sys.argv[1]), int(sys.argv[2]))
mine.write([counter("a_total", "A.", {(): 5}), gauge("b", "B.", {(): 1})])
print("there", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


def of(value: int) -> list[Family]:
    return [counter("a_total", "A.", {(): value}), gauge("b", "B.", {(): value})]


def values(families: list[Family]) -> dict[str, float]:
    return {family.name + "".join(f"@{value}" for _, value in named): value for family in families for _, named, value in family.samples}


def test_what_a_dead_replica_counted_stays(tmp_path: Path) -> None:
    folder = tmp_path / "group"
    mine = Siblings(folder, 1)
    others = [
        subprocess.Popen([sys.executable, "-c", COUNT, str(folder), str(at)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for at in (2, 3)
    ]
    for other in others:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
    assert values(mine.merged(of(1))) == {"a_total": 11, "b@1": 1, "b@2": 1, "b@3": 1}
    others[0].communicate("end\n")
    assert values(mine.merged(of(2))) == {"a_total": 12, "b@1": 2, "b@3": 1}
    assert values(mine.merged(of(2))) == {"a_total": 12, "b@1": 2, "b@3": 1}
    others[1].communicate("end\n")
    mine.close()  # ends in order, with what it kept
    last = Siblings(folder, 4)
    assert values(last.merged(of(7))) == {"a_total": 19, "b@4": 7}
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".json", ".json", ".lock"]
    last.close()


def test_an_adding_that_was_cut_short_counts_once(tmp_path: Path) -> None:
    """A process that is killed between writing the sums and removing the files leaves both."""
    first = Siblings(tmp_path, 1)
    first.write(of(5))
    left = {path: path.read_bytes() for path in tmp_path.glob("1-*")}
    first.close()
    second = Siblings(tmp_path, 2)
    assert values(second.merged(of(1)))["a_total"] == 6
    for path, data in left.items():
        path.write_bytes(data)
    assert values(second.merged(of(1)))["a_total"] == 6
    assert values(second.merged(of(1)))["a_total"] == 6
    second.close()


def test_a_disk_that_is_full_costs_no_scrape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    mine = Siblings(tmp_path, 1)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert values(mine.merged(of(3))) == {"a_total": 3, "b@1": 3}
    assert values(mine.merged(of(4))) == {"a_total": 4, "b@1": 4}
    assert len(caplog.records) == 1
    mine.close()


def test_damaged_files_are_passed_over(tmp_path: Path) -> None:
    mine = Siblings(tmp_path, 1)
    (tmp_path / "2-9.json").write_bytes(b'[["a_to')
    (tmp_path / "gone.json").write_bytes(b"\x00")
    assert values(mine.merged(of(3)))["a_total"] == 3
    mine.close()


def test_folders_of_groups_that_ended_are_removed(tmp_path: Path) -> None:
    above = tmp_path / "run" / "metrics"
    ended, living, fresh = (above / f"bikes-{at}" for at in (1, 2, 3))
    for folder in (ended, living, fresh):
        Siblings(folder, 1).close()
    held = Siblings(living, 2)
    for folder in (ended, living):
        os.utime(folder, (1, 1))
    reading, writing = os.pipe()
    assert group_folder(str(tmp_path), "bikes", reading).name == f"bikes-{os.fstat(reading).st_ino}"
    assert [folder.exists() for folder in (ended, living, fresh)] == [False, True, True]
    for end in (reading, writing):
        os.close(end)
    held.close()


def test_numbers_are_kept_in_their_order(tmp_path: Path) -> None:
    """Two at once: the later collected are written last, whoever began first."""
    mine = Siblings(tmp_path, 1)
    counted = iter(range(100))

    async def main() -> None:
        await asyncio.gather(*(mine.keep(lambda: of(next(counted))) for _ in range(20)), mine.whole(lambda: of(next(counted))))

    asyncio.run(main())
    [path] = tmp_path.glob("1-*.json")
    assert msgspec.json.decode(path.read_bytes(), type=list[Family])[0].samples[0][2] == 20
    mine.close()
