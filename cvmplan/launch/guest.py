"""The settings of the virtual machine, of those of a launch."""

from __future__ import annotations

from typing import NamedTuple

from cvmplan.launch.given import Given


class Guest(NamedTuple):
    """
    Settings of the virtual machine; None where a setting was not given and has no default.

    Sizes: digests and identities in bytes as the firmware ABI has them (host_data 32,
    gosvw 16, id_block 96, id_auth 4096, mrconfigid, mrowner and mrownerconfig 48).
    """

    vcpus: int = 1
    cpu_signature: int = 0
    sev_features: int = 0
    policy: int = 0
    es_init: str = "legacy"
    gpaw: int = 48
    c_bit: int | None = None
    page_order: str = "single-pass"
    reset_eip: int | None = None
    hob_gpa: int | None = None
    firmware_digest: bytes | None = None
    host_data: bytes | None = None
    id_block: bytes | None = None
    id_auth: bytes | None = None
    author_key_enabled: bool = False
    vcek_disabled: bool = False
    gosvw: bytes | None = None
    attributes: int = 0
    xfam: int = 0
    mrconfigid: bytes | None = None
    mrowner: bytes | None = None
    mrownerconfig: bytes | None = None
    backing: str | None = None

    @classmethod
    def of(cls, settings: Given) -> Guest:
        """Return the guest of these settings; others are of the launch."""
        return cls(**dict(settings.only(*cls._fields).items()))  # type: ignore[arg-type]  # each is of its kind
