"""A run's files as a tree of folders."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from andon.operations.showing.records import ArtifactRow

MOST_FILES = 1_000


class Folder(msgspec.Struct, kw_only=True):
    """A folder: its own name, the folders and the files in it."""

    name: str
    folders: list[Folder] = []
    files: list[ArtifactRow] = []
    open: bool = False
    count: int = 0
    """Files in it and below."""
    hidden: int = 0
    """Of the root: files that are too many to be listed."""


def file_tree(artifacts: Sequence[ArtifactRow], *, opened: str = "") -> Folder:
    """The root. Folders on the way to ``opened`` are open, and all are when there are few files."""
    root = Folder(name="", open=True, hidden=max(0, len(artifacts) - MOST_FILES))
    known: dict[str, Folder] = {"": root}
    few = len(artifacts) <= 12
    for one in artifacts[:MOST_FILES]:
        parts, at, folder = one.path.split("/")[:-1], "", root
        folder.count += 1
        for part in parts:
            at = f"{at}/{part}" if at else part
            if at not in known:
                known[at] = Folder(name=part, open=few or opened.startswith(at + "/"))
                folder.folders.append(known[at])
            folder = known[at]
            folder.count += 1
        folder.files.append(one)
    return root
