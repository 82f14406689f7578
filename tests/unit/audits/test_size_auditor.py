"""The auditor: sizes, sets that hold, recipes that are known or not, saved and loaded."""

import numpy as np
import pytest

from peftlab.audits.size import SizeAuditor
from peftlab.audits.size.conformal import ConformalSets
from peftlab.audits.size.errors import BankMismatch
from peftlab.audits.size.features import Spectra
from peftlab.audits.size.guess import concept_folds
from peftlab.audits.size.heads import make
from peftlab.audits.size.recipe import UNKNOWN, look, parse
from peftlab.audits.size.recipe_gate import RecipeGate
from peftlab.audits.size.references import scale_factors
from peftlab.audits.size.table import table_of
from peftlab.core.errors import ConfigError, InputRejected, NotApplicable
from size_banks import make_bank

KINDS = ("A", "B", "BA")
RECIPE = {"lr": 1e-3, "steps": 500, "batch": 1}


def halves(concepts=24, **settings):
    """Return a bank to learn from and one of other concepts."""
    bank = make_bank(concepts=concepts, layers=6, noise=0.1, own=0.1, **settings)
    names = bank.concepts
    return bank.of_concepts(names[: concepts // 2]), bank.of_concepts(names[concepts // 2 :])


@pytest.fixture(scope="module")
def auditor():
    return SizeAuditor().fit(halves(recipe=RECIPE)[0])


def test_prediction_of_an_unseen_adapter(auditor):
    others = halves(recipe=RECIPE)[1]
    found = auditor.predict(others.spectra(0), recipe=RECIPE)
    assert found.size in {1, 2}
    assert sum(found.votes.values()) == pytest.approx(1)
    assert found.interval == (found.prediction_set[0], found.prediction_set[-1])
    assert 1 in found.prediction_set
    assert found.identified
    assert found.recipe.status == "declared"
    assert len(found.per_layer) == 6
    assert set(found.per_layer[0].votes) == {"A", "B", "BA"}
    assert found.chance["best_constant_mae"] == 1.5
    assert found.to_json()["words"] == found.words()


@pytest.mark.parametrize("head", ["vote", "ridge", "lda"])
def test_sets_hold_the_size_in_most_unseen_concepts(head):
    bank, others = halves(concepts=60)
    sets = ConformalSets.fit(
        lambda: make(head), table_of(bank, KINDS), bank.sizes, bank.names, alpha=0.1
    )
    inside = sets.sets(table_of(others, KINDS))
    columns = np.searchsorted(sets.levels, others.sizes)
    assert inside[np.arange(len(columns)), columns].mean() >= 0.9
    assert 1 <= inside.sum(axis=1).mean() < 6
    assert all(np.diff(np.flatnonzero(row)).max(initial=1) == 1 for row in inside)  # no holes


@pytest.mark.parametrize("concepts", [1, 3, 8])
def test_few_concepts_rule_nothing_out_and_say_so(concepts):
    bank = make_bank(concepts=concepts)
    found = SizeAuditor().fit(bank).predict(bank.spectra(0), assume_recipe=True)
    assert found.prediction_set == (1, 2, 3, 4, 5, 6)
    assert not found.ruled_out
    assert any("too few" in text for text in found.words())


def test_nine_concepts_are_enough_for_ninety_per_cent():
    assert SizeAuditor().fit(make_bank(concepts=9)).conformal.can_rule_out


def test_recipe_decides_whether_there_is_a_size(auditor):
    spectra = auditor.bank.spectra(3)
    unknown = auditor.predict(spectra)
    assert not unknown.identified
    assert unknown.recipe.words == UNKNOWN == "recipe unknown: size not identified"
    assert auditor.predict(spectra, assume_recipe=True).recipe.status == "assumed"
    differs = auditor.predict(spectra, recipe={"lr": 2e-3, "steps": 500}, assume_recipe=True)
    assert differs.recipe.status == "differs"
    assert not differs.identified
    assert differs.recipe.differing == {"lr": (1e-3, 2e-3)}
    short = auditor.predict(spectra, recipe={"lr": 1e-3})
    assert short.recipe.status == "incomplete"
    assert "steps" in short.recipe.words


def test_recipe_is_compared_as_numbers_and_words():
    bank = {"lr": 1e-4, "steps": 1200, "seed": "same"}
    assert look(bank, {"lr": 0.0001, "steps": 1200.0}, assumed=False, references=0).identified
    seen = look(bank, parse(["lr=1e-4,steps=1200", "optimiser=adamw"]), assumed=False, references=0)
    assert "does not tell its optimiser" in seen.words
    assert "not declared: seed" in seen.words
    for wrong in ("lr", "lr=", "=3"):
        with pytest.raises(ConfigError, match="SIZE-RECIPE"):
            parse([wrong])


def test_references_of_known_size_mend_the_scale():
    bank, _ = halves()
    other = make_bank(concepts=24, layers=6, noise=0.1, own=0.1, scale=0.6)
    auditor = SizeAuditor().fit(bank)
    references = [(other.spectra(row), int(other.sizes[row])) for row in (1, 9, 17)]
    rows = range(72, 144, 5)
    errors = {
        count: np.mean([
            abs(auditor.predict(other.spectra(row), references=references[:count]).size
                - other.sizes[row])
            for row in rows
        ])
        for count in (0, 3)
    }  # fmt: skip
    assert errors[3] < errors[0] - 0.4
    found = auditor.predict(other.spectra(72), references=references)
    assert found.recipe.status == "calibrated"
    assert found.identified
    assert found.scale == pytest.approx(1 / 0.6, rel=0.25)


def test_references_must_be_of_known_sizes_and_trained():
    bank, _ = halves()
    table = table_of(bank, KINDS)
    for size in (0, 7):
        with pytest.raises(ConfigError, match="SIZE-REFERENCE"):
            scale_factors(table, bank.sizes, table.pick([0]), [size])
    empty = table.times(dict.fromkeys(table.names, 0.0)).pick([0])
    with pytest.raises(InputRejected, match="SIZE-REFERENCE"):
        scale_factors(table, bank.sizes, empty, [2])
    factors = scale_factors(table, bank.sizes, table.pick([0]), [1])
    assert {name.rpartition("/")[2] for name in factors} == {"B", "BA"}


def test_gate_passes_the_banks_kind_and_flags_another():
    bank, others = halves(concepts=40)
    gate = RecipeGate.fit(table_of(bank, KINDS), bank.sizes, bank.names)
    own = [notice.flagged for notice in gate.look(table_of(others, KINDS))]
    far = make_bank(concepts=20, layers=6, noise=0.1, own=0.1, scale=0.3)
    theirs = gate.look(table_of(far, KINDS))
    assert np.mean(own) <= 0.1
    assert np.mean([notice.flagged for notice in theirs]) >= 0.3
    assert max(notice.outside for notice in theirs) > 0.5
    one = RecipeGate.fit(table_of(bank, KINDS).pick(range(6)), bank.sizes[:6], bank.names[:6])
    assert not one.look(table_of(bank, KINDS).pick([0]))[0].flagged


def test_saved_and_loaded_it_says_the_same(auditor, tmp_path):
    auditor.save(tmp_path / "a")
    again = SizeAuditor.load(tmp_path / "a")
    spectra = halves(recipe=RECIPE)[1].spectra(7)
    first, second = (each.predict(spectra, recipe=RECIPE).to_json() for each in (auditor, again))
    assert first == second
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("text", ['{"schema": "x"}', "[]", '{"schema": "peftlab.size-auditor/1"}'])
def test_damaged_auditors_are_refused(auditor, tmp_path, text):
    auditor.save(tmp_path / "a")
    (tmp_path / "a" / "auditor.json").write_text(text)
    with pytest.raises(InputRejected, match="SIZE-BANK"):
        SizeAuditor.load(tmp_path / "a")


def test_mistakes_have_names(auditor, tmp_path):
    with pytest.raises(ConfigError, match="SIZE-FEATURES"):
        SizeAuditor(("A", "A"))
    with pytest.raises(ConfigError, match="SIZE-HEAD"):
        SizeAuditor(head="magic")
    with pytest.raises(ConfigError, match="SIZE-ALPHA"):
        SizeAuditor(alpha=1.0)
    with pytest.raises(ConfigError, match="SIZE-UNFITTED"):
        SizeAuditor().predict(auditor.bank.spectra(0))
    with pytest.raises(ConfigError, match="SIZE-UNFITTED"):
        SizeAuditor().save(tmp_path / "x")
    with pytest.raises(NotApplicable, match="SIZE-FEATURES"):
        SizeAuditor(("A", "M")).fit(auditor.bank)


def test_rank_of_the_bank_is_named_when_it_differs():
    bank = make_bank(concepts=3, rank=8)
    small = make_bank(concepts=3, rank=4).spectra(0)
    with pytest.raises(BankMismatch, match=r"rank 4 \(bank: 8\)"):
        SizeAuditor().fit(bank).predict(small, assume_recipe=True)


def test_magnitudes_are_a_feature_where_the_bank_has_them():
    plain = make_bank(concepts=4)
    rng = np.random.default_rng(0)
    extra = {f"{layer}/M": rng.uniform(1, 2, (len(plain), 24)) for layer in plain.layers}
    bank = type(plain)({**plain.matrices, **extra}, plain.sizes, plain.names, plain.layers)
    assert bank.kinds == ("A", "B", "BA", "M")
    auditor = SizeAuditor(("A", "B", "BA", "M")).fit(bank)
    own = bank.spectra(2)
    assert auditor.predict(own).size == 3
    without = {name: values for name, values in own.matrices.items() if not name.endswith("/M")}
    with pytest.raises(BankMismatch, match="has no M"):
        auditor.predict(Spectra(without, own.shapes))


def test_folds_of_one_concept():
    assert [rows.tolist() for rows in concept_folds(["a", "a"])] == [[0, 1]]
