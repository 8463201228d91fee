"""A program to be killed: one ledger, a notifier per sink, and answers that keep coming.

``python -m tests.delivering PLACE FIRST LAST NAME=VALUE...`` records the answers FIRST to LAST - 1 and prints ``ack N``
once all up to N are durable, then ``owed N`` until it is ended. The pairs are settings.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from attr_actors.actors.in_process import Mailbox
from attr_actors.actors.ledger import Ledger
from attr_actors.actors.notifier import Notifier
from attr_actors.models import Action, Recording
from tests.answers import attribution, recording
from tests.ledgers import settings

BATCH = 10


def numbered(number: int) -> Recording:
    """Return the answer with this number; every tenth is a STOP, each of a job of its own."""
    action = Action.STOP if number % 10 == 0 else Action.RESTART
    return recording(f"/logs/{number}.log", attribution(action, f"cause-{number}"), job_id=str(number), mtime_ns=10**18 + number)


async def serve(place: str, first: int, last: int, more: dict[str, str]) -> None:
    chosen = settings(Path(place), **more)
    ledger = Mailbox(Ledger(chosen))
    notifiers = [Notifier(chosen, ledger, name) for name in chosen.sink_names]  # type: ignore[arg-type]
    for start in range(first, last, BATCH):
        end = min(start + BATCH, last)
        await ledger.record(tuple(numbered(n) for n in range(start, end)))
        print("ack", end, flush=True)
    while True:
        counts = (await ledger.stats()).counts
        owed = sum(counts[f"outbox.{name}.{state}"] for name in chosen.sink_names for state in ("waiting", "leased", "parked"))
        print("owed", int(owed), flush=True)
        await asyncio.sleep(0.1)
        assert notifiers


if __name__ == "__main__":
    pairs = dict(argument.split("=", 1) for argument in sys.argv[4:])
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pairs))
