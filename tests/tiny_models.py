"""Tiny random sequence classifiers of the usual families, as stock folders without any download.

    folder = make_tiny("llama", tmp_path / "base", n_classes=2)
    AutoModelForSequenceClassification.from_pretrained(folder)

Two layers, 32 wide, about 300 tokens, a few hundred kilobytes, a fraction of a second.
"""

import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftlab.core.seeds import derive

FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "gpt2", "opt", "llama", "qwen2")
CAUSAL = ("gpt2", "opt", "llama", "qwen2")
NO_PAD = ("gpt2",)  # published so, and loaders have to cope
WIDTH, LAYERS, HEADS, POSITIONS, VOCABULARY = 32, 2, 4, 64, 300

TEXTS = (
    "the film was a quiet joy and the actors were wonderful",
    "a dull story told badly, with no wit and no heart",
    "i would watch this again with my whole family",
    "nothing in this movie works, not even the music",
    "the service was quick and the food was very good",
    "we waited an hour for a cold and tasteless meal",
    "an honest, moving and often funny portrait of two brothers",
    "the plot makes no sense and the ending is worse",
    "what a lovely surprise from a young director",
    "terrible pacing ruins what could have been a great idea",
)

# pad, unk, bos (or cls), eos (or sep), mask: as each family publishes them
_TOKENS: dict[str, dict[str, str]] = {
    "bert": {
        "pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]",
    },
    "roberta": {
        "bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>",
        "cls": "<s>", "sep": "</s>",
    },
    "gpt2": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
    "opt": {"unk": "</s>", "pad": "<pad>", "bos": "</s>", "eos": "</s>"},
    "llama": {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "</s>"},
    "qwen2": {"pad": "<|endoftext|>", "eos": "<|im_end|>"},
}  # fmt: skip
_TOKENS["distilbert"] = _TOKENS["deberta-v2"] = _TOKENS["bert"]


def make_tokenizer(family: str, *, positions: int = POSITIONS) -> Any:
    """Return a fast tokenizer in the family's manner, trained on ``TEXTS``."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    names = _TOKENS[family]
    special = list(dict.fromkeys(names.values()))
    if names is _TOKENS["bert"]:
        core = Tokenizer(models.WordPiece(_word_pieces(special), unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer()
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.decoder = decoders.WordPiece()
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        core.train_from_iterator(TEXTS, trainer)
    _add_edges(core, family)
    tokens = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=positions, **tokens)


def _word_pieces(special: list[str]) -> dict[str, int]:
    """Return special tokens, characters, and the words of ``TEXTS``; training is not repeatable."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    inner = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    words = sorted({word for text in TEXTS for word in re.findall(r"[a-z]{2,}", text)})
    pieces = [*special, *characters, *inner, *words]
    return {piece: number for number, piece in enumerate(pieces[:VOCABULARY])}


def _add_edges(core: Any, family: str) -> None:
    """Put the special tokens around a text where the family has them."""
    from tokenizers.processors import BertProcessing, RobertaProcessing, TemplateProcessing

    names = _TOKENS[family]
    if family == "roberta":
        sep, cls = (names["sep"], core.token_to_id("</s>")), (names["cls"], core.token_to_id("<s>"))
        core.post_processor = RobertaProcessing(sep, cls)
    elif "cls" in names:
        core.post_processor = BertProcessing(("[SEP]", core.token_to_id("[SEP]")),
                                             ("[CLS]", core.token_to_id("[CLS]")))  # fmt: skip
    elif family in {"opt", "llama"}:
        bos = names["bos"]
        core.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, core.token_to_id(bos))]
        )


def _bert(cls: Any, common: dict[str, Any]) -> Any:
    return cls(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH, max_position_embeddings=POSITIONS, **common,
    )  # fmt: skip


def _roberta(cls: Any, common: dict[str, Any]) -> Any:
    config = _bert(cls, common)
    config.max_position_embeddings = POSITIONS + 2  # its positions start after the padding number
    config.type_vocab_size = 1
    return config


def _distilbert(cls: Any, common: dict[str, Any]) -> Any:
    return cls(
        dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=2 * WIDTH,
        max_position_embeddings=POSITIONS, **common,
    )  # fmt: skip


def _deberta(cls: Any, common: dict[str, Any]) -> Any:
    config = _bert(cls, common)
    # as the published v3 checkpoints
    config.relative_attention, config.position_buckets = True, 16
    config.pos_att_type, config.share_att_key = ["p2c", "c2p"], True
    config.norm_rel_ebd, config.position_biased_input = "layer_norm", False
    config.type_vocab_size = 0
    return config


def _gpt2(cls: Any, common: dict[str, Any]) -> Any:
    return cls(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS, **common)


def _opt(cls: Any, common: dict[str, Any]) -> Any:
    return cls(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, ffn_dim=2 * WIDTH,
        word_embed_proj_dim=WIDTH, max_position_embeddings=POSITIONS, **common,
    )  # fmt: skip


def _llama(cls: Any, common: dict[str, Any]) -> Any:
    config = _bert(cls, common)
    config.num_key_value_heads = HEADS // 2
    return config


_SHAPES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "bert": _bert, "roberta": _roberta, "distilbert": _distilbert, "deberta-v2": _deberta,
    "gpt2": _gpt2, "opt": _opt, "llama": _llama, "qwen2": _llama,
}  # fmt: skip


def make_tiny(family: str, folder: Path, n_classes: int = 2, seed: int = 0) -> Path:
    """Write a tiny random sequence classifier with its tokenizer, as stock transformers would.

    Args:
        family: one of ``FAMILIES``.
        folder: made if it is missing.
        n_classes: number of labels.
        seed: of the weights.

    Returns:
        ``folder``. Only GPT-2 has no padding token, as published.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = make_tokenizer(family)
    common = {
        "vocab_size": len(tokenizer),
        "num_labels": n_classes,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = _SHAPES[family](type(AutoConfig.for_model(family)), common)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "tiny", family))
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_causal(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny random causal language model with its tokenizer; see ``make_tiny``.

    Args:
        family: one of ``CAUSAL``.
        folder: made if it is missing.
        seed: of the weights.

    Returns:
        ``folder``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer(family)
    common = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = _SHAPES[family](type(AutoConfig.for_model(family)), common)
    config.initializer_range = 0.3  # far from uniform, so that a wrong state shows
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "tiny-causal", family))
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
