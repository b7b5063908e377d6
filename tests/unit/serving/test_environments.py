"""Environments: exact, shared where that is sound, built once, and rebuilt when their builder was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from andon.core.digests import digest_json
from andon.core.errors import BuildFailed
from andon.serving import environments
from andon.serving.environments import Swept, build, collect, current_lock, in_use, parse_pins, tail
from tests.unit.serving.line import Line, small_lock

SAY = "import tinydep, numpy, sys; print(tinydep.N, numpy.__version__, sys.prefix)"


@pytest.fixture
def lock(line: Line) -> environments.EnvironmentLock:
    return msgspec.structs.replace(small_lock(tinydep="1.0"), wheels=line.wheels(("tinydep", "1.0", "N = 1")))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


def say(python: Path, code: str = SAY) -> str:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_this_processs_own_environment_is_used_as_it_is(line: Line, tmp_path: Path) -> None:
    assert build(current_lock(), tmp_path / "envs", line.store.blobs) == Path(sys.executable)
    assert not (tmp_path / "envs").exists()


def test_a_lock_is_built_exactly_and_once(line: Line, lock: environments.EnvironmentLock, tmp_path: Path) -> None:
    python = build(lock, tmp_path / "envs", line.store.blobs)
    n, version, prefix = say(python).split()
    assert (n, f"numpy=={version}" in lock.requirements) == ("1", True)
    assert prefix == str(python.parent.parent)
    installed = say(python, "import importlib.metadata as m; print(sorted(d.metadata['Name'] for d in m.distributions()))")
    assert installed == "['numpy', 'tinydep']"
    made = python.stat().st_ctime_ns, (python.parent.parent / "andon-complete.json").stat().st_mtime_ns
    assert build(lock, tmp_path / "envs", line.store.blobs) == python
    assert made == (python.stat().st_ctime_ns, (python.parent.parent / "andon-complete.json").stat().st_mtime_ns)


def test_two_versions_of_one_library_live_side_by_side(line: Line, tmp_path: Path) -> None:
    said = []
    for version, n in (("1.0", 1), ("2.0", 2)):
        wheels = line.wheels(("tinydep", version, f"N = {n}"))
        said.append(say(build(msgspec.structs.replace(small_lock(tinydep=version), wheels=wheels), tmp_path / "envs", line.store.blobs)))
    assert [text.split()[0] for text in said] == ["1", "2"]


def test_files_are_linked_so_that_pip_cannot_change_a_built_environment(
    line: Line, lock: environments.EnvironmentLock, tmp_path: Path
) -> None:
    import numpy as np

    python = build(lock, tmp_path / "envs", line.store.blobs)
    linked = next((python.parent.parent / "lib").glob("python*/site-packages/numpy/__init__.py"))
    source = Path(np.__file__)
    assert linked.stat().st_ino == source.stat().st_ino or linked.read_bytes() == source.read_bytes()
    assert not linked.is_symlink()


def test_what_a_killed_builder_left_is_built_again(line: Line, lock: environments.EnvironmentLock, tmp_path: Path) -> None:
    python = build(lock, tmp_path / "envs", line.store.blobs)
    folder = python.parent.parent
    (folder / "andon-complete.json").unlink()
    next((folder / "lib").glob("python*/site-packages/tinydep.py")).write_text("N = 'half'")
    assert build(lock, tmp_path / "envs", line.store.blobs) == python
    assert say(python).split()[0] == "1"


def test_the_requirement_that_cannot_be_had_is_named(line: Line, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed) as caught:
        build(small_lock(tinydep="9.9"), tmp_path / "envs", line.store.blobs)
    assert caught.value.fields["requirement"] == "tinydep==9.9"
    assert "No matching distribution" in caught.value.fields["output"]
    assert not list((tmp_path / "envs").glob("*/andon-complete.json"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"python": "2.7.18"}, "needs Python 2.7.18"),
        ({"platform": "plan9-mips"}, "needs plan9-mips"),
        ({"requirements": ("numpy>=2",)}, "exact versions"),
        ({"requirements": ("--index-url=http://x",)}, "exact versions"),
    ],
)
def test_a_lock_for_somewhere_else_is_refused(line: Line, tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(BuildFailed, match=said):
        build(msgspec.structs.replace(small_lock(tinydep="1.0"), **change), tmp_path / "envs", line.store.blobs)


def test_an_environment_that_is_not_the_lock_is_not_called_ready(line: Line, tmp_path: Path) -> None:
    """The wheel says 1.0 in its name and 1.1 in its metadata."""
    folder = tmp_path / "lying"
    from tests.unit.serving.line import make_wheel

    make_wheel(folder, "tinydep", "1.1", "N = 1").rename(folder / "tinydep-1.0-py3-none-any.whl")
    lock = msgspec.structs.replace(small_lock(tinydep="1.0"), wheels=line.store.blobs.put_tree(folder))
    with pytest.raises(BuildFailed):
        build(lock, tmp_path / "envs", line.store.blobs)


def test_a_folder_that_cannot_be_written_is_a_build_failure(line: Line, lock: environments.EnvironmentLock, tmp_path: Path) -> None:
    (tmp_path / "envs").write_text("a file")
    with pytest.raises(BuildFailed, match="could not be written"):
        build(lock, tmp_path / "envs", line.store.blobs)


def test_builders_exclude_each_other(line: Line, lock: environments.EnvironmentLock, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: build(lock, tmp_path / "envs", line.store.blobs), range(2)))
    assert made[0] == made[1]
    assert say(made[0]).split()[0] == "1"


def test_pins_and_tails() -> None:
    assert parse_pins(small_lock(Tiny_Dep="1.0"))["tiny-dep"] == "1.0"
    assert tail("a\n" * 3) == "a\na\na"
    assert len(tail("line\n" * 1000)) <= 1_501
    assert os.linesep not in tail("x")


def test_a_builder_that_is_killed_leaves_nothing_that_is_used(line: Line, lock: environments.EnvironmentLock, tmp_path: Path) -> None:
    """Killed in the middle of pip: the next builder starts from nothing, at once."""
    import signal
    import time

    root = tmp_path / "envs"
    builder = f"""
import msgspec, sys, time
from pathlib import Path
from andon.serving import environments
from andon.store import open_store
from andon.tracking.records import EnvironmentLock
def hang(*_):
    print("in the middle", flush=True)
    time.sleep(60)
environments._pip = hang
lock = msgspec.json.decode({msgspec.json.encode(lock)!r}, type=EnvironmentLock)
with open_store({str(line.store.settings.home)!r}) as store:
    environments.build(lock, Path({str(root)!r}), store.blobs)
"""
    process = subprocess.Popen([sys.executable, "-c", builder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "in the middle"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    started = time.monotonic()
    assert say(build(lock, root, line.store.blobs)).split()[0] == "1"
    assert time.monotonic() - started < 20


def test_a_build_that_fails_is_tried_from_nothing_again(
    line: Line, lock: environments.EnvironmentLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "_pip", lambda *_: (_ for _ in ()).throw(BuildFailed("no index today")))
    with pytest.raises(BuildFailed, match="no index today"):
        build(lock, tmp_path / "envs", line.store.blobs)
    assert not list((tmp_path / "envs").glob("*/andon-complete.json"))
    monkeypatch.undo()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert say(build(lock, tmp_path / "envs", line.store.blobs)).split()[0] == "1"


def test_environments_and_files_that_nobody_needs_are_removed(line: Line, lock: environments.EnvironmentLock, tmp_path: Path) -> None:
    import time

    root = tmp_path / "envs"
    python = build(lock, root, line.store.blobs)
    folder = python.parents[1]
    tree = root / "trees" / ("a" * 64)
    tree.mkdir(parents=True)
    (tree / "model.onnx").write_bytes(b"x" * 1000)
    later = time.time() + 100
    assert collect(root, [], older_than_s=200, now_s=later) == Swept()  # asked for lately
    assert collect(root, [digest_json(lock), "b3:" + "a" * 64], older_than_s=10, now_s=later) == Swept()  # needed
    with in_use([str(folder), str(tree)]):
        assert collect(root, [], older_than_s=10, now_s=later) == Swept()  # in use
    with environments._only_builder(root / f"{folder.name}.lock"):
        assert collect(root, [], older_than_s=10, now_s=later, dry_run=True).environments == ()  # being built
    would = collect(root, [], older_than_s=10, now_s=later, dry_run=True)
    assert (would.environments, would.trees) == ((folder.name,), (tree.name,))
    assert would.size_bytes > 1000
    assert folder.is_dir()
    assert collect(root, [], older_than_s=10, now_s=later) == would
    assert not folder.exists()
    assert not tree.exists()
    assert say(build(lock, root, line.store.blobs)).split()[0] == "1"  # it is built again when somebody asks


def test_upkeep_keeps_what_the_channels_point_to(line: Line, lock: environments.EnvironmentLock) -> None:
    from andon.operations.upkeep import sweep_environments

    store = line.store
    root = store.settings.path(store.settings.environments)
    served, left = line.python(environment=lock), line.onnx(environment=small_lock())
    line.point(served)
    kept, gone = build(lock, root, store.blobs).parents[1], build(small_lock(), root, store.blobs).parents[1]
    assert left != served
    for folder in (kept, gone):
        os.utime(root / f"{folder.name}.lock", (1, 1))
    swept = sweep_environments(store, older_than="1h")
    assert swept.environments == (gone.name,)
    assert kept.is_dir()
    assert not gone.exists()
