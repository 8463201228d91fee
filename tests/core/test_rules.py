"""What each ordering rule is for, and what it must not do."""

from __future__ import annotations

import random
from inspect import signature

from hypothesis import given, settings
from hypothesis import strategies as st

from attr_actors.core.attribute import decide
from attr_actors.core.engine import attribute_scan
from attr_actors.core.rules.order import RULES
from attr_actors.core.signatures.database import Database
from attr_actors.models import Action, Attribution, Category
from bench.ablation import PREFERENCES
from tests.core.failure_cases import read_cases
from tests.core.reference_scan import scan_bytes
from tests.core.rows import ROWS
from tests.core.test_scan import scan

STEPS = "".join(f"2024-06-07 10:00:{n:02} step {n} loss {3 - n / 100:.2f}\n" for n in range(1, 6))
MORE_STEPS = "".join(f"2024-06-07 10:01:{n:02} step {n} loss {2 - n / 100:.2f}\n" for n in range(6, 12))
RAISED = 'Traceback (most recent call last):\n  File "/work/train.py", line 1, in <module>\n    main()\n{}\n'
XID = "Jun  7 10:00:06 gpu-17 kernel: NVRM: Xid (PCI:0000:c1:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"
WATCHDOG = (
    "[rank1]:[E607 10:10:00.1 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, "
    "OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600000 milliseconds before timing out.\n"
)
LIMIT = "slurmstepd: error: *** JOB 1 ON node3 CANCELLED AT 2024-06-07T10:02:00 DUE TO TIME LIMIT ***\n"


FLOODED = "[rank3]: RuntimeError: CUDA error: an illegal memory access was encountered\n"


def scanned(log: str, database: Database) -> Attribution:
    return attribute_scan(scan(log.encode(), database), database.rows, 24_000)[-1]


def attribute(log: str, without: tuple[str, ...] = ()) -> Attribution:
    return attribute_scan(scan_bytes(log.encode(), ROWS), ROWS, 24_000, without)[-1]


def test_every_rule_says_its_reason_and_the_last_always_answers() -> None:
    assert all(rule.__doc__ for rule in RULES)
    assert attribute("").action is Action.CONTINUE


def test_a_hardware_fact_printed_last_wins_and_names_its_node() -> None:
    answer = attribute(STEPS + RAISED.format("RuntimeError: CUDA error: unspecified launch failure") + WATCHDOG + XID)
    assert (answer.rule, answer.action, answer.exclude_nodes) == ("hardware_fact_wins", Action.EXCLUDE, ("gpu-17",))
    assert answer.root_lines[0].node == "gpu-17"


def test_hardware_without_a_node_is_restarted_because_nothing_can_be_excluded() -> None:
    answer = attribute(STEPS + RAISED.format("RuntimeError: CUDA error: uncorrectable ECC error encountered"))
    assert (answer.action, answer.exclude_nodes) == (Action.RESTART, ())


def test_a_kernel_line_long_after_the_last_error_is_another_story() -> None:
    late = "[2024-06-07 18:00:00] NVRM: Xid (PCI:0000:c1:00): 79, GPU has fallen off the bus.\n"
    answer = attribute(
        STEPS + "2024-06-07 10:01:00 ERROR\n" + RAISED.format("KeyError: 'x'") + "2024-06-07 10:01:01 ValueError: x\n" + late
    )
    assert answer.category is Category.USER_CODE


def test_progress_after_a_hardware_line_makes_it_suspicion_only() -> None:
    assert attribute(STEPS + XID + MORE_STEPS).action is Action.CONTINUE


def test_an_error_that_the_run_got_over_is_no_root() -> None:
    answer = attribute(STEPS + RAISED.format("KeyError: 'recovered'") + MORE_STEPS + RAISED.format("TypeError: fatal"))
    assert "TypeError: fatal" in answer.root_lines[0].text


def test_a_redrawn_bar_after_the_error_is_not_progress() -> None:
    bar = " 10%|#         | 100/1000 [00:10<01:30, 12.1it/s]\n"
    answer = attribute(bar + RAISED.format("KeyError: 'x'") + bar + bar + bar)
    assert answer.action is Action.STOP


def test_a_time_limit_behind_an_error_is_only_how_it_ended() -> None:
    assert attribute(STEPS + RAISED.format("KeyError: 'x'") + LIMIT).category is Category.USER_CODE
    assert attribute(STEPS + LIMIT).rule == "scheduler_ended_it"


def test_a_long_silence_before_the_limit_is_called_a_hang() -> None:
    answer = attribute(STEPS + LIMIT.replace("10:02:00", "14:02:00"))
    assert (answer.rule, answer.action, answer.category) == ("silence_before_the_limit", Action.RESTART, Category.SCHEDULER)


def test_the_watchdogs_of_the_waiting_ranks_do_not_hide_the_rank_that_failed() -> None:
    answer = attribute(STEPS + WATCHDOG + "[rank3]: " + RAISED.format("KeyError: 'x'").replace("\n", "\n[rank3]: ", 3))
    assert (answer.category, answer.root_lines[0].rank) == (Category.USER_CODE, 3)


def test_an_interrupt_wins_over_the_noise_that_it_makes_but_not_over_an_earlier_error() -> None:
    noise = RAISED.format("ConnectionResetError: [Errno 104] Connection reset by peer")
    assert attribute(STEPS + RAISED.format("KeyboardInterrupt") + noise).rule == "person_stopped_it"
    assert attribute(STEPS + RAISED.format("KeyError: 'x'") + RAISED.format("KeyboardInterrupt")).category is Category.USER_CODE


def test_a_bare_kill_is_restarted_and_a_memory_fact_explains_it() -> None:
    bare = attribute(STEPS + "Killed\n")
    assert (bare.rule, bare.action) == ("kill_needs_an_explanation", Action.RESTART)
    explained = attribute(
        STEPS + "Killed\nslurmstepd: error: Detected 1 oom_kill event in StepId=9.0. Some of the step tasks have been OOM Killed.\n"
    )
    assert (explained.category, explained.action) == (Category.HOST_OOM, Action.STOP)


def test_a_script_that_says_done_after_its_program_died_is_not_believed() -> None:
    assert attribute(STEPS + RAISED.format("KeyError: 'x'") + "All done\n").action is Action.STOP
    assert attribute(STEPS + "`Trainer.fit` stopped: `max_epochs=10` reached.\n").rule == "success_ends_it"


def test_the_launcher_points_to_the_rank_that_failed_first() -> None:
    log = "".join(f"[rank{r}]: {line}\n" for r, e in ((0, "KeyError: 'a'"), (1, "IndexError: b")) for line in RAISED.format(e).splitlines())
    pointer = "Root Cause (first observed failure):\n[0]:\n  rank      : 1 (local_rank: 1)\n"
    assert attribute(log).root_lines[0].rank == 0
    assert attribute(log + pointer).root_lines[0].rank == 1


def test_one_nan_line_in_a_run_that_goes_on_is_no_failure() -> None:
    assert attribute(STEPS + "step 6 loss nan\n" + MORE_STEPS.replace("step 6 ", "step 12 ")).action is Action.CONTINUE
    assert attribute(STEPS + "step 6 loss nan\nstep 7 loss nan\nstep 8 loss nan\n").category is Category.NUMERICAL


def test_partial_coverage_never_stops_a_job() -> None:
    scan = scan_bytes((STEPS + RAISED.format("KeyError: 'x'")).encode(), ROWS)._replace(partial="the file changed while it was read")
    answer = attribute_scan(scan, ROWS, 24_000)[-1]
    assert (answer.action, answer.coverage, answer.category) == (Action.RESTART, "partial", Category.USER_CODE)


def test_the_fingerprint_is_that_of_the_failure_and_not_of_rank_step_or_address() -> None:
    first = attribute(STEPS + "[rank1]: " + RAISED.format("RuntimeError: bad tensor at 0x7f01 in step 117").replace("\n", "\n[rank1]: ", 3))
    again = attribute(
        MORE_STEPS + "[rank6]: " + RAISED.format("RuntimeError: bad tensor at 0x7e55 in step 233").replace("\n", "\n[rank6]: ", 3)
    )
    other = attribute(STEPS + RAISED.format("RuntimeError: another one"))
    assert first.fingerprint is not None
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_consequences_are_grouped_with_counts_and_ranks() -> None:
    log = STEPS + "[rank3]: " + RAISED.format("KeyError: 'x'").replace("\n", "\n[rank3]: ", 3)
    log += "".join(WATCHDOG.replace("rank1", f"rank{r}").replace("Rank 1", f"Rank {r}") for r in (0, 1, 2, 4))
    (group,) = [c for c in attribute(log).cascade if c.signature == "nccl_watchdog"]
    assert (group.count, group.ranks) == (4, (0, 1, 2, 4))


def test_lines_that_were_not_kept_are_counted_too(database: Database) -> None:
    other = "[rank1]: ncclRemoteError: call {} failed, peer closed\n"
    log = "begin\n" + FLOODED * 3_000 + "".join(map(other.format, range(2_000)))
    groups = {c.signature: (c.count, c.at_least) for c in scanned(log, database).cascade}
    assert groups == {"cuda_illegal": (2_999, False), "nccl_remote": (2_000, False)}


def test_a_count_is_of_the_judged_attempt(database: Database) -> None:
    again = "[default] Worker group FAILED. 2/3 attempts left; will restart worker group\n"
    groups = scanned(STEPS + FLOODED * 3_000 + again + STEPS + FLOODED * 2_000, database).cascade
    assert [(c.count, c.at_least) for c in groups if c.signature == "cuda_illegal"] == [(1_999, False)]


def test_a_count_that_another_group_may_share_is_the_least(database: Database) -> None:
    other = "[rank1]: RuntimeError: something {}\n"
    groups = {c.signature: c for c in scanned(STEPS + FLOODED * 3_000 + "".join(map(other.format, range(3_000))), database).cascade}
    generic = groups["runtime_error"]
    assert generic.at_least
    assert 0 < generic.count < 3_000


def test_progress_and_attempts_are_reported() -> None:
    saved = "successfully saved checkpoint from iteration 5 to /ckpt\n"
    log = (
        STEPS
        + RAISED.format("KeyError: 'x'")
        + "[default] Worker group FAILED. 2/3 attempts left; will restart worker group\n"
        + STEPS
        + saved
        + MORE_STEPS
    )
    answer = attribute(log)
    assert (answer.progress.first_iteration, answer.progress.last_iteration, answer.progress.last_checkpoint) == (1, 11, 5)
    assert [a.signature for a in answer.attempts] == ["value_error", None]


def test_each_cycle_of_the_restart_wrapper_gets_its_own_answer() -> None:
    cycle = "2024-06-07 10:00:00,000 - INFO - profiling.py:211 - Cycle: {}\n"
    log = cycle.format(0) + STEPS + RAISED.format("KeyError: 'x'") + cycle.format(1) + STEPS + "Killed\n"
    answers = attribute_scan(scan_bytes(log.encode(), ROWS), ROWS, 24_000)
    assert [a.category for a in answers] == [Category.USER_CODE, Category.HOST_OOM]


def test_evidence_stays_inside_its_budget() -> None:
    log = "".join(RAISED.format(f"ValueError: {'x' * 500} {chr(97 + n % 26) * (n + 1)}") for n in range(60))
    answer = attribute_scan(scan_bytes(log.encode(), ROWS), ROWS, 4_000)[-1]
    assert sum(len(line.text) for line in answer.evidence) <= 4_000


def interleave(streams: list[list[str]], seed: int) -> str:
    chance, queues, merged = random.Random(seed), [list(s) for s in streams], []
    while any(queues):
        queue = chance.choice([q for q in queues if q])
        merged.append(queue.pop(0))
    return "\n".join(merged) + "\n"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 7))
def test_interleaving_the_ranks_differently_keeps_the_root(seed: int, failed: int) -> None:
    streams = [[f"[rank{r}]: step {n} loss 1.{n}" for n in range(3)] for r in range(8)]
    streams[failed] += [f"[rank{failed}]: {line}" for line in RAISED.format("TypeError: unsupported operand").splitlines()]
    waiting = [
        [line.replace("rank1", f"rank{r}").replace("Rank 1", f"Rank {r}") for line in WATCHDOG.splitlines()]
        for r in range(8)
        if r != failed
    ]
    answer = attribute(interleave(streams, seed) + interleave(waiting, seed))
    assert (answer.root_lines[0].text, answer.action) == (f"[rank{failed}]: TypeError: unsupported operand", Action.STOP)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([line for case in read_cases() for line in case.log.splitlines()]), max_size=60))
def test_no_mixture_of_lines_makes_the_engine_fail(lines: list[str]) -> None:
    answer = attribute("\n".join(lines))
    texts = set(lines)
    assert all(line.text in texts for line in (*answer.root_lines, *answer.evidence))


def test_leaving_a_rule_out_lets_the_next_one_answer() -> None:
    log = STEPS + XID
    assert attribute(log).rule == "hardware_fact_wins"
    assert attribute(log, without=("hardware_fact_wins",)).rule != "hardware_fact_wins"
    assert decide.__doc__


def test_an_interrupt_that_a_scheduler_sent_is_the_schedulers() -> None:
    preempted = "slurmstepd: error: *** JOB 88 ON n-805 CANCELLED AT 2026-07-02T16:04:53 DUE TO PREEMPTION ***\n"
    interrupt = "".join(f"[rank0]: {line}\n" for line in RAISED.format("KeyboardInterrupt").splitlines())
    for log in (STEPS + preempted + interrupt, STEPS + interrupt + preempted, STEPS + interrupt + LIMIT):
        answer = attribute(log)
        assert (answer.action, answer.category) == (Action.RESTART, Category.SCHEDULER)
    assert attribute(STEPS + interrupt).action is Action.STOP


def test_the_node_that_failed_is_excluded_and_not_the_batch_host() -> None:
    cancelled = "slurmstepd: error: *** STEP 9.0 ON node076 CANCELLED AT 2026-07-02T16:04:53 DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***\n"
    answer = attribute(STEPS + cancelled + "srun: error: Node failure on node077\n" + WATCHDOG)
    assert (answer.action, answer.exclude_nodes) == (Action.EXCLUDE, ("node077",))
    assert attribute(STEPS + cancelled).action is Action.RESTART


def test_what_a_program_raises_behind_an_eviction_is_its_consequence() -> None:
    evicted = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 40Mi.\n"
    assert attribute(STEPS + evicted + RAISED.format("RuntimeError: stopped")).category is Category.SCHEDULER
    assert attribute(STEPS + RAISED.format("RuntimeError: first") + evicted).category is Category.USER_CODE


def test_a_rank_with_broken_hardware_leads_to_its_node() -> None:
    log = (
        STEPS
        + "[rank3]: RuntimeError: CUDA error: uncorrectable ECC error encountered\nsrun: error: gpu-3: task 3: Exited with exit code 1\n"
    )
    assert attribute(log).exclude_nodes == ("gpu-3",)


def test_what_the_ablation_leaves_out_can_be_left_out() -> None:
    for preference in PREFERENCES:
        replaced = getattr(preference.module, preference.name)
        assert list(signature(replaced).parameters) == list(signature(preference.off).parameters), preference.name
