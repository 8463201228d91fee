"""Failure attribution for GPU training clusters: why a job died, on which node, with the lines that prove it."""

__version__ = "0.1.0"
