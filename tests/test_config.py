"""`config --to` and the texts of `idblock -o`, each read by what they are for."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import subprocess
import tomllib
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest

from cvmplan.profiles import cpus
from cvmplan.profiles.managers import MANAGERS
from tests.build.ovmf import example
from tests.consumers import qmp, unpacked
from tests.recorder.judge import compared, folded, measured, simulated
from tests.recorder.kept import Kept
from tests.recorder.launches import FILES, NEW, OLD, XFAM, Launch
from tests.recorder.record import compiled, compiler, consumers, package, record, write_files
from tests.run import assert_refused, run

SHARED: Final = Path("../shared").resolve()
KATA: Final = SHARED / "consumers/examples/kata"
HOST_DATA: Final = bytes(range(32))
MRCONFIGID: Final = bytes(range(48))
GOSVW: Final = bytes(range(16))
SNP: Final = ("--platform", "snp", "--vcpus", "3", "--cpu", "EPYC-Milan-v2", "--memory", "512M")
APPEND: Final = """root=/dev/vda1 a='1' b="<&>" c=ä,d"""
KERNEL: Final = ("--kernel", "kernel", "--initrd", "initrd", "--append", APPEND)
GIVEN: Final = ("--host-data", HOST_DATA.hex(), "--gosvw", GOSVW.hex(), "--vcek-disabled")
TDX: Final = (
    "--platform", "tdx", "--vcpus", "3", "--memory", "512M", "--mrconfigid", MRCONFIGID.hex(),
    "--mrowner", MRCONFIGID[::-1].hex(), "--mrownerconfig", bytes(48).hex(),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def out(image: str, *arguments: str) -> str:
    told = run("config", image, *arguments)
    assert (told.code, told.err) == (0, "")
    return told.out


def words(text: str, folder: Path) -> list[str]:
    """The arguments that a shell makes of a command."""
    program = folder / "bin" / "qemu-system-x86_64"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh"], input=text, check=True, capture_output=True, text=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    return done.stdout.split("\0")[:-1]


def value(arguments: list[str], name: str) -> str:
    assert arguments.count(name) == 1
    return arguments[arguments.index(name) + 1]


def signed(folder: Path, *more: str, author: bool = False) -> Path:
    """A folder that `idblock -o` wrote."""
    for name in ("id", "author"):
        command = ("ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", f"{name}.pem")
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    keys = ("--id-key", "id.pem", *(("--author-key", "author.pem") if author else ()))
    made = folder / ("by-author" if author else "by-owner")
    told = run("idblock", "snp.fd", *SNP, *more, *keys, "-o", str(made))
    assert (told.code, told.err) == (0, "")
    return made


def identity(made: Path) -> tuple[str, ...]:
    return (
        "--id-block", (made / "id-block.bin").read_bytes().hex(),
        "--id-auth", (made / "id-auth.bin").read_bytes().hex(),
    )  # fmt: skip


# --- QEMU ----------------------------------------------------------------------------------------


@pytest.fixture(params=[OLD, NEW])
def vmm(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not package(name):
        pytest.skip(f"{consumers()} has no {name}: .ci/consumers fetches it")
    return name


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None:
        pytest.skip("there is no C compiler")
    return compiled(tmp_path_factory.mktemp("recorder"))


def get(name: str) -> dict[str, Any]:
    return {"execute": "qom-get", "arguments": {"path": "/objects/cgs0", "property": name}}


def test_qemu_takes_the_object_and_has_what_was_given(vmm: str, folder: Path) -> None:
    made = signed(folder, *KERNEL, author=True)
    given = (*SNP, *KERNEL, *GIVEN, *identity(made), "--author-key-enabled")
    told = value(words(out("snp.fd", *given, "--to", "qemu"), folder), "-object")
    spoken = qmp(
        vmm,
        *map(get, (
            "policy", "cbitpos", "reduced-phys-bits", "kernel-hashes", "author-key-enabled",
            "vcek-disabled", "id-block", "id-auth", "host-data", "guest-visible-workarounds",
        )),
        arguments=("-object", told),
    )  # fmt: skip
    assert (spoken.code, spoken.said) == (0, "")
    *plain, block, auth, host_data, gosvw = spoken.answers
    assert plain == [0x30000, 51, 1, True, True, True]
    assert b64decode(block) == (made / "id-block.bin").read_bytes()
    assert b64decode(auth) == (made / "id-auth.bin").read_bytes()
    assert (b64decode(host_data), b64decode(gosvw)) == (HOST_DATA, GOSVW)
    assert qmp(vmm, get("kernel-hashes"), arguments=("-object", bare_object(folder))).answers == [
        False
    ]


def bare_object(folder: Path) -> str:
    return value(words(out("snp.fd", *SNP, "--to", "qemu"), folder), "-object")


SPOILED: Final = {
    ",id=cgs0": ("", "Parameter 'id' is missing"),
    ",reduced-phys-bits=1": ("", "Parameter 'reduced-phys-bits' is missing"),
    "host-data=": ("host-data=AA", "not equal to"),
    "kernel-hashes=on": ("kernel-hashes=1", "expects 'on' or 'off'"),
    "policy=0x30000": ("policy=three", "policy"),
    "vcek-disabled": ("vcek-off", "Invalid parameter 'vcek-off'"),
}


@pytest.mark.parametrize("right", SPOILED)
def test_qemu_refuses_a_spoiled_object(right: str, vmm: str, folder: Path) -> None:
    told = value(words(out("snp.fd", *SNP, *KERNEL, *GIVEN, "--to", "qemu"), folder), "-object")
    wrong, says = SPOILED[right]
    assert told.count(right) == 1
    spoken = qmp(vmm, arguments=("-object", told.replace(right, wrong)))
    assert spoken.code == 1
    assert says in spoken.said


def test_the_object_of_idblock_is_that_of_config_and_qemu_takes_it(vmm: str, folder: Path) -> None:
    for author in (False, True):
        made = signed(folder, *KERNEL, *GIVEN, author=author)
        told = (made / "qemu.txt").read_text().strip()
        flag = ("--author-key-enabled",) if author else ()
        given = (*SNP, *KERNEL, *GIVEN, *identity(made), *flag)
        assert told == value(words(out("snp.fd", *given, "--to", "qemu"), folder), "-object")
        spoken = qmp(vmm, get("author-key-enabled"), arguments=("-object", told))
        assert (spoken.code, spoken.said, spoken.answers) == (0, "", [author])


def members(vmm: str, kind: str) -> dict[str, str]:
    """The properties of an object, by name, with their JSON types, as QEMU tells them."""
    (schema,) = qmp(vmm, {"execute": "query-qmp-schema"}).answers
    known = {one["name"]: one for one in schema}
    taken = known[known["object-add"]["arg-type"]]
    (variant,) = [one["type"] for one in taken["variants"] if one["case"] == kind]
    members = (*known[variant]["members"], *taken["members"])
    return {one["name"]: known[one["type"]].get("json-type", "") for one in members}


def test_qemu_knows_the_properties_of_a_td_and_their_types(folder: Path) -> None:
    if not package(NEW):
        pytest.skip(f"{consumers()} has no {NEW}: .ci/consumers fetches it")
    known = members(NEW, "tdx-guest")
    told = json.loads(value(words(out("tdx.fd", *TDX, "--to", "qemu"), folder), "-object"))
    assert told.pop("qom-type") == "tdx-guest"
    types = {str: "string", int: "int"}
    assert {name: types[type(one)] for name, one in told.items()} == {
        name: known[name] for name in told
    }
    assert "mrconfig" not in known
    assert b64decode(told["mrconfigid"]) == MRCONFIGID
    assert b64decode(told["mrowner"]) == MRCONFIGID[::-1]


LAUNCHES: Final = {
    "snp": ("snp.fd", SNP),
    "kernel": ("snp.fd", (*SNP, *KERNEL)),
    "given": ("snp.fd", (*SNP, *GIVEN)),
    "identity": ("snp.fd", SNP),
    "tdx": ("tdx.fd", (*TDX, "--abi", "kvm-6.18")),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_qemu_makes_the_launch_that_was_planned(
    name: str, vmm: str, library: Path, folder: Path
) -> None:
    """The command as a shell has it, run by the real binary on the recorder's KVM."""
    image, options = LAUNCHES[name]
    if name == "identity":
        made = signed(folder, author=True)
        options = (*options, *identity(made), "--author-key-enabled")
    if image == "tdx.fd" and vmm == OLD:
        pytest.skip("QEMU 10.0 has no TDX")
    text = out(image, *options, "--to", "qemu")
    told = [word.replace(",accel=kvm", "") for word in words(text, folder)]
    told = [word.replace("cbitpos=51,", "cbitpos=0,") for word in told]  # of this host
    of_the_host = ("--xfam", hex(XFAM)) if image == "tdx.fd" else ()
    launch = Launch(f"config-{name}", tuple(told), (image, *options, *of_the_host))
    now = record(vmm, launch, library, folder)
    kept = Kept(launch.name, vmm, "", "", " ".join(now.said.split()), now.code, tuple(now.lines))
    found = simulated(kept, launch, folder)
    assert found["finalized"], kept.said
    assert found["digest"] == measured(launch, folder)
    assert found["digest"] in text
    assert not compared(kept, launch, folder)["calls"]["differences"]
    if name in ("snp", "tdx"):
        assert folded(kept, launch, folder) == found["digest"]


def test_debians_firmware_is_launched_as_planned(
    vmm: str, library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = consumers() / "firmware/usr/share/ovmf/OVMF.amdsev.fd"
    if not real.exists():
        pytest.skip(f"there is no {real}")
    monkeypatch.setitem(FILES, "snp.fd", real.read_bytes())
    write_files(folder)
    test_qemu_makes_the_launch_that_was_planned("kernel", vmm, library, folder)


def test_models_are_qemus_own_whatever_was_typed(folder: Path) -> None:
    for given, name in (("epyc-milan", "EPYC-Milan"), ("0xa00f11", "EPYC-Milan"),
                        ("EPYC-Genoa,+x2apic", "EPYC-Genoa"), ("0xa00f12", "host")):  # fmt: skip
        text = out("snp.fd", "--platform", "snp", "--cpu", given, "--to", "qemu")
        assert value(words(text, folder), "-cpu") == name


def test_files_are_named_so_that_a_shell_takes_them(folder: Path) -> None:
    name = 'it\'s $(touch no) `a`\n"é", &.fd'
    (folder / "snp.fd").rename(folder / name)
    told = words(out(name, *SNP, "--to", "qemu"), folder)
    assert value(told, "-bios") == name
    assert not (folder / "no").exists()


def test_an_igvm_file_is_an_object_of_its_own(folder: Path) -> None:
    """docs/system/igvm.rst of QEMU; Debian's build has no such object."""
    source = SHARED / "vectors/igvm/snp_no_zero.igvm"
    if not source.exists():
        pytest.skip("../shared is absent")
    (folder / "a,b.igvm").write_bytes(source.read_bytes())
    told = words(out("a,b.igvm", "--platform", "snp", "--vmm", "qemu", "--to", "qemu"), folder)
    assert "igvm-cfg,id=igvm0,file=a,,b.igvm" in told
    assert "igvm-cfg=igvm0" in value(told, "-machine").split(",")
    assert "-bios" not in told
    given = ("--platform", "snp", "--vmm", "qemu", "--policy", "0xb0000", "--to", "qemu")
    own = run("config", "a,b.igvm", *given)
    assert_refused(own, {4})
    assert "--policy" in own.err
    for target in ("libvirt", "kata"):
        refused = run("config", "a,b.igvm", "--platform", "snp", "--vmm", "qemu", "--to", target)
        assert_refused(refused, {4})
        assert "IGVM" in refused.err


# --- libvirt -------------------------------------------------------------------------------------


def validated(path: Path) -> int:
    """What virt-xml-validate answers: its last command, with the schema of the same packages."""
    schema = consumers() / "libvirt/usr/share/libvirt/schemas/domain.rng"
    return unpacked("libvirt", "xmllint", "--noout", "--relaxng", str(schema), str(path)).returncode


def defined(path: Path) -> subprocess.CompletedProcess[str]:
    """What libvirt's test driver says to a domain: without KVM, so of the type test."""
    path.write_text(path.read_text().replace("<domain type='kvm'>", "<domain type='test'>"))
    return unpacked("libvirt", "virsh", "-c", "test:///default", "define", str(path))


def domain(folder: Path, image: str, *arguments: str) -> Path:
    path = folder / "domain.xml"
    path.write_text(out(image, *arguments, "--to", "libvirt"))
    return path


DOMAINS: Final = {
    "snp": ("snp.fd", SNP),
    "kernel": ("snp.fd", (*SNP, *KERNEL, *GIVEN)),
    "bits": ("snp.fd", (*SNP, "--c-bit", "51", "--policy", "0xb0000")),
    "host": ("snp.fd", ("--platform", "snp", "--cpu", "0xa00f12")),
    "tdx": ("tdx.fd", TDX),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_libvirt_validates_and_defines_the_domain(name: str, folder: Path) -> None:
    image, options = DOMAINS[name]
    path = domain(folder, image, *options)
    assert validated(path) == 0
    done = defined(path)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_libvirt_is_told_what_was_given(folder: Path) -> None:
    made = signed(folder, *KERNEL, author=True)
    given = (*SNP, *KERNEL, *GIVEN, *identity(made), "--author-key-enabled", "--policy", "0xb0000")
    wrong = run("config", "snp.fd", *given, "--to", "libvirt")
    assert (wrong.code, wrong.out) == (1, "")  # the block is for another policy
    path = domain(folder, "snp.fd", *given[:-2])
    root = ET.parse(path).getroot()  # noqa: S314 our own
    texts = {one.tag: one.text for one in root.iter()}
    assert texts["cmdline"] == APPEND
    assert (texts["vcpu"], texts["model"]) == ("3", "EPYC-Milan-v2")
    assert (texts["loader"], texts["memory"]) == (str(folder / "snp.fd"), str(512 * 1024))
    security = root.find("launchSecurity")
    assert security is not None
    assert security.attrib == {
        "type": "sev-snp", "kernelHashes": "yes", "authorKey": "yes", "vcek": "no",
    }  # fmt: skip
    assert int(str(texts["policy"]), 16) == 0x30000
    assert b64decode(str(texts["idBlock"])) == (made / "id-block.bin").read_bytes()
    assert b64decode(str(texts["hostData"])) == HOST_DATA
    assert (validated(path), defined(path).returncode) == (0, 0)


def test_libvirt_keeps_the_command_line_byte_for_byte(folder: Path) -> None:
    line = " a\n]]>\t 'b'  "
    path = domain(folder, "snp.fd", *SNP, "--kernel", "kernel", "--append", line)
    path.write_text(path.read_text().replace("<domain type='kvm'>", "<domain type='test'>"))
    told = unpacked(
        "libvirt", "virsh", "-q", "-c", "test:///default", f"define {path}; dumpxml cvm"
    )
    root = ET.fromstring(told.stdout[told.stdout.index("<domain") :])  # noqa: S314 libvirt's
    assert root.findtext("os/cmdline") == line


SPOILED_DOMAINS: Final = {
    "no policy": ("    <policy>0x00030000</policy>\n", "", 3, "policy"),
    "an attribute": ("kernelHashes='yes'", "kernelhashes='yes'", 3, None),
    "an element": ("hostData>", "host-data>", 3, None),
    "a length": ("<hostData>", "<hostData>AAAA", 0, "hostData"),
    "a relative path": ("<loader type='rom'>/", "<loader type='rom'>", 3, None),
}


@pytest.mark.parametrize("name", SPOILED_DOMAINS)
def test_libvirt_refuses_a_spoiled_domain(name: str, folder: Path) -> None:
    right, wrong, schema, says = SPOILED_DOMAINS[name]
    path = domain(folder, "snp.fd", *SNP, *KERNEL, *GIVEN)
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong))
    assert validated(path) == schema
    if says is not None:
        done = defined(path)
        assert done.returncode == 1
        assert says in done.stderr


def test_the_element_of_idblock_is_that_of_config(folder: Path) -> None:
    made = signed(folder, *KERNEL, *GIVEN)
    text = out("snp.fd", *SNP, *KERNEL, *GIVEN, *identity(made), "--to", "libvirt")
    element = (made / "libvirt.xml").read_text()
    assert "".join(f"  {line}\n" for line in element.splitlines()) in text


def test_control_characters_have_no_form_in_xml(folder: Path) -> None:
    given = (*SNP, "--kernel", "kernel", "--append", "a\x01")
    assert_refused(run("config", "snp.fd", *given, "--to", "libvirt"), {4})
    assert value(words(out("snp.fd", *given, "--to", "qemu"), folder), "-append") == "a\x01"


# --- Kata ----------------------------------------------------------------------------------------

KEYS: Final = {
    "machine_type": str, "confidential_guest": bool, "firmware": str, "default_vcpus": int,
    "default_memory": int, "kernel": str, "initrd": str, "sev_snp_guest": bool,
    "snp_guest_policy": int, "snp_id_block": str, "snp_id_auth": str, "rootfs_type": str,
    "kernel_verity_params": str, "block_device_driver": str, "enable_debug": bool,
    "disable_guest_selinux": bool, "kernel_params": str,
}  # fmt: skip
"""Keys of [hypervisor.qemu] that are written: kata 7c6ba40 katautils/config.go, `hypervisor`."""
OF_KATA: Final = ("--platform", "snp", "--vcpus", "2", "--kernel", "kernel")


def kata() -> Any:
    """The rules by which Kata makes a command line, by another hand."""
    if not KATA.exists():
        pytest.skip("../shared is absent: the rules of Kata's command line are not at hand")
    return runpy.run_path(str(KATA / "kata_cmdline.py"))


def settings(text: str) -> dict[str, Any]:
    held = tomllib.loads(text)
    for name, one in held["hypervisor"]["qemu"].items():
        assert type(one) is KEYS[name], name
    return held


def test_the_keys_have_the_types_of_katas_own_file() -> None:
    if not KATA.exists():
        pytest.skip("../shared is absent: a configuration of Kata is not at hand")
    held = tomllib.loads((KATA / "configuration-qemu-snp.toml").read_text())["hypervisor"]["qemu"]
    assert {name: type(held[name]) for name in KEYS if name != "initrd"} == {
        name: kind for name, kind in KEYS.items() if name != "initrd"
    }


CONFIGURED: Final[dict[str, dict[str, Any]]] = {
    "image": {"image": "i"},
    "xfs": {"image": "i", "rootfs_type": "xfs", "block_device_driver": "virtio-scsi"},
    "initrd": {"initrd": "initrd"},
    "debug": {"image": "i", "enable_debug": True, "disable_guest_selinux": False},
    "rest": {"initrd": "initrd", "kernel_params": "a=1 b"},
}


@pytest.mark.parametrize("name", [*CONFIGURED, "example"])
def test_kata_makes_the_measured_command_line(name: str, folder: Path) -> None:
    rules = kata()
    if name == "example":
        told = tomllib.loads((KATA / "configuration-qemu-snp.toml").read_text())
    else:
        told = {"hypervisor": {"qemu": {"confidential_guest": True, **CONFIGURED[name]}}}
    line = rules["cmdline"](told)
    initrd = ("--initrd", "initrd") if told["hypervisor"]["qemu"].get("initrd") else ()
    given = (*OF_KATA, *initrd, "--append", line)
    ours = settings(out("snp.fd", *given, "--to", "kata"))
    guest = ours["hypervisor"]["qemu"]
    if not initrd:
        guest["image"] = "which the digest does not cover"
    assert rules["cmdline"](ours) == line
    assert rules["vcpus"](ours) == 2
    assert guest["kernel"] == str(folder / "kernel")
    assert (guest["snp_guest_policy"], guest["default_memory"]) == (0x30000, 2048)


def test_kata_has_the_id_block_and_idblock_writes_the_same(folder: Path) -> None:
    line = kata()["cmdline"]({"hypervisor": {"qemu": {"confidential_guest": True}}})
    given = ("snp.fd", *OF_KATA, "--initrd", "initrd", "--append", line)
    run("idblock", *given)
    signed(folder)  # the keys
    told = run("idblock", *given, "--id-key", "id.pem", "-o", "made")
    assert told.code == 0
    made = folder / "made"
    text = out(*given, *identity(made), "--to", "kata")
    held = settings(text)["hypervisor"]["qemu"]
    assert b64decode(held["snp_id_block"]) == (made / "id-block.bin").read_bytes()
    assert b64decode(held["snp_id_auth"]) == (made / "id-auth.bin").read_bytes()
    beside = tomllib.loads((made / "kata.toml").read_text())["hypervisor"]["qemu"]
    assert beside.items() <= held.items()


def test_a_file_name_is_a_string_of_toml(folder: Path) -> None:
    name = 'a"b\\c\n\x7f é.fd'
    (folder / "tdx.fd").rename(folder / name)
    text = out(name, "--platform", "tdx", "--to", "kata")
    assert settings(text)["hypervisor"]["qemu"]["firmware"] == str(folder / name)


# --- what cannot be had --------------------------------------------------------------------------

LINE: Final = ("--kernel", "kernel", "--append", "console=ttyS0")
REFUSED: Final = {
    "another VMM": ("qemu", ("snp.fd", "--platform", "snp", "--vmm", "ec2"), "ec2"),
    "another target": ("xen", ("snp.fd", "--platform", "snp"), "unknown target"),
    "a platform": ("libvirt", ("snp.fd", "--platform", "sev"), "sev"),
    "features": ("qemu", ("snp.fd", "--platform", "snp", "--sev-features", "0x21"), "0x21"),
    "an order": ("libvirt", ("tdx.fd", "--platform", "tdx", "--xfam", hex(XFAM)), "--xfam"),
    "a signature": ("qemu", ("snp.fd", "--platform", "snp", "--cpu", "0x123456"), "0x123456"),
    "a hash": (
        "qemu",
        ("snp.fd", "--platform", "snp", "--kernel-hash", "ab" * 32),
        "--kernel-hash",
    ),
    "the hash of a line": (
        "qemu",
        ("snp.fd", "--platform", "snp", "--kernel", "kernel", "--append-hash", "ab" * 32),
        "--append-hash",
    ),
    "a size": ("qemu", ("short.fd", "--platform", "snp"), "65536"),
    "a policy that no kernel takes": (
        "qemu",
        ("snp.fd", "--platform", "snp", "--policy", "0x70000"),
        "policy",
    ),
    "an example": ("qemu", ("example:snp", "--platform", "snp"), "example:snp"),
    "a command line": ("kata", ("snp.fd", "--platform", "snp", *LINE), "--append"),
    "no kernel": ("kata", ("snp.fd", "--platform", "snp"), "kernel"),
    "a model": ("kata", ("snp.fd", "--platform", "snp", *LINE, "--cpu", "EPYC-Milan"), "EPYC-v4"),
    "an owner": ("kata", ("tdx.fd", "--platform", "tdx", "--mrowner", "ab" * 48), "--mrowner"),
    "attributes": ("kata", ("tdx.fd", "--platform", "tdx", "--attributes", "0"), "0x10000000"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_launch_that_cannot_be_had_is_refused(name: str, folder: Path) -> None:
    (folder / "short.fd").write_bytes(example("snp"))
    target, given, says = REFUSED[name]
    told = run("config", *given, "--to", target)
    assert_refused(told, {1, 2, 4})
    assert says in told.err


def test_a_profile_of_ones_own_is_no_vmm_that_is_configured(folder: Path) -> None:
    profile = json.loads(run("profiles", "qemu", "--format", "json").out)
    profile["policies"] = {"snp": "0xb0000"}
    (folder / "own.json").write_text(json.dumps(profile))
    told = run("config", "snp.fd", "--platform", "snp", "--vmm", "./own.json", "--to", "qemu")
    assert_refused(told, {4})
    assert "from a file" in told.err


def test_no_command_line_is_a_command_line(folder: Path) -> None:
    text = out("snp.fd", "--platform", "snp", "--kernel", "kernel", "--to", "qemu")
    assert "-append" not in words(text, folder)


def test_what_a_manager_starts_are_models_of_qemu() -> None:
    for one in MANAGERS.values():
        assert not one.cpu or one.cpu in cpus.SIGNATURES


def test_the_same_launch_is_the_same_text(folder: Path) -> None:
    made = [out("snp.fd", *SNP, *KERNEL, "--to", target) for target in ("qemu", "qemu")]
    assert made[0] == made[1]
    joined = made[0].replace("\\\n", "")
    assert shlex.split(joined, comments=True)[1:] == words(made[0], folder)
    assert b64encode(HOST_DATA).decode() not in made[0]
