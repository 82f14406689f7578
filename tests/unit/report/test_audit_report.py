"""An audit as text, page and SARIF: the verdict first, nothing hidden, hostile names inert."""

import json
import re
from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from made_up_audits import HOSTILE, make_audit

from peftlab.core.errors import InputRejected
from peftlab.io.policy import parse_policy
from peftlab.report.audit.figures import draw
from peftlab.report.audit.html import render_audit
from peftlab.report.audit.sarif import sarif
from peftlab.report.audit.words import summary

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
WAIVER = parse_policy(
    b'[severity]\nTEST-EXTRA = {level = "ignore", reason = "our own head", until = 2030-01-31}\n'
    b'TEST-OUTLIER = "medium"\nTEST-UNKNOWN = {level = "low", until = 2020-01-31}',
    "gate.toml",
)
CASES = {
    "found": {}, "failed": {"failed": True}, "clean": {"clean": True}, "waived": {"policy": WAIVER},
    "stopped": {"stop": "gate-config"}, "at the door": {"stop": "gate-source"},
    "hostile": {"hostile": HOSTILE, "failed": True},
}  # fmt: skip


made = cache(lambda case: make_audit(**CASES[case]))
page_of = cache(lambda case: render_audit(made(case)))  # drawing takes a second


@pytest.fixture(params=CASES)
def case(request):
    return request.param


class Reader(HTMLParser):
    """Collects elements, identifiers and texts; void elements need no end."""

    VOID = frozenset({"meta", "br", "wbr", "path", "use", "img"})

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.links, self.text, self._open = [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in {"href", "src", "xlink:href"}]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for key, value in attrs if key in {"href", "xlink:href"}]
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


# ---------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("case", "first"),
    [
        ("found", "FAILED: support-bot has 1 high, 7 medium and 1 low findings; high and above"),
        ("failed", "FAILED: support-bot"),
        ("clean", "CLEAN: nothing found in support-bot, by the gate and 1 audit."),
        ("waived", "PASSED: support-bot has 8 medium findings, below high."),
        ("stopped", "REJECTED: the gate stopped support-bot: the config names code to import."),
    ],
)
def test_the_verdict_comes_first(case, first):
    assert summary(make_audit(**CASES[case])).startswith(first)


def test_never_and_crashes_do_not_read_as_clean():
    policy = parse_policy(b'fail_on = "never"', "p")
    assert summary(make_audit(policy=policy)).startswith("REPORTED: ")
    text = summary(make_audit(clean=True, failed=True))
    assert text.startswith("INCOMPLETE: ")
    assert "CLEAN" not in text


def test_findings_with_where_evidence_and_how_to_mend():
    text = summary(make_audit())
    order = [text.index(word) for word in ("HIGH TEST-EXTRA", "MEDIUM TEST-UN", "LOW TEST-OUT")]
    assert order == sorted(order)
    assert "at       adapter_model.safetensors#base_model.model.lm_head.weight: (32000" in text
    assert "mend     ask the publisher why they are there" in text
    assert "at       2 more places" in text  # of seven places of one rule
    assert text.index("not checked:") > max(order)
    assert "gate-load, gate-cage: no trusted base was named (--against)" in text


def test_waived_findings_stay_visible():
    text = summary(make_audit(policy=WAIVER))
    assert "our own head (until 2030-01-31)" in text
    assert "The policy's changes to TEST-UNKNOWN have expired." in text
    page = page_of("waived")
    assert "our own head" in page
    assert "1</b> waived" in page


def test_a_hostile_name_forges_no_line():
    text = summary(make_audit(hostile=HOSTILE))
    assert not UNSAFE.search(text)
    own = ("FAILED", "HIGH", "MEDIUM", "LOW", "passed", "not checked", "artefact", "kind", "read",
           "sha256", "at ", "because", "mend", "gate-", "backdoor", "card", "size", "spectra",
           "structure")  # fmt: skip
    for line in text.splitlines():
        assert not line.strip() or line.strip().startswith(own), line


# ---------------------------------------------------------------------- page


def test_the_page_is_sound_and_loads_nothing(case):
    page = page_of(case)
    found = Reader(page)
    assert len(found.ids) == len(set(found.ids))
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert "default-src 'none'" in page
    assert {"script", "iframe", "object", "link", "img"}.isdisjoint(tag for tag, _ in found.tags)
    assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
    assert not UNSAFE.search(page)
    assert len(page) < 400_000


def test_a_page_tells_all(case):
    results = made(case)
    text = " ".join("".join(Reader(page_of(case)).text).split())
    for check in results["checks"]:
        if check["name"].startswith("gate-"):
            assert check["title"] in text
    for missing in results["not_checked"]:
        assert missing["name"] in text
    for file in results["artefact"]["files"]:
        assert file["sha256"] in text
    for code in results["rules"]:
        assert code in text
    assert f"exit code {results['verdict']['exit_code']}" in text


def test_hostile_text_is_text():
    page = page_of("hostile")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_equal_results_give_equal_pages():
    again = json.loads(json.dumps(made("found")))
    assert render_audit(again) == page_of("found")


@pytest.mark.parametrize(
    "chart",
    [
        {"lines": {}},
        {"lines": {"a": []}},
        {"lines": {"a": [["x", None], [1, "nan"]]}},
        {"lines": {"a": "text"}, "kind": "bar"},
        {},
    ],
)
def test_a_chart_without_numbers_is_left_out(chart):
    assert draw("k", chart) is None


def test_charts_with_many_and_long_names():
    bars = {f"layer.{k}.{'very_' * 12}long": 1.0 * k for k in range(60)}
    lines = {"norm": list(map(list, bars.items())), "base": [["layer.0", 2.0]]}
    drawn = draw("k", {"title": "T", "y_label": "norm", "lines": lines, "kind": "bar"})
    assert "20 largest of 61" in drawn.caption
    assert len(drawn.rows) == 61
    points = {f"series {k}": [[x, x * k] for x in range(5000)] for k in range(6)}
    drawn = draw("k", {"title": "$x$ <b>", "lines": points})
    assert "4th point" in drawn.caption
    assert "<b>" not in drawn.svg
    assert len(drawn.svg) < 200_000


# ---------------------------------------------------------------------- SARIF


def as_sarif(**case):
    return json.loads(json.dumps(sarif(make_audit(**case)), allow_nan=False))


def check_text(message):
    assert set(message) <= {"text", "markdown"}
    assert isinstance(message["text"], str)
    assert message["text"]


def test_a_log_keeps_the_rules_of_the_format(case):
    results = made(case)
    log = json.loads(json.dumps(sarif(results), allow_nan=False))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", driver["semanticVersion"])
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids))
    for rule in driver["rules"]:
        for part in ("shortDescription", "fullDescription", "help"):
            check_text(rule[part])
        assert rule["defaultConfiguration"]["level"] in {"note", "warning", "error"}
        assert 0 <= float(rule["properties"]["security-severity"]) <= 10
        assert isinstance(rule["properties"]["security-severity"], str)
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in {"note", "warning", "error"}
        check_text(result["message"])
        (location,) = result["locations"]
        uri = location["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9._~/%\-]+", uri)
        assert urlsplit(uri).scheme == ""
        assert not uri.startswith("/")
        assert ".." not in unquote(uri).split("/")
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        for suppression in result.get("suppressions", []):
            assert suppression["kind"] in {"inSource", "external"}
            assert suppression["justification"]
    prints = [tuple(result["partialFingerprints"].values()) for result in run["results"]]
    assert len(prints) == len(set(prints))
    (invocation,) = run["invocations"]
    assert isinstance(invocation["executionSuccessful"], bool)
    assert invocation["exitCode"] == results["verdict"]["exit_code"]
    known = {each["id"] for each in driver["notifications"]}
    for note in invocation["toolExecutionNotifications"]:
        assert note["descriptor"]["id"] in known
        assert note["level"] in {"none", "note", "warning", "error"}
        check_text(note["message"])
    for artifact in run["artifacts"]:
        assert isinstance(artifact["length"], int)
        assert re.fullmatch(r"[0-9a-fA-F]+", artifact["hashes"]["sha-256"])


def test_severities_and_places_for_code_scanning():
    (run,) = as_sarif()["runs"]
    levels = {result["ruleId"]: result["level"] for result in run["results"]}
    assert levels == {"TEST-EXTRA": "error", "TEST-UNKNOWN": "warning", "TEST-OUTLIER": "note"}
    scores = {r["id"]: r["properties"]["security-severity"] for r in run["tool"]["driver"]["rules"]}
    assert scores == {"TEST-EXTRA": "8.0", "TEST-UNKNOWN": "5.5", "TEST-OUTLIER": "2.0"}
    place = run["results"][0]["locations"][0]
    uri = place["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "adapters/support-bot/adapter_model.safetensors"
    assert place["logicalLocations"][0]["name"] == "base_model.model.lm_head.weight"
    assert run["invocations"][0]["executionSuccessful"]


@pytest.mark.parametrize(
    ("source", "uri"),
    [
        ("adapters/a b#c", "adapters/a%20b%23c/adapter_config.json"),
        ("./bot/", "bot/adapter_config.json"),
        ("/srv/adapters/bot", "adapter_config.json"),
        ("../bot", "adapter_config.json"),
    ],
)
def test_a_uri_is_relative_and_encoded(source, uri):
    (run,) = as_sarif(source=source, stop="gate-config")["runs"]
    location = run["results"][0]["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == uri


def test_fingerprints_stay_when_the_evidence_changes():
    first, second = make_audit(), make_audit()
    for check in second["checks"]:
        for finding in check["findings"]:
            finding["evidence"] = "another"
    prints = [
        [result["partialFingerprints"] for result in sarif(each)["runs"][0]["results"]]
        for each in (first, second)
    ]
    assert prints[0] == prints[1]


def test_what_was_not_checked_and_what_crashed_are_notifications():
    (run,) = as_sarif(failed=True)["runs"]
    notes = run["invocations"][0]["toolExecutionNotifications"]
    texts = [note["message"]["text"] for note in notes]
    assert "gate-load was not checked: no trusted base was named (--against)" in texts
    assert [note["level"] for note in notes if note["descriptor"]["id"] == "audit-failed"] == [
        "error"
    ]
    assert not run["invocations"][0]["executionSuccessful"]


def test_a_waived_finding_is_suppressed_not_gone():
    (run,) = as_sarif(policy=WAIVER)["runs"]
    waived = [result for result in run["results"] if result.get("suppressions")]
    assert [result["ruleId"] for result in waived] == ["TEST-EXTRA"]
    assert waived[0]["suppressions"][0]["justification"] == "our own head"


@pytest.mark.parametrize("render", [summary, render_audit, sarif])
def test_another_file_is_refused(render):
    with pytest.raises(InputRejected, match="REPORT-SCHEMA"):
        render({"schema": "peftlab.results/1"})
