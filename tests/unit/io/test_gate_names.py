"""Step 2 of the gate: names, kinds and sizes of a listing."""

import pytest

from peftlab.core.findings import Severity
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.listing import Entry
from peftlab.io.gate.names import check_names, why_bad_name


def checked(*entries, archive=False, opened=None, **limits):
    listing = [Entry(entry, 1) if isinstance(entry, str) else entry for entry in entries]
    names = {entry.name for entry in listing} if opened is None else opened
    check = check_names(listing, names, Limits(**limits), archive=archive)
    assert (check.status == "stopped") == any(x.severity >= Severity.HIGH for x in check.findings)
    return check


def codes(*entries, **more):
    return [finding.code for finding in checked(*entries, **more).findings]


GOOD = (
    "adapter_config.json", "a/b/c/d.txt", "café.md", "模型.md", "with space.md", ".gitattributes",
    "-rf", "a" * 255, "con_a.json", "v1.0.safetensors",
)  # fmt: skip
BAD = {
    "absolute": "/etc/passwd",
    "parent": "../x.json",
    "inner parent": "a/../../x.json",
    "dot": "a/./x",
    "empty part": "a//x",
    "folder": "a/",
    "empty": "",
    "drive": "C:evil.json",
    "stream": "a.json:hidden",
    "backslash": "..\\x",
    "share": "\\\\server\\share",
    "null": "a\0.json",
    "new line": "a\n::error::b",
    "escape": "\x1b]0;x\x07.json",
    "delete": "a\x7f",
    "c1": "a\x9b31m",
    "right to left": "a\u202enosj.exe",
    "isolate": "a\u2066b",
    "zero width": "a\u200bb",
    "byte order mark": "\ufeffa",
    "line separator": "a\u2028b",
    "not UTF-8": "a\udcff.json",
    "private use": "a\ue000",
    "decomposed": "cafe\u0301.json",
    "ends with a dot": "a.json.",
    "ends with a space": "a.json ",
    "begins with a space": "a/ b",
    "device": "aux",
    "device with an ending": "x/COM1.json",
    "long": "a" * 256,
    "long in bytes": "é" * 128,
}


@pytest.mark.parametrize("name", GOOD)
def test_a_plain_name_passes(name):
    assert why_bad_name(name, Limits()) == ""
    assert codes(name) == []


@pytest.mark.parametrize("name", BAD.values(), ids=BAD.keys())
def test_a_bad_name_stops_the_gate(name):
    assert why_bad_name(name, Limits())
    check = checked(name, "fine.json")
    assert [finding.code for finding in check.findings] == ["GATE-NAME"]


@pytest.mark.parametrize(
    "names",
    [("A.json", "a.json"), ("\u017f", "s"), ("straße", "strasse"), ("x", "x"), ("B/x", "b/X")],
)
def test_twins(names):
    assert codes(*names, "other") == ["GATE-CASE"]


def test_links_and_devices():
    assert codes(Entry("a", 0, "link")) == ["GATE-LINK"]
    assert codes(Entry("a", 0, "device")) == ["GATE-KIND"]
    assert codes(Entry("a", 0, "folder")) == []
    (finding,) = checked(Entry("a", 1, links=2)).findings
    assert (finding.code, finding.severity) == ("GATE-LINK", Severity.MEDIUM)
    assert codes(Entry("a", 0, "folder", links=2)) == []


def test_depth():
    assert codes("a/b/c/d") == []
    assert codes("a/b/c/d/e") == ["GATE-DEPTH"]
    assert codes("a/b", depth=1) == ["GATE-DEPTH"]


def test_count():
    assert codes(*map(str, range(64))) == []
    assert codes(*map(str, range(65))) == ["GATE-COUNT"]
    assert codes(*map(str, range(65)), files=100) == []


def test_sizes_count_what_is_opened():
    large, small = Entry("large", 2**30 + 1), Entry("small", 5)
    assert codes(large, small, opened={"small"}) == []
    assert codes(large, small) == ["GATE-SIZE"]
    assert codes(large, small, file_bytes=2**31) == []
    assert codes(small, Entry("more", 6), total_bytes=10) == ["GATE-SIZE"]
    assert codes(small, Entry("more", 5), total_bytes=10) == []


def test_sizes_count_all_of_an_archive():
    entries = Entry("a", 2**30 + 1, packed=2**30), Entry("b", 5, packed=5)
    assert codes(*entries, opened=(), archive=True) == ["GATE-SIZE"]
    assert codes(*entries, opened=()) == []


def test_bombs_and_nested_archives():
    assert codes(Entry("a.json", 2**20, packed=1)) == []
    assert codes(Entry("a.json", 2**20 + 1, packed=1)) == ["GATE-BOMB"]
    assert codes(Entry("a.json", 100 * 2**20, packed=2**20)) == []
    assert codes(Entry("a.json", 101 * 2**20, packed=2**20)) == ["GATE-BOMB"]
    assert codes(Entry("a.json", 101 * 2**20, packed=2**20), zip_ratio=200) == []
    assert codes(Entry("In.ZIP", 9, packed=9)) == ["GATE-NESTED"]
    assert codes(Entry("in.zip", 9)) == []  # in a folder step 3 speaks about it


def test_the_worst_findings_are_written_down():
    mild = [Entry(str(number), 1, links=2) for number in range(60)]
    check = checked(*mild, Entry("last", 1, "link"))
    assert len(check.findings) == 50
    assert check.findings[0].severity == Severity.HIGH
    assert check.not_checked == ("11 more findings are not written down",)
    assert check.facts == {"files": 61, "bytes": 61}
