"""The RTMRs of a TD as far as its firmware, or the description of its launch, tells."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

from cvmplan.boot.firmware import Firmware, read
from cvmplan.boot.inputs import Inputs
from cvmplan.boot.node import Register, registers
from cvmplan.boot.predict import predict
from cvmplan.boot.template import Match, nodes_of, predicted
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, CvmplanError
from cvmplan.core.platform import TDX
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.readers import recognise


class Predicted(NamedTuple):
    """Events and registers of a TD; `problem` says why there are none."""

    matches: tuple[Match, ...] = ()
    registers: tuple[Register, ...] = ()
    problem: str = ""


def described(image: Blob, open_file: Opener, options: Given) -> Inputs:
    """
    Return what an image says of a boot: firmware, or a launch description of a TD.

    ConfigError for what is neither; other errors as those of its reader.
    """
    name, reader = recognise(image)
    if name != "description":
        return Inputs(firmware=_firmware(image, name, reader))
    booted = reader.booted(image, open_file, options)
    return Inputs(
        firmware=_firmware(booted.firmware, *recognise(booted.firmware)),
        memory=booted.memory,
        kernel=booted.kernel,
        initrd=booted.initrd,
        append=booted.append or "",
    )


def _firmware(blob: Blob, name: str, reader: ModuleType) -> Firmware:
    if name not in ("ovmf", "tdvf"):
        hint = "give TDX firmware, or what starts a TD"
        raise ConfigError(f"{name} has no RTMRs", at=blob.name, hint=hint)
    return read(reader.read(blob, TDX))


def predict_described(image: Blob, open_file: Opener, options: Given) -> Predicted:
    """Return what is predicted of a description of a TD, or why nothing is."""
    try:
        matches = predicted(predict(described(image, open_file, options)))
    except CvmplanError as error:
        return Predicted(problem=str(error))
    return Predicted(matches, registers(nodes_of(matches)))
