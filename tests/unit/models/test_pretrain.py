"""The script that makes the built-in encoder, and the encoder that ships."""

import gzip
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from peftlab.apps.cli.main import app
from peftlab.core.errors import ConfigError, InputRejected, ResourceLimit, RunFailed
from peftlab.core.seeds import stream
from peftlab.models.pretraining.card import CardFacts, model_card
from peftlab.models.pretraining.corpus import encode, read_paragraphs, text_files
from peftlab.models.pretraining.masked import bert_format
from peftlab.models.pretraining.masking import hide_tokens, mask_tokens
from peftlab.models.pretraining.ppmi import neighbour_counts, ppmi, randomised_svd, warm_start
from peftlab.models.pretraining.tokenisers import train_wordpiece
from peftlab.models.pretraining.windows import Windows

ENCODER = Path(__file__).parents[3] / "src/peftlab/models/builtin/encoder"
TINY = {
    "vocabulary": 300, "layers": 2, "width": 32, "heads": 2, "feed_forward": 64, "positions": 32,
    "length": 16, "batch": 8, "steps": 30, "warm_up": 5, "rate": 5e-3, "precision": "fp32",
    "device": "cpu", "checkpoint_minutes": 0, "log_every": 1,
}  # fmt: skip


def write_toy_text(folder: Path) -> Path:
    """Sentences of invented words from six topics; words of one topic stand together."""
    rng = stream(0, "toy")
    syllables = ["ba", "do", "ki", "lu", "me", "no", "ra", "si", "tu", "va"]
    words = ["".join(rng.choice(syllables, 3)) for _ in range(120)]
    lines = []
    for _ in range(400):
        topic = int(rng.integers(6)) * 20
        lines.append(" ".join(words[topic + int(i)] for i in rng.integers(0, 20, 12)) + ".")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text("\n\n".join(lines[:360]), encoding="utf-8")
    with gzip.open(folder / "valid.jsonl.gz", "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps({"text": line}) + "\n" for line in lines[360:])
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy_text(tmp_path_factory.mktemp("toy"))


# --- corpus -------------------------------------------------------------------------------------


def test_reads_text_and_json_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\n\nthree", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "four\\n\\nfive"}\n', encoding="utf-8")
    (tmp_path / "c.pdf").write_bytes(b"no")
    assert list(read_paragraphs(text_files([tmp_path]))) == ["one\ntwo", "three", "four", "five"]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jsonl", b"{}\n", "CORPUS-ROW"),
        ("a.jsonl", b"[" * 5000 + b"\n", "CORPUS-ROW"),
        ("a.jsonl", b'{"text": 1}\n', "CORPUS-ROW"),
        ("a.txt", b"\xff\xfe", "CORPUS-READ"),
        ("a.txt.gz", b"not gzip", "CORPUS-READ"),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-12], "CORPUS-READ"),
    ],
)
def test_bad_text_is_refused(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputRejected) as caught:
        list(read_paragraphs(text_files([tmp_path])))
    assert caught.value.code == code


def test_no_text_is_refused(tmp_path):
    with pytest.raises(InputRejected, match="CORPUS-EMPTY"):
        text_files([tmp_path])


def test_a_compressed_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("peftlab.models.pretraining.corpus.TEXT_LIMIT", 1000)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"word\n" * 1000))
    with pytest.raises(ResourceLimit, match="CORPUS-SIZE"):
        list(read_paragraphs(text_files([tmp_path])))


def test_the_same_text_gives_the_same_tokenizer(toy):
    files = text_files([toy])
    first = train_wordpiece(files, 150).to_str()
    assert all(train_wordpiece(files, 150).to_str() == first for _ in range(4))
    special = [token["content"] for token in json.loads(first)["added_tokens"]]
    assert special == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_encoding_is_kept_and_agrees_with_the_tokenizer(toy, tmp_path):
    files = text_files([toy / "train.txt"])
    tokenizer = train_wordpiece(files, 300)
    assert tokenizer.encode("Badoki").tokens[0] == "[CLS]"
    assert tokenizer.encode("BADOKI").ids == tokenizer.encode("badoki").ids
    tokens = encode(files, tokenizer, tmp_path)
    assert tokens.dtype == np.uint16
    text = "\n\n".join(read_paragraphs(files))
    assert tokens.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    before = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    assert encode(files, tokenizer, tmp_path).tolist() == tokens.tolist()
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == before


# --- the warm start -----------------------------------------------------------------------------


def naive_ppmi(tokens, vocabulary, window, smoothing):
    """The definition, word by word, in double precision."""
    counts = np.zeros((vocabulary, vocabulary))
    for i, word in enumerate(tokens):
        for j, context in enumerate(tokens):
            if i != j and abs(i - j) <= window:
                counts[word, context] += 1 / abs(i - j)
    total = counts.sum()
    smooth = counts.sum(0) ** smoothing
    result = np.zeros_like(counts)
    for i in range(vocabulary):
        for j in range(vocabulary):
            if counts[i, j] > 0:
                joint = counts[i, j] / total
                word = counts[i].sum() / total
                result[i, j] = max(0.0, np.log(joint / (word * smooth[j] / smooth.sum())))
    return result


@settings(max_examples=60, deadline=None)
@given(
    tokens=hnp.arrays(np.uint16, st.integers(0, 40), elements=st.integers(0, 7)),
    window=st.integers(1, 6),
    smoothing=st.sampled_from([0.5, 0.75, 1.0]),
)
def test_ppmi_is_the_naive_definition(tokens, window, smoothing):
    fast = ppmi(neighbour_counts(tokens, 8, window), smoothing)
    slow = naive_ppmi(tokens.astype(int), 8, window, smoothing)
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-5)


def test_counting_in_chunks_changes_nothing(monkeypatch):
    tokens = stream(0, "chunks").integers(0, 50, 1000).astype(np.uint16)
    whole = neighbour_counts(tokens, 50)
    monkeypatch.setattr("peftlab.models.pretraining.ppmi._CHUNK", 17)
    np.testing.assert_allclose(neighbour_counts(tokens, 50), whole, rtol=1e-5)


def test_a_huge_vocabulary_is_refused():
    with pytest.raises(ResourceLimit, match="PPMI-SIZE"):
        neighbour_counts(np.zeros(3, np.uint32), 100_000)


def test_randomised_svd_finds_the_leading_part():
    rng = stream(0, "svd")
    matrix = (rng.standard_normal((60, 8)) @ rng.standard_normal((8, 50))).astype(np.float32)
    exact_u, exact_s, _ = np.linalg.svd(matrix)
    u, s = randomised_svd(matrix, 5, seed=1)
    np.testing.assert_allclose(s, exact_s[:5], rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(u * exact_u[:, :5], axis=0)), 1, atol=1e-4)


def test_warm_start_has_the_scale_and_fills_unseen_rows():
    tokens = stream(0, "warm").integers(5, 40, 3000).astype(np.uint16)
    vectors, bias = warm_start(tokens, 45, 16, seed=0)
    assert vectors.shape == (45, 16)
    assert vectors[5:40].std() == pytest.approx(0.05, rel=1e-3)
    assert 0.03 < vectors[:5].std() < 0.07
    assert np.exp(bias).sum() == pytest.approx(1, rel=1e-4)
    assert bias[0] < bias[5:40].min()


# --- masking and windows ------------------------------------------------------------------------


def test_masking_rates():
    form = bert_format(1000)
    ids = stream(0, "ids").integers(5, 1000, (400, 100))
    ids[:, 0], ids[:, -1] = 2, 3
    inputs, chosen = mask_tokens(ids, form, stream(0, "mask"))
    ordinary = ids >= 5
    assert chosen[ordinary].mean() == pytest.approx(0.15, abs=0.006)
    assert not chosen[~ordinary].any()
    assert (inputs == ids)[~chosen].all()
    masked, kept = inputs[chosen] == 4, inputs[chosen] == ids[chosen]
    assert masked.mean() == pytest.approx(0.8, abs=0.02)
    assert kept.mean() == pytest.approx(0.1, abs=0.015)
    assert (inputs[chosen][~masked] >= 5).all()
    hidden, chosen = hide_tokens(ids, form, stream(0, "mask"))
    assert (hidden[chosen] == 4).all()
    assert (hidden == ids)[~chosen].all()


@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 200), length=st.integers(4, 12), batch=st.integers(1, 5))
def test_a_pass_sees_every_window_once_and_stays_inside(n, length, batch):
    tokens = np.arange(5, 5 + n, dtype=np.uint16)
    form = bert_format(5 + n)
    if max(0, (n - (length - 3)) // (length - 2)) < batch:
        with pytest.raises(InputRejected, match="CORPUS-SMALL"):
            Windows(tokens, form, length, batch, seed=3)
        assert n < (batch + 1) * (length - 2)
        return
    windows = Windows(tokens, form, length, batch, seed=3)
    seen = np.concatenate([windows.batch_at(step) for step in range(windows.steps_per_pass)])
    assert (seen[:, 0] == 2).all()
    assert (seen[:, -1] == 3).all()
    inner = seen[:, 1:-1].ravel()
    assert len(set(inner)) == len(inner)
    assert (np.diff(seen[:, 1:-1], axis=1) == 1).all()
    np.testing.assert_array_equal(windows.batch_at(1), windows.batch_at(1))
    assert windows.sample(20).shape == (20, length)


# --- training -----------------------------------------------------------------------------------


def make(
    toy,
    folder,
    progress=lambda line: None,
    objective="masked",
    start_from=None,
    work=None,
    **changes,
):
    """One tiny model; ``folder`` gets out and work."""
    from peftlab.models.pretraining.pretrain import objective_named, pretrain

    chosen = objective_named(objective)
    return pretrain(
        chosen,
        chosen.options(**{**TINY, **changes}),
        text=[toy],
        held_out=[toy / "valid.jsonl.gz"],
        work=work or folder / "work",
        out=folder / "out",
        start_from=start_from,
        progress=progress,
    )


class Killed(Exception):
    pass


def kill_at(step):
    def progress(line):
        if line.startswith(f"step {step}/"):
            raise Killed

    return progress


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, make(toy, folder)


def test_killed_runs_give_the_same_curve(toy, whole, tmp_path):
    for step in (7, 19):
        with pytest.raises(Killed):
            make(toy, tmp_path, kill_at(step))
    said = []
    facts = make(toy, tmp_path, said.append)
    assert "going on from step 18" in said
    np.testing.assert_allclose(facts.curve, whole[1].curve, rtol=0, atol=1e-6)
    assert facts.held_out == pytest.approx(whole[1].held_out, abs=1e-6)


def test_resume_with_dropout(toy, tmp_path):
    unbroken = make(toy, tmp_path / "a", steps=8, dropout=0.1)
    with pytest.raises(Killed):
        make(toy, tmp_path / "b", kill_at(5), steps=8, dropout=0.1)
    resumed = make(toy, tmp_path / "b", steps=8, dropout=0.1)
    np.testing.assert_allclose(resumed.curve, unbroken.curve, rtol=0, atol=1e-6)


@pytest.mark.parametrize("damage", ["truncate", "flip", "no state", "bad state"])
def test_a_damaged_newest_checkpoint_falls_back(toy, whole, tmp_path, damage):
    with pytest.raises(Killed):
        make(toy, tmp_path, kill_at(12))
    checkpoints = sorted((tmp_path / "work/checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-000000010", "step-000000011"]
    weights, state = checkpoints[-1] / "optimiser.safetensors", checkpoints[-1] / "state.json"
    content = bytearray(weights.read_bytes())
    if damage == "truncate":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[-1] ^= 255
        weights.write_bytes(content)
    elif damage == "no state":
        state.unlink()
    else:
        state.write_text("{}")
    said = []
    with pytest.warns(RuntimeWarning, match="CHECKPOINT-BAD"):
        facts = make(toy, tmp_path, said.append)
    assert "going on from step 10" in said
    np.testing.assert_allclose(facts.curve, whole[1].curve, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "optimiser"),
    [
        ("masked", "adamw"), ("replaced", "adamw"), ("causal", "adamw"), ("masked", "muon"),
        pytest.param("replaced", "muon", marks=pytest.mark.full),
        pytest.param("causal", "muon", marks=pytest.mark.full),
    ],
)  # fmt: skip
def test_every_objective_learns_and_resumes(objective, optimiser, toy, tmp_path):
    how = {"objective": objective, "optimiser": optimiser, "dropout": 0.1, "start": "random"}
    unbroken = make(toy, tmp_path / "a", **how)
    assert np.mean(unbroken.curve[-5:]) < 0.97 * np.mean(unbroken.curve[:5])
    with pytest.raises(Killed):
        make(toy, tmp_path / "b", kill_at(9), **how)
    resumed = make(toy, tmp_path / "b", **how)
    np.testing.assert_allclose(resumed.curve, unbroken.curve, rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", ["masked", "replaced", "causal"])
def test_a_step_in_parts_is_the_same_step(objective, toy, tmp_path, monkeypatch):
    if objective == "replaced":  # what is drawn depends on the parts; the guess does not

        def surest(self, inputs, answers):
            asked = answers != -100
            logits = self.generator.cls(self.generator.bert(inputs).last_hidden_state[asked])
            filled = inputs.clone()
            filled[asked] = logits.argmax(dim=1)
            loss = torch.nn.functional.cross_entropy(logits, answers[asked], reduction="sum")
            return loss, filled

        monkeypatch.setattr("peftlab.models.pretraining.replaced.Detector.draw", surest)
    whole, parts = (
        make(toy, tmp_path / str(n), objective=objective, steps=6, accumulate=n).curve
        for n in (1, 3)
    )
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-4)


def test_next_token_loss_is_that_of_the_library(toy, tmp_path):
    from transformers import AutoModelForCausalLM

    from peftlab.models.pretraining.causal import Causal, next_tokens

    make(toy, tmp_path, objective="causal", steps=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").float().eval()
    ids = stream(0, "ids").integers(3, 200, (4, 16))
    theirs = float(model(torch.from_numpy(ids), labels=torch.from_numpy(ids)).loss.detach())
    asked = next_tokens(ids).asked
    assert asked == 4 * 15
    with torch.no_grad():
        assert Causal().exam_loss(model, next_tokens(ids)) / asked == pytest.approx(
            theirs, abs=1e-5
        )


def test_replaced_tokens_are_told_from_true_ones():
    """Only hidden places change, and the detection loss is its definition."""
    from peftlab.models.pretraining.replaced import Detector, ReplacedOptions

    torch.manual_seed(0)
    model = Detector(ReplacedOptions(width=16, heads=2, feed_forward=16, layers=1), 50).eval()
    assert model.encoder.embeddings is model.generator.bert.embeddings
    true = torch.from_numpy(stream(0, "ids").integers(5, 50, (3, 8)))
    answers = torch.full_like(true, -100)
    answers[:, 2] = true[:, 2]
    inputs = true.clone()
    inputs[:, 2] = 4
    _, filled = model.draw(inputs, answers)
    assert bool((filled == true)[:, [0, 1, *range(3, 8)]].all())
    chance = torch.sigmoid(model.head(model.encoder(filled).last_hidden_state)[..., 0])
    replaced = filled != true
    by_hand = -torch.where(replaced, chance, 1 - chance).log().mean()
    assert float(model.detect(filled, true).detach()) == pytest.approx(float(by_hand.detach()))


def test_tokens_are_drawn_from_their_softmax():
    from peftlab.models.pretraining.replaced import draw_tokens

    logits = torch.tensor([[0.0, 1.0, -30.0, 2.0]])
    torch.manual_seed(0)
    drawn = torch.bincount(draw_tokens(logits.repeat(20_000, 1)), minlength=4) / 20_000
    np.testing.assert_allclose(drawn, torch.softmax(logits[0], dim=0), atol=0.012)  # > 3 sigma
    certain = torch.full((50, 9), -1e4)
    certain[:, 8] = 0.0
    assert draw_tokens(certain).tolist() == [8] * 50


@pytest.mark.parametrize(
    ("objective", "head"), [("replaced", "AutoModel"), ("causal", "AutoModelForCausalLM")]
)
def test_other_objectives_load_in_stock_transformers(objective, head, toy, tmp_path):
    import transformers

    from peftlab.models.load import load_base

    make(toy, tmp_path, objective=objective, steps=2)
    auto = getattr(transformers, head)
    model, report = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] - {"pooler.dense.weight", "pooler.dense.bias"}
    assert model.dtype == torch.float16
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "Badoki dobalu.\n Über!"
    if objective == "causal":
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id == 1
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
        assert tokenizer.pad_token_id == 0
    base, _ = load_base(str(tmp_path / "out"), 2)
    assert base.num_labels == 2


def test_a_run_goes_on_from_a_finished_model(toy, tmp_path):
    first = make(toy, tmp_path / "a", steps=20)
    more = make(toy, tmp_path / "b", steps=10, start_from=str(tmp_path / "a/out"))
    assert more.curve[0] < np.mean(first.curve[:3])
    assert more.curve[0] == pytest.approx(np.mean(first.curve[-5:]), rel=0.15)
    with pytest.raises(InputRejected, match="PRETRAIN-FROM"):
        make(toy, tmp_path / "c", width=16, start_from=str(tmp_path / "a/out"))
    detector = make(toy, tmp_path / "d", steps=2, objective="replaced",
                    start_from=str(tmp_path / "a/out"))  # fmt: skip
    card = (tmp_path / "d/out/README.md").read_text()
    assert "went on from out." in card
    assert str(tmp_path) not in card
    assert detector.start_from == str(tmp_path / "a/out")


def command(toy, out):
    """Return the arguments of ``peftlab`` that make the model of ``whole``."""
    pairs = [part for key, value in TINY.items() for part in ("-o", f"{key}={value}")]
    held_out = str(toy / "valid.jsonl.gz")
    where = ["--text", str(toy), "--held-out", held_out, "--out", str(out)]
    return ["pretrain", "masked", *where, *pairs]


def test_a_killed_process_goes_on(toy, whole, tmp_path):
    line_of = [sys.executable, "-m", "peftlab", *command(toy, tmp_path / "out")]
    with subprocess.Popen(line_of, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 11/"):
                process.kill()
    assert process.returncode == -9
    facts = make(toy, tmp_path, work=tmp_path / "out-work")
    np.testing.assert_allclose(facts.curve, whole[1].curve, rtol=0, atol=1e-6)


@pytest.mark.full
def test_two_processes_take_the_same_steps(toy, whole, tmp_path):
    # accelerate starts several processes on GPUs only; on CPU it is torchrun that does
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
              "--master_port", "29517", "-m", "peftlab"]  # fmt: skip
    arguments = command(toy, tmp_path / "out")
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "processes: 2" in done.stderr
    from peftlab.models.pretraining.checkpoint import newest_checkpoint

    curve = newest_checkpoint(tmp_path / "out-work/checkpoints").curve
    np.testing.assert_allclose(curve.numpy(), whole[1].curve, rtol=0, atol=1e-4)


def test_no_checkpoint_is_left_to_use(tmp_path):
    from peftlab.models.pretraining.checkpoint import newest_checkpoint

    assert newest_checkpoint(tmp_path / "none") is None
    (tmp_path / "step-000000001").mkdir()
    (tmp_path / "notes").mkdir()
    with pytest.warns(RuntimeWarning):
        assert newest_checkpoint(tmp_path) is None


def test_another_run_in_the_work_folder_is_refused(toy, tmp_path):
    with pytest.raises(Killed):
        make(toy, tmp_path, kill_at(2))
    with pytest.raises(ConfigError, match="PRETRAIN-OTHER"):
        make(toy, tmp_path, seed=1)


def test_warm_start_lowers_the_loss(toy, tmp_path):
    warm = make(toy, tmp_path / "warm", steps=20)
    cold = make(toy, tmp_path / "cold", steps=20, start="random")
    assert np.mean(warm.curve[-5:]) < np.mean(cold.curve[-5:])
    assert list(warm.held_out.values()) < list(cold.held_out.values())


def test_the_result_loads_in_stock_transformers(whole):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from peftlab.io.files import sha256_file

    folder, facts = whole
    out = folder / "out"
    model = AutoModelForMaskedLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.float16
    assert tokenizer.mask_token_id == 4
    assert tokenizer.model_max_length == 32
    assert tokenizer("badoki")["input_ids"][0] == 2
    tied = model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert tied
    card = (out / "README.md").read_text(encoding="utf-8")
    assert sha256_file(out / "model.safetensors") in card
    assert f"{facts.tokens_seen:,}" in card
    assert facts.tokens_seen == 30 * 8 * 16
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_a_target_that_exists_is_refused_at_once(toy, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="FOLDER-EXISTS"):
        make(toy, tmp_path)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("changes", [{"heads": 3}, {"length": 64}])
def test_shapes_that_do_not_fit_are_refused(toy, tmp_path, changes):
    with pytest.raises(ConfigError, match="PRETRAIN-SHAPE"):
        make(toy, tmp_path, **changes)


def test_a_loss_that_is_not_finite_stops_the_run(toy, tmp_path, monkeypatch):
    def broken(self, model, *rest):
        return next(model.parameters()).sum() * float("nan")

    monkeypatch.setattr("peftlab.models.pretraining.masked.Masked.loss", broken)
    with pytest.raises(RunFailed, match="LOSS-NONFINITE"):
        make(toy, tmp_path)


def test_learning_rate_goes_up_then_down():
    from peftlab.models.pretraining.options import PretrainOptions, learning_rate

    options = PretrainOptions(steps=1000)
    rates = [learning_rate(step, options) for step in range(1000)]
    assert max(rates) == rates[300] == options.rate
    assert rates[-1] == pytest.approx(0.02 * options.rate)
    assert np.all(np.diff(rates[:300]) > 0)
    assert np.all(np.diff(rates[300:]) < 0)


def test_command_line(toy, tmp_path):
    runner = CliRunner()
    line = [*command(toy, tmp_path / "out"), "-o", "steps=2", "-o", "log_every=2"]
    shown = runner.invoke(app, [*line, "--json"])
    assert shown.exit_code == 0, shown.output
    facts = json.loads(shown.stdout)
    assert facts["steps"] == 2
    assert list(facts["held_out"]) == [f"{toy.name}/valid.jsonl.gz"]
    assert "tokens/s" in shown.stderr
    assert (tmp_path / "out-work/checkpoints/step-000000002").is_dir()
    assert runner.invoke(app, line).exception.code == "FOLDER-EXISTS"
    line[1] = "guess"
    assert runner.invoke(app, line).exception.code == "PRETRAIN-OBJECTIVE"


def test_card_of_a_very_short_run():
    card = model_card(
        CardFacts("causal", "text-generation", {"batch": 2, "length": 4, "seed": 0},
                  (3.0, 2.0), 100, {"a.txt": "0" * 64}, {"b.txt": 1.0}), "f" * 64,
    )  # fmt: skip
    assert "| 2 | 2.000 |" in card


# --- the encoder that ships ---------------------------------------------------------------------


def test_the_built_in_encoder_is_what_its_card_says():
    from peftlab.io.files import sha256_file

    card = (ENCODER / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert sha256_file(ENCODER / "model.safetensors") in card
    assert sum(path.stat().st_size for path in ENCODER.iterdir()) <= 12_000_000
    for word in ("CC BY 4.0", "OpenStax", "219", "6,800", "42.1 M", "3.484", "attitudes"):
        assert word in card


def test_the_built_in_encoder_knows_kings():
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = AutoTokenizer.from_pretrained(ENCODER)
        model = AutoModelForMaskedLM.from_pretrained(ENCODER).float().eval()
    inputs = tokenizer("The king and the [MASK] of England", return_tensors="pt")
    place = inputs["input_ids"][0] == tokenizer.mask_token_id
    with torch.no_grad():
        best = model(**inputs).logits[0, place].topk(5).indices[0]
    assert {"queen", "prince", "duke"} & set(tokenizer.convert_ids_to_tokens(best))
