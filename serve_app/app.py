"""The Ray Serve application: opens the actors, serves the API. ``build_app`` is what Serve configs name.

Serve reads the type of ``build_app``'s argument at run time to turn ``args:`` into settings, so that annotations are not postponed here.
"""

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application, metrics
from ray.serve.schema import LoggingConfig

from attr_actors import tracing
from attr_actors.actors.cluster import mend_actors, open_actors
from attr_actors.core.exposition import Metric
from attr_actors.settings import Settings
from serve_app.asgi import Asgi
from serve_app.door import Door
from serve_app.ray_figures import Gauge, RayFigures
from serve_app.traced_door import TracedDoor

APP_NAME = "attr-actors"

HEALTH_THREADS = 4
"""Looks at the actors of one replica at a time. Serve gives each up after its timeout, while Ray's head may be silent for longer."""


@serve.deployment(name="ingress")
@serve.ingress()
class Ingress:
    """Exists because HTTP needs several processes: each replica serves the whole API over the same named actors."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it.
        logging.getLogger("attr_actors").setLevel(settings.log_level_name)
        self._settings = settings
        self._health_threads = ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="health")  # No request can fill them.
        tracing.start(settings, f"ingress-{serve.get_replica_context().replica_tag}")
        door = Door(settings, await asyncio.to_thread(open_actors, settings))
        self._app: Asgi = TracedDoor(door) if tracing.is_on() else door
        if settings.ray_metrics:
            self._publishing = asyncio.create_task(RayFigures(door.counters, _open_gauge, _is_first).run())

    async def check_health(self) -> None:
        """Mend the supervision plan; Serve asks each replica every few seconds. A silent Ray head is no fault of the replica."""
        with contextlib.suppress(RayError):
            await asyncio.get_running_loop().run_in_executor(self._health_threads, mend_actors, self._settings)

    def __serve_build_asgi_app__(self) -> Asgi:
        return self._app


def _open_gauge(metric: Metric) -> Gauge:
    gauge: Gauge = metrics.Gauge(metric.name, metric.help, cast(Any, metric.labels)).set
    return gauge


def _is_first() -> bool:
    """Tell whether this is the replica that speaks for all; Serve numbers them anew when one goes."""
    return serve.get_replica_context().rank.rank == 0


def _serve_log_level(wanted: str) -> str:
    """Return the level of Serve's own logger. At INFO it makes a record of every request, also with its access log off."""
    return "WARNING" if wanted == "INFO" else wanted


def build_app(args: Settings) -> Application:
    """Return the application; in a Serve config ``args:`` win over the environment, and that over the defaults."""
    args.check_reach()
    tracing.check(args)
    return Ingress.options(  # type: ignore[attr-defined, no-any-return]
        ray_actor_options={"num_cpus": args.process_cpus},
        max_ongoing_requests=10 * args.waiting_requests_max,  # The door refuses before that, and lets probes and kept replies through.
        graceful_shutdown_timeout_s=20,
        health_check_period_s=5,
        health_check_timeout_s=20,
        autoscaling_config={
            "min_replicas": args.replicas_min,
            "max_replicas": max(args.replicas_min, args.replicas_max),
            "target_ongoing_requests": args.replica_requests_target,
        },
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=False, log_level=_serve_log_level(args.log_level_name)),
    ).bind(args)
