"""A pod, and tables within tables: what a Kata configuration is read with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.values import printable
from cvmplan.documents import text
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.readers.descriptions.described import whole_text, wrong

CPUS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?m?")
"""A quantity of processors, as Kubernetes writes it."""

NUMBERS: Final = ("default_vcpus", "default_memory")
SWITCHES: Final = ("enable_iommu", "use_legacy_serial")
FLAGGED: Final = {"true": True, "false": False, "1": True, "0": False, "t": True, "f": False}
"""How Go writes true and false (strconv.ParseBool)."""

ANY: Final = ".*"
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
    for names in (("spec", "template"), ("spec", "jobTemplate", "spec", "template")):
        template = below(held, *names)
        if isinstance(template, dict):
            return blob, template
    return blob, held


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


def check_enabled(blob: Blob, key: str, patterns: Any) -> None:
    """
    Raise MalformedError for a hypervisor annotation that the configuration does not enable.

    `patterns`: what enable_annotations has, of which each is sought in the name as it is.
    UnsupportedError where that takes a regular expression.

    Source: kata-containers 4.1.0 src/runtime/pkg/oci/utils.go (checkAnnotationNameIsValid).
    """
    listed = [str(one) for one in patterns] if isinstance(patterns, list) else []
    if any(one in key or one == ANY for one in listed):
        return
    odd = next((one for one in listed if not one.replace("_", "").isalnum()), None)
    if odd is not None:
        problem = f"{odd[:60]!r} of enable_annotations, a regular expression, is not modelled"
        raise UnsupportedError(printable(problem), at=f"{blob.name}: annotation {key}")
    raise wrong(blob, f"annotation {key}", "is not enabled: the runtime refuses the pod")


def limit_of(blob: Blob, pod: Table) -> Decimal:
    """
    Return the CPU limit of a pod's sandbox, 0 where there is none; MalformedError.

    Containers without a limit add nothing.  Init containers run one after the other, beside those
    of them that are restarted always, which go on.

    Source: kubernetes 1.34 pkg/kubelet/kuberuntime/kuberuntime_sandbox_linux.go
    (calculateSandboxResources), staging/src/k8s.io/component-helpers/resource/helpers.go
    (PodLimits, AggregateContainerLimits).
    """
    spec = table(pod, "spec")
    if not isinstance(spec.get("containers"), list):
        raise wrong(blob, "spec.containers", "missing: not a pod")
    whole = below(spec, "resources", "limits", "cpu")
    if whole is not None:
        return _cpus(blob, "spec.resources.limits.cpu", whole)
    total = sum((limit for _, limit in _limits(blob, spec, "containers")), Decimal(0))
    going, most = Decimal(0), Decimal(0)
    for one, limit in _limits(blob, spec, "initContainers"):
        always = one.get("restartPolicy") == "Always"
        going += limit if always else 0
        most = max(most, going if always else going + limit)
    return max(total + going, most)


def _limits(blob: Blob, spec: Table, name: str) -> Iterator[tuple[Table, Decimal]]:
    """Yield containers with their limits, 0 where one has none."""
    several = spec.get(name)
    for number, one in enumerate(several if isinstance(several, list) else ()):
        limit = below(one, "resources", "limits", "cpu")
        place = f"spec.{name}[{number}].resources.limits.cpu"
        yield table(one), Decimal(0) if limit is None else _cpus(blob, place, limit)


def _cpus(blob: Blob, place: str, limit: Any) -> Decimal:
    written = str(limit)
    if not CPUS.fullmatch(written):
        raise wrong(blob, place, f"{written[:40]!r} is not a number of processors")
    return Decimal(written.removesuffix("m")) / (1000 if written.endswith("m") else 1)


def converted(blob: Blob, key: str, name: str, value: str) -> Any:
    """Return the annotation `name` as the configuration would have its `key`; MalformedError."""
    if key in NUMBERS:
        return quantity(blob, name, value)
    if key not in SWITCHES:
        return value
    if value.lower() not in FLAGGED:
        raise wrong(blob, name, f"{value!r} is not true or false")
    return FLAGGED[value.lower()]


def quantity(blob: Blob, name: str, value: str) -> Decimal:
    """Return what an annotation has as a number; MalformedError."""
    if not CPUS.fullmatch(value) or value.endswith("m"):
        raise wrong(blob, name, f"{value!r} is not a number")
    return Decimal(value)
