"""
The printed calls are enough: a VMM that knows nothing else launches what was measured.

With a fault at each page in turn it launches the same, or it stops where its profile says that
the VMM stops.  The models of the kernel, the PSP and the TDX module are not the program's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.build.igvm import good_sev_es, good_snp
from tests.build.ovmf import Ovmf, tdx_sections
from tests.docs import SHARED
from tests.executor.kernel import Fault, Kernel
from tests.executor.memory import Memory
from tests.executor.vmm import Stopped, Vmm
from tests.oracles import firmware as oracle
from tests.run import run


@dataclass(frozen=True)
class Launch:
    """The printed calls of a launch, the files that they name, and the digest that is claimed."""

    text: str
    inputs: tuple[bytes, ...]
    digest: str

    def outcome(self, fault: Fault | None = None, text: str | None = None) -> str | None:
        """Return the digest that the models reach, None where the VMM stops."""
        kernel = Kernel(Memory(), fault)
        try:
            Vmm(kernel, self.inputs).run(self.text if text is None else text)
        except Stopped:
            return None
        assert kernel.vendor is not None
        return kernel.vendor.digest.hex()

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def added(self) -> int:
        """How many pages the models add where nothing goes wrong."""
        kernel = Kernel(Memory())
        Vmm(kernel, self.inputs).run(self.text)
        return kernel.added


def launch(folder: Path, image: bytes, *options: str, abi: str = "kvm-7.2") -> Launch:
    (folder / "image").write_bytes(image)
    args = (str(folder / "image"), "--abi", abi, *options)
    plan = json.loads(run("plan", *args, "--format", "json").out)
    inputs = [Path(one["path"]).read_bytes() for one in plan["inputs"]]
    printed, measured = run("plan", *args, "--format", "calls"), run("measure", *args, "--bare")
    assert printed.code == measured.code == 0, printed.err + measured.err
    return Launch(printed.out, tuple(inputs), measured.out.strip())


def tdx_image(size: int = 0x6000) -> bytes:
    made = Ovmf(size=size, seed="executed", zero_pages=(1,), hash_table=(0, 0), sev_sections=None,
                tdx_sections=tdx_sections(size, cfv=0x2000))  # fmt: skip
    return made.build()


def own_profile(folder: Path, platform: str, *repeats: str) -> str:
    """A profile as QEMU's, but for what it makes again."""
    profile = json.loads(run("profiles", "qemu", "--format", "json").out)
    profile["name"] = "own"
    profile["practices"][platform]["repeats"] = list(repeats)
    (folder / "own.json").write_text(json.dumps(profile))
    return str(folder / "own.json")


SNP, TDX = ("--platform", "snp"), ("--platform", "tdx")
FIRMWARE: Final = {
    "snp": SNP,
    "snp of 3": (*SNP, "--vcpus", "3", "--host-data", "ab" * 32),
    "sev": ("--platform", "sev"),
    "sev, init2": ("--platform", "sev", "--es-init", "init2"),
    "sev-es": ("--platform", "sev-es", "--vcpus", "3"),
    "sev-es, init2": ("--platform", "sev-es", "--es-init", "init2", "--vcpus", "3"),
    "tdx": TDX,
    "tdx of 3": (*TDX, "--vcpus", "3", "--mrowner", "11" * 48),
    "tdx, wide": (*TDX, "--gpaw", "52"),
}


def image_for(options: tuple[str, ...]) -> bytes:
    return tdx_image() if "tdx" in options else Ovmf().build()


@pytest.mark.parametrize("abi", ["kvm-6.18", "kvm-7.2"])
@pytest.mark.parametrize("name", FIRMWARE)
def test_the_printed_calls_launch_what_is_measured(name: str, abi: str, tmp_path: Path) -> None:
    options = FIRMWARE[name]
    made = launch(tmp_path, image_for(options), *options, abi=abi)
    assert made.outcome() == made.digest


@pytest.mark.parametrize("platform", ["snp", "sev", "sev-es"])
def test_kernel_hashes_are_in_the_calls(platform: str, tmp_path: Path) -> None:
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    files = ("--kernel", str(tmp_path / "kernel"), "--initrd", str(tmp_path / "initrd"))
    made = launch(tmp_path, Ovmf().build(), "--platform", platform, *files, "--append", "quiet")
    assert made.outcome() == made.digest


@pytest.mark.parametrize("vmm", ["qemu", "cloud-hypervisor", "openvmm"])
@pytest.mark.parametrize("vcpus", ["1", "3"])
def test_so_are_those_of_an_igvm_file(vmm: str, vcpus: str, tmp_path: Path) -> None:
    """Its pages are at no multiple of 4096 in the file, which KVM refuses from 7.0 on."""
    options = (*SNP, "--vmm", vmm, "--vcpus", vcpus)
    made = launch(tmp_path, good_snp().build(), *options)
    assert made.outcome() == made.digest


def test_an_igvm_file_of_sev_es(tmp_path: Path) -> None:
    made = launch(tmp_path, good_sev_es().build(), "--platform", "sev-es", "--vmm", "qemu")
    assert made.outcome() == made.digest


def test_an_id_block_is_in_the_calls(tmp_path: Path) -> None:
    """The firmware compares its first 48 bytes with the launch digest."""
    digest = launch(tmp_path, Ovmf().build(), *SNP).digest
    for block, launched in ((digest, True), ("11" * 48, False)):
        options = (*SNP, "--id-block", block + "00" * 48, "--id-auth", "22" * 4096)
        made = launch(tmp_path, Ovmf().build(), *options)
        assert (made.outcome() == digest) is launched


def test_contents_that_end_inside_a_page_are_followed_by_zeros(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"d" * 5000)
    source = {"file": "data", "offset": 100, "length": 4500}
    regions = [
        {"gpa": "0x100000", "type": "normal", "size": 0x3000, "source": source, "pad": "zero"}
    ]
    manifest = {"schema": "cvmplan.manifest/1", "platform": "snp", "regions": regions}
    made = launch(tmp_path, json.dumps(manifest).encode())
    assert made.outcome() == made.digest


def test_the_models_import_nothing_of_the_program() -> None:
    modules = [*Path(__file__).parent.glob("[!t]*.py"), Path(oracle.__file__)]
    assert len(modules) == 8
    for module in modules:
        assert not re.search(r"^\s*(from|import) cvmplan", module.read_text(), re.MULTILINE), module


# --- faults --------------------------------------------------------------------------------------

GOES_ON: Final = {
    # what the profiles say that the VMMs make again
    "qemu snp": {"EAGAIN", "rest"},
    "own snp": {"EAGAIN", "EBUSY", "rest"},
    "none snp": set(),
    "cloud-hypervisor snp": {"cpuid"},
    "openvmm snp": {"EAGAIN", "rest"},
    "qemu tdx": {"EAGAIN", "EINTR"},
    "own tdx": {"EBUSY"},
    "none tdx": set(),
}


@pytest.mark.parametrize("case", GOES_ON)
def test_a_fault_at_each_page_stops_the_launch_or_leaves_its_digest(
    case: str, tmp_path: Path
) -> None:
    vmm, platform = case.split()
    again = {
        "own snp": ("EAGAIN", "EBUSY"),
        "own tdx": ("EBUSY",),
        "none snp": (),
        "none tdx": (),
    }.get(case)
    profile = vmm if again is None else own_profile(tmp_path, platform, *again)
    is_file = platform == "snp" and vmm in ("cloud-hypervisor", "openvmm")
    image = good_snp().build() if is_file else image_for((platform,))
    made = launch(tmp_path, image, "--platform", platform, "--vmm", profile, "--vcpus", "3")
    kinds = {"EAGAIN", "EINTR", "EBUSY", "ENOMEM"} | ({"rest"} if platform == "snp" else set())
    for page in range(made.added):
        for kind in kinds:
            fault = Fault(kind, page)
            outcome = made.outcome(fault)
            goes_on = kind in GOES_ON[case] or not fault.met
            assert outcome == (made.digest if goes_on else None), (kind, page)
    if platform == "snp":
        fault = Fault("cpuid", -1)
        assert made.outcome(fault) == (made.digest if "cpuid" in GOES_ON[case] else None)
        assert fault.met


@pytest.mark.parametrize(
    ("platform", "firmware", "kinds"),
    [
        ("snp", "OVMF.amdsev.fd", {"EAGAIN": True, "rest": True, "EINTR": False}),
        ("tdx", "OVMF.inteltdx.ms.fd", {"EAGAIN": True, "EINTR": True, "EBUSY": False}),
    ],
)
def test_real_firmware_at_some_of_its_pages(
    platform: str, firmware: str, kinds: dict[str, bool], tmp_path: Path
) -> None:
    path = SHARED / "firmware" / firmware
    if not path.exists():
        pytest.skip(f"there is no {path}")
    made = launch(tmp_path, path.read_bytes(), "--platform", platform, "--vcpus", "3")
    for page in (0, 1, made.added // 2, made.added - 1):
        for kind, goes_on in kinds.items():
            fault = Fault(kind, page)
            assert made.outcome(fault) == (made.digest if goes_on else None), (kind, page)


@pytest.mark.parametrize("platform", ["sev", "sev-es"])
def test_sev_makes_each_call_once(platform: str, tmp_path: Path) -> None:
    made = launch(tmp_path, Ovmf().build(), "--platform", platform)
    plan = run("plan", str(tmp_path / "image"), "--platform", platform, "--format", "json")
    assert json.loads(plan.out)["practice"]["repeats"] == []
    for kind in ("EAGAIN", "EINTR", "EBUSY"):
        for call in range(made.added):
            assert made.outcome(Fault(kind, call)) is None


# --- sabotage: the test can fail -----------------------------------------------------------------


def changed(made: Launch, command: str, at: int, flip: int = 1) -> str | None:
    """The outcome with a bit of the printed bytes of the first such call turned over."""
    calls = made.calls
    call = next(c for c in calls if command in (c["call"], c.get("command")))
    struct = call.get("data", call)
    data = bytearray.fromhex(struct["bytes"])
    data[at] ^= flip
    struct["bytes"] = data.hex()
    return made.outcome(text="\n".join(map(json.dumps, calls)))


@pytest.mark.parametrize(
    ("command", "at", "flip"),
    [
        ("KVM_SEV_SNP_LAUNCH_UPDATE", 0, 0x40), ("KVM_SEV_SNP_LAUNCH_UPDATE", 17, 0x10),
        ("KVM_SEV_SNP_LAUNCH_UPDATE", 24, 2), ("KVM_SEV_SNP_LAUNCH_START", 2, 2),
        ("KVM_SEV_INIT2", 0, 0x20), ("KVM_SET_REGS", 24, 1), ("KVM_SET_SREGS2", 0, 1),
        ("KVM_SET_XSAVE", 0, 1), ("KVM_SET_XCRS", 16, 2), ("KVM_SET_MSRS", 16, 1),
        ("KVM_SET_DEBUGREGS", 32, 1), ("KVM_SET_MEMORY_ATTRIBUTES", 16, 8),
    ],
)  # fmt: skip
def test_each_byte_of_snp_matters(command: str, at: int, flip: int, tmp_path: Path) -> None:
    made = launch(tmp_path, Ovmf().build(), *SNP)
    assert changed(made, command, at, flip) != made.digest


@pytest.mark.parametrize(
    ("command", "at", "flip"),
    [
        ("KVM_TDX_INIT_MEM_REGION", 9, 0x10), ("KVM_TDX_INIT_MEM_REGION", 16, 1),
        ("KVM_TDX_INIT_VM", 8, 1), ("KVM_SET_MEMORY_ATTRIBUTES", 16, 8),
    ],
)  # fmt: skip
def test_each_byte_of_tdx_matters(command: str, at: int, flip: int, tmp_path: Path) -> None:
    made = launch(tmp_path, tdx_image(), *TDX)
    assert changed(made, command, at, flip) != made.digest


def test_the_text_alone_decides(tmp_path: Path) -> None:
    """Relocations, `repeat`, `retry`, `contents` and the order are obeyed as they are printed."""
    (tmp_path / "kernel").write_bytes(b"kernel")
    made = launch(tmp_path, Ovmf().build(), *SNP, "--kernel", str(tmp_path / "kernel"))
    moved = made.text.replace("&input[0]+0x0", "&input[0]+0x1000")
    assert made.outcome(text=moved) != made.digest
    other = made.text.replace('"at": 3072', '"at": 3088')
    assert made.outcome(text=other) != made.digest
    silent = re.sub(r', "repeat": "[^"]*"', "", made.text)
    assert made.outcome(text=silent) == made.digest
    assert made.outcome(Fault("EAGAIN", 0), silent) is None
    lines = made.text.splitlines()
    adds = [n for n, line in enumerate(lines) if "LAUNCH_UPDATE" in line]
    lines[adds[0]], lines[adds[1]] = lines[adds[1]], lines[adds[0]]
    assert made.outcome(text="\n".join(lines)) != made.digest
    lines[adds[0]] = lines[adds[1]]
    assert made.outcome(text="\n".join(lines)) is None  # a page added twice
