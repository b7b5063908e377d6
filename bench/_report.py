"""One way to print and keep a benchmark's table."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def report(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], method: str) -> None:
    """Print an aligned table and write it, with the machine and the method, to ``bench/results/NAME.json``."""
    texts = [[_text(value) for value in row] for row in rows]
    widths = [max(len(column), *(len(row[at]) for row in texts)) if texts else len(column) for at, column in enumerate(columns)]
    print(f"\n{title}")
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)))
    for given, row in zip(rows, texts, strict=True):
        cells = [
            text.rjust(width) if isinstance(value, int | float) else text.ljust(width)
            for value, text, width in zip(given, row, widths, strict=True)
        ]
        print("  ".join(cells))
    print(f"({method})")
    if os.environ.get("ANDON_BENCH_SMOKE"):
        return  # tiny sizes say nothing worth keeping
    RESULTS.mkdir(exist_ok=True)
    facts = {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version(), "at": time.strftime("%Y-%m-%d")}
    said = {"name": name, "script": Path(sys.argv[0]).name, "title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
    kept = said | {"method": method, "machine": facts}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
