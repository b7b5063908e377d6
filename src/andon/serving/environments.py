"""One Python environment per lock, built before a release takes traffic.

A lock is built into a real virtual environment of its own (no site-packages are shared), so two releases with different versions of the
same library run side by side. Each pin is taken from the first of these that has it:

1. the lock's own tree of wheels (private or offline packages),
2. this process's environment, when it has the very same version: its files are *hard-linked* (copied across file systems), which needs
   no network and takes milliseconds. A hard link keeps its bytes when ``pip`` later replaces the original, so a built environment does
   not change under a release,
3. the package index that pip is configured with. When steps 1 and 2 cover every pin, pip is told ``--no-index``.

What is built is then read back by its own interpreter: every pin present at its version and nothing else. Only after that is it marked
complete; an environment without the mark (its builder was killed) is built again from nothing. Builders exclude each other with a file
lock. A lock of another patch release of Python is accepted (3.11.4 for 3.11.7: extension modules are compatible); another minor version
or platform is refused. An editable install is pinned by its version only.

Folders of environments and of laid-out files that nobody used for a while are removed again (``collect``): they can always be made again,
from the lock and the artifact store.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import msgspec

from andon.core.digests import digest_json
from andon.core.errors import BuildFailed
from andon.store.ports import Blobs
from andon.tracking.records import EnvironmentLock

_MARK = "andon-complete.json"
_PIN = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)\s*")
_TAIL_CHARS = 1_500
_READ_BACK = """
import importlib.metadata as m, json, sys
print(json.dumps({"python": sys.version.split()[0], "pins": [[d.metadata["Name"], d.version] for d in m.distributions()]}))
"""


def build(lock: EnvironmentLock, root: Path, blobs: Blobs, *, timeout_s: float = 900.0) -> Path:
    """The Python executable of an environment that holds exactly ``lock``; built under ``root`` if it is not there yet.

    It is ``sys.executable`` when this process's environment is that lock. Blocks while another process builds the same one.
    Raises ``BuildFailed`` naming the requirement and carrying the tail of pip's output.
    """
    if lock == current_lock():
        return Path(sys.executable)
    pins = parse_pins(lock)
    _check_interpreter(lock)
    digest = digest_json(lock)
    folder = root / digest.removeprefix("b3:")[:32]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _only_builder(root / f"{folder.name}.lock"):
            python = folder / "bin" / "python"
            os.utime(root / f"{folder.name}.lock")  # `collect` goes by when it was last asked for
            if (folder / _MARK).is_file() and python.exists():
                return python
            shutil.rmtree(folder, ignore_errors=True)
            _build(lock, pins, folder, blobs, timeout_s)
            return python
    except OSError as error:
        raise BuildFailed(f"the environment could not be written: {error.strerror or error}", environment=digest) from error


def parse_pins(lock: EnvironmentLock) -> dict[str, str]:
    """Normalised name -> exact version. Raises ``BuildFailed`` naming a requirement that is not ``name==version``."""
    pins: dict[str, str] = {}
    for requirement in lock.requirements:
        match = _PIN.fullmatch(requirement)
        if match is None:
            raise BuildFailed("a lock pins exact versions, name==version", requirement=requirement[:200])
        pins[normal(match[1])] = match[2]
    return pins


def normal(name: str) -> str:
    """A distribution's normalised name (PEP 503).

    >>> normal("Ruamel.Yaml_clib")
    'ruamel-yaml-clib'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=1)
def current_lock() -> EnvironmentLock:
    """The environment of this process, captured once."""
    try:
        from andon.tracking.capture.environment import capture_environment

        return capture_environment()
    except ImportError:
        pins = sorted(f"{name}=={found.version}" for name, found in _installed().items())
        system = sysconfig.get_platform()
        return EnvironmentLock(python=platform.python_version(), platform=system, requirements=tuple(pins))


def _installed() -> dict[str, metadata.Distribution]:
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(normal(name), distribution)  # the first on sys.path is the one that is imported
    return found


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What ``collect`` removed, or would remove."""

    environments: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    size_bytes: int = 0
    """Bytes that this frees; files that are hard-linked from elsewhere are not counted."""


def collect(root: Path, needed: Collection[str], *, older_than_s: float, now_s: float, dry_run: bool = False) -> Swept:
    """Remove environments and laid-out files that are not ``needed``, that no runner here uses, and that nobody asked for lately.

    ``needed`` are digests: of locks, of trees. What is removed is built again when a release asks for it. A folder that its builder left
    half-built goes by the same rule. Never waits for a build that is going on: that folder stays.
    """
    wanted = {digest.removeprefix("b3:")[:32] for digest in needed}
    gone: dict[bool, list[str]] = {False: [], True: []}
    size = 0
    for folder in (*_folders(root), *_folders(root / "trees")):
        is_tree = folder.parent != root
        lock = folder.with_name(f"{folder.name}.lock")
        mark = lock if not is_tree and lock.exists() else folder
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as held:
            if folder.name[:32] in wanted or now_s - mark.stat().st_mtime < older_than_s or not _alone(folder, held):
                continue
            size += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.lstat().st_nlink == 1)
            gone[is_tree].append(folder.name)
            if not dry_run:
                aside = folder.with_name(f".gone-{folder.name}")
                folder.rename(aside)  # at once: nobody is to find half of it
                shutil.rmtree(aside, ignore_errors=True)
    return Swept(environments=tuple(sorted(gone[False])), trees=tuple(sorted(gone[True])), size_bytes=size)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("[0-9a-f]*") if len(path.name) >= 32 and path.is_dir() and path.suffix == "")


def _alone(folder: Path, held: contextlib.ExitStack) -> bool:
    """Whether nobody builds or uses a folder; keeps it so until ``held`` is closed."""
    for path in (folder.with_name(f"{folder.name}.lock"), folder.with_name(f"{folder.name}.use")):
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        held.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def in_use(folders: Iterable[str]) -> contextlib.ExitStack:
    """Mark folders as used until the result is closed, or this process ends however it ends."""
    held = contextlib.ExitStack()
    for folder in folders:
        with contextlib.suppress(OSError):  # a folder of nobody's, or a disk that takes no file: it may be collected once it is old
            descriptor = os.open(f"{folder}.use", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return held


def _check_interpreter(lock: EnvironmentLock) -> None:
    here = platform.python_version()
    if lock.python.split(".")[:2] != here.split(".")[:2]:
        raise BuildFailed(
            f"the release needs Python {lock.python} and this is {here}",
            next_step=f"run this replica with Python {'.'.join(lock.python.split('.')[:2])}, or release again from this Python",
            python=lock.python,
        )
    system = sysconfig.get_platform()
    if lock.platform and lock.platform.lower().replace("amd64", "x86_64") != system:
        raise BuildFailed(f"the release needs {lock.platform} and this is {system}", platform=lock.platform)


_installing: set[subprocess.Popen[str]] = set()  # pip processes of this one's builds
_abandoned = threading.Event()


def abandon() -> None:
    """End every build of this process, which then fails: for a process that is about to end and must not wait for pip."""
    _abandoned.set()
    for process in list(_installing):
        _kill_group(process)


def _kill_group(process: subprocess.Popen[str]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # pip starts itself again in the environment's Python


@contextlib.contextmanager
def _only_builder(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if _abandoned.wait(0.05):
                    raise BuildFailed("this process is ending") from None
        yield
    finally:
        os.close(descriptor)  # lets go of the lock, also when this process is killed


def _build(lock: EnvironmentLock, pins: dict[str, str], folder: Path, blobs: Blobs, timeout_s: float) -> None:
    import venv

    started = time.monotonic()
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    left = dict(pins)
    with tempfile.TemporaryDirectory(prefix="andon-wheels-") as scratch:
        wheels = Path(scratch, "wheels")
        offline: dict[str, str] = {}
        if lock.wheels is not None:
            blobs.get_tree(lock.wheels, wheels)
            offline = {name: version for name, version in pins.items() if _has_wheel(wheels, name, version)}
            for name in offline:
                del left[name]
        linked = _link_from_here(left, folder)
        for name in linked:
            del left[name]
        if offline:
            _pip(python, offline, ["--no-index", "--find-links", str(wheels)], timeout_s)
        if left:
            _pip(python, left, ["--find-links", str(wheels)] if lock.wheels else [], timeout_s)
    _read_back(python, pins)
    mark = {"lock": msgspec.to_builtins(lock), "linked": sorted(linked), "seconds": round(time.monotonic() - started, 3)}
    _write_durably(folder / _MARK, msgspec.json.encode(mark))


def _has_wheel(folder: Path, name: str, version: str) -> bool:
    for path in folder.rglob("*.whl"):
        parts = path.name.split("-")
        if len(parts) >= 5 and normal(parts[0]) == name and parts[1] == version:
            return True
    return False


def _link_from_here(pins: dict[str, str], folder: Path) -> set[str]:
    """Hard-link the files of every pin that this process's environment has at the same version; returns their names."""
    site = next((folder / "lib").glob("python*/site-packages"))
    installed = _installed()
    done: set[str] = set()
    for name, version in pins.items():
        found = installed.get(name)
        if found is None or found.version != version or not found.files:
            continue
        files = [(Path(str(found.locate_file(file))), file) for file in found.files if ".." not in file.parts and not file.is_absolute()]
        needed = [path for path, file in files if not file.name.endswith(".pyc")]
        if not all(path.is_file() for path in needed):
            continue  # what is installed here is damaged: take it from the index
        for path, file in files:
            _link(path, site / file)
        done.add(name)
    return done


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        return  # only bytecode may be missing, and Python makes it again
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _pip(python: Path, pins: dict[str, str], where: list[str], timeout_s: float) -> None:
    requirements = [f"{name}=={version}" for name, version in sorted(pins.items())]
    flags = ["--no-deps", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
    command = [*_pip_command(), "--python", str(python), "install", *flags, *where, *requirements]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    _installing.add(process)
    try:
        output, _ = process.communicate(timeout=0 if _abandoned.is_set() else timeout_s)
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"pip took longer than {timeout_s:g} s", requirement=", ".join(requirements)[:300]) from None
    finally:
        _installing.discard(process)
        _kill_group(process)
        process.communicate()
    if process.returncode:
        raise BuildFailed(
            "pip could not install the release's environment", requirement=_culprit(output, requirements), output=tail(output)
        )


def _pip_command() -> list[str]:
    from importlib.util import find_spec

    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    import ensurepip

    bundled = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    if not bundled:
        raise BuildFailed("this Python has no pip to build environments with", next_step="install pip into Andon's environment")
    return [sys.executable, str(bundled[-1] / "pip")]


def _culprit(output: str, requirements: Sequence[str]) -> str:
    match = re.search(r"(?:No matching distribution found for|requirement) ([A-Za-z0-9._-]+==\S+)", output)
    if match is not None:
        return match[1].rstrip(".,:;)")
    named = [requirement for requirement in requirements if requirement.partition("==")[0] in output.lower()]
    return ", ".join(named or requirements)[:300]


def _read_back(python: Path, pins: dict[str, str]) -> None:
    command = [str(python), "-I", "-c", _READ_BACK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise BuildFailed("the environment's Python does not start", output=tail(done.stderr))
    found = {normal(name): version for name, version in msgspec.json.decode(done.stdout)["pins"]}
    wrong = [f"{name}=={version} (found {found.get(name, 'nothing')})" for name, version in pins.items() if found.get(name) != version]
    wrong += [f"{name}=={version} (not in the lock)" for name, version in found.items() if name not in pins]
    if wrong:
        raise BuildFailed("the environment that was built is not the lock", requirement="; ".join(sorted(wrong)[:5]))


def _write_durably(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def tail(text: str, limit: int = _TAIL_CHARS) -> str:
    """The end of a long output, whole lines."""
    text = text.strip()
    if len(text) <= limit:
        return text
    cut = text[-limit:]
    return "…" + cut[cut.find("\n") + 1 :]
