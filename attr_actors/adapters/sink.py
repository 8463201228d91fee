"""What a sink is, and how to add one of your own.

A sink is a small class that takes the settings and has a ``name``, a ``batch_max``, ``counts`` and two methods::

    class PagerSink:
        name = "pager"
        batch_max = 1
        counts: Mapping[str, float] = {}

        def __init__(self, settings: Settings) -> None: ...
        async def deliver(self, deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]: ...
        async def close(self) -> None: ...

Declare it in your package as an entry point, ``[project.entry-points."attr_actors.sinks"] pager = "my_package:PagerSink"``,
install the package where the service runs, and set ``NVRX_ATTRSVC_EXPORT_SINKS=pager``. ``webhook.py`` is a complete example.

Hold in mind: delivery is at least once. Use ``entry_key()`` to make a repeat harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Protocol, cast

from attr_actors.errors import BadSettings
from attr_actors.models import Delivery, Outcome
from attr_actors.settings import Settings

GROUP = "attr_actors.sinks"


class Sink(Protocol):
    """A place outside that is told of entries. Its constructor takes the Settings and touches no network."""

    name: str
    batch_max: int

    @property
    def counts(self) -> Mapping[str, float]:
        """The sink's own counters by dotted name, for /stats; may be empty."""

    async def deliver(self, deliveries: tuple[Delivery, ...]) -> tuple[Outcome, ...]:
        """Send up to ``batch_max`` deliveries and return an outcome for each, in any order.

        Raises SinkError if none could be taken now (with ``retry_after_s`` if the sink said when to come back), and
        SinkRejected if the whole batch would be refused again.
        """

    async def close(self) -> None:
        """Close connections."""


def open_sink(name: str, settings: Settings) -> Sink:
    """Make the sink of this name, built in or from an entry point. Raises BadSettings if there is none."""
    if name == "elasticsearch":
        from attr_actors.adapters.elasticsearch import ElasticsearchSink

        return ElasticsearchSink(settings)
    if name == "slack":
        from attr_actors.adapters.slack import SlackSink

        return SlackSink(settings)
    if name == "webhook":
        from attr_actors.adapters.webhook import WebhookSink

        return WebhookSink(settings)
    for found in entry_points(group=GROUP, name=name):
        return cast(Callable[[Settings], Sink], found.load())(settings)
    raise BadSettings(f"NVRX_ATTRSVC_EXPORT_SINKS: no installed package declares the sink '{name}' in the entry point group {GROUP}")
