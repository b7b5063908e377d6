"""Reading a dataset version: its bytes are verified each time, and a run that reads it says so."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.addresses import Address
from andon.core.digests import digest_file
from andon.core.errors import CorruptBytes, InvalidInput, NotFound
from andon.datasets.records import DatasetManifest
from andon.datasets.tables import read_files
from andon.registry import get, manifest_of
from andon.store import Store
from andon.tracking import active_run

if TYPE_CHECKING:
    import pyarrow as pa

_scratch: list[Path] = []  # where this process lays out files of stores that have no home folder; one, made when first needed


@dataclass(frozen=True, slots=True)
class Dataset:
    """A handle on one dataset version. Nothing is read until it is asked for."""

    store: Store
    address: Address
    digest: str
    """The digest of the manifest, which names the bytes."""
    manifest: DatasetManifest

    @property
    def rows(self) -> int | None:
        """Rows of a table; None for other files."""
        return self.manifest.rows

    def files(self) -> Mapping[str, str]:
        """Path -> digest of each file."""
        if self.manifest.layout == "tree":
            return self.store.blobs.tree(self.manifest.bytes)
        return {file.path: file.digest for file in self.manifest.files}

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, or some columns of them, in order of file. Raises ``InvalidInput`` for what is no table, ``CorruptBytes``."""
        if columns is not None:
            known = {column.name for column in self.manifest.columns}
            for name in columns:
                if name not in known:
                    raise InvalidInput("this dataset has no such column", field="columns", got=name, dataset=str(self.address))
        return read_files([self._local(name, digest) for name, digest in self.files().items()], self.manifest.format, columns)

    def frame(self, columns: Sequence[str] | None = None) -> Any:
        """The table as a pandas frame. Raises ``InvalidInput`` when pandas is not installed."""
        try:
            return self.table(columns).to_pandas()
        except ModuleNotFoundError as error:
            if error.name != "pandas":
                raise
            raise InvalidInput("frames need pandas", next_step="pip install pandas, or use .table()") from None

    def path(self) -> Path:
        """The file, or the folder, on this machine under its own name: a copy, made once and verified at each call. Do not write to it."""
        folder = self._folder()
        here = folder / next(iter(self.files())) if self.manifest.layout == "file" else folder
        if folder.exists() and not self._is_whole(folder):
            shutil.rmtree(folder)
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as scratch:
                made = Path(scratch, "files")
                self._lay_out(made)
                try:
                    made.rename(folder)
                except OSError:  # another process was first, with the same bytes
                    if not folder.is_dir():
                        raise
        return here

    def _lay_out(self, into: Path) -> None:
        if self.manifest.layout == "tree":
            try:
                self.store.blobs.get_tree(self.manifest.bytes, into)
            except (CorruptBytes, NotFound) as error:
                raise self._damaged(self._damaged_file(), error) from error
            return
        into.mkdir()
        for name, digest in self.files().items():
            shutil.copyfile(self._local(name, digest), into / name)

    def _damaged_file(self) -> str:
        for name, digest in self.files().items():
            try:
                self.store.blobs.local_path(digest)
            except (CorruptBytes, NotFound):
                return name
        return ""

    def _is_whole(self, folder: Path) -> bool:
        return all((folder / name).is_file() and digest_file(folder / name) == digest for name, digest in self.files().items())

    def _local(self, name: str, digest: str) -> Path:
        try:
            return self.store.blobs.local_path(digest)
        except (CorruptBytes, NotFound) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: CorruptBytes | NotFound) -> CorruptBytes:
        what = "damaged" if isinstance(error, CorruptBytes) else "missing"
        return CorruptBytes(f"this dataset's stored bytes are {what}", **(error.fields | {"dataset": str(self.address), "file": name}))

    def _folder(self) -> Path:
        digest = self.manifest.bytes.removeprefix("b3:")
        name = digest if self.manifest.layout == "tree" else f"{digest}-{self.manifest.files[0].path}"
        if self.store.settings.blobs.startswith("memory:"):
            if not _scratch:
                _scratch.append(Path(tempfile.mkdtemp(prefix="andon-datasets-")))
                atexit.register(shutil.rmtree, _scratch[0], ignore_errors=True)
            return _scratch[0] / name
        return Path(self.store.settings.home, "cache", "datasets", name)


def read(store: Store, address: str | Address, *, context: str = "training") -> Dataset:
    """A handle on a dataset version (``dataset:rides@3``, an alias, or the newest).

    Inside a run of this store, the run is recorded to have read it as ``context`` (``training``, ``evaluation``, …). Raises ``NotFound``.
    """
    version = get(store, Address.parse(address, kind="dataset"))
    handle = Dataset(store, version.address, version.digest, manifest_of(version, DatasetManifest))
    around = active_run()
    if around is not None and around.store is store:
        around.log_input(handle, context=context, asked=str(address))
    return handle
