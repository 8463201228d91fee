"""What each ordering rule is worth: the scores with each one left out, on labelled logs and on the written samples.

    python -m bench.ablation [--labels LABELS.jsonl --logs DIRECTORY]

A rule that changes no figure on the labelled logs may still protect a written sample; one that does neither goes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from attr_actors.core import causes, events
from attr_actors.core.engine import attribute_scan
from attr_actors.core.paths import LogPath
from attr_actors.core.rules import clearing, first_error, selection
from attr_actors.core.rules.order import RULES
from attr_actors.core.scan import scan_log
from attr_actors.core.signatures.database import Database, open_database
from attr_actors.core.sparse import Scan
from attr_actors.models import Action, Attribution
from tests.core.failure_cases import read_cases

EXPECTED = {"RESTART": "RESTART", "EXCLUDE": "RESTART", "UNKNOWN": "RESTART", "STOP": "STOP", "CONTINUE": "NONE"}


class Labelled(NamedTuple):
    """A log with what is right for it."""

    name: str
    scan: Scan
    actions: tuple[str, ...]
    categories: tuple[str, ...]
    roots: tuple[str, ...]


class Preference(NamedTuple):
    """A function inside the rules, and what stands for it when it is off."""

    module: ModuleType
    name: str
    off: Callable[..., Any]


PREFERENCES = (
    Preference(clearing, "progress_clears", lambda event, evidence: False),
    Preference(clearing, "run_went_on", lambda event, evidence: False),
    Preference(selection, "was_left_behind", lambda event, evidence: False),
    Preference(selection, "survived_before", lambda events, evidence: events),
    Preference(selection, "program_before_shell", lambda events, evidence: events),
    Preference(selection, "known_before_vague", lambda events: events),
    Preference(first_error, "raised_after_logged", lambda first, candidates: first),
    Preference(first_error, "more_specific", lambda first, candidates: first),
    Preference(first_error, "first_telling", lambda event, evidence: event.line),
    Preference(first_error, "first_failed_rank", lambda evidence: None),
    Preference(events, "choose_cause", lambda chain, rows=(): chain[-1]),
    Preference(causes, "_first_meant", lambda chain, known: chain[0]),
)


@contextmanager
def switched_off(preference: Preference) -> Iterator[None]:
    """Replace a preference for a while."""
    kept = getattr(preference.module, preference.name)
    setattr(preference.module, preference.name, preference.off)
    try:
        yield
    finally:
        setattr(preference.module, preference.name, kept)


def read_labelled(labels: Path, logs: Path, database: Database) -> list[Labelled]:
    """Scan the labelled logs; labels of low confidence are left out."""
    found = []
    for line in labels.read_text().splitlines():
        label = json.loads(line)
        log = logs / f"{label['id']}.log"
        if label["confidence"] == "low" or not log.is_file():
            continue
        also = label.get("also_right") or {}
        _, scan = scan_log(LogPath(str(log), str(logs)), database)
        found.append(
            Labelled(
                label["id"],
                scan,
                (label["action"], *also.get("action", ())),
                (label["category"], *also.get("category", ())),
                (label["root_line"], *also.get("root_line", ())),
            )
        )
    return found


def scan_samples(database: Database) -> list[Labelled]:
    """Scan the written samples of the tests."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for number, case in enumerate(read_cases()):
            log = Path(directory) / f"{number}.log"
            log.write_text(case.log, "utf-8")
            _, scan = scan_log(LogPath(str(log), directory), database)
            found.append(Labelled(case.name, scan, case.actions, case.categories, (case.root,)))
    return found


def count_wrong(samples: Sequence[Labelled], database: Database, without: Sequence[str] = ()) -> int:
    """Return how many written samples get a wrong action, category or root line."""
    wrong = 0
    for case in samples:
        answer = attribute_scan(case.scan, database.rows, 24_000, tuple(without))[-1]
        is_right = answer.action.value in case.actions and answer.category.value in case.categories
        wrong += not (is_right and (not case.roots[0] or has_root(answer, case.roots)))
    return wrong


def score(cases: Sequence[Labelled], database: Database, without: Sequence[str] = ()) -> dict[str, float]:
    """Return action, category and root line accuracy, and the number of wrong STOPs and alarms."""
    right = {"action": 0, "category": 0, "root": 0, "false_stop": 0, "false_alarm": 0}
    failed = 0
    for case in cases:
        answer = attribute_scan(case.scan, database.rows, 24_000, tuple(without))[-1]
        action = EXPECTED[answer.action.value]
        right["action"] += action in case.actions
        right["category"] += answer.category.value in case.categories
        right["false_stop"] += answer.action is Action.STOP and "STOP" not in case.actions
        right["false_alarm"] += "NONE" in case.actions and action not in case.actions
        if case.roots[0]:
            failed += 1
            right["root"] += has_root(answer, case.roots)
    total = len(cases)
    shares = {"action": right["action"] / total, "category": right["category"] / total, "root": right["root"] / max(failed, 1)}
    return {**shares, "false_stop": right["false_stop"], "false_alarm": right["false_alarm"]}


def has_root(answer: Attribution, roots: Sequence[str]) -> bool:
    """Tell whether the first cited line holds one of the right ones."""
    cited = " ".join(answer.root_lines[0].text.split()) if answer.root_lines else ""
    return any(" ".join(root.split()) in cited for root in roots)


def ablate(cases: Sequence[Labelled], samples: Sequence[Labelled], database: Database) -> list[tuple[str, dict[str, float]]]:
    """Return the scores with everything, then with each rule and each preference left out."""

    def measure(*without: str) -> dict[str, float]:
        return {**score(cases, database, without), "samples": count_wrong(samples, database, without)}

    table = [("(all rules)", measure())]
    for rule in RULES:
        table.append((rule.__name__, measure(rule.__name__)))
    for preference in PREFERENCES:
        with switched_off(preference):
            table.append((preference.name, measure()))
    return table


def render_table(table: Sequence[tuple[str, dict[str, float]]]) -> str:
    """Return the table as text: differences to the first row, which is shown whole."""
    head, base = table[0]
    rows = [f"{'left out':28}{'action':>9}{'category':>10}{'root':>9}{'wrong STOP':>12}{'alarms':>8}{'samples wrong':>15}"]
    rows.append(
        f"{head:28}{base['action']:9.3f}{base['category']:10.3f}{base['root']:9.3f}{base['false_stop']:12.0f}{base['false_alarm']:8.0f}{base['samples']:15.0f}"
    )
    for name, scores in table[1:]:
        change = {key: scores[key] - base[key] for key in base}
        rows.append(
            f"{name:28}{change['action']:+9.3f}{change['category']:+10.3f}{change['root']:+9.3f}"
            f"{change['false_stop']:+12.0f}{change['false_alarm']:+8.0f}{change['samples']:+15.0f}"
        )
    return "\n".join(rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    shared = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "logs"
    parser.add_argument("--labels", type=Path, default=shared / "labels.jsonl")
    parser.add_argument("--logs", type=Path, default=shared / "cases")
    arguments = parser.parse_args()
    if not arguments.labels.is_file():
        parser.exit(1, f"needs labelled logs, and there is no {arguments.labels}\n")
    database = open_database()
    print(render_table(ablate(read_labelled(arguments.labels, arguments.logs, database), scan_samples(database), database)))


if __name__ == "__main__":
    main()
