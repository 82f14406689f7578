"""Which tensors belong together: names, shapes and scales of every way of writing an adapter."""

import doctest
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artefacts import LORA, low_rank, opened, shapes_only, write_adapter, write_tensors
from peftlab.io import (
    adapter_layout,
    adapter_names,
    adapter_scale,
    base_tensors,
    layer_names,
    tensor_roles,
)
from peftlab.io.adapter_layout import AdapterLayout, read_layout
from peftlab.io.base_tensors import BaseTensors

Q = "base_model.model.model.layers.0.self_attn.q_proj"


def _peft(shapes, **config):
    return read_layout(shapes_only(shapes, "F32", {**LORA, **config}))


@pytest.mark.parametrize(
    "module",
    [adapter_layout, adapter_names, adapter_scale, base_tensors, layer_names, tensor_roles],
)
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_a_plain_lora():
    layout = _peft({f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (64, 4)})
    (pair,) = layout.pairs
    assert (layout.format, layout.peft_type) == ("peft", "LORA")
    assert (pair.layer, pair.rank, pair.d_in, pair.d_out) == (
        "model.layers.0.self_attn.q_proj", 4, 32, 64,
    )  # fmt: skip
    assert pair.scale == 2
    assert (layout.other, layout.extra, layout.broken) == ((), (), ())


def test_rslora_divides_by_the_root():
    shapes = {f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (64, 4)}
    assert _peft(shapes, use_rslora=True).pairs[0].scale == 4


@pytest.mark.parametrize(
    ("ranks", "alphas", "scale"),
    [
        ({"q_proj": 8}, {}, 1.0),
        ({"q_proj": 8}, {"q_proj": 4}, 0.5),
        ({"^model.layers.0.self_attn.q_proj": 8}, {"layers.0.self_attn.q_proj": 16}, 2.0),
        ({"q_proj": 8}, {"proj": 4}, 1.0),  # a part of a word names nothing
        ({"q_proj": 8}, {"(q|k)_proj": 4}, 1.0),  # expressions are not run
    ],
)
def test_rank_and_alpha_patterns(ranks, alphas, scale):
    shapes = {f"{Q}.lora_A.weight": (8, 32), f"{Q}.lora_B.weight": (64, 8)}
    (pair,) = _peft(shapes, rank_pattern=ranks, alpha_pattern=alphas).pairs
    assert pair.scale == scale


def test_dora_adalora_embeddings_convolutions():
    emb = "base_model.model.model.embed_tokens"
    layout = _peft({
        f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (64, 4),
        f"{Q}.lora_magnitude_vector": (64,),
        f"{emb}.lora_embedding_A": (4, 300), f"{emb}.lora_embedding_B": (32, 4),
        f"{emb}.base_layer.weight": (300, 32),
        "base_model.model.conv.lora_A.weight": (4, 3, 5, 5),
        "base_model.model.conv.lora_B.weight": (8, 4, 1, 1),
        "base_model.model.conv1.lora_A.weight": (4, 3, 5),
        "base_model.model.conv1.lora_B.weight": (8, 4, 1),
    })  # fmt: skip
    by_layer = {pair.layer: (pair.d_out, pair.d_in) for pair in layout.pairs}
    assert by_layer == {
        "conv": (8, 75), "conv1": (8, 15), "model.embed_tokens": (32, 300),
        "model.layers.0.self_attn.q_proj": (64, 32),
    }  # fmt: skip
    assert layout.pairs[-1].magnitude == f"{Q}.lora_magnitude_vector"
    assert layout.extra == (f"{emb}.base_layer.weight",)
    ada = _peft(
        {f"{Q}.lora_A": (6, 32), f"{Q}.lora_B": (64, 6), f"{Q}.lora_E": (6, 1)},
        peft_type="ADALORA", init_r=6,
    )  # fmt: skip
    assert ada.pairs[0].diagonal == f"{Q}.lora_E"
    assert math.isclose(ada.pairs[0].scale, 8 / 6)


def test_experts_stand_below_each_other():
    shapes = {f"{Q}.lora_A.weight": (16, 32), f"{Q}.lora_B.weight": (64, 16)}
    (pair,) = _peft(shapes, target_parameters=["q_proj.weight"]).pairs
    assert pair.scale == 2  # alpha / r, not alpha / (4 r)


@pytest.mark.parametrize(
    ("peft_type", "names"),
    [
        ("IA3", [f"{Q}.ia3_l"]),
        ("LOHA", [f"{Q}.hada_w1_a", f"{Q}.hada_t1"]),
        ("LOKR", [f"{Q}.lokr_w1"]),
        ("OFT", [f"{Q}.oft_R.weight"]),
        ("BOFT", [f"{Q}.boft_R", f"{Q}.boft_s"]),
        ("VERA", [f"{Q}.vera_lambda_b", "base_model.vera_A"]),
        ("LN_TUNING", ["base_model.model.norm.ln_tuning_layers.weight"]),
        ("PREFIX_TUNING", ["prompt_embeddings"]),
        ("P_TUNING", ["prompt_embeddings"]),
        ("HIRA", [f"{Q}.hira_A", f"{Q}.hira_B"]),
        ("TRAINABLE_TOKENS", ["base_model.model.embed_tokens.trainable_tokens_delta"]),
    ],
)
def test_other_methods(peft_type, names):
    head = "base_model.model.score.weight"
    layout = _peft({**dict.fromkeys(names, (4, 4)), head: (2, 4)}, peft_type=peft_type)
    assert (layout.peft_type, layout.pairs) == (peft_type, ())
    assert set(layout.other) == set(names)
    assert layout.extra == (head,)
    bare = read_layout(shapes_only(dict.fromkeys(names, (4, 4)), "F32"))
    assert bare.format == "peft"
    if "prompt_embeddings" not in names:  # three methods write the same name
        assert bare.peft_type == peft_type


def test_diffusers_in_three_spellings(tmp_path):
    names = {
        "unet.down_blocks.0.attn1.to_q.lora.down.weight": (4, 32),
        "unet.down_blocks.0.attn1.to_q.lora.up.weight": (32, 4),
        "unet.down_blocks.0.attn1.processor.to_v_lora.down.weight": (4, 32),
        "unet.down_blocks.0.attn1.processor.to_v_lora.up.weight": (32, 4),
        "text_encoder.layers.1.q_proj.lora_linear_layer.down.weight": (4, 32),
        "text_encoder.layers.1.q_proj.lora_linear_layer.up.weight": (32, 4),
        "transformer.blocks.0.to_k.lora_A.weight": (4, 32),
        "transformer.blocks.0.to_k.lora_B.weight": (32, 4),
    }
    notes = {"transformer.r": 4, "transformer.lora_alpha": 2, "unet.lora_alpha": 8}
    path = write_tensors(
        tmp_path / "x.safetensors",
        {name: torch.ones(shape) for name, shape in names.items()},
        {"format": "pt", "lora_adapter_metadata": json.dumps(notes)},
    )
    with opened(path) as artefact:
        layout = read_layout(artefact)
    assert (layout.format, layout.peft_type) == ("diffusers", "LORA")
    assert {pair.layer: pair.scale for pair in layout.pairs} == {
        "unet.down_blocks.0.attn1.to_q": 2.0,
        "unet.down_blocks.0.attn1.to_v": 2.0,
        "text_encoder.layers.1.q_proj": 1.0,
        "transformer.blocks.0.to_k": 0.5,
    }


def test_kohya_reads_its_alpha(tmp_path):
    tensors = {}
    for layer, alpha in (
        ("lora_unet_mid_block_attn1_to_q", torch.tensor(2.0)),
        ("lora_te1_text_model_q_proj", torch.tensor(3.0, dtype=torch.bfloat16)),
        ("lora_te2_text_model_q_proj", torch.tensor(1, dtype=torch.int64)),
    ):
        tensors |= {
            f"{layer}.lora_down.weight": torch.ones(4, 8), f"{layer}.alpha": alpha,
            f"{layer}.lora_up.weight": torch.ones(8, 4),
        }  # fmt: skip
    tensors["lora_unet_mid_block_attn1_to_q.dora_scale"] = torch.ones(8, 1)
    tensors["lora_unet_loha.hada_w1_a"] = torch.ones(8, 4)
    tensors["lora_unet_loha.alpha"] = torch.tensor(1.0)
    with opened(write_tensors(tmp_path / "k.safetensors", tensors)) as artefact:
        layout = read_layout(artefact)
    assert layout.format == "kohya"
    assert [(pair.layer, pair.scale) for pair in layout.pairs] == [
        ("te1_text_model_q_proj", 0.75), ("te2_text_model_q_proj", 0.25),
        ("unet_mid_block_attn1_to_q", 0.5),
    ]  # fmt: skip
    assert layout.pairs[-1].magnitude
    assert set(layout.other) == {"lora_unet_loha.hada_w1_a", "lora_unet_loha.alpha"}


def test_cloneofsimo_keeps_natural_order():
    shapes = {"<s1>": (768,)}
    for number in (10, 2):
        shapes |= {f"unet:{number}:down": (1, 320), f"unet:{number}:up": (640, 1)}
    layout = read_layout(shapes_only(shapes))
    assert layout.format == "cloneofsimo"
    assert [pair.layer for pair in layout.pairs] == ["unet:2", "unet:10"]
    assert layout.extra == ("<s1>",)


def test_a_checkpoint_is_no_adapter():
    shapes = {"model.embed_tokens.weight": (300, 32), "lm_head.weight": (300, 32)}
    assert read_layout(shapes_only(shapes)) == AdapterLayout("model", "")
    assert read_layout(shapes_only({})) == AdapterLayout("model", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{Q}.lora_B.weight": None}, "no partner B"),
        ({f"{Q}.lora_A.weight": None}, "no partner A"),
        ({f"{Q}.lora_B.weight": (64, 5)}, "does not fit rank 4"),
        ({f"{Q}.lora_B.weight": (64, 4, 3, 3)}, "does not fit rank 4"),
        ({f"{Q}.lora_A.weight": (4,)}, "none of a factor"),
        ({f"{Q}.lora_magnitude_vector": (63,)}, "neither one number a row"),
        ({f"{Q}.lora_E": (3, 1)}, "one for each rank"),
        ({f"{Q}.lora_A": (4, 32)}, "a second tensor of its kind"),
    ],
)
def test_what_does_not_fit_is_said(changes, words):
    shapes = {f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (64, 4), **changes}
    layout = _peft({name: shape for name, shape in shapes.items() if shape})
    assert len(layout.broken) == 1
    assert words in layout.broken[0]


def test_factors_must_be_real_numbers():
    artefact = shapes_only({f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (64, 4)}, "I32")
    artefact.config |= LORA
    assert "must hold real numbers" in read_layout(artefact).broken[0]


def test_foreign_spellings_in_a_peft_folder_are_extra():
    """A payload cannot pass as part of a pair by a name of another tool."""
    shapes = {f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (64, 4), f"{Q}.alpha": (9999,)}
    layout = _peft(shapes)
    assert layout.extra == (f"{Q}.alpha",)


def test_two_adapters_in_one_file(tmp_path):
    tensors = low_rank({"fc": (8, 8)})
    tensors |= {name.replace(".weight", ".other.weight"): t for name, t in tensors.items()}
    with opened(write_adapter(tmp_path, tensors)) as artefact:
        assert [pair.layer for pair in read_layout(artefact).pairs] == ["fc", "fc@other"]


@given(
    names=st.lists(st.text(alphabet="lora_ABupdown.weight:3<>", max_size=40), max_size=12),
    shape=st.lists(st.integers(0, 9), max_size=4),
    config=st.dictionaries(
        st.sampled_from(["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern",
                         "use_rslora", "target_parameters"]),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
        | st.dictionaries(st.text(max_size=9), st.integers() | st.none(), max_size=2),
    ),
)  # fmt: skip
def test_never_fails_and_loses_no_tensor(names, shape, config):
    artefact = shapes_only(dict.fromkeys(names, tuple(shape)), "F32", config)
    layout = read_layout(artefact)
    if layout.format == "model":
        return
    in_pairs = [name for pair in layout.pairs
                for name in (pair.a, pair.b, pair.magnitude, pair.diagonal) if name]  # fmt: skip
    listed = [*in_pairs, *layout.other, *layout.extra]
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(names)
    missing = set(names) - set(listed)
    assert bool(layout.broken) or all(name.endswith(".alpha") for name in missing)


def test_bases_are_found_by_other_fronts():
    base = BaseTensors(shapes_only({
        "bert.encoder.layer.0.query.weight": (4, 4), "down_blocks.0.to_q.weight": (4, 4),
        "encoder.layers.0.fc.weight": (4, 4), "decoder.layers.0.fc.weight": (4, 4),
    }).tensors)  # fmt: skip
    assert base.weight_of("encoder.layer.0.query") == "bert.encoder.layer.0.query.weight"
    assert base.weight_of("unet_down_blocks_0_to_q") == "down_blocks.0.to_q.weight"
    assert base.weight_of("unet.down_blocks.0.to_q") == "down_blocks.0.to_q.weight"
    assert base.weight_of("model.encoder.layers.0.fc") == "encoder.layers.0.fc.weight"
    assert base.weight_of("model.decoder.layers.0.fc@other") == "decoder.layers.0.fc.weight"
    assert base.weight_of("encoder.layer.9.query") is None
