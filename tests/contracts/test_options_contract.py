"""Every registered method: options are strict, bounded and documented, metadata is complete."""

import json
import re

import pytest
from contract_tools import enrolled, option_cases
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core import registry
from peftlab.core.contracts import GuardOptions, PoisonOptions, stage_of
from peftlab.core.errors import ConfigError
from peftlab.core.options import Options, option_table, parse_options

every = pytest.mark.parametrize("entry", enrolled())
PARENTS = {"attack": PoisonOptions, "defence": GuardOptions}


def test_every_kind_has_methods():
    assert {entry.kind for entry in registry.entries()} == set(registry.FOLDERS)


@every
def test_metadata_is_complete(entry):
    assert re.fullmatch(r"[a-z][a-z0-9-]*", entry.name)
    assert entry.summary.endswith(".")
    assert len(entry.summary) <= 100
    assert entry.source.strip()
    assert entry.cost.strip()
    assert bool(entry.licence.strip()) == (entry.kind == "dataset")
    guards = entry.kind != "defence" or stage_of(entry.cls) == "input"
    assert issubclass(entry.options, PARENTS.get(entry.kind, Options) if guards else Options)


@every
def test_every_option_says_what_it_is_and_where_its_default_is_from(entry):
    for row in option_table(entry.options):
        assert row["help"].strip(), row
        assert row["source"].strip(), row
        assert row["type"] != "?", row


@every
def test_options_survive_json(entry):
    method = entry.build()
    plain = json.loads(json.dumps(method.options.model_dump(mode="json"), allow_nan=False))
    again = entry.build(**plain).options
    assert again == method.options
    assert again.digest() == method.options.digest()
    with pytest.raises(Exception, match="frozen"):
        method.options.anything = 1


@every
def test_unknown_option_is_refused_with_a_suggestion(entry):
    names = list(entry.options.model_fields)
    wrong = f"{names[0]}x" if names else "anything"
    with pytest.raises(ConfigError) as caught:
        entry.build(**{wrong: 1})
    assert caught.value.code == "OPTION-UNKNOWN"
    assert all(name in caught.value.fix for name in names)
    assert not names or f"did you mean {names[0]}" in caught.value.fix


@every
def test_every_bound_holds(entry):
    for name, value, allowed in option_cases(entry.options):
        if allowed:
            assert entry.build(**{name: value}) is not None
            continue
        with pytest.raises(ConfigError) as caught:  # noqa: PT012  the value belongs in the message
            parse_options(entry.options, {name: value}, f"{entry.kind} {entry.name}")
            pytest.fail(f"{name}={value!r} was accepted")
        assert caught.value.code == "OPTION-VALUE"
        assert name in caught.value.what


@every
@given(
    values=st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(), max_size=3)
)
def test_any_mistake_is_a_config_error(entry, values):
    try:
        parse_options(entry.options, values, f"{entry.kind} {entry.name}")
    except ConfigError as error:
        code = error.code
    else:
        code = "fine" if set(values) <= set(entry.options.model_fields) else "missed"
    assert code in {"fine", "OPTION-UNKNOWN", "OPTION-VALUE"}
