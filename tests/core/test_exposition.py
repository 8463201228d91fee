"""The text that Prometheus scrapes."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from attr_actors.core.exposition import render_exposition


def samples(counters: dict[str, float]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(render_exposition(counters, (0.1, 1.0)))
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_dotted_names_become_families_with_labels() -> None:
    found = samples(
        {"http.result.200": 3, "http.submit.429": 1, "outbox.slack.oldest_s": 2.5, "flights.now": 4, "rate_limit.refused_submit": 1}
    )
    assert found["attr_http_requests_total", (("route", "result"), ("status", "200"))] == 3
    assert found["attr_outbox_oldest_seconds", (("sink", "slack"),)] == 2.5
    assert found["attr_rate_limited_total", (("rate", "submit"),)] == 1
    assert found["attr_flights", ()] == 4


def test_latency_classes_become_a_cumulative_histogram() -> None:
    found = samples({"http_seconds.result.0": 5, "http_seconds.result.2": 1, "http_seconds_sum.result": 3.5})
    name, route = "attr_http_request_seconds", ("route", "result")
    assert [found[f"{name}_bucket", (("le", le), route)] for le in ("0.1", "1", "+Inf")] == [5, 5, 6]
    assert (found[f"{name}_count", (route,)], found[f"{name}_sum", (route,)]) == (6, 3.5)


def test_what_no_row_names_is_shown_all_the_same_and_process_ids_are_not() -> None:
    found = samples({"odd.thing-1": 7, "actors.ledger.pid": 4711, "requests.result": 1})
    assert found == {("attr_odd_thing_1", ()): 7}


def test_label_values_are_escaped() -> None:
    assert samples({'verdicts.a"b\\c.STOP': 1}) == {("attr_verdicts_total", (("action", "STOP"), ("category", 'a"b\\c'))): 1}
