"""Entries: an analysis split by workload cycle, their keys, and which of them each sink is told about.

Hold in mind: storing an entry twice is harmless, telling people twice is not. Elasticsearch and the webhook get every
change (their key makes a repeat an overwrite); Slack gets an entry once, when it first says STOP.
"""

from __future__ import annotations

import hashlib
import json

from attr_actors.models import Action, Attribution, Entry, Recording

SLACK = "slack"


def entries_of(recording: Recording) -> tuple[Entry, ...]:
    """Return one entry per workload cycle, in the log's order."""
    analysis = recording.analysis
    return tuple(
        Entry(
            snapshot=analysis.snapshot,
            engine=analysis.engine,
            wl_restart=number,
            cycles=len(analysis.cycles),
            result_id=analysis.result_id,
            analysed_at=analysis.analysed_at,
            scan_s=analysis.scan_s,
            log_bytes=analysis.log_bytes,
            requester=recording.requester,
            attribution=attribution,
        )
        for number, attribution in enumerate(analysis.cycles)
    )


def entry_key(entry: Entry) -> str:
    """Return the entry's key, 64 hex digits: from path, size, mtime, workload restart and engine, never from the answer."""
    seen = entry.snapshot
    parts = json.dumps([seen.path, seen.size, seen.mtime_ns, entry.wl_restart, entry.engine])
    return hashlib.sha256(parts.encode()).hexdigest()


def topic_key(entry: Entry) -> str:
    """Return the key of "this job fails of this cause": messages with the same one belong in one thread."""
    answer = entry.attribution
    job = entry.requester.job_id or entry.snapshot.path
    cause = answer.fingerprint or answer.signature or answer.root_cause
    return hashlib.sha256("\0".join((job, answer.category, cause)).encode()).hexdigest()[:32]


def concerns(sink: str, action: Action) -> bool:
    """Tell whether a sink wants entries with this action: Slack is for STOP alone."""
    return sink != SLACK or action is Action.STOP


def is_news(sink: str, old: tuple[Action, str] | None, new: tuple[Action, str]) -> bool:
    """Tell whether a sink is to be told of an entry, given its (action, content) before, None if it is new, and now."""
    if not concerns(sink, new[0]):
        return False
    if old is None:
        return True
    return not concerns(sink, old[0]) if sink == SLACK else old != new


def content_of(attribution: Attribution) -> str:
    """Return the attribution as stored text; equal texts are equal answers."""
    return attribution.model_dump_json()
