"""What a file of evidence declares, as `inspect` shows it: its fields, its certificates."""

from __future__ import annotations

from collections.abc import Iterable

from cvmplan.core import platform as platforms
from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.field import Field
from cvmplan.core.values import Json
from cvmplan.eventlog import forms
from cvmplan.evidence import certificates, evidence, guid_table, held
from cvmplan.evidence.certificates import Found
from cvmplan.evidence.signatures import certificates_in
from cvmplan.images.inspection import Inspection, Table

_PEM = b"-----BEGIN CERTIFICATE-----"


def find(blob: Blob, select: str | None = None) -> Inspection | None:
    """
    Return what evidence, an event log or certificates declare; None for another file.

    MalformedError for what begins like one of these; ConfigError where one piece of several has
    to be selected.
    """
    if guid_table.is_table(blob) or _PEM in bytes(blob.data[:256]):
        return _shown("certificates", (), _certificates(certificates.read(blob)))
    if forms.recognises(blob):
        log = forms.read(blob)
        rows: list[dict[str, Json]] = [
            {"form": log.form, "events": len(log.events), "complete": log.complete}
        ]
        return _shown("event log", (platforms.TDX,), [Table(name="event log", rows=rows)])
    try:
        found = evidence.read(blob, trailing=True, select=select)
    except UnsupportedError:
        return None
    tables = [Table(name="fields", rows=[_row(one) for one in held.fields(found)])]
    notes = [*found.notes]
    if found.trailing:
        notes.append(f"bytes after the quote: {found.trailing}")
    if notes:
        tables.append(Table(name="notes", rows=[{"note": one} for one in notes]))
    tables += _certificates(certificates_in(found))
    return _shown(found.kind, (str(found.platform),), tables)


def _shown(kind: str, allows: Iterable[str], tables: list[Table]) -> Inspection:
    return Inspection(format=kind, allows=list(allows), tables=tables, findings=[])


def _row(field: Field) -> dict[str, str]:
    return {"field": field.id, "value": field.value, "meaning": field.meaning}


def _certificates(found: Found) -> list[Table]:
    """Return the table of certificates, and of what could not be read; none for none."""
    made = []
    if found.certificates:
        rows = [
            {
                "subject": one.subject,
                "issuer": one.issuer,
                "not_before": f"{one.not_before:%Y-%m-%d}",
                "not_after": f"{one.not_after:%Y-%m-%d}",
                "sha256_spki": one.spki,
            }
            for one in found.certificates
        ]
        made.append(Table(name="certificates", rows=rows))
    if found.unread:
        made.append(Table(name="not read", rows=[{"problem": one} for one in found.unread]))
    return made
