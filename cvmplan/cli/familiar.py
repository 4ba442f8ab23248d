"""
Options of sev-snp-measure and snpguest, for people who have them in their fingers.

Each stands for one of ours, and no page of help lists them.  Without a verb, the options of
sev-snp-measure print what that tool prints.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cvmplan.cli.process import tell
from cvmplan.cli.words import Declared, Word
from cvmplan.core.errors import ConfigError, InputError, UnsupportedError
from cvmplan.core.names import spelled, unknown
from cvmplan.core.values import one_of
from cvmplan.launch.command_line import VCPUS
from cvmplan.planning.read import read_value

if TYPE_CHECKING:
    from cvmplan.operations.measure import Measurement
    from cvmplan.operations.plan import Plan

LIKE_TOOL: Final = "--like-sev-snp-measure"
"""Stands before options that were typed without a verb."""
RENAMED: Final = {
    "--vcpu-type": "--cpu",
    "--vcpu-sig": "--cpu",
    "--vcpu-family": "--family",
    "--vcpu-model": "--model",
    "--vcpu-stepping": "--stepping",
    "--guest-features": "--sev-features",
    "--snp-ovmf-hash": "--firmware-digest",
    "--ovmf-hash": "--firmware-digest",
    "--vmm-type": "--vmm",
    "--vars-file": "--vars-size",
    "--measurement-file": "--output",
    "--ovmf": "",
}
"""The option that each of the tools' stands for; "" is IMAGE."""
MODE: Final = "--mode"
VMMS: Final = {"krun": "libkrun"}
"""VMMs that the tools call otherwise, in lower case."""


class Mode(NamedTuple):
    """A mode of the tool, how it prints that, and our options; `features`: it measures those."""

    name: str
    title: str
    options: tuple[Word, ...]
    features: bool = False


MODES: Final = {
    mode.name: mode
    for mode in (
        Mode("sev", "SEV", (Word("--platform", "sev"),)),
        Mode("seves", "SEV_ES", (Word("--platform", "sev-es"), Word("--es-init", "init2"))),
        Mode("snp", "SEV_SNP", (Word("--platform", "snp"),), features=True),
        Mode("snp:ovmf-hash", "", (Word("--platform", "snp"), Word("--firmware-only"))),
        Mode("snp:svsm", "SEV_SNP_SVSM", (Word("--platform", "snp"), Word("--vmm", "svsm-qemu"))),
    )
}


def options_of_the_tool() -> dict[str, Declared]:
    """Return the options of this module, all of which take a value."""
    return {name: Declared(name, takes_value=True, repeatable=False) for name in (*RENAMED, MODE)}


def is_like_the_tool(argv: Sequence[str]) -> bool:
    """Whether a command line without a verb is one of sev-snp-measure."""
    names = {word.partition("=")[0] for word in argv}
    return argv[:1] != [] and argv[0].startswith("-") and bool(names & {MODE, "--ovmf"})


def translate(words: Sequence[Word], known: Collection[str]) -> tuple[list[Word], dict[str, str]]:
    """
    Return `words` with options that are `known`, and each of those with what was typed.

    ConfigError for a mode or a combination that does not exist, InputError for a file.
    """
    mode = _mode(words)
    if Word(LIKE_TOOL) in words:
        words = [*_as_the_tool(words, mode)]
    found: list[Word] = []
    typed: dict[str, str] = {}
    for word in words:
        if word.name == MODE and mode is not None and "--platform" in known:
            new: tuple[Word, ...] = mode.options
        elif word.name in RENAMED and (RENAMED[word.name] or "--platform") in known:
            new = tuple(_renamed(word, mode))
        else:
            new = (word,)
        typed |= {one.name: word.name for one in new if one.name != word.name and one.name}
        found += new
    if "--firmware-only" in typed and "--firmware-only" not in known:
        raise ConfigError("'snp:ovmf-hash' is only supported by measure", at=MODE)
    return found, typed


def _mode(words: Iterable[Word]) -> Mode | None:
    """Return the mode that is named, None without one; ConfigError."""
    name = next((word.value for word in words if word.name == MODE), None)
    if name is None:
        return None
    found = MODES.get(spelled(name, MODES))
    if found is None:
        raise unknown("mode", name, MODES, MODE)
    return found


def _renamed(word: Word, mode: Mode | None) -> Iterator[Word]:
    """Yield what an option of the tools stands for, nothing where it changes no digest there."""
    name, value = RENAMED[word.name], word.value
    if value is None:
        yield word
    elif word.name == "--guest-features" and mode is not None and not mode.features:
        tell(f"{word.name} has no effect with {MODE} {mode.name}")
    elif word.name == "--vmm-type":
        vmm = VMMS.get(value.lower(), value)
        if mode is None or not any(option.name == name for option in mode.options):
            yield Word(name, vmm)
        elif vmm.lower() != "qemu":
            raise ConfigError(
                f"{vmm[:60]!r} is not supported with {MODE} {mode.name}", at=word.name
            )
    else:
        yield Word(name, str(_size(value)) if word.name == "--vars-file" else value)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot open: {reason}", at=path or "''") from None


def _as_the_tool(words: Iterable[Word], mode: Mode | None) -> Iterator[Word]:
    """Yield the words with what makes `measure` print as the tool does; ConfigError."""
    always = mode is MODES["snp:ovmf-hash"]  # which is printed as hex
    left = (LIKE_TOOL, "-v", "--verbose", *(["--output-format"] if always else []))
    kept = [word for word in words if word.name not in left]
    given = {word.name: word.value for word in kept}
    missing = [name for name in (MODE, "--ovmf") if name not in given]
    title = mode.title if mode else ""
    if title and mode is not MODES["sev"]:
        missing += ["--vcpus"] if "--vcpus" not in given else []
        typed = {"--vcpu-type", "--vcpu-sig", "--vcpu-family"} & {*given}
        vmm = (given.get("--vmm-type") or "QEMU").upper()
        missing += (
            ["--vcpu-type (or --vcpu-sig, or --vcpu-family)"] if not typed and vmm == "QEMU" else []
        )
    if missing:
        raise ConfigError(f"missing {' and '.join(missing)}", at="cvmplan")
    yield from map(_literal, kept)
    yield Word("--no-defaults")
    if "--output-format" not in given:
        yield Word("--output-format", "hex")
    if title and len(kept) + 1 < len([*words]):
        yield Word("--title", title)


def _literal(word: Word) -> Word:
    """Return a command line that is a template elsewhere by its hash: the tool knows none."""
    if word.name != "--append" or VCPUS not in (word.value or ""):
        return word
    line = (word.value or "").encode("utf-8", "surrogateescape")
    return Word("--append-hash", sha256(line + b"\0").hexdigest())


def as_printed(result: Measurement, format: str, title: str) -> str:
    """Return the line that sev-snp-measure prints; ConfigError for a `format` it does not have."""
    chosen = read_value(one_of("hex", "base64"), format.lower(), "--output-format")
    digest = result.digest.hex() if chosen == "hex" else b64encode(result.digest).decode()
    return f"Calculated {title} guest measurement: {digest}\n" if title else f"{digest}\n"


def firmware_only(plan: Plan, result: Measurement) -> Measurement:
    """Return the launch digest after the firmware's pages, as --firmware-digest takes it."""
    from cvmplan.platforms.snp.digest import running

    for step, digest in running(plan.trace()):
        if getattr(step, "contents", None) is not None:
            return result._replace(digest=digest)
    raise UnsupportedError("the launch adds no firmware", at=MODE)


def dump_states(plan: Plan, folder: str | None) -> str:
    """
    Write the vCPU states that the launch measures into `folder`, under the tool's names.

    Return what stands for standard output, which the digest is printed to.
    """
    from cvmplan.cli.folder import Contents, write_folder

    if folder is None:
        raise ConfigError("needs a folder", at="--dump-vmsa", hint="-o DIR")
    steps: list[Any] = [step for step in plan.trace() if hasattr(step, "vcpus")]
    pages = [step.page for step in steps for _ in step.vcpus]
    if not pages:
        problem = "the kernel measures no vCPU states in this launch"
        raise UnsupportedError(problem, at="--dump-vmsa")
    files = {f"vmsa{number}.bin": Contents(page) for number, page in enumerate(pages)}
    write_folder(folder, files, force=True)
    return "-"
