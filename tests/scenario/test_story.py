"""The demo as a newcomer meets it: one command, a real model, faults that nobody told Andon about, and a line that can be opened again.

The months are cut short here; ``make demo`` tells them all.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from andon.demo.story import fresh

pytest.importorskip("sklearn")
TELL = "import sys; from andon.demo.story import tell; sys.exit(tell(sys.argv[1], port=0, stay=False, **eval(sys.argv[2])))"


def _run(command: Sequence[str], *, timeout_s: float = 150.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, env=os.environ | {"ANDON_ACTOR": "person:ana"}
    )


def tell(home: Path, *, until: str, seed: int = 0, fault: str = "workingday") -> subprocess.CompletedProcess[str]:
    """``andon demo``, which ends on a date."""
    return _run([sys.executable, "-c", TELL, str(home), repr({"until": until, "seed": seed, "fault": fault})])


def andon(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, "-m", "andon", *arguments])


def show(home: Path, address: str) -> Any:
    shown = andon("show", address, "--home", str(home), "--json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def timeline(told: str) -> list[str]:
    """The rows of the table at the end, each on one line."""
    rows: list[str] = []
    for line in told.partition("What happened")[2].partition("requests answered")[0].splitlines():
        if re.match(r"\s*\d{4}-\d\d-\d\d ", line):
            rows.append(line.strip())
        elif rows and line.strip():
            rows[-1] += " " + line.strip()
    return rows


@pytest.mark.slow
def test_an_input_breaks_in_august_and_the_line_can_be_opened_again(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    told = tell(home, until="2011-08-16")
    assert told.returncode == 0, told.stdout + told.stderr

    # A model was trained and gated against an honest baseline, and went live.
    assert "data validation refused 2011-03-10" in told.stdout
    assert re.search(r"pass +mae-beats-baseline", told.stdout)
    assert "release:bikes@1" in told.stdout

    # Upstream broke one input. That was noticed within two days, named, and not answered with a rollback.
    assert re.search(r"2011-08-(09|10)  incident bikes-1: upstream\. broken input: .*workingday", told.stdout)
    assert "training is blocked" in told.stdout
    assert "rolled back" not in told.stdout
    assert "bikes-1 is resolved" in told.stdout

    # The table says so, and does not blame Andon for what had no time to show.
    world, upstream = timeline(told.stdout)
    assert "not noticed so far" in world
    assert "training blocked" in upstream
    assert "no rollback" in upstream
    assert re.search(r"3\d\d requests answered, none failed", told.stdout)

    # Everything is kept, and sound.
    assert andon("doctor", "--deep", "--home", str(home)).stdout.strip() == "all is well"
    incident = show(home, "incident:bikes-1")
    assert "upstream" in json.dumps(incident)
    assert "release:bikes@1" in json.dumps(show(home, "service:bikes"))

    # Opened again, it shows the same line, and answers.
    with subprocess.Popen(
        [sys.executable, "-m", "andon", "up", "--home", str(home), "--port", "0", "--no-serve"], stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout is not None
        url = up.stdout.readline().split()[-1]
        for path, said in (("/", "bikes"), ("/incidents/bikes-1", "workingday"), ("/services/bikes", "release:bikes@1")):
            request = urllib.request.Request(url + path, headers={"accept": "text/html"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert said in answer.read().decode()
        up.send_signal(signal.SIGTERM)
        assert up.wait(20) == 0


@pytest.mark.slow
def test_told_with_another_fault_and_seed_and_then_told_again_in_its_own_folder(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    short = tell(home, until="2011-08-03", seed=3, fault="hr-utc")
    assert short.returncode == 0, short.stdout + short.stderr
    assert "incident" not in short.stdout.partition("What happened")[0]
    assert all("not noticed so far" in row for row in timeline(short.stdout))

    again = tell(home, until="2011-08-11", seed=3, fault="hr-utc")
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search(r"incident bikes-1: upstream\. broken input: .*hr", again.stdout)
    assert "none failed" in again.stdout


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    told = andon("demo", "--home", str(tmp_path), "--no-stay")
    assert told.returncode == 75
    assert "a folder of its own" in told.stderr
    assert "--home" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_demo_that_runs_is_not_swept_away_by_another(tmp_path: Path) -> None:
    with fresh(tmp_path / "demo"):
        (tmp_path / "demo" / "ledger.db").touch()
        told = andon("demo", "--home", str(tmp_path / "demo"), "--no-stay")
    assert told.returncode == 75
    assert "a demo runs in that folder" in told.stderr
    assert (tmp_path / "demo" / "ledger.db").exists()
