"""The registered audit: applies where a bank fits, says what it rests on, never cries wolf."""

import numpy as np
import pytest
from test_size_features import write_adapter

from peftlab.audits.size import SizeAudit, SpectraBank
from peftlab.audits.size.rows import write_rows
from peftlab.core import registry
from peftlab.core.contracts import AuditContext
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.core.findings import Severity
from peftlab.io.adapter_layout import read_layout
from peftlab.io.gate import inspect, open_artefact
from size_banks import make_bank

SIZES = (1, 2, 3, 4, 5, 6)


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory):
    """Return a bank of random factors whose B shrinks with the size."""
    root = tmp_path_factory.mktemp("audit")
    make_random_bank().save(root / "bank")
    return root / "bank"


def make_random_bank(rank=4, concepts=12):
    rng = np.random.default_rng(0)
    labels = np.array(SIZES * concepts)
    names = [f"c{n:02}" for n in range(concepts) for _ in SIZES]
    shrink = (labels**-0.5)[:, None, None]
    factors = {
        f"layers.{n}.q_proj": (
            rng.normal(size=(len(labels), rank, 16)),
            rng.normal(size=(len(labels), 24, rank)) * shrink,
        )
        for n in range(2)
    }
    return SpectraBank.from_factors(factors, labels, names, 2.0, {"lr": 1e-3, "steps": 500})


def context_of(folder, bank=None):
    artefact, checks = open_artefact(str(folder))
    checks += inspect(artefact)
    assert not any(check.status == "stopped" for check in checks)
    return AuditContext(artefact, read_layout(artefact), None, bank, 0, lambda _: None)


def build(**options):
    made = registry.get("audit", "size").build(**options)
    assert isinstance(made, SizeAudit)
    return made


def test_without_a_recipe_it_is_a_remark(tmp_path, bank_folder):
    write_adapter(tmp_path / "a", scale=3**-0.5)
    context = context_of(tmp_path / "a", bank_folder)
    audit = build()
    assert audit.why_not(context) == ""
    found = audit.run(context)
    assert [(f.code, f.severity) for f in found.findings] == [("SIZE-READABLE", Severity.INFO)]
    assert found.facts["identified"] is False
    assert found.charts[0].kind == "bar"
    assert found.tables[0].rows
    assert any("recipe" in text for text in found.not_checked)
    assert 0 <= found.facts["bank_bits"] <= found.facts["most_bits"]
    assert audit.run(context) == found
    context.artefact.close()


def test_with_a_recipe_it_is_a_leak(tmp_path, bank_folder):
    write_adapter(tmp_path / "a", scale=1.0)
    context = context_of(tmp_path / "a", bank_folder)
    for options in ({"assume_recipe": True}, {"recipe": ["lr=1e-3,steps=500"], "head": "lda"}):
        found = build(**options).run(context)
        (finding,) = found.findings
        assert finding.code == "SIZE-TOLD"
        assert finding.severity == Severity.LOW
        assert found.facts["size"] <= 2
    context.artefact.close()


def test_unlike_the_bank_it_says_so(tmp_path, bank_folder):
    write_adapter(tmp_path / "a", scale=40.0)
    context = context_of(tmp_path / "a", bank_folder)
    (finding,) = build(assume_recipe=True).run(context).findings
    assert finding.code == "SIZE-UNLIKE"
    assert finding.severity == Severity.INFO
    context.artefact.close()


def test_where_no_bank_fits_it_does_not_apply(tmp_path, bank_folder):
    write_adapter(tmp_path / "a", rank=2)
    context = context_of(tmp_path / "a", bank_folder)
    assert "rank 2 (bank: 4)" in build().why_not(context)
    context.artefact.close()
    context = context_of(tmp_path / "a", tmp_path)
    assert build().why_not(context) == "the bank holds no adapters of known data-set size"
    context.artefact.close()
    context = context_of(tmp_path / "a")
    assert "--bank" in build().why_not(context)
    context.artefact.close()


def test_a_bank_of_another_audit_is_not_taken(tmp_path):
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "bank.json").write_text('{"kind": "backdoor"}')
    write_adapter(tmp_path / "a")
    context = context_of(tmp_path / "a", tmp_path / "bank")
    assert "no adapters of known" in build().why_not(context)
    context.artefact.close()


def test_bank_of_rows_is_read_when_it_runs(tmp_path):
    rng = np.random.default_rng(0)
    labels, names = SIZES * 2, ["a"] * 6 + ["b"] * 6
    factors = {
        f"layers.{n}.q_proj": (rng.normal(size=(12, 2, 16)), rng.normal(size=(12, 24, 2)))
        for n in range(2)
    }
    (tmp_path / "bank").mkdir()
    write_rows(tmp_path / "bank" / "rows.parquet", factors, labels, names)
    for rank, fits in ((2, True), (4, False)):
        write_adapter(tmp_path / str(rank), rank=rank)
        context = context_of(tmp_path / str(rank), tmp_path / "bank")
        assert build().why_not(context) == ""
        if fits:
            assert build().run(context).findings
        else:
            with pytest.raises(NotApplicable, match=r"rank 4 \(bank: 2\)"):
                build().run(context)
        context.artefact.close()


def test_options_are_checked_at_once():
    for wrong in ({"head": "magic"}, {"recipe": ["lr"]}, {"alpha": 0}):
        with pytest.raises(ConfigError, match="OPTION-VALUE"):
            build(**wrong)


def test_made_up_bank_is_what_other_tests_take_it_for():
    assert make_bank().kinds == make_random_bank(concepts=2).kinds
