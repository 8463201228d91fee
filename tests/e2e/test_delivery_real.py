"""Deliveries to a real Elasticsearch that comes and goes, from a service that is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from attr_actors.core.entries import entries_of, entry_key
from attr_actors.core.rendering import render_record
from tests.delivering import numbered
from tests.elasticsearch_twin import TooBusy
from tests.killing import Delivering

pytestmark = [pytest.mark.real, pytest.mark.timeout(580)]

ANSWERS = int(os.environ.get("ATTR_ACTORS_ANSWERS", "20000"))
QUICK = {"sink_timeout_s": 3, "outbox_lease_s": 15, "outbox_poll_interval_s": 0.1, "outbox_backoff_max_s": 1, "ledger_lock_wait_s": 10}


class RealElasticsearch:
    """The cluster at ES_URL, and with the shared tool the power to stop it."""

    def __init__(self, url: str, tool: Path) -> None:
        self.url, self.tool = url, tool
        self.index = f"attribution-{uuid.uuid4().hex[:8]}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def count(self) -> int:
        self.ask("POST", f"{self.index}/_refresh")
        return int(self.ask("GET", f"{self.index}/_count")["count"])

    def stop(self, how: int) -> None:
        pid = int(Path(os.environ.get("ES_DIR", "/tmp/es-for-tests"), "tmp", "es.pid").read_text())
        os.kill(pid, how)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def start(self) -> None:
        subprocess.run(["bash", str(self.tool), "up"], check=True, stdout=subprocess.DEVNULL, timeout=180)
        self.ask("GET", f"_cluster/health/{self.index}?wait_for_status=yellow&timeout=60s&level=shards")


@pytest.fixture
def elastic(shared_dir: Path) -> Iterator[RealElasticsearch]:
    url = os.environ.get("ES_URL")
    if not url:
        pytest.skip("needs a real Elasticsearch: set ES_URL (see shared/tools/es_up.sh)")
    server = RealElasticsearch(url, shared_dir / "tools" / "es_up.sh")
    yield server
    server.ask("DELETE", server.index)
    server.ask("DELETE", f"_index_template/attr-actors-{server.index}")


def test_every_answer_is_one_document_after_outages_and_kills(
    elastic: RealElasticsearch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole service is one process here: it is killed three times; Elasticsearch is stopped twice, killed once, and busy once."""
    proxy = TooBusy(elastic.url)
    with proxy.serving():
        settings = {"dataflow_index": elastic.index, "elasticsearch_url": proxy.url, **QUICK}
        service = Delivering(tmp_path, 0, ANSWERS, **settings)

        def reach(share: float) -> None:
            service.wait(lambda: service.acked >= share * ANSWERS, 240)

        def replace() -> None:
            nonlocal service
            service.kill()
            service = Delivering(tmp_path, service.acked, ANSWERS, **settings)

        reach(0.1)
        elastic.stop(signal.SIGTERM)
        reach(0.2)
        replace()
        elastic.start()
        reach(0.35)
        elastic.stop(signal.SIGKILL)
        reach(0.45)
        elastic.start()
        replace()
        reach(0.6)
        proxy.busy = True
        service.wait(lambda: proxy.refused > 0, 120)
        reach(0.7)
        proxy.busy = False
        elastic.stop(signal.SIGTERM)
        replace()
        reach(0.9)
        elastic.start()
        service.wait(lambda: service.acked >= ANSWERS and service.owed == 0, 300)
        service.kill()
    assert elastic.count() == ANSWERS
    for number in range(0, ANSWERS, max(1, ANSWERS // 200)):
        (entry,) = entries_of(numbered(number))
        found = elastic.ask("GET", f"{elastic.index}/_doc/{entry_key(entry)}")
        assert found["_source"] == render_record(entry, "")
    with capsys.disabled():
        print(f"\n{ANSWERS} answers, {elastic.count()} documents, {proxy.refused} requests refused with 429")


def test_fields_have_the_types_of_the_contract(elastic: RealElasticsearch, tmp_path: Path) -> None:
    service = Delivering(tmp_path, 0, 20, dataflow_index=elastic.index, elasticsearch_url=elastic.url, **QUICK)
    service.wait(lambda: service.acked == 20 and service.owed == 0, 60)
    service.kill()
    (mapping,) = elastic.ask("GET", f"{elastic.index}/_mapping").values()
    kinds = {"s": "keyword", "l": "long", "d": "double", "ts": "date"}
    (entry,) = entries_of(numbered(0))
    assert set(mapping["mappings"]["properties"]) == set(render_record(entry, ""))
    for name, field in mapping["mappings"]["properties"].items():
        assert field["type"] == kinds[name.split("_")[0]], name
    assert elastic.count() == 20
    found = elastic.ask("GET", f"{elastic.index}/_search", {"query": {"match": {"s_attribution.text": "cause-7"}}})
    assert found["hits"]["total"]["value"] >= 1


def test_healthy_rate(elastic: RealElasticsearch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: other work on the machine decides."""
    first = Delivering(tmp_path, 0, 10_000)
    first.wait(lambda: first.acked == 10_000, 120)
    first.kill()
    from attr_actors.adapters.ledger_db import LedgerDb
    from attr_actors.adapters.ledger_upkeep import backfill

    db = LedgerDb(str(tmp_path / "ledger.db"))
    assert backfill(db, "elasticsearch", 0.0) == 10_000
    db.close()
    second = Delivering(tmp_path, 0, 0, dataflow_index=elastic.index, elasticsearch_url=elastic.url, **QUICK)
    second.wait(lambda: second.owed is not None, 60)
    started, at_first = time.monotonic(), second.owed or 0
    second.wait(lambda: second.owed == 0, 120)
    spent = time.monotonic() - started
    second.kill()
    assert elastic.count() == 10_000
    with capsys.disabled():
        print(f"\n{at_first / spent:,.0f} documents/s (urls without a password: {not urlsplit(elastic.url).password})")
