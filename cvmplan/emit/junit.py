"""
JUnit XML, in the form that Jenkins and GitLab read (jenkinsci/xunit-plugin, junit-10.xsd).

A file is a suite.  A finding that fails the check is a failed case, what ended the check an error,
a measurement that is as expected a case that passed; other findings are the output of the suite.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from cvmplan.core.findings import Finding
from cvmplan.core.values import printable
from cvmplan.operations.checked import Checked, Checks


def checks(made: Checks) -> str:
    """Return the findings of all files as test suites."""
    suites = [line for one in made.files for line in _suite(made, one)]
    head = ('<?xml version="1.0" encoding="UTF-8"?>', '<testsuites name="cvmplan">')
    return "\n".join([*head, *suites, "</testsuites>", ""])


def _suite(made: Checks, one: Checked) -> Iterator[str]:
    stopped = one.findings[-1:] if one.error else ()
    found = one.findings[:-1] if one.error else one.findings
    failed = [f for f in found if made.fails(f)]
    passed = [held for held in one.compared if held.same]
    passes = [f"{held.register} {held.settings}" for held in passed]
    if not failed and not stopped:
        passes.insert(0, "launch")
    counts = len(passes) + len(failed) + len(stopped), len(failed), len(stopped)
    told = ' tests="{}" failures="{}" errors="{}"'.format(*counts)
    yield f" <testsuite name={_attribute(one.name)}{told}>"
    for name in passes:
        yield f"  <testcase classname={_attribute(one.name)} name={_attribute(name)}/>"
    for kind, several in (("failure", failed), ("error", stopped)):
        for finding in several:
            yield from _case(one, finding, kind)
    others = [f"{f.severity}: {_line(one, f)}" for f in found if not made.fails(f)]
    if others:
        yield f"  <system-out>{escape(chr(10).join(others))}</system-out>"
    yield " </testsuite>"


def _case(one: Checked, found: Finding, kind: str) -> Iterator[str]:
    name = f"{found.rule}: {one.place(found)}"
    yield f"  <testcase classname={_attribute(one.name)} name={_attribute(name)}>"
    message = f"type={_attribute(found.rule)} message={_attribute(found.message)}"
    hint = f"\n{printable(found.hint)}" if found.hint else ""
    yield f"   <{kind} {message}>{escape(_line(one, found) + hint)}</{kind}>"
    yield "  </testcase>"


def _line(one: Checked, found: Finding) -> str:
    return printable(f"{one.place(found)}: {found.text}")


def _attribute(text: str) -> str:
    """Return a quoted attribute; XML has no control characters, so they are written as escapes."""
    return quoteattr(printable(text))
