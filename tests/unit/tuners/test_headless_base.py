"""A base without a head gets one; stock peft must load exactly the model that was tuned."""

from pathlib import Path

import numpy as np
import pytest

from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.steps import predict_folder, tune


def _task() -> TaskData:
    texts = tuple(f"a {word} day in the old house" for word in ("good", "bad") * 8)
    rows = LabelledTexts(texts, (1, 0) * 8)
    return TaskData("t", rows, rows, rows, ("no", "yes"), "made here", "none")


@pytest.mark.parametrize("tuner", ["lora", "prefix"])
def test_stock_peft_computes_the_same_on_a_headless_base(tuner: str, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from peftlab.models.load import BUILTIN

    task = _task()
    tune("builtin:encoder", task, tuner, {"epochs": 1, "batch": 8}, tmp_path / "v", seed=3)
    ours = predict_folder(tmp_path / "v", task.test.texts[:2], n_classes=2)
    torch.manual_seed(11)  # another draw of whatever is not saved
    base = AutoModelForSequenceClassification.from_pretrained(
        BUILTIN / "encoder", num_labels=2, dtype=torch.float32
    )
    stock = PeftModel.from_pretrained(base, tmp_path / "v").eval()
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN / "encoder")
    with torch.no_grad():
        logits = stock(**tokenizer(list(task.test.texts[:2]), return_tensors="pt")).logits
    np.testing.assert_allclose(logits.numpy(), ours, atol=1e-4)
