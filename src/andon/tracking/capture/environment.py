"""The Python environment as an exact lock, read off the names of the installed distributions' metadata folders (about 1 ms a hundred)."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from andon.tracking.records import EnvironmentLock

_FOLDER = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)\.(dist-info|egg-info)")


def capture_environment() -> EnvironmentLock:
    """What is installed on this interpreter's path, first on the path first.

    >>> capture_environment().python.count(".")
    2
    """
    found: dict[str, str] = {}
    for name, version, _ in _installed():
        found.setdefault(name, version)
    return EnvironmentLock(
        python=platform.python_version(),
        platform=sysconfig.get_platform(),
        requirements=tuple(f"{name}=={version}" for name, version in sorted(found.items())),
    )


def environment_notes() -> dict[str, str]:
    """Distributions that ``name==version`` does not bring back, and where they came from.

    Values are ``editable FOLDER``, ``local PATH`` or ``VCS-URL@COMMIT`` (PEP 610, ``direct_url.json``), credentials removed.
    """
    notes = {}
    for name, _, folder in _installed():
        if folder is None or name in notes:
            continue
        try:
            told = json.loads(Path(folder, "direct_url.json").read_text(encoding="utf-8"))
            url = re.sub(r"//[^/@]*@", "//", str(told["url"]))
            if told.get("dir_info", {}).get("editable"):
                notes[name] = f"editable {url.removeprefix('file://')}"
            elif "vcs_info" in told:
                notes[name] = f"{told['vcs_info'].get('vcs', 'git')}+{url}@{told['vcs_info'].get('commit_id', '')}"
            else:
                notes[name] = f"local {url.removeprefix('file://')}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no such file (nearly all), or not of the standard's form
            continue
    return dict(sorted(notes.items()))


def _installed() -> Iterator[tuple[str, str, str | None]]:
    """``(normalised name, version, metadata folder)`` of each distribution, in the order of ``sys.path``."""
    for place in sys.path:
        try:
            entries = sorted(os.listdir(place or "."))  # noqa: PTH208 - names are all that is needed, and this is the fast way
        except OSError:  # a zip file, or a folder that is not there
            continue
        for entry in entries:
            matched = _FOLDER.fullmatch(entry)
            if matched is not None:
                yield _normal(matched["name"]), matched["version"], os.path.join(place, entry)  # noqa: PTH118 - as above
            elif entry.endswith((".dist-info", ".egg-info")):  # an old tool's name: ask its metadata
                yield from _read(Path(place, entry))


def _read(folder: Path) -> Iterator[tuple[str, str, str | None]]:
    try:
        distribution = metadata.Distribution.at(folder)
        name, version = distribution.metadata["Name"], distribution.version
    except Exception:  # noqa: BLE001 - broken metadata of somebody else's package must not fail a run
        return
    if name and version:
        yield _normal(name), version, str(folder)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
