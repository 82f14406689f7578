"""Tokenizers trained on the user's text: WordPiece for encoders, byte-level BPE for decoders.

Both are deterministic: the same text gives the same vocabulary. Special tokens come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftlab.models.pretraining.corpus import read_paragraphs

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SPECIAL_BYTES = ("<pad>", "<s>", "</s>")


def _inner_pieces(files: Sequence[Path], normalise: Callable[[str], str]) -> list[str]:
    """Return ``##c`` for every character c that can stand inside a word, sorted."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    characters: set[str] = set()
    for paragraph in read_paragraphs(files):
        characters.update(normalise(paragraph))
    split = BertPreTokenizer()
    return [
        f"##{character}"
        for character in sorted(characters)
        if [word for word, _ in split.pre_tokenize_str(f"x{character}")] == [f"x{character}"]
    ]


def train_wordpiece(files: Sequence[Path], vocabulary: int) -> Tokenizer:
    """Train a lower-casing WordPiece tokenizer with BERT's special tokens as numbers 0 to 4.

    The trainer numbers the pieces ``##c`` in the order of a hash map, and ties between merges go
    by number, so by itself it gives another vocabulary each time. Here these pieces are given to
    it, sorted: the same text then gives the same vocabulary.

    Args:
        files: text to train on.
        vocabulary: most pieces, special tokens included.

    Source: Devlin et al. 2019; ``tokenizers.BertWordPieceTokenizer``.
    """
    from tokenizers import Tokenizer
    from tokenizers.implementations import BertWordPieceTokenizer

    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(
        read_paragraphs(files),
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[*SPECIAL_PIECES, *_inner_pieces(files, trainer.normalizer.normalize_str)],
        show_progress=False,
    )
    # Built again from the vocabulary, so that only the true special tokens are special.
    finished = BertWordPieceTokenizer(trainer.get_vocab(), lowercase=True)
    return Tokenizer.from_str(finished.to_str())


def wrap_wordpiece(tokenizer: Tokenizer, positions: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer as stock ``transformers`` saves it."""
    from transformers import PreTrainedTokenizerFast

    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL_PIECES}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=positions, **names)


def train_bytes(files: Sequence[Path], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer; every text can be encoded and comes back unchanged.

    A word that begins a text is encoded as one inside it, after a space.

    Args:
        files: text to train on.
        vocabulary: most tokens, special tokens and the 256 bytes included.

    Source: Radford et al. 2019, 2.2; ``tokenizers``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL_BYTES),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(read_paragraphs(files), trainer)
    start = SPECIAL_BYTES[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, 1)]
    )
    return tokenizer


def wrap_bytes(tokenizer: Tokenizer, positions: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer as stock ``transformers`` saves it."""
    from transformers import PreTrainedTokenizerFast

    pad, start, end = SPECIAL_BYTES
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=positions,
        pad_token=pad, bos_token=start, eos_token=end, padding_side="right",
    )  # fmt: skip
