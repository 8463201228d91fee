"""Who did not join a collective. Hold in mind: the ranks that print a timeout are those that waited."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from attr_actors.core.evidence import Evidence
from attr_actors.models import Suspect

WORK = re.compile(r"WorkNCCL\(SeqNum=(?P<seq>\d+), OpType=(?P<op>\w+), NumelIn=(?P<numel_in>\d+), NumelOut=(?P<numel_out>\d+)")
ENQUEUED = re.compile(r"[Ll]ast enqueued(?: NCCL)? work:? ?(?P<enqueued>-?\d+), last completed(?: NCCL)? work:? ?(?P<completed>-?\d+)")
WORLD = re.compile(r"\bnranks (\d+)|world[_ ]size[\"']?\s*[:=]?\s*(\d+)|WORLD_SIZE[=: ]+(\d+)|(\d+) ranks\b", re.IGNORECASE)
BARRIER = re.compile(r"Ranks? ([\d, ]+) failed to pass monitoredBarrier")
PEER = re.compile(r"[Cc]onnection (?:reset|closed) by (?:remote )?peer \[?([\w.:-]+?)\]?(?:<\d+>|:\d+|$|[\s,])")


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
    if found.suspects:
        found.sentence = f"Rank {', '.join(s.name for s in found.suspects)} did not reach a barrier that the others waited at."
        return found
    _judge(found, works, state, world)
    _judge_peers(found, evidence)
    return found


def _judge(found: Forensics, works: dict[int, tuple[int, str, str]], state: dict[int, tuple[int, int]], world: int) -> None:
    stragglers = [r for r, (enqueued, completed) in state.items() if enqueued == completed and enqueued >= 0]
    waiting = [r for r, (enqueued, completed) in state.items() if enqueued > completed]
    absent = sorted(set(range(world)) - set(works) - set(state)) if works and 0 < world <= 100_000 else []
    if len(works) >= 2 and len({w[0] for w in works.values()}) == 1 and len({w[1:] for w in works.values()}) > 1:
        found.is_mismatch = True
        found.sentence = (
            "Ranks called different collectives at the same sequence number: the program's order of calls differs between ranks."
        )
    elif stragglers and waiting:
        found.suspects = [
            Suspect(kind="rank", name=str(r), reason="never entered the collective that the others waited for") for r in sorted(stragglers)
        ]
    elif absent and len(absent) < world:
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


def _judge_peers(found: Forensics, evidence: Evidence) -> None:
    """The printer of a lost connection is the victim; the address it names is the suspect."""
    named: dict[str, int] = {}
    for line in evidence.lines[evidence.first : evidence.last]:
        if m := PEER.search(line.body):
            named[m[1]] = named.get(m[1], 0) + 1
    if named and not found.suspects:
        peer = max(named, key=lambda p: named[p])
        found.suspects = [Suspect(kind="node", name=peer, reason=f"closed the connection of {named[peer]} other process(es)")]
