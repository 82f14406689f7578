"""Make a small model from text: tokenizer, warm start, training, a stock folder with a card.

The run can be killed at any time; the same call goes on from the last checkpoint. Every batch and
mask is a function of (seed, step), so on a CPU the loss curve is the one of an unbroken run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftlab.core.errors import ConfigError, RunFailed
from peftlab.core.seeds import derive
from peftlab.io.files import check_target, new_folder, sha256_file, write_atomic
from peftlab.models.load import fingerprint, quiet, resolve
from peftlab.models.pretraining.card import CardFacts, model_card
from peftlab.models.pretraining.causal import Causal
from peftlab.models.pretraining.checkpoint import newest_checkpoint
from peftlab.models.pretraining.corpus import encode, text_files
from peftlab.models.pretraining.masked import Masked
from peftlab.models.pretraining.objective import Objective
from peftlab.models.pretraining.options import FREE, PretrainOptions
from peftlab.models.pretraining.run import Run, examine, train
from peftlab.models.pretraining.team import Team, join_team
from peftlab.models.pretraining.windows import Windows
from peftlab.nn.text import has_fast_bf16

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OBJECTIVES = ("masked", "replaced", "causal")


def objective_named(name: str) -> Objective:
    """Return an objective.

    Raises:
        ConfigError: ``PRETRAIN-OBJECTIVE``.
    """
    if name == "masked":
        return Masked()
    if name == "causal":
        return Causal()
    if name == "replaced":
        from peftlab.models.pretraining.replaced import Replaced

        return Replaced()
    raise ConfigError(
        f"there is no objective {name!r}", code="PRETRAIN-OBJECTIVE",
        allowed=", ".join(OBJECTIVES), fix="choose one of these",
    )  # fmt: skip


def _round_to_half(model: Any) -> None:
    """Give the weights the values that fp16 can hold, so that what is measured is what ships."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter.half().float())
            if not bool(parameter.isfinite().all()):
                raise RunFailed(f"{name} does not fit in fp16", code="PRETRAIN-HALF")


def _export(run: Run, tokenizer: Tokenizer, out: Path, facts: CardFacts) -> None:
    """Write a folder that stock transformers loads: fp16 weights, config, tokenizer, model card."""
    with new_folder(out) as folder, quiet():
        run.objective.shipped(run.model).half().save_pretrained(folder)
        run.objective.wrap_tokenizer(tokenizer, run.options.positions).save_pretrained(folder)
        sha256 = sha256_file(folder / "model.safetensors")
        write_atomic(folder / "README.md", model_card(facts, sha256))


def _tokenizer(
    objective: Objective,
    files: Sequence[Path],
    options: PretrainOptions,
    work: Path,
    old: Path | None,
) -> Tokenizer:
    """Return the run's tokenizer, made or taken over on the first call and read from then on."""
    from tokenizers import Tokenizer

    path = work / "tokenizer.json"
    if not path.is_file():
        made = (
            objective.train_tokenizer(files, options.vocabulary)
            if old is None
            else Tokenizer.from_file(str(old / "tokenizer.json"))
        )
        write_atomic(path, made.to_str())
    return Tokenizer.from_file(str(path))


def _device(wanted: str) -> str:
    import torch

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError("there is no GPU here", code="PRETRAIN-DEVICE", fix="use device=cpu")
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"


def _check(options: PretrainOptions, out: Path) -> None:
    """Refuse at once what would fail an hour later."""
    check_target(out, overwrite=False)
    if options.width % options.heads or options.length > options.positions:
        raise ConfigError(
            "the shape of the model does not fit together",
            code="PRETRAIN-SHAPE",
            got=f"width {options.width}, heads {options.heads}, "
            f"length {options.length}, positions {options.positions}",
            allowed="heads divides width, length is at most positions",
            fix="choose a width that the number of heads divides",
        )


def _begin(
    objective: Objective,
    options: PretrainOptions,
    windows: Windows,
    work: Path,
    old: Path | None,
    team: Team,
    progress: Callable[[str], None],
) -> Run:
    """Return the run where the newest whole checkpoint left it, or a fresh one."""
    import torch

    identity = {
        "objective": objective.name,
        "options": options.model_dump(mode="json", exclude=FREE),
        "tokens": len(windows.tokens),
        "tokenizer": sha256_file(work / "tokenizer.json"),
        "from": None if old is None else fingerprint(str(old)),
    }
    with torch.random.fork_rng(devices=[]):  # the library draws from the global generator
        torch.manual_seed(derive(options.seed, "pretrain/init"))
        model = objective.build(options, windows.form.size)
    found = newest_checkpoint(work / "checkpoints")
    if old is not None:
        objective.continue_from(model, old)
    elif options.start == "ppmi" and found is None:
        progress(f"warm start from {len(windows.tokens):,} tokens")
        objective.warm_start(model, windows.tokens, options.seed)
    run = Run(objective, options, model.to(_device(options.device)), windows, identity, team)
    if found is not None:
        run.restore(found)
        progress(f"going on from step {found.step}")
    return run


def pretrain(
    objective: Objective | str,
    options: PretrainOptions,
    *,
    text: Sequence[Path],
    held_out: Sequence[Path],
    work: Path,
    out: Path,
    start_from: str | None = None,
    licence: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> CardFacts:
    """Make a model from text; call again with the same arguments to resume.

    Args:
        objective: ``masked``, ``replaced`` or ``causal``.
        options: how; of the objective's own class.
        text: files or folders to train on; those in ``held_out`` are left out of it.
        held_out: files or folders to measure the loss on, each by itself.
        work: folder of tokenizer, encoded text and checkpoints; may be removed afterwards.
        out: folder of the model, made at the end.
        start_from: a model to go on from, with its tokenizer: ``builtin:NAME`` or a folder.
        licence: of the text, in words, for the model card.
        progress: called with a line of text now and then.

    Returns:
        What the model card says.

    Raises:
        ConfigError: ``FOLDER-EXISTS``, ``PRETRAIN-OBJECTIVE``, ``PRETRAIN-SHAPE``,
            ``PRETRAIN-DEVICE``, ``PRETRAIN-OTHER``.
        InputRejected: ``CORPUS-EMPTY``, ``CORPUS-READ``, ``CORPUS-ROW``, ``CORPUS-SMALL``,
            ``PRETRAIN-FROM``.
        RunFailed: ``LOSS-NONFINITE``, ``PRETRAIN-HALF``.
        ResourceLimit: ``DISK-FULL``, ``CORPUS-SIZE``.

    Examples:
        pretrain("causal", CausalOptions(steps=2000), text=[Path("books")], held_out=[],
                 work=Path("lm-work"), out=Path("lm"))
    """
    if isinstance(objective, str):
        objective = objective_named(objective)
    _check(options, out)
    team = join_team(options.device)
    say = progress if team.rank == 0 else (lambda _: None)
    old = None if start_from is None else resolve(start_from)
    tests = {f"{path.resolve().parent.name}/{path.name}": text_files([path]) for path in held_out}
    unseen = {file for files in tests.values() for file in files}
    files = [file for file in text_files(text) if file not in unseen]
    if team.rank > 0:
        team.wait()  # the first process makes tokenizer and encoded text, the others read them
    tokenizer = _tokenizer(objective, files, options, work, old)
    say(
        f"tokenizer of {tokenizer.get_vocab_size()} tokens; reading {len(files)} files; "
        f"processes: {team.size}"
    )
    if options.optimiser == "muon" and not has_fast_bf16():
        say("note: muon computes in bf16, which this machine emulates at a fraction of the speed; "
            "-o optimiser=adamw does not")  # fmt: skip
    form = objective.format(tokenizer.get_vocab_size())
    tokens = encode(files, tokenizer, work, form.paragraph)
    if team.rank == 0:
        team.wait()
    windows = Windows(tokens, form, options.length, options.batch, options.seed)
    run = _begin(objective, options, windows, work, old, team, say)
    train(run, work / "checkpoints", say)
    _round_to_half(run.model)
    losses = {}
    for name, parts in tests.items():
        unseen_text = encode(parts, tokenizer, work, form.paragraph)
        losses[name] = examine(run, Windows(unseen_text, form, options.length, 1, options.seed))
    facts = CardFacts(
        objective=objective.name,
        task=objective.task,
        options=options.model_dump(mode="json"),
        curve=tuple(run.curve),
        corpus_tokens=len(tokens),
        files={file.name: sha256_file(file) for file in files},
        held_out=losses,
        licence=licence,
        start_from=start_from,
    )
    if team.rank == 0:
        _export(run, tokenizer, out, facts)
    team.wait()
    return facts
