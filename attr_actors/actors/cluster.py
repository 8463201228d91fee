"""The supervision plan on one screen: names, options, start order, health and stop of the actors. The only actor module that imports Ray.

Hold in mind: an actor that exists keeps its old constructor arguments. ``open_actors()`` therefore compares version and
settings fingerprint, and replaces what differs; recovery is the constructor, so replacing is always safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, PendingCallsLimitExceeded, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import attr_actors
from attr_actors import tracing
from attr_actors.actors.analyzer import Analyzer
from attr_actors.actors.ledger import Ledger
from attr_actors.actors.limiter import Limiter
from attr_actors.actors.meter import Meter
from attr_actors.actors.model_gate import ModelGate
from attr_actors.actors.notifier import Notifier
from attr_actors.actors.tracker import Tracker
from attr_actors.adapters.llm_keys import key_source
from attr_actors.errors import AttrError, LedgerFault, LedgerTakenOver, Overloaded, Unavailable
from attr_actors.handles import Actors, LedgerHandle, ModelGateHandle
from attr_actors.models import Health
from attr_actors.settings import Settings

WAITERS_MAX = 10_000
"""Concurrent calls of one async actor: waiting coroutines hold slots, so it is high.

Concurrency groups are no way to keep slots free: each group runs on an event loop of its own (seen on Ray 2.60), and
the state of an async actor must live on one.
"""


START_S = 60.0
"""Longest wait for one actor to come up: its process starts, imports, and loads what it needs."""


BACKGROUND_NICE = 5
"""A third of the processor time of the door when both want it: answers at hand go first, and no analysis starves."""


TRACED_CALL = "traced_call"
"""The method that actors have only where traces are on."""


@dataclass(frozen=True)
class Spec:
    """One row of the plan. ``arguments`` gets the settings and the handles of the rows above it."""

    name: str
    cls: type
    arguments: Callable[[Settings, dict[str, Any]], tuple[Any, ...]]
    asynchronous: bool = True
    needs_ledger_file: bool = False
    can_wait: bool = False
    """Steps back on a busy machine, so that the door and those it waits for go first."""

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return Ray's actor options. Calls are idempotent, hence restarts and retries without limit."""
        options: dict[str, Any] = {
            "name": self.name,
            "namespace": settings.ray_namespace,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": settings.process_cpus,  # 0 by default: the plan must fit a node that is full of other people's work.
            "max_restarts": -1,
            "max_task_retries": -1,
        }
        if self.needs_ledger_file and settings.ledger_resource:
            options |= {"num_cpus": 0, "resources": {settings.ledger_resource: 0.001}}  # A place to be, not a share of it.
        return options | {"max_concurrency": WAITERS_MAX} if self.asynchronous else options


def plan(settings: Settings) -> list[Spec]:
    """Return the actors in start order: each may call only those above it."""
    analyzers = [f"analyzer-{i}" for i in range(settings.analyzers)]
    return [
        Spec("ledger", Ledger, lambda s, _: (s,), asynchronous=False, needs_ledger_file=True),
        Spec("limiter", Limiter, lambda s, _: (s,)),
        Spec("meter", Meter, lambda s, _: (s,), can_wait=True),
        Spec("model-gate", ModelGate, lambda s, up: (s, up["ledger"], key_source(s))),
        *[Spec(name, Analyzer, functools.partial(_analyzer_arguments, name), can_wait=True) for name in analyzers],
        Spec("tracker", Tracker, lambda s, up: (s, up["ledger"], [up[name] for name in analyzers])),
        *[Spec(f"notifier-{sink}", Notifier, functools.partial(_notifier_arguments, sink), can_wait=True) for sink in settings.sink_names],
    ]


def _analyzer_arguments(name: str, settings: Settings, up: dict[str, Any]) -> tuple[Any, ...]:
    return settings, up["ledger"], name, up["model-gate"]


def _notifier_arguments(sink: str, settings: Settings, up: dict[str, Any]) -> tuple[Any, ...]:
    return settings, up["ledger"], sink


class RemoteHandle:
    """Calls a named actor with a time limit and translates Ray's errors. Looks like the protocols in ``handles``.

    Can be sent to other actors. When the actor was replaced under the same name, the next call finds the new one.
    """

    def __init__(self, name: str, namespace: str, timeout_s: float) -> None:
        self._where = (name, namespace)
        self._timeout_s = timeout_s
        self._actor: ActorHandle[Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteHandle, (*self._where, self._timeout_s)

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        call = functools.partial(self._call, method)
        self.__dict__[method] = call
        return call

    async def _call(self, method: str, *args: Any) -> Any:
        timeout_s = None if method == "analyze" else self._timeout_s  # The waiter of an analysis has its own limit.
        with tracing.calling(self._where[0], method):
            try:
                return await asyncio.wait_for(self._submit(await self._find(), method, args), timeout_s)
            except (RayTaskError, RayActorError, RayError, TimeoutError, ValueError) as exc:
                if isinstance(exc, RayActorError | ValueError):
                    self._actor = None
                raise self._translate(exc) from None

    async def _find(self) -> ActorHandle[Any]:
        if self._actor is None:
            name, namespace = self._where
            self._actor = await asyncio.to_thread(ray.get_actor, name, namespace)
        return self._actor

    def _submit(self, actor: ActorHandle[Any], method: str, args: tuple[Any, ...]) -> Awaitable[Any]:
        carrier = tracing.carrier()
        # An actor that a replica without traces has just made anew does not have the method.
        if carrier and (traced := getattr(actor, TRACED_CALL, None)):
            return cast(Awaitable[Any], traced.remote(method, args, carrier))
        return cast(Awaitable[Any], getattr(actor, method).remote(*args))

    def _translate(self, exc: Exception) -> Exception:
        name = self._where[0]
        if isinstance(exc, RayTaskError):
            return exc.cause if isinstance(exc.cause, AttrError) else exc
        if isinstance(exc, PendingCallsLimitExceeded):
            return Overloaded(f"the {name} has too many calls waiting", 2.0)
        if isinstance(exc, TimeoutError | GetTimeoutError):
            return Unavailable(f"the {name} did not answer within {self._timeout_s:g} s", 2.0)
        return Unavailable(f"the {name} is restarting", 2.0)


def handles(settings: Settings) -> dict[str, Any]:
    """Return a handle per actor of the plan, without starting anything."""
    return {s.name: RemoteHandle(s.name, settings.ray_namespace, settings.call_timeout_s) for s in plan(settings)}


def find_actors(settings: Settings) -> Actors:
    """Return handles of the actors that ``open_actors`` started, here or elsewhere on the cluster."""
    return _bundle(handles(settings), settings.analyzers)


def _bundle(found: dict[str, Any], analyzers: int) -> Actors:
    return Actors(
        found["ledger"],
        found["tracker"],
        tuple(found[f"analyzer-{i}"] for i in range(analyzers)),
        found["limiter"],
        found["meter"],
        found,
    )


def connect(address: str, settings: Settings) -> None:
    """Join the Ray cluster at ``address``, unless this process has joined one. Raises Unavailable."""
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, namespace=settings.ray_namespace, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as exc:
        raise Unavailable(f"no Ray cluster answers at '{address}': {exc}") from None


def join_actors(settings: Settings) -> Actors | None:
    """Return handles of the actors that run, whatever their settings; None where there is no service on the cluster.

    What runs counts, not our settings: a path must reach the analyzer that its other askers reach.
    """
    names = {a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == settings.ray_namespace}
    analyzers = sum(name.startswith("analyzer-") for name in names)
    if not analyzers or not {"ledger", "tracker", "limiter", "meter", "model-gate"} <= names:
        return None
    return _bundle({name: RemoteHandle(name, settings.ray_namespace, settings.call_timeout_s) for name in sorted(names)}, analyzers)


def cluster_cpus() -> int:
    """Return the number of processors that the cluster offers now."""
    return int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]


def start_own_ledger(settings: Settings, name: str) -> tuple[LedgerHandle, Callable[[], None]]:
    """Start a ledger on this node that ends with this program; return its handle and how to end it. Raises LedgerFault."""
    handle, stop, health = _start_own(settings, name, Ledger, (settings,))
    if health is None:
        raise LedgerFault(f"the ledger '{settings.ledger_file}' could not be opened; does another process hold it?")
    return cast(LedgerHandle, handle), stop


def start_own_gate(settings: Settings, ledger: LedgerHandle, name: str) -> tuple[ModelGateHandle, Callable[[], None]]:
    """Start a model gate on this node that ends with this program; return its handle and how to end it. Raises Unavailable."""
    handle, stop, health = _start_own(settings, name, ModelGate, (settings, ledger, key_source(settings)), max_concurrency=WAITERS_MAX)
    if health is None:
        raise Unavailable(f"the {name} did not start; see the Ray logs of actor '{name}'")
    return cast(ModelGateHandle, handle), stop


def _start_own(
    settings: Settings, name: str, cls: type, arguments: tuple[Any, ...], **more: Any
) -> tuple[RemoteHandle, Callable[[], None], Health | None]:
    own = f"{settings.ray_namespace}-own"  # Not among the service's actors, which are found by their namespace.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": name, "namespace": own, "num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, **more}
    actor: ActorHandle[Any] = cast(Any, ray.remote(cls)).options(**options, scheduling_strategy=here).remote(*arguments)
    health = _ask_health(actor, time.monotonic() + START_S)
    return RemoteHandle(name, own, settings.call_timeout_s), lambda: ray.kill(actor), health


def open_actors(settings: Settings) -> Actors:
    """Start what does not run, replace what runs with other settings or another version, and return the handles.

    Safe to call from every replica and program at once. Blocks; raises Unavailable when an actor does not come up.
    """
    up = handles(settings)
    for spec in plan(settings):
        _open(spec, settings, up, time.monotonic() + START_S)
    return find_actors(settings)


def _open(spec: Spec, settings: Settings, up: dict[str, Any], deadline: float) -> None:
    wanted = (attr_actors.__version__, settings.fingerprint())
    while time.monotonic() < deadline:
        actor = _create(spec, settings, up)
        try:
            health = _ask_health(actor, deadline)
        except LedgerTakenOver:  # It is there, and so is what the replica will answer from memory.
            return
        if health and (health.version, health.fingerprint) == wanted:
            return
        if health:  # Another version or other settings: make room for ours.
            ray.kill(actor, no_restart=True)
    raise Unavailable(f"the {spec.name} did not start; see the Ray logs of actor '{spec.name}'", 5.0)


def _create(spec: Spec, settings: Settings, up: dict[str, Any]) -> ActorHandle[Any]:
    """Return the actor of that name, made now if there is none."""
    cls = _stepping_back(spec.cls) if spec.can_wait else spec.cls
    if settings.traces_url:
        cls = _traced(cls, spec.name, spec.asynchronous)
    return cast(ActorHandle[Any], cast(Any, ray.remote(cls)).options(**spec.options(settings)).remote(*spec.arguments(settings, up)))


def _stepping_back(cls: type) -> type:
    """Return the class for a process of its own that the scheduler serves after others."""

    def start(self: Any, *args: Any) -> None:
        os.nice(BACKGROUND_NICE)
        cls.__init__(self, *args)  # type: ignore[misc]  # It is the base of what is made below.

    return type(cls.__name__, (cls,), {"__init__": start, "__doc__": cls.__doc__})


def _traced(cls: type, name: str, asynchronous: bool) -> type:
    """Return the class for a process that sends spans, with one more method: a call that brings its caller's span along."""

    def start(self: Any, settings: Settings, *args: Any) -> None:
        tracing.start(settings, name)
        cls.__init__(self, settings, *args)  # type: ignore[misc]  # It is the base of what is made below.

    def call(self: Any, method: str, args: tuple[Any, ...], carrier: tracing.Carrier) -> Any:
        with tracing.called(name, method, carrier):
            return getattr(self, method)(*args)

    async def call_async(self: Any, method: str, args: tuple[Any, ...], carrier: tracing.Carrier) -> Any:
        with tracing.called(name, method, carrier):
            return await getattr(self, method)(*args)

    return type(cls.__name__, (cls,), {"__init__": start, "__doc__": cls.__doc__, TRACED_CALL: call_async if asynchronous else call})


def mend_actors(settings: Settings) -> None:
    """Make anew the actors that are gone for good, and touch no other.

    Ray restarts an actor whose process died, but neither one that somebody killed nor one whose constructor failed.
    Blocks briefly.
    """
    up = handles(settings)
    for spec in plan(settings):
        try:
            actor = ray.get_actor(spec.name, settings.ray_namespace)
        except ValueError:
            _create(spec, settings, up)
        else:
            if spec.cls is Ledger:  # One that nobody asks for anything would not see that a successor wants its file.
                actor.health.remote()


def _ask_health(actor: ActorHandle[Any], deadline: float) -> Health | None:
    try:
        return cast(Health, ray.get(actor.health.remote(), timeout=max(0.1, deadline - time.monotonic())))
    except RayTaskError as exc:
        raise exc.cause if isinstance(exc.cause, AttrError) else exc from None
    except (RayActorError, GetTimeoutError):
        return None


def stop_actors(settings: Settings) -> None:
    """End the actors of the plan, callers first. What they acknowledged is in the ledger's file."""
    for spec in reversed(plan(settings)):
        try:
            actor = ray.get_actor(spec.name, settings.ray_namespace)
        except ValueError:
            continue  # It does not run.
        if spec.cls is Notifier:
            _drain(actor, settings.drain_timeout_s)
        ray.kill(actor, no_restart=True)


def _drain(notifier: ActorHandle[Any], timeout_s: float) -> None:
    """Let a notifier deliver what is due; what it does not get done waits in the ledger."""
    with contextlib.suppress(RayError, GetTimeoutError):
        ray.get(notifier.drain.remote(timeout_s), timeout=timeout_s + 1)
