"""What a whole tensor of a model is for, by its name: an embedding, a head, a norm, a bias."""

from __future__ import annotations

from typing import Literal

TensorRole = Literal["embedding", "output", "head", "tokens", "norm", "bias", "layer"]

# module names of huggingface/transformers; lm_head and its like give the probabilities of words
EMBEDDINGS = frozenset({
    "embed_tokens", "word_embeddings", "wte", "embed_in", "shared", "tok_embeddings", "embeddings",
    "token_embedding", "embed_positions", "position_embeddings", "token_type_embeddings", "wpe",
})  # fmt: skip
OUTPUTS = frozenset({"lm_head", "embed_out", "output_layer", "cls", "predictions", "generator"})
HEADS = frozenset({
    "classifier", "score", "qa_outputs", "pre_classifier", "classification_head", "pooler",
    "regression_head", "v_head", "reward_head", "summary", "head",
})  # fmt: skip
TOKENS = frozenset({"trainable_tokens_delta", "bundle_emb", "string_to_param"})


def role_of(name: str) -> TensorRole:
    """Return what a tensor is for.

    Args:
        name: as it stands in a file.

    Examples:
        >>> role_of("model.embed_tokens.weight"), role_of("bert.encoder.layer.0.output.dense.bias")
        ('embedding', 'bias')
        >>> role_of("base_model.model.classifier.bias"), role_of("model.layers.0.input_layernorm.w")
        ('head', 'norm')
        >>> role_of("<s1>"), role_of("model.layers.3.mlp.up_proj.weight")
        ('tokens', 'layer')
    """
    words = name.replace(":", ".").split(".")
    inside = set(words)
    if inside & TOKENS or (name.startswith("<") and name.endswith(">")):
        return "tokens"
    if inside & OUTPUTS:
        return "output"
    if inside & HEADS:
        return "head"
    if any("norm" in word.lower() or word in {"ln_1", "ln_2", "ln_f"} for word in words):
        return "norm"
    if inside & EMBEDDINGS:
        return "embedding"
    return "bias" if words[-1] == "bias" else "layer"
