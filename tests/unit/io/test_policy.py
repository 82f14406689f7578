"""Policies: strict TOML, every mistake told with a code, nothing that takes long."""

import time
from datetime import date
from pathlib import Path

import pytest

from peftlab.core.errors import ConfigError
from peftlab.io.policy import LONGEST, Policy, parse_policy, read_policy

FULL = """
fail_on = "medium"
required_checks = ["gate-load", "spectra"]
require_commit = true
required_base = ["org/base"]
allowed_licences = ["apache-2.0"]
allowed_peft_types = ["LORA"]

[severity]
A-LOW = "low"
A-WAIVED = { level = "ignore", reason = "ours", until = 2030-01-31, where = ["*.md"] }

[limits]
files = 8

[audit.spectra]
top = 3
"""


def policy_of(text):
    return parse_policy(text.encode(), "gate.toml")


def refused(text):
    content = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ConfigError) as caught:
        parse_policy(content, "gate.toml")
    assert "gate.toml" in caught.value.what
    return caught.value


def test_every_key_of_a_policy():
    policy = policy_of(FULL)
    assert (policy.fail_on, policy.require_commit) == ("medium", True)
    assert policy.severity["A-LOW"].level == "low"
    assert policy.severity["A-WAIVED"].until == date(2030, 1, 31)
    assert (policy.limits.files, policy.limits.json_depth) == (8, 12)
    assert policy.audit == {"spectra": {"top": 3}}
    assert set(Policy.model_fields) == {
        "fail_on", "required_checks", "require_commit", "required_base", "allowed_licences",
        "allowed_peft_types", "severity", "limits", "audit",
    }  # fmt: skip


def test_an_empty_policy_is_the_default():
    assert policy_of("") == Policy()


def test_a_change_holds_in_its_places_until_its_day():
    waiver = policy_of(FULL).severity["A-WAIVED"]
    assert waiver.holds("README.md", date(2030, 1, 31))
    assert not waiver.holds("README.md", date(2030, 2, 1))
    assert not waiver.holds("adapter_config.json", date(2030, 1, 1))


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ('fail_om = "low"', "POLICY-KEY", "fail_on"),
        ("[limits]\nfile = 3", "POLICY-KEY", "files"),
        ('[severity]\nA = { level = "low", unti = 3 }', "POLICY-KEY", "until"),
        ('fail_on = "bad"', "POLICY-VALUE", "critical"),
        ('[limits]\nfiles = "3"', "POLICY-VALUE", "files"),
        ("[limits]\nfiles = 0", "POLICY-VALUE", "files"),
        ("require_commit = 1", "POLICY-VALUE", "require_commit"),
        ('allowed_licences = "mit"', "POLICY-VALUE", "allowed_licences"),
        ("severity = 3", "POLICY-VALUE", "severity"),
        ("[severity]\nA = 3", "POLICY-VALUE", "reason"),
        ('[severity]\nA = "ignore"', "POLICY-VALUE", "reason"),
        ('[severity]\nA = { level = "ignore", reason = " " }', "POLICY-VALUE", "reason"),
        ('[severity]\nA = { level = "low", until = "soon" }', "POLICY-VALUE", "until"),
        ("fail_on = low", "POLICY-SYNTAX", "quotes"),
        ('fail_on = "low"\nfail_on = "low"', "POLICY-SYNTAX", ""),
        (b"\xff\xfe", "POLICY-SYNTAX", "utf-8"),
        ("a = " + "[" * 400, "POLICY-SYNTAX", ""),
        ("x" * 501, "POLICY-SYNTAX", "line"),
        ("# x\n" * LONGEST, "POLICY-SIZE", str(LONGEST)),
    ],
)
def test_a_mistake_is_told(text, code, said):
    error = refused(text)
    assert error.code == code
    assert said in error.render()
    assert error.exit_code == 2


@pytest.mark.parametrize(
    "lines",
    [
        ["a" + ".a" * 235 + f".k{i} = 1" for i in range(130)],
        ["[" + "a." * 240 + f"b{i}]" for i in range(130)],
        ["a = " + "[" * 480] * 130,
        [f"a{i} = 1" for i in range(7000)],
        [f"a.b{i} = 1" for i in range(5000)],
        ["[[a.b]]"] * 8000,
    ],
    ids=("dotted keys", "deep tables", "deep lists", "keys", "nested keys", "arrays"),
)
def test_no_policy_takes_long(lines):
    start = time.process_time()
    refused("\n".join(lines))
    assert time.process_time() - start < 1.0


def test_names_must_exist():
    policy = policy_of(FULL)
    policy.check_names({"A-LOW", "A-WAIVED"}, ["gate-load", "spectra"])
    with pytest.raises(ConfigError, match=r"POLICY-RULE[\s\S]*did you mean A-WAIVE\b"):
        policy.check_names({"A-LOW", "A-WAIVE"}, ["gate-load", "spectra"])
    with pytest.raises(ConfigError, match=r"POLICY-CHECK[\s\S]*did you mean spectrum"):
        policy.check_names({"A-LOW", "A-WAIVED"}, ["gate-load", "spectrum"])


def test_files_that_are_no_policies(tmp_path):
    (tmp_path / "big.toml").write_bytes(b"#" * (LONGEST + 1))
    for path, code in (
        (tmp_path / "none.toml", "POLICY-READ"), (tmp_path, "POLICY-READ"),
        (tmp_path / "big.toml", "POLICY-SIZE"), (Path("/dev/zero"), "POLICY-READ"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            read_policy(path)
        assert caught.value.code == code
