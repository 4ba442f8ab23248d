"""Who reads what is cut off: functions that take bytes, and verbs that take a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import cvmplan
from cvmplan.boot import acpi, smbios, stub
from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError
from cvmplan.core.files import Files
from cvmplan.core.platform import Platform
from cvmplan.documents import text
from cvmplan.eventlog import forms, rtmr
from cvmplan.evidence import certificates, cose, evidence, keys, signatures, wrappers
from cvmplan.images import (
    firmware_volume,
    gpt,
    guid_table,
    igvm,
    ovmf,
    pe,
    rom,
    tdvf,
    uki,
    variable_store,
)
from cvmplan.launch.given import Given
from cvmplan.platforms.snp import idblock, report
from cvmplan.platforms.tdx import params, quote
from cvmplan.readers import (
    DOCUMENTS,
    calls,
    descriptions,
    firmware,
    log_fields,
    log_groups,
    manifest,
    matrix,
    plan,
    profile,
    recognise,
    recorded,
    recorded_lines,
    strace,
    trace,
    trace_events,
    vmm_errors,
)
from cvmplan.reference import read as references
from cvmplan.sev_session import session
from cvmplan.sweep.matrix import read_matrix
from tests.run import run

CODES: Final = {0, 1, 2, 3, 4, 5, 6}  # 5, 6: `rtmr` lacks an input, or holds by a template
SMALL: Final = 1 << 20  # bytes; below that no run takes longer than SECONDS
SECONDS: Final = 2.0
LARGE_SECONDS: Final = 10.0
Reader = Callable[[Blob], object]


def all_of(found: Any) -> object:
    """Everything that a generator yields."""
    return list(found)


def recognised(blob: Blob) -> object:
    """What each platform's reader makes of an image that is recognised."""
    name, reader = recognise(blob)
    if name in DOCUMENTS:
        return reader.inspect(blob)
    return [reader.inspect(blob), *(reader.read(blob, p) for p in reader.platforms(blob))]


def planned(blob: Blob) -> object:
    """The measurement of an image, for each platform that measures."""
    return [
        cvmplan.measure(cvmplan.plan_image(bytes(blob.data), platform=p)) for p in ("snp", "tdx")
    ]


def events(blob: Blob) -> object:
    """The registers to which an event log leads, and what its events say."""
    log = forms.read(blob)
    return rtmr.replayed(log, {})


def certified(blob: Blob) -> object:
    """The certificates that come with evidence."""
    return signatures.certificates_in(evidence.read(blob, trailing=True))


def qemu_lines(blob: Blob) -> object:
    """What QEMU's errors say, of any text."""
    log = vmm_errors.Log()
    for line in bytes(blob.data[:SMALL]).decode(errors="replace").splitlines():
        log.read(line)
    return log.correction()


def logged(form: ModuleType, blob: Blob) -> object:
    """What a form of recording makes of any text."""
    return [form.recognises(blob), form.read(blob)]


def taken_off(decoder: wrappers.Decoder, blob: Blob) -> object:
    """What a decoder takes off bytes that it recognises; contents are looked for as always."""
    return decoder.recognises(blob) and decoder.decode(blob, wrappers.pieces)


READERS: Final[dict[str, Reader]] = {
    "recognise": recognised,
    "plan_image": planned,
    "sweep_image": lambda blob: all_of(cvmplan.sweep_image(bytes(blob.data), vcpus="1-2")),
    "ovmf": lambda blob: [ovmf.recognises(blob), ovmf.inspect(blob), ovmf.read(blob, "snp")],
    "svsm": lambda blob: ovmf.read_svsm(blob, 1 << 32),
    "tdvf": lambda blob: [tdvf.recognises(blob), tdvf.inspect(blob), tdvf.read(blob, "tdx")],
    "igvm": lambda blob: [igvm.recognises(blob), igvm.inspect(blob), igvm.read(blob, "snp")],
    "igvm-vbs": lambda blob: [igvm.platforms(blob), igvm.read(blob, "vbs")],
    "rom": lambda blob: [rom.fits(blob), rom.recognises(blob), rom.inspect(blob)],
    "guid-table": guid_table.read_guid_table,
    "manifest": lambda blob: [manifest.recognises(blob), manifest.read(blob, Files().open)],
    "manifest-inspect": manifest.inspect,
    "description": lambda blob: descriptions.read(blob, Files().open, Given()),
    "description-inspect": descriptions.inspect,
    "uki-parts": uki.parts,
    "firmware": lambda blob: [firmware.recognises(blob), firmware.read(blob, Files().open)],
    "firmware-inspect": firmware.inspect,
    "plan": lambda blob: [plan.recognises(blob), plan.read(blob, Files().find)],
    "plan-inspect": plan.inspect,
    "calls": lambda blob: calls.read(blob, Files().find),
    "trace": lambda blob: [trace.recognises(blob), trace.read(blob)],
    "recorded": lambda blob: [recorded.recognises(blob), recorded.read(blob, Platform.SNP)],
    **{
        f"recorded-{name}": partial(logged, form)
        for name, form in (
            ("events", trace_events),
            ("strace", strace),
            ("fields", log_fields),
            ("groups", log_groups),
            ("lines", recorded_lines),
        )
    },
    "qemu": qemu_lines,
    "matrix": lambda blob: all_of(matrix.read(blob)),
    "matrix-files": lambda blob: read_matrix(blob, Files()),
    "profile": profile.read,
    "text": lambda blob: [text.is_text(blob), text.parse(blob)],
    "evidence": lambda blob: evidence.read(blob, trailing=True),
    "evidence-exact": evidence.read,
    "certificates-inside": certified,
    "unwrap": wrappers.unwrap,
    "report": report.read,
    "quote": lambda blob: [quote.is_quote(blob), quote.read_quote(blob)],
    "tdreport": lambda blob: [quote.is_report(blob), quote.read_report(blob)],
    "events": events,
    "certificates": certificates.read,
    "references": references.read,
    "cose": cose.read,
    **{f"wrapper-{one.name}": partial(taken_off, one) for one in wrappers.DECODERS},
    "private-key": lambda blob: [keys.is_key(blob), keys.private_key(blob, lambda: b"")],
    "public-key": keys.public_key,
    "signature": keys.read_der,
    "id-block": lambda blob: [idblock.read_block(blob)],
    "id-auth": lambda blob: [idblock.read_auth(blob)],
    "id-key": lambda blob: [idblock.read_key(blob)],
    "id-signature": lambda blob: [idblock.read_signature(blob)],
    "td-params": params.read,
    "session": session.read_session,
    "session-key": session.read_key,
    "sev-certificate": session.read_certificate,
    "pe": lambda blob: [pe.recognises(blob), pe.authenticode(pe.read(blob))],
    "uki": lambda blob: stub.sections(pe.read(blob)),
    "variable-store": variable_store.read,
    "firmware-volumes": firmware_volume.volumes,
    "gpt": gpt.event,
    "acpi": acpi.derive,
    "smbios": lambda blob: smbios.measured(smbios.installed(blob, None)),
}
"""Every function that takes what somebody else wrote; what it returns is not looked at."""

VERBS: Final[dict[str, list[str]]] = {
    "inspect": ["inspect", "{}"],
    "check": ["check", "{}"],
    "check with expectations": ["check", "--example", "snp", "--expect-file", "{}"],
    "map": ["map", "{}", "--format", "json"],
    "map as a page": ["map", "{}", "--format", "html"],
    "report": ["report", "{}"],
    "report with evidence": [
        "report", "--example", "snp", "--evidence", "{}", "--certs", "{}", "--event-log", "{}",
    ],
    "plan": ["plan", "{}"],
    "plan as calls": ["plan", "{}", "--format", "calls", "--abi", "kvm-6.18"],
    "trace": ["trace", "{}", "--format", "jsonl"],
    "simulate": ["simulate", "{}", "--platform", "snp"],
    "measure": ["measure", "{}"],
    "measure for sev": ["measure", "{}", "--platform", "sev"],
    "measure with a profile": ["measure", "--example", "snp", "--vmm", "{}"],
    "measure with a kernel": ["measure", "--example", "snp", "--kernel", "{}", "--initrd", "{}"],
    "measure a UKI": [
        "measure", "--example", "snp", "--kernel", "{}", "--uki-sections",
    ],
    "measure a description": ["measure", "{}", "--pod", "{}", "--base", "."],
    "measure with an SVSM": ["measure", "--example", "snp", "--svsm", "{}"],
    "measure, against": ["measure", "--example", "snp", "--against", "{}", "--certs", "{}"],
    "measure, expecting": ["measure", "--example", "snp", "--expect", "@{}"],
    "launch-measure": ["launch-measure", "{}", "--tik", "{}", "--platform", "sev"],
    "session": ["session", "--pdh", "{}", "--godh-key", "{}", "--policy", "1", "-o", "{}.d"],
    "diff": ["diff", "{}", "{}"],
    "explain": ["explain", "--example", "snp", "--report", "{}", "--budget", "0.1"],
    "explain with a catalogue": [
        "explain", "--catalogue", "{}", "--expect", "00" * 48, "--budget", "0.1",
    ],
    "explain without an image": ["explain", "--report", "{}", "--budget", "0.1"],
    "catalogue": ["catalogue", "--catalogue", "{}"],
    "catalogue, added to": ["catalogue", "add", "{}", "--catalogue", "{}.json"],
    "explain, trying": ["explain", "{}", "--expect", "00" * 48, "--budget", "0.1"],
    "reference": ["reference", "{}", "--vcpus", "1-2", "--to", "rvps"],
    "sweep": ["sweep", "{}", "--vcpus", "1-2"],
    "sweep of a matrix": ["sweep", "--matrix", "{}", "--format", "csv"],
    "sweep of lines": ["sweep", "--example", "snp", "--append-file", "{}"],
    "sweep into a database": ["sweep", "--example", "snp", "--format", "sqlite", "-o", "{}"],
    "verify": ["verify", "{}", "--example", "snp"],
    "verify alone": ["verify", "{}", "--budget", "0"],
    "verify with collateral": ["verify", "{}", "--collateral", "{}", "--crl", "{}"],
    "verify with a policy": ["verify", "{}", "--policy-file", "{}", "--reference", "{}"],
    "verify a plan": ["verify", "{}", "--plan", "{}"],
    "verify with certificates": ["verify", "{}", "--example", "tdx", "--certs", "{}"],
    "verify with a log": ["verify", "{}", "--example", "tdx", "--event-log", "{}"],
    "config": ["config", "{}", "--to", "qemu", "--policy", "0x30000"],
    "config with a kernel": [
        "config", "{}", "--to", "libvirt", "--policy", "0x30000", "--kernel", "{}",
    ],
    "config with an ID block": [
        "config", "{}", "--to", "kata", "--id-block", "{}", "--id-auth", "{}",
    ],
    "igvm": ["igvm", "{}", "-o", "{}.igvm", "--beside", "{}"],
    "idblock": ["idblock", "{}", "--id-key", "{}"],
    "idblock, verified": [
        "idblock", "--example", "snp", "--verify", "--block", "{}", "--auth", "{}",
    ],
    "td-params": ["td-params", "--read", "{}"],
    "td-info": ["td-info", "{}"],
    "events": ["events", "{}", "--format", "json"],
    "rtmr": ["rtmr", "{}", "--kernel", "{}", "--acpi-tables", "{}", "--qemu", "10.2"],
    "rtmr with a template": ["rtmr", "--template", "{}", "--initrd", "{}"],
    "rtmr of an image": ["rtmr", "{}"],
    "rtmr of a kernel": ["rtmr", "--example", "tdx", "--kernel", "{}", "--initrd", "{}"],
    "rtmr of a UKI": ["rtmr", "--example", "tdx", "--uki", "{}", "--loader", "{}"],
    "rtmr of a disk": ["rtmr", "--example", "tdx", "--esp", "{}"],
    "rtmr of tables": ["rtmr", "--example", "tdx", "--acpi-tables", "{}", "--smbios", "{}"],
    "rtmr of a quote": ["rtmr", "--example", "tdx", "--template", "{}", "--quote", "{}"],
    "rtmr of a log": ["rtmr", "--example", "tdx", "--log", "{}"],
    "rtmr of items": [
        "rtmr", "--example", "tdx", "--fw-cfg", "opt/a={}", "--boot-var", "Boot0000={}",
    ],
}  # fmt: skip
"""Every verb that takes a file, in each place where it takes one."""


class Wrong(NamedTuple):
    """Who did what with which input."""

    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.who}: {self.what}"


def read(name: str, data: bytes) -> Iterator[Wrong]:
    """Have a reader read; yield what is wrong: another exception than ours, or too much time."""
    start = time.process_time()
    try:
        READERS[name](Blob("input", memoryview(data)))
    except CvmplanError as error:
        if "\n" in str(error).rstrip("\n") and not str(error).isprintable():
            yield Wrong(name, f"an error of several lines: {str(error)[:200]!r}")
    except Exception as error:  # noqa: BLE001 this is what is looked for
        yield Wrong(name, f"{type(error).__name__}: {str(error)[:200]}")
    yield from late(name, start, len(data))


def call(name: str, path: Path, size: int) -> Iterator[Wrong]:
    """Call a verb; yield what is wrong: an exit code, more than an error, or too much time."""
    start = time.process_time()
    result = run(*(word.replace("{}", str(path)) for word in VERBS[name]))
    if result.code not in CODES:
        yield Wrong(name, f"exit {result.code}: {result.err[-300:]}")
    lines = result.err.splitlines()
    refused = lines and lines[0].startswith("error: ")
    if refused and (len(lines) > 2 or result.code == 0):
        yield Wrong(name, f"exit {result.code} with {result.err[:300]}")
    if result.code in (2, 3, 4) and not refused:
        yield Wrong(name, f"exit {result.code} without an error")
    yield from late(name, start, size)


def late(name: str, start: float, size: int) -> Iterator[Wrong]:
    spent = time.process_time() - start
    if spent > (SECONDS if size < SMALL else LARGE_SECONDS):
        yield Wrong(name, f"{spent:.1f} s for {size} bytes")
