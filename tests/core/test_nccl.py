"""Who did not join a collective."""

from __future__ import annotations

from attr_actors.core.engine import attribute_scan
from attr_actors.models import Action, Attribution, Category
from tests.core.reference_scan import scan_bytes
from tests.core.rows import ROWS

WORK = (
    "[rank{r}]:[E607 10:20:00.1 ProcessGroupNCCL.cpp:616] [Rank {r}] Watchdog caught collective operation timeout: WorkNCCL(SeqNum={s}, "
    "OpType={op}, NumelIn={n}, NumelOut={n}, Timeout(ms)=600000) ran for 600040 milliseconds before timing out.\n"
)
STATE = (
    "[rank{r}]:[E607 10:20:00.2 ProcessGroupNCCL.cpp:1785] [PG ID 0 Rank {r}] failure detected by watchdog at work sequence id: 9 "
    "PG status: last enqueued work: {e}, last completed work: {c}\n"
)


def attribute(log: str) -> Attribution:
    return attribute_scan(scan_bytes(log.encode(), ROWS), ROWS, 24_000)[-1]


def suspects(log: str) -> list[str]:
    return [s.name for s in attribute(log).suspects if s.kind == "rank"]


def work(rank: int, sequence: int = 9, op: str = "ALLREDUCE", numel: int = 1) -> str:
    return WORK.format(r=rank, s=sequence, op=op, n=numel)


def test_the_rank_without_a_watchdog_line_is_the_prime_suspect() -> None:
    log = "host:1:1 [0] NCCL INFO comm 0x1 rank 0 nranks 4 cudaDev 0 - Init COMPLETE\n" + work(0) + work(1) + work(3)
    answer = attribute(log)
    assert (answer.action, answer.category, suspects(log)) == (Action.RESTART, Category.NETWORK_NCCL, ["2"])
    assert "rank 2 did not join" in answer.root_cause


def test_a_rank_that_never_entered_is_the_straggler_and_those_that_wait_are_victims() -> None:
    log = work(0) + STATE.format(r=0, e=9, c=8) + work(1) + STATE.format(r=1, e=8, c=8)
    assert suspects(log) == ["1"]


def test_different_calls_at_one_sequence_number_are_the_program() -> None:
    answer = attribute(work(0, op="ALLREDUCE", numel=16) + work(1, op="BROADCAST", numel=4))
    assert (answer.action, answer.category) == (Action.STOP, Category.USER_CODE)


def test_ranks_that_enqueued_nothing_were_frozen_before() -> None:
    log = work(0) + STATE.format(r=0, e=-1, c=-1) + work(1) + STATE.format(r=1, e=-1, c=-1)
    assert "storage" in attribute(log).root_cause


def test_the_rank_behind_the_others_is_suspected() -> None:
    assert suspects(work(0, 12) + work(1, 12) + work(2, 7)) == ["2"]


def test_a_barrier_names_the_ranks_that_failed_to_pass_it() -> None:
    log = "RuntimeError: [Rank 0]: Ranks 3, 5 failed to pass monitoredBarrier in 1800000 ms\n"
    assert suspects(log) == ["3", "5"]


def test_the_closed_peer_is_the_suspect_and_not_the_printer() -> None:
    log = "".join(
        f"[rank{r}]: RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.4.0.12]:33818\n" for r in (0, 1, 2)
    )
    answer = attribute(log)
    assert [s.name for s in answer.suspects if s.kind == "node"] == ["10.4.0.12"]


def nodes(log: str) -> list[str]:
    return [s.name for s in attribute(log).suspects if s.kind == "node"]


def test_a_hole_between_the_ranks_that_wrote_is_suspected_where_nobody_tells_the_world_size() -> None:
    assert suspects(work(8) + work(9) + work(11) + work(12)) == ["10"]


def test_who_writes_of_a_broken_collective_is_not_suspected() -> None:
    assert suspects(work(8) + work(9)) == []


def test_more_holes_than_ranks_mean_that_others_write_elsewhere() -> None:
    assert suspects(work(0) + work(64) + work(128)) == []


PEER = (
    "{node}:881:990 [2] transport/net_ib.cc:1901 NCCL WARN NET/IB: Got completion from peer {peer}<48210> with status=12 vendor err 129\n"
)


def test_one_peer_lost_by_several_hosts_is_suspected() -> None:
    assert nodes("".join(PEER.format(node=f"n{n}", peer="10.2.0.17") for n in range(3))) == ["10.2.0.17"]


def test_one_host_that_lost_several_peers_is_suspected_itself() -> None:
    assert nodes("".join(PEER.format(node="n1", peer=f"10.2.0.{n}") for n in range(3))) == ["n1"]


def test_tasks_that_jax_missed_are_suspected() -> None:
    log = "F0301 12:14:11.3 14099 client.h:80] UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n"
    assert suspects(log + "/job:jax_worker/replica:0/task:7\nThe tasks have crashed.\n") == ["7"]
    assert suspects("Barrier timed out. Id: x. The first task: /job:w/task:3. Some timed out task names:\n/job:w/replica:0/task:11\n") == [
        "11"
    ]


def test_a_kernel_fact_without_a_host_belongs_to_the_only_node_whose_tasks_failed_by_themselves() -> None:
    fact = "[Mon Mar  2 01:24:58 2026] NVRM: Xid (PCI:0000:9b:00): 79, pid=22134, name=python, GPU has fallen off the bus.\n"
    ends = "srun: error: hgx-002: task 13: Aborted (core dumped)\nsrun: error: hgx-001: tasks 0-7: Terminated\n"
    answer = attribute(ends + fact)
    assert (answer.action, answer.exclude_nodes) == (Action.EXCLUDE, ("hgx-002",))
    both = "srun: error: hgx-001: task 3: Exited with exit code 1\n" + ends + fact
    assert (attribute(both).action, attribute(both).exclude_nodes) == (Action.RESTART, ())


def test_the_node_without_gpus_is_excluded_where_other_ranks_have_theirs() -> None:
    error = 'Traceback (most recent call last):\n  File "t.py", line 9, in <module>\nRuntimeError: No CUDA GPUs are available\n'
    here = "".join(f"11: {line}\n" for line in error.splitlines())
    steps = "".join(f"{rank}: loading part {part}\n" for part in range(4) for rank in range(8, 16))
    ends = "srun: error: n2: task 11: Exited with exit code 1\n"
    answer = attribute(steps + here + ends)
    assert (answer.action, answer.exclude_nodes) == (Action.EXCLUDE, ("n2",))
    alone = attribute(error + "srun: error: n2: task 0: Exited with exit code 1\n")
    assert (alone.action, alone.exclude_nodes) == (Action.RESTART, ())
