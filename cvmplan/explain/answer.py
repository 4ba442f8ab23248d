"""What a search found, in words: the command line that should have been typed, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cvmplan.core.errors import CvmplanError
from cvmplan.core.platform import Platform
from cvmplan.evidence.evidence import Evidence
from cvmplan.explain.axes import Asked, Axis, Choice
from cvmplan.explain.rules import RULES
from cvmplan.explain.search import Found, Search
from cvmplan.explain.states import FEATURES
from cvmplan.kvm.abi import ABIS
from cvmplan.launch.model import Launch
from cvmplan.launch.settings import documented
from cvmplan.profiles import PROFILES, Profile, cpus

STATES: Final = {
    "vcpus": "the VMSA of each vCPU is measured, one after the other",
    "cpu": "the CPU's signature stands in RDX of each VMSA",
    "sev_features": "SEV_FEATURES stand in each VMSA",
}
DEBUG_SWAP: Final = 1 << 5
FILES: Final = ("kernel_hash", "initrd_hash")
_KERNEL: Final = ("kernel", "kernel_hash")


class Change(NamedTuple):
    """One thing that is otherwise than was given: as typed, what it was, and why that matters."""

    typed: str
    was: str
    why: str


class Searched(NamedTuple):
    """What was varied, its name for people, and what was tried."""

    id: str
    name: str
    values: str


class Explanation(NamedTuple):
    """
    What came out: the `command` and `changes` where the digest was reproduced, else empty.

    `complete`: everything that was to be searched was.  `doubts`: what evidence says otherwise
    than the launch, and is not measured.
    """

    expected: str
    platform: Platform
    command: tuple[str, ...]
    changes: tuple[Change, ...]
    candidates: int
    complete: bool
    searched: tuple[Searched, ...]
    not_searched: tuple[str, ...]
    evidence: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def explained(self) -> bool:
        """Whether a launch was found that has the digest."""
        return bool(self.command)

    @property
    def shell(self) -> str:
        """The command as one types it; an image that a shell makes stays as it is."""
        return " ".join(w if w.startswith("<(") else quoted(w) for w in self.command)


def explanation(
    asked: Asked,
    axes: Sequence[Axis],
    want: bytes,
    search: Search,
    found: Found | None,
    evidence: Evidence | None,
) -> Explanation:
    """Return the answer of a search."""
    kind = f"{evidence.kind}; its signature was not looked at" if evidence else ""
    return Explanation(
        want.hex(),
        found.launch.platform if found else asked.platform,
        _command(asked, found) if found else (),
        tuple(_changes(asked, _thought(asked, search), found)) if found else (),
        search.candidates,
        search.complete,
        tuple(_searched(asked, axes, search)),
        tuple(_not_searched(asked, search)),
        kind,
        tuple(_doubts(found.launch, evidence)) if found and evidence else (),
    )


def _command(asked: Asked, found: Found) -> tuple[str, ...]:
    shown = found.image.shown
    path = f"./{shown}" if shown.startswith("-") and shown != "-" else shown
    return ("cvmplan", "measure", path, *_typed(asked, found.options))


def _typed(asked: Asked, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield options as they are typed, files by their names."""
    for name, value in options.items():
        if name in FILES and value in asked.named:
            yield from (f"--{name.removesuffix('_hash')}", asked.named[value])
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Profile):
            yield from (flag, _profile(value))
        elif name == "prefault":
            for piece in documented({name: value})[name]:
                yield from (flag, piece)
        elif value is True:
            yield flag
        elif value is not None:
            yield from (flag, str(documented({name: value})[name]))


def _profile(profile: Profile) -> str:
    """Return the name of a profile; one that is not built in is a file."""
    return profile.name if PROFILES.get(profile.name) == profile else f"{profile.name}.json"


def _thought(asked: Asked, search: Search) -> dict[str, Any]:
    """Return the settings that were given, and those that would have been assumed."""
    given = {**asked.image.source.declared.settings, **asked.options}
    try:
        launch = search.given()
    except CvmplanError:
        return given
    return {"cpu_signature": launch.guest.cpu_signature, **launch.assumed, **given}


def _changes(asked: Asked, before: Mapping[str, Any], found: Found) -> Iterator[Change]:
    for choice in found.choices:
        yield _change(asked, choice, before, found)
    for name, why in STATES.items():
        if name in found.options and found.options[name] != asked.options.get(name):
            typed = " ".join(_typed(asked, {name: found.options[name]}))
            before_it = name if name in before or name != "cpu" else "cpu_signature"
            was = documented({before_it: before.get(before_it, "")})[before_it]
            yield Change(typed, str(was), _more(name, why, found))


def _more(name: str, why: str, found: Found) -> str:
    value = found.options[name]
    if name == "vcpus" and value == 1 and found.launch.abi.vmsa_scope == "all":
        kernels = (abi.name for abi in ABIS.values() if abi.vmsa_scope != "all")
        return f"{why}; or the kernel measures that of the boot vCPU only (--abi {next(kernels)})"
    if name == "sev_features" and value & DEBUG_SWAP:
        return f"{why}; Linux 6.7 to 6.9 set DebugSwap (0x20) unless told otherwise"
    return why


def _change(asked: Asked, choice: Choice, before: Mapping[str, Any], found: Found) -> Change:
    """Return what a choice changes, as typed."""
    if "image" in choice.changes:
        return Change(found.image.shown, "", choice.why)
    rule = next((name for name in choice.changes if name in RULES), None)
    if rule is not None:
        profile = found.options["vmm"]
        made = f"a profile {profile.name}.json with {rule} {str(choice.changes[rule]).lower()}"
        return Change(made, "", f"{choice.why} ('cvmplan profiles NAME --format json')")
    typed = " ".join(map(quoted, _typed(asked, choice.changes)))
    gone = {
        name: before[name]
        for name, value in choice.changes.items()
        if before.get(name) is not None and (value is not None or asked.given(name) is not None)
    }
    if not typed:
        flags = [word for word in _typed(asked, gone) if word.startswith("--")]
        typed = f"without {' '.join(flags)}"
    return Change(typed, " ".join(_said(asked, value) for value in gone.values()), choice.why)


def _said(asked: Asked, value: Any) -> str:
    if isinstance(value, Profile):
        return value.name
    if isinstance(value, bytes):
        return quoted(asked.named.get(value, value.hex()))
    return quoted(str(value))


def quoted(word: str) -> str:
    """Return a word as a shell takes it; what is not printable as bash's $'…' has it."""
    if word.isprintable():
        return shlex.quote(word)
    escapes = (_escaped(byte) for byte in word.encode("utf-8", "surrogateescape"))
    return f"$'{''.join(escapes)}'"


def _escaped(byte: int) -> str:
    if byte in b"\\'":
        return f"\\{byte:c}"
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"


def _searched(asked: Asked, axes: Sequence[Axis], search: Search) -> Iterator[Searched]:
    for axis in axes:
        yield Searched(axis.id, axis.name, "; ".join(map(_named, axis.choices)))
    if asked.platform.vmsa and search.done:
        yield Searched("vcpus", "vCPUs", _reaches(search))
        signatures = map(hex, sorted({*cpus.SIGNATURES.values(), *cpus.CHIPS}))
        yield Searched("cpu", "CPU signatures", ", ".join(signatures))
        single = ", and single bits" if any(t.features is None for t in search.done) else ""
        features = ", ".join(map(hex, FEATURES)) + single
        yield Searched("sev_features", "SEV_FEATURES", features)


def _reaches(search: Search) -> str:
    """Say up to how many vCPUs were looked at, by how many other things were changed at once."""
    most: dict[int, int] = {}
    for tier in search.done:
        most[tier.axes] = max(most.get(tier.axes, 0), tier.vcpus)
    told = (f"1 to {vcpus} with {count} of the above" for count, vcpus in sorted(most.items()))
    return "; ".join(told)


def _named(choice: Choice) -> str:
    profile = choice.changes.get("vmm")
    return profile.name if isinstance(profile, Profile) else choice.why


def _not_searched(asked: Asked, search: Search) -> Iterator[str]:
    yield "other bytes of the image: each build has a digest of its own (--try FILE)"
    if asked.platform.policy is not None and asked.image.source.format != "igvm":
        if all(asked.given(name) is None for name in _KERNEL) and not asked.tries:
            yield "a kernel that is booted directly: none was given (--kernel, or --try FILE)"
        if asked.given("append") is None and asked.given("append_hash") is not None:
            yield "variants of the command line: only its hash was given (--append)"
    if asked.image.source.declared.settings.keys() & {*_KERNEL}:
        yield "a launch without a kernel: the manifest names one (leave its 'boot' out)"
    if asked.platform.page_info and asked.given("svsm") is None:
        yield "an SVSM below the firmware: no binary was given (--svsm, --vars-size)"
    for one in search.refused.values():
        yield f"{one.what}: {one.reason}"
    if not search.complete:
        yield "what the time did not suffice for (--budget SECONDS)"


def _doubts(launch: Launch, evidence: Evidence) -> Iterator[str]:
    """Yield what evidence says otherwise than the launch; nothing of it is measured."""
    told = documented(evidence.settings)
    ours = documented({n: getattr(launch.guest, n) for n in told})
    for name, value in told.items():
        empty = isinstance(value, str) and not value.strip("0")
        if ours[name] != value and not (ours[name] is None and empty):
            yield f"{name} is {value}, the launch has {ours[name] or 'none'}: not measured"
