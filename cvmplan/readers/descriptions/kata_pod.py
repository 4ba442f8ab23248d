"""A pod, and tables within tables: what a Kata configuration is read with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.documents import text
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.readers.descriptions.described import whole_text, wrong

CPUS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?m?")
"""A quantity of processors, as Kubernetes writes it."""

Table: TypeAlias = Mapping[str, Any]


def pod_of(options: Given, open_file: Opener | None) -> tuple[Blob, Table] | None:
    """Return the file of a pod and the pod; MalformedError."""
    path = options.text("pod")
    if path is None or open_file is None:
        return None
    blob = open_file(path, "pod")
    whole_text(blob)
    held = text.parse(blob)
    if not isinstance(held, dict) or not isinstance(below(held, "spec"), dict):
        raise wrong(blob, "spec", "missing: not a pod")
    template = below(held, "spec", "template")
    return blob, template if isinstance(template, dict) else held


def below(held: Any, *names: str) -> Any:
    """Return what lies below keys, None where there is none."""
    for name in names:
        held = held.get(name) if isinstance(held, dict) else None
    return held


def table(held: Any, *names: str) -> Table:
    """Return the table below keys, empty where there is none."""
    found = below(held, *names)
    return found if isinstance(found, dict) else {}


def merged(held: Table, other: Table) -> dict[str, Any]:
    """Return tables with those of a drop-in file over them, key by key."""
    made = dict(held)
    for name, value in other.items():
        inside = isinstance(value, dict) and isinstance(made.get(name), dict)
        made[name] = merged(made[name], value) if inside else value
    return made


def limits(blob: Blob, pod: Table) -> Iterator[Decimal]:
    """Yield the CPU limit of each container that has one."""
    containers = below(pod, "spec", "containers")
    for number, one in enumerate(containers if isinstance(containers, list) else ()):
        limit = below(one, "resources", "limits", "cpu")
        if limit is None:
            continue
        written = str(limit)
        if not CPUS.fullmatch(written):
            place = f"spec.containers[{number}].resources.limits.cpu"
            raise wrong(blob, place, f"{written[:40]!r} is not a number of processors")
        milli = written.endswith("m")
        yield Decimal(written.removesuffix("m")) / (1000 if milli else 1)


def quantity(blob: Blob, name: str, value: str) -> Decimal:
    """Return what an annotation has as a number; MalformedError."""
    if not CPUS.fullmatch(value) or value.endswith("m"):
        raise wrong(blob, name, f"{value!r} is not a number")
    return Decimal(value)
