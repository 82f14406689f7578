"""A language model against a 5-gram model with Kneser-Ney smoothing fitted on the same tokens.

Measured  On the whole held-out text: nats per token, perplexity per token, and nats per byte, which
          alone can be compared between tokenizers. The n-gram model sees all text before a token,
          but no more than four tokens of it count; the network sees half a window or more.
Samples   Ten paragraphs, drawn from their very beginning by a fixed seed, none left out, once by
          plain nucleus sampling and once more carefully; and how it goes on with five paragraphs of
          the first held-out text. How careful was chosen by reading what seeds 1, 2 and 3 gave.
Base      With an encoder as ``--base`` only the n-gram model is measured, on its tokens.
Tokens    Those of pre-training: the tokenizer of ``--base``, paragraphs one after the other, each
          closed by the end token where the tokenizer has one.
Bytes     UTF-8, of the text as it is read, with two line ends for each paragraph. An encoder's
          tokenizer loses case, so its nats per byte are of a text that is easier than the bytes.
Cost      22 M tokens: one minute of one core, 3.5 GB; the network some minutes more.

Run: ``python benchmarks/language_model.py [--base builtin:lm] [--text PATH] [--held-out PATH]``;
the texts are taken from ``PEFTLAB_DATA`` when not given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

from peftlab.core.errors import PeftlabError
from peftlab.io.files import read_json
from peftlab.io.gate import check_model
from peftlab.models.load import load_tokenizer, resolve
from peftlab.models.pretraining.corpus import encode, read_paragraphs, text_files
from peftlab.nn.kneser_ney import fit, nats_per_byte

TEXT = ("gutenberg", "openstax_economics")
HELD_OUT = ("gutenberg/valid.jsonl.gz", "wikitext2/valid.txt.gz")
PARAGRAPH_END = 2  # bytes
IGNORE = -100
WINDOW = 128
SAMPLES, SAMPLE_TOKENS = 10, 60
CONTINUED = 5, 24, 40  # paragraphs, tokens given, tokens drawn
SEED = 0
PLAIN = {"top_p": 0.9, "top_k": 0}
# min-p: arXiv 2407.01082; the three values: ours
CAREFUL = {"min_p": 0.2, "temperature": 0.9, "repetition_penalty": 1.1, "top_p": 1.0, "top_k": 0}


def byte_count(files: Sequence[Path]) -> int:
    """Return how many bytes of text the paragraphs of some files have."""
    return sum(len(part.encode()) + PARAGRAPH_END for part in read_paragraphs(files))


def load_network(base: str) -> Any | None:
    """Return the causal language model of a folder in float32, None if it holds another kind."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = resolve(base)
    check_model(folder)
    if "CausalLM" not in str(read_json(folder / "config.json").get("architectures")):
        return None
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def network_loss(network: Any, tokens: Any, start: int, window: int, batch: int = 16) -> float:
    """Return nats per token over the whole text, each token predicted once.

    Windows begin with ``start`` and overlap by half; of each the second half counts, so every token
    but those of the first window has half a window of text before it or more.

    Args:
        network: causal language model.
        tokens: (n,) numbers.
        start: number of the start token.
        window: tokens of text a window.
        batch: windows a pass.
    """
    import torch

    half, total = window // 2, 0.0
    begins = list(range(0, max(1, len(tokens) - half), half))
    for first in range(0, len(begins), batch):
        rows = [np.asarray(tokens[b : b + window], dtype=np.int64) for b in begins[first:][:batch]]
        longest = max(map(len, rows))
        asked = np.full((len(rows), longest), IGNORE)
        inputs = np.full((len(rows), longest), start)
        for i, (row, begin) in enumerate(zip(rows, begins[first:], strict=False)):
            inputs[i, 1 : len(row)] = row[:-1]
            asked[i, : len(row)] = row
            asked[i, : half * (begin > 0)] = IGNORE
        with torch.no_grad():
            logits = network(input_ids=torch.from_numpy(inputs)).logits.float()
        total += float(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), torch.from_numpy(asked).flatten(), reduction="sum",
                ignore_index=IGNORE,
            )
        )  # fmt: skip
    return total / len(tokens)


def _draw(
    network: Any, tokenizer: Any, begin: Any, length: int, sampling: dict[str, float]
) -> list[str]:
    """Return what the network writes after each row of ``begin``."""
    import torch

    torch.manual_seed(SEED)
    rows = network.generate(
        begin, attention_mask=torch.ones_like(begin), do_sample=True, max_new_tokens=length,
        pad_token_id=tokenizer.pad_token_id, **sampling,
    )  # fmt: skip
    return _words(tokenizer, rows[:, begin.shape[1] :])


def _words(tokenizer: Any, rows: Any) -> list[str]:
    return [
        " ".join(text.split()) for text in tokenizer.batch_decode(rows, skip_special_tokens=True)
    ]


def draw_samples(
    network: Any, tokenizer: Any, count: int, length: int, sampling: dict[str, float]
) -> list[str]:
    """Return texts drawn token by token, each from the beginning of a paragraph.

    The end token closes a paragraph in training, so after it a new one begins.
    """
    import torch

    begin = torch.tensor([[tokenizer.bos_token_id, tokenizer.eos_token_id]]).repeat(count, 1)
    return _draw(network, tokenizer, begin, length, sampling)


def continue_texts(
    network: Any, tokenizer: Any, tokens: Any, count: int, given: int, length: int
) -> list[dict[str, str]]:
    """Return how the network goes on with held-out paragraphs.

    Args:
        network: causal language model.
        tokenizer: its own.
        tokens: (n,) numbers of the held-out text, an end token after each paragraph.
        count: paragraphs, evenly spaced among those that are long enough.
        given: tokens of a paragraph that are shown to the network.
        length: tokens to draw; a paragraph must have as many more.
    """
    import torch

    ends = np.flatnonzero(np.asarray(tokens) == tokenizer.eos_token_id)
    starts = ends[:-1][np.diff(ends) > given + length]  # each place is an end, then a paragraph
    if not len(starts):
        return []
    chosen = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    heads = np.stack([np.asarray(tokens[at : at + 1 + given], dtype=np.int64) for at in chosen])
    begin = torch.from_numpy(np.insert(heads, 0, tokenizer.bos_token_id, axis=1))
    drawn = _draw(network, tokenizer, begin, length, CAREFUL)
    shown = _words(tokenizer, torch.from_numpy(heads))
    return [{"given": g, "drawn": d} for g, d in zip(shown, drawn, strict=True)]


def judge(loss: float, tokens: Any, size: int) -> dict[str, float | int]:
    """Return a loss on one held-out text of ``size`` bytes in all its units."""
    return {
        "tokens": len(tokens),
        "bytes": size,
        "nats_per_token": loss,
        "perplexity": math.exp(loss),
        "nats_per_byte": nats_per_byte(loss, len(tokens), size),
    }


def measure(
    base: str, text: Sequence[Path], held_out: Sequence[Path], order: int, cache: Path
) -> dict[str, Any]:
    """Fit the model on ``text`` and judge it on each held-out path, which is never fitted on.

    Args:
        base: whose tokenizer to use.
        text: files or folders.
        held_out: likewise.
        order: longest n-gram.
        cache: folder for the encoded text.
    """
    tokenizer = load_tokenizer(resolve(base))
    paragraph, backend = tokenizer.eos_token_id, tokenizer.backend_tokenizer
    backend.no_truncation()
    tests = {f"{path.resolve().parent.name}/{path.name}": text_files([path]) for path in held_out}
    unseen = {file for files in tests.values() for file in files}
    files = [file for file in text_files(text) if file not in unseen]
    tokens = encode(files, backend, cache, paragraph)
    start = time.process_time()
    model = fit(np.asarray(tokens), order, vocabulary=backend.get_vocab_size())
    seconds = time.process_time() - start
    network = load_network(base)
    found: dict[str, dict[str, dict[str, float | int]]] = {"n-gram": {}, "network": {}}
    for name, parts in tests.items():
        unread, size = np.asarray(encode(parts, backend, cache, paragraph)), byte_count(parts)
        found["n-gram"][name] = judge(model.loss(unread), unread, size)
        if network is not None:
            loss = network_loss(network, unread, tokenizer.bos_token_id, WINDOW)
            found["network"][name] = judge(loss, unread, size)
    levels = model.tables.levels
    drawn = {
        name: draw_samples(network, tokenizer, SAMPLES, SAMPLE_TOKENS, sampling)
        for name, sampling in (("plain", PLAIN), ("careful", CAREFUL)) if network is not None
    }  # fmt: skip
    first = next(iter(tests.values()))
    unread = np.asarray(encode(first, backend, cache, paragraph))
    further = [] if network is None else continue_texts(network, tokenizer, unread, *CONTINUED)
    return {
        "base": base if base.startswith("builtin:") else "another",
        "order": order,
        "vocabulary": model.vocabulary,
        "tokens": len(tokens),
        "ngrams": [len(level.keys) for level in levels],
        "discounts": [level.discount for level in levels],
        "held_out": found,
        "sampling": {"seed": SEED, "plain": PLAIN, "careful": CAREFUL},
        "samples": drawn,
        "continued": further,
        "fit_cpu_seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print one JSON object of schema ``bench/1``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", default="builtin:lm", help="whose tokenizer")
    parser.add_argument("--text", type=Path, action="append", help="repeatable")
    parser.add_argument("--held-out", type=Path, action="append", help="repeatable")
    parser.add_argument("--order", type=int, default=5, choices=range(2, 9))
    parser.add_argument("--cache", type=Path, help="folder to keep the encoded text in")
    given = parser.parse_args(arguments)
    root = Path(os.environ.get("PEFTLAB_DATA", "../shared/data"))
    text = given.text or [root / name for name in TEXT]
    held_out = given.held_out or [root / name for name in HELD_OUT]
    if gaps := [path.name for path in (*text, *held_out) if not path.exists()]:
        print(f"SKIPPED: there is no {', '.join(gaps)}; set PEFTLAB_DATA", file=sys.stderr)
        return 0
    try:
        with tempfile.TemporaryDirectory() as place:
            found = measure(given.base, text, held_out, given.order, given.cache or Path(place))
    except PeftlabError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(
        json.dumps(
            {
                "schema": "bench/1", "measurement": "language_model", **found,
                "python": platform.python_version(), "numpy": np.__version__,
            },
            indent=2,
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
