"""Who may import whom (the floors), read from the source without importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
MODULES = sorted([*REPO.glob("attr_actors/**/*.py"), *REPO.glob("serve_app/**/*.py")])
RAY_USERS = {"attr_actors/actors/cluster.py", "serve_app/app.py", "serve_app/launch.py", "attr_actors/batch.py", "attr_actors/library.py"}
CORE_FORBIDDEN = {"asyncio", "threading", "socket", "ray", "httpx", "openai", "elasticsearch", "slack_sdk", "sqlite3", "subprocess"}
ADAPTERS_LIBRARIES = {"sqlite3", "openai", "elasticsearch", "slack_sdk"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found.add(node.module or "")
    return found


def name(path: Path) -> str:
    return str(path.relative_to(REPO))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_imports_only_from_its_floor_and_below(path: Path) -> None:
    me, used = name(path), imports(path)
    tops = {module.split(".")[0] for module in used}
    if me not in RAY_USERS:
        assert "ray" not in tops
    if me != "attr_actors/adapters/spans.py":  # Loaded only where traces are on.
        assert "opentelemetry" not in tops
    if me.startswith("attr_actors/core/"):
        assert not tops & CORE_FORBIDDEN
        ours = {m for m in used if m.startswith("attr_actors")}
        assert all(m.startswith(("attr_actors.core", "attr_actors.errors", "attr_actors.models")) for m in ours), ours
    if me.startswith("attr_actors/adapters/"):
        assert not any(m.startswith(("attr_actors.actors", "serve_app")) for m in used)
    if me.startswith("attr_actors/actors/") and not me.endswith("cluster.py"):
        assert not tops & ADAPTERS_LIBRARIES
        assert "serve_app" not in tops
    if me.startswith("serve_app/") and me not in RAY_USERS:
        assert not any(m.startswith(("attr_actors.actors", "attr_actors.adapters")) for m in used)
    if me in ("attr_actors/errors.py", "attr_actors/models.py", "attr_actors/handles.py"):
        assert not any(m.startswith("attr_actors.") and m not in ("attr_actors.models", "attr_actors.errors") for m in used)


def test_actors_never_import_one_another() -> None:
    actors = {"ledger", "tracker", "analyzer", "notifier", "limiter"}
    for actor in actors:
        path = REPO / f"attr_actors/actors/{actor}.py"
        if path.exists():
            others = {f"attr_actors.actors.{other}" for other in actors - {actor}}
            assert not imports(path) & others


def test_importing_the_package_imports_no_ray_and_takes_under_half_a_second() -> None:
    code = "import time; t = time.perf_counter(); import attr_actors, sys; print(time.perf_counter() - t, 'ray' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO).stdout.split()
    assert float(out[0]) < 0.5
    assert out[1] == "False"
