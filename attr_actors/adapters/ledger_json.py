"""The predecessor's ledger file on disk: reading it against the files it speaks of, and writing ours in its form."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from attr_actors.core.paths import admit
from attr_actors.core.predecessor import VERSION, parse_entry, render_entry
from attr_actors.core.validity import is_too_old
from attr_actors.errors import AttrError, LedgerFault
from attr_actors.models import Recording

COUNTERS = ("imported", "import_skipped_changed", "import_skipped_old_file", "import_skipped_broken", "import_skipped_known")
"""What became of the entries. Changed: the log has another size or mtime, is gone, or the entry does not tell its size."""


def read_entries(path: str) -> list[Any]:
    """Return the entries of a JSON ledger, unchecked. Raises LedgerFault if it is none."""
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as exc:
        raise LedgerFault(f"'{path}' cannot be read as a JSON ledger ({type(exc).__name__})") from None
    entries = found.get("entries") if isinstance(found, dict) else None
    if not isinstance(entries, list) or found.get("version") != VERSION:
        raise LedgerFault(f"'{path}' is not a JSON ledger of version {VERSION}")
    return entries


def standing(entries: list[Any], root: str, now: float, age_max_s: float, counts: Counter[str]) -> Iterator[Recording]:
    """Yield the entries whose logs are as they were, counting the others."""
    for entry in entries:
        kind, recording = _judge(entry, root, now, age_max_s)
        if recording is None:
            counts[kind] += 1
        else:
            yield recording


def write_entries(path: str, recordings: Iterator[Recording]) -> int:
    """Write a ledger file that the predecessor can read; it appears whole or not at all. Return the number of entries.

    Raises LedgerFault for what is no regular file: the new file would take the place of a device.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        raise LedgerFault(f"'{path}' is not a regular file; name a file to write")
    written = 0
    fresh = f"{path}.writing"
    with open(fresh, "w", encoding="utf-8") as file:
        file.write(f'{{"version":{VERSION},"entries":[')
        for recording in recordings:
            file.write(("," if written else "") + "\n" + json.dumps(render_entry(recording)))
            written += 1
        file.write("\n]}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    return written


def _judge(entry: Any, root: str, now: float, age_max_s: float) -> tuple[str, Recording | None]:
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or not _is_text(entry):
        return "import_skipped_broken", None
    mtime, size = entry.get("file_mtime"), entry.get("file_size")
    if not isinstance(mtime, int | float) or not math.isfinite(mtime) or not isinstance(size, int):
        return "import_skipped_changed", None
    if is_too_old(int(mtime * 1e9), now, age_max_s):
        return "import_skipped_old_file", None
    try:
        found = os.stat(admit(entry["key"], root).path)
    except AttrError:
        return "import_skipped_broken", None
    except OSError:
        return "import_skipped_changed", None
    if (found.st_mtime, found.st_size) != (mtime, size):
        return "import_skipped_changed", None
    return "import_skipped_broken", parse_entry(entry, found.st_size, found.st_mtime_ns)


def _is_text(entry: dict[str, Any]) -> bool:
    """Tell whether every text is valid Unicode; JSON can hold halves of characters."""
    try:
        json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
