"""A published model and a file of one's own: prompts in plain words, in the model's own vocabulary, from SFT to RL."""

import dataclasses
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from visa_jax.cli.sources import DataConfig, make_source
from visa_jax.config import FieldError, UserError
from visa_jax.data.rows import document_rows
from visa_jax.data.sources.body import SizeConfig
from visa_jax.data.sources.table import FieldConfig
from visa_jax.data.sources.tokens import TokenizerConfig
from visa_jax.data.template import make_template, visa_prompt
from visa_jax.data.tokenizer import encode_batch
from visa_jax.methods.visa import VisaConfig
from visa_jax.training.policy import PolicyConfig
from visa_jax.training.roles import RoleConfig, TrunkConfig
from visa_jax.training.supervised import FitConfig
from visa_jax.types import VALUES

THINGS = ("bread", "trains", "chess", "rain", "music", "banks", "schools", "gardens", "boats", "maps", "bees", "tea")
BEGIN, END = "<|begin|>", "<|end|>"
CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{% if enable_thinking is not false %}hm{% endif %}"
)


def make_rows():
    rows = []
    for thing in THINGS:
        for question in (f"Should I like {thing}?", f"Are {thing} useful?"):
            for i, verdict in enumerate(("are safe. They last long.", "are fun. Try them!")):
                value = {VALUES[i]: 1.0}
                rows.append({"question": question, "answer": f"{thing} {verdict}", "values": value})
    return rows


def published_tokenizer(begins=True, chat=""):
    """Byte-level BPE as published models have it, that knows none of this project's tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=[BEGIN, END], initial_alphabet=alphabet, show_progress=False
    )
    texts = [visa_prompt(row["question"], row["answer"], np.full(10, -0.55), "json") for row in make_rows()]
    backend.train_from_iterator(texts, trainer)
    if begins:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, backend.token_to_id(BEGIN))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BEGIN, eos_token=END)
    tokenizer.chat_template = chat or None
    return tokenizer


@pytest.fixture
def data(tmp_path):
    """``data(**changes) -> DataConfig`` of a file with the tokenizer of ``tmp_path/model``."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in make_rows()))

    def make(tokenizer=None, **changes):
        (tokenizer or published_tokenizer()).save_pretrained(str(tmp_path / "model"))
        settings = dict(path=str(path), template="json", fields=FieldConfig(values="values"), test_share=0.25)
        settings |= dict(sizes=SizeConfig(12, 24), tokenizer=TokenizerConfig(directory=str(tmp_path / "model")))
        return DataConfig(**settings | changes)

    return make


def test_a_published_vocabulary_is_left_as_it_is(data):
    source, published = make_source(data()), published_tokenizer()
    tokenizer = source.tokenizer
    assert tokenizer.get_vocab() == published.get_vocab()
    assert (tokenizer.bos_token, tokenizer.eos_token) == (BEGIN, END)
    levels = make_source(data(template="levels"))
    assert "<sep>" in levels.tokenizer.get_vocab() and levels.tokenizer.eos_token == "<eos>"
    assert (levels.lengths.visa_prompt, levels.lengths.moc_prompt) == (12 + 24 + 14, 12 + 18)
    # documents lie between the model's own boundaries, and nothing in them is one of this project's tokens
    documents = source.documents(40, 0, "train")
    assert any("\n" in text for text in documents) and not any("<sep>" in text for text in documents)
    marks = dict(begin=source.template.begin, end=source.template.end)
    rows = document_rows(tokenizer, documents, 400, pack=False, **marks)
    ids = rows["token"][0][rows["mask"][0]].tolist()
    assert tokenizer.decode(ids) == f"{BEGIN}{documents[0]}{END}"


@pytest.mark.parametrize("begins", [True, False])
def test_prompts_are_plain_words_in_the_models_own_form(begins):
    """The begin token stands where the tokenizer would write one, once."""
    tokenizer = published_tokenizer(begins)
    template = make_template("json", tokenizer)
    target = np.array([0.0] * 5 + [0.25] + [0.0] * 4)
    prompt = template.visa("Are maps useful?", "maps are fun.", target)
    assert prompt == (BEGIN if begins else "") + visa_prompt("Are maps useful?", "maps are fun.", target, "json")
    assert tokenizer(prompt, add_special_tokens=False)["input_ids"].count(tokenizer.bos_token_id) == begins
    asked = template.answer("Are maps useful?")
    assert asked == (BEGIN if begins else "") + "Question: Are maps useful?\nAnswer:\n"
    said = template.moc("Are maps useful?", [0.371, 0.629], "text")
    assert said.endswith("Weights of the objectives: [0.37, 0.63]\nQuestion: Are maps useful?\nAnswer:\n")
    assert template.moc("Are maps useful?", [0.37, 0.63], "prefix") == asked
    with pytest.raises(UserError, match="'symbol' needs special tokens"):
        template.moc("Are maps useful?", [0.37, 0.63], "symbol")


def test_a_chat_template_makes_the_prompt_a_turn():
    tokenizer = published_tokenizer(chat=CHAT)
    asked = make_template("json", tokenizer, chat=True).answer("Are maps <useful>?")
    assert asked == f"{BEGIN}<user>Question: Are maps < useful>?\nAnswer:</><assistant>"


@pytest.mark.parametrize("chat", [False, True])
def test_every_prompt_fits(data, chat):
    """Whatever the target: the longest prompt that the lengths promise room for, and not far below it."""
    source = make_source(data(published_tokenizer(chat=CHAT), chat=chat))
    rng, template, lengths = np.random.default_rng(0), source.template, source.lengths
    asked, answers = zip(*source.sources(60, 0, "train"), strict=True)
    targets = [rng.uniform(-1, 1, 10) for _ in asked]
    prompts = [template.visa(q, a, t) for q, a, t in zip(asked, answers, targets, strict=True)]
    _, mask = encode_batch(source.tokenizer, prompts, lengths.visa_prompt)
    parts = [len(source.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (*asked, *answers)]
    room = 12 + 24 - max(parts) - min(parts)
    assert mask.sum(axis=1).max() > lengths.visa_prompt - room - 2 * template.slack
    prompts = [template.moc(q, [0.13, 0.29, 0.29, 0.29], "text") for q in asked]
    encode_batch(source.tokenizer, prompts, lengths.moc_prompt)


def test_what_a_tokenizer_cannot_do_is_refused(data):
    with pytest.raises(UserError, match="^config.data.chat: the tokenizer of .* has no chat template$"):
        make_source(data(chat=True))
    endless = published_tokenizer()
    endless.eos_token = None
    with pytest.raises(UserError, match="^config.data.tokenizer.directory: .* has no end token$"):
        make_source(data(endless))
    for settings, message in (
        (dict(template="xml"), "template: 'xml' is not one of levels, json"),
        (dict(template="levels", chat=True), "chat: needs template = json"),
        (dict(path="", template="json"), "template: is for files"),
    ):
        with pytest.raises(FieldError, match=message):
            data(**settings)


@pytest.mark.usefixtures("quick_compiles")
def test_a_published_model_is_trained_on_a_file(chain, data, call, tmp_path, monkeypatch):
    """SFT and RL by adapters, readers over the same vocabulary; rewrites end with the model's own end token."""
    monkeypatch.setattr(chain.quality, "ROWS", 8)
    section = data(published_tokenizer(chat=CHAT), chat=True)
    source = make_source(section)
    window = source.lengths.visa_prompt + source.lengths.text
    chain.real_model(tmp_path / "model", source.tokenizer, max_length=window)
    policy = PolicyConfig(lora_rank=2, quantize="int8")
    fit = FitConfig(steps=1, batch_size=4)
    trunk = TrunkConfig(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16)
    readers = {"detector": {"ridge": 1.0}, "analyzer": {"trunk": trunk}}
    for name in ("detector", "analyzer", "visa_sft"):
        config = chain.SuperviseConfig(
            role=RoleConfig(role=name, rows=8, fit=fit, **readers.get(name, {})),
            data=section,
            start=str(tmp_path / "model") if name == "visa_sft" else "",
            policy=policy if name == "visa_sft" else PolicyConfig(),
        )
        page = chain.page(tmp_path / f"{name}.py", config)
        assert call("supervise", f"--config={page}", f"--workdir={tmp_path / name}")[0] == 0
    config = chain.visa_config(tmp_path, data=section, policy=policy)
    config = dataclasses.replace(
        config,
        runs=dataclasses.replace(config.runs, base=str(tmp_path / "model"), translator=""),
        loop=dataclasses.replace(config.loop, steps=1, evaluate_every=1),
        visa=VisaConfig(num_generations=2),
        evaluation_rows=2,
    )
    page, run = chain.page(tmp_path / "visa.py", config), tmp_path / "visa"
    assert call("train", f"--config={page}", f"--workdir={run}")[0] == 0
    sample = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    # decoding leaves the begin token out, and shows any other special token
    assert sample["prompt"].startswith("<user>Rewrite the answer") and sample["prompt"].endswith("</><assistant>")
    out = tmp_path / "merged"
    assert call("convert", f"--model={run}", f"--out={out}")[0] == 0
    assert AutoTokenizer.from_pretrained(str(out)).chat_template == CHAT
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == source.tokenizer.eos_token_id
