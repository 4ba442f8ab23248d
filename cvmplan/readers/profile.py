"""A user's own VMM profile (cvmplan.profile/1), in JSON, TOML or YAML."""

from __future__ import annotations

from typing import Any

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.practice import Practice
from cvmplan.documents import text
from cvmplan.platforms.snp.vmsa import FIELDS
from cvmplan.profiles import IGVM_FIELDS, Fact, Profile, Vmsa


def read(blob: Blob) -> Profile:
    """Return the profile in `blob`; MalformedError with place and path where it is wrong."""
    document = text.validate(blob, text.parse(blob), "profile")
    vmsa = document.vmsa
    set_up = {**vmsa.boot, **vmsa.others} if vmsa else {}
    for field in (
        *set_up,
        *(document.carries or ()),
        *(document.takes or ()),
        *document.sets,
        *document.doubts,
    ):
        if field not in FIELDS:
            raise MalformedError(f"the VMSA has no field {field!r}", at=f"{blob.name}: vmsa")
    return Profile(
        name=document.name,
        title=document.title,
        platforms=tuple(document.platforms),
        sources=tuple(_fact(s) for s in document.sources),
        page_types=document.page_types,
        machine=document.machine,
        extends_all=document.extends_all,
        augmented=document.augmented,
        section_types=None if document.section_types is None else tuple(document.section_types),
        legacy_pointer=document.legacy_pointer,
        aligned_data=document.aligned_data,
        covers_file=document.covers_file,
        padding=document.padding,
        policies=document.policies,
        sev_features=document.sev_features,
        td_attributes=document.td_attributes,
        td_xfam=document.td_xfam,
        unhashed_kernels=tuple(document.unhashed_kernels),
        vmsa=vmsa and Vmsa(**vmsa.model_dump()),
        practices={p: practice(one) for p, one in document.practices.items()},
        svsm=document.svsm,
        abis=tuple(document.abis),
        refuses=tuple(document.refuses),
        carries=None if document.carries is None else tuple(document.carries),
        takes=None if document.takes is None else tuple(document.takes),
        sets=document.sets,
        doubts=document.doubts,
        once=tuple(document.once),
        fixed_policy=document.fixed_policy,
        **document.order.model_dump(),
        **{name: getattr(document, name) for name in IGVM_FIELDS},
    )


def practice(document: Any) -> Practice:
    """Return a practice as profiles and plans write it."""
    told = document.model_dump()
    return Practice(tuple(told.pop("repeats")), **told)


def _fact(source: Any) -> Fact:
    return Fact(**source.model_dump(exclude_none=True))
