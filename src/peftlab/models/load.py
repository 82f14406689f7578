"""The one way to load a base or a tuned victim, from a built-in name, a folder or the hub.

Every path goes through the gate first; only safetensors are read and no remote code runs.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftlab.core.errors import ConfigError, InputRejected, suggest
from peftlab.core.seeds import derive
from peftlab.io.files import read_json, sha256_file
from peftlab.io.gate import check_adapter, check_model
from peftlab.models.prompted import agreed_prompt, apply_prompt, as_classifier, read_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peftlab.core.prompt import Prompt

BUILTIN = Path(__file__).parent / "builtin"
PREFIX = "builtin:"
UNTRAINED = "-random"  # builtin:encoder-random: the same architecture, no training
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken")
VICTIM_FILE = "victim.json"
CAUSAL_NAMES = ("ForCausalLM", "LMHeadModel")
MISSING_SHARE = 0.1  # ours: a masked-language model lacks the pooler of a classifier, no more


def resolve(reference: str) -> Path:
    """Return the local folder of ``builtin:NAME``, a path, or a hub id (``org/name[@revision]``).

    Raises:
        ConfigError: ``BASE-BUILTIN`` for an unknown built-in name.
        InputRejected: ``BASE-MISSING`` when there is no such folder and the hub cannot be reached.
    """
    if reference.startswith(PREFIX):
        name = reference.removeprefix(PREFIX).removesuffix(UNTRAINED)
        if not (BUILTIN / name / "config.json").is_file():
            known = [path.parent.name for path in BUILTIN.glob("*/config.json")]
            raise ConfigError(
                f"there is no built-in model {name!r}",
                code="BASE-BUILTIN",
                fix=suggest(name, known),
            )
        return BUILTIN / name
    if os.path.isdir(reference):  # noqa: PTH112  Path.is_dir fails on a name that is too long
        return Path(reference)
    return _from_hub(reference)


def _from_hub(reference: str) -> Path:
    name, _, revision = reference.partition("@")
    looks_local = reference.startswith((".", "/", "~")) or reference.count("/") > 1
    try:
        if looks_local or not name:
            raise FileNotFoundError(reference)  # noqa: TRY301  the message below serves both
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision or None, allow_patterns=HUB_FILES))
    except Exception as error:
        raise InputRejected(
            f"there is no model {reference!r} here",
            code="BASE-MISSING",
            got=f"no such folder{'' if looks_local else ', and the hub did not give it: '}"
            + ("" if looks_local else type(error).__name__),
            allowed="builtin:encoder, a folder, or a hub id such as bert-base-uncased",
            fix="check the spelling; offline, download the folder first and pass its path",
        ) from error


def lasting(reference: str) -> str:
    """Return the reference as it may be written down: a folder as an absolute path."""
    return str(Path(reference).resolve()) if os.path.isdir(reference) else reference  # noqa: PTH112


def fingerprint(reference: str) -> str:
    """Return a hash over the files that decide what a base computes."""
    folder = resolve(reference)
    sha = hashlib.sha256(reference.encode() if reference.endswith(UNTRAINED) else b"")
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".json", ".txt"} and path.name != "README.md":
            sha.update(f"{path.name}\t{sha256_file(path)}\n".encode())
    return sha.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' talk about heads that are new by design."""
    from transformers.utils import logging as talk

    before = talk.get_verbosity()
    talk.set_verbosity(logging.CRITICAL)
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(before)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the folder's tokenizer, with a padding token in any case."""
    from transformers import AutoTokenizer

    try:
        if not any(path.match(name) for path in folder.iterdir() for name in VOCABULARIES):
            # the library would make one that knows no word
            raise FileNotFoundError("no vocabulary file")  # noqa: TRY301  one message for all
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise InputRejected(
            f"{folder.name} has no tokenizer that loads",
            code="BASE-TOKENIZER",
            got=str(error).split("\n")[0][:200],
            fix="put tokenizer.json and tokenizer_config.json into the folder",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def load_base(
    reference: str,
    n_classes: int,
    *,
    seed: int = 0,
    allow_poisoned: bool = False,
    prompt: Prompt | None = None,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return (sequence classifier in eval mode, tokenizer) of a base.

    A base without a head for the task gets one drawn from ``seed``; a base that has a head keeps
    it; a causal language model with a prompt gets the rows of the prompt's words (see
    ``models.prompted``), and its tokenizer puts texts into the template. Weights are float32; the
    model is on the GPU where there is one.

    Args:
        reference: ``builtin:encoder``, a folder, or a hub id.
        n_classes: C.
        seed: of a new head (and of all weights for ``-random`` models).
        allow_poisoned: let a marked red-team model in.
        prompt: for a causal language model; a ``prompt.json`` beside the base does the same.

    Raises:
        InputRejected: from the gate, ``BASE-TOKENIZER``, ``BASE-LOAD``, ``BASE-WEIGHTS``, or
            ``BASE-HEAD`` when the base's head has another C, ``BASE-IMAGE`` for an image model,
            ``BASE-CAUSAL`` for a prompt with a base of another kind, ``PROMPT-FILE``.
        ConfigError: ``PROMPT-TWICE``, and the codes of ``models.prompted.apply_prompt``.
        NotApplicable: ``PROMPT-MODEL``.
    """
    folder = resolve(reference)
    check_model(folder, allow_poisoned=allow_poisoned)
    _check_text(folder)
    tokenizer = load_tokenizer(folder)
    own = read_prompt(folder)
    wanted = agreed_prompt(own, prompt)
    if wanted is not None and (own is None or _predicts_words(folder)):
        model = _build_prompted(folder, reference, tokenizer, wanted, n_classes)
    else:
        model = _build(folder, reference, n_classes, seed)
        if wanted is not None:
            apply_prompt(tokenizer, wanted, n_classes, _room(model))
    _check_vocabulary(folder, tokenizer, model)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(pick_device()).eval(), tokenizer


def _room(model: Any) -> int:
    from peftlab.nn.text import room_for_text

    return room_for_text(model)


def _build_prompted(
    folder: Path, reference: str, tokenizer: Any, prompt: Prompt, n_classes: int
) -> Any:
    """Return the classifier that a causal language model is by its prompt."""
    from peftlab.nn.text import encode

    causal = _build_causal(folder, untrained=reference.endswith(UNTRAINED)).eval()
    _check_vocabulary(folder, tokenizer, causal)
    tokens = apply_prompt(tokenizer, prompt, n_classes, _room(causal))
    probes = encode(tokenizer, ["", "a b c"], _room(causal))
    return as_classifier(causal, probes, tokens, tokenizer.pad_token_id)


def _predicts_words(folder: Path) -> bool:
    """Return whether a base still has the head of its language model, no classifier's."""
    names = read_json(folder / "config.json").get("architectures") or []
    return any(str(name).endswith(CAUSAL_NAMES) for name in names)


def load_causal(
    reference: str, *, allow_poisoned: bool = False
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return (causal language model in eval mode, tokenizer).

    Weights are float32; the model is on the GPU where there is one.

    Args:
        reference: ``builtin:lm``, a folder, or a hub id.
        allow_poisoned: let a marked red-team model in; never for one that judges texts because the
            user trusts it.

    Raises:
        InputRejected: from the gate, ``BASE-TOKENIZER``, ``BASE-LOAD``, ``BASE-WEIGHTS``, or
            ``BASE-CAUSAL`` for a model of another kind.
    """
    folder = resolve(reference)
    check_model(folder, allow_poisoned=allow_poisoned)
    _check_text(folder)
    tokenizer = load_tokenizer(folder)
    model = _build_causal(folder, untrained=reference.endswith(UNTRAINED))
    _check_vocabulary(folder, tokenizer, model)
    return model.to(pick_device()).eval(), tokenizer


def _build_causal(folder: Path, *, untrained: bool) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "causal"))
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            _check_causal(folder, config)
            if untrained:
                return AutoModelForCausalLM.from_config(config).float()
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, config=config, use_safetensors=True, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
        except InputRejected:
            raise
        except Exception as error:  # a hostile config can fail in any way
            raise InputRejected(
                f"{folder.name} does not load as a causal language model",
                code="BASE-LOAD",
                got=str(error).split("\n")[0][:300],
                fix="check that AutoModelForCausalLM.from_pretrained loads it",
            ) from error
    absent = report["missing_keys"]
    if absent:
        raise InputRejected(
            f"the weights of {folder.name} are not those of its config.json",
            code="BASE-WEIGHTS",
            got=f"{len(absent)} tensors are missing, such as {min(absent)}",
            fix="download the folder again, weights and config.json together",
        )
    return model


def _check_causal(folder: Path, config: Any) -> None:
    """Refuse what predicts no next token: encoders would load too, and look at both sides."""
    names = config.architectures or []
    predicts = any(name.endswith(CAUSAL_NAMES) for name in names)
    if not predicts or config.is_encoder_decoder or not getattr(config, "is_decoder", True):
        raise InputRejected(
            f"{folder.name} is no causal language model",
            code="BASE-CAUSAL",
            got=", ".join(names) or "no architecture in config.json",
            allowed="a decoder with its head, such as GPT2LMHeadModel or LlamaForCausalLM",
            fix="name builtin:lm, or a model such as gpt2",
        )


def _check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase, model: Any) -> None:
    """Refuse a tokenizer that knows more tokens than the model."""
    known, rows = len(tokenizer), model.get_input_embeddings().num_embeddings
    if known > rows:
        raise InputRejected(
            f"the tokenizer of {folder.name} is not that of its weights",
            code="BASE-TOKENIZER",
            got=f"{known} tokens, {rows} embeddings",
            fix="download the folder again, tokenizer and weights together",
        )


def _check_text(folder: Path) -> None:
    """Refuse an image classifier by that name, not by the tokenizer that it cannot have."""
    if "ImageClassification" in str(read_json(folder / "config.json").get("architectures")):
        raise InputRejected(
            f"{folder.name} is an image model",
            code="BASE-IMAGE",
            allowed="a text classifier or encoder",
            fix="load it with peftlab.models.vision.load.load_vision",
        )


def _build(folder: Path, reference: str, n_classes: int, seed: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from peftlab.nn.heads import note_new_modules

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "head"))
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            _check_head(folder, config, n_classes)
            config.num_labels = n_classes
            if reference.endswith(UNTRAINED):
                return AutoModelForSequenceClassification.from_config(config).float()
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder, config=config, use_safetensors=True, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
            _check_filled(folder, model, report["missing_keys"])
            note_new_modules(model, report["missing_keys"])
        except InputRejected:
            raise
        except Exception as error:  # a hostile config can fail in any way
            raise InputRejected(
                f"{folder.name} does not load as a sequence classifier",
                code="BASE-LOAD",
                got=str(error).split("\n")[0][:300],
                fix="check that AutoModelForSequenceClassification.from_pretrained loads it",
            ) from error
        return model


def _check_filled(folder: Path, model: Any, missing: Collection[str]) -> None:
    """Refuse weights that are of another model: the library would fill the gaps at random."""
    prefix = f"{model.base_model_prefix}."
    body = [name for name, _ in model.named_parameters() if name.startswith(prefix)]
    absent = [name for name in missing if name.startswith(prefix)]
    if len(absent) > MISSING_SHARE * len(body):
        raise InputRejected(
            f"the weights of {folder.name} are not those of its config.json",
            code="BASE-WEIGHTS",
            got=f"{len(absent)} of {len(body)} tensors are missing, such as {min(absent)}",
            fix="download the folder again, weights and config.json together",
        )


def _check_head(folder: Path, config: Any, n_classes: int) -> None:
    """Refuse a base whose trained head has another number of classes."""
    has_head = any("SequenceClassification" in name for name in config.architectures or [])
    if has_head and config.num_labels != n_classes:
        raise InputRejected(
            f"the head of {folder.name} has {config.num_labels} classes, the data has {n_classes}",
            code="BASE-HEAD",
            fix="use data with the same classes, or a base without a classification head",
        )


def pick_device() -> str:
    """Return ``cuda`` where a GPU is there, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_victim(
    folder: Path, *, allow_poisoned: bool = False
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return (model in eval mode, tokenizer) of a folder that ``peftlab tune`` wrote.

    Raises:
        InputRejected: ``VICTIM-MISSING``, ``VICTIM-NOTE``, ``VICTIM-BASE`` when its base changed
            since, ``VICTIM-LOAD``, or the gate's codes.
    """
    note = folder / VICTIM_FILE
    if not note.is_file():
        raise InputRejected(
            f"{folder} is not a tuned model of peftlab",
            code="VICTIM-MISSING",
            got=f"no {VICTIM_FILE}",
            fix="make one with `peftlab tune`",
        )
    about = read_note(note)
    if not (folder / "adapter_config.json").is_file():
        return load_base(str(folder), about["n_classes"], allow_poisoned=allow_poisoned)
    check_adapter(folder, allow_poisoned=allow_poisoned)
    reference = about["base"]
    if fingerprint(reference) != about["base_fingerprint"]:
        raise InputRejected(
            f"the base of {folder.name} is not the one that it was tuned on",
            code="VICTIM-BASE",
            got=reference,
            fix="restore the base, or tune again",
        )
    from peft import PeftModel

    model, tokenizer = load_base(
        reference, about["n_classes"], seed=about["seed"], allow_poisoned=allow_poisoned,
        prompt=read_prompt(folder),
    )  # fmt: skip
    try:
        with quiet():
            wrapped = PeftModel.from_pretrained(model, folder)
    except Exception as error:  # a hostile config can fail in any way
        raise InputRejected(
            f"the adapter in {folder.name} does not fit its base",
            code="VICTIM-LOAD",
            got=str(error).split("\n")[0][:300],
            fix="tune again",
        ) from error
    return wrapped.to(pick_device()).eval(), tokenizer


def read_note(note: Path) -> dict[str, Any]:
    """Return the checked content of a ``victim.json``.

    Raises:
        InputRejected: ``VICTIM-NOTE``, or the codes of reading JSON.
    """
    about: Any = read_json(note)
    wanted = {"base": str, "base_fingerprint": str, "n_classes": int, "seed": int}
    odd = [
        key for key, kind in wanted.items()
        if not isinstance(about, dict) or not isinstance(about.get(key), kind)
    ]  # fmt: skip
    if odd:
        raise InputRejected(
            f"{note} is not as `peftlab tune` writes it",
            code="VICTIM-NOTE",
            got=f"missing or of a wrong type: {', '.join(odd)}",
            fix="tune again",
        )
    found: dict[str, Any] = about
    return found
