"""Attributes files here and now, in this process: what ``nvrx-attrsvc analyze`` does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from attr_actors.core.engine import Engine
from attr_actors.core.paths import admit
from attr_actors.core.terminal import render_terminal
from attr_actors.errors import AttrError
from attr_actors.models import Analysis
from attr_actors.settings import Settings


@dataclass(frozen=True)
class Row:
    """The answer of one file, or why there is none. Several workload cycles: the last one ended the job."""

    log_path: str
    analysis: Analysis | None = None
    error: str | None = None

    def render_json(self) -> str:
        """Return one line of the result schema that batches write as well."""
        if self.analysis is None:
            return json.dumps({"log_path": self.log_path, "error": self.error})
        return json.dumps({"log_path": self.log_path, "attribution": self.analysis.cycles[-1].model_dump(mode="json")})

    def render_text(self, width: int, colour: bool = False) -> str:
        """Return the answer for a person."""
        if self.analysis is None:
            return f"{self.log_path}  NOT ANALYSED: {self.error}"
        return render_terminal(self.log_path, self.analysis.cycles[-1], width, colour)


def attribute_files(files: Iterable[str]) -> Iterator[Row]:
    """Attribute each file in turn with the rights of the caller; a bad file is a row, not an error."""
    engine = Engine(Settings.load(allowed_root="/").engine)
    for name in files:
        try:
            yield Row(name, engine.analyze(admit(os.path.abspath(name), "/")))
        except AttrError as exc:
            yield Row(name, error=exc.message)
