"""What a recording shows: its digest, by three programs, and its calls against the plan's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.recorder import fold
from tests.recorder.kept import Kept
from tests.recorder.launches import FILES, Launch
from tests.run import run


class Verdict(NamedTuple):
    """Whether a launch was as planned, and what was found in words."""

    right: bool
    words: str


def of(launch: Launch, name: str) -> str:
    """Return the value of an option of cvmplan, "" where it is not given."""
    given = launch.options
    return given[given.index(name) + 1] if name in given else ""


def options(launch: Launch, folder: Path) -> list[str]:
    """Return the options of a launch whose files are in `folder`."""
    return [str(folder / word) if word in FILES else word for word in launch.options]


def simulated(recording: Kept, launch: Launch, folder: Path) -> dict[str, Any]:
    """Return the document of `simulate RECORDING`."""
    image = options(launch, folder)[0]
    told = run("simulate", "-", "--image", image, "--format", "json", stdin=recording.text)
    if told.err:
        raise AssertionError(told.err)
    return dict(json.loads(told.out))


def compared(recording: Kept, launch: Launch, folder: Path) -> dict[str, Any]:
    """Return the document of `diff IMAGE RECORDING` with the options of the launch."""
    image, *given = options(launch, folder)
    told = run(
        "diff", image, "-", "--vmm", "qemu", *given, "--format", "json", stdin=recording.text
    )
    if told.err:
        raise AssertionError(told.err)
    return dict(json.loads(told.out))


def measured(launch: Launch, folder: Path) -> str:
    """Return the digest by `measure`."""
    image, *given = options(launch, folder)
    told = run("measure", image, "--vmm", "qemu", *given, "--bare")
    if told.err:
        raise AssertionError(told.err)
    return told.out


def folded(recording: Kept, launch: Launch, folder: Path) -> str:
    """Return the digest of the recorded calls by hashlib and sev-snp-measure."""
    platform, image = of(launch, "--platform"), FILES[launch.options[0]]
    if platform == "tdx":
        return fold.tdx(recording.lines, image)
    if platform == "sev":
        return fold.flat(recording.lines, image, [])
    vcpus, path = int(of(launch, "--vcpus")), options(launch, folder)[0]
    active = platform == "snp"
    whole = active or of(launch, "--es-init") == "init2"
    states = fold.vmsas(path, vcpus, of(launch, "--cpu"), snp_active=active, fpu=whole)
    return (fold.snp if active else fold.flat)(recording.lines, image, states)


def ended(found: dict[str, Any]) -> tuple[str, str] | None:
    """Return the last operation with its errno, where the launch did not become final."""
    last = [(r["op"], r["errno"]) for r in found["results"] if r["result"] == "error"]
    return last[-1] if last and not found["finalized"] else None


def judge(recording: Kept, launch: Launch, folder: Path) -> Verdict:
    """Return whether a VMM did what was planned, or ended where it is known to."""
    found = simulated(recording, launch, folder)
    if launch.stops or launch.says:
        stop = ended(found)
        right = stop == launch.stops and launch.says in recording.said and not found["finalized"]
        return Verdict(right, f"ends: {' '.join(stop or ())} {recording.said[:60]!r}")
    digests = {found["digest"], folded(recording, launch, folder)}
    planned = measured(launch, folder)
    calls = compared(recording, launch, folder)["calls"]
    known = sum(one["count"] for one in calls["deviations"])
    right = len(digests) == 1 and (planned in digests) == launch.same
    right = right and not calls["differences"]
    equal = "digest equal" if planned in digests else "digest differs, as it must"
    return Verdict(
        right,
        f"{equal} {planned[:12]}… {calls['compared']} calls, {calls['fields_equal']} fields equal, "
        f"{calls['differences']} differ, {known} known deviations",
    )
