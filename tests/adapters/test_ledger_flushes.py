"""What the operating system sees of the ledger: a commit is flushed to the disk before it is acknowledged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.killing import REPO


def test_a_commit_is_flushed_to_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    """Count the flushes of twenty records with strace: each waits for at least one before it returns."""
    if subprocess.run(["strace", "-V"], capture_output=True).returncode != 0:
        pytest.skip("needs strace")
    program = (
        "import os, sys; from tests.delivering import numbered; from attr_actors.adapters.ledger_db import LedgerDb\n"
        f"db = LedgerDb({str(tmp_path / 'ledger.db')!r})\n"
        "os.write(2, b'begin')\n"
        "for n in range(20):\n"
        "    db.record((numbered(n),), ('elasticsearch',), 1e9); os.write(2, b'ack')\n"
        "os.write(2, b'end')\n"
    )
    command = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-e",
        "trace=fsync,fdatasync,write",
        "-o",
        str(tmp_path / "trace"),
        sys.executable,
        "-c",
        program,
    ]
    subprocess.run(command, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}, check=True, capture_output=True, timeout=60)
    trace = (tmp_path / "trace").read_text()
    acknowledged = trace[trace.index('"begin"') : trace.index('"end"')].split('"ack"')[:20]
    assert len(acknowledged) == 20
    assert all("fsync(" in between or "fdatasync(" in between for between in acknowledged)
