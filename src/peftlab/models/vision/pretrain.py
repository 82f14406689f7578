"""Make the built-in image models from generated pictures; nothing is downloaded.

    python -m peftlab.models.vision.pretrain --model vit --out NEW

With the defaults each of the two takes about twelve minutes on one CPU core. The run can be killed
at any time; the same command goes on from the last checkpoint. Every batch is a function of (seed,
step), so on a CPU the loss curve is the one of an unbroken run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftlab.core.errors import ConfigError, PeftlabError, RunFailed
from peftlab.core.options import parse_options
from peftlab.io.files import check_target, new_folder, sha256_file, write_atomic
from peftlab.models.vision.card import VisionFacts, vision_card
from peftlab.models.vision.images import VERSION
from peftlab.models.vision.models import INPUT_SIDE, image_processor
from peftlab.models.vision.training import Run, VisionOptions, accuracies, settle, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FREE = {"checkpoint_minutes", "log_every", "device", "held_out"}  # may differ on a resume


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _round_to_half(model: PreTrainedModel) -> None:
    """Give the weights the values that fp16 can hold, so that what is measured is what ships."""
    model.half().float()
    broken = [name for name, values in model.state_dict().items() if not values.isfinite().all()]
    if broken:
        raise RunFailed(f"{broken[0]} does not fit in fp16", code="PRETRAIN-HALF")


def _device(options: VisionOptions) -> str:
    from peftlab.models.load import pick_device

    found = pick_device()
    if options.device == "cuda" and found != "cuda":
        raise ConfigError("there is no GPU here", code="PRETRAIN-DEVICE", fix="use --device cpu")
    return "cpu" if options.device == "cpu" else found


def _check_shape(options: VisionOptions) -> None:
    heads = max(1, options.width // 64)
    if options.model == "vit" and options.width % heads:
        raise ConfigError(
            "the width does not divide into attention heads",
            code="PRETRAIN-SHAPE",
            got=f"width {options.width}, heads {heads}",
            fix="choose a multiple of 64",
        )


def export(run: Run, out: Path, facts: VisionFacts) -> None:
    """Write a folder that stock transformers loads: fp16 weights, config, processor, model card.

    Raises:
        ConfigError: ``FOLDER-EXISTS``.
        ResourceLimit: ``DISK-FULL``.
    """
    from peftlab.models.load import quiet

    with new_folder(out) as folder:
        with quiet():
            run.model.half().save_pretrained(folder)
            image_processor(INPUT_SIDE[run.options.model]).save_pretrained(folder)
        sha256 = sha256_file(folder / "model.safetensors")
        write_atomic(folder / "README.md", vision_card(facts, sha256))


def pretrain(
    options: VisionOptions, *, work: Path, out: Path, progress: Callable[[str], None]
) -> VisionFacts:
    """Make an image model; call again with the same arguments to resume.

    Args:
        options: how.
        work: folder of the checkpoints; may be removed afterwards.
        out: folder of the model, made at the end.
        progress: called with a line of text now and then.

    Returns:
        What the model card says.

    Raises:
        ConfigError: ``FOLDER-EXISTS``, ``PRETRAIN-SHAPE``, ``PRETRAIN-DEVICE``, ``PRETRAIN-OTHER``.
        RunFailed: ``LOSS-NONFINITE``, ``PRETRAIN-HALF``.
        ResourceLimit: ``DISK-FULL``.
    """
    options = settle(options)
    check_target(out, overwrite=False)
    _check_shape(options)
    identity = {
        "options": options.model_dump(mode="json", exclude=_FREE),
        "pictures": VERSION,
    }
    run = Run(options, _device(options), identity)
    run.resume(work / "checkpoints")
    if run.curve:
        progress(f"going on from step {len(run.curve)}")
    train(run, work / "checkpoints", progress)
    _round_to_half(run.model)
    count = sum(parameter.numel() for parameter in run.model.parameters())
    facts = VisionFacts(options.model_dump(mode="json"), count, tuple(run.curve), accuracies(run))
    export(run, out, facts)
    return facts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m peftlab.models.vision.pretrain")
    parser.description = (__doc__ or "").split("\n", maxsplit=1)[0]
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, new")
    parser.add_argument("--work", type=Path, help="folder to resume from (default: OUT-work)")
    for name, about in VisionOptions.model_fields.items():
        help_text = f"{about.description} (default: {about.default})"
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(about.default), default=about.default, help=help_text)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    given = vars(_parser().parse_args(arguments))
    values = {name: given[name] for name in VisionOptions.model_fields}
    out: Path = given["out"]
    work = given["work"] or out.with_name(out.name + "-work")
    try:
        options = parse_options(VisionOptions, values, "pretrain")
        facts = pretrain(options, work=work, out=out, progress=_say)
    except PeftlabError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from the last checkpoint")
        return 130
    for name, accuracy in facts.accuracy.items():
        sys.stdout.write(f"{name}\t{accuracy:.3f}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
