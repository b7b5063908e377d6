"""Artifact locations on this machine: ``file:`` URIs, plain paths, and ``mlflow-artifacts:`` below the folder that a server proxied to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from andon.core.errors import Forbidden, NotFound
from andon.wire.mlflow.importing.records import File


class Places:
    """Reads files at artifact locations. ``proxied`` is where ``mlflow-artifacts:/`` leads."""

    def __init__(self, base: Path, proxied: Path | None) -> None:
        self._base, self._proxied = base, proxied

    def folder(self, uri: str) -> Path:
        """The folder that a location means. Raises ``NotFound`` when it is not on this machine."""
        split = urlsplit(uri)
        if split.scheme == "mlflow-artifacts":
            if self._proxied is None:
                raise NotFound("these files are where the server kept them", uri=uri, next_step="say where that is: --artifacts FOLDER")
            return self._inside(self._proxied, unquote(split.path).lstrip("/"))
        if split.scheme == "file":
            return Path(unquote(split.path))
        if split.scheme == "":
            return self._base / uri
        raise NotFound("these files are in another store", uri=uri, next_step="copy them here and name the folder: --artifacts FOLDER")

    def files(self, uri: str) -> list[File]:
        """Every file below a location, by path; links that lead out of it are left out."""
        folder = self.folder(uri)
        if not folder.is_dir():
            return []
        root = folder.resolve()
        found = []
        for place, _, names in os.walk(root):
            for name in names:
                file = Path(place, name)
                if file.resolve().is_relative_to(root) and file.is_file():
                    found.append(File(file.relative_to(root).as_posix(), file.stat().st_size))
        return sorted(found)

    def open(self, uri: str, path: str) -> IO[bytes]:
        """One file."""
        return self._inside(self.folder(uri), path).open("rb")

    @staticmethod
    def _inside(root: Path, path: str) -> Path:
        found = (root / path).resolve()
        if not found.is_relative_to(root.resolve()):
            raise Forbidden("this path leads out of its folder", path=path)
        return found
