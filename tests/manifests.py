"""Manifests for tests: a document, written beside the files that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.run import Result, run


def region(gpa: float | str, kind: str = "zero", **more: Any) -> dict[str, Any]:
    """Return a region of a manifest; one page of zeros where nothing else is said."""
    sized = "size" in more or "source" in more
    return {"gpa": gpa, "type": kind, **({} if sized else {"size": 4096}), **more}


def document(*regions: dict[str, Any], platform: str = "snp", **more: Any) -> dict[str, Any]:
    """Return a manifest of `regions`."""
    return {
        "schema": "cvmplan.manifest/1",
        "platform": platform,
        "regions": list(regions),
        **more,
    }


def write(folder: Path, manifest: Any, name: str = "m.json") -> str:
    """Write a manifest and return its path."""
    path = folder / name
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    return str(path)


def run_on(folder: Path, verb: str, manifest: Any, *args: str) -> Result:
    """Write a manifest and run a verb on it."""
    return run(verb, write(folder, manifest), *args)
