"""The pages do what they say: blocks run, links resolve, generated pages are fresh.

Every python block of a page runs, and every bash block below ``<!-- runnable -->``, in order and in
one folder, on a tiny base and few texts.
"""

import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))

from peftlab.apps.cli.main import app
from peftlab.data.reviews import Reviews
from peftlab.engine.recipe import Recipe, make_recipe
from peftlab.engine.window.recipe import WindowRecipe
from tiny_models import make_tiny_causal

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<code>.*?)```\n", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SMALL = {"n_train": 96, "n_dev": 120, "n_test": 60, "n_proxy": 20}


def blocks(page):
    """Return (language, code) of the blocks of a page that run."""
    found = []
    for block in BLOCK.finditer("\n" + page.read_text()):
        language, before = block["language"], block["before"]
        if language == "python" and not before.startswith("<!-- file:"):
            found.append((language, block["code"]))
        if language == "bash" and before == "<!-- runnable -->":
            found.append((language, block["code"]))
    return found


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def small_world(tmp_path, monkeypatch, tiny):
    """Work in an empty folder, with tiny models for the built-in ones and few reviews."""
    (tmp_path / "builtin").mkdir()
    (tmp_path / "builtin" / "encoder").symlink_to(tiny("bert"))
    make_tiny_causal("llama", tmp_path / "builtin" / "lm")
    monkeypatch.setattr("peftlab.models.load.BUILTIN", tmp_path / "builtin")
    load = Reviews.load

    def few(self, reference):
        return load(Reviews(self.options.model_copy(update=SMALL)), reference)

    monkeypatch.setattr(Reviews, "load", few)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "texts.txt").write_text("a quiet joy\nmn a waste of time\n")


def run_shell(code):
    """Run a bash block; ``peftlab`` lines in this process, which knows the small world."""
    other = []
    for line in [*code.splitlines(), "peftlab"]:
        if not line.startswith("peftlab"):
            other.append(line)
            continue
        if other:
            subprocess.run(["bash", "-euc", "\n".join(other)], check=True, timeout=30)
            other = []
        words = shlex.split(line, comments=True)[1:]
        if words:
            done = CliRunner().invoke(app, words, catch_exceptions=False)
            assert done.exit_code == 0, (line, done.output)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
@pytest.mark.usefixtures("small_world")
def test_blocks_run(page):
    known = {}  # what the earlier blocks of the page have named
    for number, (language, code) in enumerate(blocks(page)):
        if language == "bash":
            run_shell(code)
        else:
            Path(f"block{number}.py").write_text(code)
            known = runpy.run_path(f"block{number}.py", init_globals=known)


def test_something_runs():
    assert sum(len(blocks(page)) for page in PAGES) >= 15


def test_recipe_in_the_docs_is_a_recipe():
    page = ROOT / "docs/how-to/run-a-grid.md"
    code = next(b["code"] for b in BLOCK.finditer(page.read_text()) if b["language"] == "toml")
    recipe = make_recipe(tomllib.loads(code))
    assert [choice.label for choice in recipe.tuner] == ["lora-4", "lora-16"]


def test_every_key_of_a_recipe_is_listed():
    page = (ROOT / "docs/reference/recipes.md").read_text()
    listed = set(re.findall(r"`\[?(\w+)\]?`", page.partition("## What ships")[0]))
    assert set(Recipe.model_fields) <= listed


def test_every_key_of_a_window_recipe_is_listed():
    page = (ROOT / "docs/reference/recipes.md").read_text()
    listed = set(re.findall(r"`\[?(\w+)\]?`", page.partition("## Window recipes")[2]))
    assert set(WindowRecipe.model_fields) <= listed


def test_every_shipped_recipe_is_listed():
    shipped = {path.stem for path in (ROOT / "recipes").glob("*.toml")}
    page = (ROOT / "docs/reference/recipes.md").read_text()
    table = page.partition("## What ships")[2].partition("## Changing")[0]
    assert set(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) == shipped


def test_generated_pages_are_fresh():
    place = ROOT / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", place)
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert [name_of(path) for path in generate.stale()] == [], "run `make docs`"


def anchors(page):
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        there = page if not target else page.parent / target
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link
