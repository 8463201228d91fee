"""Starts or joins Ray, deploys the application, waits, and stops what it started: the way of ``nvrx-attrsvc`` without arguments."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from attr_actors import tracing
from attr_actors.errors import AttrError, Unavailable
from attr_actors.settings import Settings
from serve_app.ray_environment import prepare_environment

if TYPE_CHECKING:
    from ray.job_config import JobConfig

logger = logging.getLogger("attr_actors.launch")

READY_TIMEOUT_S = 120.0
"""Ray and Serve are up within about 15 s on two quiet cores; a loaded machine needs a multiple."""


def serve_until_stopped(
    settings: Settings, say: Callable[[str], None], greet: Callable[[str], None] | None = None, once: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM; call ``greet(url)`` when ready, and with ``once`` stop after it.

    Raises Unavailable if the service cannot start, and BadSettings if it would be open to strangers or could not send traces.
    """
    settings.check_reach()
    tracing.check(settings)
    url = f"http://{_url_host(settings.host)}:{settings.port}"
    _check_port(settings)
    with _ray(settings), _signals() as stopped, _application(settings, stopped):
        _wait_ready(url, stopped)
        if greet and not stopped():
            greet(url)
        if once:
            return
        if not stopped():
            say(f"attr-actors serves {settings.allowed_root} at {url} (documentation: {url}/docs). Stop with Ctrl-C.")
        while not stopped():
            time.sleep(0.2)
        say("Stopping ...")


@contextlib.contextmanager
def _ray(settings: Settings) -> Iterator[None]:
    place = prepare_environment()
    os.chdir("/")  # Ray lets its processes import from here, and others may write where the service was started.
    import ray

    address = os.environ.get("RAY_ADDRESS", "local")
    local: dict[str, Any] = {"include_dashboard": False, "num_cpus": os.cpu_count()} if address == "local" else {}
    ray.init(
        address=address,
        namespace=settings.ray_namespace,
        log_to_driver=False,
        logging_level=logging.ERROR,
        job_config=_job_config(settings.log_level_name),
        **local,
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def _job_config(log_level: str) -> JobConfig:
    """Let the actors and replicas log JSON. Given to ``ray.init`` itself, it would rule this process as well, where a person reads."""
    import ray
    from ray.job_config import JobConfig

    config = JobConfig()
    config.set_py_logging_config(ray.LoggingConfig(encoding="JSON", log_level=log_level))
    return config


@contextlib.contextmanager
def _application(settings: Settings, stopped: Callable[[], bool]) -> Iterator[None]:
    """Deploy the application and wait until it runs or a signal came; end it and its actors in any case."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    from serve_app.app import APP_NAME

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # Serve sets it when it is imported.
    try:
        try:
            _deploy(APP_NAME, settings, stopped)
        except (RayError, RayServeException, RuntimeError, TimeoutError) as exc:
            raise Unavailable(f"the service did not start: {exc}") from None
        yield
    finally:
        _end(APP_NAME, settings)


def _deploy(app_name: str, settings: Settings, stopped: Callable[[], bool]) -> None:
    """Deploy the application; Serve tries a few times. Raises Unavailable with what it knows about a deployment that failed."""
    from ray import serve

    from serve_app.app import build_app

    serve.start(http_options={"host": settings.host, "port": settings.port})
    target = serve.RunTarget(build_app(settings), name=app_name, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    while not stopped():
        app = serve.status().applications.get(app_name)
        if app and app.status == "RUNNING":
            return
        if app and app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            lines = [line for d in app.deployments.values() for line in d.message.splitlines() if line.strip()]
            raise Unavailable(f"the service did not start: {lines[-1].strip() if lines else app.message}")
        time.sleep(0.2)


def _end(app_name: str, settings: Settings) -> None:
    """End the application, its actors and, where Ray is ours, Serve: each also where what came before it could not be ended."""
    from ray import serve

    from attr_actors.actors.cluster import stop_actors

    with contextlib.ExitStack() as last_first:
        if os.environ.get("RAY_ADDRESS", "local") == "local":
            last_first.callback(_try, serve.shutdown)  # Ends HAProxy, which would outlive Ray.
        last_first.callback(_try, stop_actors, settings)
        last_first.callback(_try, serve.delete, app_name)


def _try(step: Callable[..., object], *args: object) -> None:
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        step(*args)
    except (AttrError, RayError, RayServeException, RuntimeError, TimeoutError) as exc:
        logger.warning("not everything could be ended: %s", exc)


def _wait_ready(url: str, stopped: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not stopped():
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/healthz?ready=true", timeout=5):
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"{url} did not answer within {READY_TIMEOUT_S:g} s; see the Serve logs in Ray's session directory")
        time.sleep(0.2)


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag, so that stopping runs to its end. Enter it after Ray, which installs its own."""
    seen: list[int] = []

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        if len(seen) > 2:  # A person who insists is not held.
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_port(settings: Settings) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as exc:
            raise Unavailable(
                f"cannot listen on {settings.host}:{settings.port}: {exc.strerror}; set NVRX_ATTRSVC_PORT or NVRX_ATTRSVC_HOST"
            ) from None


def _url_host(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
