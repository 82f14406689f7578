"""Where an adapter says it comes from: card, config and metadata, and what they give away.

Everything here is a claim of the publisher. Nothing is fetched to verify it: a base model that is
named is not looked up, and a licence that is named is not read.

Looked at: ``README.md`` (its front matter by a parser of ``key: value`` lines, never by a YAML
library), the config, and the metadata of the tensor files. Our own mark of poisoned models is the
business of the gate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from peftlab.core.contracts import AuditContext, AuditResult
from peftlab.core.findings import Finding, Rule, Severity, Table, rule
from peftlab.core.leaks import Leak, hidden_in, homes_in, markup_in, masked, secrets_in
from peftlab.core.options import Options, option
from peftlab.core.printable import printable
from peftlab.core.registry import audit
from peftlab.io.artefact import Artefact

SECRET = rule(
    "CARD-SECRET", Severity.MEDIUM, "a key or password stands in a published text",
    why="whoever reads the file can use it", fix="revoke it now, then publish a clean file",
)  # fmt: skip
HOME = rule(
    "CARD-HOME", Severity.LOW, "a path names somebody's home folder",
    why="it gives a name away and leads nowhere on another machine",
    fix="name the published base model instead",
)  # fmt: skip
HIDDEN = rule(
    "CARD-HIDDEN", Severity.MEDIUM, "characters that do not show stand in a text",
    why="people read another text than programs do", fix="look at the text in a hex viewer",
)  # fmt: skip
MARKUP = rule(
    "CARD-HTML", Severity.INFO, "the card has HTML that would run or load something",
    why="a page that shows the card carelessly would run it", fix="show cards as plain text",
)  # fmt: skip
NONE = rule(
    "CARD-NONE", Severity.LOW, "there is no card",
    why="nobody says what it was trained on, for what, or who may use it",
    fix="ask for a README.md with licence, base model and data",
)  # fmt: skip
LICENCE = rule(
    "CARD-LICENCE", Severity.LOW, "no known licence is named",
    why="without a licence nobody may use it", fix="ask the publisher to name one",
)  # fmt: skip
BASE = rule(
    "CARD-BASE", Severity.LOW, "the base model is not named, or two different ones are",
    why="an adapter on another base does something nobody has tested",
    fix="ask which base, at which commit, it was trained on",
)  # fmt: skip
BASE_LICENCE = rule(
    "CARD-BASE-LICENCE", Severity.INFO, "the base's licence may bind the adapter too",
    why="some licences go over to what is made from a model",
    fix="read the base's licence before you use the adapter",
)  # fmt: skip
DATA = rule(
    "CARD-DATA", Severity.INFO, "the training data are not named",
    why="rights and poison of the data stay unknown", fix="ask what it was trained on",
)  # fmt: skip
NOTES = rule(
    "CARD-NOTES", Severity.INFO, "metadata tell about the training",
    why="folder names and captions of training pictures can be private",
    fix="as a publisher: strip the metadata; as a reader: compare with the card",
)  # fmt: skip

# identifiers of the Hugging Face hub's list of licences
LICENCES = frozenset({
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "gpl", "gpl-2.0", "gpl-3.0",
    "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "cc0-1.0", "cc-by-2.0", "cc-by-3.0",
    "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "openrail", "openrail++",
    "creativeml-openrail-m", "bigscience-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma",
    "unlicense", "wtfpl", "isc", "artistic-2.0", "afl-3.0", "ecl-2.0", "epl-2.0", "eupl-1.1",
    "eupl-1.2", "osl-3.0", "ms-pl", "zlib", "odbl", "odc-by", "pddl", "cdla-permissive-2.0",
})  # fmt: skip
# what families are known to be under, by the start of their hub names; a hint, not advice
BASE_LICENCES: tuple[tuple[str, str], ...] = (
    ("meta-llama/", "a Llama community licence"),
    ("google/gemma", "the Gemma terms"),
    ("black-forest-labs/flux.1-dev", "a non-commercial licence"),
    ("runwayml/stable-diffusion", "CreativeML OpenRAIL-M"),
    ("compvis/stable-diffusion", "CreativeML OpenRAIL-M"),
    ("stabilityai/", "a Stability AI or OpenRAIL licence"),
    ("bigscience/bloom", "a BigScience RAIL licence"),
    ("bigcode/", "a BigCode OpenRAIL licence"),
    ("facebook/opt", "the OPT licence (non-commercial)"),
)
BASE_NOTES = ("ss_base_model_version", "ss_sd_model_name", "modelspec.architecture")
LICENCE_NOTES = ("modelspec.license",)
TELLING = re.compile(r"ss_(?:tag_frequency|dataset_dirs|datasets|reg_dataset_dirs|output_name|"
                     r"training_comment|sd_model_name|vae_name)")  # fmt: skip
PLACEHOLDER = "[More Information Needed]"
FRONT_LINES = 200
LONGEST = 200  # characters of a value in the report


class CardOptions(Options):
    """Options of the look at card and metadata."""

    readme_bytes: int = option(
        262_144, "bytes of README.md that are read", source="ours: that of JSON at the gate",
        ge=1, le=16_777_216,
    )  # fmt: skip
    listed: int = option(
        10, "most findings of one kind in one text", source="ours", ge=1, le=1000
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """What the texts of an artefact claim.

    Attributes:
        front: front matter of the README; lists as they stand.
        readme: its text, empty if there is none.
        texts: everything that is looked through, by where it stands.
    """

    front: Mapping[str, list[str]]
    readme: str
    texts: Mapping[str, str]


@audit("card", options=CardOptions, source="ours", cost="reads README, config and metadata")
class CardAudit:
    """Collect what the publisher says, and what the texts hide or give away."""

    def __init__(self, options: CardOptions) -> None:
        self.options = options

    def why_not(self, context: AuditContext) -> str:
        """Return an empty string: a missing card is a finding too."""
        del context
        return ""

    def run(self, context: AuditContext) -> AuditResult:
        """Return licence, base, data, and findings about the texts."""
        artefact = context.artefact
        card = _read(artefact, self.options.readme_bytes)
        claims = _claims(artefact, card)
        findings = [*_claimed(card, claims), *_notes(artefact)]
        for where, text in card.texts.items():
            findings += _hygiene(where, text, self.options.listed)
        rows = tuple((key, ", ".join(values)[:LONGEST], source) for key, source, values in claims)
        facts = {key: values for key, _, values in claims}
        return AuditResult(
            tuple(findings),
            {**facts, "card": bool(card.readme)},
            (Table("What the publisher says", ("field", "value", "from"), rows),),
            not_checked=("whether base, licence and data are as claimed: nothing is looked up",),
        )


def _read(artefact: Artefact, most: int) -> Card:
    names = [name for name in artefact.files if name.lower() == "readme.md"]
    texts = {name: _text(artefact, name, most) for name in names}
    readme = texts[names[0]] if names else ""
    for name in ("adapter_config.json", "config.json"):
        if name in artefact.files:
            texts[name] = _text(artefact, name, most)
    for file, notes in artefact.metadata.items():
        texts |= {f"{file}#{key}": f"{key}\n{value[:most]}" for key, value in notes.items()}
    return Card(front_matter(readme), readme, texts)


def _text(artefact: Artefact, name: str, most: int) -> str:
    return bytes(artefact.files[name].view[:most]).decode("utf-8", "replace")


def front_matter(text: str) -> dict[str, list[str]]:
    r"""Return the fields between the two ``---`` lines at the start of a card.

    Only ``key: value``, ``key: [a, b]`` and lists of ``- item`` lines; what is nested deeper is
    left out. No value is evaluated.

    Args:
        text: of README.md.

    Examples:
        >>> front_matter("---\nlicense: mit\ndatasets:\n- imdb\n- \"sst2\"\n---\n# Hello")
        {'license': ['mit'], 'datasets': ['imdb', 'sst2']}
    """
    lines = text.removeprefix("\ufeff").splitlines()[: FRONT_LINES + 1]
    if not lines or lines[0].strip() != "---":
        return {}
    found: dict[str, list[str]] = {}
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return found
        pair = re.fullmatch(r"([A-Za-z][A-Za-z0-9_\-]{0,63})\s*:(?:\s+(.*))?", line)
        if pair:
            key = pair[1]
            found[key] = _values(pair[2] or "")
        elif key and (item := re.fullmatch(r"\s{0,4}-\s+(.*)", line)):
            found[key] += _values(item[1])
    return {}  # never closed: not a front matter


def _values(text: str) -> list[str]:
    inner = re.fullmatch(r"\[(.*)\]\s*", text)
    parts = inner[1].split(",") if inner else [text]
    return [clean for part in parts if (clean := part.strip().strip("\"'").strip())]


Claims = list[tuple[str, str, list[str]]]  # field, where it stands, values


def _claims(artefact: Artefact, card: Card) -> Claims:
    config = "adapter_config.json" if "adapter_config.json" in artefact.files else "config.json"
    found: Claims = []

    def add(field: str, source: str, values: object) -> None:
        given = values if isinstance(values, list) else [values]
        known = [printable(masked(str(x)))[:LONGEST] for x in given if x and x != PLACEHOLDER]
        if known:
            found.append((field, source, known))

    add("licence", "README.md", card.front.get("license"))
    add("licence_name", "README.md", card.front.get("license_name"))
    add("base", "README.md", card.front.get("base_model"))
    add("base_in_config", config, artefact.config.get("base_model_name_or_path")
        or artefact.config.get("_name_or_path"))  # fmt: skip
    add("base_commit", config, artefact.config.get("revision"))
    add("data", "README.md", card.front.get("datasets"))
    add("library", "README.md", card.front.get("library_name"))
    add("languages", "README.md", card.front.get("language"))
    add("peft_version", config, artefact.config.get("peft_version"))
    add("transformers_version", config, artefact.config.get("transformers_version"))
    for file, notes in artefact.metadata.items():
        add("licence_in_metadata", file, [notes[key] for key in LICENCE_NOTES if key in notes])
        add("base_in_metadata", file, [notes[key] for key in BASE_NOTES if key in notes])
        add("format", file, notes.get("format"))
    return found


def _claimed(card: Card, claims: Claims) -> Iterator[Finding]:
    """Yield what the publisher does not say."""
    said: dict[str, list[str]] = {}
    for field, _, values in claims:
        said.setdefault(field, []).extend(values)
    if not card.readme:
        yield NONE.found("README.md")
    licences = said.get("licence", []) + said.get("licence_in_metadata", [])
    if card.readme and not licences:
        yield LICENCE.found("README.md", "none named")
    elif licences and not {each.lower() for each in licences} & LICENCES:
        words = f"{licences[0]}, none of the hub's list"
        yield LICENCE.found("README.md", words, severity=Severity.INFO)
    yield from _bases(said, licences)
    if card.readme and "data" not in said:
        yield DATA.found("README.md", "no datasets in the front matter")


def _bases(said: Mapping[str, list[str]], licences: list[str]) -> Iterator[Finding]:
    card, config = said.get("base", []), said.get("base_in_config", [])
    if not card and not config and not said.get("base_in_metadata"):
        yield BASE.found("config", "no base named")
    published = [name for name in config if is_hub_name(name)]
    if card and published and not set(card) & set(published):
        yield BASE.found("README.md", f"card: {card[0]}, config: {published[0]}")
    elif config and not published and not any(map(is_hub_name, card)):
        words = f"{config[0]}: a folder of its maker, no published model"
        yield BASE.found("config", words, severity=Severity.INFO)
    for name in dict.fromkeys([*card, *published]):
        for start, terms in BASE_LICENCES:
            if name.lower().startswith(start):
                words = (
                    f"{name} is known to be under {terms}; the card says {licences or 'nothing'}"
                )
                yield BASE_LICENCE.found("README.md", words)


def is_hub_name(name: str) -> bool:
    """Return whether a name can be a model of the hub: ``owner/model`` or a short one.

    Examples:
        >>> is_hub_name("google/gemma-2b"), is_hub_name("gpt2"), is_hub_name("./out/base")
        (True, True, False)
    """
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.\-]{0,95}(?:/[A-Za-z0-9][\w.\-]{0,95})?", name))


def _notes(artefact: Artefact) -> Iterator[Finding]:
    for file, notes in artefact.metadata.items():
        telling = sorted(filter(TELLING.fullmatch, notes))
        if telling:
            yield NOTES.found(file, ", ".join(telling))


def _hygiene(where: str, text: str, most: int) -> Iterator[Finding]:
    """Yield what one text gives away or hides."""
    for made, leaks in (
        (SECRET, secrets_in(text)),
        (HOME, homes_in(text)),
        (HIDDEN, hidden_in(text)),
        (MARKUP, markup_in(text) if where.lower() == "readme.md" else iter(())),
    ):
        for leak in islice(leaks, most):
            yield made.found(where, f"{leak.kind}, {leak.masked}", severity=_milder(made, leak))


def _milder(made: Rule, leak: Leak) -> Severity:
    """Return the severity of a leak: what pages copied from the web often have is low."""
    common = made is HIDDEN and leak.kind.startswith("invisible")
    return Severity.LOW if common else made.severity
