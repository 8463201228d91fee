"""Finders of secrets made from the detectors of the detect-secrets library (its maintained distribution, bc-detect-secrets).

Hold in mind: only the detectors' expressions are used. Their verification, which sends a found secret to its issuer, and
their entropy and keyword heuristics, which are made for source code, are not. Passwords in URLs are left to our own
pattern, which keeps the scheme and the user.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator

from detect_secrets.plugins.base import RegexBasedDetector

from attr_actors.core.redaction import Finder, Span

MODULES = (
    "artifactory",
    "aws",
    "azure_storage_key",
    "cloudant",
    "discord",
    "github_token",
    "ibm_cloud_iam",
    "ibm_cos_hmac",
    "jwt",
    "mailchimp",
    "npm",
    "private_key",
    "sendgrid",
    "slack",
    "softlayer",
    "square_oauth",
    "stripe",
    "twilio",
)
GROUP_MIN = 12
"""A group shorter than this is a part of the key (such as a prefix), so the whole match is masked."""


def library_finders() -> tuple[Finder, ...]:
    """Return one finder per detector of the library."""
    return tuple(_finder(kind, expressions) for kind, expressions in _detectors())


def _detectors() -> Iterator[tuple[str, tuple[re.Pattern[str], ...]]]:
    for name in MODULES:
        module = importlib.import_module(f"detect_secrets.plugins.{name}")
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, RegexBasedDetector) and found.__module__ == module.__name__:
                kind = re.sub(r"\W+", "_", str(found.secret_type).lower()).strip("_")
                yield kind, tuple(found().denylist)


def _finder(kind: str, expressions: tuple[re.Pattern[str], ...]) -> Finder:
    def find(text: str) -> Iterable[Span]:
        for expression in expressions:
            for found in expression.finditer(text):
                group = next((g for g in range(1, expression.groups + 1) if len(found.group(g) or "") >= GROUP_MIN), 0)
                yield found.start(group), found.end(group), kind

    return find
