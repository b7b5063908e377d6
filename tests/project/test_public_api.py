"""The public names, pinned: a new one, or one that is gone, is a deliberate diff of ``public_api.txt``.

::

    python tests/project/test_public_api.py --write      # after a change that is meant
"""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path

PINNED = Path(__file__).with_name("public_api.txt")
SOURCE = Path(__file__).parents[2] / "src"
HEADER = """\
# Every public name of every package: what its __all__ says. Written by: python tests/project/test_public_api.py --write
"""


def packages() -> list[str]:
    """Andon and each package below it that states what is public."""
    inits = sorted((SOURCE / "andon").rglob("__init__.py"))
    return [".".join(file.parent.relative_to(SOURCE).parts) for file in inits if "__all__" in file.read_text(encoding="utf-8")]


def public_names() -> str:
    """One ``package.name`` a line, in order."""
    lines = [f"{package}.{name}" for package in packages() for name in sorted(importlib.import_module(package).__all__)]
    return HEADER + "\n".join(lines) + "\n"


def test_public_names_are_the_pinned_ones() -> None:
    pinned = PINNED.read_text(encoding="utf-8")
    now = public_names()
    difference = "\n".join(difflib.unified_diff(pinned.splitlines(), now.splitlines(), "pinned", "now", lineterm="", n=0))
    assert now == pinned, f"\n{difference}\nif this is meant: python tests/project/test_public_api.py --write"


def test_every_public_name_is_there_once() -> None:
    for package in packages():
        module = importlib.import_module(package)
        names = list(module.__all__)
        assert len(names) == len(set(names)), f"{package}.__all__ names something twice"
        missing = [name for name in names if not hasattr(module, name)]
        assert not missing, f"{package}.__all__ names {', '.join(missing)}, which it does not have"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PINNED.write_text(public_names(), encoding="utf-8")
    else:
        print(public_names(), end="")
