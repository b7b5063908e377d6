"""Is every blob what its name says? Read by ``andon doctor`` and by the fault tests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from andon.core.errors import CorruptBytes, InvalidInput, NotFound
from andon.store.blobs.local import LocalBlobs


class BlobFinding(msgspec.Struct, frozen=True):
    """Something wrong: ``damaged``, ``missing`` or ``stray`` (a file that is no blob), which digest or path, and what to know about it."""

    kind: str
    what: str
    detail: str


def check_blobs(blobs: LocalBlobs, needed: Iterable[str] = (), *, repair: bool = False) -> list[BlobFinding]:
    """Read every byte. ``needed`` are digests that must be here, with all that the trees among them hold.

    With ``repair``, damaged blobs are moved to ``quarantine``, so that putting the same bytes again heals the store.
    """
    findings = []
    for digest, path in list(blobs.files()):
        try:
            blobs.get(digest)
        except InvalidInput:
            findings.append(BlobFinding("stray", str(path), "not a blob's name"))
        except NotFound:
            continue  # collected while we looked
        except CorruptBytes as error:
            findings.append(BlobFinding("damaged", digest, f"{path}: {error.message}"))
            if repair:
                blobs.quarantine(digest)
    for digest in needed:
        findings += _missing(blobs, digest)
    return findings


def _missing(blobs: LocalBlobs, digest: str) -> list[BlobFinding]:
    if not blobs.has(digest):
        return [BlobFinding("missing", digest, "a record needs it")]
    try:
        held = blobs.tree(digest)
    except (InvalidInput, CorruptBytes):  # a plain blob; or a damaged one, which has been found above
        return []
    return [BlobFinding("missing", target, f"tree {digest} holds it as {path}") for path, target in held.items() if not blobs.has(target)]


def leftovers(blobs: LocalBlobs) -> list[str]:
    """Temporary files and trash, of the living and the dead; none once everybody is done and a gc has run."""
    found = []
    for name in ("tmp", "trash"):
        for folder, _, files in os.walk(blobs.root / name):
            found += [str(Path(folder, file)) for file in files if file != ".lock"]
    return sorted(found)
