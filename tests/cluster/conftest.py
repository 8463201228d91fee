"""One local Ray cluster for all tests of this layer."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a Ray cluster of one node, which this process has joined."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="attr-actors")
    yield context.address_info["address"]
    ray.shutdown()
