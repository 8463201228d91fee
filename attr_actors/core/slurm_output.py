"""Where a Slurm job's script wrote its output: the patterns of ``sbatch --output``, as its manual page lists them.

Hold in mind: accounting in Slurm before 24.05 does not keep the path, only the submit line, in which quotes are lost.
So the rules here name *candidates*, best first, and the monitor takes the first one that exists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from attr_actors.core.slurm import SlurmJob, first_node

PATTERN = re.compile(r"%(\d*)([%AabJjNnstux])")
OPTION = re.compile(r"(?:^|\s)(?:--output(?:=|\s+)|-o\s*)(\"[^\"]+\"|'[^']+'|\S+)")
DIRECTIVE = re.compile(r"^#SBATCH\s+(.*)$", re.MULTILINE)
WIDTH_MAX = 10
"""Slurm pads numbers to at most this many digits."""


def candidate_paths(job: SlurmJob, script: str = "") -> list[str]:
    """Return absolute paths where the output may be, best first. An interactive job has none."""
    if job.interactive:
        return []
    if job.log_path:
        return [expand(job.log_path, job)]
    found = [expand(pattern, job) for pattern in _patterns(job, script)]
    return list(dict.fromkeys(found))


def _patterns(job: SlurmJob, script: str) -> Iterator[str]:
    """Yield patterns in the order of their force: the command line, the script's directives, Slurm's default."""
    yield from output_options(job.submit_line)
    for directive in DIRECTIVE.findall(script):
        yield from output_options(directive)
    yield "slurm-%A_%a.out" if "_" in job.job_id else "slurm-%j.out"


def output_options(text: str) -> list[str]:
    """Return the values of ``--output`` and ``-o`` in a command line or directive, in order."""
    return [value.strip("\"'") for value in OPTION.findall(text)]


def expand(pattern: str, job: SlurmJob) -> str:
    """Replace the pattern letters and make the path absolute. A backslash turns replacement off, as in Slurm."""
    text = pattern.replace("\\", "") if "\\" in pattern else PATTERN.sub(lambda m: _value(m[2], m[1], job), pattern)
    return os.path.normpath(os.path.join(job.work_dir or "/", text))


def _value(letter: str, width: str, job: SlurmJob) -> str:
    array, _, task = job.job_id.partition("_")
    texts = {
        "%": "%",
        "A": array,
        "a": task or "4294967294",  # What Slurm prints outside an array.
        "b": str(int(task or "4294967294") % 10),
        "J": str(job.raw_id),
        "j": str(job.raw_id),
        "N": first_node(job.node).partition(".")[0],
        "n": "0",
        "s": "batch",
        "t": "0",
        "u": job.user,
        "x": job.name,
    }
    text = texts[letter]
    return text.zfill(min(int(width), WIDTH_MAX)) if width and letter in "AaJjnt" else text
