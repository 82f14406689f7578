"""Write the pages that are made from the code, so that they cannot grow stale.

    python docs/generate.py           write them
    python docs/generate.py --check   exit 1 and name those that are not fresh

Pages: ``reference/cli.md`` (every command and option), ``reference/methods.md`` (every registered
method with its options), ``reference/errors.md`` (every error code in the sources), and the code
of ``examples/plugins`` wherever a page shows it between ``<!-- file: ... -->`` and its fence.
``result_tables.py`` beside this file makes the tables of what was measured.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import result_tables  # a neighbour, wherever this was called from

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SOURCES = ROOT / "src" / "peftlab"
MADE = "<!-- made by docs/generate.py; edit the code instead -->\n"
SHOWN = re.compile(r"(<!-- file: (\S+) -->\n```python\n).*?(```\n)", re.DOTALL)
KINDS = {
    "dataset": "Data sets", "attack": "Attacks", "tuner": "Tuners", "defence": "Defences",
    "audit": "Audits",
}  # fmt: skip


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------- commands


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from _commands(child, f"{path} {name}")


def _default(param: Any) -> str:
    if param.required:
        return "required"
    if param.default is None or param.default is False or param.default in ("", (), []):
        return ""
    return f"`{param.default}`"


def _parameters(command: Any) -> str:
    rows: list[tuple[object, ...]] = []
    for param in command.params:
        is_option = param.param_type_name == "option"
        names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
        rows.append((names if is_option else f"`{(param.name or '').upper()}`", _default(param),
                     getattr(param, "help", "") or ""))  # fmt: skip
    return _table(("argument", "default", "meaning"), rows)


def cli_page() -> str:
    """Return the page with every command."""
    from typer.main import get_command

    from peftlab.apps.cli.main import app

    root = get_command(app)
    parts = [
        MADE,
        "# Command line\n",
        "Results go to stdout, talk to stderr. `peftlab --debug COMMAND ...` shows stack traces.\n",
        _table(
            ("exit code", "meaning"),
            [(0, "fine, or clean"), (1, "a finding at or above the gate (audit)"),
             (2, "usage or configuration"), (3, "input rejected"),
             (4, "resource limit"), (5, "the work failed, or an error of ours"),
             (130, "interrupted; the same command goes on")],
        ),
    ]  # fmt: skip
    for path, command in _commands(root, "peftlab"):
        parts += [f"## {path}\n", inspect.cleandoc(command.help or "") + "\n", _parameters(command)]
    return "\n".join(parts)


# ---------------------------------------------------------------------- methods


def _bounds(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{word} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for word, value in row["bounds"].items()
    )


def methods_page() -> str:
    """Return the page with every method that ships with peftlab."""
    from peftlab.core import registry
    from peftlab.core.options import option_table

    parts = [MADE, "# Methods\n", "As `peftlab describe NAME` shows them.\n"]
    for kind, title in KINDS.items():
        parts.append(f"## {title}\n")
        for entry in registry.entries(kind):
            if not entry.cls.__module__.startswith("peftlab."):
                continue
            idea = inspect.getdoc(sys.modules[entry.cls.__module__]) or entry.summary
            facts = f"Source: {entry.source}. Cost: {entry.cost}."
            licence = f" Licence: {entry.licence}." if entry.licence else ""
            rows: list[tuple[object, ...]] = [
                (f"`{row['name']}`", f"`{row['default']!r}`", _bounds(row), row["help"],
                 row["source"])
                for row in option_table(entry.options)
            ]  # fmt: skip
            parts += [
                f"### {entry.name} ({kind})\n",
                f"```text\n{idea.strip()}\n```\n",
                f"{facts}{licence}\n",
                _table(("option", "default", "bounds", "meaning", "source"), rows),
            ]
    return "\n".join(parts)


# ---------------------------------------------------------------------- errors


def _words(node: ast.expr | None) -> str:
    """Return the text of a literal; what is filled in at run time shows as ``...``."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) if isinstance(part, ast.Constant) else "..."
                       for part in node.values)  # fmt: skip
    if isinstance(node, ast.BinOp):
        return _words(node.left) + _words(node.right)
    if isinstance(node, ast.IfExp):
        return f"{_words(node.body)} / {_words(node.orelse)}"
    return "..." if node is not None else ""


def error_codes() -> dict[str, list[tuple[str, str, str, str]]]:
    """Return code -> (class, message, fix, file) of every place in the sources that raises it."""
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            given = {word.arg: word.value for word in node.keywords}
            code = given.get("code")
            if not (isinstance(code, ast.Constant) and isinstance(code.value, str)):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            where = path.relative_to(SOURCES).as_posix()
            message = _words(node.args[0] if node.args else given.get("what"))
            found.setdefault(code.value, []).append(
                (name, message, _words(given.get("fix")), where)
            )
    return found


def errors_page() -> str:
    """Return the page with every error code."""
    from peftlab.core import errors

    exits = {name: cls.exit_code for name, cls in vars(errors).items()
             if inspect.isclass(cls) and issubclass(cls, errors.PeftlabError)}  # fmt: skip
    rows: list[tuple[object, ...]] = []
    for code, places in sorted(error_codes().items()):
        for name, message, fix, where in sorted(set(places)):
            rows.append((f"`{code}`", name, exits.get(name, ""), message, fix, f"`{where}`"))
    intro = (
        "Every error says what is wrong, what was got, what is allowed and how to mend it, and\n"
        "carries a stable code; `...` stands for what is filled in at run time. Three more codes\n"
        "stand only in the `failures` of a `results.json`: `RUN-ERROR` (an error without a code),\n"
        "`RUN-LOST` (its workers died) and `RUN-BLOCKED` (something that it needs failed).\n"
        "`INTERNAL` is an error of ours: please report what `--debug` prints.\n"
    )
    table = _table(("code", "class", "exit", "what", "to mend it", "raised in"), rows)
    return f"{MADE}\n# Errors\n\n{intro}\n{table}"


# ---------------------------------------------------------------------- writing


def with_files(text: str) -> str:
    """Return a page with the shown files as they are now."""

    def fill(match: re.Match[str]) -> str:
        return match[1] + (ROOT / match[2]).read_text(encoding="utf-8") + match[3]

    return SHOWN.sub(fill, text)


def pages() -> dict[Path, str]:
    """Return what every generated file should hold."""
    wanted = {
        DOCS / "reference" / "cli.md": cli_page(),
        DOCS / "reference" / "methods.md": methods_page(),
        DOCS / "reference" / "errors.md": errors_page(),
    }
    for path in (ROOT / "CONTRIBUTING.md", *sorted((DOCS / "how-to").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        if SHOWN.search(text):
            wanted[path] = with_files(text)
    results = DOCS / "results.md"
    wanted[results] = result_tables.with_tables(results.read_text(encoding="utf-8"))
    for name in result_tables.CELLS:
        wanted[DOCS / "measured" / f"{name}.md"] = result_tables.cells_page(name)
    return wanted


def stale() -> list[Path]:
    """Return the files that are not as the code says."""
    return [path for path, text in pages().items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text]  # fmt: skip


def main() -> None:
    """Write, or check."""
    if "--check" in sys.argv[1:]:
        found = stale()
        for path in found:
            print(f"not fresh: {path.relative_to(ROOT)}; run `make docs`")
        sys.exit(1 if found else 0)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
