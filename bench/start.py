"""How long `andon up` takes to its first 200, how much memory it holds, and what `import andon` costs."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from _report import report

TIMES = 3 if os.environ.get("ANDON_BENCH_SMOKE") else 7
METHOD = (
    "a new process and a new, empty home each time; loopback, --no-serve; from exec to the first 200 of /health, then of the board's /; "
    "memory is resident after both; import is timed inside its process; median of {times}, lowest beside it; nothing else was stopped"
)


def _started(folder: str) -> tuple[float, float, float, float]:
    """Seconds to the first 200 of /health and of the board, resident MiB, and seconds of CPU until then."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "andon", "up", "--home", folder, "--port", "0", "--no-serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        _get(f"{url}/health")
        healthy_s = time.perf_counter() - began
        _get(f"{url}/")
        board_s = time.perf_counter() - began
        memory, cpu_s = _resident_mib(process.pid), _cpu_s(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    return healthy_s, board_s, memory, cpu_s


def _get(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"accept": "text/html"}), timeout=20) as answer:
        answer.read()


def _resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _imported() -> float:
    code = "import time; began = time.perf_counter(); import andon; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    starts, imports = [], [_imported() for _ in range(TIMES)]
    for _ in range(TIMES):
        with tempfile.TemporaryDirectory() as folder:
            starts.append(_started(folder))
    columns = list(zip(*starts, strict=True))
    rows = [
        ["andon up: first 200 (/health)", "s", *_pair(columns[0]), 1.5],
        ["andon up: first board page", "s", *_pair(columns[1]), None],
        ["andon up: CPU until then", "s", *_pair(columns[3]), None],
        ["andon up: resident memory", "MiB", *_pair(columns[2]), 250.0],
        ["import andon", "ms", *_pair([value * 1000 for value in imports]), 150.0],
    ]
    report("start", "Starting up", ["what", "unit", "median", "lowest", "aim"], rows, METHOD.format(times=TIMES))


def _pair(values: list[float] | tuple[float, ...]) -> tuple[float, float]:
    return round(statistics.median(values), 3), round(min(values), 3)


if __name__ == "__main__":
    main()
