"""What the tests of the engine share: compiling all rows takes seconds, so it is done once."""

from __future__ import annotations

import pytest

from attr_actors.core.signatures.database import Database, open_database


@pytest.fixture(scope="session")
def signatures_cache(pytestconfig: pytest.Config) -> str:
    """Where the compiled rows are kept from run to run."""
    assert pytestconfig.cache is not None
    return str(pytestconfig.cache.mkdir("signatures"))


@pytest.fixture(scope="session")
def database(signatures_cache: str) -> Database:
    return open_database(backend="hyperscan", cache_dir=signatures_cache)


@pytest.fixture(scope="session")
def re2_database() -> Database:
    return open_database(backend="re2")
