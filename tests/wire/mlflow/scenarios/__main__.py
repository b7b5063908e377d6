"""Runs one scenario against several servers at once: ``python -m tests.wire.mlflow.scenarios NAME FOLDER URL…``.

What it says to the first is written to ``FOLDER/0``, and so on. The client and its frameworks take seconds to import, so that is done once;
then the process forks, and each child is the user's.
"""

from __future__ import annotations

import ast
import importlib
import os
import runpy
import sys
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).parent


def imported(script: Path) -> list[str]:
    """The modules that a script imports at its top."""
    found = []
    for statement in ast.parse(script.read_text()).body:
        if isinstance(statement, ast.Import):
            found += [name.name for name in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found.append(statement.module)
    return found


def child(script: Path, folder: Path, url: str, number: int) -> int:
    """Be the user: in a folder of its own, with output to a file. The exit code."""
    os.environ["MLFLOW_TRACKING_URI"] = url
    home = folder / f"home{number}"
    home.mkdir()
    os.chdir(home)
    output = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except BaseException:  # whatever it was is told, as a process of its own would
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def main(name: str, folder: str, *urls: str) -> int:
    """0 when every child ended with 0."""
    warnings.simplefilter("ignore")
    os.environ["MPLBACKEND"] = "Agg"
    script = HERE / f"{name}.py"
    for module in imported(script):
        importlib.import_module(module)
    children = []
    for number, url in enumerate(urls):
        process = os.fork()
        if process == 0:
            os._exit(child(script, Path(folder), url, number))
        children.append(process)
    return max([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in children])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
