"""The GitHub Action and the pre-commit hook: they run, pass exit codes on, and inject nothing."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.cli_tools import cli

from peftlab.apps.staged import split

ROOT = Path(__file__).parents[3]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
FAKE = """#!/bin/sh
printf '%s\\n' "$@" > "$RUNNER_TEMP/arguments"
echo '::add-mask::x'
exit {code}
"""


def step(name):
    return next(each for each in ACTION["runs"]["steps"] if each["name"] == name)


def test_the_action_injects_no_input_into_a_script():
    for each in ACTION["runs"]["steps"]:
        assert "${{" not in each["run"]
        assert re.fullmatch(r"[^@]+@[0-9a-f]{40}", each.get("uses", f"x@{'a' * 40}"))
    used = re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text())
    assert set(used) == set(ACTION["inputs"])


def test_the_action_has_the_options_of_the_command():
    script = step("Audit")["run"]
    help_text = cli("audit", "--help").out
    for flag in re.findall(r"--[\w-]+", script):
        assert flag in help_text


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_action_passes_the_exit_code_on(tmp_path, code):
    program = tmp_path / "peftlab" / "bin" / "peftlab"
    program.parent.mkdir(parents=True)
    program.write_text(FAKE.format(code=code))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (program.parent / "python").symlink_to(sys.executable)
    hostile = "-x $(touch hacked); `touch hacked`"
    values = dict.fromkeys(step("Audit")["env"], "")
    environment = {
        **os.environ, **values, "ARTEFACT": hostile, "POLICY": "a b.toml", "OFFLINE": "true",
        "OUT": "out", "RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "outputs"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", step("Audit")["run"]], cwd=tmp_path, env=environment, timeout=60,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "audit", "--out", "out", "--policy", "a b.toml", "--offline", "--", hostile,
    ]  # fmt: skip
    assert not (tmp_path / "hacked").exists()
    assert f"exit-code={code}\n" in (tmp_path / "outputs").read_text()
    first, *inside, last = done.stdout.splitlines()
    token = first.removeprefix("::stop-commands::")
    assert re.fullmatch(r"[0-9a-f]{32}", token)
    assert (inside, last) == (["::add-mask::x"], f"::{token}::")


def test_hooks_run_a_module_that_is_there():
    for hook in HOOKS:
        assert hook["entry"] == "python -m peftlab.apps.staged"
        pattern = re.compile(hook["files"])
        for name in ("adapter_config.json", "a/adapter_model.bin", "a/b/unet.safetensors"):
            assert pattern.search(name)
        assert not pattern.search("src/my_adapter_config.json")


def test_folders_of_staged_files():
    files = ["a/adapter_config.json", "a/adapter_model.safetensors", "x.safetensors"]
    assert split(["--fail-on", "low", *files]) == (["--fail-on", "low"], ["a", "."])
    assert split([]) == ([], [])


def test_the_hook_ends_with_the_worst_code(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{")
    done = subprocess.run(
        [sys.executable, "-m", "peftlab.apps.staged", "one/adapter_config.json",
         "two/adapter_config.json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("REJECTED: ") == 2
    assert subprocess.run(
        [sys.executable, "-m", "peftlab.apps.staged"], cwd=tmp_path, timeout=300, check=False
    ).returncode == 0  # fmt: skip
