"""What the steps refuse before any work."""

import pytest

from peftlab.apps.cli import steps
from peftlab.core.errors import ConfigError


def test_options_without_an_attack_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="CLI-OPTION"):
        steps.evaluate(
            tmp_path, "reviews", "", ["target=1"], 0, allow_poisoned=False, as_json=False
        )


def test_options_without_a_defence_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="CLI-OPTION"):
        steps.tune(
            tmp_path / "out", "builtin:encoder", "reviews", "lora", [], "", ["share=0.5"], 0,
            allow_poisoned=False, overwrite=False, as_json=False,
        )  # fmt: skip


@pytest.mark.parametrize("place", ["base", "."])
def test_the_base_is_never_overwritten_by_what_refers_to_it(tmp_path, place):
    base = tmp_path / "base"
    base.mkdir()
    calls = (
        lambda: steps.tune(
            tmp_path / place, str(base), "reviews", "lora", [], "", [], 0,
            allow_poisoned=False, overwrite=True, as_json=False,
        ),
        lambda: steps.guard_fit(
            tmp_path / place, str(base), "reviews", "psim", [], 0,
            allow_poisoned=False, overwrite=True, as_json=False,
        ),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ConfigError, match="PATH-WRITE"):
            call()
    assert base.is_dir()
