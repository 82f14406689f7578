"""The house files hold what they promise: arrows, pins, one test command, a licence."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_import_arrows_point_down():
    tool = Path(sys.executable).parent / "lint-imports"
    if not tool.exists():
        pytest.skip("import-linter is not installed: pip install '.[check]'")
    done = subprocess.run(
        [tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("extra", ["", "ray", "test", "check", "docs"])
def test_everything_that_is_installed_is_pinned(extra):
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    pinned = {name_of(name) for name in PINS}
    assert {name_of(requirement) for requirement in wanted} <= pinned
    assert not any("+" in version for version in PINS.values())


def test_continuous_integration_runs_the_one_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert "make --no-print-directory test" in script
    assert "pip " not in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_licence_is_the_one_that_is_declared():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
