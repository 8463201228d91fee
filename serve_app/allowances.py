"""What this replica may still let through: batches of requests leased from the limiter, per client and route.

Hold in mind: a request is counted here, in memory. Only a client whose batch ran out waits for the limiter, and a new
batch is asked for before that, so this is rare. Windows start with a client's first request and end at ``ends_at``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict

from limits import parse

from attr_actors.errors import BusyError, RateLimited
from attr_actors.handles import LimiterHandle
from attr_actors.models import Holding, Lease
from attr_actors.settings import Settings

logger = logging.getLogger("attr_actors.limits")

BATCH_MAX = 1000
"""Requests per lease, where the limit is that high: a tenth of the limit is asked for, and less is granted near its end."""

ACCOUNTS_MAX = 20_000
"""Clients remembered; above it the one that was silent for longest is forgotten, and asks anew."""


class Account:
    """One client's requests on one route, in the present window."""

    __slots__ = ("balance", "batch", "client", "ends_at", "filling", "granted", "limit", "period_s", "rate", "refused_until", "remaining")

    def __init__(self, rate: str, client: str, limit: int, period_s: float) -> None:
        self.rate = rate
        self.client = client
        self.limit = limit
        self.period_s = period_s
        self.balance = self.granted = self.batch = 0
        self.remaining = limit
        self.ends_at = self.refused_until = 0.0
        self.filling: asyncio.Task[None] | None = None

    def headers(self, now: float) -> list[tuple[bytes, bytes]]:
        """Return the X-RateLimit headers: the limit, what is left of it as far as known here, and the seconds to its renewal."""
        return [
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % (self.remaining + self.balance)),
            (b"x-ratelimit-reset", b"%d" % max(0, round(self.ends_at - now + 0.5))),
        ]

    def take(self) -> bool:
        """Count one request, if the batch has one left."""
        if self.balance <= 0:
            return False
        self.balance -= 1
        return True

    def renew(self) -> None:
        """Begin a new window."""
        self.balance = self.granted = 0
        self.remaining = self.limit

    def add(self, lease: Lease, now: float) -> None:
        """Enter what the limiter answered."""
        if lease.ends_at > self.ends_at + 0.001 and lease.granted:  # The window it belongs to is a new one.
            self.renew()
        self.granted += lease.granted
        self.balance += lease.granted
        self.remaining = lease.remaining
        if lease.granted:
            self.ends_at = lease.ends_at
        else:
            self.refused_until = max(lease.ends_at, now + 0.05)


class Allowances:
    """All accounts of this replica."""

    def __init__(self, settings: Settings, limiter: LimiterHandle, counts: Counter[str]) -> None:
        self._limiter = limiter
        self._replicas_max = max(settings.replicas_min, settings.replicas_max)
        items = {rate: parse(text) for rate, text in settings.rates.items()}
        self._limits = {rate: (int(item.amount), float(item.get_expiry())) for rate, item in items.items()}
        self._accounts: OrderedDict[tuple[str, str], Account] = OrderedDict()
        self._incarnation = ""
        self._restoring: asyncio.Task[None] | None = None
        self._counts = counts

    def account(self, rate: str, client: str) -> Account:
        """Return the account of a client, in its present window."""
        key = (rate, client)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(rate, client, *self._limits[rate])
            if len(self._accounts) > ACCOUNTS_MAX:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(key)
        if account.granted and time.time() >= account.ends_at:
            account.renew()
        return account

    async def charge(self, account: Account) -> None:
        """Count one request. Raises RateLimited with the time until the next is let through."""
        if not account.take():
            self._counts["rate_limit.waited"] += 1
            while not account.take():
                wait_s = account.refused_until - time.time()
                if wait_s > 0:
                    self._counts[f"rate_limit.refused_{account.rate}"] += 1
                    raise RateLimited(f"at most {account.limit} requests per {account.period_s:g} s; try again later", wait_s)
                await asyncio.shield(self._fill(account))
        if account.balance * 2 < account.batch and account.remaining:
            self._fill(account)

    def refund(self, account: Account) -> None:
        """Give one request back."""
        account.balance += 1

    async def compare(self) -> None:
        """Ask whether the limiter still knows what it granted, and tell it if not. Called about once a second."""
        if not self._holdings():
            return
        try:
            incarnation = await self._limiter.incarnation()
        except BusyError as exc:
            logger.info("the limiter could not be asked: %s", exc.message)
            return
        if incarnation != self._incarnation:
            await self._restored()

    def _fill(self, account: Account) -> asyncio.Task[None]:
        # A done task must not be waited for again: that never yields, so a loop around it would stop the whole event loop.
        if account.filling is None or account.filling.done():
            account.filling = asyncio.create_task(self._lease(account))
        return account.filling

    async def _lease(self, account: Account) -> None:
        wanted = min(BATCH_MAX, max(1, account.limit // 10))
        try:
            asked_as = self._incarnation
            lease = await self._limiter.lease(account.rate, account.client, wanted, asked_as)
            if lease.incarnation != self._incarnation:
                await self._restored()
            if lease.incarnation != asked_as and not lease.granted:
                lease = await self._limiter.lease(account.rate, account.client, wanted, self._incarnation)
        except BusyError as exc:
            logger.warning("the limiter does not answer, this replica lets its own share through: %s", exc.message)
            lease = self._own_share(account)
        account.batch = lease.granted
        account.add(lease, time.time())

    def _own_share(self, account: Account) -> Lease:
        """Return what this replica may let through on its own while the limiter is away."""
        now = time.time()
        ends_at = account.ends_at if account.ends_at > now else now + account.period_s
        granted = min(BATCH_MAX, max(0, account.limit // self._replicas_max - account.granted))
        return Lease(granted=granted, remaining=0, ends_at=ends_at if granted else now + 1, incarnation=self._incarnation)

    def _restored(self) -> asyncio.Task[None]:
        if self._restoring is None or self._restoring.done():
            self._restoring = asyncio.create_task(self._restore())
        return self._restoring

    async def _restore(self) -> None:
        try:
            holdings = self._holdings()
            self._incarnation = await (self._limiter.restore(holdings) if holdings else self._limiter.incarnation())
        except BusyError as exc:
            logger.info("the limiter could not be told what it granted: %s", exc.message)

    def _holdings(self) -> tuple[Holding, ...]:
        now = time.time()
        return tuple(
            Holding(rate=a.rate, client=a.client, granted=a.granted, ends_at=a.ends_at)
            for a in self._accounts.values()
            if a.granted and a.ends_at > now
        )
