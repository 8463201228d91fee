"""What Slurm prints -> jobs, and where their output is. The samples are made up in the shape that Slurm 22.05 prints."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attr_actors.core.slurm import (
    Phase,
    SlurmJob,
    first_node,
    parse_output,
    parse_sacct,
    parse_sacct_with_output,
    parse_squeue,
    phase_of,
)
from attr_actors.core.slurm_output import candidate_paths, expand, output_options

D = "|0123456789abcdef|"


def rows(*changes: dict[int, str], width: int = 10) -> str:
    base = [
        "12",
        "12",
        "FAILED",
        "gpu",
        "ada",
        "gpu[003-004]",
        "1790000005",
        "1790000015",
        "/home/ada/my runs",
        "train",
        "1:0",
        "sbatch t.sh",
        "/o",
    ]
    made = ([change.get(i, field) for i, field in enumerate(base[:width])] for change in changes)
    return "".join("".join(field + D for field in row) + "\n" for row in made)


def test_a_row_of_squeue_is_read() -> None:
    [job] = parse_squeue(rows({}), D)
    nodes, instants = "gpu[003-004]", (1790000005.0, 1790000015.0)
    assert job == SlurmJob(12, "12", "FAILED", Phase.ENDED, "gpu", "ada", nodes, *instants, "/home/ada/my runs", "train")


def test_array_tasks_keep_their_shown_id_and_a_waiting_array_is_left_out() -> None:
    text = rows({0: "17", 1: "15_2"}, {0: "15", 1: "15_[3-20%2]", 2: "PENDING"}, {0: "18", 1: "18", 2: "RUNNING", 7: "1790009999"})
    assert [(j.raw_id, j.job_id, j.phase) for j in parse_squeue(text, D)] == [(17, "15_2", Phase.ENDED), (18, "18", Phase.RUNNING)]


def test_the_planned_end_of_a_running_job_is_not_its_end() -> None:
    [job] = parse_squeue(rows({2: "RUNNING"}), D)
    assert job.ended_at is None


def test_a_heterogeneous_job_is_its_leader() -> None:
    text = rows({0: "30", 1: "30+0"}, {0: "31", 1: "30+1"})
    assert [j.job_id for j in parse_squeue(text, D)] == ["30"]


@pytest.mark.parametrize("name", ["a\n13|13|RUNNING", "\n\n", "a|b", "\x1f", "JobState=RUNNING", "ünï \u2028 ☠", ""])
def test_a_job_name_cannot_pretend_to_be_another_row_or_field(name: str) -> None:
    jobs = parse_squeue(rows({9: name}, {0: "13", 1: "13"}), D)
    assert [(j.raw_id, j.name, j.user, j.phase) for j in jobs] == [(12, name, "ada", Phase.ENDED), (13, "train", "ada", Phase.ENDED)]


def test_accounting_adds_exit_code_submit_line_and_where_it_can_the_output() -> None:
    [job] = parse_sacct(rows({2: "CANCELLED by 1000", 11: "srun -n4\na.out"}, width=12), D)
    assert (job.state, job.exit_code, job.interactive, job.log_path, job.ran) == ("CANCELLED", "1:0", True, None, True)
    [newer] = parse_sacct_with_output(rows({}, width=13), D)
    assert (newer.interactive, newer.log_path) == (False, "/o")
    [unborn] = parse_sacct(rows({5: "None assigned", 6: "None"}, width=12), D)
    assert (unborn.ran, unborn.started_at) == (False, None)


RECORD = """JobId=14 HetJobId=14 HetJobOffset=0 JobName=x
   StdOut=/forged/by/name
   UserId=ada(1000) GroupId=ml(1000) MCS_label=N/A
   WorkDir=/home/ada
   Comment=c
   StdOut=/forged/by/comment
   StdErr=/home/ada/my runs/x.out
   StdOut=/home/ada/my runs/x.out
   Power=


JobId=15 HetJobId=14 HetJobOffset=1 JobName=x
   StdOut=/home/ada/other.out
"""


def test_the_output_of_the_first_record_is_found_despite_forged_lines() -> None:
    assert parse_output(RECORD) == "/home/ada/my runs/x.out"
    assert parse_output("JobId=16 JobName=bash\n   WorkDir=/home/ada\n") is None


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("RUNNING", Phase.RUNNING),
        ("COMPLETING", Phase.RUNNING),
        ("FAILED,COMPLETING", Phase.RUNNING),
        ("PENDING", Phase.WAITING),
        ("REQUEUED", Phase.WAITING),
        ("CANCELLED by 1000", Phase.ENDED),
        ("OUT_OF_MEMORY", Phase.ENDED),
        ("TIMEOUT", Phase.ENDED),
        ("NODE_FAIL", Phase.ENDED),
        ("A_STATE_OF_NEXT_YEAR", Phase.WAITING),
    ],
)
def test_a_state_has_a_phase(state: str, phase: Phase) -> None:
    assert phase_of(state) is phase


@given(st.text(alphabet="ab1|\n+_[]="))
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_squeue(text, "|")
    parse_sacct(text, "|")
    parse_output(text)


def job(**fields: object) -> SlurmJob:
    base = SlurmJob(17, "15_2", "FAILED", Phase.ENDED, "gpu", "ada", "gpu[003-010].site", 1.0, 2.0, "/w", "train")
    return replace(base, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("%x_%j_%u.out", "/w/train_17_ada.out"),
        ("/logs/%A-%a.log", "/logs/15-2.log"),
        ("%5A_%03a", "/w/00015_002"),
        ("%99j", "/w/0000000017"),
        ("%N.%n.%s.%t", "/w/gpu003.0.batch.0"),
        ("%b%%", "/w/2%"),
        ("a\\%j", "/w/a%j"),
        ("../up/%J", "/up/17"),
        ("%q", "/w/%q"),
    ],
)
def test_output_patterns_are_replaced_as_slurm_does(pattern: str, path: str) -> None:
    assert expand(pattern, job()) == path


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("sbatch -o a.out t.sh", ["a.out"]),
        ("sbatch -oa.out t.sh", ["a.out"]),
        ("sbatch --output=a.out t.sh", ["a.out"]),
        ("sbatch --output 'a.out' t.sh", ["a.out"]),
        ("sbatch --no-output-flag t.sh", []),
        ("sbatch t.sh", []),
    ],
)
def test_the_output_option_is_found_in_a_submit_line(line: str, options: list[str]) -> None:
    assert output_options(line) == options


def test_candidates_come_from_the_command_line_then_the_script_then_the_default() -> None:
    script = "#!/bin/bash\n#SBATCH --output=s-%j.log\n#SBATCH -J x\necho -o not-this\n"
    assert candidate_paths(job(submit_line="sbatch -o c-%j.log t.sh"), script) == ["/w/c-17.log", "/w/s-17.log", "/w/slurm-15_2.out"]
    assert candidate_paths(job(job_id="17"), "") == ["/w/slurm-17.out"]
    assert candidate_paths(job(log_path="/w/known_%a.out")) == ["/w/known_2.out"]
    assert candidate_paths(job(submit_line="salloc -N1")) == []


@pytest.mark.parametrize(("hosts", "first"), [("n1", "n1"), ("n[003-010,12],m1", "n003"), ("n[7],m", "n7"), ("a,b", "a"), ("", "")])
def test_the_first_host_of_a_list_is_found(hosts: str, first: str) -> None:
    assert first_node(hosts) == first
