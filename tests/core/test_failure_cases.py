"""Every sample failure gets its category, its action and its root line."""

from __future__ import annotations

import pytest

from attr_actors.core.engine import attribute_scan
from tests.core.failure_cases import Case, read_cases
from tests.core.reference_scan import scan_bytes
from tests.core.rows import ROWS


@pytest.mark.parametrize("case", read_cases(), ids=lambda case: case.name)
def test_a_sample_failure_is_understood(case: Case) -> None:
    answer = attribute_scan(scan_bytes(case.log.encode(), ROWS), ROWS, 24_000)[-1]
    cited = answer.root_lines[0].text if answer.root_lines else ""
    assert (answer.category.value in case.categories, answer.action.value in case.actions, case.root in cited) == (True, True, True), (
        f"{answer.category} {answer.action} by {answer.rule}/{answer.signature}: {cited}"
    )
