"""
Everything cvmplan raises on purpose.

* CvmplanError                                              exit code
  + InputError        the bytes are wrong                       3
  |   + TruncatedError    a record reaches past the end of its blob
  |   + MalformedError    a record or document breaks its specification
  + UnsupportedError  valid, but not implemented or not recognised   4
  + MapError          the regions cannot form one launch        1
  + PlanError         the operations are not a legal launch     1
  + MismatchError     a digest is not the expected one          1
  + ConfigError       an option or setting is wrong              2

Anything else that escapes is a bug in cvmplan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from cvmplan.core.findings import Finding


class CvmplanError(Exception):
    """A problem that the user can act on: where, found and wanted, and what to do."""

    exit_code: ClassVar[int] = 1
    rule: ClassVar[str] = "not-a-launch"
    """What `check` calls it, where it is one finding among others."""

    def __init__(self, problem: str, *, at: str = "", hint: str = "") -> None:
        super().__init__(problem)
        self.at = at
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.at}: {self.args[0]}" if self.at else str(self.args[0])


class InputError(CvmplanError):
    """The bytes of an input file are wrong, or it cannot be read."""

    exit_code = 3
    rule = "not-readable"


class TruncatedError(InputError):
    """A record reaches past the end of its blob."""


class MalformedError(InputError):
    """A record or a document breaks its specification."""


class UnsupportedError(CvmplanError):
    """Valid, but not something that cvmplan implements, or not recognised."""

    exit_code = 4
    rule = "not-supported"


class MapError(CvmplanError):
    """The regions cannot form one launch; `findings` has every reason, errors first."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        errors = [f for f in findings if f.severity == "error"]
        first = errors[0]
        more = len(errors) - 1
        hint = first.hint
        if more:
            plural = "s" if more > 1 else ""
            others = f"{more} more error{plural}: 'cvmplan check' lists all of them"
            hint = f"{hint}; {others}" if hint else others
        super().__init__(first.text, at=first.at, hint=hint)
        self.findings = findings


class PlanError(CvmplanError):
    """The operations are not a legal launch."""


class MismatchError(CvmplanError):
    """A digest is not the expected one."""

    rule = "hash-differs"


class ConfigError(CvmplanError):
    """An option or a setting is wrong, or they do not fit each other."""

    exit_code = 2
    rule = "wrong-setting"
