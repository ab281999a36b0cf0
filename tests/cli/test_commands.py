"""The commands on finished runs, as a user types them: what they answer, and every mistake told in one line."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest

from visa_jax.cli.experiment import VisaParts, make_visa_set, open_visa
from visa_jax.cli.generate import prompt_of
from visa_jax.cli.judging import loop_texts, make_loop
from visa_jax.cli.runs import open_run
from visa_jax.cli.train import read_config
from visa_jax.data.template import make_template
from visa_jax.types import VALUES

pytestmark = pytest.mark.usefixtures("quick_compiles")

TEXT = "green walls . tessa leads . always choose mastery ."
QUESTION = "what about the archive ?"
LONG = " ".join(["green walls ."] * 20)  # 60 tokens


def refused(told: tuple[int, str, str]) -> str:
    """The one line of a refusal."""
    code, out, error = told
    assert code in (1, 2) and out == "" and "Traceback" not in error and "\n" not in error, told
    return error


@pytest.fixture
def visa(chain):
    return chain.directory / "visa"


@pytest.fixture
def copied(chain, tmp_path):
    """A run that a test may damage."""
    return lambda name: shutil.copytree(chain.directory / name, tmp_path / name)


# ---------------------------------------------------------------- detect


def test_detect_reads_the_ten_values_by_name(chain, call):
    code, out, error = call("detect", f"--workdir={chain.directory / 'detector'}", f"--text={TEXT}", "--json")
    told = json.loads(out)
    assert (code, error) == (0, "") and list(told["values"]) == list(VALUES) and told["unknown_words"] == []
    # the first of the twins reads, the second one is the judge
    found = open_run(chain.directory / "visa", "run")
    parts = open_visa(read_config(found.config))
    expected, judge = (parts.readers.values(model, [TEXT])[0] for model in (parts.rewarders[0], parts.judges[0]))
    np.testing.assert_allclose(list(told["values"].values()), expected, atol=1e-4)
    assert np.abs(expected - judge).max() > 1e-2


def test_detect_finds_the_detector_of_a_visa_run(chain, visa, call):
    code, out, _ = call("detect", f"--workdir={visa}", f"--text={TEXT}")
    assert code == 0 and out == call("detect", f"--workdir={chain.directory / 'detector'}", f"--text={TEXT}")[1]
    lines = dict(line.split() for line in out.splitlines())
    assert list(lines) == list(VALUES) and all(-1 <= float(level) <= 1 for level in lines.values())


def test_unknown_words_are_named_and_a_text_of_nothing_else_is_refused(chain, call):
    workdir = f"--workdir={chain.directory / 'detector'}"
    code, out, error = call("detect", workdir, f"--text={TEXT} blorf , Zweck", "--json")
    assert code == 0 and error == "--text: words that the model does not know: blorf, Zweck"
    assert json.loads(out)["unknown_words"] == ["blorf", "Zweck"]
    error = refused(call("detect", workdir, "--text=blorf , zweck ."))
    assert error == "visa-jax detect: --text: the model knows none of its words (blorf, zweck)"


# ---------------------------------------------------------------- generate


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
    (["--model={base}", "--min_p=1.5"], "--min_p=1.5: expected a number in [0, 1]"),
    (["--model={base}", "--repetition_penalty=0"], "--repetition_penalty=0.0: expected a number above 0"),
    (["--model={base}", "--repetition_penalty=inf"], "--repetition_penalty=inf: expected a number above 0"),
    (["--model={base}", "--stop=a", "--stop="], "--stop: is empty"),
    (["--model={base}", "--kv_cache_dtype=fp8"], "--kv_cache_dtype=fp8"),
    (["--model={base}", f"--prompt={' '.join([LONG] * 3)}"], "--prompt: 180 tokens are longer than the model's window"),
]


@pytest.mark.parametrize(("flags", "message"), GENERATE, ids=lambda x: x if isinstance(x, str) else "")
def test_generate_refuses_in_one_line(flags, message, chain, call, compiles):
    places = {name: str(chain.directory / name) for name in ("moc", "moc_sft", "base", "detector")}
    flags = [flag.format(**places) for flag in flags]
    if not any(flag.startswith("--prompt") for flag in flags):
        flags.append(f"--prompt={QUESTION}")
    compiles.reset()
    assert refused(call("generate", *flags)).startswith(f"visa-jax generate: {message.format(**places)}")
    assert compiles.count == 0, compiles.names


def test_a_prompt_longer_than_a_pretrained_window_is_refused(shared, call, monkeypatch):
    """Before the weights are on the device."""
    monkeypatch.setattr(jax, "device_put", None)
    argv = [f"--model={shared / 'data' / 'stories260k'}", f"--prompt={'the cat sat on the mat. ' * 200}"]
    error = refused(call("generate", *argv))
    assert "tokens are longer than the model's window of 512" in error


# ---------------------------------------------------------------- rewrite


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


def test_a_wish_that_moves_nothing_is_refused(visa, call, monkeypatch):
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
def test_rewrite_refuses_in_one_line(flags, message, chain, visa, call, compiles):
    places = {name: str(chain.directory / name) for name in ("moc", "base")}
    flags, message = [fill(flag, places) for flag in flags], fill(message, places)
    compiles.reset()
    told = call("rewrite", f"--workdir={visa}", f"--text={TEXT}", *flags)
    assert refused(told).startswith(f"visa-jax rewrite: {message}")
    assert compiles.count == 0, compiles.names


def test_a_wish_needs_a_translator(copied, call):
    workdir = copied("visa")
    config = json.loads((workdir / "config.json").read_text())
    config["runs"]["translator"] = ""
    (workdir / "config.json").write_text(json.dumps(config))
    error = refused(call("rewrite", f"--workdir={workdir}", f"--text={TEXT}", "--wish=more daring"))
    assert "--wish: the run has no translator (config.runs.translator); name one by --translator=DIR" in error


# ---------------------------------------------------------------- damaged workdirs, for every command that opens one


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "no config": (lambda run: (run / "config.json").unlink(), "not a run (there is no config.json in it)"),
    "half a config": (lambda run: cut(run / "config.json"), "config.json: not JSON"),
    "not finished": (lambda run: (run / "final.json").unlink(), "holds an unfinished run; go on with it first"),
    "no parameters": (lambda run: shutil.rmtree(run / "params"), "params: no such checkpoint"),
    "parameters being saved": (lambda run: (run / "params.json").unlink(), "params: half-written checkpoint"),
    "half the parameters": (
        lambda run: cut(max((run / "params").rglob("*"), key=lambda file: file.is_file() * file.stat().st_size)),
        "damaged checkpoint",
    ),
    "no tokenizer": (lambda run: shutil.rmtree(run / "tokenizer"), "tokenizer directory"),
    "half a tokenizer": (lambda run: cut(run / "tokenizer" / "tokenizer.json"), "holds no tokenizer that can be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["evaluate", "detect", "rewrite", "generate"])
def test_damaged_workdirs_are_refused_in_one_line(damage, command, copied, call, compiles):
    workdir = copied("visa")
    spoil, message = DAMAGES[damage]
    spoil(workdir)
    flags = {
        "evaluate": [],
        "detect": [f"--text={TEXT}"],
        "rewrite": [f"--text={TEXT}", '--values={"Power": 1}'],
        "generate": [f"--prompt={QUESTION}"],
    }[command]
    place = "--model" if command == "generate" else "--workdir"
    compiles.reset()
    assert message in refused(call(command, f"{place}={workdir}", *flags))
    assert compiles.count == 0, compiles.names


def test_a_run_that_lost_its_parts_names_the_field(copied, call):
    workdir = copied("visa")
    config = json.loads((workdir / "config.json").read_text())
    config["runs"]["analyzer"] = "nowhere"
    (workdir / "config.json").write_text(json.dumps(config))
    error = refused(call("evaluate", f"--workdir={workdir}"))
    assert error.endswith("config.runs.analyzer: nowhere does not exist; make it with visa-jax supervise")


# ---------------------------------------------------------------- evaluate and compare


def test_evaluated_runs_can_be_compared(copied, call, tmp_path):
    visa, moc, out = copied("visa"), copied("moc"), tmp_path / "report"
    code, table, error = call("evaluate", f"--workdir={visa}", "--rows=4")
    assert (code, error) == (0, "") and "VISA, by the oracle (truth)" in table and "copy of the source" in table
    rows = json.loads((visa / "evaluation.json").read_text())["visa"]
    assert list(rows) == ["copy", "prompted", "sft", "visa", "visa_loop"]
    # the copied source keeps every fact, and lies as far from the target as it was asked to move
    assert rows["copy"]["oracle_consistency"] == 1.0 and rows["copy"]["oracle_unreadable"] == 0.0
    assert rows["copy"]["oracle_jsr"] == 0.0 and rows["copy"]["oracle_value_l2"] > 0.4

    code, table, error = call("evaluate", f"--workdir={moc}", "--rows=2", "--grid=3")
    assert (code, error) == (0, "") and "MOC, by the oracle (truth)" in table
    summary = json.loads((moc / "summary.json").read_text())
    assert list(summary["moc"]["rows"]) == ["sft", "moc"] and summary["moc"]["reference_point"] == [0.0, 0.0]
    points = summary["moc"]["points"]["moc"]
    assert [p["preference"] for p in points if not p["unseen"]] == [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    assert sum(p["unseen"] for p in points) == 40
    with (moc / "evaluation.csv").open() as file:
        found = {(line["method"], line["metric"]): line["mean"] for line in csv.DictReader(file)}
    assert float(found["moc", "learned_control_error"]) == summary["moc"]["rows"]["moc"]["learned_control_error"]
    assert "| MOC" in (moc / "evaluation.md").read_text() and (moc / "plots" / "pareto_moc.png").stat().st_size > 1000

    code, table, error = call("compare", visa, moc, f"--out={out}")
    assert (code, error) == (0, "") and "VISA · visa" in table and "MOC · moc" in table
    page = (out / "report.html").read_text()
    assert "VISA, closed loop" in page and "MOC · moc" in page


def test_a_moc_run_without_its_reward_scale_is_refused(copied, call, compiles):
    workdir = copied("moc")
    (workdir / "normalizer.json").unlink()
    compiles.reset()
    assert "normalizer.json: no such file" in refused(call("evaluate", f"--workdir={workdir}"))
    assert compiles.count == 0, compiles.names


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "--workdir=nowhere"], "--workdir: nowhere does not exist; make it with visa-jax train"),
        (["evaluate", "--workdir={base}"], "--workdir: {base} holds a run of 'base', expected 'visa' or 'moc'"),
        (["evaluate", "--workdir={visa}", "--grid=5"], "--grid: is of MOC runs"),
        (["evaluate", "--workdir={visa}", "--grid=1"], "--grid=1"),
        (["compare"], "name at least one run directory"),
        (["compare", "nowhere"], "nowhere: no such directory"),
        (["compare", "{base}"], "{base}: has no summary.json; judge it first: visa-jax evaluate --workdir={base}"),
    ],
)
def test_evaluate_and_compare_refuse_in_one_line(argv, message, chain, call, compiles):
    places = {name: str(chain.directory / name) for name in ("base", "visa")}
    argv = [word.format(**places) for word in argv]
    compiles.reset()
    assert refused(call(*argv)).startswith(f"visa-jax {argv[0]}: {message.format(**places)}")
    assert compiles.count == 0, compiles.names


# ---------------------------------------------------------------- the closed loop over a whole set


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
