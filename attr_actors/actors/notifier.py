"""The notifier actor: carries owed deliveries from the ledger to one sink, at the sink's pace."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from attr_actors.actors.own_health import own_health
from attr_actors.adapters.sink import Sink, open_sink
from attr_actors.core.backoff import delay_s, gives_up
from attr_actors.core.failure_share import SAMPLES_MIN, FailureShare
from attr_actors.errors import AttrError, SinkError, SinkRejected
from attr_actors.handles import LedgerHandle
from attr_actors.models import Delivery, Health, Outcome, Stats
from attr_actors.settings import Settings

log = logging.getLogger(__name__)

LEASE_SHARE = 0.8
"""The part of a lease that a sink may take; the rest is for settling before the lease ends."""
SETTLE_ATTEMPTS = 5
"""Tries to note a success before its repeat is accepted: a ledger is back within seconds."""
ROUND_PAUSE_MAX_S = 5.0
"""Longest pause after a round that the ledger or a setting ended: a look costs it little, and what is mended is soon no issue any more."""
COUNTERS = ("delivered", "retried", "parked", "rounds", "failed_rounds", "errors")
FORMERLY = {
    "elasticsearch": ("dataflow.total_posts", "dataflow.successful_posts", "dataflow.failed_posts"),
    "slack": ("slack.total_attempts", "slack.total_successful", "slack.total_failed"),
}
"""The predecessor's names of the counters of attempts, successes and failures."""
UNEXPECTED = "unexpected error; see the service's log"


class Notifier:
    """One sink's carrier. Its constructor starts the loop, so it needs a running event loop (a Ray async actor has one).

    Exists because a sink has its own pace, outages and crashes, which must not delay an analysis or another sink. It
    keeps nothing: leases end by themselves, so a killed notifier costs a repeat at most, never a delivery.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: LedgerHandle,
        sink_name: str,
        make_sink: Callable[[str, Settings], Sink] = open_sink,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Start carrying. The sink is made at the first round, so that a bad setting is an issue and not a crash loop."""
        self._settings, self._ledger, self._name = settings, ledger, sink_name
        self._make_sink, self._clock, self._sleep, self._chance = make_sink, clock, sleep, chance
        self._sink: Sink | None = None
        self._started_at = clock()
        self._counts: Counter[str] = Counter()
        self._failures = 0
        self._recent = FailureShare(settings.health_window_s)
        self._issues: dict[str, str] = {}
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def drain(self, timeout_s: float) -> bool:
        """Stop the loop after one last effort within the bound; return whether nothing due is left."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._stop.set()
        empty = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(self._loop)
                while not empty and not self._failures:
                    empty = await self._round() > 0 and not self._failures
        self._loop.cancel()
        if self._sink is not None:
            await self._sink.close()
        return empty

    async def stats(self) -> Stats:
        """Return what was delivered, retried and parked, rounds that failed, and the predecessor's counters of this sink."""
        counts = {f"outbox.{self._name}.{name}": float(self._counts[name]) for name in COUNTERS}
        delivered, failed = self._counts["delivered"], self._counts["retried"] + self._counts["parked"]
        formerly = dict(zip(FORMERLY.get(self._name, ()), (delivered + failed, delivered, failed), strict=False))
        own = self._sink.counts if self._sink else {}
        return Stats(counts={**counts, **formerly, **own, f"outbox.{self._name}.failures_in_a_row": float(self._failures)})

    async def health(self) -> Health:
        """Return version, settings fingerprint, and why the sink does not take deliveries; failing when half of the recent tries failed.

        In a long outage tries become so rare that the window is empty; then those in a row count.
        """
        is_out = "sink" in self._issues and self._failures >= SAMPLES_MIN
        failing = is_out or self._recent.is_failing(self._clock())
        return own_health(f"notifier-{self._name}", self._settings, self._started_at, self._issues.values(), failing)

    async def _run(self) -> None:
        while not self._stop.is_set():
            pause = await self._round()
            if pause > 0:
                await self._rest(pause)

    async def _rest(self, pause: float) -> None:
        """Sleep, but not past a stop."""
        sleeping, stopping = asyncio.ensure_future(self._sleep(pause)), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        sleeping.cancel()
        stopping.cancel()

    async def _round(self) -> float:
        """Carry one batch; return the pause before the next. Nothing that happens in it ends the loop."""
        try:
            return await self._carry()
        except AttrError as exc:
            # The ledger restarts, or a setting is wrong: both are somebody else's to mend.
            return min(self._failed("round", exc.message, exc.retry_after_s), ROUND_PAUSE_MAX_S)
        except TimeoutError:
            return min(self._failed("round", "the ledger did not answer in time", None), ROUND_PAUSE_MAX_S)
        except Exception:
            self._counts["errors"] += 1
            log.exception("notifier %s: unexpected error in a round", self._name)
            return self._failed("round", UNEXPECTED, None)

    async def _carry(self) -> float:
        settings = self._settings
        if self._sink is None:
            self._sink = self._make_sink(self._name, settings)
        # After a failure a single delivery feels the way: an outage with a long queue costs little.
        limit = 1 if self._failures else self._sink.batch_max
        leased = await asyncio.wait_for(self._ledger.lease(self._name, limit, settings.outbox_lease_s), settings.call_timeout_s)
        self._issues.pop("round", None)
        if not leased:
            return settings.outbox_poll_interval_s
        outcomes, pause = await self._deliver(self._sink, leased)
        await self._settle(outcomes)
        self._count(outcomes)
        return pause

    async def _settle(self, outcomes: tuple[Outcome, ...]) -> None:
        """Write down what became of a batch, through a restart of the ledger: what is not noted is sent again."""
        for attempt in range(1, SETTLE_ATTEMPTS):
            try:
                return await asyncio.wait_for(self._ledger.settle(outcomes), self._settings.call_timeout_s)
            except (AttrError, TimeoutError):
                await self._sleep(self._pause(attempt))
        return await asyncio.wait_for(self._ledger.settle(outcomes), self._settings.call_timeout_s)

    async def _deliver(self, sink: Sink, leased: tuple[Delivery, ...]) -> tuple[tuple[Outcome, ...], float]:
        """Return what became of the batch, and the pause that the sink needs."""
        self._counts["rounds"] += 1
        try:
            found = await asyncio.wait_for(sink.deliver(leased), self._settings.outbox_lease_s * LEASE_SHARE)
        except SinkRejected as exc:
            found = tuple(Outcome(delivery_id=d.delivery_id, state="parked", reason=exc.message) for d in leased)
        except SinkError as exc:
            return self._all_again(leased, exc.message, exc.retry_after_s)
        except TimeoutError:
            return self._all_again(leased, "took longer than its lease", None)
        except Exception:
            self._counts["errors"] += 1
            if len(leased) > 1:
                # One bad delivery must not hold up its neighbours.
                return await self._one_by_one(sink, leased)
            if leased[0].attempts == 1:
                log.exception("notifier %s: unexpected error at delivery %d", self._name, leased[0].delivery_id)
            return self._complete(leased, (Outcome(delivery_id=leased[0].delivery_id, state="retry", reason=UNEXPECTED),)), 0.0
        if all(outcome.state == "retry" for outcome in found):
            return self._all_again(leased, found[0].reason if found else "no outcome", max((o.delay_s or 0.0 for o in found), default=0.0))
        self._failures = 0
        self._recent.note(True, self._clock())
        self._issues.pop("sink", None)
        return self._complete(leased, found), 0.0

    async def _one_by_one(self, sink: Sink, leased: tuple[Delivery, ...]) -> tuple[tuple[Outcome, ...], float]:
        outcomes: tuple[Outcome, ...] = ()
        pause = 0.0
        for delivery in leased:
            one, wait = await self._deliver(sink, (delivery,))
            outcomes, pause = outcomes + one, max(pause, wait)
        return outcomes, pause

    def _all_again(self, leased: tuple[Delivery, ...], reason: str, retry_after_s: float | None) -> tuple[tuple[Outcome, ...], float]:
        self._recent.note(False, self._clock())
        pause = self._failed("sink", reason, retry_after_s)
        again = tuple(Outcome(delivery_id=d.delivery_id, state="retry", reason=reason, delay_s=pause) for d in leased)
        return self._complete(leased, again), pause

    def _complete(self, leased: tuple[Delivery, ...], found: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """Return one outcome per delivery: with a delay for those to be tried again, parked if they were tried enough."""
        by_id = {outcome.delivery_id: outcome for outcome in found}
        return tuple(
            self._decide(d, by_id.get(d.delivery_id) or Outcome(delivery_id=d.delivery_id, state="retry", reason="no outcome"))
            for d in leased
        )

    def _decide(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        if outcome.state != "retry":
            return outcome
        if gives_up(delivery.attempts, self._settings.outbox_attempts_max):
            return outcome.model_copy(
                update={"state": "parked", "reason": f"given up after {delivery.attempts} attempts: {outcome.reason}"}
            )
        if outcome.delay_s is None:
            return outcome.model_copy(update={"delay_s": self._pause(delivery.attempts)})
        return outcome

    def _failed(self, issue: str, reason: str, retry_after_s: float | None) -> float:
        """Note a failure of the whole round; return the pause, growing with failures in a row, at least what was asked for."""
        self._failures += 1
        self._counts["failed_rounds"] += 1
        if self._issues.get(issue) is None:
            log.warning("notifier %s: %s", self._name, reason)
        self._issues[issue] = f"{reason}; answers are served, deliveries wait" if issue == "sink" else reason
        return max(self._pause(self._failures), retry_after_s or 0.0)

    def _pause(self, attempt: int) -> float:
        return delay_s(attempt, self._settings.outbox_poll_interval_s, self._settings.outbox_backoff_max_s, self._chance())

    def _count(self, outcomes: tuple[Outcome, ...]) -> None:
        names = {"done": "delivered", "retry": "retried", "parked": "parked"}
        self._counts.update(names[outcome.state] for outcome in outcomes)
        parked = [outcome for outcome in outcomes if outcome.state == "parked"]
        if parked:
            log.error("notifier %s: parked %d deliveries, the last because: %s", self._name, len(parked), parked[-1].reason)
            self._issues["parked"] = f"deliveries are parked, the last because: {parked[-1].reason}"
