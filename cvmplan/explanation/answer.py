"""What a search found, in words: the command line that should have been typed, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cvmplan.core.documented import as_document, summary
from cvmplan.core.errors import CvmplanError
from cvmplan.core.platform import Platform
from cvmplan.evidence.evidence import Evidence
from cvmplan.explanation.axes import Asked, Axis, Candidate, Choice
from cvmplan.explanation.rules import RULES
from cvmplan.explanation.search import Found, Search
from cvmplan.explanation.states import FEATURES
from cvmplan.kvm.abi import ABIS
from cvmplan.launch.documented import Said, document_settings, document_value
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Launch
from cvmplan.launch.settings import SETTINGS, TOP
from cvmplan.profiles import PROFILES, Profile, cpus
from cvmplan.readers.firmware import Firmware

STATES: Final = {
    "vcpus": "each vCPU adds one measured VMSA",
    "cpu": "the CPU signature is in RDX of each VMSA",
    "sev_features": "SEV_FEATURES are in each VMSA",
}
DEBUG_SWAP: Final = 1 << 5
MOST_NAMED: Final = 40  # choices of an axis that an answer lists
FILES: Final = ("kernel_hash", "initrd_hash")
_KERNEL: Final = ("kernel", "kernel_hash")


class Change(NamedTuple):
    """
    One thing that is otherwise than was given: as typed, what it was, and why that matters.

    `id` is that of the choice, or the name of a setting of vCPU states.
    """

    id: str
    typed: str
    was: str
    why: str


class Omitted(NamedTuple):
    """What was not searched, and in words with what would have been needed."""

    id: str
    words: str


class Searched(NamedTuple):
    """What was varied, its name for people, and what was tried."""

    id: str
    name: str
    values: str


class Explanation(NamedTuple):
    """
    What came out: the `command` and `changes` where the digest was reproduced, else empty.

    `complete`: everything that was to be searched was.  `doubts`: what evidence says otherwise
    than the launch, and is not measured.  `settings` are those of the launch that was found,
    `firmware` is what it starts with where no image was given.
    """

    expected: str
    platform: Platform
    command: tuple[str, ...]
    changes: tuple[Change, ...]
    candidates: int
    complete: bool
    searched: tuple[Searched, ...]
    not_searched: tuple[Omitted, ...]
    evidence: str = ""
    doubts: tuple[str, ...] = ()
    settings: Mapping[str, Said] = {}
    firmware: Firmware | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document that the verb prints."""
        return as_document(self)

    def __repr__(self) -> str:
        typed = " ".join(change.typed for change in self.changes)
        told = {"explained": self.explained, "candidates": self.candidates}
        return summary("Explanation", **told, changes=repr(typed[:100]))

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
        document_settings(found.launch.assumed | found.launch.given) if found else {},
        found.image.firmware if found else None,
    )


def _command(asked: Asked, found: Found) -> tuple[str, ...]:
    shown = found.image.shown
    path = f"./{shown}" if shown.startswith("-") and shown != "-" else shown
    launch = found.launch
    fewer = found.options.usual != asked.options.usual
    names = {*SETTINGS, *(TOP if fewer else ())} - found.options.names()
    usual = [
        (name, value)
        for name, value in launch.assumed.items()
        if name in launch.places and name in names and not name.endswith("_hash")
    ]
    typed = _typed(asked, (*usual, *found.options.items()))
    return ("cvmplan", "measure", path, *typed, *(("--no-defaults",) if fewer else ()))


def _typed(asked: Asked, options: Iterable[tuple[str, Value | Candidate | None]]) -> Iterator[str]:
    """Yield options as they are typed, files by their names."""
    for name, value in options:
        if name in FILES and isinstance(value, bytes) and value in asked.named:
            yield from (f"--{name.removesuffix('_hash')}", asked.named[value])
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Profile):
            yield from (flag, _profile(value))
        elif value is True:
            yield flag
        elif value is not None and not isinstance(value, Candidate):
            said = document_value(name, value)
            for piece in said if isinstance(said, list) else [str(said)]:
                yield from (flag, piece)


def _profile(profile: Profile) -> str:
    """Return the name of a profile; one that is not built in is a file."""
    return profile.name if PROFILES.get(profile.name) == profile else f"{profile.name}.json"


def _thought(asked: Asked, search: Search) -> Given:
    """Return the settings that were given, and those that would have been assumed."""
    try:
        launch = search.given()
    except CvmplanError:
        return asked.settings
    signature = Given({"cpu_signature": launch.guest.cpu_signature})
    return signature | launch.assumed | asked.settings


def _changes(asked: Asked, before: Given, found: Found) -> Iterator[Change]:
    for choice in found.choices:
        if found.image.firmware and "image" in choice.changes:
            continue  # which of a catalogue: the firmware of the answer
        yield _change(asked, choice, before, found)
    for name, why in STATES.items():
        value = found.options.value(name)
        if value is not None and value != asked.options.value(name):
            typed = " ".join(_typed(asked, [(name, value)]))
            before_it = name if name in before or name != "cpu" else "cpu_signature"
            was = document_settings(before.only(before_it)).get(before_it, "")
            yield Change(name, typed, str(was), _more(name, why, found))


def _more(name: str, why: str, found: Found) -> str:
    value = found.options.number(name) or 0
    if name == "vcpus" and value == 1 and found.launch.abi.vmsa_scope == "all":
        kernels = (abi.name for abi in ABIS.values() if abi.vmsa_scope != "all")
        return f"{why}; or the kernel measures that of the boot vCPU only (--abi {next(kernels)})"
    if name == "sev_features" and value & DEBUG_SWAP:
        return f"{why}; Linux 6.7 to 6.9 set DebugSwap (0x20) by default"
    return why


def _change(asked: Asked, choice: Choice, before: Given, found: Found) -> Change:
    """Return what a choice changes, as typed."""
    if "image" in choice.changes:
        return Change(choice.id, found.image.shown, "", choice.why)
    rule = next((name for name in choice.changes if name in RULES), None)
    if rule is not None:
        file, value = f"{found.launch.profile.name}.json", str(choice.changes[rule]).lower()
        made = f"a profile {file} with {rule} {value}"
        return Change(choice.id, made, "", f"{choice.why} ('cvmplan profiles NAME --format json')")
    typed = " ".join(map(quoted, _typed(asked, choice.changes.items())))
    gone = {
        name: was
        for name, value in choice.changes.items()
        if (was := before.value(name)) is not None
        and (value is not None or asked.given(name) is not None)
    }
    if not typed:
        flags = [word for word in _typed(asked, gone.items()) if word.startswith("--")]
        typed = f"without {' '.join(flags)}"
    return Change(
        choice.id, typed, " ".join(_said(asked, value) for value in gone.values()), choice.why
    )


def _said(asked: Asked, value: Value) -> str:
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
        names = [*map(_named, axis.choices[:MOST_NAMED])]
        more = len(axis.choices) - len(names)
        names += [f"and {more} more"] if more else []
        yield Searched(axis.id, axis.name, "; ".join(names))
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


def _not_searched(asked: Asked, search: Search) -> Iterator[Omitted]:
    if asked.image.firmware:
        yield Omitted(
            "catalogue", "firmware that is not in the catalogue ('cvmplan catalogue add FILE')"
        )
    else:
        yield Omitted(
            "image", "different bytes of the image: each build has its own digest (--try FILE)"
        )
    if asked.platform.policy is not None and asked.image.source.format != "igvm":
        if all(asked.given(name) is None for name in _KERNEL) and not asked.tries:
            yield Omitted(
                "kernel",
                "a kernel that is booted directly: none was given (--kernel, or --try FILE)",
            )
        if asked.given("append") is None and asked.given("append_hash") is not None:
            yield Omitted(
                "line", "variants of the command line: only its hash was given (--append)"
            )
    if asked.image.source.declared.settings.names() & {*_KERNEL}:
        yield Omitted(
            "no-kernel", "a launch without a kernel: the manifest names one (leave its 'boot' out)"
        )
    if asked.platform.page_info and asked.given("svsm") is None:
        yield Omitted(
            "svsm", "an SVSM below the firmware: no binary was given (--svsm, --vars-size)"
        )
    for which, one in search.refused.items():
        yield Omitted(f"refused:{which}", f"{one.what}: {one.reason}")
    if not search.complete:
        yield Omitted("time", "whatever the time limit excluded (raise --budget SECONDS)")


def _doubts(launch: Launch, evidence: Evidence) -> Iterator[str]:
    """Yield what evidence says otherwise than the launch; nothing of it is measured."""
    told = document_settings(Given(evidence.settings))
    guest = {name: getattr(launch.guest, name) for name in told}
    ours = {n: None if v is None else document_value(n, v) for n, v in guest.items()}
    for name, value in told.items():
        empty = isinstance(value, str) and not value.strip("0")
        if ours[name] != value and not (ours[name] is None and empty):
            yield f"{name} is {value}, the launch has {ours[name] or 'none'}: not measured"
