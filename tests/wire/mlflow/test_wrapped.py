"""``andon run -- python train.py`` around an unmodified script: its runs share what the command captured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from andon.store import open_store
from andon.tracking import completeness_of, get_run, list_runs
from tests.wire.mlflow.servers import AndonServer, environment

SCRIPT = """
import os, mlflow
mlflow.set_experiment("wrapped")
with mlflow.start_run(run_name="inside"):
    mlflow.log_param("depth", 6)
    mlflow.log_metric("mae", 0.5)
"""
COMMAND = "import sys; from andon.cli.main import main; main(sys.argv[1:])"


def test_a_wrapped_script_gains_code_environment_and_hardware(andon_server: AndonServer, stock: None, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "train.py").write_text(SCRIPT)
    for command in (
        ["git", "init", "-q"],
        ["git", "add", "train.py"],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"],
    ):
        subprocess.run(command, cwd=repo, check=True)
    wrapped = ["run", "--home", str(andon_server.home), "--", sys.executable, "train.py"]
    variables = environment(MLFLOW_TRACKING_URI=andon_server.url)
    done = subprocess.run([sys.executable, "-c", COMMAND, *wrapped], cwd=repo, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3_000:]
    with open_store(andon_server.home) as store:
        (inside,) = list_runs(store, "wrapped")
        around = next(run for run in list_runs(store) if run.name == "train.py")
        assert inside.parent == around.id
        assert inside.facts is not None
        assert inside.facts == get_run(store, around.id).facts
        whole = completeness_of(store, inside.id)
        there = {part.name for part in whole.parts if part.present}
        assert {"commit", "entry point", "environment lock", "hardware", "params", "metrics"} <= there
