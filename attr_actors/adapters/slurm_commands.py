"""Runs Slurm's own commands: read-only, each with a time limit.

One ``squeue`` and one ``sacct`` per look, however many jobs there are, and one ``scontrol`` per job that is new: asking
``scontrol`` for several ids at once is an error in Slurm 22.05.
"""

from __future__ import annotations

import os
import secrets
import subprocess

from attr_actors.core import slurm
from attr_actors.core.slurm import SlurmJob
from attr_actors.errors import SlurmError

TIMEOUT_S = 60.0
"""A busy controller answers within seconds; one that does not is asked again at the next look."""

BYTES_MAX = 256 * 2**20
"""A row has about 300 bytes, so this is more than 500,000 jobs; beyond it something is wrong."""


class SlurmCommands:
    """The look at Slurm. Raises SlurmError."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._tells_output: bool | None = None

    def known_jobs(self) -> list[SlurmJob]:
        """Return the jobs that the controller knows: waiting, running, and ended within its MinJobAge."""
        delimiter = _delimiter()
        columns = "".join(field + delimiter for field in slurm.SQUEUE_FIELDS)
        text = self._run("squeue", "--noheader", "--all", "--states=all", f"--format={columns}")
        return slurm.parse_squeue(text, delimiter)

    def ended_jobs(self, since: float) -> list[SlurmJob]:
        """Return the jobs that accounting saw end since an instant (epoch seconds)."""
        if self._tells_output is None:
            self._tells_output = "StdOut" in self._run("sacct", "--helpformat").split()
        delimiter = _delimiter()
        fields = slurm.SACCT_FIELDS + (("StdOut",) if self._tells_output else ())
        window = [f"--starttime=uts{int(since)}", "--endtime=now", f"--state={','.join(sorted(slurm.ENDED))}"]
        shape = ["--noheader", "--parsable", f"--delimiter={delimiter}", f"--format={','.join(fields)}"]
        text = self._run("sacct", "--allusers", "--allocations", *shape, *window)
        return (slurm.parse_sacct_with_output if self._tells_output else slurm.parse_sacct)(text, delimiter)

    def output_path(self, job_id: str) -> str | None:
        """Return where the controller says that a job writes; None if it does not know the job or there is no script."""
        try:
            return slurm.parse_output(self._run("scontrol", "show", "job", job_id))
        except SlurmError:
            return None

    def script(self, raw_id: int) -> str:
        """Return a job's batch script where accounting keeps it (AccountingStoreFlags=job_script), else nothing."""
        try:
            return self._run("sacct", "--batch-script", "--jobs", str(raw_id))
        except SlurmError:
            return ""

    def _run(self, *command: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SACCT_", "SQUEUE_"))}
        environment |= {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(command, capture_output=True, timeout=self._timeout_s, env=environment, check=False)
        except FileNotFoundError:
            raise SlurmError(f"'{command[0]}' is not installed on this host; the monitor runs where Slurm's commands work") from None
        except subprocess.TimeoutExpired:
            raise SlurmError(f"'{command[0]}' did not end within {self._timeout_s:g} s") from None
        if done.returncode != 0:
            reason = done.stderr.decode("utf-8", "replace").strip()[:300]
            raise SlurmError(f"'{command[0]}' failed: {reason or f'exit code {done.returncode}'}")
        if len(done.stdout) > BYTES_MAX:
            raise SlurmError(f"'{command[0]}' printed {len(done.stdout)} bytes; at most {BYTES_MAX} are read")
        return done.stdout.decode("utf-8", "replace")


def _delimiter() -> str:
    """Make up a text that no job name can hold on purpose."""
    return f"|{secrets.token_hex(8)}|"
