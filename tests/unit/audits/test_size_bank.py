"""Banks of labelled adapters: built, written, read back, refused when they do not hold together."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_size_features import write_adapter

from peftlab.audits.size import SpectraBank
from peftlab.audits.size.errors import BankMismatch
from peftlab.audits.size.rows import read_rows, write_rows
from peftlab.core.errors import BackendMissing, ConfigError, InputRejected, ResourceLimit
from size_banks import make_bank


@pytest.fixture
def factors():
    rng = np.random.default_rng(0)
    return {
        f"layers.{n}.q": (
            rng.normal(size=(8, 4, 16)).astype(np.float32),
            rng.normal(size=(8, 24, 4)).astype(np.float32),
        )
        for n in range(2)
    }


LABELS = [1, 2, 4, 8] * 2
NAMES = ["cat"] * 4 + ["dog"] * 4


def test_a_folder_holds_all_of_a_bank(tmp_path, factors):
    bank = SpectraBank.from_factors(factors, LABELS, NAMES, 2.0, {"lr": 1e-3}, {"title": "x"})
    bank.save(tmp_path / "bank")
    again = SpectraBank.load(tmp_path / "bank")
    assert again.sha256 == bank.sha256
    assert (again.layers, again.recipe, again.about) == (bank.layers, bank.recipe, bank.about)
    assert {path.name for path in (tmp_path / "bank").iterdir()} == {
        "bank.json", "spectra.safetensors",
    }  # fmt: skip


def test_rows_of_the_public_schema_give_the_same_bank(tmp_path, factors):
    bank = SpectraBank.from_factors(factors, LABELS, NAMES, 2.0)
    path = tmp_path / "adapters.parquet"
    extra = {"rank": [4] * 8, "alpha": [8.0] * 8, "steps": [500] * 8, "loss_final": [0.5] * 8}
    write_rows(path, factors, LABELS, NAMES, columns=extra, recipe={"lr": 1e-3})
    for reference in (path, tmp_path):
        found = SpectraBank.from_parquet(reference)
        assert found.sha256 == bank.sha256
        assert found.recipe == {"rank": 4, "alpha": 8.0, "steps": 500, "lr": 1e-3}
    assert SpectraBank.load(tmp_path).sha256 == bank.sha256


def test_stub_with_the_public_columns_only(tmp_path, factors):
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat, nested = {"label": LABELS, "name": NAMES}, {"label": LABELS, "name": NAMES}
    for layer, pair in factors.items():
        for ending, factor in zip((".lora.down", ".lora.up"), pair, strict=True):
            flat[layer + ending] = factor.reshape(8, -1).tolist()
            nested[layer + ending] = factor.tolist()
    bank = SpectraBank.from_factors(factors, LABELS, NAMES)
    pq.write_table(pa.table(nested), tmp_path / "nested.parquet")
    pq.write_table(pa.table(flat), tmp_path / "flat.parquet")
    for name, rank in (("nested", None), ("flat", 4)):
        found = read_rows(tmp_path / f"{name}.parquet", rank=rank)
        assert found.names == bank.names
        assert found.layers == bank.layers
        for key, values in bank.matrices.items():
            assert np.allclose(found.matrices[key], values, rtol=1e-6)
    with pytest.raises(ConfigError, match="SIZE-RANK"):
        read_rows(tmp_path / "flat.parquet")


def test_bank_of_adapter_files(tmp_path):
    paths = []
    for number in range(4):
        write_adapter(tmp_path / str(number), seed=number)
        paths.append(tmp_path / str(number))
    bank = SpectraBank.from_adapters(paths, [1, 2, 1, 2], ["a", "a", "b", "b"])
    assert bank.kinds == ("A", "B", "BA")
    assert bank.norms().shape == (4, 2)
    write_adapter(tmp_path / "odd", rank=2)
    with pytest.raises(BankMismatch):
        SpectraBank.from_adapters([*paths, tmp_path / "odd"], [1, 2, 1, 2, 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: {"sizes": np.ones(len(b), dtype=np.int64)}, "fewer than two sizes"),
        (lambda b: {"sizes": b.sizes[:-1]}, "differ in number"),
        (lambda b: {"sizes": -b.sizes}, "negative"),
        (lambda b: {"sizes": b.sizes.astype(float)}, "differ in number"),
        (lambda b: {"layers": {}}, "no layers"),
        (lambda b: {"matrices": dict(list(b.matrices.items())[:1])}, "in common"),
        (lambda b: {"matrices": {**b.matrices, "other/A": b.norms()}}, "no layer"),
        (lambda b: {"matrices": {k: v[:, :1] for k, v in b.matrices.items()}}, "another shape"),
        (lambda b: {"matrices": {k: v * np.nan for k, v in b.matrices.items()}}, "not finite"),
        (lambda b: {"matrices": {k: -v for k, v in b.matrices.items()}}, "negative singular"),
    ],
)
def test_what_does_not_hold_together_is_refused(change, words):
    bank = make_bank(concepts=2)
    own = {
        name: getattr(bank, name)
        for name in ("matrices", "sizes", "names", "layers", "recipe", "about")
    }
    with pytest.raises(InputRejected, match=words):
        SpectraBank(**(own | change(bank)))


def spoil(folder, **values):
    about = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(about | values))


@pytest.mark.parametrize(
    "values",
    [
        {"schema": "other/1"}, {"sizes": [1, 2]}, {"names": "cat"}, {"recipe": None},
        {"layers": []}, {"layers": [{"name": "q", "rank": 0, "d_in": 1, "d_out": 1}]},
        {"layers": [{"rank": 4}]}, {"sizes": [10**30] * 12}, {"sha256": "0" * 64},
    ],
)  # fmt: skip
def test_hostile_or_damaged_bank_files_are_refused(values, tmp_path):
    make_bank(concepts=2).save(tmp_path / "b")
    spoil(tmp_path / "b", **values)
    with pytest.raises(InputRejected, match="SIZE-BANK"):
        SpectraBank.load(tmp_path / "b")


def test_places_without_a_bank(tmp_path):
    with pytest.raises(InputRejected, match="SIZE-BANK"):
        SpectraBank.load(tmp_path)
    with pytest.raises(ConfigError, match="SIZE-BANK-NAME"):
        SpectraBank.load("builtin:nothing")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputRejected, match="DATA-PARQUET"):
        SpectraBank.load(tmp_path)


def test_subsets_keep_what_belongs_together():
    bank = make_bank(concepts=3)
    part = bank.of_concepts(["concept-01"])
    assert set(part.names) == {"concept-01"}
    assert part.sizes.tolist() == [1, 2, 3, 4, 5, 6]
    row = bank.names.index("concept-01")
    assert np.array_equal(
        part.spectra(0).matrices["layers.0.q_proj/B"],
        bank.matrices["layers.0.q_proj/B"][row],
    )


def test_rows_that_do_not_fit_together(tmp_path, factors, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def refused(words, table, name="x.parquet"):
        pq.write_table(pa.table(table), tmp_path / name)
        with pytest.raises(InputRejected, match=words):
            read_rows(tmp_path)
        (tmp_path / name).unlink()

    down, up = [[[1.0, 2.0]]] * 2, [[[1.0], [2.0]]] * 2
    good = {"label": [1, 2], "name": ["a", "b"], "q.lora.down": down, "q.lora.up": up}
    refused("schema", {key: good[key] for key in ("label", "name", "q.lora.down")})
    refused("schema", {key: good[key] for key in ("name", "q.lora.down", "q.lora.up")})
    refused("missing in some rows", good | {"q.lora.up": [up[0], None]})
    refused("holds no", good, "rows.txt")
    refused("no rows", pa.table(good).slice(0, 0))
    refused("another length|readable", good | {"q.lora.down": [[[1.0, 2.0]], [[1.0]]]})
    write_rows(tmp_path / "a.parquet", factors, LABELS, NAMES)
    refused("different layers", good)
    monkeypatch.setattr("peftlab.audits.size.rows.MOST_BYTES", 100)
    with pytest.raises(InputRejected, match="too large"):
        read_rows(tmp_path / "a.parquet")


def test_rows_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BackendMissing, match=r"peftlab\[parquet\]"):
        read_rows(tmp_path / "x.parquet")


def test_spectra_files_that_are_none(tmp_path):
    make_bank(concepts=2).save(tmp_path / "b")
    save_file({"0.A": np.ones((12, 4), dtype=np.float32)}, tmp_path / "b" / "spectra.safetensors")
    with pytest.raises(InputRejected, match="something else than spectra"):
        SpectraBank.load(tmp_path / "b")
    (tmp_path / "b" / "spectra.safetensors").write_bytes(b"no")
    with pytest.raises(InputRejected, match="TENSORS-HEADER"):
        SpectraBank.load(tmp_path / "b")


def test_too_large_for_one_bank(monkeypatch):
    monkeypatch.setattr("peftlab.audits.size.bank.MOST_ADAPTERS", 5)
    with pytest.raises(ResourceLimit, match="SIZE-LARGE"):
        make_bank(concepts=2)
