"""One local Ray for all tests of this layer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attr_actors.settings import Settings
from serve_app.ray_environment import prepare_environment

prepare_environment()  # Ray reads it at import, so it comes before the tests are collected.


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a Ray cluster of one node, which this process has joined."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own start leaves files open.
        context = ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture
def cluster_settings(ray_address: str, tmp_path: Path) -> Iterator[Callable[..., Settings]]:
    """Make settings with a namespace and a ledger of their own; the actors that they started end with the test."""
    from attr_actors.actors.cluster import stop_actors

    root = tmp_path / "logs"
    root.mkdir()
    made: list[Settings] = []

    def make(**fields: object) -> Settings:
        settings = Settings.load(allowed_root=str(root), cache_file=str(tmp_path / "ledger.db"), ray_namespace=tmp_path.name, **fields)
        made.append(settings)
        return settings

    yield make
    stop_actors(made[-1])
