"""The signature rows, loaded once for all tests."""

from __future__ import annotations

from attr_actors.core.signatures.library import load_signatures

ROWS = load_signatures()
