"""
The words of a QEMU command line, as people have them.

NUL-separated (/proc/PID/cmdline), a JSON array, a line for a shell (scripts, libvirt's logs), or
words with blanks between and no quotes (ps, logs of Kata).  Nothing is executed or expanded.

Sources: proc(5); POSIX.1-2024, 2.2 Quoting; kata-containers 7c6ba40 (LaunchCustomQemu of
src/runtime/pkg/govmm/qemu/qemu.go, src/runtime-rs/crates/hypervisor/src/qemu/inner.rs); qemu 11.1.3
qemu-options.hx.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import dropwhile, takewhile
from re import Match
from typing import Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.values import printable
from cvmplan.documents.plain import is_text
from cvmplan.readers.descriptions.described import MOST_BYTES, whole_text, wrong
from cvmplan.readers.descriptions.shell import ExpansionError, Word, words

MOST_WORDS: Final = 1 << 14
SHOWN: Final = 5  # places of several
MANY: Final = 2  # words that are more than one
HEAD: Final = 1 << 16  # bytes in which a command line begins
_NAME: Final = r"(?:qemu-system-(?:x86_64|i386)|qemu-kvm|kvm)(?:[-.][-.\w]{0,60})?"
_PATH: Final = rf"(?:[^\s\"'=\[\]]{{0,200}}/)?{_NAME}"
_PROGRAM: Final = re.compile(_PATH)
_ARRAY: Final = re.compile(rf'\[\s*+"{_PATH}"')
_BEFORE: Final = (
    r"\w++=(?:'[^'\n]*+'|\"[^\"\n]*+\"|\S*+)|exec|sudo|env|nice|ionice|nohup|setsid|taskset|numactl|chrt"
    r"|-[-\w=,:]*+|[0-9][-,0-9a-fx]*+|\$"
)
"""Words in front of a program: variables, and programs that start another, with their options."""
_SHELL: Final = re.compile(
    rf"""^[ \t]*+(?:(?:{_BEFORE})[ \t]++)*+["']?{_PATH}["']?[ \t]++(?=[-\\'"])""", re.MULTILINE
)
_OPERATOR: Final = re.compile(r"[0-9]{0,2}[<>]|[;&|#]")
_LOG: Final = re.compile(rf"launching {_PATH} with: \[|qemu args: ")


def _names(written: str) -> frozenset[str]:
    return frozenset(written.split())


WITH_VALUE: Final = _names(
    """
    accel acpitable action add-fd append async-teardown audio audiodev bios blockdev boot cdrom
    chardev compat cpu d D debugcon device dfilter display drive dtb dump-vmstate echr fda fdb
    fsdev fw_cfg gdb global hda hdb hdc hdd icount incoming initrd iscsi k kernel L loadvm m
    machine M mem-path mon monitor msg mtdblock name net netdev nic numa object option-rom
    overcommit parallel pflash pidfile plugin qmp qmp-pretty readconfig rotate rtc run-with
    runas sandbox sd seed semihosting-config serial set shim smbios smp soundhw spice tb-size
    tpmdev trace usbdevice uuid vga virtfs virtioconsole vnc watchdog-action xen-domid
    """
)
WITHOUT_VALUE: Final = _names(
    """
    audio-help daemonize enable-fips enable-kvm enable-sync-profile full-screen h help jitdump
    mem-prealloc no-acpi no-fd-bootchk no-hpet no-reboot no-shutdown no-user-config nodefaults
    nographic old-param one-insn-per-tb only-migratable perfmap preconfig S s semihosting
    singlestep snapshot usb version win2k-hack xen-attach xen-domid-restrict
    """
)
"""Options of QEMU with a value and without, by their names."""
_KNOWN: Final = WITH_VALUE | WITHOUT_VALUE


class Option(NamedTuple):
    """An option of QEMU, and its value, "" where it has none."""

    name: str
    value: str


class Line(NamedTuple):
    """
    The options of a command line.

    `unquoted`: the line has no quotes, and what follows -append was put together again.
    """

    options: tuple[Option, ...]
    unquoted: bool = False


def recognises(blob: Blob) -> bool:
    """Whether the file begins as a command line of QEMU does, or as a log that has one."""
    head = bytes(blob.data[:HEAD])
    first, nul, rest = head.partition(b"\0")
    if nul:
        return rest[:1] == b"-" and _PROGRAM.fullmatch(first.decode("latin-1")) is not None
    if not is_text(blob):
        return False
    shown = head.decode("utf-8", "replace")
    return any(p.search(shown) for p in (_SHELL, _LOG)) or _ARRAY.match(shown.lstrip()) is not None


def read(blob: Blob) -> Line:
    """Return the options; MalformedError with the place, UnsupportedError for shell expansions."""
    if len(blob) > MOST_BYTES:
        raise MalformedError(f"larger than {MOST_BYTES >> 20} MiB", at=blob.name)
    data = bytes(blob.data)
    if b"\0" in data:
        return Line(tuple(options(blob, _separated(blob, data))))
    written = whole_text(blob).replace("\r\n", "\n")
    if _ARRAY.match(written.lstrip()):
        return Line(tuple(options(blob, _array(blob, written))))
    logged = [*_LOG.finditer(written)]
    if logged:
        return _unquoted(blob, _logged(blob, written, logged))
    line = _shell_line(blob, written)
    if _has_no_quotes(line):
        _check_operators(blob, line)
        return _unquoted(blob, line.partition("\n")[0].split(" "))
    words = _shell_words(blob, line)
    return Line(tuple(options(blob, [word.text for word in words])), unquoted=_is_doubtful(line))


def _value_of_append(line: str) -> list[str]:
    """Return the words behind -append up to the next option, as they stand there."""
    words = line.partition("\n")[0].split(" ")
    at = next((n for n, word in enumerate(words) if word in ("-append", "--append")), len(words))
    return [*takewhile(lambda word: not _is_option(word), words[at + 1 :])]


def _has_no_quotes(line: str) -> bool:
    """Whether -append has several words here that no quote keeps together."""
    value = _value_of_append(line)
    if len(value) < MANY or value[0][:1] in ("'", '"') or value[0].endswith(("\\", ";")):
        return False
    return not _OPERATOR.match(value[1])


def _check_operators(blob: Blob, line: str) -> None:
    """Raise UnsupportedError for a value of -append that is one thing to a shell, another as is."""
    value = " ".join(_value_of_append(line))
    if any(letter in value for letter in ";|&<>"):
        problem = f"{value[:60]!r} has no quotes, and means something else to a shell"
        hint = "take the command line of the running process: /proc/PID/cmdline"
        raise UnsupportedError(printable(problem), at=f"{blob.name}: -append", hint=hint)


def _is_doubtful(line: str) -> bool:
    """Whether quotes in the value of -append might be those of the kernel."""
    value = " ".join(_value_of_append(line))
    return value[:1] not in ("'", '"') and any(letter in value for letter in "'\"")


def _is_option(word: str) -> bool:
    return word.startswith("-") and word.lstrip("-") in _KNOWN


def _separated(blob: Blob, data: bytes) -> list[str]:
    try:
        return data.removesuffix(b"\0").decode().split("\0")
    except UnicodeDecodeError as error:
        raise MalformedError("not UTF-8 text", at=blob.where(error.start)) from None


def _array(blob: Blob, written: str) -> list[str]:
    from cvmplan.documents import text

    try:
        words = text.parse_line(written)
    except (ValueError, RecursionError) as error:
        raise wrong(blob, "", f"not JSON: {error}") from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise wrong(blob, "", "not an array of strings")
    text.check_values(words, blob.name)
    return [str(word) for word in words]


def _logged(blob: Blob, written: str, found: list[Match[str]]) -> list[str]:
    """Return the words of the one launch of a log, as they stand there."""
    if len(found) > 1:
        raise _several(blob, written, found)
    (match,) = found
    number = written.count("\n", 0, match.start()) + 1
    line = written[match.end() :].split("\n", 1)[0].rstrip("\r")
    begin = written.rfind("\n", 0, match.start()) + 1
    if written.count('"', begin, match.start()) % 2:  # inside msg="…"
        line = _ESCAPE.sub(r"\1", _QUOTE.split(line, maxsplit=1)[0])
    if match[0].endswith("["):
        if "]" not in line:
            raise wrong(blob, f"line {number}", "the arguments have no end: ]")
        return ["qemu-system-x86_64", *line.rpartition("]")[0].split(" ")]
    words = line.split(" ")
    return words if not words[0].startswith("-") else ["qemu-system-x86_64", *words]


def _several(blob: Blob, written: str, found: list[Match[str]]) -> MalformedError:
    lines = [written.count("\n", 0, match.start()) + 1 for match in found[:SHOWN]]
    shown = ", ".join(map(str, lines))
    problem = f"{len(found)} command lines of QEMU, at lines {shown}"
    return MalformedError(problem, at=blob.name, hint="keep the one that is meant")


def _shell_line(blob: Blob, written: str) -> str:
    """Return the one line that starts QEMU, with its continuation lines."""
    found = [*_SHELL.finditer(written)]
    if not found:
        raise wrong(blob, "", "no command line of QEMU begins a line")
    if len(found) > 1:
        raise _several(blob, written, found)
    line = written[found[0].start() :].lstrip()
    return line.removeprefix("$ ").rstrip("\r\n ")


_ESCAPE: Final = re.compile(r"\\(.)")
_QUOTE: Final = re.compile(r'(?<!\\)"')


def _shell_words(blob: Blob, line: str) -> list[Word]:
    """Return the words of a line for a shell; UnsupportedError for what a shell would expand."""
    found: list[Word] = []
    try:
        for word in words(line):
            found.append(word)
            _check_number(blob, found)
    except ExpansionError as error:
        problem = f"a shell would expand {str(error)!r}, and nothing is executed"
        hint = "take the command line of the running process: /proc/PID/cmdline"
        raise UnsupportedError(printable(problem), at=blob.name, hint=hint) from None
    except ValueError as error:
        raise wrong(blob, "", f"not a line for a shell: {error}") from None
    return [*dropwhile(lambda word: not _PROGRAM.fullmatch(word.text), found)]


def _check_number(blob: Blob, words: Sequence[object]) -> None:
    if len(words) > MOST_WORDS:
        raise wrong(blob, "", f"more than {MOST_WORDS} words")


def options(blob: Blob, words: list[str]) -> Iterator[Option]:
    """Yield the options; a word that belongs to none has the name ""."""
    _check_number(blob, words)
    at = 1
    while at < len(words):
        word = words[at]
        at += 1
        name = word.removeprefix("-").removeprefix("-")
        if not word.startswith("-") or not name:
            yield Option("", word)
        elif name in WITHOUT_VALUE or not _takes(name, words[at : at + 1]):
            yield Option(name, "")
        elif at == len(words):
            raise wrong(blob, word, "has no value")
        else:
            yield Option(name, words[at])
            at += 1


def _takes(name: str, following: list[str]) -> bool:
    """Whether an option takes the next word: an unknown one does unless that is an option too."""
    return name in WITH_VALUE or bool(following and not following[0].startswith("-"))


def _unquoted(blob: Blob, words: list[str]) -> Line:
    """Return the options of words without quotes: -append reaches to the next option."""
    _check_number(blob, words)
    together: list[str] = []
    for word in words:
        inside = len(together) > 1 and together[-2] in ("-append", "--append")
        if inside and not _is_option(word):
            together[-1] += f" {word}"
        else:
            together.append(word)
    return Line(tuple(options(blob, [word for word in together if word])), unquoted=True)
