"""Failure attribution for GPU training clusters: why a job died, on which node, with the lines that prove it.

The Python API is ``LogAnalyzer`` with ``AnalyzerConfig``; see ``attr_actors.library``. Its names load on first use, so
that ``import attr_actors`` stays instant and free of Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attr_actors.library import AnalyzerConfig, AttributionService, LogAnalyzer, setup

__version__ = "0.1.0"
__all__ = ["AnalyzerConfig", "AttributionService", "LogAnalyzer", "__version__", "setup"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'attr_actors' has no attribute '{name}'")
    from attr_actors import library

    return getattr(library, name)
