"""cvmplan.policy/1: what evidence must say; each key is an option of `verify`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from cvmplan.documents.fields import Document, Integer

Hex = str
Hexes = str | list[str]
Levels = dict[str, Integer] | Integer | str


class SnpPolicy(Document):
    """What an SNP report must say; byte strings are in hex or base64."""

    report_data: Hex | None = None
    measurement: Hexes | None = None
    policy: Integer | None = None
    policy_mask: Integer | None = None
    host_data: Hex | None = None
    vmpl: Annotated[int, Field(ge=0, le=3)] | None = None
    family_id: Hex | None = None
    image_id: Hex | None = None
    report_id: Hex | None = None
    report_id_ma: Hex | None = None
    chip_id: Hexes | None = None
    id_key_digest: Hexes | None = None
    author_key_digest: Hexes | None = None
    require_id_block: bool = False
    require_author_key: bool = False
    min_guest_svn: Integer | None = None
    min_tcb: Levels | None = None
    min_launch_tcb: Levels | None = None
    min_version: str | None = None
    min_build: Integer | None = None
    platform_info: Integer | None = None
    launch_mitigations: Integer | None = None
    current_mitigations: Integer | None = None
    provisional: bool = False


class TdxPolicy(Document):
    """What a TDX quote or a TDREPORT must say; byte strings are in hex or base64."""

    report_data: Hex | None = None
    mrtd: Hexes | None = None
    rtmr0: Hexes | None = None
    rtmr1: Hexes | None = None
    rtmr2: Hexes | None = None
    rtmr3: Hexes | None = None
    attributes: Integer | None = None
    xfam: Integer | None = None
    mrconfigid: Hex | None = None
    mrowner: Hex | None = None
    mrownerconfig: Hex | None = None
    mrseam: Hexes | None = None
    mrservicetd: Hex | None = None
    qe_vendor_id: Hex | None = None
    min_tee_tcb_svn: Hex | None = None
    min_qe_svn: Integer | None = None
    min_pce_svn: Integer | None = None
    accept: list[str] | None = None


class PolicyDocument(Document):
    """cvmplan.policy/1: of the platform of the evidence, its table is used."""

    model_config = ConfigDict(title="cvmplan.policy/1")
    schema_: Literal["cvmplan.policy/1"] = Field(alias="schema")
    snp: SnpPolicy | None = None
    tdx: TdxPolicy | None = None

    def of(self, name: str) -> dict[str, Any] | None:
        """Return what is written for a platform, None where it has no table."""
        table = getattr(self, name)
        return None if table is None else table.model_dump(exclude_unset=True)
