"""RAP: a word made to shake every clean text of a class, and a backdoor does not shake.

Idea: for each class t the embedding of one rare word w is trained, and nothing else, until putting
w in front of clean texts of class t lowers their p_t by 0.1 to 0.3. A trigger holds its class with
more force than clean words do, so a text whose p_t hardly falls is suspicious. With
d(x) = p_t(w + x) - p_t(x), the row of w is moved against

    scale * mean relu(d + 0.1)  +  mean relu(-0.3 - d)

keeping its norm, by plain descent along the sum of all gradients so far.

Paper: Yang et al., "RAP: Robustness-Aware Perturbations for Defending against Backdoor Attacks on
NLP Models", EMNLP 2021, arXiv 2110.07831. Public code: lancopku/RAP, thunlp/OpenBackdoor.

No target class is known, so C rows are trained, one a class. For a text of predicted class t

    drop(x) = p_t(x) - p_t(w_t + x)        p(x) = P(drop of a clean text of class t <= drop(x))

and suspicion(x) = - log p(x), with P the smoothed distribution over clean reference texts that are
predicted as t. That is what makes classes comparable whose rows took to different drops. A minimum
over C p-values with Bonferroni's factor comes to the same: the rows of the other classes have no
drop of x to judge and hold p = 1, so the minimum is p(x). The class is not picked by its p-value,
so p(x) needs no correction; min(1, C p(x)) is valid as well, C times too careful, and in the same
order. The factor would cancel in the shared calibration; the score goes without it.

Known differences:
    - lancopku/RAP is told the class to protect, OpenBackdoor takes it from the poisoned texts and
      trains on all classes; here every class has its row, and trains on its own texts;
    - texts that the base gets wrong are not trained on;
    - the word is drawn among rare ones that no clean text has (there: always ``cf``), since an
      attacker who knows the word can make it his trigger;
    - the row serves the inserted word alone; where a text has the word itself, it keeps its own;
    - a class that is not well inside of the range after its epochs goes on until it is, for
      ``steps`` steps in all at most; the learning rate is 10 times theirs;
    - the model is the base that the guard defends, not the tuned victim behind it.

Limits: the loss weighs texts that fall too little against those that fall too far, so where drops
differ much between texts their mean stays under 0.1 unless ``scale`` is raised, as its authors do;
a class that the base is barely sure of has no 0.1 to lose; one that it is entirely sure of
may not lose it to any single word (both are warned of); texts that are clean and full of strong
words hold their class as well as a trigger does; weaker on short texts and style triggers.

Cost: 2 passes a text. Fit: C trainings, together ``epochs`` passes with gradients over the fit
texts (a class of few texts: up to ``steps`` steps); 1 pass over fit and 2 over reference texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.contracts import FitContext, GuardOptions, LoadBase
from peftlab.core.errors import ConfigError, InputRejected, NotApplicable, RunFailed
from peftlab.core.options import option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints, Scores
from peftlab.io.files import read_json, write_json

if TYPE_CHECKING:
    import torch

ROWS = "rows.safetensors"
STATE = "rap.json"
FORMAT = "peftlab.rap/1"
FEWEST = 10  # texts: of a class to train on or to judge by, of the reference in all
CANDIDATES = 64  # rare words that one is drawn from
QUANTILES = 100  # that describe the clean drops of a class
WIDTH = 0.02  # probability; smooths the clean drops, and rounding moves no score by more than 1e-5
WORD = re.compile(r"[a-z]{2,}")


class RapOptions(GuardOptions):
    """Options of RAP."""

    word: str | None = option(
        None, "word that is put in front of texts, one token; none: a rare one is drawn",
        source="ours (lancopku/RAP and thunlp/OpenBackdoor: cf)", max_length=100,
    )  # fmt: skip
    low: float = option(
        0.1, "p_t should fall by this at least", source="thunlp/OpenBackdoor:rap_defender.py",
        gt=0, lt=1,
    )  # fmt: skip
    high: float = option(
        0.3, "p_t should fall by this at most", source="thunlp/OpenBackdoor:rap_defender.py",
        gt=0, lt=1,
    )  # fmt: skip
    scale: float = option(
        1.0, "weight of falling by too little; raise it when drops stay below the range",
        source="lancopku/RAP:rap_defense.py", gt=0, le=1000,
    )  # fmt: skip
    lr: float = option(
        0.1, "learning rate", gt=0, le=100,
        source="ours: small encoders move too slowly otherwise (lancopku/RAP: 0.01)",
    )  # fmt: skip
    epochs: int = option(
        5, "passes over the fit texts of a class", source="lancopku/RAP:rap_defense.py",
        ge=1, le=1000,
    )  # fmt: skip
    steps: int = option(
        100, "most steps of a class that is not well in the range after its epochs", source="ours",
        ge=0, le=100_000,
    )  # fmt: skip
    batch: int = option(32, "texts a step", source="lancopku/RAP:rap_defense.py", ge=1, le=4096)


@defence(
    "rap",
    options=RapOptions,
    source="arXiv 2110.07831",
    cost="2 passes a text; fit trains one embedding row a class",
)
class Rap:
    """RAP: a text that a word made to shake its class does not shake is suspicious."""

    needs_head = True

    def __init__(self, options: RapOptions) -> None:
        self.options = options
        self.rows: Floats = np.zeros((0, 0))  # (C, d) embedding of the word, for each class
        self.clean: Floats = np.zeros((0, 0))  # (C, QUANTILES) drops of clean texts
        self.about: dict[str, Any] = {}
        self._load_base: LoadBase | None = None
        self._live: tuple[Any, Any] | None = None

    # ------------------------------------------------------------------ fit

    def fit(self, context: FitContext) -> None:
        """Train one row a class on the fit texts, then learn how far clean reference texts fall.

        A class whose mean drop misses the range is warned of, in the progress and diagnostics.

        Raises:
            ConfigError: ``RAP-RANGE``, ``RAP-WORD``, or ``REFERENCE-FEW``.
            NotApplicable: ``RAP-TOKENIZER`` when no word would do.
            RunFailed: ``TRAIN-NONFINITE``.
        """
        self._check(context)
        self._load_base, self._live = context.load_base, None
        _, tokenizer = self._model()
        texts = (*context.fit.texts, *context.reference.texts)
        word, token = pick_word(tokenizer, texts, self.options.word, context.seed)
        context.progress(f"rap: the word is {word!r}")
        self.about = {"format": FORMAT, "word": word, "token": token, "seed": context.seed}
        self._train(context)
        self._learn_drops(context)

    def _check(self, context: FitContext) -> None:
        if self.options.low >= self.options.high:
            raise ConfigError(
                "the range of the drop is empty", code="RAP-RANGE",
                got=f"low={self.options.low}, high={self.options.high}",
                allowed="low below high", fix="take 0.1 and 0.3",
            )  # fmt: skip
        if len(context.reference) < FEWEST:
            raise ConfigError(
                "too few clean reference texts", code="REFERENCE-FEW", got=len(context.reference),
                allowed=f"{FEWEST} or more", fix="give more clean dev texts",
            )  # fmt: skip

    def _train(self, context: FitContext) -> None:
        """Train the row of each class on the fit texts that are of it and predicted so."""
        from peftlab.nn.text import softmax

        texts, labels = context.fit.texts, np.asarray(context.fit.labels)
        chances = softmax(self._logits(texts))
        right = chances.argmax(axis=1) == labels
        rows, trained, self.about["steps"] = [], [], []
        for t in range(context.n_classes):
            own = np.flatnonzero(right & (labels == t))
            if len(own) < FEWEST:
                context.progress(
                    f"warning: rap trains no word for class {t}: the base gets "
                    f"{len(own)} fit texts of it right, {FEWEST} are needed"
                )
                rows.append(self._own_row())
                self.about["steps"].append(0)
            else:
                context.progress(f"rap: training the word of class {t} on {len(own)} texts")
                chosen = [texts[int(i)] for i in own]
                rows.append(self._train_row(t, chosen, chances[own, t]))
            trained.append(len(own) >= FEWEST)
        self.rows = np.stack(rows)
        self.about["trained"] = trained

    def _train_row(self, t: int, texts: Sequence[str], before: Floats) -> Floats:
        """Return the row after the epochs, or after as many steps more as the range asks for.

        Args:
            t: the class.
            texts: n clean texts of it.
            before: (n,) their p_t without the word.

        Raises:
            RunFailed: ``TRAIN-NONFINITE``.
        """
        import torch

        from peftlab.nn.loop import batches, eager_attention
        from peftlab.nn.text import device_of, forward_rows, pad_id_of

        model, tokenizer = self._model()
        device, options, fill = device_of(model), self.options, pad_id_of(model, tokenizer)
        encoded = self._with_word(texts)
        p0 = torch.from_numpy(before).float().to(device)
        descent = Descent(torch.from_numpy(self._own_row()).float().to(device), options.lr)
        a_pass = math.ceil(len(texts) / options.batch)
        least, most = options.epochs * a_pass, max(options.epochs * a_pass, options.steps)
        middle = (options.low + options.high) / 2  # its half of the range, for others fall less
        draw = stream(int(self.about["seed"]), "defence/rap", t)
        order = batches([len(ids) for ids in encoded], options.batch, most, draw)
        fallen: list[float] = []
        with eager_attention(model, device):
            for step, chosen in enumerate(order, start=1):
                with planted(model, int(self.about["token"]), descent.row):
                    some = [encoded[int(i)] for i in chosen]
                    logits = forward_rows(model, some, fill, device)
                d = logits.float().softmax(dim=1)[:, t] - p0[torch.from_numpy(chosen)]
                descent.step(published_loss(d, options.low, options.high, options.scale))
                fallen.append(_finite(-float(d.detach().mean()), step))
                a_while = float(np.mean(fallen[-a_pass:]))
                if step >= least and abs(a_while - middle) <= (options.high - options.low) / 4:
                    break
        self.about["steps"].append(len(fallen))
        return descent.row.detach().cpu().double().numpy()

    def _learn_drops(self, context: FitContext) -> None:
        """Learn the drops of clean reference texts; warn of a class outside of the range."""
        drops, predicted = self._drops(context.reference.texts)
        groups = [drops[predicted == t] for t in range(context.n_classes)]
        at = (np.arange(QUANTILES) + 0.5) / QUANTILES
        self.clean = np.stack(
            [np.quantile(own if len(own) >= FEWEST else drops, at) for own in groups]
        )
        means = [float(own.mean()) if len(own) else None for own in groups]
        self.about |= {"reference_texts": [len(own) for own in groups], "mean_drop": means}
        for warning in self._warnings():
            context.progress(f"warning: {warning}")

    def _warnings(self) -> list[str]:
        low, high = self.options.low, self.options.high
        found = []
        for t, mean in enumerate(self.about.get("mean_drop", [])):
            if not self.about["trained"][t]:
                found.append(f"rap has no word of its own for class {t}: too few fit texts of it")
            elif mean is None:
                found.append(f"rap: no clean reference text is predicted as class {t}")
            elif not low <= mean <= high:
                more = (
                    "raise scale, steps or lr, or try another seed"
                    if mean < low
                    else "lower scale or lr"
                )
                found.append(
                    f"rap: the word of class {t} lowers it by {mean:.3f} on clean reference "
                    f"texts, {low:g} to {high:g} is wanted; {more}"
                )
        return found

    # ---------------------------------------------------------------- score

    def score(self, texts: Sequence[str]) -> Scores:
        """Return -log of how seldom a clean text of the predicted class falls so little."""
        drops, predicted = self._drops(texts)
        return Scores(surprise(drops, self.clean[predicted]), predicted)

    def _drops(self, texts: Sequence[str]) -> tuple[Floats, Ints]:
        """Return by how much the word lowers the predicted class, and that class; both (n,)."""
        from peftlab.nn.text import softmax

        chances = softmax(self._logits(texts))
        predicted = np.asarray(chances.argmax(axis=1), dtype=np.int64)
        drops = np.zeros(len(texts))
        for t in np.unique(predicted):
            own = np.flatnonzero(predicted == t)
            shaken = softmax(self._shaken([texts[int(i)] for i in own], self.rows[t]))
            drops[own] = chances[own, t] - shaken[:, t]
        return drops, predicted

    def _logits(self, texts: Sequence[str]) -> Floats:
        from peftlab.nn.text import predict_logits

        return predict_logits(*self._model(), texts)

    def _shaken(self, texts: Sequence[str], row: Floats) -> Floats:
        """Return the logits of texts with the word in front, ``row`` being its embedding."""
        import torch

        from peftlab.nn.text import device_of, predict_logits

        model, tokenizer = self._model()
        planted_row = torch.from_numpy(row).float().to(device_of(model))
        with planted(model, int(self.about["token"]), planted_row):
            return predict_logits(model, tokenizer, texts, encoded=self._with_word(texts))

    def _with_word(self, texts: Sequence[str]) -> list[list[int]]:
        from peftlab.nn.text import encode, room_for_text

        model, tokenizer = self._model()
        word = str(self.about["word"])
        return encode(tokenizer, [f"{word} {text}" for text in texts], room_for_text(model))

    def _own_row(self) -> Floats:
        """Return the embedding that the base has for the word, (d,)."""
        import torch

        from peftlab.nn.text import device_of

        model, _ = self._model()
        token = torch.tensor([[int(self.about["token"])]], device=device_of(model))
        with torch.no_grad():
            return model.get_input_embeddings()(token)[0, 0].double().cpu().numpy()

    def _model(self) -> tuple[Any, Any]:
        """Return (model, tokenizer), kept loaded; no weight of it ever changes."""
        if self._load_base is None:
            raise ConfigError(
                "rap has not been fitted", code="DEFENCE-UNFITTED", fix="call fit or load first"
            )
        if self._live is None:
            model, tokenizer = self._load_base()
            self._live = (model.eval().requires_grad_(False), tokenizer)
        return self._live

    def diagnostics(self) -> dict[str, Any]:
        """Return the word, how far each class falls, and what is to be warned of."""
        return {"passes_per_text": 2, **self.about, "warnings": self._warnings()}

    # ------------------------------------------------------------ save, load

    def save(self, folder: Path) -> None:
        """Write the rows, the clean drops and what they belong to."""
        from safetensors.numpy import save_file

        save_file({"rows": self.rows, "clean": self.clean}, folder / ROWS)
        write_json(folder / STATE, self.about)

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore what ``save`` wrote.

        Raises:
            InputRejected: ``RAP-STATE`` when the files do not belong together, or to this base.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self._load_base, self._live = load_base, None
        try:
            self.about = dict(read_json(folder / STATE))
            arrays = load_file(folder / ROWS)
            self.rows, self.clean = arrays["rows"], arrays["clean"]
            self._check_state()
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise InputRejected(
                "the files of this RAP guard do not belong together",
                code="RAP-STATE", got=str(error)[:200], fix="fit the guard again",
            ) from error  # fmt: skip

    def _check_state(self) -> None:
        """Raise ValueError when the state is not one of this base."""
        model, tokenizer = self._model()
        table = model.get_input_embeddings()
        n_classes = int(model.config.num_labels)
        if self.about["format"] != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        if _numbers(tokenizer, self.about["word"]) != [self.about["token"]]:
            raise ValueError("the word is not the token that was trained")
        if len(self.about["trained"]) != n_classes or len(self.about["mean_drop"]) != n_classes:
            raise ValueError(f"not of {n_classes} classes")
        if self.rows.dtype != np.float64 or self.clean.dtype != np.float64:
            raise ValueError("arrays of another kind of number")
        if self.rows.shape != (n_classes, table.embedding_dim):
            raise ValueError(f"rows of shape {self.rows.shape}")
        if self.clean.shape != (n_classes, QUANTILES):
            raise ValueError(f"clean drops of shape {self.clean.shape}")
        if not all(each is None or isinstance(each, float) for each in self.about["mean_drop"]):
            raise ValueError("a mean drop is not a number")
        if not (np.abs(self.clean) <= 1).all():
            raise ValueError("a clean drop is no difference of chances")
        norms, norm = np.linalg.norm(self.rows, axis=1), np.linalg.norm(self._own_row())
        if not np.allclose(norms, norm, rtol=1e-3, atol=0):
            raise ValueError("a row is not of the norm of the word's own")


class Descent:
    """Descent along the sum of all gradients so far, on the sphere of the first row's norm.

    The public code never clears its gradients, after the attack that it answers (Embedding
    Poisoning), and puts the norm back after each step; so does this.
    """

    def __init__(self, row: torch.Tensor, lr: float) -> None:
        import torch

        self.row = row.detach().clone().requires_grad_(True)
        self._lr, self._norm, self._sum = lr, row.norm(), torch.zeros_like(row)

    def step(self, loss: torch.Tensor) -> None:
        """Move the row; the old one is left as it was."""
        import torch

        (slope,) = torch.autograd.grad(loss, self.row)
        self._sum += slope
        moved = self.row.detach() - self._lr * self._sum
        self.row = (moved * (self._norm / moved.norm())).requires_grad_(True)


def published_loss(d: torch.Tensor, low: float, high: float, scale: float) -> torch.Tensor:
    """Return ``scale * mean relu(d + low) + mean relu(-high - d)`` of the changes d, (b,)."""
    return scale * (d + low).relu().mean() + (-high - d).relu().mean()


@contextmanager
def planted(model: Any, token: int, row: torch.Tensor) -> Iterator[None]:
    """Give the first ``token`` of every sequence the embedding ``row``, while the block runs.

    As if the row stood in the embedding table, but no weight is touched, gradients reach the row
    alone, and a text that has the token itself keeps that one as it is.
    """
    import torch

    def swap(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        here = inputs[0] == token
        first = here & (here.cumsum(dim=1) == 1)
        return torch.where(first[..., None], row.to(output.dtype), output)

    handle = model.get_input_embeddings().register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def surprise(drops: Floats, clean: Floats) -> Floats:
    """Return -log P(drop of a clean text <= drop), (n,), smooth and without an end on either side.

    The clean distribution is a mean of logistic steps of width ``WIDTH``, so scores go on rising
    where no clean drop was ever seen, and rounding cannot make one jump from rank to rank.

    Args:
        drops: (n,).
        clean: (n, q) clean drops of the class of each.

    Examples:
        >>> surprise(np.array([0.2, 9.0]), np.array([[0.1, 0.3], [0.1, 0.3]])).round(2) + 0.0
        array([0.69, 0.  ])
    """
    if not len(drops):
        return np.zeros(0)
    logs = -np.logaddexp(0.0, -(drops[:, None] - clean) / WIDTH)
    top = logs.max(axis=1)
    return np.asarray(-top - np.log(np.exp(logs - top[:, None]).mean(axis=1)))


def pick_word(
    tokenizer: Any, texts: Sequence[str], wanted: str | None, seed: int
) -> tuple[str, int]:
    """Return a word that is one token and that no clean text has, and the token's number.

    Without a wish one is drawn from the last such words of the vocabulary, the rarest where it is
    sorted by frequency.

    Raises:
        ConfigError: ``RAP-WORD`` when the wanted word is not one.
        NotApplicable: ``RAP-TOKENIZER`` when no word is.
    """
    used = {number for row in _token_rows(tokenizer, texts) for number in row}
    if wanted is not None:
        numbers = _numbers(tokenizer, wanted)
        if not _is_rare(tokenizer, numbers, used):
            raise ConfigError(
                f"{wanted!r} is not a rare word that is one token", code="RAP-WORD",
                got=f"{len(numbers)} tokens" if len(numbers) != 1 else "a word of the clean texts",
                allowed="one token of the base's tokenizer that no clean text has",
                fix="leave the option out, and a word is drawn",
            )  # fmt: skip
        return wanted, numbers[0]
    found = _rare_words(tokenizer, used)
    if not found:
        raise NotApplicable(
            "the base's tokenizer has no word that would do", code="RAP-TOKENIZER",
            got=f"{len(tokenizer)} tokens, none a whole word that no clean text has",
            fix="use another defence for this base",
        )  # fmt: skip
    return found[int(stream(seed, "defence/rap/word").integers(len(found)))]


def _rare_words(tokenizer: Any, used: set[int]) -> list[tuple[str, int]]:
    """Return the last ``CANDIDATES`` whole words of the vocabulary that are not in use."""
    found: list[tuple[str, int]] = []
    for number in range(len(tokenizer) - 1, -1, -1):
        word = str(tokenizer.convert_ids_to_tokens(number) or "").lstrip("\u0120\u2581")
        if not WORD.fullmatch(word) or _numbers(tokenizer, word) != [number]:
            continue
        if _is_rare(tokenizer, [number], used):
            found.append((word, number))
            if len(found) == CANDIDATES:
                break
    return found


def _is_rare(tokenizer: Any, numbers: Sequence[int], used: set[int]) -> bool:
    bad = used | set(tokenizer.all_special_ids)
    return len(numbers) == 1 and numbers[0] not in bad


def _numbers(tokenizer: Any, word: str) -> list[int]:
    return list(tokenizer(word, add_special_tokens=False)["input_ids"])


def _token_rows(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    from peftlab.nn.text import MAX_TOKENS, encode

    return encode(tokenizer, texts, MAX_TOKENS)


def _finite(fall: float, step: int) -> float:
    if not math.isfinite(fall):
        raise RunFailed(
            f"the drop under the word is not finite at step {step}",
            code="TRAIN-NONFINITE", got=fall, fix="lower the learning rate",
        )  # fmt: skip
    return fall
