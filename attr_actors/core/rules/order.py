"""The rules in the order in which they are asked: the first that answers decides.

Each takes the evidence of one attempt and returns a verdict or None; its docstring is its reason.
"""

from __future__ import annotations

from collections.abc import Callable

from attr_actors.core.evidence import Evidence
from attr_actors.core.rules.communication import collective_failed, helper_process_lost
from attr_actors.core.rules.ends import success_ends_it, teardown_only, traceback_without_end
from attr_actors.core.rules.facts import hardware_fact_wins, loss_is_no_number, node_failure_wins
from attr_actors.core.rules.first_error import first_error_is_the_root
from attr_actors.core.rules.scheduling import (
    cancelled,
    kill_needs_an_explanation,
    person_stopped_it,
    scheduler_ended_it,
    terminal_went_away,
    warning_came_before_the_end,
)
from attr_actors.core.verdicts import Verdict

Rule = Callable[[Evidence], Verdict | None]

RULES: tuple[Rule, ...] = (
    hardware_fact_wins,
    node_failure_wins,
    loss_is_no_number,
    success_ends_it,
    person_stopped_it,
    terminal_went_away,
    scheduler_ended_it,
    first_error_is_the_root,
    warning_came_before_the_end,
    kill_needs_an_explanation,
    collective_failed,
    helper_process_lost,
    cancelled,
    teardown_only,
    traceback_without_end,
)
