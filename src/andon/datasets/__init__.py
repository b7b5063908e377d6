"""Datasets: files and tables, versioned by what is in them, deduplicated and verified on read."""

from andon.datasets.reading import Dataset, read
from andon.datasets.records import DataColumn, DataFile, DatasetManifest, FileFormat
from andon.datasets.registering import register

__all__ = ["DataColumn", "DataFile", "Dataset", "DatasetManifest", "FileFormat", "read", "register"]
