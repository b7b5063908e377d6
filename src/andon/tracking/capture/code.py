"""The code that runs: commit, branch, remote, and the difference from the commit with untracked text files included.

An untracked file whose name says that it holds a secret (``.env``, a key, credentials) is named, never read: run records are shared.

Git runs as child processes started together (``begin_code``) and collected later (``CodeCapture.finish``), so that the rest of the capture
overlaps with them. No hook, pager, external diff or file-system monitor of the repository is run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from andon.store.ports import Blobs
from andon.tracking.records import Code

GIT_TIMEOUT_S = 5.0
MAX_DIFF_BYTES = 16 * 1024 * 1024
MAX_UNTRACKED_FILE_BYTES = 256 * 1024
MAX_UNTRACKED_FILES = 200
_SECRET = re.compile(r"(?i)(pass(word|wd)?|secret|token|api[-_]?key|credential)")
SECRET_FILES = (".env", ".env.*", "*.env", "*.pem", "*.key", "id_rsa*", "*secret*", "*credential*", ".netrc", ".pypirc")
"""Names, of an untracked file or of a folder above it, that are taken to hold secrets. Case does not count."""
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "head": ("rev-parse", "--show-toplevel", "HEAD", "--abbrev-ref", "HEAD"),
    "diff": ("diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color"),
    "untracked": ("ls-files", "--others", "--exclude-standard", "--full-name", "-z", ":/"),
    "remote": ("config", "--get", "remote.origin.url"),
}


@dataclass(frozen=True, slots=True)
class CapturedCode:
    """``diff`` is a patch that ``git apply`` takes, or None when clean; ``missing`` says what could not be captured and why."""

    code: Code
    diff: bytes | None = None
    missing: tuple[str, ...] = ()


class CodeCapture:
    """Git at work. Call ``finish`` once."""

    def __init__(self, folder: Path, ignore: Path | None) -> None:
        self._folder = folder
        self._ignore = ignore
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._problem: str | None = None
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        try:
            for name, command in _COMMANDS.items():
                self._children[name] = subprocess.Popen(
                    ["git", "-c", "core.fsmonitor=false", "-c", "core.quotepath=off", *command],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
        except OSError:
            self._problem = "git is not installed"

    def finish(self) -> CapturedCode:
        """Wait for git (at most ``GIT_TIMEOUT_S``) and put it together. Never raises."""
        entry = _entry_point()
        argv = redacted(sys.argv)
        try:
            answers = self._answers()
            head = answers.get("head", b"").decode(errors="replace").split("\n")
            if self._problem is not None:
                return CapturedCode(Code(entry_point=entry, argv=argv), missing=(self._problem,))
            if len(head) < 3 or not re.fullmatch(r"[0-9a-f]{40,64}", head[1]):
                told = "the repository has no commit yet" if head[0].startswith("/") else "not in a git repository"
                return CapturedCode(Code(entry_point=entry, argv=argv), missing=(told,))
            return self._put_together(head, answers, entry, argv)
        except Exception as error:  # noqa: BLE001 - capture never fails the run it describes
            return CapturedCode(Code(entry_point=entry, argv=argv), missing=(f"git could not be asked: {error}",))

    def _answers(self) -> dict[str, bytes]:
        deadline = time.monotonic() + GIT_TIMEOUT_S
        answers: dict[str, bytes] = {}
        for name, child in self._children.items():
            try:
                answers[name] = child.communicate(timeout=max(0.01, deadline - time.monotonic()))[0]
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
                self._problem = f"git took longer than {GIT_TIMEOUT_S:.0f} s"
            if child.returncode != 0 and name != "head":
                answers.pop(name, None)
        return answers

    def _put_together(self, head: list[str], answers: dict[str, bytes], entry: str | None, argv: tuple[str, ...]) -> CapturedCode:
        root = Path(head[0])
        missing = []
        patch = answers.get("diff")
        if patch is None:
            missing.append("git diff failed")
            patch = b""
        names = [name for name in answers.get("untracked", b"").decode(errors="surrogateescape").split("\0") if name]
        secret = [name for name in names if looks_secret(name) and not self._is_ours(root / name)]
        added, skipped = self._untracked(root, [name for name in names if not looks_secret(name)])
        for why, left_out in (("binary, large or many", skipped), ("the name looks like a secret", secret)):
            if left_out:
                missing.append(f"untracked and not captured ({why}): {', '.join(left_out[:5])}" + (" …" if len(left_out) > 5 else ""))
        patch += added
        if len(patch) > MAX_DIFF_BYTES:
            missing.append(f"the difference from the commit is {len(patch)} bytes; at most {MAX_DIFF_BYTES} are kept")
            patch = b""
        if entry is not None and Path(entry).is_absolute() and Path(entry).is_relative_to(root):
            entry = str(Path(entry).relative_to(root))
        branch = head[2] if head[2] != "HEAD" else None
        remote = answers.get("remote", b"").decode(errors="replace").strip() or None
        code = Code(commit=head[1], branch=branch, remote=_without_credentials(remote), entry_point=entry, argv=argv)
        return CapturedCode(code, patch or None, tuple(missing))

    def _untracked(self, root: Path, names: list[str]) -> tuple[bytes, list[str]]:
        patches: list[bytes] = []
        skipped: list[str] = []
        for name in names:
            path = root / name
            if self._is_ours(path):
                continue
            content = _text_of(path) if len(patches) < MAX_UNTRACKED_FILES else None
            if content is None:
                skipped.append(name)
            else:
                patches.append(_added(name, content))
        return b"".join(patches), skipped

    def _is_ours(self, path: Path) -> bool:
        return ".andon" in path.parts or (self._ignore is not None and path.is_relative_to(self._ignore))


def begin_code(folder: Path | None = None, *, ignore: Path | None = None) -> CodeCapture:
    """Start asking git about ``folder`` (default: the working directory); ``ignore`` is a folder whose files are not code (our home)."""
    return CodeCapture(folder or Path.cwd(), ignore)


def capture_code(blobs: Blobs, *, folder: Path | None = None, ignore: Path | None = None) -> Code:
    """The code of this process, its difference from the commit kept in the artifact store."""
    return keep_diff(blobs, begin_code(folder, ignore=ignore).finish())


def keep_diff(blobs: Blobs, captured: CapturedCode) -> Code:
    """The captured code with its difference from the commit kept: ``dirty_diff`` is then its digest."""
    if captured.diff is None:
        return captured.code
    return msgspec.structs.replace(captured.code, dirty_diff=blobs.put(captured.diff))


def looks_secret(name: str) -> bool:
    """Whether a file in a repository has a name that says it holds secrets.

    >>> looks_secret("deploy/.env.local"), looks_secret("Secrets/db.txt"), looks_secret("environment.py")
    (True, True, False)
    """
    return any(fnmatchcase(part.lower(), pattern) for part in PurePosixPath(name).parts for pattern in SECRET_FILES)


def redacted(argv: list[str]) -> tuple[str, ...]:
    """Arguments with the values of options that name a secret replaced.

    >>> redacted(["train.py", "--api-key", "abc", "--token=xyz", "--depth", "6"])
    ('train.py', '--api-key', '***', '--token=***', '--depth', '6')
    """
    kept: list[str] = []
    hide = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if hide and not argument.startswith("-"):
            kept.append("***")
            hide = False
            continue
        hide = argument.startswith("-") and not equals and bool(_SECRET.search(name))
        kept.append(f"{name}=***" if equals and _SECRET.search(name) else argument)
    return tuple(kept)


def _entry_point() -> str | None:
    main: Any = sys.modules.get("__main__")
    if "ipykernel" in sys.modules:
        return Path(os.environ.get("JPY_SESSION_NAME", "notebook")).name
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return f"-m {spec.name.removesuffix('.__main__')}"
    file = getattr(main, "__file__", None)
    return str(Path(file).absolute()) if file else None


def _text_of(path: Path) -> bytes | None:
    """The bytes of a small text file; None for what is binary, large, a link or gone."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_UNTRACKED_FILE_BYTES:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    return None if b"\0" in content else content


def _added(name: str, content: bytes) -> bytes:
    """A patch that adds a file."""
    quoted = name.encode(errors="surrogateescape")
    head = b"diff --git a/%s b/%s\nnew file mode 100644\n" % (quoted, quoted)
    if not content:
        return head
    lines = content.split(b"\n")
    ended = lines[-1] == b""
    lines = lines[:-1] if ended else lines
    body = b"".join(b"+" + line + b"\n" for line in lines)
    tail = b"" if ended else b"\\ No newline at end of file\n"
    return head + b"--- /dev/null\n+++ b/%s\n@@ -0,0 +1,%d @@\n" % (quoted, len(lines)) + body + tail


def _without_credentials(remote: str | None) -> str | None:
    return re.sub(r"//[^/@]*@", "//", remote) if remote is not None else None
