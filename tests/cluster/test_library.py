"""The Python API on a Ray cluster: it shares the service's actors, or brings its own and takes them away again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import ray.util

from attr_actors import AnalyzerConfig, LogAnalyzer
from attr_actors.actors.cluster import open_actors, stop_actors
from attr_actors.errors import OutsideRoot
from attr_actors.settings import Settings
from tests.api.conftest import OOM_LOG


def running() -> set[str]:
    return {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == "attr-actors"}


def test_it_brings_its_own_actors_and_takes_them_away(ray_address: str, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(OOM_LOG)

    async def main() -> None:
        config = AnalyzerConfig(allowed_root=str(tmp_path), ray_address=ray_address, cache_file=str(tmp_path / "ledger.db"))
        async with LogAnalyzer(config) as analyzer:
            assert {"ledger", "tracker", "analyzer-0"} <= running()
            assert (await analyzer.submit(str(log))).submitted
            assert (await analyzer.analyze(str(log))).attribution
            with pytest.raises(OutsideRoot):
                await analyzer.analyze("/etc/passwd")

    asyncio.run(main())
    assert not running()


def test_it_shares_the_actors_of_a_running_service_and_leaves_them(ray_address: str, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(OOM_LOG)
    service = Settings.load(allowed_root=str(tmp_path), cache_file=str(tmp_path / "ledger.db"), analyzers=3)
    open_actors(service)

    async def main() -> float:
        async with LogAnalyzer(AnalyzerConfig(allowed_root=str(tmp_path), ray_address=ray_address)) as analyzer:
            await analyzer.analyze(str(log))
            return float((await analyzer.get_stats())["compute"]["completed"])

    try:
        assert asyncio.run(main()) == 1
        assert asyncio.run(main()) == 1
        assert "analyzer-2" in running()
    finally:
        stop_actors(service)
