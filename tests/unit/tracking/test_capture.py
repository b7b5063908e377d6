"""Capture: what a run knows of code, environment and machine without being told, and what it says when it cannot."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from andon.core.actors import Actor
from andon.tracking import artifacts_of, capture_environment, get_run, open_artifact, start_run
from andon.tracking.capture import begin_code, capture_hardware, environment, environment_notes, observed_seeds
from andon.tracking.capture.code import MAX_UNTRACKED_FILE_BYTES, redacted

ANA = Actor("person", "ana")


def git(folder: Path, *command: str) -> str:
    options = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *options, *command], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "train.py").write_text("depth = 6\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_repository_is_its_commit(repository):
    git(repository, "remote", "add", "origin", "https://ana:secret@example.org/bikes.git")
    captured = begin_code(repository).finish()
    assert captured.code.commit == git(repository, "rev-parse", "HEAD")
    assert captured.code.branch == "main"
    assert captured.code.remote == "https://example.org/bikes.git"
    assert captured.diff is None
    assert captured.missing == ()


def test_the_difference_brings_the_folder_back(repository, tmp_path):
    (repository / "train.py").write_text("depth = 7\n")
    (repository / "new file.py").write_text("no newline at the end")
    (repository / "sub").mkdir()
    (repository / "sub" / "empty.py").write_text("")
    (repository / "sub" / "lines.py").write_text("a\n\nb\n")
    (repository / ".andon").mkdir()
    (repository / ".andon" / "ledger.db").write_text("ours")
    captured = begin_code(repository / "sub").finish()  # from a folder below the root too
    assert captured.diff is not None
    again = tmp_path / "again"
    git(tmp_path, "clone", "-q", str(repository), str(again))
    subprocess.run(["git", "apply", "-"], cwd=again, input=captured.diff, check=True)
    for name in ("train.py", "new file.py", "sub/empty.py", "sub/lines.py"):
        assert (again / name).read_bytes() == (repository / name).read_bytes()
    assert not (again / ".andon").exists()


def test_what_is_too_large_or_binary_is_named_not_kept(repository):
    (repository / "weights.bin").write_bytes(b"\0" * 10)
    (repository / "huge.txt").write_text("x" * (MAX_UNTRACKED_FILE_BYTES + 1))
    captured = begin_code(repository).finish()
    assert captured.diff is None
    assert "weights.bin" in captured.missing[0]
    assert "huge.txt" in captured.missing[0]


def test_what_looks_like_a_secret_is_named_never_read(repository):
    names = (
        ".env",
        ".env.local",
        "prod.env",
        "tls.pem",
        "tls.KEY",
        "id_rsa_old",
        "my-secrets.yaml",
        "aws_credentials",
        ".netrc",
        ".pypirc",
    )
    (repository / "deploy").mkdir()
    for name in names:
        (repository / "deploy" / name).write_text("hunter2\n")
        captured = begin_code(repository).finish()
        assert captured.diff is None, name
        assert captured.missing == (f"untracked and not captured (the name looks like a secret): deploy/{name}",)
        (repository / "deploy" / name).unlink()
    (repository / "environment.py").write_text("keys = 1\n")  # near misses are code
    (repository / "monkey.py").write_text("keys = 1\n")
    captured = begin_code(repository).finish()
    assert captured.missing == ()
    assert captured.diff is not None
    assert captured.diff.count(b"keys = 1") == 2


def test_what_is_in_git_is_captured_whatever_its_name(repository):
    (repository / ".env.example").write_text("A=\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "an example")
    (repository / ".env.example").write_text("A=1\n")
    captured = begin_code(repository).finish()
    assert captured.missing == ()
    assert b"+A=1" in (captured.diff or b"")


@pytest.mark.parametrize("state", ["none", "empty", "no git"])
def test_no_commit_is_said_and_fails_nothing(tmp_path, monkeypatch, state):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "project"
    folder.mkdir()
    if state == "empty":
        git(folder, "init", "-q")
    if state == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    captured = begin_code(folder).finish()
    assert captured.code.commit is None
    expected = {"none": "not in a git repository", "empty": "the repository has no commit yet", "no git": "git is not installed"}
    assert captured.missing == (expected[state],)


def test_a_hung_git_is_left_behind(tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent))
    monkeypatch.setattr("andon.tracking.capture.code.GIT_TIMEOUT_S", 0.2)
    captured = begin_code(tmp_path).finish()
    assert "took longer" in captured.missing[0]


def test_a_repositorys_own_programs_are_not_run(repository, tmp_path):
    trace = tmp_path / "ran"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {trace}\n")
    hook.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external", "diff.t.textconv", "core.pager"):
        git(repository, "config", key, str(hook))
    (repository / ".git" / "info" / "attributes").write_text("*.py diff=t\n")
    (repository / "train.py").write_text("depth = 8\n")
    assert begin_code(repository).finish().diff
    assert not trace.exists()


def test_secrets_in_arguments_are_not_kept():
    assert redacted(["t", "--password", "x", "--api_key=y", "-t", "z", "--tokens-per-batch", "--depth=3"]) == (
        "t",
        "--password",
        "***",
        "--api_key=***",
        "-t",
        "z",
        "--tokens-per-batch",
        "--depth=3",
    )


def test_the_environment_is_exact(tmp_path, monkeypatch):
    place = tmp_path / "site"
    for folder, told in (
        ("Some_Package-1.2.3.dist-info", ""),
        ("edited-0.1.dist-info", '{"url": "file:///srv/edited", "dir_info": {"editable": true}}'),
        ("pinned-2.dist-info", '{"url": "https://u:p@git.example/p.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}'),
        ("broken.dist-info", ""),
    ):
        (place / folder).mkdir(parents=True)
        if told:
            (place / folder / "direct_url.json").write_text(told)
    monkeypatch.setattr(environment.sys, "path", [str(place), str(tmp_path / "none"), "/none.zip"])
    assert capture_environment().requirements == ("edited==0.1", "pinned==2", "some-package==1.2.3")
    assert environment_notes() == {"edited": "editable /srv/edited", "pinned": "git+https://git.example/p.git@abc"}


def test_the_lock_agrees_with_importlib():
    from importlib.metadata import version

    lock = dict(line.split("==") for line in capture_environment().requirements)
    for name in ("numpy", "sqlalchemy", "scikit-learn", "pytest"):
        assert lock[name] == version(name)


def test_hardware_is_what_this_process_may_use():
    hardware = capture_hardware()
    assert hardware.cores >= 1
    assert hardware.memory_bytes > 2**28
    assert hardware.host


def test_a_seed_set_by_other_means_is_seen_until_it_is_drawn_from(monkeypatch):
    from andon.tracking.capture import seeds

    monkeypatch.setattr(seeds, "_known", {})
    before = np.random.get_state()
    try:
        np.random.seed(123)
        assert observed_seeds()["numpy"] == 123
        np.random.random()
        assert "numpy" not in observed_seeds()
    finally:
        np.random.set_state(before)


def test_a_run_keeps_it_all(store, repository, monkeypatch):
    monkeypatch.chdir(repository)
    (repository / "train.py").write_text("depth = 9\n")
    with start_run(store, actor=ANA) as run:
        pass
    facts = get_run(store, run.id).facts
    assert facts is not None
    assert facts.code.commit == git(repository, "rev-parse", "HEAD")
    [artifact] = artifacts_of(store, run.id)
    assert (artifact.path, artifact.digest) == ("code/uncommitted.diff", facts.code.dirty_diff)
    with open_artifact(store, run.id, artifact.path) as stream:
        assert b"+depth = 9" in stream.read()
    assert facts.environment.requirements
