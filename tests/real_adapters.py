"""Adapters as published: by stock peft on tiny models, and in the spellings of other tools.

    folders = by_peft(tmp_path)             {"lora-dora": folder, ...}
    files = by_other_tools(tmp_path)        {"kohya-lora": file, ...}

Every trained number is moved a little from its start, as training would. diffusers, kohya,
LyCORIS and bitsandbytes are not installed: their files are written key by key, as these tools name
and shape them, and with the metadata they add.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artefacts import write_tensors
from tiny_models import make_tiny

SEQ, LM = "SEQ_CLS", "CAUSAL_LM"
BERT, LLAMA = ["query", "value"], ["q_proj", "v_proj"]
Maker = Callable[[], tuple[Any, Any]]


def _bases(root: Path) -> dict[str, Callable[[], Any]]:
    """Return loaders of a classifier, a causal model, GPT-2 and a convolutional network."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        ResNetConfig,
        ResNetForImageClassification,
    )

    for family in ("bert", "llama", "gpt2"):
        make_tiny(family, root / "bases" / family)

    small = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8, "num_labels": 2}
    network = ResNetForImageClassification(ResNetConfig(layer_type="basic", **small))
    network.save_pretrained(root / "bases" / "resnet")

    def causal(family: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(root / "bases" / family)

    return {
        "bert": lambda: AutoModelForSequenceClassification.from_pretrained(root / "bases/bert"),
        "llama": lambda: causal("llama"),
        "gpt2": lambda: causal("gpt2"),
        "resnet": lambda: ResNetForImageClassification.from_pretrained(root / "bases/resnet"),
    }


def _configs() -> dict[str, tuple[str, Any]]:
    """Return base and config of every adapter that stock peft makes here."""
    import peft

    def lora(base: str, **more: Any) -> tuple[str, Any]:
        task = {"bert": SEQ, "resnet": None}.get(base, LM)
        targets = {"bert": BERT, "llama": LLAMA, "gpt2": ["c_attn"], "resnet": ["convolution"]}
        given = {"r": 4, "target_modules": targets[base], "task_type": task, **more}
        return base, peft.LoraConfig(**given)

    lm = {"task_type": LM, "target_modules": LLAMA}
    cls = {"task_type": SEQ, "target_modules": BERT}
    return {
        "lora": lora("bert"),
        "lora-dora": lora("llama", use_dora=True),
        "lora-rslora": lora("llama", use_rslora=True, lora_alpha=16, target_modules="all-linear"),
        "lora-rank-pattern": lora("llama", rank_pattern={"q_proj": 8}, alpha_pattern={"q_proj": 3}),
        "lora-embeddings": lora("llama", target_modules=["embed_tokens", "q_proj"]),
        "lora-output": lora("llama", target_modules=["lm_head", "q_proj"]),
        "lora-saved-modules": lora("llama", modules_to_save=["lm_head", "embed_tokens", "norm"]),
        "lora-bias": lora("bert", bias="all"),
        "lora-lora-bias": lora("llama", lora_bias=True),
        "lora-tokens": lora("llama", trainable_token_indices=[1, 5]),
        "lora-parameters": lora("llama", target_parameters=["mlp.up_proj.weight"]),
        "lora-one-layer": lora("llama", layers_to_transform=[1]),
        "lora-conv1d": lora("gpt2", fan_in_fan_out=True),
        "lora-conv": lora("resnet", modules_to_save=["classifier"]),
        "lora-no-task": lora("bert", task_type=None),
        "lora-pissa": lora("llama", init_lora_weights="pissa"),
        "adalora": ("bert", peft.AdaLoraConfig(total_step=10, init_r=6, target_r=4, **cls)),
        "ia3": ("bert", peft.IA3Config(
            task_type=SEQ, target_modules=["query", "output.dense"],
            feedforward_modules=["output.dense"],
        )),
        "loha": ("llama", peft.LoHaConfig(r=4, **lm)),
        "loha-conv": ("resnet", peft.LoHaConfig(
            r=4, target_modules=["convolution"], use_effective_conv2d=True
        )),
        "lokr": ("llama", peft.LoKrConfig(r=4, **lm)),
        "oft": ("llama", peft.OFTConfig(oft_block_size=8, **lm)),
        "boft": ("llama", peft.BOFTConfig(boft_block_size=4, **lm)),
        "vera": ("llama", peft.VeraConfig(r=4, task_type=LM, target_modules=["q_proj"])),
        "ln-tuning": ("bert", peft.LNTuningConfig(task_type=SEQ, target_modules=["LayerNorm"])),
        "prefix": ("llama", peft.PrefixTuningConfig(task_type=LM, num_virtual_tokens=4)),
        "prompt": ("bert", peft.PromptTuningConfig(task_type=SEQ, num_virtual_tokens=4)),
        "p-tuning": ("llama", peft.PromptEncoderConfig(
            task_type=LM, num_virtual_tokens=4, encoder_hidden_size=16
        )),
        "hra": ("llama", peft.HRAConfig(r=4, **lm)),
        "fourierft": ("llama", peft.FourierFTConfig(n_frequency=20, **lm)),
        "randlora": ("llama", peft.RandLoraConfig(
            r=4, task_type=LM, target_modules=["q_proj"]
        )),
        "shira": ("llama", peft.ShiraConfig(r=4, **lm)),
        "vblora": ("llama", peft.VBLoRAConfig(
            r=4, num_vectors=16, vector_length=8, task_type=LM, target_modules=["q_proj"]
        )),
        "trainable-tokens": ("llama", peft.TrainableTokensConfig(
            task_type=LM, token_indices=[3, 4]
        )),
    }  # fmt: skip


def by_peft(root: Path) -> dict[str, Path]:
    """Write all adapters of stock peft below ``root``; bases stand in ``root/bases/FAMILY``."""
    import torch
    from peft import get_peft_model

    folders = {}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        bases = _bases(root)
        for name, (base, config) in _configs().items():
            model = get_peft_model(bases[base](), config)
            _move(model)
            model.save_pretrained(root / name)
            folders[name] = root / name
        for name, dtype in (("lora-bf16", torch.bfloat16), ("lora-fp16", torch.float16)):
            model = get_peft_model(bases["bert"](), _configs()["lora"][1])
            _move(model)
            model.to(dtype).save_pretrained(root / name)
            folders[name] = root / name
        folders["lora-resized"] = _resized(root, bases)
    folders["lora-quantised-base"] = _quantised(root)
    return folders


def _move(model: Any) -> None:
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)


def _resized(root: Path, bases: dict[str, Callable[[], Any]]) -> Path:
    """Write a LoRA of a model whose vocabulary was enlarged: peft saves the tables by itself."""
    from peft import get_peft_model

    model = bases["llama"]()
    model.resize_token_embeddings(model.config.vocab_size + 5)
    model = get_peft_model(model, _configs()["lora-rslora"][1])
    _move(model)
    model.save_pretrained(root / "lora-resized")
    return root / "lora-resized"


def _quantised(root: Path) -> Path:
    """Write a QLoRA: what changes is the name of the base, the card, and which layers there are."""
    folder, source = root / "lora-quantised-base", root / "lora-rslora"
    folder.mkdir()
    for name in ("adapter_model.safetensors", "README.md"):
        (folder / name).write_bytes((source / name).read_bytes())
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write(
            "\n## Training procedure\n\nThe following `bitsandbytes` quantization config was used "
            "during training:\n- quant_method: bitsandbytes\n- load_in_4bit: True\n"
            "- bnb_4bit_quant_type: nf4\n- bnb_4bit_compute_dtype: bfloat16\n"
        )
    config = json.loads((source / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "org/llama-bnb-4bit"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


def by_other_tools(root: Path) -> dict[str, Path]:
    """Write single files in the spellings of diffusers, kohya and LyCORIS."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {
            "diffusers-lora": _diffusers(root / "pytorch_lora_weights.safetensors"),
            "diffusers-attn-procs": _attention_processors(root / "attn.safetensors"),
            "diffusers-peft": _diffusers_peft(root / "flux.safetensors"),
            "kohya-lora": _kohya(root / "kohya.safetensors"),
            "kohya-dora": _kohya(root / "kohya_dora.safetensors", dora=True),
            "lycoris": _lycoris(root / "lycoris.safetensors"),
        }


BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
DIFFUSERS_LAYERS = [f"{BLOCK}.attn{n}.{part}" for n in (1, 2)
                    for part in ("to_q", "to_k", "to_v", "to_out.0")]  # fmt: skip


def _diffusers(path: Path) -> Path:
    """Write what ``save_lora_weights`` of a Stable Diffusion pipeline wrote before peft."""
    import torch

    tensors = {}
    for layer in DIFFUSERS_LAYERS:
        tensors[f"unet.{layer}.lora.down.weight"] = torch.randn(4, 32)
        tensors[f"unet.{layer}.lora.up.weight"] = 0.01 * torch.randn(32, 4)
    for n in range(2):
        stem = f"text_encoder.text_model.encoder.layers.{n}.self_attn.q_proj.lora_linear_layer"
        tensors[f"{stem}.down.weight"] = torch.randn(4, 32)
        tensors[f"{stem}.up.weight"] = 0.01 * torch.randn(32, 4)
    return write_tensors(path, {name: x.half() for name, x in tensors.items()})


def _attention_processors(path: Path) -> Path:
    """Write what ``save_attn_procs`` wrote first."""
    import torch

    tensors = {}
    for n in range(2):
        for part in ("to_q", "to_k", "to_v", "to_out"):
            stem = f"mid_block.attentions.{n}.attn1.processor.{part}_lora"
            tensors[f"{stem}.down.weight"] = torch.randn(4, 32)
            tensors[f"{stem}.up.weight"] = 0.01 * torch.randn(32, 4)
    return write_tensors(path, tensors)


def _diffusers_peft(path: Path) -> Path:
    """Write a Flux LoRA as diffusers writes it today, its config in the metadata."""
    import torch

    tensors = {}
    for n in range(2):
        for part in ("attn.to_q", "attn.to_k", "ff.net.0.proj"):
            stem = f"transformer.transformer_blocks.{n}.{part}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(4, 32).bfloat16()
            tensors[f"{stem}.lora_B.weight"] = 0.01 * torch.randn(64, 4).bfloat16()
    fields = {
        "r": 4, "lora_alpha": 4, "use_dora": False, "use_rslora": False, "peft_type": "LORA",
        "target_modules": ["attn.to_q", "attn.to_k", "ff.net.0.proj"], "rank_pattern": {},
        "alpha_pattern": {}, "lora_bias": False, "inference_mode": True, "base_model_name_or_path":
        None, "loftq_config": {}, "megatron_core": "megatron.core", "auto_mapping": None,
    }  # fmt: skip
    notes = {f"transformer.{key}": value for key, value in fields.items()}
    return write_tensors(
        path, tensors,
        {"format": "pt", "lora_adapter_metadata": json.dumps(notes, indent=2, sort_keys=True)},
    )  # fmt: skip


def _kohya(path: Path, *, dora: bool = False) -> Path:
    """Write what ``train_network.py`` writes: linear and 3 x 3 layers, alphas, its long notes."""
    import torch

    tensors = {}
    for layer in [f"unet_{x.replace('.', '_')}" for x in DIFFUSERS_LAYERS] + [
        f"te_text_model_encoder_layers_{n}_mlp_fc1" for n in range(2)
    ]:
        tensors[f"lora_{layer}.lora_down.weight"] = torch.randn(4, 32)
        tensors[f"lora_{layer}.lora_up.weight"] = 0.01 * torch.randn(64, 4)
        tensors[f"lora_{layer}.alpha"] = torch.tensor(2.0)
        if dora:
            tensors[f"lora_{layer}.dora_scale"] = torch.rand(64, 1) + 0.5
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    tensors[f"{conv}.lora_down.weight"] = torch.randn(2, 32, 3, 3)
    tensors[f"{conv}.lora_up.weight"] = 0.01 * torch.randn(64, 2, 1, 1)
    tensors[f"{conv}.alpha"] = torch.tensor(1.0)
    counts = {f"a photograph of thing number {n} on a table": n for n in range(400)}
    notes = {f"ss_setting_{n}": "None" for n in range(60)} | {
        "ss_network_dim": "4", "ss_network_alpha": "2", "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora", "ss_output_name": "thing", "ss_epoch": "10",
        "ss_tag_frequency": json.dumps({"10_thing": counts}), "sshs_model_hash": "0" * 64,
        "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [512, 512], "count": 400}}}),
        "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.title": "thing",
    }  # fmt: skip
    return write_tensors(path, {name: x.half() for name, x in tensors.items()}, notes)


def _lycoris(path: Path) -> Path:
    """Write layers of LoHa, LoKr, a CP convolution and a norm, in LyCORIS's names."""
    import torch

    stem, alpha = "lora_unet_down_blocks_0_attentions_0", torch.tensor(4.0)
    shapes = {
        "attn1_to_q.hada_w1_a": (32, 4), "attn1_to_q.hada_w1_b": (4, 32),
        "attn1_to_q.hada_w2_a": (32, 4), "attn1_to_q.hada_w2_b": (4, 32),
        "attn1_to_k.lokr_w1": (4, 4), "attn1_to_k.lokr_w2_a": (8, 4),
        "attn1_to_k.lokr_w2_b": (4, 8), "norm.w_norm": (32,), "norm.b_norm": (32,),
        "attn1_to_v.lora_down.weight": (4, 32), "attn1_to_v.lora_up.weight": (32, 4),
        "conv.lora_down.weight": (4, 8, 1, 1), "conv.lora_mid.weight": (4, 4, 3, 3),
        "conv.lora_up.weight": (8, 4, 1, 1), "proj.diff": (32, 32), "proj.diff_b": (32,),
    }  # fmt: skip
    tensors = {f"{stem}_{name}": 0.02 * torch.randn(shape) for name, shape in shapes.items()}
    for layer in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "conv"):
        tensors[f"{stem}_{layer}.alpha"] = alpha
    notes = {"ss_network_module": "lycoris.kohya", "ss_network_dim": "4"}
    return write_tensors(path, tensors, notes)
