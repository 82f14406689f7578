"""A method of another package is one file: it appears, is described, and runs, with no edit here.

The five files are those that the documentation shows (docs/examples/plugins). They are imported
into this process by ``contract_tools`` for the contract tests; here another package brings them,
in a process of its own.
"""

import json
import shutil
import subprocess
import sys

import pytest
from contract_tools import PLUGINS, plugin_entries

from peftlab.core import registry
from peftlab.core.errors import ConfigError

KINDS = {"attack", "tuner", "defence", "dataset", "audit"}
RECIPE = """
name = "plugins"
base = "{base}"
data = "{dataset}"
seeds = [0]
[attacker]
epochs = 1
[limits]
max_train = 64
max_dev = 60
max_test = 40
[[attack]]
name = "{attack}"
[[tuner]]
name = "{tuner}"
[[defence]]
name = "{defence}"
"""


def test_one_short_file_for_each_kind():
    assert {entry.kind for entry in plugin_entries()} == KINDS
    files = sorted(PLUGINS.glob("*.py"))
    assert len(files) == len(KINDS)
    for path in files:
        lines = path.read_text().splitlines()
        assert len(lines) <= 120
        assert sum("peftlab.core.registry" in line for line in lines) == 1


def test_importing_is_registering_and_ours_are_not_touched():
    ours = {(entry.kind, entry.name) for entry in registry.entries()}
    assert not ours & {(entry.kind, entry.name) for entry in plugin_entries()}


def test_two_methods_of_one_name_are_refused(monkeypatch):
    (entry,) = (entry for entry in plugin_entries() if entry.kind == "tuner")
    monkeypatch.setitem(registry._entries, ("tuner", "lora"), registry.get("tuner", "lora"))
    with pytest.raises(ConfigError) as caught:
        registry.tuner("lora", options=entry.options, source="ours", cost="none")(entry.cls)
    assert caught.value.code == "REGISTRY-TWICE"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a folder with an installed package that names its modules as entry points."""
    place = tmp_path_factory.mktemp("site")
    package = place / "lab_methods"
    package.mkdir()
    (package / "__init__.py").touch()
    for path in PLUGINS.glob("*.py"):
        shutil.copy(path, package)
    info = place / "lab_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-methods\nVersion: 1.0\n")
    points = [f"{path.stem} = lab_methods.{path.stem}" for path in sorted(PLUGINS.glob("*.py"))]
    (info / "entry_points.txt").write_text(
        "\n".join(["[peftlab]", *points, "broken = lab_methods.not_there", ""])
    )
    return place


def _peftlab(site, *arguments):
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv[0] = 'peftlab'; "
        "from peftlab.apps.cli.main import run; run()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_command_line_lists_and_describes_them(site):
    listed = _peftlab(site, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    items = json.loads(listed.stdout)["items"]
    names = {(item["kind"], item["name"]) for item in items}
    for entry in plugin_entries():
        assert (entry.kind, entry.name) in names
    (entry,) = (entry for entry in plugin_entries() if entry.kind == "attack")
    described = _peftlab(site, "describe", entry.name, "--json")
    assert described.returncode == 0, described.stderr
    for option in entry.options.model_fields:
        assert option in described.stdout


def test_a_recipe_runs_with_nothing_but_them(site, tiny, tmp_path):
    names = {entry.kind: entry.name for entry in plugin_entries()}
    recipe = tmp_path / "plugins.toml"
    recipe.write_text(RECIPE.format(base=tiny("bert"), **names))
    done = _peftlab(site, "bench", "run", str(recipe), "--out", str(tmp_path / "run"), "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["failures"] == []
    for cell in results["cells"]:
        assert (cell["attack"], cell["tuner"], cell["defence"]) == (
            names["attack"], names["tuner"], names["defence"],
        )  # fmt: skip
        assert cell["metrics"]["auroc"] is not None
