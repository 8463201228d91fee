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
