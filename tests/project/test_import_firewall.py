"""Who may import whom. An import points to a lower floor, or to the left on its own floor; this reads every import and says which don't.

::

    python tests/project/test_import_firewall.py      # prints what breaks the rule; exit 1 if anything does
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Bottom first. Within a floor a package may import those to its left. ARCHITECTURE.md draws the same table.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("store",),
    ("registry", "models", "tracking", "datasets", "features", "logs"),
    ("pipelines", "gates", "releases"),
    ("autoscaling", "serving", "rag", "llm"),
    ("telemetry", "monitoring", "costs"),
    ("rollouts", "training", "incidents"),
    ("operations", "wire", "api", "board", "examples", "demo", "cli"),
)
TOP = "andon"  # the package's own modules (__init__, __main__): they may import everything, and nothing below may import them
PROGRAMS = frozenset({"demo"})  # written as a user's program, so they import the top; the top's __init__ in turn may not import them
PLACES = {package: (floor, place) for floor, row in enumerate(FLOORS) for place, package in enumerate(row)}
PLACES[TOP] = (len(FLOORS), 0)
SOURCE = Path(__file__).parents[2] / "src" / "andon"


def violations(source: Path = SOURCE) -> list[str]:
    """One line for each import under ``source`` that breaks the rule: ``FILE:LINE: why``."""
    found = []
    for file in sorted(source.rglob("*.py")):
        inside = file.relative_to(source).parts
        importer = inside[0] if len(inside) > 1 else TOP
        shown = Path("src", "andon", *inside).as_posix()
        if importer not in PLACES:
            found.append(f"{shown}:1: {importer}/ is on no floor: give it a place in FLOORS, and in ARCHITECTURE.md")
            continue
        packages = {path.name for path in source.iterdir() if path.is_dir()} | PLACES.keys()
        for line, imported in _imports(ast.parse(file.read_bytes(), str(file)), inside, packages - {TOP}):
            why = _objection(importer, imported, inside[-1])
            if why:
                found.append(f"{shown}:{line}: {why}")
    return found


def _objection(importer: str, imported: str, file: str) -> str | None:
    if importer == imported or (importer in PROGRAMS and imported == TOP):
        return None
    if importer == TOP and file == "__init__.py" and imported in PROGRAMS:
        return f"andon imports {imported}, which is written as a user's program and imports andon"
    if imported not in PLACES:
        return f"{importer} imports {imported}, which is on no floor"
    (floor, place), (target_floor, target_place) = PLACES[importer], PLACES[imported]
    if (target_floor, target_place) < (floor, place):
        return None
    if imported == TOP:
        return f"{importer} imports the top of the package; name the package that holds what it needs"
    if floor == target_floor:
        return f"{importer} imports {imported}, to its right on floor {floor}: imports point left; hand it in from above, or move it down"
    return f"{importer} (floor {floor}) imports {imported} (floor {target_floor}): imports point down; hand it in, or move it down"


def _imports(tree: ast.Module, inside: tuple[str, ...], packages: set[str]) -> Iterator[tuple[int, str]]:
    """Each import of Andon itself, wherever it stands (in a function, under TYPE_CHECKING): its line, and the package it reaches."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield from _reached(node.lineno, name.name, (), packages)
            case ast.ImportFrom(module=module, names=names, level=level):
                here = ("andon", *inside)[: len(inside) + 1 - level] if level else ()
                path = ".".join((*here, *((module,) if module else ())))
                yield from _reached(node.lineno, path, tuple(name.name for name in names), packages)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"), args=[first, *_]):
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield from _reached(node.lineno, first.value, (), packages)


def _reached(line: int, path: str, names: tuple[str, ...], packages: set[str]) -> Iterator[tuple[int, str]]:
    head, *rest = path.split(".")
    if head != "andon":
        return
    if rest:
        yield line, rest[0] if rest[0] != "__main__" else TOP
        return
    # `from andon import x` reaches the package x where there is one, and the top otherwise.
    for name in names or ("",):
        yield line, name if name in packages else TOP


def test_imports_point_down_or_left() -> None:
    found = violations()
    assert not found, "\n" + "\n".join(found)


def test_the_architecture_page_draws_the_same_floors() -> None:
    page = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for floor, row in enumerate(FLOORS):
        drawn = next((line for line in page.splitlines() if line.startswith(f"| {floor} |")), "")
        names = [name for name in row if f"`{name}`" in drawn]
        order = sorted(row, key=lambda name: drawn.find(f"`{name}`"))
        assert list(row) == names == order, f"ARCHITECTURE.md, floor {floor}: expected {', '.join(row)} from left to right in: {drawn!r}"


PLANTED = {
    "core/errors.py": ("import andon.store.disk\n", "core (floor 0) imports store (floor 1)"),
    "store/late.py": ("def f():\n    from andon.registry import versions\n", "store (floor 1) imports registry (floor 2)"),
    "store/typed.py": ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from andon import gates\n", "imports gates (floor 3)"),
    "models/sideways.py": ("from andon.tracking import run\n", "models imports tracking, to its right on floor 2"),
    "models/deep/relative.py": ("from ...features import views\n", "models imports features, to its right"),
    "registry/relative.py": ("from ..logs import labels\n", "registry imports logs, to its right"),
    "gates/top.py": ("from andon import __version__\n", "gates imports the top of the package"),
    "__init__.py": ("from andon.demo import story\n", "which is written as a user's program"),
    "wire/top.py": ("import andon\n", "wire imports the top of the package"),
    "logs/dynamic.py": ("import importlib\nimportlib.import_module('andon.serving')\n", "imports serving (floor 4)"),
    "utils/anything.py": ("", "utils/ is on no floor"),
    "cli/lost.py": ("import andon.nowhere\n", "nowhere, which is on no floor"),
}


def test_planted_violations_are_caught(tmp_path: Path) -> None:
    for name, (text, _) in PLANTED.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = violations(tmp_path)
    for name, (text, why) in PLANTED.items():
        line = max(1, text.count("\n"))
        mine = [finding for finding in found if finding.startswith(f"src/andon/{name}:")]
        assert len(mine) == 1, (name, found)
        assert mine[0].startswith(f"src/andon/{name}:{line}: "), mine[0]
        assert why in mine[0]


def test_what_is_allowed_stays_allowed(tmp_path: Path) -> None:
    allowed = {
        "__init__.py": "from andon.operations import runs\nimport andon.core.ids\n",
        "demo/story.py": "import andon\nfrom andon import releases\n",
        "__main__.py": "from andon.cli.main import main\n",
        "models/records.py": "from andon.registry import versions\nfrom . import trees\nfrom .trees import depth\nfrom ..core import ids\n",
        "models/trees.py": "import numpy\nfrom andon import core\nfrom andon.models import records\n",
        "cli/main.py": "import andon.operations.lines, andon.wire.oip\n",
        "core/ids.py": "import os\nfrom __future__ import annotations\n",
    }
    for name, text in allowed.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert violations(tmp_path) == []


HEAVY = (
    "alembic", "duckdb", "jinja2", "litestar", "mlflow", "numpy", "onnx", "onnxruntime", "pandas", "plotly", "psycopg", "pyarrow", "ray",
    "rich", "scipy", "skl2onnx", "sklearn", "skops", "sqlalchemy", "torch", "uvicorn", "uvloop",
)  # fmt: skip


def test_import_andon_brings_nothing_heavy() -> None:
    """Heavy libraries load in the function that needs them. The time is printed (`pytest -s`), never asserted: machines are noisy."""
    code = "import sys, time; began = time.perf_counter(); import andon; print(time.perf_counter() - began, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took_s, *loaded = done.stdout.split()
    print(f"import andon: {float(took_s) * 1000:.0f} ms")
    heavy = sorted(set(HEAVY) & set(loaded))
    assert not heavy, f"import andon brings in {', '.join(heavy)}: import them in the function that needs them"


if __name__ == "__main__":
    broken = violations()
    print("\n".join(broken) or "every import points down or left")
    sys.exit(bool(broken))
