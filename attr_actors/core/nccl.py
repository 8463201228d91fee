"""Who did not join a collective. Hold in mind: the ranks that print a timeout are those that waited."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field

from attr_actors.core.evidence import Evidence
from attr_actors.models import Suspect

WORK = re.compile(r"WorkNCCL\(SeqNum=(?P<seq>\d+), OpType=(?P<op>\w+), NumelIn=(?P<numel_in>\d+), NumelOut=(?P<numel_out>\d+)")
ENQUEUED = re.compile(r"[Ll]ast enqueued(?: NCCL)? work:? ?(?P<enqueued>-?\d+), last completed(?: NCCL)? work:? ?(?P<completed>-?\d+)")
WORLD = re.compile(r"\bnranks (\d+)|world[_ ]size[\"']?\s*[:=]?\s*(\d+)|WORLD_SIZE[=: ]+(\d+)|(\d+) ranks\b", re.IGNORECASE)
BARRIER = re.compile(r"Ranks? ([\d, ]+) failed to pass monitoredBarrier")
PEER = re.compile(r"(?:[Cc]onnection (?:reset|closed) by (?:remote )?peer|completion from peer) \[?([\w.:-]+?)\]?(?:<\d+>|:\d+|$|[\s,])")
TASKS = re.compile(r"timed out task names|stopped sending heartbeats")
TASK = re.compile(r"/task:(\d+)")
RANKS_MAX = 100_000
"""A larger world is a number that means something else."""
TASK_LINES = 3
"""JAX names the tasks on the line of the fact or the next ones."""


@dataclass
class Forensics:
    """What the watchdogs' lines say together."""

    suspects: list[Suspect] = field(default_factory=list)
    sentence: str = ""
    is_mismatch: bool = False


def read_forensics(evidence: Evidence) -> Forensics:
    """Read the watchdog lines of all ranks and name stragglers, absent ranks, or a mismatch of calls."""
    works: dict[int, tuple[int, str, str]] = {}
    state: dict[int, tuple[int, int]] = {}
    world = 0
    found = Forensics()
    for line in evidence.lines[evidence.first : evidence.last]:
        if m := WORLD.search(line.body):
            world = max(world, int(next(g for g in m.groups() if g)))
        if (m := BARRIER.search(line.body)) and not found.suspects:
            found.suspects = [Suspect(kind="rank", name=r, reason="failed to pass the barrier") for r in re.findall(r"\d+", m[1])]
        if line.rank is None:
            continue
        if m := WORK.search(line.body):
            works.setdefault(line.rank, (int(m["seq"]), m["op"], m["numel_in"]))
        if m := ENQUEUED.search(line.body):
            state.setdefault(line.rank, (int(m["enqueued"]), int(m["completed"])))
    if not found.suspects:
        found.suspects = _missed_tasks(evidence)
    if found.suspects:
        found.sentence = f"Rank {', '.join(s.name for s in found.suspects)} did not reach a barrier that the others waited at."
        return found
    _judge(found, works, state, world)
    _judge_peers(found, evidence)
    return found


def _missed_tasks(evidence: Evidence) -> list[Suspect]:
    """Name the tasks that JAX's coordination service missed."""
    own = evidence.lines[evidence.first : evidence.last]
    for place, line in enumerate(own):
        if m := TASKS.search(line.body):
            text = line.body[m.start() :] + "".join(more.body for more in own[place + 1 : place + TASK_LINES])
            tasks = dict.fromkeys(TASK.findall(text))
            return [Suspect(kind="rank", name=task, reason="was missed by the coordination service") for task in tasks]
    return []


def _judge(found: Forensics, works: dict[int, tuple[int, str, str]], state: dict[int, tuple[int, int]], world: int) -> None:
    stragglers = [r for r, (enqueued, completed) in state.items() if enqueued == completed and enqueued >= 0]
    waiting = [r for r, (enqueued, completed) in state.items() if enqueued > completed]
    absent = _absent(works.keys() | state.keys(), world) if works else []
    if len(works) >= 2 and len({w[0] for w in works.values()}) == 1 and len({w[1:] for w in works.values()}) > 1:
        found.is_mismatch = True
        found.sentence = (
            "Ranks called different collectives at the same sequence number: the program's order of calls differs between ranks."
        )
    elif stragglers and waiting:
        found.suspects = [
            Suspect(kind="rank", name=str(r), reason="never entered the collective that the others waited for") for r in sorted(stragglers)
        ]
    elif absent:
        found.suspects = [
            Suspect(kind="rank", name=str(r), reason="wrote no watchdog line while the others timed out") for r in absent[:64]
        ]
    elif state and all(enqueued == completed == -1 for enqueued, completed in state.values()):
        found.sentence = "No rank had enqueued a collective: the processes hung before, look at storage."
    elif len({w[0] for w in works.values()}) > 1:
        behind = min(w[0] for w in works.values())
        found.suspects = [
            Suspect(kind="rank", name=str(r), reason=f"is behind the others, at collective {behind}")
            for r, w in sorted(works.items())
            if w[0] == behind
        ]
    if found.suspects and not found.sentence:
        names = ", ".join(s.name for s in found.suspects[:8])
        found.sentence = f"A collective timed out; rank {names} did not join it."


def _absent(seen: Set[int], world: int) -> list[int]:
    """Return the ranks without a watchdog line: of all, where the log tells how many there are, else between those that wrote one."""
    if 0 < world <= RANKS_MAX:
        absent = set(range(world)) - seen
        return sorted(absent) if len(absent) < world else []
    absent = set(range(min(seen), min(max(seen), RANKS_MAX))) - seen
    return sorted(absent) if len(absent) < len(seen) else []  # More are missing than are there: only a part of the job writes here.


def _judge_peers(found: Forensics, evidence: Evidence) -> None:
    """The printer of a lost connection is the victim; the address it names is the suspect, unless one host lost many peers."""
    named: dict[str, set[str]] = {}
    for line in evidence.lines[evidence.first : evidence.last]:
        if m := PEER.search(line.body):
            named.setdefault(m[1], set()).add(line.node or line.stream)
    if not named or found.suspects:
        return
    printers = set().union(*named.values())
    if len(named) > 1 and len(printers) == 1 and all(printers):
        [host] = printers
        found.suspects = [Suspect(kind="node", name=host, reason=f"lost its connections to {len(named)} peers")]
        return
    peer = max(named, key=lambda p: len(named[p]))
    found.suspects = [Suspect(kind="node", name=peer, reason=f"was lost by {len(named[peer])} other process(es)")]
