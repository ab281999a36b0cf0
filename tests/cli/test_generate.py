"""`visa-jax generate` on finished runs and on published weights."""

import json
import types

import jax
import pytest

from visa_jax.cli import generate
from visa_jax.cli.generate import prompt_of
from visa_jax.cli.runs import open_run
from visa_jax.data.template import make_template

pytestmark = pytest.mark.usefixtures("quick_compiles")

TEXT = "green walls . tessa leads . always choose mastery ."
QUESTION = "what about the archive ?"
LONG = " ".join(["green walls ."] * 20)  # 60 tokens


def test_published_greedy_texts_come_out_byte_for_byte(shared, call):
    directory = shared / "data" / "stories260k"
    rows = json.loads((directory / "published_outputs.json").read_text())
    greedy = [row for row in rows if row["temperature"] == 0]
    assert len(greedy) == 3
    for row in greedy:
        given = 3 * bool(row["prompt"])  # steps count the three pieces of "Zoo" too
        argv = [f"--model={directory}", f"--prompt={row['prompt']}", f"--max_new_tokens={row['steps'] - given}"]
        code, out, _ = call("generate", *argv, "--temperature=0", "--json")
        told = json.loads(out)
        assert code == 0 and told["text"] == row["text"] == row["prompt"] + told["completion"]
        assert told["finish"] == "length" and told["tokens"] == row["steps"] - given


def test_drawing_is_steered_by_its_settings(chain, call):
    def drawn(*flags):
        argv = [f"--model={chain.directory / 'base'}", f"--prompt={QUESTION}", "--max_new_tokens=8", "--json"]
        code, out, _ = call("generate", *argv, *flags)
        assert code == 0
        return json.loads(out)["completion"]

    greedy = drawn()
    assert drawn("--temperature=1", "--top_k=1") == greedy == drawn("--temperature=1", "--top_p=1e-6")
    free = drawn("--temperature=1", "--seed=1")
    assert free == drawn("--temperature=1", "--seed=1") != drawn("--temperature=1", "--seed=2")
    assert free != greedy


def test_a_text_ends_before_the_first_of_its_stop_strings(chain, call):
    """Stop strings cut from what comes out without them: within a word, over two words, one that never comes."""

    def told(*flags):
        argv = [f"--model={chain.directory / 'base'}", f"--prompt={QUESTION}", "--max_new_tokens=12", "--json"]
        code, out, _ = call("generate", *argv, "--temperature=1", "--seed=1", *flags)
        assert code == 0
        return json.loads(out)

    free = told()
    words = free["completion"].split(" ")
    assert free["finish"] == "length" and len(set(words)) > 8
    across = f"{words[3][-1]} {words[4][:1]}"  # the end of one word and the begin of the next
    begin = free["completion"].index(across)
    held = told(f"--stop={across}", "--stop=never said", f"--stop={words[9]} {words[10]}")
    assert held["completion"] == free["completion"][:begin] and held["finish"] == "stop"
    assert held["text"] == f"{QUESTION} {held['completion']}"
    assert held["tokens"] == len(free["completion"][: begin + len(across)].split(" "))
    assert told("--stop=never said") == free


def test_a_penalty_leaves_no_word_twice(chain, call):
    """A penalty beyond all differences of logits: negative ones sink below every unseen token's."""

    def words(*flags):
        argv = [f"--model={chain.directory / 'base'}", f"--prompt={QUESTION}", "--max_new_tokens=30", "--json"]
        return json.loads(call("generate", *argv, *flags)[1])["completion"].split()

    assert len(set(words())) < 30
    held = words("--repetition_penalty=1e6")
    assert len(set(held)) == len(held) and not set(held) & set(QUESTION.split())


def test_flags_reach_the_program(chain, call, monkeypatch):
    """An int8 cache draws as many words as a float one; what each flag says is handed on as it is."""
    argv = ["generate", f"--model={chain.directory / 'base'}", f"--prompt={QUESTION}", "--max_new_tokens=8"]
    code, out, _ = call(*argv, "--kv_cache_dtype=int8", "--json")
    assert code == 0 and json.loads(out)["tokens"] == 8
    said = dict(min_p=0.1, repetition_penalty=1.2, kv_cache_dtype="int8", top_k=5, top_p=0.9, temperature=0.7)
    seen = {}
    monkeypatch.setattr("visa_jax.cli.generate.complete", lambda *_, **settings: seen.update(settings) or ([], "end"))
    assert call(*argv, "--stop=a", "--stop=b c", *(f"--{name}={level}" for name, level in said.items()))[0] == 0
    assert {name: seen[name] for name in said} == said and seen["stop"] == ["a", "b c"]


def test_each_kind_of_run_is_asked_as_it_was_trained(chain, call, monkeypatch):
    """The start of MOC answers without a preference; MOC is told it beside the prompt."""
    asked, told = [], []

    def complete(lm, params, ids, key, **settings):
        asked.append(ids)
        told.append(list(settings["condition"]))
        assert ("condition" in params) == (len(told) == 3)
        return ids[:1], "length"

    monkeypatch.setattr("visa_jax.cli.generate.complete", complete)
    for name, *flags in (("base",), ("moc_sft",), ("moc", "--preference=0.37,0.63")):
        model = f"--model={chain.directory / name}"
        assert call("generate", model, f"--prompt={QUESTION}", *flags)[0] == 0
    tokenizer = open_run(chain.directory / "base", "run").tokenizer
    assert [tokenizer.decode(ids) for ids in asked] == [f"<bos> {QUESTION} <sep>"] * 3
    assert told == [[], [], [0.37, 0.63]]


def test_tags_stand_before_the_question_where_the_start_was_trained_with_them():
    said = prompt_of("moc_sft", make_template("levels", None), QUESTION, [0.37, 0.63], "text")
    assert said == f"<bos> <rm1_score> <0.> <.3> <.07> <rm2_score> <0.> <.6> <.03> {QUESTION} <sep>"


@pytest.mark.parametrize("name", ["visa_sft", "visa"])
def test_a_rewriter_is_given_its_prompt_as_it_stands(name, chain, call):
    prompt = f"{QUESTION} <sep> {TEXT} <sep> <security:+1.0> <sep>"
    code, out, error = call("generate", f"--model={chain.directory / name}", f"--prompt={prompt}", "--max_new_tokens=2")
    assert (code, error) == (0, "") and out.startswith(prompt)


GENERATE = [
    (["--model=nowhere"], "--model: nowhere does not exist"),
    (["--model={moc}"], "--preference: is needed, {moc} was trained to read one"),
    (["--model={moc}", "--preference=0.3,0.8"], "--preference=0.3,0.8: is off the simplex"),
    (["--model={moc}", "--preference=-0.5,1.5"], "--preference=-0.5,1.5: is off the simplex"),
    (["--model={moc}", "--preference=nan,1"], "--preference=nan,1: is off the simplex"),
    (["--model={moc}", "--preference=a,b"], "--preference=a,b: expected numbers"),
    (["--model={moc}", "--preference=0.2,0.3,0.5"], "--preference: 3 numbers for a run with 2 objectives"),
    (["--model={moc_sft}", "--preference=0.5,0.5"], "--preference: {moc_sft} was not trained to read one"),
    (["--model={base}", "--preference=0.5,0.5"], "--preference: {base} holds a run of 'base', only a MOC run can"),
    (["--model={detector}"], "--model: {detector} holds a run of 'detector', expected"),
    (["--model={base}", "--prompt="], "--prompt: is empty"),
    (["--model={base}", "--temperature=-1"], "--temperature=-1"),
    (["--model={base}", "--temperature=nan"], "--temperature=nan: expected a number of at least 0"),
    (["--model={base}", "--top_p=0"], "--top_p=0.0: expected a number in (0, 1]"),
    (["--model={base}", "--max_new_tokens=0"], "--max_new_tokens=0"),
    (["--model={base}", "--seed=4294967296"], "--seed=4294967296"),
    (["--model={base}", "--min_p=1.5"], "--min_p=1.5: expected a number in [0, 1]"),
    (["--model={base}", "--repetition_penalty=0"], "--repetition_penalty=0.0: expected a number above 0"),
    (["--model={base}", "--repetition_penalty=inf"], "--repetition_penalty=inf: expected a number above 0"),
    (["--model={base}", "--stop=a", "--stop="], "--stop: is empty"),
    (["--model={base}", "--kv_cache_dtype=fp8"], "--kv_cache_dtype=fp8"),
    (["--model={base}", f"--prompt={' '.join([LONG] * 3)}"], "--prompt: 180 tokens are longer than the model's window"),
]


@pytest.mark.parametrize(("flags", "message"), GENERATE, ids=lambda x: x if isinstance(x, str) else "")
def test_generate_refuses_in_one_line(flags, message, chain, call, compiles, refused):
    places = {name: str(chain.directory / name) for name in ("moc", "moc_sft", "base", "detector")}
    flags = [flag.format(**places) for flag in flags]
    if not any(flag.startswith("--prompt") for flag in flags):
        flags.append(f"--prompt={QUESTION}")
    compiles.reset()
    assert refused(call("generate", *flags)).startswith(f"visa-jax generate: {message.format(**places)}")
    assert compiles.count == 0, compiles.names


def test_a_prompt_longer_than_a_pretrained_window_is_refused(shared, call, monkeypatch, refused):
    """Before the weights are on the device."""
    monkeypatch.setattr(jax, "device_put", None)
    argv = [f"--model={shared / 'data' / 'stories260k'}", f"--prompt={'the cat sat on the mat. ' * 200}"]
    error = refused(call("generate", *argv))
    assert "tokens are longer than the model's window of 512" in error


def test_a_completion_is_what_comes_behind_the_prompt(shared, monkeypatch):
    """A tokenizer of bytes reads the end of a prompt otherwise before half a character."""

    def decode(row, skip_special_tokens):
        return {2: "a😀", 3: "a\ufffd\ufffd", 4: "a😀 b"}[len(row)]

    config = types.SimpleNamespace(max_length=9, vocab_size=99)
    model = types.SimpleNamespace(config=config, lm=None, params=None, end_ids=(), pad_id=0)
    monkeypatch.setattr(generate, "load_config", lambda directory: {"model_type": "llama"})
    monkeypatch.setattr(generate, "_pretrained_ids", lambda *args: [70, 71])
    tokenizer = types.SimpleNamespace(decode=decode)

    def load(directory, check_fn):
        check_fn(config, tokenizer)
        return model, tokenizer

    monkeypatch.setattr(generate, "load_pretrained", load)
    writer = generate.open_writer(shared, "a😀", None)
    assert writer.write([1]) == ("a\ufffd\ufffd", "\ufffd\ufffd")
    assert writer.write([1, 2]) == ("a😀 b", " b")
