"""Places in inputs: parts beside the text, and lines of JSON, YAML and TOML."""

from __future__ import annotations

import pickle

import pytest

from cvmplan.core.blob import Blob
from cvmplan.core.places import Path, Place, in_document
from cvmplan.documents.positions import positions

JSON = """{"schema": "x", "guest": {"vcpus": 2},
 "regions": [
  {"gpa": "0x1000", "name": "{[,:\\" "},
  {"gpa": "0x1000",
   "source": {"hex": ""}}]}
"""
YAML = """schema: x
guest: {vcpus: 2}
regions:
  - gpa: "0x1000"
    name: "{[,: "
  - gpa: "0x1000"
    source:
      hex: ""
"""
TOML = '''schema = "x"
note = """
[[regions]]
gpa = 1
"""
[guest]
vcpus = 2
[[regions]]
gpa = "0x1000"
[[regions]]
gpa = "0x1000"
[regions.source]
hex = ""
'''
WHERE: list[tuple[str, Path, tuple[int, int]]] = [
    (JSON, ("guest", "vcpus"), (1, 36)),
    (JSON, ("regions", 0), (3, 3)),
    (JSON, ("regions", 1, "gpa"), (4, 11)),
    (JSON, ("regions", 1, "source", "hex"), (5, 22)),
    (JSON, ("regions", 1, "size"), (4, 3)),  # nearest above
    (YAML, ("guest", "vcpus"), (2, 16)),
    (YAML, ("regions", 1), (6, 5)),
    (YAML, ("regions", 1, "source", "hex"), (8, 12)),
    (TOML, ("guest", "vcpus"), (7, 1)),
    (TOML, ("regions", 0), (8, 1)),
    (TOML, ("regions", 1, "gpa"), (11, 1)),
    (TOML, ("regions", 1, "source", "hex"), (13, 1)),
    (TOML, ("regions", 1, "pad"), (10, 1)),
]


@pytest.mark.parametrize(("text", "path", "where"), WHERE)
def test_the_line_and_column_of_a_value(text: str, path: Path, where: tuple[int, int]) -> None:
    """Counted by hand in the texts above."""
    assert positions(text, [path]) == {path: where}


def test_a_place_is_its_text_and_keeps_its_parts_in_another_process() -> None:
    place = Blob("a+b: c", memoryview(bytes(64)), 16).where(4, 8)
    assert place == "a+b: c+0x14"
    sent = pickle.loads(pickle.dumps(place))  # noqa: S301 our own bytes
    for one in (place, sent, place.named("a+b: c+0x14")):
        assert isinstance(one, Place)
        assert (one, one.file, one.offset, one.length) == (place, "a+b: c", 20, 8)


def test_a_place_in_a_document_is_spelled_as_people_do() -> None:
    place = in_document("m.json", "regions", 2).below("source")
    assert place == "m.json: regions[2].source"
    assert (place.file, place.path) == ("m.json", ("regions", 2, "source"))
    assert in_document("m.json") == "m.json"
