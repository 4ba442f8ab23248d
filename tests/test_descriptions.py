"""Launch descriptions: each gives the digest of the same launch in options, as a peer has it."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import time
from base64 import b64encode
from hashlib import sha256, sha384
from pathlib import Path
from random import Random
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

import pytest

from cvmplan.readers.descriptions.qemu_words import WITH_VALUE, WITHOUT_VALUE
from tests.build.boot import Firmware, kernel, pe_image
from tests.build.ovmf import example
from tests.consumers import unpacked
from tests.oracles.peer import Boot, Machine, theirs, vcpu_types
from tests.run import Result, assert_refused, run

SHARED: Final = Path("../shared").resolve()
EXAMPLES: Final = SHARED / "consumers/examples"
CASE: Final = SHARED / "cases/inputs/command-line-and-domain"
KERNEL: Final = "/boot/vmlinuz"
LINES: Final = ("", "quiet", "a  b", "root=/dev/vda1 x='1 2' y=\"3\"", "ä ö, b=,,", "-- single")
SUFFIXES: Final = (".json", ".xml", ".toml", ".txt", ".bin")
SECONDS: Final = 2.0  # that any description of up to 1 MB may take
MODELS: Final = ("EPYC-v4", "EPYC-Milan", "EPYC-Genoa-v1", "EPYC-Rome")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that descriptions name, below it by their paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snp.fd").write_bytes(example("snp"))
    (tmp_path / "tdx.fd").write_bytes(example("tdx"))
    (tmp_path / "boot").mkdir()
    for name in ("vmlinuz", "initrd"):
        (tmp_path / "boot" / name).write_bytes(name.encode() * 100)
    return tmp_path


def digest(*arguments: str) -> str:
    told = run("measure", *arguments, "--bare")
    assert told.code == 0, told.err
    return told.out.strip()


def given(*arguments: str) -> dict[str, Any]:
    """What a measurement says was given, and where."""
    told = run("measure", *arguments, "--format", "json")
    assert told.code == 0, told.err
    held: dict[str, Any] = json.loads(told.out)
    return held


def rules(*arguments: str) -> set[str]:
    told = run("check", *arguments, "--format", "json")
    return {finding["rule"] for finding in json.loads(told.out)["findings"]}


# --- the same launch in four forms ---------------------------------------------------------------


class Guest:
    """A launch on SNP, SEV or SEV-ES, chosen at random."""

    def __init__(self, chance: Random) -> None:
        self.mode = chance.choice(("snp", "snp", "sev", "sev-es"))
        self.vcpus = chance.randint(1, 9)
        self.cpu = chance.choice(MODELS)
        self.initrd = chance.random() < 0.5
        self.line = chance.choice(LINES)
        self.booted = chance.random() < 0.7
        self.policy = {"snp": 0x30000, "sev": 1, "sev-es": 5}[self.mode]
        self.json = chance.random() < 0.3
        self.spread = chance.random() < 0.3

    @property
    def files(self) -> dict[str, str]:
        """Option to file or text, as far as a kernel is booted."""
        if not self.booted:
            return {}
        found = {"kernel": "/boot/vmlinuz"} | ({"initrd": "/boot/initrd"} if self.initrd else {})
        return found | {"append": self.line}

    def options(self) -> list[str]:
        words = ["snp.fd", "--platform", self.mode, "--vcpus", str(self.vcpus)]
        words += ["--policy", hex(self.policy)]
        words += ["--cpu", self.cpu] if self.mode != "sev" else []
        return words + [f"--{n}={v.removeprefix('/')}" for n, v in self.files.items()]

    def argv(self) -> list[str]:
        kind = "sev-snp-guest" if self.mode == "snp" else "sev-guest"
        hashes = "on" if self.booted else "off"
        told: dict[str, Any] = {"qom-type": kind, "id": "g0", "policy": self.policy}
        told |= {"reduced-phys-bits": 1, "kernel-hashes": self.booted}
        made = f"{kind},id=g0,policy={self.policy},reduced-phys-bits=1,kernel-hashes={hashes}"
        smp = f"sockets=1,cores={self.vcpus},threads=1" if self.spread else str(self.vcpus)
        words = ["/usr/bin/qemu-system-x86_64", "-nodefaults", "-cpu", f"{self.cpu},pmu=off"]
        words += ["-machine", "q35,confidential-guest-support=g0", "-smp", smp, "-m", "2G"]
        words += ["-object", json.dumps(told) if self.json else made, "-bios", "/snp.fd"]
        return words + [word for n, v in self.files.items() for word in (f"-{n}", v)]

    def domain(self) -> str:
        kind = "sev-snp" if self.mode == "snp" else "sev"
        names = {"kernel": "kernel", "initrd": "initrd", "append": "cmdline"}
        boot = "".join(f"<{names[n]}>{escape(v)}</{names[n]}>" for n, v in self.files.items())
        hashes = quoteattr("yes" if self.booted else "no")
        return (
            f"<domain type='kvm'><vcpu current='{self.vcpus}'>16</vcpu>"
            f"<os><type machine='pc-q35-10.1'>hvm</type><loader type='rom'>/snp.fd</loader>{boot}"
            f"</os><cpu mode='custom'><model>{self.cpu}</model></cpu>"
            f"<launchSecurity type='{kind}' kernelHashes={hashes}>"
            f"<policy>{self.policy:x}</policy></launchSecurity></domain>"
        )

    def peers(self) -> str:
        kernel, initrd = (self.files.get(n, "").removeprefix("/") for n in ("kernel", "initrd"))
        boot = Boot(b"", None, self.line) if self.booted else None
        features = int(self.mode == "snp")
        cpu = self.cpu if self.mode != "sev" else "EPYC"
        machine = Machine(mode=self.mode, vcpus=self.vcpus, cpu=cpu, features=features, boot=boot)
        return theirs("snp.fd", kernel, initrd, machine)


@pytest.mark.parametrize("seed", range(10))
def test_random_launches_agree_in_all_forms_and_with_the_peer(seed: int, folder: Path) -> None:
    chance = Random(seed)  # noqa: S311 for a choice of launches
    for _ in range(20):
        guest = Guest(chance)
        words = guest.argv()
        (folder / "nul").write_bytes("\0".join(words).encode() + b"\0")
        (folder / "array").write_text(json.dumps(words))
        (folder / "line").write_text(shlex.join(words) + "\n")
        (folder / "dom.xml").write_text(guest.domain())
        init = ("--es-init", "init2") if guest.mode == "sev-es" else ()
        forms = {name: digest(name, *init) for name in ("nul", "array", "line", "dom.xml")}
        expected = guest.peers()
        assert set(forms.values()) == {digest(*guest.options(), *init)} == {expected}, words


def test_a_log_of_kata_has_words_without_quotes(folder: Path) -> None:
    line = "tsc=reliable root=/dev/vda1 rootflags=data=ordered,errors=remount-ro ro quiet"
    told = ["-kernel", KERNEL, "-append", line, "-smp", "2"]
    made = [
        "-machine", "q35,confidential-guest-support=g0", "-cpu", "EPYC-v4,pmu=off", "-object",
        "sev-snp-guest,id=g0,kernel-hashes=on,policy=196608", "-bios", "/snp.fd", *told,
    ]  # fmt: skip
    raw = f"launching /usr/bin/qemu-system-x86_64 with: [{' '.join(made)}]"
    escaped = raw.replace('"', '\\"')
    (folder / "log").write_text(f'time="2026" level=info msg="{escaped}" name=containerd\n')
    (folder / "ps").write_text(f"/usr/bin/qemu-system-x86_64 {' '.join(made)}\n")
    expected = digest(
        "snp.fd", "--platform", "snp", "--vcpus", "2", "--kernel", "boot/vmlinuz", "--append", line
    )
    for name in ("log", "ps"):
        assert digest(name) == expected
        assert "unquoted-line" in rules(name)


def test_a_log_of_libvirt_has_environment_and_continued_lines(folder: Path) -> None:
    guest = Guest(Random(2))  # noqa: S311 as above
    words = guest.argv()
    pairs = [shlex.join(words[n : n + 2]) for n in range(2, len(words), 2)]
    lines = ["LC_ALL=C", "PATH=/usr/bin", words[0], words[1], *pairs]
    text = "2026-11-01 10:00:00.000+0000: starting up libvirt version: 12.8.0\n"
    (folder / "log").write_text(text + " \\\n".join(lines) + "\n")
    assert digest("log") == digest(*guest.options())


# --- what single options mean --------------------------------------------------------------------

BASE: Final = (
    "qemu-system-x86_64 -machine q35,confidential-guest-support=g0 -bios snp.fd "
    "-object sev-snp-guest,id=g0,policy=0x30000 -cpu EPYC-v4 "
)


@pytest.mark.parametrize(
    ("smp", "vcpus"),
    [
        ("4", 4), ("cpus=4", 4), ("2,maxcpus=8", 2), ("sockets=2,cores=3,threads=2", 12),
        ("maxcpus=6", 6), ("8,sockets=2", 8), ("cores=5", 5), ("dies=2,cores=2", 4),
        ("3,maxcpus=12,sockets=2,cores=3,threads=2", 3), ("2 -smp maxcpus=8", 2),
        ("2 -machine smp.cpus=3", 3), ("2 2>err.log >out.log -smp 5", 5), ("2 # -smp 5", 2),
    ],
)  # fmt: skip
def test_vcpus_follow_from_the_topology_as_in_qemu(smp: str, vcpus: int, folder: Path) -> None:
    (folder / "q").write_text(f"{BASE} -smp {smp}")
    assert given("q")["given"]["vcpus"] == vcpus


@pytest.mark.parametrize("smp", ["0", "4,maxcpus=2", "5,sockets=2,cores=2,threads=1", "x", "1.5"])
def test_a_topology_that_qemu_refuses_is_refused(smp: str, folder: Path) -> None:
    (folder / "q").write_text(f"{BASE} -smp {smp}")
    assert_refused(run("measure", "q"), {3})


def test_the_last_option_counts_and_commas_are_doubled(folder: Path) -> None:
    (folder / "a,b.igvm").write_bytes(b"")
    (folder / "q").write_text(f"{BASE} -smp 2 -smp 3 -kernel no -kernel boot/vmlinuz")
    assert given("q")["given"]["vcpus"] == 3
    igvm = "-machine igvm-cfg=i -object igvm-cfg,id=i,file=a,,b.igvm"
    (folder / "q").write_text(f"{BASE} {igvm}")
    told = run("measure", "q")
    assert_refused(told, {3, 4})
    assert "a,b.igvm" in told.err


def test_a_kernel_without_hashes_is_not_measured_and_told(folder: Path) -> None:
    (folder / "q").write_text(f"{BASE} -kernel boot/vmlinuz")
    for words in (("measure", "q", "--bare"), ("reference", "q", "--to", "rvps")):
        assert run(*words).err.startswith("warning: q: kernel-hashes-off: ")
    assert "kernel-hashes-off" in rules("q")
    assert digest("q") == digest("snp.fd", "--platform", "snp")


def test_without_a_model_it_is_that_of_qemu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """target/i386/cpu.c: qemu64 is family 15, model 107, stepping 1."""
    (folder / "q").write_text(BASE.replace("-cpu EPYC-v4 ", ""))
    monkeypatch.setitem(vcpu_types.CPU_SIGS, "qemu64", vcpu_types.cpu_sig(15, 107, 1))
    assert digest("q") == theirs("snp.fd", "", "", Machine(cpu="qemu64"))


@pytest.mark.parametrize("cpu", ["host", "max,pmu=off", ""])
def test_the_hosts_processor_has_to_be_named(cpu: str, folder: Path) -> None:
    words = BASE.replace("-cpu EPYC-v4 ", f"-cpu {cpu} " if cpu else "")
    (folder / "q").write_text(words)
    assert "host-cpu" in rules("q")
    if cpu:
        assert_refused(run("measure", "q"), {1})
    assert "host-cpu" not in rules("q", "--cpu", "0xa00f11")
    expected = theirs("snp.fd", "", "", Machine(cpu="EPYC-Milan", features=1))
    assert digest("q", "--cpu", "0xa00f11") == expected


def test_properties_change_the_signature(folder: Path) -> None:
    (folder / "q").write_text(BASE.replace("EPYC-v4", "EPYC-v4,family=25,model=1,stepping=1"))
    assert digest("q") == theirs("snp.fd", "", "", Machine(cpu="EPYC-Milan", features=1))


def test_flash_is_refused_for_snp_and_taken_for_sev(folder: Path) -> None:
    drive = "-drive if=pflash,format=raw,unit=0,file=snp.fd,readonly=on"
    (folder / "q").write_text(BASE.replace("-bios snp.fd", drive))
    assert_refused(run("measure", "q"), {4})
    (folder / "q").write_text(
        "qemu-system-x86_64 -machine q35,memory-encryption=g0 -object sev-guest,id=g0 " + drive
    )
    assert digest("q") == sha256(example("snp")).hexdigest()


def test_identities_of_a_td(folder: Path) -> None:
    value = b64encode(bytes(range(48))).decode()
    made = {"qom-type": "tdx-guest", "id": "t", "mrconfigid": value, "sept-ve-disable": False}
    words = ["qemu-system-x86_64", "-machine", "q35,confidential-guest-support=t", "-cpu", "host"]
    words += ["-object", json.dumps(made), "-bios", "/tdx.fd", "-smp", "4", "-kernel", KERNEL]
    (folder / "q").write_bytes("\0".join(words).encode())
    held = given("q", "--attributes", "0x10000000")
    assert held["digest"] == digest("tdx.fd", "--platform", "tdx")
    assert held["given"]["mrconfigid"] == bytes(range(48)).hex()
    assert held["places"]["mrconfigid"] == "-object tdx-guest,mrconfigid"


def test_an_option_beats_the_description_and_places_are_told(folder: Path) -> None:
    (folder / "q").write_text(f"{BASE} -smp 4")
    held = given("q", "--vcpus", "2")
    assert held["given"]["vcpus"] == 2
    assert "vcpus" not in held["places"]
    assert held["places"]["policy"] == "-object sev-snp-guest,policy"
    told = run("measure", "q", "--verbose")
    assert "given (-smp)" in told.out


@pytest.mark.parametrize(
    "words",
    [
        "-global EPYC-v4-x86_64-cpu.stepping=1", "-readconfig f", "-set object.g0.policy=1",
        "-device EPYC-v4-x86_64-cpu,socket-id=1", "-object sev-snp-guest,id=g0,new=on",
    ],
)  # fmt: skip
def test_what_changes_a_launch_out_of_sight_is_refused(words: str, folder: Path) -> None:
    (folder / "q").write_text(f"{BASE} {words}")
    assert_refused(run("measure", "q"), {4})


def test_features_of_the_object_are_those_of_the_vmsa(folder: Path) -> None:
    (folder / "q").write_text(BASE.replace("g0,policy", "g0,debug-swap=on,policy"))
    assert digest("q") == theirs("snp.fd", "", "", Machine(features=0x21))


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ('"a=\\$x \\" \\z"', 'a=$x " \\z'),
        ('"a \\\nb"', "a b"),
        ("a\\ b'c d'\"e f\"", "a bc de f"),
        ('"console=ttyS0" 2>/dev/null', "console=ttyS0"),
        ('"console=ttyS0" disk.img', "console=ttyS0"),
        ("''", ""),
        ("'a;b|c&d#e'", "a;b|c&d#e"),
        ("'a\\\nb'", "a\\\nb"),
    ],
)
def test_quotes_are_those_of_a_shell(written: str, line: str, folder: Path) -> None:
    """POSIX.1-2024, 2.2; the shell of this machine says the same."""
    hashed = BASE.replace("g0,policy", "g0,kernel-hashes=on,policy")
    (folder / "q").write_text(f"{hashed} -kernel boot/vmlinuz -append {written} -smp 2\n")
    (folder / "disk.img").write_bytes(b"")
    told = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {written}"], capture_output=True, check=True
    )
    assert told.stdout.decode().split("\0")[0] == line
    held = given("q")["given"]
    assert (held["append"], held["vcpus"]) == (line, 2)


@pytest.mark.parametrize("value", ["a;x=1 y", "a b; fi", "a|tee log"])
def test_an_operator_without_quotes_is_refused(value: str, folder: Path) -> None:
    (folder / "q").write_text(f"{BASE} -kernel boot/vmlinuz -append {value} -smp 8")
    assert_refused(run("measure", "q"), {4})


@pytest.mark.parametrize("value", ["x; fi", "x;", "x ; echo"])
def test_a_command_ends_at_its_operator(value: str, folder: Path) -> None:
    hashed = BASE.replace("g0,policy", "g0,kernel-hashes=on,policy")
    (folder / "q").write_text(f"{hashed} -kernel boot/vmlinuz -append {value}\n")
    assert given("q")["given"]["append"] == "x"


@pytest.mark.parametrize("value", ['a b="c d" e', "a | # b", "a <b >c"])
def test_words_of_ps_are_taken_as_they_stand(value: str, folder: Path) -> None:
    hashed = BASE.replace("g0,policy", "g0,kernel-hashes=on,policy")
    (folder / "q").write_text(f"{hashed}-kernel boot/vmlinuz -append {value} -smp 8")
    held = given("q")
    if value[2:3] in "|<":  # an operator of its own: a shell's
        assert held["given"]["append"] == "a"
        return
    assert (held["given"]["append"], held["given"]["vcpus"]) == (value, 8)
    assert "unquoted-line" in rules("q")


@pytest.mark.parametrize(
    "before", ["sudo -E ", "taskset -c 0-3 ", "numactl --cpunodebind=0 ", "A='b c' exec ", "$ "]
)
def test_programs_in_front_are_passed_over(before: str, folder: Path) -> None:
    (folder / "q").write_text(f"#!/bin/sh\n# qemu-system-x86_64 -smp 9\n{before}{BASE} -smp 3\n")
    assert given("q")["given"]["vcpus"] == 3


def test_a_template_of_ours_is_none_of_qemus(folder: Path) -> None:
    hashed = BASE.replace("g0,policy", "g0,kernel-hashes=on,policy")
    (folder / "q").write_text(f"{hashed} -kernel boot/vmlinuz -append 'n={{vcpus}}'")
    boot = Boot(b"", None, "n={vcpus}")
    assert digest("q") == theirs("snp.fd", "boot/vmlinuz", "", Machine(features=1, boot=boot))


def test_what_a_shell_would_do_is_not_done(folder: Path) -> None:
    for words in ("-smp $(nproc)", "-kernel $KERNEL", "-append `id`", '-append "a $X"'):
        (folder / "q").write_text(f"{BASE} {words}")
        assert_refused(run("measure", "q"), {4})
    (folder / "q").write_text(f"{BASE} -name '$x' -smp 2 ; rm -rf / ")
    assert given("q")["given"]["vcpus"] == 2
    (folder / "q").write_text(f"{BASE}\n{BASE}\n")
    assert_refused(run("measure", "q"), {3})


def test_qemus_own_list_of_options_is_known() -> None:
    told = unpacked("qemu-11.1", "qemu-system-x86_64", "-help").stdout
    rows = re.findall(r"^--?(\w[\w-]*)(?:/-([\w-]+))?( *)", told, re.MULTILINE)
    assert len(rows) > 150
    for one, other, gap in rows:
        for name in filter(None, (one, other)):
            right = WITHOUT_VALUE if len(gap) != 1 else WITH_VALUE
            assert name in right or name in ("h", "M", "dtb"), name


# --- files ---------------------------------------------------------------------------------------


def test_two_paths_are_not_one_file_by_its_name(folder: Path) -> None:
    (folder / "flat").mkdir()
    (folder / "flat/snp.fd").write_bytes(example("snp"))
    (folder / "flat/image").write_bytes(b"x")
    hashed = BASE.replace("g0,policy", "g0,kernel-hashes=on,policy")
    (folder / "q").write_text(f"{hashed} -kernel /a/image -initrd /b/image")
    assert_refused(run("measure", "q", "--base", "flat"), {3})
    (folder / "q").write_text(f"{hashed} -kernel /a/image -initrd /a/image")
    assert digest("q", "--base", "flat")


def test_files_are_looked_for_below_the_base_and_nowhere_else(folder: Path) -> None:
    (folder / "deep/opt").mkdir(parents=True)
    (folder / "deep/opt/fw.fd").write_bytes(example("snp"))
    (folder / "q").write_text(BASE.replace("snp.fd", "/opt/fw.fd"))
    told = run("measure", "q")
    assert_refused(told, {3})
    assert "--base" in told.err
    expected = digest("snp.fd", "--platform", "snp")
    assert digest("q", "--base", "deep") == digest("q", "--base", "deep/opt") == expected
    outside = folder.parent / f"{folder.name}-outside.fd"
    outside.write_bytes(example("snp"))
    (folder / "q").write_text(BASE.replace("snp.fd", str(outside)))
    assert_refused(run("measure", "q"), {3})
    assert digest("q", "--allow-outside") == expected
    (folder / outside.name).symlink_to(outside)
    assert_refused(run("measure", "q"), {3})


# --- libvirt -------------------------------------------------------------------------------------


def domain(*, loader: str = "<loader type='rom'>snp.fd</loader>", more: str = "") -> str:
    return (
        f"<domain><vcpu>2</vcpu><os>{loader}</os><cpu><model>EPYC-v4</model></cpu>"
        f"<launchSecurity type='sev-snp'><policy>30000</policy></launchSecurity>{more}</domain>"
    )


def arguments(*words: str) -> str:
    """Arguments for QEMU, under a prefix that is not the usual one."""
    made = "".join(f"<q:arg value='{word}'/>" for word in words)
    namespace = "http://libvirt.org/schemas/domain/qemu/1.0"
    return f"<q:commandline xmlns:q='{namespace}'>{made}</q:commandline>"


def test_arguments_that_change_nothing_are_passed_over(folder: Path) -> None:
    (folder / "d.xml").write_text(domain(more=arguments("-device", "vfio-pci,host=1", "-S")))
    assert digest("d.xml") == digest("snp.fd", "--platform", "snp", "--vcpus", "2")


def test_policies_of_libvirt_are_hexadecimal(folder: Path) -> None:
    (folder / "d.xml").write_text(domain())
    assert given("d.xml")["given"]["policy"] == "0x30000"


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (domain(loader=""), {4}),
        (domain(loader="<loader type='pflash'>snp.fd</loader>"), {4}),
        (domain(more=arguments("-smp", "4")), {4}),
        (domain(more=arguments("-readconfig", "f")), {4}),
        (domain(more=arguments("-device", "EPYC-v4-x86_64-cpu")), {4}),
        (domain(more=arguments("-cpu")), {3}),
        (domain(more="<q:commandline/>"), {3}),
        (domain(loader="<loader type='rom'>snp.fd</loader><igvm/>"), {4}),
        (domain().replace("30000", "0x"), {3}),
        (domain().replace("<policy>30000</policy>", ""), {3}),
        (domain().replace("sev-snp", "sev-next"), {3}),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]>" + domain(), {3}),
        ("<domain>" * 5000, {3}),
        (domain()[:-3], {3}),
        (domain().replace(">2<", ">0<"), {3}),
        (domain().replace("<vcpu>", "<vcpu current='9'>"), {3}),
    ],
)
def test_domains_that_are_refused(text: str, codes: set[int], folder: Path) -> None:
    (folder / "d.xml").write_text(text)
    assert_refused(run("measure", "d.xml"), codes)


def test_a_plain_domain_is_not_measured(folder: Path) -> None:
    text = re.sub("<launchSecurity.*</launchSecurity>", "", domain())
    (folder / "d.xml").write_text(text)
    assert_refused(run("measure", "d.xml"), {4})
    assert run("check", "d.xml").code == 0


# --- what this program writes itself -------------------------------------------------------------


@pytest.mark.parametrize("target", ["qemu", "libvirt"])
@pytest.mark.parametrize("name", ["snp", "tdx"])
def test_a_configuration_is_read_back_as_its_launch(target: str, name: str, folder: Path) -> None:
    """The digest stands in the heading; it is that of `measure`."""
    firmware = (folder / f"{name}.fd").read_bytes()
    (folder / f"{name}.fd").write_bytes(firmware.rjust(0x10000, b"\xff"))
    words = [f"{name}.fd", "--platform", name, "--vcpus", "3", "--memory", "1G"]
    if name == "snp":
        words += ["--kernel", "boot/vmlinuz", "--append", """a "b" 'c' $d"""]
    made = run("config", *words, "--to", target)
    assert made.code == 0, made.err
    (folder / "made").write_text(made.out)
    assert digest("made") == digest(*words)


# --- Kata ----------------------------------------------------------------------------------------

KATA: Final = EXAMPLES / "kata"
needs_shared = pytest.mark.skipif(not KATA.exists(), reason="../shared is absent")


@pytest.fixture
def kata(folder: Path) -> Path:
    """A configuration, and the files that it names."""
    for name in ("vmlinuz-confidential.container", "AMDSEV.fd"):
        file = folder / "host" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(example("snp"))
    text = (KATA / "configuration-qemu-snp.toml").read_text()
    (folder / "configuration.toml").write_text(text)
    return folder


def kata_digest(kata: Path, line: str, vcpus: int) -> str:
    """The peer's digest of a launch as Kata makes it."""
    machine = Machine(vcpus=vcpus, features=1, boot=Boot(b"", None, line))
    file = str(kata / "host/AMDSEV.fd")
    return theirs(file, str(kata / "host/vmlinuz-confidential.container"), "", machine)


@needs_shared
@pytest.mark.parametrize("version", ["3.30.0", "4.1.0"])
@pytest.mark.parametrize("vcpus", [1, 2, 32])
def test_katas_command_line_is_that_of_an_independent_program(
    version: str, vcpus: int, kata: Path
) -> None:
    import tomllib

    theirs_ = runpy.run_path(str(KATA / "kata_cmdline.py"))
    held = tomllib.loads((kata / "configuration.toml").read_text())
    numbers = tuple(map(int, version.split(".")))
    line = theirs_["cmdline"](held, numbers, vcpus)
    words = ("configuration.toml", "--base", "host", "--kata-version", version)
    told = given(*words, "--vcpus", str(vcpus))
    assert told["given"]["append"] == line
    assert told["digest"] == kata_digest(kata, line, vcpus)
    swept = run("sweep", *words, "--vcpus", f"1,{vcpus}").out.splitlines()
    assert json.loads(swept[-1])["digest"] == told["digest"]
    assert "nr-cpus" not in rules(*words, "--vcpus", str(vcpus))


POD: Final = """
kind: Pod
metadata:
  annotations:
    io.katacontainers.config.hypervisor.kernel_params: "extra=1"
    io.katacontainers.config.hypervisor.default_vcpus: "2"
    other/annotation: "x"
spec:
  containers:
  - resources: {limits: {cpu: 500m}}
  - resources: {limits: {cpu: 1}}
  - name: without
"""


@needs_shared
def test_a_pod_adds_vcpus_and_parameters(kata: Path) -> None:
    (kata / "pod.yaml").write_text(POD)
    held = given("configuration.toml", "--base", "host", "--pod", "pod.yaml")["given"]
    assert held["vcpus"] == 4  # ceil(2 + 0.5 + 1)
    assert held["append"].endswith(" extra=1")
    deployment = "spec:\n  template:\n" + "".join(f"    {line}\n" for line in POD.splitlines()[2:])
    (kata / "pod.yaml").write_text(deployment)
    assert given("configuration.toml", "--base", "host", "--pod", "pod.yaml")["given"] == held
    assert_refused(run("measure", "snp.fd", "--platform", "snp", "--pod", "pod.yaml"), {2})


VERITY: Final = (
    'dm-mod.create="dm-verity,,,ro,0 772096 verity 1 /dev/vda1 /dev/vda2 4096 4096 96512 0 sha256 '
    "4ee3b801e8e5de67e8c15ce8f8938455fc3b19d4990131acc1819f808e2d021d "
    f'{"c8" * 32}" root=/dev/dm-0 rootflags=data=ordered,errors=remount-ro ro rootfstype=ext4'
)
EXTENSION: Final = """
[[hypervisor.qemu.guest_extension_images]]
name = "coco"
verity_params = "root_hash=11"
"""


@needs_shared
def test_the_runtime_in_rust_has_a_line_of_its_own(kata: Path) -> None:
    """In the order of kernel_param.rs and cmdline_generator.rs of 4.1.0 (see profiles.kata)."""
    path = kata / "configuration.toml"
    text = path.read_text().replace("[runtime]", '[runtime]\nname = "virt_container"')
    path.write_text(text + EXTENSION)
    (kata / "pod.yaml").write_text(POD.replace("extra=1", "cgroup_no_v1=none x= y"))
    line = (
        "reboot=k panic=1 systemd.unit=kata-containers.target "
        "systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket "
        f"{VERITY} agent.cdh_api_timeout=50 agent.debug_console agent.debug_console_vport=1026 "
        "agent.launch_process_timeout=6 systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=none x y "
        "selinux=0 kata.extension.coco.verity_params=root_hash=11 console=hvc0"
    )
    held = given("configuration.toml", "--base", "host", "--pod", "pod.yaml")
    assert held["given"]["append"] == line
    assert held["given"]["vcpus"] == 2  # ceil(0 + 0.5 + 1), without default_vcpus
    assert held["digest"] == kata_digest(kata, line, 2)
    old = ("configuration.toml", "--base", "host", "--kata-version", "3.30.0")
    assert_refused(run("measure", *old), {4})


@needs_shared
def test_an_annotation_replaces_parameters_of_its_key(kata: Path) -> None:
    """pkg/oci/utils.go of 4.1.0; how earlier versions did it is not known."""
    changed = "cgroup_no_v1=none agent.debug_console_vport=7 a=1 a=2"
    (kata / "pod.yaml").write_text(POD.replace("extra=1", changed))
    words = ("configuration.toml", "--base", "host", "--pod", "pod.yaml")
    line = given(*words)["given"]["append"]
    end = "systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=none agent.debug_console_vport=7 a=2"
    assert line.endswith(end)
    assert line.count("cgroup_no_v1") == line.count("agent.debug_console_vport") == 1
    assert_refused(run("measure", *words, "--kata-version", "3.30.0"), {4})


@needs_shared
@pytest.mark.parametrize(
    ("old", "new", "vcpus"),
    [
        ('default_vcpus: "2"', 'default_vcpus: "0"', 2),  # ceil(0 + 1.5)
        ("spec:", "spec:\n  resources: {limits: {cpu: 6}}", 8),
        ("spec:", "spec:\n  initContainers: [{resources: {limits: {cpu: 8}}}]", 10),
        (
            "spec:",
            "spec:\n  initContainers: [{restartPolicy: Always, resources: {limits: {cpu: 2}}}, {}]",
            6,
        ),
    ],
)
def test_limits_of_a_pod_are_those_of_kubelet(old: str, new: str, vcpus: int, kata: Path) -> None:
    """component-helpers/resource/helpers.go: init containers, sidecars, limits of the pod."""
    assert old in POD
    (kata / "pod.yaml").write_text(POD.replace(old, new))
    held = given("configuration.toml", "--base", "host", "--pod", "pod.yaml")["given"]
    assert held["vcpus"] == vcpus


@needs_shared
@pytest.mark.parametrize(
    ("enabled", "codes"),
    [
        ('["kernel_params", "default_vcpus", "machine_type"]', set()),
        ('[".*"]', set()),
        ("[]", {3}),
        ('["kernel_params"]', {3}),
        ('["^d.*_vcpus$", "kernel_params"]', {4}),
    ],
)
def test_annotations_that_are_not_enabled(enabled: str, codes: set[int], kata: Path) -> None:
    """pkg/oci/utils.go, checkAnnotationNameIsValid: the pod is refused."""
    path = kata / "configuration.toml"
    new = f"enable_annotations = {enabled}\ndefault_vcpus = 1"
    path.write_text(path.read_text().replace("default_vcpus = 1", new))
    (kata / "pod.yaml").write_text(POD)
    words = ("configuration.toml", "--base", "host", "--pod", "pod.yaml")
    if codes:
        assert_refused(run("measure", *words), codes)
    else:
        assert given(*words)["given"]["vcpus"] == 4


@needs_shared
def test_other_cpu_features_do_not_change_the_signature(kata: Path) -> None:
    path = kata / "configuration.toml"
    before = digest("configuration.toml", "--base", "host")
    path.write_text(path.read_text().replace('cpu_features = "', 'cpu_features = "model-id=x,'))
    assert digest("configuration.toml", "--base", "host") == before


@needs_shared
def test_the_runtime_in_go_does_not_read_the_size_of_pipes(kata: Path) -> None:
    """pkg/katautils/config.go of 4.1.0, type agent."""
    path = kata / "configuration.toml"
    before = digest("configuration.toml", "--base", "host")
    more = "[agent.kata]\ncontainer_pipe_size = 5"
    path.write_text(path.read_text().replace("[agent.kata]", more))
    assert digest("configuration.toml", "--base", "host") == before


@needs_shared
def test_annotations_change_what_is_booted(kata: Path) -> None:
    prefix = "io.katacontainers.config.hypervisor."
    more = (
        f'    {prefix}use_legacy_serial: "true"\n    {prefix}enable_iommu: "true"\n'
        f'    {prefix}kernel_verity_params: ""\n'
    )
    text = POD.replace("  annotations:\n", f"  annotations:\n{more}").replace(
        '"extra=1"', '"a=1\tb"'
    )
    (kata / "pod.yaml").write_text(text)
    line = given("configuration.toml", "--base", "host", "--pod", "pod.yaml")["given"]["append"]
    assert " intel_iommu=on iommu=pt root=/dev/vda1 " in line
    assert " console=ttyS0 quiet" in line
    assert line.endswith(" a=1 b")
    job = "kind: CronJob\nspec:\n  jobTemplate:\n    spec:\n      template:\n"
    job += "".join(f"        {one}\n" for one in text.splitlines()[2:])
    (kata / "job.yaml").write_text(job)
    told = given("configuration.toml", "--base", "host", "--pod", "job.yaml")["given"]
    assert (told["append"], told["vcpus"]) == (line, 4)
    (kata / "pod.yaml").write_text("kind: Pod\nspec: {nothing: 1}\n")
    words = ("configuration.toml", "--base", "host", "--pod", "pod.yaml")
    assert_refused(run("measure", *words), {3})


@needs_shared
def test_drop_in_files_come_after_the_configuration(kata: Path) -> None:
    (kata / "config.d").mkdir()
    (kata / "config.d/10.toml").write_text("[hypervisor.qemu]\ndefault_vcpus = 3\n")
    (kata / "config.d/20.toml").write_text("[hypervisor.qemu]\ndefault_vcpus = 5\n")
    assert given("configuration.toml", "--base", "host")["given"]["vcpus"] == 5


@needs_shared
@pytest.mark.parametrize(
    ("old", "new", "codes"),
    [
        ("default_vcpus = 1", "default_vcpus = -1", {4}),
        ("default_vcpus = 1", 'default_vcpus = "x"', {3}),
        ('rootfs_type = "ext4"', 'rootfs_type = "zfs"', {3}),
        ("salt=", "pepper=", {3}),
        ("[agent.kata]", "[agent.kata.mem_agent]\nenable = true\n[agent.kata]", {4}),
        ("[agent.kata]", "[agent.kata]\ncdh_api_timeout = true", {3}),
        ("hypervisor.qemu", "hypervisor.clh", {4}),
        ("confidential_guest = true", "confidential_guest = 1", {3}),
        ("image =", "img =", {3}),
        ("image =", 'initrd = "x"\nimage =', {3}),
        ('cpu_features = "', 'cpu_features = "model=1,', {4}),
        ("[agent.kata]", "[agent.kata", {3}),
        ("snp_guest_policy = 196608", 'snp_guest_policy = "x"', {3}),
    ],
)
def test_configurations_that_are_refused(old: str, new: str, codes: set[int], kata: Path) -> None:
    path = kata / "configuration.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert_refused(run("measure", "configuration.toml", "--base", "host"), codes)


# --- dstack and tdx-measure ----------------------------------------------------------------------


def measurement(**changed: Any) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((EXAMPLES / "dstack/sev_snp_measurement.json").read_text())
    return {**held, **changed}


@needs_shared
def test_a_measurement_of_dstack_is_that_of_sev_snp_measures_library(folder: Path) -> None:
    """The digest: measurement_input.py of the examples, by the library of sev-snp-measure."""
    (folder / "m.json").write_text(json.dumps(measurement()))
    told = digest("m.json")
    assert told.startswith("9ff349b230616b459abe9f708d5118ea5404f344818ef913559e7cd3c5113870")
    (folder / "m.json").write_text(json.dumps({"sev_snp_measurement": json.dumps(measurement())}))
    assert digest("m.json") == told


@needs_shared
@pytest.mark.parametrize(
    "changed",
    [
        {"vcpus": 513}, {"vcpus": "x"}, {"extra": 1}, {"ovmf_hash": "00"}, {"ovmf_sections": [1]},
        {"ovmf_sections": [{"gpa": 0}]}, {"vcpu_type": 3}, {"kernel_hash": "zz"},
        {"base_cmdline": 5}, {"sev_hashes_table_gpa": -1},
        {"ovmf_sections": [{"gpa": 1 << 40, "size": 4096, "section_type": 1}]},
    ],
)  # fmt: skip
def test_measurements_that_are_refused(changed: dict[str, Any], folder: Path) -> None:
    (folder / "m.json").write_text(json.dumps(measurement(**changed)))
    assert_refused(run("measure", "m.json"), {2, 3})


@pytest.mark.parametrize(
    ("told", "order"),
    [
        ({"qemu_single_pass_add_pages": True}, "two-pass"),
        ({"qemu_single_pass_add_pages": False}, "single-pass"),
        ({"qemu_version": "8.2.2"}, "two-pass"),
        ({"qemu_version": "9.1.0"}, "single-pass"),
        ({}, "single-pass"),
    ],
)
def test_page_order_of_a_vm_config(told: dict[str, Any], order: str, folder: Path) -> None:
    """The flag means its opposite in dstack's verifier (outputs.md 8.4)."""
    image = folder / "dstack-0.5"
    image.mkdir()
    (image / "metadata.json").write_text(json.dumps({"bios": "ovmf.fd", "rootfs": "k"}))
    (image / "ovmf.fd").write_bytes(example("tdx"))
    held = {"os_image_hash": "00" * 32, "cpu_count": 2, "memory_size": 4 << 30, **told}
    (folder / "vm.json").write_text(json.dumps({**held, "image": "dstack-0.5"}))
    assert digest("vm.json") == digest("tdx.fd", "--platform", "tdx", "--page-order", order)
    assert digest("dstack-0.5/metadata.json") == digest("tdx.fd", "--platform", "tdx")


def test_metadata_of_tdx_measure(folder: Path) -> None:
    boot = {"cpus": 4, "memory": "2048M", "bios": "tdx.fd", "acpi_tables": "x"}
    held = {"boot_config": boot, "direct": {"kernel": "vmlinuz", "cmdline": "quiet"}}
    (folder / "metadata.json").write_text(json.dumps(held))
    told = given("metadata.json")
    assert told["digest"] == digest("tdx.fd", "--platform", "tdx")
    assert (told["given"]["vcpus"], told["given"]["memory"]) == (4, "0x80000000")


# --- what a TD boots ------------------------------------------------------------------------------


def td_descriptions(line: str) -> dict[str, str]:
    """Command line, domain and metadata of one TD, by file name."""
    words = [
        "qemu-system-x86_64", "-machine", "q35,confidential-guest-support=t", "-object",
        "tdx-guest,id=t", "-bios", "/tdx.fd", "-m", "2G", "-kernel", KERNEL, "-initrd",
        "/boot/initrd", "-append", line,
    ]  # fmt: skip
    return {
        "argv": shlex.join(words),
        "dom.xml": "<domain><memory unit='GiB'>2</memory><os><type machine='q35'/>"
        "<loader type='rom'>/tdx.fd</loader><kernel>/boot/vmlinuz</kernel>"
        f"<initrd>/boot/initrd</initrd><cmdline>{line}</cmdline></os>"
        "<launchSecurity type='tdx'/></domain>",
        "metadata.json": json.dumps(
            {
                "boot_config": {"bios": "tdx.fd", "memory": "2G"},
                "direct": {"kernel": "boot/vmlinuz", "initrd": "boot/initrd", "cmdline": line},
            }
        ),
    }


def test_registers_of_a_description_are_those_of_its_options(folder: Path) -> None:
    (folder / "tdx.fd").write_bytes(Firmware().build())
    (folder / "boot/vmlinuz").write_bytes(kernel())
    options = ("--kernel", "boot/vmlinuz", "--initrd", "boot/initrd", "--append", "a b")

    def events(*words: str) -> list[tuple[str, str, str | None]]:
        held = json.loads(run("rtmr", *words, "--format", "json").out)
        return [(one["register"], one["key"], one["digest"]) for one in held["events"]]

    expected = events("tdx.fd", "--memory", "2GiB", *options)
    assert any(digest for _, _, digest in expected)
    for name, text in td_descriptions("a b").items():
        (folder / name).write_text(text)
        assert events(name, "--base", ".") == expected, name
    assert events("argv", "--append", "c") != expected
    page = run("report", "argv", "--base", ".").out
    assert "RTMRs, predicted" in page
    assert sha384((folder / "boot/initrd").read_bytes()).hexdigest() in page
    assert all((digest or "") in page for _, _, digest in expected)
    (folder / "argv").write_text(BASE)
    assert_refused(run("rtmr", "argv"), {4})


# --- UKI -----------------------------------------------------------------------------------------


def test_a_uki_is_one_kernel_or_its_parts(folder: Path) -> None:
    parts = {".linux": kernel(), ".initrd": b"initrd", ".cmdline": b"console=ttyS0"}
    debug = (".profile", b"ID=debug\nTITLE=x\n"), (".cmdline", b"debug\0")
    rows = [*parts.items(), (".profile", b"ID=main\n"), *debug]
    (folder / "uki.efi").write_bytes(pe_image(rows))
    for name in (".linux", ".initrd"):
        (folder / name).write_bytes(parts[name])
    base = ("snp.fd", "--platform", "snp", "--kernel", "uki.efi")

    def peer(kernel: str, initrd: str, line: str) -> str:
        return theirs("snp.fd", kernel, initrd, Machine(features=1, boot=Boot(b"", None, line)))

    assert digest(*base) == peer("uki.efi", "", "")
    assert digest(*base, "--uki-sections") == peer(".linux", ".initrd", "console=ttyS0")
    told = digest(*base, "--uki-sections", "--uki-profile", "debug")
    assert told == peer(".linux", ".initrd", "debug")
    told = digest(*base, "--uki-sections", "--append", "own")
    assert told == peer(".linux", ".initrd", "own")
    assert_refused(run("measure", *base, "--uki-sections", "--uki-profile", "none"), {2})
    assert_refused(run("measure", *base, "--uki-profile", "main"), {2})
    (folder / "uki.efi").write_bytes(b"MZ")
    assert_refused(run("measure", *base, "--uki-sections"), {4})


# --- command lines -------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_what_a_command_line_may_get_wrong() -> None:
    base = ("snp.fd", "--platform", "snp", "--vcpus", "2", "--kernel", "boot/vmlinuz", "--append")
    assert "nr-cpus" in rules(*base, "nr_cpus=1")
    assert "nr-cpus" not in rules(*base, "nr_cpus=2 xnr_cpus=7")
    assert digest(*base, "nr_cpus={vcpus}") == digest(*base, "nr_cpus=2")
    assert "trailing-blank" in rules(*base, "quiet ")
    assert "trailing-blank" not in rules(*base, " quiet")


@pytest.mark.usefixtures("folder")
def test_a_sweep_counts_vcpus_in_the_command_line() -> None:
    base = ("snp.fd", "--platform", "snp", "--kernel", "boot/vmlinuz")
    line = ("--append", "nr_cpus={vcpus}")
    for jobs in ("1", "2"):
        out = run("sweep", *base, *line, "--vcpus", "1-3", "--jobs", jobs).out
        for count, row in enumerate(map(json.loads, out.splitlines()), 1):
            boot = Boot(b"", None, f"nr_cpus={count}")
            machine = Machine(vcpus=count, features=1, boot=boot)
            assert row["digest"] == theirs("snp.fd", "boot/vmlinuz", "", machine)
            assert row["append"] == f"nr_cpus={count}"


def test_explain_finds_a_processor_and_vcpus_with_their_count(folder: Path) -> None:
    (folder / "q").write_text(BASE.replace("EPYC-v4", "host"))
    wanted = theirs("snp.fd", "", "", Machine(cpu="EPYC-Milan", features=1))
    told = run("explain", "q", "--expect", wanted, "--format", "json")
    answer = json.loads(told.out)
    assert (told.code, answer["changes"][0]["typed"]) == (0, "--cpu EPYC-Milan")
    (folder / "deep").mkdir()
    for name in ("snp.fd", "boot/vmlinuz"):
        (folder / name).rename(folder / "deep" / Path(name).name)
    hashes = BASE.replace("g0,policy", "g0,kernel-hashes=on,policy")
    (folder / "q").write_text(f"{hashes} -smp 2 -kernel vmlinuz -append 'a nr_cpus=2'")
    boot = Boot(b"", None, "a nr_cpus=5")
    wanted = theirs("deep/snp.fd", "deep/vmlinuz", "", Machine(vcpus=5, features=1, boot=boot))
    answer = json.loads(
        run("explain", "q", "--base", "deep", "--expect", wanted, "--format", "json").out
    )
    assert answer["explained"], answer
    again = run(*answer["command"][1:], "--bare")
    assert again.out.strip() == wanted


# --- examples of others --------------------------------------------------------------------------


@pytest.mark.skipif(not CASE.exists(), reason="../shared is absent")
def test_the_case_of_a_command_line_and_a_domain(folder: Path) -> None:
    (folder / "OVMF.fd").write_bytes(example("snp"))
    (folder / "vmlinuz").write_bytes(b"kernel")
    for name in ("qemu.args", "dom.xml"):
        (folder / name).write_bytes((CASE / name).read_bytes())
    boot = Boot(b"", None, "")
    expected = theirs("OVMF.fd", "vmlinuz", "", Machine(vcpus=4, features=1, boot=boot))
    assert digest("qemu.args") == expected
    assert digest("dom.xml") == theirs("OVMF.fd", "", "", Machine(vcpus=4, features=1))


@needs_shared
@pytest.mark.parametrize("name", ["qemu/argv-snp.txt", "libvirt/snp.xml", "libvirt/tdx.xml"])
def test_examples_of_others(name: str, folder: Path) -> None:
    for file in ("AMDSEV.fd", "OVMF.amdsev.fd", "vmlinuz.container", "vmlinuz", "initrd"):
        (folder / file).write_bytes(example("snp"))
    (folder / "OVMF.inteltdx.fd").write_bytes(example("tdx"))
    (folder / "example").write_bytes((EXAMPLES / name).read_bytes())
    told = given("example")
    if name.endswith("tdx.xml"):
        assert told["digest"] == digest("tdx.fd", "--platform", "tdx")
        return
    held = told["given"]
    initrd = "initrd" if "initrd" in held else ""
    boot = Boot(b"", None, held["append"])
    machine = Machine(vcpus=held["vcpus"], features=1, boot=boot)
    assert told["digest"] == theirs("AMDSEV.fd", "vmlinuz", initrd, machine)


# --- spoiled in many ways ------------------------------------------------------------------------


def spoiled(text: bytes, chance: Random) -> bytes:
    made = bytearray(text)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made))
        match chance.randrange(4):
            case 0:
                del made[at : at + chance.randint(1, 20)]
            case 1:
                made[at] = chance.randrange(256)
            case 2:
                made[at:at] = chance.choice((b'"', b"<", b"\0", b"\xff", b"{", b"\\", b"'", b"="))
            case 3:
                made[at:at] = made[at : at + 30] * 3
    return bytes(made)


@pytest.mark.parametrize("form", ["nul", "array", "line", "dom.xml", "kata", "dstack", "tdx"])
def test_spoiled_descriptions_are_one_line_or_a_launch(form: str, folder: Path) -> None:
    guest = Guest(Random(4))  # noqa: S311 as above
    words = guest.argv()
    forms = {
        "nul": "\0".join(words), "array": json.dumps(words), "line": shlex.join(words),
        "dom.xml": guest.domain(),
        "kata": '[hypervisor.qemu]\nconfidential_guest = true\nsev_snp_guest = true\n'
        'image = "i"\nfirmware = "snp.fd"\nkernel = "boot/vmlinuz"\ndefault_vcpus = 2\n',
        "dstack": json.dumps({"os_image_hash": "", "cpu_count": 1, "image": "x"}),
        "tdx": json.dumps({"boot_config": {"bios": "tdx.fd", "cpus": 2}}),
    }  # fmt: skip
    chance = Random(form)  # noqa: S311 as above
    for _ in range(40):
        (folder / "f").write_bytes(spoiled(forms[form].encode(), chance))
        told: Result = run("measure", "f")
        if told.code:
            assert_refused(told, {1, 2, 3, 4})


@pytest.mark.parametrize(
    "text",
    [
        "\0".join(["qemu-system-x86_64", *["-smp", "1"] * 50_000]),
        shlex.join(["qemu-system-x86_64", *["-smp", "1"] * 50_000]),
        json.dumps(["qemu-system-x86_64", *["-smp", "1"] * 50_000]),
        '["qemu-system-x86_64",' + "[" * 100_000,
        "[hypervisor.qemu]\n" + "a." * 50_000 + "b = 1",
        "qemu-system-x86_64 -object " + "{" * 100_000,
        "qemu-system-x86_64 -a \\",
        "qemu-system-x86_64 -a \n" * 40_000,
        "launching qemu-system-x86_64 with: [" * 25_000,
        (
            f'[hypervisor.qemu]\nkernel_params = "{"a" * 900_000}"\nconfidential_guest = true\n'
            'sev_snp_guest = true\nfirmware = "x"\nkernel = "x"\nimage = "x"\n'
        ),
    ],
    ids=[
        "nul",
        "line",
        "array",
        "deep",
        "toml",
        "object",
        "backslash",
        "lines",
        "logs",
        "parameter",
    ],
)
def test_large_descriptions_are_refused_in_time(text: str, folder: Path) -> None:
    (folder / "f").write_text(text)
    start = time.process_time()
    assert_refused(run("measure", "f"), {3, 4})
    assert time.process_time() - start < SECONDS


@needs_shared
@pytest.mark.parametrize(
    "path", [p for p in EXAMPLES.rglob("*") if p.suffix in SUFFIXES], ids=lambda p: p.name
)  # fmt: skip
def test_examples_are_inspected_or_refused(path: Path) -> None:
    told = run("inspect", str(path))
    assert told.code in (0, 3, 4)
    assert "Traceback" not in told.err


def test_inspect_shows_settings_and_their_places(folder: Path) -> None:
    (folder / "q").write_text(f"{BASE} -smp 4 -m 2G")
    held = json.loads(run("inspect", "q", "--format", "json").out)
    rows = {row["setting"]: row for row in held["tables"][0]["rows"]}
    assert rows["vcpus"] == {"setting": "vcpus", "value": "4", "place": "-smp"}
