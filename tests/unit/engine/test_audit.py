"""The audit: all checks run side by side, a crash is not clean, the policy decides, no surprise."""

import json
import sys
import threading
import time
from datetime import date
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import save_file

from peftlab.core import registry
from peftlab.core.contracts import AuditResult
from peftlab.core.errors import ConfigError, NotApplicable, ResourceLimit
from peftlab.core.findings import RULES, Chart, Rule, Severity, Table
from peftlab.core.options import Options, option
from peftlab.engine.audit import audit
from peftlab.io.gate.step import TITLES, concluded
from peftlab.io.policy import parse_policy

ALL_HOLD = """
required_base = ["org/base"]
allowed_peft_types = ["lora"]
allowed_licences = ["MIT"]
required_checks = ["first"]
require_commit = true
"""
NAME = "base_model.model.bert.encoder.layer.{}.attention.self.query.lora_{}.weight"
BAD = Rule("TEST-BAD", Severity.HIGH, "it is bad", "it does harm", "throw it away")
ODD = Rule("TEST-ODD", Severity.LOW, "it is odd", "who knows", "ask")


def make_adapter(folder, **config):
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        tensors[NAME.format(layer, "A")] = rng.normal(size=(4, 32)).astype(np.float32)
        tensors[NAME.format(layer, "B")] = rng.normal(size=(32, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"],
              "base_model_name_or_path": "org/base", **config}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(values))
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: org/base\n---\n# Bot\n")
    return folder


@pytest.fixture
def adapter(tmp_path):
    return make_adapter(tmp_path / "bot")


@pytest.fixture(autouse=True)
def only_these(monkeypatch):
    """Empty the registry of audits, and the rules of tests afterwards."""
    monkeypatch.setattr(registry, "_entries", {})
    monkeypatch.setattr(registry, "_discover", lambda kind=None: None)
    for rule in (BAD, ODD):
        monkeypatch.setitem(RULES, rule.code, rule)


class Knob(Options):
    """Options of an audit that does what it is told."""

    times: int = option(1, "how often", source="ours", ge=1)


def enrol(name, run, why_not=""):
    """Register an audit that calls ``run(context, options)``."""

    @registry.audit(name, options=Knob, source="ours", cost="none")
    class Made:
        """Do what the test says."""

        def __init__(self, options):
            self.options = options

        def why_not(self, context):
            return why_not

        def run(self, context):
            return run(context, self.options)

    return Made


def finds(*findings, **facts):
    return lambda context, options: AuditResult(findings=findings, facts=facts)


def fails(error):
    def run(context, options):
        raise error

    return run


def check(report, name):
    return next(each for each in report.checks if each.name == name)


def test_a_clean_adapter(adapter):
    enrol("first", finds(pairs=2))
    report = audit(adapter)
    assert (report.exit_code, report.findings, report.ok()) == (0, (), True)
    results = report.to_json()
    assert results["verdict"] == {
        "status": "clean", "worst": None, "fail_on": "high", "exit_code": 0,
        "counts": dict.fromkeys(("critical", "high", "medium", "low", "info", "waived"), 0),
    }  # fmt: skip
    assert [each["name"] for each in results["checks"]] == [*TITLES, "first", "policy"]
    assert {each["name"] for each in results["not_checked"]} >= {"gate-load", "gate-cage"}
    about = results["artefact"]
    assert (about["kind"], about["format"], about["peft_type"]) == ("folder", "peft", "LORA")
    assert {file["name"] for file in about["files"]} == {path.name for path in adapter.iterdir()}
    assert len(about["tree_sha256"]) == len(about["config_sha256"]) == 64


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [(None, 1), ("high", 1), ("critical", 0), ("never", 0), ("low", 1), ("info", 1)],
)
def test_the_worst_finding_decides(adapter, fail_on, code):
    enrol("first", finds(ODD.found("README.md"), BAD.found("adapter_config.json#r", "4")))
    report = audit(adapter, fail_on=fail_on)
    assert report.exit_code == code
    assert [finding.code for finding in report.findings] == ["TEST-BAD", "TEST-ODD"]
    assert (report.ok("high"), report.ok("critical"), report.ok("never")) == (False, True, True)
    assert report.to_json()["verdict"]["status"] == "findings"
    assert report.to_json()["rules"]["TEST-BAD"]["why"] == "it does harm"


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (ValueError("boom\nand more"), 5, "AUDIT-CRASH"),
        (MemoryError(), 4, "AUDIT-MEMORY"),
        (ResourceLimit("full", code="DISK-FULL"), 4, "DISK-FULL"),
        (SystemExit(0), 5, "AUDIT-CRASH"),
    ],
)
def test_one_crash_takes_nothing_down_and_is_not_clean(adapter, error, code, word):
    enrol("broken", fails(error))
    enrol("other", finds(ODD.found("README.md")))
    report = audit(adapter)
    assert report.exit_code == code
    assert not report.ok()
    assert check(report, "other").status == "found"
    assert check(report, "broken").status == "not checked"
    missing = {each["name"]: each["reason"] for each in report.to_json()["not_checked"]}
    assert word in missing["broken"]
    assert report.to_json()["failures"][0]["code"] == word
    assert audit(adapter, fail_on="never").exit_code == 0
    assert audit(adapter, fail_on="low").exit_code == 1  # a finding says more than a crash


def test_a_crash_alone_is_incomplete(adapter):
    enrol("broken", fails(ValueError("boom")))
    assert audit(adapter).to_json()["verdict"]["status"] == "incomplete"


def test_what_does_not_apply_is_told(adapter):
    enrol("never", fails(ValueError("not reached")), why_not="no bank was given")
    enrol("late", fails(NotApplicable("no pairs", code="X-NONE")))
    report = audit(adapter)
    assert report.exit_code == 0
    reasons = {each["name"]: each["reason"] for each in report.to_json()["not_checked"]}
    assert (reasons["never"], reasons["late"]) == ("no bank was given", "no pairs")


def test_the_gate_stops_everything(tmp_path):
    enrol("first", fails(ValueError("not reached")))
    folder = make_adapter(tmp_path / "bad")
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    waiver = 'fail_on = "never"\n[severity]\nGATE-HEADER = {level = "ignore", reason = "no"}'
    report = audit(folder, policy=parse_policy(waiver.encode(), "p"))
    assert (report.exit_code, report.ok("never")) == (3, False)
    assert report.to_json()["verdict"]["status"] == "rejected"
    assert check(report, "gate-headers").status == "stopped"
    assert check(report, "first").reason == "the gate stopped at gate-headers"
    assert report.waived == ()


def test_a_place_without_an_artefact(tmp_path):
    report = audit(tmp_path / "nothing-here")
    assert report.exit_code == 3
    assert [each.name for each in report.checks] == list(TITLES)
    assert report.to_json()["artefact"]["files"] == []


def test_a_policy_changes_and_waives(adapter):
    enrol("first", finds(BAD.found("README.md"), BAD.found("adapter_config.json"), facts=1))
    enrol("second", finds(ODD.found("README.md")))
    text = """
    [severity]
    TEST-ODD = "critical"
    TEST-BAD = {level = "ignore", reason = "known", until = 2030-01-31, where = ["READ*"]}
    """
    policy = parse_policy(text.encode(), "p")
    report = audit(adapter, policy=policy, today=date(2030, 1, 31))
    assert [each.severity.word for each in report.findings] == ["critical", "high"]
    assert [(each.finding.where, each.reason) for each in report.waived] == [("README.md", "known")]
    assert report.to_json()["verdict"]["counts"]["waived"] == 1
    assert report.to_json()["waived"][0]["check"] == "first"
    late = audit(adapter, policy=policy, today=date(2030, 2, 1))
    assert late.waived == ()
    assert late.to_json()["policy"]["expired"] == ["TEST-BAD"]


def test_a_check_whose_findings_are_all_waived_has_passed(adapter):
    enrol("first", finds(BAD.found("README.md")))
    text = '[severity]\nTEST-BAD = {level = "ignore", reason = "known"}'
    report = audit(adapter, policy=parse_policy(text.encode(), "p"))
    assert (report.exit_code, check(report, "first").status) == (0, "passed")
    assert report.to_json()["verdict"]["status"] == "clean"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('required_base = ["org/other"]', "POLICY-BASE"),
        ('allowed_peft_types = ["IA3"]', "POLICY-PEFT-TYPE"),
        ('allowed_licences = ["apache-2.0"]', "POLICY-LICENCE"),
        ('required_checks = ["gate-load"]', "POLICY-REQUIRED"),
        ('required_checks = ["never"]', "POLICY-REQUIRED"),
        (ALL_HOLD, ""),
    ],
)  # fmt: skip
def test_what_a_policy_requires(adapter, text, code):
    enrol("first", finds())
    enrol("card", finds(licence=["mit"]))
    enrol("never", finds(), why_not="no bank")
    report = audit(adapter, policy=parse_policy(text.encode(), "p"))
    assert [finding.code for finding in report.findings] == ([code] if code else [])
    assert report.exit_code == (1 if code else 0)


def test_a_hub_id_must_be_pinned_if_the_policy_says_so(adapter, monkeypatch):
    from peftlab.io.gate import open_artefact

    def from_the_hub(reference, **options):
        artefact, checks = open_artefact(str(adapter), **options)
        artefact.source, artefact.kind, artefact.commit = reference, "hub", "a" * 40
        return artefact, checks

    monkeypatch.setattr("peftlab.engine.audit.run.open_artefact", from_the_hub)
    policy = parse_policy(b"require_commit = true", "p")
    codes = [f.code for f in audit("org/bot", policy=policy).findings]
    assert codes == ["POLICY-COMMIT"]
    assert audit(f"org/bot@{'a' * 40}", policy=policy).ok()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"policy": b'[severity]\nTEST-BED = "low"'}, "POLICY-RULE"),
        ({"policy": b'required_checks = ["frist"]'}, "POLICY-CHECK"),
        ({"policy": b"[audit.frist]\ntimes = 2"}, "REGISTRY-NAME"),
        ({"policy": b"[audit.first]\ntime = 2"}, "OPTION-UNKNOWN"),
        ({"options": {"first": {"times": 0}}}, "OPTION-VALUE"),
        ({"options": {"frist": {}}}, "REGISTRY-NAME"),
        ({"bank": "no/such/bank"}, "AUDIT-BANK"),
        ({"against": "builtin:encoder-random"}, "AUDIT-BASE"),
        ({"against": "builtin:nothing"}, "BASE-BUILTIN"),
        ({"policy": "no-such-policy.toml"}, "POLICY-READ"),
    ],
)
def test_mistakes_of_the_operator_stop_before_any_work(adapter, arguments, code):
    enrol("first", fails(AssertionError("not reached")))
    given = dict(arguments)
    if isinstance(given.get("policy"), bytes):
        given["policy"] = parse_policy(given["policy"], "p")
    with pytest.raises(ConfigError) as caught:
        audit(adapter, **given)
    assert caught.value.code == code


def test_options_over_those_of_the_policy(adapter):
    enrol("first", lambda context, options: AuditResult(facts={"times": options.times}))
    policy = parse_policy(b"[audit.first]\ntimes = 2", "p")
    assert check(audit(adapter, policy=policy), "first").facts["times"] == 2
    report = audit(adapter, policy=policy, options={"first": {"times": 3}})
    assert check(report, "first").facts["times"] == 3


def test_equal_inputs_give_equal_results(adapter):
    rng_facts = lambda context, options: AuditResult(facts={"seed": context.seed})  # noqa: E731
    for name in ("c", "a", "b"):
        enrol(name, rng_facts)
    made = [audit(adapter, workers=workers, seed=7).to_json() for workers in (1, 3)]
    for each in made:
        assert each.pop("run")["seconds"].keys() >= {"a", "b", "c", "all"}
    assert json.dumps(made[0]) == json.dumps(made[1])
    assert made[0]["checks"][-4]["facts"] == {"seed": 7}


def test_audits_run_side_by_side_and_say_how_far_they_are(adapter):
    meeting = threading.Barrier(2, timeout=20)

    def meet(context, options):
        context.progress("waiting")
        meeting.wait()
        return AuditResult()

    enrol("one", meet)
    enrol("two", meet)
    lines = []
    assert audit(adapter, progress=lines.append).exit_code == 0
    assert {"one: waiting", "two: waiting"} < set(lines)
    assert sum(line.startswith(("one: nothing", "two: nothing")) for line in lines) == 2


def test_ctrl_c_ends_it_although_an_audit_is_at_work(adapter):
    ended = threading.Event()

    def long(context, options):
        try:
            for _ in range(2000):
                time.sleep(0.01)
                context.progress("still at it")
        finally:
            ended.set()

    enrol("long", long)
    enrol("short", finds())

    def interrupted(line):
        if line.startswith("short"):
            raise KeyboardInterrupt

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        audit(adapter, progress=interrupted)
    assert ended.wait(5)
    assert time.perf_counter() - start < 5


def test_numbers_that_are_not_finite_and_values_of_numpy(adapter):
    table = Table("t", ("a", "b"), ((np.float32(1.5), np.int64(2)),))
    chart = Chart("c", "", "x", "y", {"l": ((0.0, float("nan")),)})
    found = AuditResult(facts={"norm": float("inf"), "all": np.arange(2)}, tables=(table,),
                        charts=(chart,))  # fmt: skip
    enrol("first", lambda context, options: found)
    results = audit(adapter).to_json()
    mine = next(each for each in results["checks"] if each["name"] == "first")
    assert mine["facts"] == {"norm": "inf", "all": [0, 1]}
    assert mine["tables"][0]["rows"] == [[1.5, 2]]
    json.dumps(results, allow_nan=False)


def test_what_cannot_be_written_down_is_a_crash(adapter):
    enrol("first", finds(thing=object()))
    assert audit(adapter).to_json()["failures"][0]["code"] == "AUDIT-CRASH"


def test_the_caged_load_needs_a_base(adapter, tmp_path, monkeypatch):
    caged = ModuleType("peftlab.models.caged_load")
    seen = []

    def check_load(artefact, folder):
        seen.append((artefact.source, (folder / "config.json").read_text()))
        cage = {"isolated": True, "cpu_seconds": 3.5, "peak_bytes": 7}
        finding = BAD.found("adapter_config.json")
        return concluded("gate-load", [finding], stop=True, facts={"cage": cage})

    def check_cage(load):
        return concluded("gate-cage", facts=load.facts["cage"])

    caged.check_load = check_load
    caged.check_cage = check_cage
    monkeypatch.setitem(sys.modules, "peftlab.models.caged_load", caged)
    enrol("first", finds())
    assert audit(adapter).exit_code == 0
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "bert"}')
    layer = "bert.encoder.layer.{}.attention.self.query.weight"
    weights = {layer.format(k): np.zeros((32, 32), np.float32) for k in range(2)}
    save_file(weights, base / "model.safetensors")
    report = audit(adapter, against=str(base))
    assert seen == [(str(adapter), '{"model_type": "bert"}')]
    assert report.exit_code == 3
    assert check(report, "gate-load").facts == {}
    results = report.to_json()
    cage = next(each for each in results["checks"] if each["name"] == "gate-cage")
    assert cage["facts"] == {"isolated": True}
    assert results["run"]["cage"] == {"cpu_seconds": 3.5, "peak_bytes": 7}  # differs by run
    names = {file["name"] for file in results["against"]["files"]}
    assert names == {"config.json", "model.safetensors"}


def test_a_base_that_does_not_pass_is_the_operators_mistake(adapter, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "bert"}')
    (base / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ConfigError, match="AUDIT-BASE"):
        audit(adapter, against=str(base))


def test_the_name_in_python():
    import peftlab

    assert peftlab.audit is audit
