"""The sample logs that ship with the project are understood, and are what their generator writes."""

from __future__ import annotations

import pytest

from attr_actors.core.engine import attribute_scan
from bench.samples import KINDS, SAMPLES, render_sample
from tests.core.reference_scan import scan_bytes
from tests.core.rows import ROWS

EXPECTED = {
    "cuda_oom": ("cuda_oom", "STOP", "CUDA out of memory"),
    "nccl_missing_rank": ("network_nccl", "RESTART", "Watchdog caught collective operation timeout"),
    "xid_79": ("gpu_hardware", "EXCLUDE", "Xid (PCI:0000:c1:00): 79"),
    "disk_full": ("storage", "STOP", "No space left on device"),
    "missing_dataset": ("data", "STOP", "No such file or directory: '/data/web/shard-02117.tar'"),
    "time_limit": ("scheduler", "RESTART", "DUE TO TIME LIMIT"),
    "nan_loss": ("numerical", "STOP", "step 470 | loss: nan"),
    "user_traceback": ("user_code", "STOP", "KeyError: 'token_accuracy'"),
    "healthy": ("none", "CONTINUE", "after training is done"),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_shipped_sample_is_understood(kind: object) -> None:
    name = getattr(kind, "__name__", "")
    data = (SAMPLES / f"{name}.log").read_bytes()
    answer = attribute_scan(scan_bytes(data, ROWS), ROWS, 24_000)[-1]
    category, action, root = EXPECTED[name]
    assert (answer.category.value, answer.action.value) == (category, action)
    assert root in answer.root_lines[0].text
    assert len(data) <= 40_000


def test_the_missing_rank_and_the_broken_node_are_named() -> None:
    def suspects(name: str) -> list[str]:
        scan = scan_bytes((SAMPLES / f"{name}.log").read_bytes(), ROWS)
        return [s.name for s in attribute_scan(scan, ROWS, 24_000)[-1].suspects]

    assert "6" in suspects("nccl_missing_rank")
    assert "gpu-node-17" in suspects("xid_79")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_generator_writes_what_is_shipped(kind: object) -> None:
    name = getattr(kind, "__name__", "")
    assert (SAMPLES / f"{name}.log").read_text("utf-8") == render_sample(kind)  # type: ignore[arg-type]
