"""`visa-jax rewrite` and its closed loop, of one text and over a whole set."""

import json

import jax
import numpy as np
import pytest

from visa_jax.cli.experiment import VisaParts, make_visa_set, open_visa
from visa_jax.cli.judging import loop_texts, make_loop
from visa_jax.cli.runs import open_run
from visa_jax.cli.train import read_config
from visa_jax.types import VALUES

pytestmark = pytest.mark.usefixtures("quick_compiles")

TEXT = "green walls . tessa leads . always choose mastery ."
QUESTION = "what about the archive ?"
LONG = " ".join(["green walls ."] * 20)  # 60 tokens


def rewrite(call, workdir, *flags):
    code, out, error = call("rewrite", f"--workdir={workdir}", f"--text={TEXT}", *flags, "--json")
    assert (code, error) == (0, "")
    return json.loads(out)


def test_named_values_are_replaced_and_the_others_kept(visa, call):
    told = rewrite(call, visa, '--values={"Security": 0.5, "Power": -1}', f"--question={QUESTION}", "--tries=3")
    before, target = told["v_orig"], told["target"]
    assert (target["Security"], target["Power"]) == (0.5, -1.0)
    assert all(target[name] == before[name] for name in VALUES if name not in ("Security", "Power"))
    assert before == json.loads(call("detect", f"--workdir={visa}", f"--text={TEXT}", "--json")[1])["values"]
    # the figures belong to the texts: two steps of training satisfy no target, so all tries were drawn
    assert len(told["tries"]) == 3 and not told["accepted"]
    best = max(told["tries"], key=lambda made: made["reward"])
    assert told["rewrite"] == best["text"] == told["tries"][told["chosen_try"] - 1]["text"]
    distance = np.linalg.norm([told["v_pred"][name] - target[name] for name in VALUES])
    assert told["value_l2"] == pytest.approx(distance, abs=1e-3)
    assert told["consistency"] == pytest.approx((told["forward"] + told["backward"]) / 2, abs=1e-4)
    texts = [made["text"] for made in told["tries"]]
    assert len(set(texts)) == 3  # greedy, then two samples
    single = rewrite(call, visa, '--values={"Security": 0.5, "Power": -1}', f"--question={QUESTION}", "--tries=1")
    assert single["rewrite"] == texts[0]


def test_a_wish_shifts_the_values(visa, chain, call):
    told = rewrite(call, visa, "--wish=more daring , less bound to tradition", "--tries=1")
    moved = np.array([told["target"][name] - told["v_orig"][name] for name in VALUES])
    assert np.abs(moved).max() >= 0.25 and all(-1 <= level <= 1 for level in told["target"].values())
    other = chain.directory / "translator"
    named = rewrite(call, visa, "--wish=more daring , less bound to tradition", "--tries=1", f"--translator={other}")
    assert named == told


def test_a_wish_that_moves_nothing_is_refused(visa, call, monkeypatch, refused):
    monkeypatch.setattr("visa_jax.cli.rewrite.translate", lambda *_: np.full(10, 0.2, np.float32))
    error = refused(call("rewrite", f"--workdir={visa}", f"--text={TEXT}", "--wish=please write it well"))
    assert error == "visa-jax rewrite: --wish: moves no value (the largest shift is 0.20 < 0.25)"


def test_what_is_printed_for_a_person(visa, call):
    code, out, _ = call("rewrite", f"--workdir={visa}", f"--text={TEXT}", '--values={"Security": 1}', "--tries=2")
    assert code == 0 and "asked for:" in out and "Security +1.00" in out and "not accepted (try " in out


REWRITE = [
    (['--values={"Securty": 0.5}'], "--values: no value is called 'Securty'; did you mean 'Security'?"),
    (['--values={"Security": 1.5}'], "--values: Security is 1.5, expected a number in [-1, 1]"),
    (['--values={"Security": NaN}'], "--values: Security is NaN, expected a number in [-1, 1]"),
    (['--values={"Security": true}'], "--values: Security is true, expected a number"),
    (['--values={"Security": "high"}'], '--values: Security is "high", expected a number'),
    (["--values={'Security': 1}"], "--values: not JSON (Expecting property name enclosed in double quotes"),
    (["--values={}"], "--values: expected names with levels"),
    (["--values=[1]"], "--values: expected names with levels"),
    ([], "say either --wish or --values"),
    (["--wish=more daring", '--values={"Security": 1}'], "say either --wish or --values, not both"),
    (["--wish= "], "--wish: is empty"),
    (["--wish=blorf"], "--wish: the model knows none of its words (blorf)"),
    (["--wish=" + LONG], "--wish: 60 tokens are longer than the model's window of 32"),
    (["--wish=more daring", "--text="], "--text: is empty"),
    (["--wish=more daring", "--text=blorf"], "--text: the model knows none of its words (blorf)"),
    (["--wish=more daring", "--text=" + LONG], "--text: 60 tokens are longer than the model's window of 32"),
    (["--wish=more daring", f"--question={'what ' * 40}"], "--text: the prompt of "),
    (["--wish=more daring", "--tries=0"], "--tries=0"),
    (["--wish=more daring", "--workdir=nowhere"], "--workdir: nowhere does not exist; make it with visa-jax train"),
    (["--wish=more daring", "--workdir={moc}"], "--workdir: {moc} holds a run of 'moc', expected 'visa'"),
    (
        ["--wish=more daring", "--translator={base}"],
        "--translator: {base} holds a run of 'base', expected 'translator'",
    ),
]


def fill(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", place)
    return text


@pytest.mark.parametrize(("flags", "message"), REWRITE, ids=lambda x: x if isinstance(x, str) else "")
def test_rewrite_refuses_in_one_line(flags, message, chain, visa, call, compiles, refused):
    places = {name: str(chain.directory / name) for name in ("moc", "base")}
    flags, message = [fill(flag, places) for flag in flags], fill(message, places)
    compiles.reset()
    told = call("rewrite", f"--workdir={visa}", f"--text={TEXT}", *flags)
    assert refused(told).startswith(f"visa-jax rewrite: {message}")
    assert compiles.count == 0, compiles.names


def test_a_wish_needs_a_translator(copied, call, refused):
    workdir = copied("visa")
    config = json.loads((workdir / "config.json").read_text())
    config["runs"]["translator"] = ""
    (workdir / "config.json").write_text(json.dumps(config))
    error = refused(call("rewrite", f"--workdir={workdir}", f"--text={TEXT}", "--wish=more daring"))
    assert "--wish: the run has no translator (config.runs.translator); name one by --translator=DIR" in error


def count_draws(parts: VisaParts) -> tuple[VisaParts, list[tuple[int, float]]]:
    """Parts that note (prompts, temperature) of every call to the policy."""
    calls = []

    def sample(params, prompts, key, temperature=0.0):
        calls.append((prompts.prompt_NL.shape[0], temperature))
        return parts.sample(params, prompts, key, temperature)

    return parts._replace(sample=sample), calls


def test_the_loop_draws_again_only_for_rows_that_failed(visa, monkeypatch):
    found = open_run(visa, "run")
    parts = open_visa(read_config(found.config))
    fixed = make_visa_set(parts, 6, "test", 0.0, 5)
    monkeypatch.setattr("visa_jax.cli.judging.JSR_CONSISTENCY", 1.1)  # all rows fail, the first time greedily
    counted, calls = count_draws(parts)
    texts = loop_texts(counted, fixed, found.params, tries=3)
    assert calls == [(6, 0.0), (6, 1.0), (6, 1.0)] and len(texts) == 6
    # with limits that some greedy rewrites satisfy, those rows keep them and only the others are drawn again
    single = make_loop(parts)(found.params, fixed.prompts, fixed.target_NM, jax.random.key(0), 1)
    greedy, distance = single.texts, np.array([made.distance for (made,) in single.tries])
    limit = float(np.sort(distance)[1:3].mean())
    monkeypatch.setattr("visa_jax.cli.judging.JSR_L2", limit)
    monkeypatch.setattr("visa_jax.cli.judging.JSR_CONSISTENCY", -1.0)
    counted, calls = count_draws(parts)
    texts = loop_texts(counted, fixed, found.params, tries=2)
    assert calls == [(6, 0.0), (4, 1.0)]
    assert all(texts[i] == greedy[i] for i in np.flatnonzero(distance < limit))


def test_the_loop_measures_what_training_rewards(visa):
    """The reward of a try is the weighted sum that GRPO would have given the same completion."""
    found = open_run(visa, "run")
    parts = open_visa(read_config(found.config))
    fixed = make_visa_set(parts, 3, "test", 0.0, 5)
    looped = make_loop(parts)(found.params, fixed.prompts, fixed.target_NM, jax.random.key(0), 1)
    checked = 0
    for row, (made,) in enumerate(looped.tries):
        length = len(parts.source.tokenizer(made.text, add_special_tokens=False)["input_ids"])
        if length != parts.source.lengths.text:
            continue  # it ended, or drew padding, which no text shows
        checked += 1
        value = parts.readers.values(parts.rewarders[0], [made.text])[0]
        forward, backward = parts.readers.entailment(parts.rewarders[1], [fixed.pool.answers[row]], [made.text])
        np.testing.assert_allclose(made.value_M, value, atol=1e-5)
        np.testing.assert_allclose([made.forward, made.backward], [forward[0], backward[0]], atol=1e-5)
        target = fixed.target_NM[row]
        cosine = value @ target / np.linalg.norm(value) / np.linalg.norm(target)
        near = max(1 - np.linalg.norm(value - target) / 2, 0)
        match = ((1 + cosine) / 2 + near) / 2
        # format: -1, for what an untrained policy writes has no end; length: 32 tokens against the source's
        source = len(parts.source.tokenizer(fixed.pool.answers[row], add_special_tokens=False)["input_ids"])
        too_long = -max(abs(np.log((length + 1) / (source + 1))) - np.log(1.5), 0)
        expected = 0.5 * match + 0.5 * made.consistency - 1 + 0.1 * too_long
        assert made.reward == pytest.approx(expected, abs=1e-4)
    assert checked
