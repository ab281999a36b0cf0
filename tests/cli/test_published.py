"""Published models as rewards, detectors and judges: by hand-made weights, through the commands, and refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from visa_jax.cli.configs import MocRuns
from visa_jax.cli.experiment import make_visa_set, open_moc, open_visa
from visa_jax.cli.judging import make_loop
from visa_jax.cli.rewards import ReadingConfig, open_analyzer, open_detector, open_embedder, open_reward
from visa_jax.config import UserError, to_json
from visa_jax.data.testbed.vocabulary import vocabulary
from visa_jax.methods.visa import VisaConfig
from visa_jax.training.metrics import METRICS_FILE
from visa_jax.types import VALUES

pytestmark = pytest.mark.usefixtures("quick_compiles")

NLI = ("contradiction", "neutral", "entailment")
WORDS = tuple("abcdefghijklmnopqrstuvwxyz") + (".", "!", ",")


# ---------------------------------------------------------------- a classifier whose logits are known


class ByHand:
    """A BERT of one block whose attention takes the mean and whose MLP is 0: computed again below, in numpy."""

    def __init__(self, published, directory, max_length, labels):
        self.tokenizer = published.make_tokenizer(WORDS)
        config = published.encoder_config(self.tokenizer, len(labels), max_length)
        params = jax.tree.map(np.array, published.random_params(config))
        rng = np.random.default_rng(0)  # the same whatever the size of the other parameters
        head = params["classifier"]
        for owner, name, scale in ((params, "embedding", 1), (params, "types", 1), (head, "kernel", 0.8)):
            owner[name] = (scale * rng.normal(size=owner[name].shape)).astype(np.float32)
        params["classifier"]["bias"] *= 0
        unit = np.eye(config.width, dtype=np.float32)
        block = params["layers"]
        for name, kernel in (("query", 0 * unit), ("key", 0 * unit), ("value", unit), ("out", unit)):
            block["attention"][name]["kernel"] = kernel.reshape(block["attention"][name]["kernel"].shape)
        block["mlp"]["down"]["kernel"] *= 0
        params["pooler"]["kernel"] = unit
        params["positions"] *= 0
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: 0 * x if path[-1].key == "bias" and path[0].key != "classifier" else x, params
        )
        self.params, self.directory = params, directory
        published.write_encoder(directory, self.tokenizer, labels, params, max_length=max_length)

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def logits(self, first, second=None):
        """Of ids: [CLS] first [SEP] and, of type 1, second [SEP]."""
        token, kind = [1, *first, 2], [0] * (len(first) + 2)
        if second is not None:
            token, kind = token + [*second, 2], kind + [1] * (len(second) + 1)
        x_TD = norm(self.params["embedding"][token] + self.params["types"][kind])
        state_D = norm(norm(x_TD[0] + x_TD.mean(axis=0)))
        return np.tanh(state_D) @ self.params["classifier"]["kernel"] + self.params["classifier"]["bias"]

    def entailed(self, premise_windows, hypothesis):
        shares = [np.exp(self.logits(window, self.ids(hypothesis))) for window in premise_windows]
        return max(share[2] / share.sum() for share in shares)


def norm(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-12)


@pytest.fixture(scope="module")
def by_hand(published, tmp_path_factory):
    return ByHand(published, tmp_path_factory.mktemp("nli") / "short", 16, NLI)


@pytest.fixture(scope="module")
def roomy(published, tmp_path_factory):
    """The same weights with room for 64 tokens."""
    return ByHand(published, tmp_path_factory.mktemp("nli") / "long", 64, NLI)


PREMISE, TEXT = "a b , c d .", "c d . x ! a ."  # 6 and 7 tokens: with three special ones 16
LONG = "a b c d e f g h i j k l m n o p q r s t ."  # 21 tokens


def test_entailment_by_hand(by_hand):
    forward, backward = open_analyzer(by_hand.directory, "field", consistency="nli")([PREMISE], [TEXT])
    sentences = [by_hand.entailed([by_hand.ids(PREMISE)], s) for s in ("c d .", "x !", "a .")]
    np.testing.assert_allclose(forward, [np.mean(sentences)], atol=1e-5)
    np.testing.assert_allclose(backward, [by_hand.entailed([by_hand.ids(TEXT)], PREMISE)], atol=1e-5)
    assert np.ptp(sentences) > 5e-3  # far more than the tolerance: the sentences are told apart


def test_a_long_premise_is_judged_by_its_best_window(by_hand):
    """16 tokens less [CLS], two [SEP] and the three of the sentence leave ten; two are shared: 0-9, 8-17, 16-20."""
    forward, _ = open_analyzer(by_hand.directory, "field", consistency="nli")([LONG], ["x y !"])
    windows = [by_hand.ids(LONG)[begin : begin + 10] for begin in (0, 8, 16)]
    each = [by_hand.entailed([window], "x y !") for window in windows]
    np.testing.assert_allclose(forward, [max(each)], atol=1e-5)
    assert np.ptp(each) > 0.01


def test_the_window_does_not_matter_where_the_premise_fits(by_hand, roomy):
    narrow, wide = (open_analyzer(m.directory, "field", consistency="nli") for m in (by_hand, roomy))
    for found, expected in zip(narrow([PREMISE], [TEXT]), wide([PREMISE], [TEXT]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert abs(narrow([LONG], ["x y !"])[0] - wide([LONG], ["x y !"])[0])[0] > 1e-3


def test_a_pair_is_judged_alike_alone_and_among_others(roomy):
    """Long neighbours widen the padding, 40 rows make two batches, order and repetition change nothing."""
    judge = open_analyzer(roomy.directory, "field", consistency="nli")
    rng = np.random.default_rng(0)
    sources = [" ".join(rng.choice(WORDS, size)) + " ." for size in rng.integers(1, 50, size=40)]
    texts = [" ".join(rng.choice(WORDS, size)) + " ." for size in rng.integers(1, 20, size=40)]
    together = np.stack(judge(sources, texts))
    order = rng.permutation(40)
    shuffled = np.stack(judge([sources[i] for i in order], [texts[i] for i in order]))
    np.testing.assert_allclose(shuffled, together[:, order], atol=1e-6)
    for i in (0, 17, 39):
        np.testing.assert_allclose(np.stack(judge([sources[i]], [texts[i]]))[:, 0], together[:, i], atol=1e-6)
    twice = np.stack(judge(sources[:2] * 2, texts[:2] * 2))
    np.testing.assert_allclose(twice, np.tile(together[:, :2], 2), atol=1e-6)


def test_few_programs_serve_all_lengths(roomy, compiles):
    """Widths 32 and 64, whatever the number of texts."""
    judge = open_analyzer(roomy.directory, "field", consistency="nli")
    judge([PREMISE, LONG + LONG], [TEXT, TEXT])
    compiles.reset()
    for count in (1, 3, 33):
        judge([PREMISE, LONG + LONG] * count, [TEXT + " b ." * count, "j ."] * count)
    assert compiles.count == 0, compiles.names


def test_detectors_and_rewards_by_hand(published, tmp_path):
    names = tuple(reversed(VALUES))
    model = ByHand(published, tmp_path / "values", 64, names)
    found = open_detector(model.directory, "field")(["a b .", "c"])
    expected = [1 / (1 + np.exp(-model.logits(model.ids(text))[::-1])) for text in ("a b .", "c")]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    logits = model.logits(model.ids("a b"), model.ids("c ."))
    kinds = dict(label="Power", inputs="pair")
    reward = open_reward(model.directory, "field", score="logit", **kinds)
    np.testing.assert_allclose(reward(["a b"], ["c ."]), [logits[names.index("Power")]], atol=1e-5)
    odds = open_reward(model.directory, "field", score="log_odds", **kinds)(["a b"], ["c ."])
    share = np.exp(logits[names.index("Power")]) / np.exp(logits).sum()
    np.testing.assert_allclose(odds, [np.log(share / (1 - share))], atol=1e-5)
    answer = open_reward(model.directory, "field", score="logit", label="Power", inputs="answer")
    np.testing.assert_allclose(answer(["a b"], ["c ."]), [model.logits(model.ids("c ."))[5]], atol=1e-5)


def test_embeddings_of_the_same_text_are_the_same(by_hand):
    both = open_analyzer(by_hand.directory, "field", consistency="embedding")([PREMISE, "a b ."], [PREMISE, "w z ."])
    for side in both:
        assert side[0] == pytest.approx(1, abs=1e-6) and side[1] < 0.999


@pytest.mark.parametrize(
    "files, message",
    [
        ({"1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}}, "cls_token"),
        ({"modules.json": [{"type": "sentence_transformers.models.Dense"}]}, "a Dense layer behind the mean"),
        ({"1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}}, None),
    ],
)
def test_an_embedder_that_is_not_the_mean_is_refused(files, message, published, tmp_path):
    model = ByHand(published, tmp_path / "model", 64, NLI)
    for name, contents in files.items():
        path = model.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(contents))
    if message is None:
        np.testing.assert_allclose(np.linalg.norm(open_embedder(model.directory, "field")(["a b"])), 1, atol=1e-5)
    else:
        with pytest.raises(UserError, match=f"^field: {model.directory}/{next(iter(files))}: .*{message}"):
            open_embedder(model.directory, "field")


# ---------------------------------------------------------------- training and judging with them


@pytest.fixture(scope="module")
def models(published, tmp_path_factory):
    """Directories by name, over the testbed's words."""
    directory, tokenizer = tmp_path_factory.mktemp("published"), published.make_tokenizer(vocabulary())
    for seed, name in enumerate(("", "other_")):
        published.write_encoder(directory / f"{name}nli", tokenizer, NLI, seed=seed)
        published.write_encoder(directory / f"{name}values", tokenizer, VALUES, seed=seed + 2)
    published.write_encoder(directory / "humour", tokenizer, ("NO_HUMOR", "HUMOR"), seed=5)
    published.write_reward_decoder(directory / "scalar", tokenizer)
    return directory


def visa_config(chain, models, **runs):
    base = chain.visa_config(chain.directory)
    runs = {"detector": str(models / "values"), "analyzer": str(models / "nli")} | runs
    return dataclasses.replace(base, runs=dataclasses.replace(base.runs, **runs), loop=chain.loop_config(steps=2))


def write_page(path, config):
    """A page of a config, and its flag."""
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n"
        "def get_config(arg=None):\n"
        "    as_tuples = lambda x: tuple(map(as_tuples, x)) if isinstance(x, list) else "
        "{k: as_tuples(v) for k, v in x.items()} if isinstance(x, dict) else x\n"
        f"    return ConfigDict(as_tuples(json.loads({to_json(config)!r})))\n"
    )
    return f"--config={path}"


def test_visa_trains_and_is_judged_by_published_models(chain, models, call, tmp_path):
    visa = VisaConfig(num_generations=2, reward_names=("value", "consistency", "similarity", "length"))
    visa = dataclasses.replace(visa, reward_weights=(0.5, 0.5, 0.5, 0.1))
    runs = {"embedder": str(models / "nli"), "judge_detector": str(chain.directory / "detector")}
    config = dataclasses.replace(visa_config(chain, models, **runs), visa=visa)
    workdir = tmp_path / "visa"
    code, _, error = call("train", write_page(tmp_path / "page.py", config), f"--workdir={workdir}")
    assert code == 0, error
    note = f"config.runs.judge_analyzer names no independent judge: {models / 'nli'} judges what it rewarded"
    assert note in error and "judge_detector" not in error
    rows = [json.loads(line) for line in (workdir / METRICS_FILE).read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and all(np.isfinite(row["loss"]) for row in rows)

    code, table, error = call("evaluate", f"--workdir={workdir}", "--rows=3")
    assert (code, error) == (0, "") and f"note: {note}" in table
    assert json.loads((workdir / "summary.json").read_text())["notes"] == [note]
    assert note in (workdir / "report.html").read_text()
    # the copied source, judged by the directory that rewards: what the same model says of each source and itself
    judged = json.loads((workdir / "evaluation.json").read_text())["visa"]["copy"]
    assert 0 < judged["consistency_forward"] == judged["consistency_backward"] < 1

    code, out, _ = call("detect", f"--workdir={workdir}", "--text=green walls . tessa leads .", "--json")
    values = open_detector(str(models / "values"), "field")(["green walls . tessa leads ."])[0]
    np.testing.assert_allclose(list(json.loads(out)["values"].values()), values, atol=1e-4)
    code, out, error = call(
        "rewrite", f"--workdir={workdir}", "--text=green walls .", '--values={"Power": 1}', "--json"
    )
    assert code == 0 and len(json.loads(out)["tries"]) >= 1


def test_the_loop_measures_what_training_rewards(chain, models):
    """Value match and consistency from the texts, the length from the ids, in one weighted sum."""
    config = visa_config(chain, models)
    parts = open_visa(config)
    assert (
        len(parts.notes) == len(open_visa(visa_config(chain, models, judge_detector=config.runs.detector)).notes) == 2
    )
    fixed = make_visa_set(parts, 3, "test", 0.0, 5)
    looped = make_loop(parts)(parts.start, fixed.prompts, fixed.target_NM, jax.random.key(0), 1)
    for row, (made,) in enumerate(looped.tries):
        value = open_detector(config.runs.detector, "field")([made.text])[0]
        entailment = open_analyzer(config.runs.analyzer, "field", consistency="nli")
        forward, backward = entailment([fixed.pool.answers[row]], [made.text])
        np.testing.assert_allclose(made.value_M, value, atol=1e-5)
        np.testing.assert_allclose([made.forward, made.backward], [forward[0], backward[0]], atol=1e-5)
        target = fixed.target_NM[row]
        cosine = value @ target / np.linalg.norm(value) / np.linalg.norm(target)
        match = ((1 + cosine) / 2 + max(1 - np.linalg.norm(value - target) / 2, 0)) / 2
        length, source = (
            len(parts.source.tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in (made.text, fixed.pool.answers[row])
        )
        too_long = -max(abs(np.log((length + 1) / (source + 1))) - np.log(1.5), 0)
        found = made.reward - 0.5 * match - 0.5 * made.consistency - 0.1 * too_long
        assert min(abs(found), abs(found + 1)) < 1e-4  # format: 0 or -1


def moc_config(chain, models, **reading):
    base = chain.moc_config(chain.directory)
    rewards = (str(models / "scalar"), str(models / "humour"))
    judges = (str(chain.directory / "reward_helpful"), "")
    reading = ReadingConfig(**{"inputs": ("pair", "answer"), "labels": ("", "HUMOR")} | reading)
    runs = MocRuns(start=base.runs.start, rewards=rewards, reading=reading, judge_rewards=judges)
    return dataclasses.replace(base, runs=runs, loop=chain.loop_config(steps=2))


def test_moc_trains_and_is_judged_by_published_models(chain, models, call, tmp_path):
    config, workdir = moc_config(chain, models), tmp_path / "moc"
    code, _, error = call("train", write_page(tmp_path / "page.py", config), f"--workdir={workdir}")
    assert code == 0, error
    assert "config.runs.judge_rewards[1] names no" in error and "judge_rewards[0]" not in error
    samples = [json.loads(line) for line in (workdir / "samples.jsonl").read_text().splitlines()]
    code, table, _ = call("evaluate", f"--workdir={workdir}", "--rows=2", "--grid=3")
    assert code == 0 and "note: config.runs.judge_rewards[1]" in table
    parts = open_moc(config)
    asked, said = ["what about the archive ?"] * 2, ["green walls .", "tessa leads ."]
    humour = open_reward(str(models / "humour"), "field", inputs="answer", label="HUMOR", score="logit")
    np.testing.assert_allclose(parts.readers.reward(parts.rewarders[1], asked, said), humour(asked, said), atol=1e-6)
    assert parts.readers.reward(parts.judges[1], asked, said) == pytest.approx(humour(asked, said))
    # the named judge is the run, and not the directory that rewards
    run = open_moc(chain.moc_config(chain.directory))
    expected = run.readers.reward(run.rewarders[0], asked, said)
    np.testing.assert_allclose(parts.readers.reward(parts.judges[0], asked, said), expected, atol=1e-6)
    assert samples == []  # nothing was evaluated while training


# ---------------------------------------------------------------- refused in one line, before anything is trained


def cut_weights(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "truncated": cut_weights,
    "no_tokenizer": lambda directory: (directory / "tokenizer.json").unlink(),
    "unnamed": lambda directory: None,
    "three_values": lambda directory: None,
}


@pytest.mark.parametrize(
    ("role", "name", "message"),
    [
        ("analyzer", "truncated", "truncated/model.safetensors"),
        ("detector", "no_tokenizer", "no_tokenizer: no tokenizer.json"),
        ("analyzer", "unnamed", "unnamed: no class is called 'entailment' (id2label: LABEL_0, LABEL_1, LABEL_2)"),
        ("detector", "three_values", "three_values: has 3 classes, expected the 10 values or each attained and"),
        ("judge_analyzer", "unnamed", "unnamed: no class is called 'entailment'"),
        ("detector", "nowhere", "nowhere does not exist"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(role, name, message, chain, published, call, tmp_path, refused):
    tokenizer, directory = published.make_tokenizer(vocabulary()), tmp_path / name
    if name != "nowhere":
        labels = {"unnamed": ("LABEL_0", "LABEL_1", "LABEL_2"), "three_values": VALUES[:3]}
        published.write_encoder(directory, tokenizer, labels.get(name, VALUES if role == "detector" else NLI))
        DAMAGE[name](directory)
    base = chain.visa_config(chain.directory)
    config = dataclasses.replace(base, runs=dataclasses.replace(base.runs, **{role: str(directory)}))
    error = refused(call("train", write_page(tmp_path / "page.py", config), f"--workdir={tmp_path / 'run'}"))
    assert f"config.runs.{role}: " in error and message in error
    assert not (tmp_path / "run").exists()


def test_moc_rewards_are_refused_in_one_line(chain, models, call, tmp_path, refused):
    for reading, message in (
        ({"labels": ()}, f"config.runs.rewards[1]: {models / 'humour'}: has 2 classes and no label says which"),
        ({"labels": ("", "FUN")}, f"config.runs.rewards[1]: {models / 'humour'}: no class is called 'FUN'"),
    ):
        page = write_page(tmp_path / "page.py", moc_config(chain, models, **reading))
        assert message in refused(call("train", page, f"--workdir={tmp_path / 'run'}"))
    page = write_page(tmp_path / "page.py", moc_config(chain, models))
    flags = ["--config.runs.reading.labels=('HUMOR',)", "--config.runs.reading.score=odds"]
    for flag, message in zip(flags, ("1 entries for 2 reward models", "'odds' is not one of"), strict=True):
        assert message in refused(call("train", page, f"--workdir={tmp_path / 'run'}", flag))
