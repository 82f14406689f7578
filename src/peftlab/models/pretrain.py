"""Make the built-in encoder from text: WordPiece, PPMI warm start, masked language modelling.

    python -m peftlab.models.pretrain --text BOOKS MODULES --held-out BOOKS/valid.jsonl.gz --out NEW

With the defaults this repeats ``builtin:encoder`` in about an hour on two CPU cores with 2.5 GB of
memory (other weights: the seed of the shipped one was not recorded). The run can be
killed at any time; the same command goes on from the last checkpoint. Every batch and mask is a
function of (seed, step), so on a CPU the loss curve is the one of an unbroken run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftlab.core.errors import ConfigError, PeftlabError, RunFailed
from peftlab.core.options import parse_options
from peftlab.io.files import new_folder, sha256_file, write_atomic
from peftlab.models.card import CardFacts, model_card
from peftlab.models.checkpoint import newest_checkpoint
from peftlab.models.corpus import encode, text_files, train_tokenizer
from peftlab.models.masked_lm import (
    PretrainOptions,
    Run,
    build_model,
    held_out_loss,
    train,
    warm_start_model,
)
from peftlab.models.masking import Vocabulary, Windows

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BertForMaskedLM

_FREE = {"checkpoint_minutes", "log_every", "device"}  # may differ when a run is resumed


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _round_to_half(model: BertForMaskedLM) -> None:
    """Give the weights the values that fp16 can hold, so that what is measured is what ships."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter.half().float())
            if not bool(parameter.isfinite().all()):
                raise RunFailed(f"{name} does not fit in fp16", code="PRETRAIN-HALF")


def export(run: Run, tokenizer: Tokenizer, out: Path, facts: CardFacts) -> None:
    """Write a folder that stock transformers loads: fp16 weights, config, tokenizer, model card.

    Raises:
        ConfigError: ``FOLDER-EXISTS``.
        ResourceLimit: ``DISK-FULL``.
    """
    from transformers import PreTrainedTokenizerFast

    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    stock = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=run.options.positions, **names
    )
    with new_folder(out) as folder:
        run.model.half().save_pretrained(folder)
        stock.save_pretrained(folder)
        sha256 = sha256_file(folder / "model.safetensors")
        write_atomic(folder / "README.md", model_card(facts, sha256))


def _tokenizer(files: Sequence[Path], options: PretrainOptions, work: Path) -> Tokenizer:
    """Return the run's tokenizer, trained on the first call and read from then on."""
    from tokenizers import Tokenizer

    path = work / "tokenizer.json"
    if not path.is_file():
        write_atomic(path, train_tokenizer(files, options.vocabulary).to_str())
    return Tokenizer.from_file(str(path))


def _device(options: PretrainOptions) -> str:
    import torch

    has_gpu = torch.cuda.is_available()
    if options.device == "cuda" and not has_gpu:
        raise ConfigError("there is no GPU here", code="PRETRAIN-DEVICE", fix="use --device cpu")
    return "cuda" if has_gpu and options.device != "cpu" else "cpu"


def _check(options: PretrainOptions, out: Path) -> None:
    """Refuse at once what would fail an hour later."""
    if out.exists():
        raise ConfigError(
            f"{out} is already there", code="FOLDER-EXISTS", fix="choose another folder"
        )
    if options.width % options.heads or options.length > options.positions:
        raise ConfigError(
            "the shape of the encoder does not fit together",
            code="PRETRAIN-SHAPE",
            got=f"width {options.width}, heads {options.heads}, "
            f"length {options.length}, positions {options.positions}",
            allowed="heads divides width, length is at most positions",
            fix="choose a width that the number of heads divides",
        )


def _begin(
    options: PretrainOptions, windows: Windows, work: Path, progress: Callable[[str], None]
) -> Run:
    """Return the run where the newest whole checkpoint left it, or a fresh one."""
    identity = {
        "options": options.model_dump(mode="json", exclude=_FREE),
        "tokens": len(windows.tokens),
        "tokenizer": sha256_file(work / "tokenizer.json"),
    }
    model = build_model(options, windows.vocabulary.size)
    found = newest_checkpoint(work / "checkpoints")
    if options.start == "ppmi" and found is None:
        progress(f"warm start from {len(windows.tokens):,} tokens")
        warm_start_model(model, windows.tokens, options.seed)
    run = Run(options, model.to(_device(options)), windows, identity)
    if found is not None:
        run.restore(found)
        progress(f"going on from step {found.step}")
    return run


def pretrain(
    options: PretrainOptions,
    *,
    text: Sequence[Path],
    held_out: Sequence[Path],
    work: Path,
    out: Path,
    progress: Callable[[str], None],
) -> CardFacts:
    """Make an encoder from text; call again with the same arguments to resume.

    Args:
        options: how.
        text: files or folders to train on; those in ``held_out`` are left out of it.
        held_out: files or folders to measure the loss on, each by itself.
        work: folder of tokenizer, encoded text and checkpoints; may be removed afterwards.
        out: folder of the model, made at the end.
        progress: called with a line of text now and then.

    Returns:
        What the model card says.

    Raises:
        ConfigError: ``FOLDER-EXISTS``, ``PRETRAIN-SHAPE``, ``PRETRAIN-DEVICE``, ``PRETRAIN-OTHER``.
        InputRejected: ``CORPUS-EMPTY``, ``CORPUS-READ``, ``CORPUS-ROW``, ``CORPUS-SMALL``.
        RunFailed: ``LOSS-NONFINITE``, ``PRETRAIN-HALF``.
        ResourceLimit: ``DISK-FULL``, ``CORPUS-SIZE``.

    Source: Devlin et al. 2019 for the task, Levy et al. 2015 for the warm start.
    """
    _check(options, out)
    tests = {f"{path.resolve().parent.name}/{path.name}": text_files([path]) for path in held_out}
    unseen = {file for files in tests.values() for file in files}
    files = [file for file in text_files(text) if file not in unseen]
    tokenizer = _tokenizer(files, options, work)
    progress(f"tokenizer of {tokenizer.get_vocab_size()} pieces; reading {len(files)} files")
    tokens = encode(files, tokenizer, work)
    vocabulary = Vocabulary(tokenizer.get_vocab_size())
    windows = Windows(tokens, vocabulary, options.length, options.batch, options.seed)
    run = _begin(options, windows, work, progress)
    train(run, work / "checkpoints", progress)
    _round_to_half(run.model)
    losses = {
        name: held_out_loss(
            run.model,
            Windows(encode(parts, tokenizer, work), vocabulary, options.length, 1, options.seed),
        )
        for name, parts in tests.items()
    }
    facts = CardFacts(options.model_dump(mode="json"), tuple(run.curve), len(tokens), losses)
    export(run, tokenizer, out, facts)
    return facts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m peftlab.models.pretrain")
    parser.description = (__doc__ or "").split("\n", maxsplit=1)[0]
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files or folders")
    parser.add_argument("--held-out", type=Path, nargs="*", default=[], help="files or folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, new")
    parser.add_argument("--work", type=Path, help="folder to resume from (default: OUT-work)")
    for name, about in PretrainOptions.model_fields.items():
        kind = type(about.default)
        help_text = f"{about.description} (default: {about.default})"
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=about.default, help=help_text)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    given = vars(_parser().parse_args(arguments))
    values = {name: given[name] for name in PretrainOptions.model_fields}
    out: Path = given["out"]
    try:
        facts = pretrain(
            parse_options(PretrainOptions, values, "pretrain"),
            text=given["text"],
            held_out=given["held_out"],
            work=given["work"] or out.with_name(out.name + "-work"),
            out=out,
            progress=_say,
        )
    except PeftlabError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from the last checkpoint")
        return 130
    for name, loss in facts.held_out.items():
        sys.stdout.write(f"{name}\t{loss:.3f}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
