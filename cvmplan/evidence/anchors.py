"""
Keys at which certificate chains may end: SHA-256 of their SubjectPublicKeyInfo in DER.

Source: the chains that go-sev-guest (af1c107), virtee/sev (9cf2adb) and trustee (78962cd4) ship
as trust anchors; AMD KDS, Intel PCS.
"""

from __future__ import annotations

from typing import Final

AMD: Final = {
    "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9": "ARK Milan",
    "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831": "ARK Genoa",
    "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08": "ARK Turin",
    "42491669ccb851d627ea9846cd24eccbeb7de7c2a62740120fff88001d38ebb6": "ASK Milan",
    "0324d55bcd48ba877a8fd87c0e1b4934dec8448e3807a24384a34dc6a6c9ebb8": "ASK Genoa",
    "0000ead352025f208bf55297c4192c34cd1b878002107366d8f2065a9ae7d3a9": "ASK Turin",
    "66450a123ea5876206df67f2514a4fea224c0f63b18313423078b0edc4535e33": "ASVK Milan",
    "7d1633252ebbadaa75f96e9b4e6f7d43a90ceb3f843937482630f8da2459264e": "ASVK Genoa",
    "bfc441408b2f806c5dbf180bd8920e6e60dd404d82141780d85dbf962954d386": "ASVK Turin",
}
INTEL: Final = {
    "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e": "Intel SGX Root CA",
}
PINNED: Final = {"report": AMD, "quote": INTEL}
