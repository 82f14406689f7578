"""Every data set: loads the same twice, from nowhere but its own place, with labels in range."""

import pytest
from contract_tools import enrolled, well_behaved

every = pytest.mark.parametrize("entry", enrolled("dataset"))


@pytest.fixture
def reference(entry, tmp_path):
    """Return what a user would type to load this data set without any network."""
    if entry.name == "hf":
        pytest.skip("NOT CHECKED here: needs the hub; its loader is tested with a stand-in")
    if entry.name != "folder":
        return entry.name
    for split in ("train", "dev", "test"):
        rows = [f"{split} text number {i}\t{i % 2}" for i in range(40)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]))
    return str(tmp_path)


@every
def test_same_options_same_texts_and_no_side_effects(entry, reference):
    first = entry.build().load(reference)
    with well_behaved():
        second = entry.build().load(reference)
    assert first.digest() == second.digest()
    assert first == second


@every
def test_what_comes_out_is_a_task(entry, reference):
    data = entry.build().load(reference)
    assert data.name == reference
    assert data.n_classes >= 2
    assert len(set(data.label_names)) == data.n_classes
    assert data.source.strip()
    assert data.licence.strip()
    for split in (data.train, data.dev, data.test):
        assert len(split) >= 20
        assert set(split.labels) == set(range(data.n_classes))
        assert all(isinstance(text, str) for text in split.texts)
    if not entry.name.startswith("example-"):  # the example is kept short
        assert not set(data.train.texts) & set(data.test.texts)


@every
def test_the_seed_decides_if_there_is_one(entry, reference):
    if "seed" not in entry.options.model_fields or entry.name == "folder":
        pytest.skip("nothing is drawn")
    assert entry.build(seed=1).load(reference).digest() != entry.build().load(reference).digest()
