"""The two servers that a test may talk to, each a process of its own on loopback: Andon, and the real ``mlflow server``."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine more processes, for jobs that no test starts
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "1",  # seconds a model, for a list of packages that no test reads
    "GIT_PYTHON_REFRESH": "quiet",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
UP = "import sys; from andon.cli.main import main; main(['up', '--no-serve', '--home', sys.argv[1], '--port', sys.argv[2]])"
START_LIMIT_S = 90.0


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what configures a tracking client or Andon, and with what keeps both quiet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "ANDON_", "_MLFLOW"))}
    return {**kept, **QUIET, "ANDON_ACTOR": "person:ana", **more}


def forget_experiment() -> None:
    """The stock client keeps the experiment that a test chose for as long as its process lives, whichever server comes next."""
    fluent = sys.modules.get("mlflow.tracking.fluent")
    if fluent is not None:
        fluent._active_experiment_id = None  # type: ignore[attr-defined]
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        os.environ.pop(name, None)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class AndonServer:
    """``andon up --no-serve`` over ``home``, with the ledger at ``ledger`` (a URL; default: SQLite in the home)."""

    def __init__(self, home: Path, ledger: str | None = None) -> None:
        self.home, self.ledger = home, ledger or "sqlite:///ledger.db"
        self.engine = "postgres" if self.ledger.startswith("postgres") else "sqlite"
        home.mkdir(parents=True, exist_ok=True)
        (home / "andon.toml").write_text(f'ledger = "{self.ledger}"\n')
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """What a client's tracking URI is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it (again, on the port it had) and wait until it answers."""
        with open(self.home / "server.err", "ab") as errors:  # noqa: PTH123 - handed to a process
            self.process = subprocess.Popen(
                [sys.executable, "-c", UP, str(self.home), str(self.port)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(),
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "http://" not in line:
            self.kill()
            raise RuntimeError(f"andon did not start: {line}{self.errors()}")
        self.port = int(line.split()[-1].rpartition(":")[2])

    def errors(self) -> str:
        """What it said on stderr so far."""
        return (self.home / "server.err").read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, as a power switch would."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not enough."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.kill()


class RealServer:
    """``mlflow server`` with one worker over a SQLite file and proxied artifacts, starting; ``wait`` until it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.log = folder / "server.log"
        self.began = time.monotonic()
        with open(self.log, "wb") as log:  # noqa: PTH123 - handed to a process
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
                    *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")),
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment(),
                start_new_session=True,  # so that its workers go with it
            )

    @property
    def url(self) -> str:
        """What a client's tracking URI is."""
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> RealServer:
        """Itself, once it answers. Raises ``RuntimeError`` with its log when it does not within 90 s of its start."""
        while self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return self
            if time.monotonic() - self.began > START_LIMIT_S:
                break
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"mlflow server did not start: {self.log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """Kill it and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
