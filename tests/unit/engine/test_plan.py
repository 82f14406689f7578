"""A plan does shared work once and changes identity with everything that matters."""

from collections import Counter

import pytest

from peftlab.engine import plan as module
from peftlab.engine.plan import plan
from peftlab.engine.recipe import make_recipe

GRID = {
    "name": "grid",
    "attack": ["badnets", "insent", "soft"],
    "tuner": ["lora", "prefix"],
    "defence": ["psim", "onion"],
    "seeds": [0, 1, 2],
}


def kinds(nodes, **key):
    return Counter(
        node.kind for node in nodes if all(node.key.get(name) == key[name] for name in key)
    )


def ids(values=None, data="d", base="b", **changes):
    return {
        node.id for node in plan(make_recipe({**GRID, **(values or {}), **changes}), data, base)
    }


def test_shared_work_is_planned_once():
    nodes = plan(make_recipe(GRID), "data", "base")
    assert kinds(nodes, control=False) == {
        "base": 9, "victim": 18, "guard": 18, "outputs": 18, "scores": 18, "cell": 36,
    }  # fmt: skip
    assert kinds(nodes, control=True) == {
        "base": 3, "victim": 6, "guard": 6, "outputs": 18, "scores": 18, "cell": 36,
    }  # fmt: skip
    assert len({node.id for node in nodes}) == len(nodes)


def test_order_and_roles():
    nodes = plan(make_recipe(GRID), "data", "base")
    seen = set()
    for node in nodes:
        assert seen.issuperset(node.needs)
        assert set(node.key["needs"].values()) == set(node.needs)
        seen.add(node.id)
    cells = [node for node in nodes if node.kind == "cell"]
    assert set(cells[0].key["needs"]) == {"base", "victim", "guard", "outputs", "scores"}
    names = [
        (*node.key["labels"].values(), node.key["control"], node.key["seed"]) for node in cells
    ]
    assert names[:4] == [
        ("badnets", "lora", "psim", False, 0), ("badnets", "lora", "psim", False, 1),
        ("badnets", "lora", "psim", False, 2), ("badnets", "lora", "onion", False, 0),
    ]  # fmt: skip
    assert [name[0] for name in names] == ["badnets"] * 24 + ["insent"] * 24 + ["soft"] * 24


def test_without_tuner_and_defence_the_base_is_the_victim():
    recipe = make_recipe({**GRID, "tuner": "none", "defence": "none", "control": False})
    nodes = plan(recipe, "data", "base")
    assert kinds(nodes) == {"base": 9, "outputs": 9, "cell": 9}
    cell = nodes[-1]
    base, outputs = cell.needs
    assert cell.key["needs"] == {"base": base, "victim": base, "outputs": outputs}


def test_no_control_when_not_wanted_unless_the_attack_is_one():
    assert kinds(plan(make_recipe({**GRID, "control": False}), "d", "b"), control=True) == {}
    zero = {**GRID, "attack": {"name": "badnets", "options": {"rate": 0}}}
    for control in (True, False):
        nodes = plan(make_recipe({**zero, "control": control}), "d", "b")
        assert kinds(nodes) == kinds(nodes, control=True) == {
            "base": 3, "victim": 6, "guard": 6, "outputs": 6, "scores": 6, "cell": 12,
        }  # fmt: skip


def test_the_control_runs_with_the_defences_that_are_listed_for_it():
    grid = {**GRID, "defence": ["none", "psim", "onion"]}
    nodes = plan(make_recipe({**grid, "control_defences": ["none"]}), "d", "b")
    assert set(kinds(nodes, control=True)) == {"base", "victim", "outputs", "cell"}
    assert kinds(nodes, control=False) == kinds(plan(make_recipe(grid), "d", "b"), control=False)


def test_controls_of_other_data_knowledge_are_not_shared():
    attack = [{"name": "badnets"}, {"name": "insent", "options": {"knowledge": "proxy"}}]
    nodes = plan(make_recipe({**GRID, "attack": attack}), "d", "b")
    assert kinds(nodes, control=True)["base"] == 6


@pytest.mark.parametrize(
    "change",
    [
        {"data": "other"}, {"base": "other"}, {"values": {"base": "elsewhere"}},
        {"values": {"attacker": {"epochs": 1}}}, {"values": {"limits": {"max_train": 10}}},
        {"values": {"seeds": [7]}}, {"values": {"data_options": {"label_noise": 0.1}}},
    ],
)  # fmt: skip
def test_everything_changes_with_what_all_depends_on(change):
    assert not ids() & ids(**change)


def test_only_dependants_change():
    before = plan(make_recipe(GRID), "d", "b")
    kept = ids({"defence": ["psim", {"name": "onion", "options": {"alpha": 0.01}}]})
    changed = Counter(node.kind for node in before if node.id not in kept)
    assert changed == {"guard": 12, "scores": 18, "cell": 36}
    assert ids({"name": "other", "question": "why?"}) == ids()
    assert ids({"seeds": [0, 1, 2, 3]}) > ids()


def test_the_code_of_a_method_counts(monkeypatch):
    before = ids()
    real = module._code
    monkeypatch.setattr(
        module, "_code", lambda kind, name: "changed" if name == "lora" else real(kind, name)
    )
    nodes = plan(make_recipe(GRID), "d", "b")
    changed = Counter(node.kind for node in nodes if node.id not in before)
    assert changed == {"victim": 12, "outputs": 18, "cell": 36}


def test_a_file_named_by_an_option_counts(tmp_path):
    train = tmp_path / "train.tsv"
    train.write_text("one")
    attack = {"name": "imported", "options": {"train": str(train)}}
    recipe = make_recipe({**GRID, "attack": attack, "control": False})
    before = plan(recipe, "d", "b")
    assert plan(recipe, "d", "b") == before
    train.write_text("two")
    assert not {node.id for node in plan(recipe, "d", "b")} & {node.id for node in before}


def test_a_model_folder_named_by_an_option_counts(tmp_path, monkeypatch):
    model = tmp_path / "lm"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("one")
    defence = {"name": "onion", "options": {"lm": "causal", "lm_base": str(model)}}
    recipe = make_recipe({**GRID, "defence": [defence, "psim"]})

    def changed(before):
        return Counter(node.kind for node in plan(recipe, "d", "b") if node.id not in before)

    def now():
        return {node.id for node in plan(recipe, "d", "b")}

    dependants = {"guard": 12, "scores": 18, "cell": 36}
    before = now()
    (model / "README.md").write_text("two")
    assert not changed(before)
    (model / "config.json").write_text('{"n_layer": 2}')
    assert changed(before) == dependants
    before = now()
    (model / "model.safetensors").write_bytes(b"12")
    assert changed(before) == dependants
    before = now()
    (model / "model.safetensors").write_bytes(b"34")
    assert changed(before) == dependants
    monkeypatch.setattr(module, "fingerprint", None)  # what did not change is not read again
    assert changed(before) == dependants


def test_a_folder_that_is_no_model_does_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"trigger": "cf", "topic": ""}
    recipe = make_recipe({**GRID, "attack": {"name": "partial", "options": options}})
    before = plan(recipe, "d", "b")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "cf").mkdir()
    (tmp_path / "cf" / "data.json").write_text("{}")
    assert plan(recipe, "d", "b") == before


def test_a_prompt_is_part_of_every_node_and_without_one_no_key_tells_of_it():
    prompt = {"template": "{text} It was", "words": ["terrible", "great"]}
    assert not ids() & ids(prompt=prompt)
    assert not ids(prompt=prompt) & ids(prompt={**prompt, "words": ["bad", "good"]})
    assert not any("prompt" in node.key for node in plan(make_recipe(GRID), "d", "b"))
    told = plan(make_recipe({**GRID, "prompt": prompt}), "d", "b")
    assert {node.kind for node in told if "prompt" in node.key} == {"base"}
