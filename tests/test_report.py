"""The report: one page with everything that a measurement depends on, valid or not."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Final

import pytest

import cvmplan
from cvmplan.emit.html_report import MOST_OPERATIONS
from tests.build.evidence import amd, intel, snp_report, td_quote
from tests.build.igvm import good_snp as igvm
from tests.build.ovmf import good_snp
from tests.oracles.firmware import FakePsp, vmsas
from tests.run import assert_refused, run
from tests.test_pictures import (
    ATTRIBUTES,
    ELEMENTS,
    HOSTILE,
    Page,
    contrast,
    manifest,
    schemes,
    zero,
)

MORE_ELEMENTS: Final = {"nav", "section", "a", "h3", "details", "summary"}
MORE_ATTRIBUTES: Final = {"href", "aria-hidden"}


def report(*arguments: str, code: int = 0) -> str:
    answer = run("report", *arguments)
    assert answer.code == code, answer.err
    return answer.out


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.fd"
    path.write_bytes(good_snp().build())
    return path


def launched(data: bytes) -> list[str]:
    """Return the launch digest after each page range, as a model of the firmware has it."""
    psp = FakePsp()
    psp.launch_start(0x30000)
    digests = []
    for at in range(0, len(data), 4096):
        psp.launch_update(1, 2**32 - len(data) + at, data[at : at + 4096])
    digests.append(psp.running.hex())
    for gpa, size, kind in good_snp().sev_sections or []:
        for page in range(gpa, gpa + size, 4096):
            psp.launch_update({1: 3, 2: 5, 3: 6, 4: 3, 0x10: 3}[kind], page, bytes(4096))
        digests.append(psp.running.hex())
    for vmsa in vmsas(2, 0x80B004, 1):
        psp.launch_update(2, 0xFFFFFFFFF000, vmsa)
    psp.launch_finish()
    return [*digests, psp.digest.hex()]


def test_inputs_settings_measurement_and_running_digest_are_on_the_page(image: Path) -> None:
    data = image.read_bytes()
    page = Page(report(str(image), "--vcpus", "2"))
    cells = [cell.strip() for cell in page.of("td", "span", "div")]
    assert hashlib.sha256(data).hexdigest() in cells
    assert str(len(data)) in cells
    assert cells[cells.index("vcpus") :][1:3] == ["2", "given"]
    assert cells[cells.index("policy") :][1:3] == ["0x30000", "assumed"]
    wanted = launched(data)
    found = [cell for cell in cells if re.fullmatch("[0-9a-f]{96}", cell)]
    assert found[0] == wanted[-1]  # the measurement
    after = list(dict.fromkeys(found[1:]))
    assert [d for d in after if d in wanted] == wanted  # in the order of the operations
    names = [text for tag, text in page.texts if tag == "h2"]
    assert names == [
        "Measurement", "Inputs", "Settings", "Findings", "Guest memory", "Operations",
        "Pages by class", "What the measurement does not cover", "Reproduce",
    ]  # fmt: skip
    assert "The launch is valid on snp." in page.of("strong")


def test_the_command_reproduces_the_measurement(image: Path, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bytes(5000))
    options = ("--vcpus", "3", "--cpu", "EPYC-Milan", "--kernel", str(kernel), "--append", "a 'b'")
    for words in ((str(image), *options), (str(image), "--vmm", "ec2"), ("example:tdx",)):
        command = shlex.split(Page(report(*words)).of("pre")[0])
        assert command[:2] == ["cvmplan", "measure"]
        again = run(*command[1:])
        assert again.code == 0, again.err
        assert run(*command[1:-1], "00" * 48).code == 1  # what it expects counts


def test_a_setting_of_a_description_has_its_place(image: Path, tmp_path: Path) -> None:
    line = tmp_path / "qemu.args"
    line.write_text(
        f"qemu-system-x86_64 -smp 4 -cpu EPYC-Milan -bios {shlex.quote(str(image))} "
        "-machine q35,confidential-guest-support=s "
        "-object sev-snp-guest,id=s,policy=0x30000,cbitpos=51,reduced-phys-bits=1"
    )
    page = Page(report(str(line)))
    cells = page.of("td")
    place = cells[cells.index("vcpus") + 2]
    assert place.startswith("given (")
    assert "-smp" in place
    command = shlex.split(page.of("pre")[0])
    assert run(*command[1:]).code == 0


def test_an_image_that_is_not_valid_has_a_report_that_says_so(tmp_path: Path) -> None:
    both = zero(0x1000, 0x4000, "low"), zero(0x3000, 0x4000, "high")
    file = tmp_path / "report.html"
    answer = run("report", manifest(tmp_path / "m.json", *both), "-o", str(file))
    assert (answer.code, answer.out, answer.err) == (1, "", "")
    page = Page(file.read_text())
    assert any("The launch is not valid: 1 error." in text for text in page.of("strong"))
    assert "gpa-mapped-twice" in page.of("td")
    assert any(text.startswith("! gpa-mapped-twice") for text in page.of("text"))
    assert not re.search("[0-9a-f]{96}", file.read_text())
    assert page.of("pre")[0].split()[:2] == ["cvmplan", "check"]


def test_an_id_block_for_a_different_digest_is_an_error_and_no_digest_is_beside_it(
    image: Path,
) -> None:
    block = bytes([1]) * 48 + bytes(40) + (0x30000).to_bytes(8, "little")
    options = (str(image), "--id-block", block.hex(), "--id-auth", "00" * 4096)
    text = report(*options, code=1)
    assert "id-block-mismatch" in Page(text).of("td")
    assert run("check", *options).code == 1
    assert "Pages by class" not in text
    assert not [one for one in Page(text).of("div", "span") if re.fullmatch("[0-9a-f]{96}", one)]


@pytest.mark.parametrize("platform", ["sev", "sev-es", "default", "sw-protected"])
def test_other_platforms_have_one_too(platform: str) -> None:
    text = report("--example", "snp", "--platform", platform)
    told = "Nothing is measured on" in text
    assert told == (platform in ("default", "sw-protected"))
    Page(text)


def test_plans_and_igvm_files_have_one(tmp_path: Path) -> None:
    plan, file = tmp_path / "plan.json", tmp_path / "image.igvm"
    run("plan", "--example", "snp", "--format", "json", "-o", str(plan))
    file.write_bytes(igvm().build())
    digest = run("measure", "--example", "snp", "--bare").out
    page = Page(report(str(plan)))
    assert digest in page.of("span")
    assert any("snp-launch-update" in text for text in page.of("text"))
    bare = run("measure", str(file), "--platform", "snp", "--bare").out
    assert bare in Page(report(str(file), "--platform", "snp")).of("span")


def test_a_file_that_is_no_image_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"nothing")
    assert_refused(run("report", str(path), "-o", str(tmp_path / "out")), {4})
    assert_refused(run("report", "--example", "snp", "--vcpus", "0"), {2})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_stays_a_name(name: str, tmp_path: Path) -> None:
    path = manifest(tmp_path / "m.json", zero(0x1000, 0x2000, name))
    text = report(path)
    page = Page(text)
    assert {tag for tag, _ in page.seen} <= ELEMENTS | MORE_ELEMENTS
    assert {n for _, attrs in page.seen for n in attrs} <= ATTRIBUTES | MORE_ATTRIBUTES
    assert all(c == "\n" or c.isprintable() for c in text)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bytes(5000))
    given = ("--kernel", str(kernel), "--append", name)
    found = Page(report("--example", "snp", *given))
    assert {tag for tag, _ in found.seen} <= ELEMENTS | MORE_ELEMENTS


def test_the_page_loads_nothing_and_links_only_to_itself() -> None:
    text = report("--example", "snp")
    assert not re.search(r"@import|@font-face|<script|<img|<link|\bsrc=", text)
    links = re.findall(r'href="([^"]*)"', text)
    assert links
    assert all(link[0] == "#" and f'id="{link[1:]}"' in text for link in links)
    assert 'content="default-src &#x27;none&#x27;; style-src' in text or (
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text
    )
    one, two = report("--example", "snp"), text
    assert one == two


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_its_text_has_a_contrast_of_4_5(scheme: int) -> None:
    colours = [*schemes(report("--example", "snp"))][scheme]
    paper = colours[".cvm-page background"]
    names = [c for selector, c in colours.items() if re.search(r"cvm-(t-\w+|page) color", selector)]
    assert len(names) >= 4
    assert min(contrast(colour, paper) for colour in names) >= 4.5


def test_many_operations_are_cut_and_it_says_so(tmp_path: Path) -> None:
    regions = [zero(0x100000 + n * 0x2000, 0x1000, f"r{n}") for n in range(1000)]
    special = [
        {"gpa": "0x1000", "size": "0x1000", "type": "secrets"},
        {"gpa": "0x2000", "size": "0x1000", "type": "cpuid"},
    ]
    path = manifest(tmp_path / "m.json", *regions, *special)
    text = report(path)
    assert len(text) < 1_000_000
    count = len(json.loads(run("plan", path, "--format", "json").out)["ops"])
    assert f"The first {MOST_OPERATIONS} of {count}; cvmplan plan prints all" in text


# --- evidence -------------------------------------------------------------------------------------


def evidence(folder: Path, digest: bytes) -> tuple[str, ...]:
    """Write a report that a made-up chain signed; return the options that name it."""
    chain = amd()
    (folder / "report").write_bytes(snp_report(chain[0], 2, measurement=digest))
    (folder / "certs").write_bytes(b"".join(signer.pem for signer in chain))
    return ("--evidence", str(folder / "report"), "--certs", str(folder / "certs"), "--pin",
            chain[-1].pin, "--at", "2026-11-01")  # fmt: skip


def test_evidence_of_the_launch_is_on_the_page(image: Path, tmp_path: Path) -> None:
    digest = bytes.fromhex(launched(image.read_bytes())[-1])
    options = evidence(tmp_path, digest)
    page = Page(report(str(image), "--vcpus", "2", *options))
    assert "Evidence" in page.of("h2")
    assert "Signed by hardware, and it is of this launch." in page.of("strong")
    other = Page(report(str(image), "--vcpus", "1", *options, code=1))
    assert "The evidence differs." in other.of("strong")
    assert digest.hex() in other.of("span")
    verified = cvmplan.verify(
        str(tmp_path / "report"), str(image), certs=[str(tmp_path / "certs")], pin=[options[5]],
        at="2026-11-01", vcpus=2,
    )  # fmt: skip
    found = cvmplan.report(str(image), vcpus=2, verification=verified)
    assert found.holds
    assert "it is of this launch" in found.to_html()


def test_evidence_that_nobody_signed_is_said_to_be(image: Path, tmp_path: Path) -> None:
    digest = bytes.fromhex(launched(image.read_bytes())[-1])
    evidence(tmp_path, digest)
    words = (str(image), "--vcpus", "2", "--evidence", str(tmp_path / "report"))
    page = Page(report(*words, code=1))
    assert "Nothing shows that hardware signed it." in page.of("strong")


def test_evidence_beside_a_launch_that_is_not_valid_is_not_compared(tmp_path: Path) -> None:
    both = zero(0x1000, 0x4000, "low"), zero(0x3000, 0x4000, "high")
    path = manifest(tmp_path / "m.json", *both)
    text = report(path, *evidence(tmp_path, bytes(48)), code=1)
    assert "not compared" in text
    assert "The launch is not valid" in text


def test_the_registers_of_a_td_have_a_section(tmp_path: Path) -> None:
    mrtd = bytes.fromhex(run("measure", "example:tdx", "--bare").out)
    first = hashlib.sha384(bytes(48) + hashlib.sha384(b"one").digest()).digest()
    chain, xfam = intel(), (3).to_bytes(8, "little")
    (tmp_path / "quote").write_bytes(td_quote(chain, mrtd=mrtd, rtmr0=first, xfam=xfam))
    event = {"imr": 0, "event_type": 13, "digest": hashlib.sha384(b"one").hexdigest(), "event": "",
             "event_payload": b"one".hex()}  # fmt: skip
    (tmp_path / "log").write_text(json.dumps([event]))
    options = ("--evidence", str(tmp_path / "quote"), "--pin", chain[-1].pin)
    text = report("example:tdx", *options, "--event-log", str(tmp_path / "log"))
    page = Page(text)
    assert "RTMRs" in page.of("h2")
    assert page.of("span").count(first.hex()) >= 1
    (tmp_path / "log").write_text(json.dumps([event, event]))
    report("example:tdx", *options, "--event-log", str(tmp_path / "log"), code=1)


def test_what_is_about_evidence_needs_it(tmp_path: Path) -> None:
    for words in (("--certs", "x"), ("--pin", "00" * 32), ("--at", "2026"), ("--event-log", "x")):
        assert_refused(run("report", "example:snp", *words), {2})
    (tmp_path / "x").write_bytes(b"nothing")
    given = ("report", "example:snp", "--evidence", str(tmp_path / "x"))
    assert_refused(run(*given, "-o", str(tmp_path / "out")), {3, 4})
    assert not (tmp_path / "out").exists()


# --- Python and notebooks -------------------------------------------------------------------------


def test_the_function_gives_the_page_of_the_verb(image: Path) -> None:
    found = cvmplan.report(str(image), vcpus=2)
    assert found.to_html() == report(str(image), "--vcpus", "2")
    assert repr(found) == f"<Report image={image} platform=snp errors=0>"
    with pytest.raises(cvmplan.ConfigError, match="vcpus"):
        cvmplan.report(str(image), vcpus=0)


def test_notebooks_show_plans_maps_and_differences(image: Path) -> None:
    plan = cvmplan.plan_image(str(image))
    found = cvmplan.map_image(str(image))
    differing = cvmplan.diff(plan, cvmplan.plan_image(str(image), vmm="ec2"))
    for answer, pictures in ((plan, 1), (found, 1), (differing, 2)):
        page = Page(answer._repr_html_())
        assert sum(tag == "svg" for tag, _ in page.seen) == pictures
        assert {tag for tag, _ in page.seen} <= ELEMENTS | MORE_ELEMENTS
        assert "body{" not in answer._repr_html_()  # the notebook's own page stays as it is
        for gpa, size, _ in good_snp().sev_sections or []:
            assert page.of("text").count(f"{gpa:#x}") == pictures
            assert page.of("text").count(f"{gpa + size - 1:#x}") == pictures


def test_a_difference_is_marked_at_its_pages(image: Path) -> None:
    data = bytearray(image.read_bytes())
    one = cvmplan.plan_image(bytes(data))
    data[0] ^= 1  # the first page of the firmware
    page = Page(cvmplan.diff(one, cvmplan.plan_image(bytes(data)))._repr_html_())
    marked = [text for text in page.of("text") if text.startswith("! differs")]
    assert len(marked) == 2
    assert "contents" in page.of("td")
    equal = Page(cvmplan.diff(one, one)._repr_html_())
    assert "No difference." in equal.of("p")
    assert not [text for text in equal.of("text") if text.startswith("!")]


def test_a_plan_that_is_not_legal_says_so(image: Path) -> None:
    plan = cvmplan.plan_image(str(image))
    twice = cvmplan.Plan(
        plan.platform, plan.vmm, plan.abi, (*plan.ops[:12], *plan.ops[11:]), plan.given,
        plan.assumed, plan.inputs,
    )  # fmt: skip
    text = twice._repr_html_()
    assert "not a legal launch: " in text
    assert "was added before" in text
    Page(text)


def test_a_long_command_line_is_there_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"kernel")
    line = "a=" + "x" * 400 + " end=here"
    text = report("example:snp", "--kernel", str(tmp_path / "kernel"), "--append", line)
    assert Page(text).of("td").count(line) == 1
