"""Results of audits that never happened, for tests and for looking at pages."""

from datetime import date

from peftlab.core.findings import RULES, Chart, Check, Rule, Severity, Table
from peftlab.engine.audit.results import policy_facts, results_of
from peftlab.engine.audit.verdict import Failure, apply_policy
from peftlab.io.gate.step import TITLES, concluded, skipped
from peftlab.io.policy import Policy

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202eevil\n::error::x"
LAYER = "base_model.model.model.layers.{}.self_attn.{}_proj"


def a_rule(code, severity, title, why, fix):
    """Return a rule, declared once for all tests."""
    return RULES.setdefault(code, Rule(code, severity, title, why, fix))


IMPORT = a_rule(
    "TEST-IMPORT", Severity.CRITICAL, "the config names code to import",
    "loading it would run that code with your rights", "delete the field, or do not load it",
)  # fmt: skip
EXTRA = a_rule(
    "TEST-EXTRA", Severity.HIGH, "the adapter brings tensors that its method does not need",
    "whole layers replace those of the base that you trust",
    "ask the publisher why they are there",
)  # fmt: skip
UNKNOWN = a_rule(
    "TEST-UNKNOWN", Severity.MEDIUM, "the config has a field that peft does not know",
    "another version of the library may act on it", "delete the field",
)  # fmt: skip
OUTLIER = a_rule(
    "TEST-OUTLIER", Severity.LOW, "one layer moved much more than the others",
    "a trigger is often planted in few layers", "look at the chart of norms",
)  # fmt: skip


def charts(layers=32):
    """Return one chart of each kind."""
    norms = tuple((LAYER.format(k, "qv"[k % 2]), 1 + (k * 7 % 11) / 4) for k in range(layers))
    spectra = {
        LAYER.format(k, "q"): tuple((i, 4.0 / (1 + i + k)) for i in range(16)) for k in range(3)
    }
    scores = {"clean": tuple((k / 9 - 2, 0.0) for k in range(20)), "this one": ((1.5, 1.0),)}
    return (
        Chart("Norms of the updates", "Frobenius norm of B A.", "layer", "norm", {"norm": norms},
              "bar"),
        Chart("Spectra", "Singular values of three updates.", "number", "value", spectra),
        Chart("Scores", "Each point is an adapter.", "log odds", "kind", scores, "point"),
    )  # fmt: skip


def gate_checks(stop=""):
    """Return the steps of the gate, stopped at one of them or not."""
    checks, stopped = [], False
    for name in TITLES:
        if stopped:
            checks.append(skipped(name, f"the gate stopped at {stop}"))
        elif name == stop:
            finding = IMPORT.found("adapter_config.json#auto_mapping", '{"parent_library": "os"}')
            checks.append(concluded(name, [finding], stop=True))
            stopped = True
        elif name in {"gate-load", "gate-cage"}:
            checks.append(skipped(name, "no trusted base was named (--against)"))
        elif name == "gate-config":
            places = [UNKNOWN.found(f"adapter_config.json#field_{k}", "1") for k in range(7)]
            checks.append(concluded(name, places))
        else:
            checks.append(concluded(name, facts={"tensors": 64}).took(0.01))
    return checks


def audit_checks(hostile=""):
    """Return audits as they come: with findings, tables, charts, or a reason why not."""
    rows = tuple(
        (LAYER.format(k, "q"), "lora", 16, 4096, 4096, 0.5 + k / 7, None) for k in range(12)
    )
    where = f"adapter_model.safetensors#{hostile or 'base_model.model.lm_head.weight'}"
    return [
        Check("backdoor", "Compare with known adapters", "not applicable", "no bank was given"),
        Check(
            "card", "What the card says", "passed", facts={"licence": hostile or "apache-2.0"},
            not_checked=("whether what the card says is true",),
        ),
        Check("size", "Size of the training set", "not checked", "it failed [AUDIT-CRASH]"),
        Check(
            "spectra", "Spectra of the updates", "found", "",
            (OUTLIER.found(f"adapter_model.safetensors#{LAYER.format(3, 'q')}", "z = 5.1"),),
            {"pairs": 64, "rank": [16], "scale": 2.0, "largest_norm": 3.25, "rslora": False},
            (Table(f"Largest updates {hostile}",
                   ("layer", "kind", "rank", "in", "out", "norm", "gap"), rows),),
            charts(), ("whether the values were trained",), 0.42,
        ),
        Check(
            "structure", "What it is made of", "found", "",
            (EXTRA.found(where, f"(32000, 4096) {hostile}"),),
            {"format": "peft", "peft_type": "LORA", "layers": 32},
        ),
    ]  # fmt: skip


def make_audit(*, stop="", hostile="", clean=False, failed=False, policy=None, source=""):
    """Return a results dict."""
    rules, day = policy or Policy(), date(2026, 10, 1)
    name = source or hostile or "adapters/support-bot"
    if clean:
        checks = [
            skipped(name, "no trusted base was named (--against)")
            if name in {"gate-load", "gate-cage"} else concluded(name) for name in TITLES
        ]  # fmt: skip
        checks += [check for check in audit_checks() if check.status == "passed"]
    else:
        checks = [*gate_checks(stop), *([] if stop else audit_checks(hostile))]
    failures = [Failure("size", "AUDIT-CRASH", f"it failed {hostile}", 5)] if failed else []
    checks, waived = apply_policy(checks, rules, day)
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    about = {
        "source": name, "kind": "folder", "commit": None, "format": None if stop else "peft",
        "peft_type": None if stop else "LORA",
        "files": [
            {"name": f, "bytes": 812 * 50**k, "sha256": f"{k}{'a1' * 31}b"}
            for k, f in enumerate(files)
        ],
        "recorded": [{"name": "training_args.bin", "bytes": 5201}],
        "config_sha256": "c" * 64, "tree_sha256": "d" * 64,
    }  # fmt: skip
    return results_of(
        checks, waived, failures, about, seconds=1.5, against=None, bank=None, seed=0,
        policy=policy_facts(rules, "gate.toml" if policy else None, rules.fail_on, day),
    )  # fmt: skip
