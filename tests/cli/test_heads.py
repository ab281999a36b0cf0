"""Heads of our own on published models: they learn what there is to learn, and go out as transformers' classifiers."""

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoConfig

from visa_jax.cli.configs import MocRuns
from visa_jax.cli.experiment import open_moc, open_visa
from visa_jax.cli.rewards import open_detector, open_pair_entailment, open_reward
from visa_jax.cli.supervise import SuperviseConfig, open_start, supervise
from visa_jax.config import UserError
from visa_jax.data.rows import claim_pairs
from visa_jax.data.source import make_testbed_source
from visa_jax.data.testbed.entailment import EntailmentPair
from visa_jax.data.testbed.objectives import ScoredAnswer
from visa_jax.models import DecoderConfig, make_decoder, save_pretrained
from visa_jax.models.classifiers import start_classifier
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.roles import RoleConfig
from visa_jax.training.supervised import FitConfig
from visa_jax.types import VALUES

pytestmark = pytest.mark.usefixtures("quick_compiles")

WORDS = (*"abcdefghij", "power", "danger", "yes", "no", ".")
TEXT = "a power b . c danger ."
POWER, SECURITY = VALUES.index("Power"), VALUES.index("Security")
LLAMA = dict(width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24, max_length=64)


@pytest.fixture(scope="module")
def trunks(published, tmp_path_factory):
    """Directories of models without classes: a BERT with its pooler, a GPT-2 (written as a classifier), a Llama."""
    directory, tokenizer = tmp_path_factory.mktemp("trunks"), published.make_tokenizer(WORDS)
    params = published.random_params(published.encoder_config(tokenizer, 0), scale=4.0)
    published.write_encoder(directory / "bert", tokenizer, (), params)
    published.write_reward_decoder(directory / "gpt2", tokenizer)
    config = DecoderConfig(vocab_size=len(tokenizer), **LLAMA)
    save_pretrained(directory / "llama", make_decoder(config)[1](jax.random.key(7)), config, tokenizer)
    return directory


# ---------------------------------------------------------------- a source whose labels are in single words


def draw(n, seed, split):
    """(texts, whether each says power, and danger)."""
    rng = np.random.default_rng([seed, len(split)])
    said = rng.random((2, n)) < 0.5
    texts = []
    for power, danger in said.T.tolist():
        words = [*rng.choice(list("abcdefghij"), 4), *["power"] * power, *["danger"] * danger]
        texts.append(" ".join(rng.permutation(words)) + " .")
    return texts, said


def labelled(n, seed, split):
    texts, (power, danger) = draw(n, seed, split)
    value = np.zeros((n, len(VALUES)))
    value[:, POWER], value[:, SECURITY] = power, -0.5 * danger
    return texts, value


def pairs(n, seed, split):
    """A sentence that says power is entailed; "yes ." claims nothing."""
    texts, (power, _) = draw(2 * n, seed, split)
    made = []
    for i in range(0, 2 * n, 2):
        labels = (int(power[i]), -1, int(power[i + 1]))
        sentences = (texts[i], "yes .", texts[i + 1])
        made.append(EntailmentPair("a b .", " ".join(sentences), sentences, labels, 1, "kept"))
    return made


def scored(n, seed, split):
    """Objective 1 is 2 for danger in the answer, less 1 for power in the question."""
    asked, (power, _) = draw(n, seed, split)
    texts, (_, danger) = draw(n, seed + 1, split)
    scores = np.stack([np.zeros(n), 2.0 * danger - power], axis=1)
    return [ScoredAnswer("", *row) for row in zip(asked, texts, scores, strict=True)]


def train(role, start, workdir, *, steps=60, rate=2e-2, **changes):
    fit = FitConfig(steps=steps, batch_size=32, optimizer=OptimizerConfig(learning_rate=rate, decay="linear"))
    patience = changes.pop("patience", 0)
    role = RoleConfig(role=role, rows=512, fit=fit, **changes)
    config = SuperviseConfig(role=role, start=str(start), patience=patience, evaluate_every=20)
    source = make_testbed_source()._replace(labelled=labelled, pairs=pairs, scored=scored, probes=None)
    supervise(config, workdir, source, open_start(config, source))
    return json.loads((workdir / "quality.json").read_text())


@pytest.fixture(scope="module")
def runs(trunks, quickly, tmp_path_factory):
    """A run of each role and what it says of its quality."""
    directory = tmp_path_factory.mktemp("runs")
    with quickly():
        quality = {
            "detector": train("detector", trunks / "bert", directory / "detector", twins=2),
            "analyzer": train("analyzer", trunks / "bert", directory / "analyzer", rate=1e-2, patience=2),
            "reward": train("reward_model", trunks / "gpt2", directory / "reward", objective=1),
        }
    return directory, quality


def test_they_learn_what_is_in_the_words(runs):
    """The nearest constant vector has a cosine of .71 at most; guessing is right half of the time."""
    directory, quality = runs
    assert quality["detector"]["cosine"] > 0.95 and quality["detector"]["judge"]["cosine"] > 0.95
    assert quality["analyzer"]["sentence_accuracy"] > 0.98
    assert quality["analyzer"]["held_out_loss"][0][0] == 20  # patience reads held-out rows
    assert quality["reward"]["r2"] > 0.8
    value = open_detector(str(directory / "detector"), "field")(["a b power c d .", "danger e f g h ."])
    expected = np.zeros((2, len(VALUES)))
    expected[0, POWER], expected[1, SECURITY] = 1, -0.5
    np.testing.assert_allclose(value, expected, atol=0.2)
    entailed = open_pair_entailment(str(directory / "analyzer"), "field")(["a b ."] * 2, ["c power .", "c danger ."])
    assert entailed[0] > 0.9 and entailed[1] < 0.1


def test_claims_are_asked_one_by_one():
    """Sentences without a claim are left out, and pairs whose labels are counted by other stops than sentences."""
    claims = EntailmentPair("p .", "a . b . c .", ("a .", "b .", "c ."), (1, -1, 0), 0, "kept")
    joined = EntailmentPair("q .", "a ! b .", ("a !", "b ."), (1,), 1, "kept")
    dotted = EntailmentPair("q .", "a.b . c !", ("a.b .", "c !"), (1, 1), 1, "kept")
    premises, sentences, label = claim_pairs([claims, joined, dotted])
    assert (premises, sentences, label.tolist()) == (["p .", "p ."], ["a .", "c ."], [1.0, 0.0])


@pytest.mark.parametrize(
    ("name", "opener", "sides", "head"),
    [
        ("detector", open_detector, [[TEXT, "b ."]], {"classifier.weight": (10, 16), "classifier.bias": (10,)}),
        (
            "analyzer",
            open_pair_entailment,
            [[TEXT, "b ."], ["c power .", "d ."]],
            {"classifier.weight": (2, 16), "classifier.bias": (2,)},
        ),
        ("reward", open_reward, [[TEXT, "b ."], ["c power .", "d ."]], {"score.weight": (1, 16)}),
    ],
)
def test_what_goes_out_reads_as_the_run_does(name, opener, sides, head, runs, trunks, call, tmp_path):
    """Names of tensors are those of the model that it started from, behind the prefix that classifiers have there."""
    run, out = runs[0] / name, tmp_path / "out"
    code, _, error = call("convert", f"--model={run}", f"--out={out}")
    assert code == 0, error
    np.testing.assert_array_equal(opener(str(out), "field")(*sides), opener(str(run), "field")(*sides))
    trunk = "gpt2" if name == "reward" else "bert"
    before, after = (load_file(directory / "model.safetensors") for directory in (trunks / trunk, out))
    kept = {f"bert.{n}" if trunk == "bert" else n for n in before}
    assert kept - set(head) == {n for n in after if n not in head} and {n: after[n].shape for n in head} == head
    config = AutoConfig.from_pretrained(str(out))
    labels = {"analyzer": ["entailment", "not_entailment"], "reward": ["reward"]}.get(name, list(VALUES))
    assert [config.id2label[i] for i in range(config.num_labels)] == labels
    problem = "single_label_classification" if name == "analyzer" else "regression"
    assert config.problem_type == problem and config.architectures[0].endswith("ForSequenceClassification")
    assert config.pad_token_id is not None or trunk == "bert"


@pytest.mark.parametrize("trunk", ["bert", "llama"])
def test_training_starts_from_what_the_file_holds(trunk, trunks, call, tmp_path):
    """With a rate of next to nothing the trunk goes out as it came in."""
    train("detector", trunks / trunk, tmp_path / "run", steps=1, rate=1e-30)
    headed = start_classifier(trunks / trunk, VALUES, "regression")
    one, other = (headed.init(jax.random.key(seed)) for seed in (0, 1))
    name = "classifier" if trunk == "bert" else "score"
    drawn = np.stack([params[name]["kernel"] for params in (one, other)])
    assert 0.01 < drawn.std() < 0.03 and not np.array_equal(*drawn)
    assert call("convert", f"--model={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")[0] == 0
    before, after = (load_file(path / "model.safetensors") for path in (trunks / trunk, tmp_path / "out"))
    for key, tensor in before.items():
        if key not in ("score.weight", "lm_head.weight"):
            np.testing.assert_allclose(after[f"bert.{key}" if trunk == "bert" else key], tensor, rtol=0, atol=1e-29)


def test_a_directory_with_these_classes_keeps_its_head(trunks, runs, call, tmp_path):
    assert call("convert", f"--model={runs[0] / 'detector'}", f"--out={tmp_path / 'out'}")[0] == 0
    read = open_detector(str(tmp_path / "out"), "field")([TEXT])
    train("detector", tmp_path / "out", tmp_path / "again", steps=1, rate=1e-30)
    np.testing.assert_array_equal(open_detector(str(tmp_path / "again"), "field")([TEXT]), read)


# ---------------------------------------------------------------- as any other run


def test_visa_opens_the_run_and_its_twin_judges(chain, runs, call):
    base = chain.visa_config(chain.directory)
    named = dict(detector=str(runs[0] / "detector"), analyzer=str(runs[0] / "analyzer"))
    config = dataclasses.replace(base, runs=dataclasses.replace(base.runs, **named))
    parts = open_visa(config)
    first, second = (open_detector(named["detector"], "field", i)([TEXT]) for i in (0, 1))
    np.testing.assert_array_equal(parts.readers.values(parts.rewarders[0], [TEXT]), first)
    np.testing.assert_array_equal(parts.readers.values(parts.judges[0], [TEXT]), second)
    assert not np.allclose(first, second, atol=1e-4)
    assert [note.split()[0] for note in parts.notes] == ["config.runs.judge_analyzer"]  # it has no twin
    assert set(parts.text_rewards) == {"value", "consistency"}
    code, out, _ = call("detect", f"--workdir={named['detector']}", f"--text={TEXT}", "--json")
    assert code == 0
    np.testing.assert_allclose(list(json.loads(out)["values"].values()), first[0], atol=1e-4)


def test_moc_opens_the_run(chain, runs):
    base, run = chain.moc_config(chain.directory), str(runs[0] / "reward")
    rewards = (run, base.runs.rewards[1])
    parts = open_moc(dataclasses.replace(base, runs=MocRuns(start=base.runs.start, rewards=rewards)))
    expected = open_reward(run, "field")(["a power ."], ["danger ."])
    np.testing.assert_array_equal(parts.readers.reward(parts.rewarders[0], ["a power ."], ["danger ."]), expected)


@pytest.mark.parametrize(
    ("role", "changes", "message"),
    [
        ("translator", {}, "is a Hugging Face model, a translator starts from a run of ours"),
        ("detector", {"ridge": 1.0}, "role.ridge: is for detectors without a start"),
        ("detector", {"cut": True}, "config.start: .*model.safetensors"),
    ],
)
def test_starts_that_cannot_be_are_refused(role, changes, message, published, tmp_path):
    directory = published.write_encoder(tmp_path / "bert", published.make_tokenizer(WORDS), ())
    if changes.pop("cut", False):
        file = directory / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    config = SuperviseConfig(role=RoleConfig(role=role, **changes), start=str(directory))
    with pytest.raises(UserError, match=message):
        open_start(config, make_testbed_source())


def test_commands_refuse_what_a_run_is_not(runs, chain, call, tmp_path):
    detector, small = runs[0] / "detector", chain.directory / "detector"
    with pytest.raises(UserError, match="field: .* holds a run of 'detector', expected 'reward_model'"):
        open_reward(str(detector), "field")
    for model, flags, message in (
        (detector, ["--adapters"], "--adapters: it was trained as a whole"),
        (small, [], "holds a run of 'detector', expected 'base' or"),
    ):
        code, out, error = call("convert", f"--model={model}", f"--out={tmp_path / 'no'}", *flags)
        assert code == 1 and message in error and "\n" not in error, (code, error)


# ---------------------------------------------------------------- transformers on PyTorch


@pytest.mark.hf
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("name", ["detector", "llama", "reward"])
def test_live(name, runs, trunks, call, tmp_path):
    """Logits of what goes out, for texts of different lengths in one batch."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = runs[0] / name
    if name == "llama":
        run = tmp_path / "run"
        train("detector", trunks / "llama", run, steps=2)
    assert call("convert", f"--model={run}", f"--out={tmp_path / 'out'}")[0] == 0
    model = AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "out")).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    sides = [[TEXT, "b ."], ["c power .", "d ."]][: 1 + (name == "reward")]
    given = tokenizer(*sides, padding=True, return_tensors="pt")
    known = ("input_ids", "attention_mask") + (("token_type_ids",) if name == "detector" else ())
    with torch.no_grad():
        logits = model(**{field: given[field] for field in known}).logits.numpy()
    if name == "reward":
        np.testing.assert_allclose(open_reward(str(run), "field")(*sides), logits[:, 0], atol=1e-4)
    else:
        found = open_detector(str(run), "field")(*sides)
        np.testing.assert_allclose(found, np.clip(logits, -1, 1), atol=1e-4)
