"""peftlab audit on the command line: verdict on stdout, talk on stderr, files only when asked."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.cli_tools import cli

NAME = "base_model.model.bert.encoder.layer.{}.attention.self.query.lora_{}.weight"
HOOK = {"auto_mapping": {"parent_library": "os", "base_model_class": "x"}}


def make_adapter(folder, **config):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        tensors[NAME.format(layer, "A")] = rng.normal(size=(4, 32)).astype(np.float32)
        tensors[NAME.format(layer, "B")] = 0.01 * rng.normal(size=(32, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"],
              "base_model_name_or_path": "org/base", **config}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(values))
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: org/base\n---\n# Bot\n")
    return folder


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_adapter(tmp_path / "bot")


def test_a_clean_adapter_prints_a_verdict_and_writes_nothing(adapter, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = cli("audit", "bot")
    assert done.code == 0, done.err
    assert done.out.startswith(("CLEAN: ", "PASSED: "))
    assert "not checked:" in done.out
    for name in ("structure", "spectra", "card"):
        assert sum(line.startswith(f"{name}: ") for line in done.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_json_is_the_contract_and_the_same_again(adapter):
    made = [cli("audit", "bot", "--json", "--seed", "3").json() for _ in range(2)]
    assert {"schema", "name", "run", "versions", "artefact", "against", "policy", "verdict",
            "checks", "not_checked"} <= set(made[0])  # fmt: skip
    assert made[0]["verdict"]["exit_code"] == 0
    for results in made:
        del results["run"]
    assert json.dumps(made[0]) == json.dumps(made[1])


def test_a_finding_fails_and_its_report_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_adapter(tmp_path / "bad", **HOOK)
    done = cli("audit", "bad", "--format", "json,sarif", "--out", "out")
    assert done.code == 1, done.err
    assert "HIGH" in done.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "audit.json", "audit.sarif",
    ]  # fmt: skip
    results = json.loads((tmp_path / "out" / "audit.json").read_text())
    log = json.loads((tmp_path / "out" / "audit.sarif").read_text())
    assert results["verdict"]["exit_code"] == log["runs"][0]["invocations"][0]["exitCode"] == 1
    assert cli("audit", "bad", "--fail-on", "never").code == 0


def test_the_gate_rejects_and_still_writes_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_adapter(tmp_path / "bad")
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    done = cli("audit", "bad", "--out", "out", "--json")
    assert done.code == 3, done.err
    assert done.json()["verdict"]["status"] == "rejected"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.html", "audit.json", "audit.sarif",
    }  # fmt: skip
    assert "Rejected" in (tmp_path / "out" / "report.html").read_text()


def test_a_policy_decides(adapter, tmp_path):
    policy = tmp_path / "gate.toml"
    policy.write_text('allowed_licences = ["apache-2.0"]')
    done = cli("audit", "bot", "--policy", "gate.toml")
    assert (done.code, "POLICY-LICENCE" in done.out) == (1, True)
    policy.write_text(
        'allowed_licences = ["apache-2.0"]\n'
        '[severity]\nPOLICY-LICENCE = { level = "ignore", reason = "signed an agreement" }'
    )
    done = cli("audit", "bot", "--policy", "gate.toml")
    assert (done.code, "signed an agreement" in done.out) == (0, True)


def test_the_policy_of_the_docs_is_one(adapter, tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "audit-in-ci.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "gate.toml").write_text(text)
    done = cli("audit", "bot", "--policy", "gate.toml", "--json")
    assert done.code == 1, done.err
    assert {rule for rule in done.json()["rules"] if rule.startswith("POLICY-")} == {
        "POLICY-REQUIRED"  # gate-load needs --against
    }


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--format", "pdf"), "CLI-OPTION"),
        (("--fail-on", "hihg"), "CLI-OPTION"),
        (("-o", "alpha=0.1"), "CLI-OPTION"),
        (("-o", "spectra"), "CLI-OPTION"),
        (("-o", "spectre.top=1"), "REGISTRY-NAME"),
        (("-o", "card.nothing=1"), "OPTION-UNKNOWN"),
        (("--policy", "none.toml"), "POLICY-READ"),
        (("--bank", "none"), "AUDIT-BANK"),
        (("--against", "builtin:none"), "BASE-BUILTIN"),
        (("--out", "bot/reports"), "PATH-WRITE"),
        (("--out", "bot"), "PATH-WRITE"),
    ],
)
def test_mistakes_are_told_with_a_code(adapter, arguments, code):
    before = sorted(adapter.rglob("*"))
    done = cli("audit", "bot", *arguments)
    assert (done.code, done.out) == (2, ""), done.err
    assert f"[{code}]" in done.err
    assert "to mend it:" in done.err
    assert sorted(adapter.rglob("*")) == before


def test_no_such_artefact(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("audit", "./not/there")
    assert (done.code, "REJECTED" in done.out) == (3, True)


def test_ctrl_c(adapter, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("peftlab.engine.audit.audit", interrupted)
    assert cli("audit", "bot").code == 130


def test_a_hostile_name_cannot_steer_the_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_adapter(tmp_path / "bad", **{"\x1b[2Jevil\u202e": "\x1b]0;x\x07"})
    (folder / "adapter_config.json").touch()
    done = cli("audit", "bad")
    assert done.code in {0, 1, 3}
    for text in (done.out, done.err):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_the_plain_way_imports_nothing_heavy(adapter, tmp_path):
    code = (
        "import sys\n"
        "sys.argv = ['peftlab', 'audit', 'bot']\n"
        "from peftlab.apps.cli import audit\n"
        "from peftlab.apps.cli.main import run\n"
        "early = {'numpy', 'torch'} & set(sys.modules)  # they would miss how many threads to use\n"
        "try:\n"
        "    run()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'matplotlib', 'jinja2', 'transformers', 'peft', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy | early}' if heavy | early else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          text=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
