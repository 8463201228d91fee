"""One row of ``batch --table``: a line of RESULTS.jsonl made flat, for dataframes and spreadsheets. A contract, documented here.

Every column is always there, in this order; empty where it does not apply. New columns come at the end. Parquet keeps
the types; in CSV instants are ISO 8601 with their zone, truth is ``True`` or ``False``. Text stands as it is in the log: a
spreadsheet may take a cell that starts with ``=``, ``+``, ``-`` or ``@`` for a formula, so import such columns as text.

    log_path .. job_id                as in ``result_rows.py``
    action, category, signature       what to do, what failed, by which row of the signatures
    owner, rule                       whose task it is; the rule that decided
    root_cause                        for people, one sentence
    root_line_number, root_line_text  the first cited line
    root_rank, root_node              where that line came from
    exclude_nodes                     joined by commas, as ``sbatch --exclude`` takes them
    confidence                        0 to 1
    coverage                          ``full`` or ``partial``
    last_iteration, last_checkpoint   how far the last cycle came
    fingerprint                       equal for the same failure in different logs
    result_id .. mtime_ns             as in ``result_rows.py``; ``analysed_at`` is an instant in UTC
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from attr_actors.core.result_rows import ResultRow


class TableRow(NamedTuple):
    """The answer for one log, or why there is none, in columns."""

    log_path: str
    error_code: str | None
    error: str | None
    user: str | None
    job_id: str | None
    action: str | None = None
    category: str | None = None
    signature: str | None = None
    owner: str | None = None
    rule: str | None = None
    root_cause: str | None = None
    root_line_number: int | None = None
    root_line_text: str | None = None
    root_rank: int | None = None
    root_node: str | None = None
    exclude_nodes: str | None = None
    confidence: float | None = None
    coverage: str | None = None
    last_iteration: int | None = None
    last_checkpoint: int | None = None
    fingerprint: str | None = None
    result_id: str | None = None
    analysed_at: datetime | None = None
    engine: str | None = None
    scan_s: float = 0.0
    log_bytes: int = 0
    reused: bool = False
    wl_restart_count: int = 0
    size: int | None = None
    mtime_ns: int | None = None


SHARED = [name for name in TableRow._fields if name in ResultRow.model_fields]
"""The columns that have the name and the meaning of a key of the results."""


def flatten(row: ResultRow) -> TableRow:
    """Return the row in columns."""
    flat = TableRow(**{name: getattr(row, name) for name in SHARED})
    if row.analysed_at is not None:
        flat = flat._replace(analysed_at=datetime.fromtimestamp(row.analysed_at, UTC))
    found = row.attribution
    if found is None:
        return flat
    root = found.root_lines[0] if found.root_lines else None
    return flat._replace(
        action=found.action.value,
        category=found.category.value,
        signature=found.signature,
        owner=found.owner,
        rule=found.rule,
        root_cause=found.root_cause,
        root_line_number=root.line_number if root else None,
        root_line_text=root.text if root else None,
        root_rank=root.rank if root else None,
        root_node=root.node if root else None,
        exclude_nodes=",".join(found.exclude_nodes),
        confidence=found.confidence,
        coverage=found.coverage,
        last_iteration=found.progress.last_iteration,
        last_checkpoint=found.progress.last_checkpoint,
        fingerprint=found.fingerprint,
    )
