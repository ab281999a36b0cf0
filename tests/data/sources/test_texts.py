"""A user's own file as a source: what fits, the split by question, every task's rows."""

import json
import re

import numpy as np
import pytest

from visa_jax.cli.sources import DataConfig, make_source
from visa_jax.config import FieldError, UserError
from visa_jax.data.rows import document_rows, entailment_rows
from visa_jax.data.source import TWIN_SEED
from visa_jax.data.sources.body import SizeConfig, draw_epochs, make_body, normalize_rows
from visa_jax.data.sources.sentences import split_sentences
from visa_jax.data.sources.table import FieldConfig, read_table
from visa_jax.data.sources.texts import DOCUMENTS, make_text_source
from visa_jax.data.sources.tokens import TokenizerConfig
from visa_jax.data.symbols import SEP, SPECIAL_TOKENS
from visa_jax.data.template import visa_prompt
from visa_jax.data.tokenizer import encode_batch
from visa_jax.types import VALUES

THINGS = ("bread", "trains", "chess", "rain", "music", "banks", "schools", "gardens", "boats", "maps", "bees", "tea")
FIELDS = FieldConfig(values="values", rewards=("good", "short"))
SIZES = SizeConfig(question=12, text=24)
TOKENIZER = TokenizerConfig(kind="word", vocab_size=400)


def make_rows():
    """24 questions, three answers each; value i of answer i, reward good = i > 0."""
    rows = []
    for thing in THINGS:
        for question in (f"Should I like {thing}?", f"Are {thing} useful?"):
            for i, verdict in enumerate(("are safe. They last long.", "are fun. Try them!", "help others.")):
                values = {VALUES[i]: 1.0} if i else {VALUES[i]: -0.5}
                answer = f"{thing} {verdict}"
                rows.append(
                    {"question": question, "answer": answer, "values": values, "good": int(i > 0), "short": "yes"}
                )
    return rows


def config_of(tmp_path, rows, **changes):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(**{"path": str(path), "fields": FIELDS, "sizes": SIZES, "tokenizer": TOKENIZER} | changes)


@pytest.fixture
def source(tmp_path):
    return make_source(config_of(tmp_path, make_rows(), test_share=0.25))


def test_no_question_is_in_both_splits_and_the_seed_decides(tmp_path, source):
    train, test = (set(source.questions(100, 0, split)) for split in ("train", "test"))
    assert len(train) == 18 and len(test) == 6 and not train & test
    assert {q for q, _ in source.sources(200, 3, "test")} == test
    again = make_source(config_of(tmp_path, make_rows(), test_share=0.25))
    assert again.sources(9, 5, "train") == source.sources(9, 5, "train")
    other = make_source(config_of(tmp_path, make_rows(), test_share=0.25, seed=1))
    assert set(other.questions(100, 0, "test")) != test


def test_every_row_comes_once_before_any_comes_twice(source):
    drawn = source.sources(54, 0, "train")
    assert len(set(drawn)) == 54  # 18 questions of three answers
    counts = np.bincount(draw_epochs(np.random.default_rng(0), 7, 17), minlength=7)
    assert counts.min() == 2 and counts.max() == 3


def test_a_judge_learns_from_other_questions_than_its_model(source):
    for task in (lambda seed: source.scored(60, seed, "train"), lambda seed: source.scored(60, seed + 1, "train")):
        model, judge = ({one.question for one in task(seed)} for seed in (0, TWIN_SEED))
        assert len(model) == len(judge) == 9 and not model & judge
    held = ({pair.premise.split()[0] for pair in source.pairs(80, s, "test")} & set(THINGS) for s in (0, TWIN_SEED))
    model, judge = held
    assert model == judge  # the held-out rows are the same for both


def test_labels_reach_the_detector_and_the_reward_models(source):
    texts, value = source.labelled(27, 0, "train")
    for text, vector in zip(texts, value, strict=True):  # the last word is always there
        expected = {"long.": (0, -0.5), "them.": (1, 1.0), "others.": (2, 1.0)}[text.split()[-1]]
        assert np.flatnonzero(vector).tolist() == [expected[0]] and vector[expected[0]] == expected[1]
    for one in source.scored(50, 77, "test"):  # the held-out rows are never scrambled
        np.testing.assert_array_equal(one.scores, [float("are safe" not in one.text), 1.0])
    train = source.scored(300, 0, "train")
    broken = [one for one in train if not one.scores.any()]
    known = {one.text for one in source.answers(300, 0, "train")}
    assert 0.03 < len(broken) / 300 < 0.2 and not {one.text for one in broken} & known


def test_sft_pairs_are_other_answers_to_the_same_question(source):
    for pair in source.visa_pairs(108, 0, "train"):
        assert pair.source != pair.reference
        assert pair.source.split()[0] == pair.reference.split()[0]  # both about the same thing
        assert pair.target[{"safe.": 0, "fun.": 1, "others.": 2}[pair.reference.split()[2]]] != 0


def test_with_a_detector_a_reference_keeps_sentences_of_its_source(tmp_path):
    long = [row | {"answer": row["answer"] + " So it is" + " and so" * 5 + "."} for row in make_rows()[::3]]
    config = config_of(tmp_path, make_rows() + long, test_share=0.25)
    rows = normalize_rows(read_table(config.path, FIELDS))
    source = make_source(config)
    body = make_body("rows", rows, source.tokenizer, SIZES, seed=0, test_share=0.25)
    told = {"safe.": 0, "fun.": 1, "others.": 2}

    def label(texts):
        assert max(len(ids) for ids in source.tokenizer(texts)["input_ids"]) <= SIZES.text  # what a detector can read
        read = np.zeros((len(texts), 10), np.float32)
        for row, text in zip(read, texts, strict=True):
            row[[told[word] for word in text.split() if word in told]] = 1.0
        return read

    pairs = make_text_source("rows", body, None, source.tokenizer, SIZES, label).visa_pairs(720, 0, "train")
    moved = []
    for pair in pairs:
        own, said = split_sentences(pair.source), split_sentences(pair.reference)
        assert any(sentence in own for sentence in said) and len(set(said)) == len(said)
        target, before, after = np.asarray(pair.target), label([pair.source])[0], label([pair.reference])[0]
        assert np.linalg.norm(after - target) <= np.linalg.norm(before - target)
        moved += [after[i] for i in (0, 1, 2) if target[i] == 1 and before[i] < 1]
    assert len(moved) > 40 and np.mean(moved) > 0.75  # a value that is asked for and can be said is said


def test_entailment_labels_stand_at_the_stops(source):
    drawn = source.pairs(64, 0, "train")
    rows = entailment_rows(source.tokenizer, drawn, source.lengths.text)
    assert rows["stop"].sum() == sum(len(pair.labels) for pair in drawn)
    assert {label for pair in drawn for label in pair.labels} == {0, 1}


def test_documents_say_their_text_again_until_the_row_is_full(source):
    """Echoes are words in no order; a copy is what the row can be told from, wherever it is cut."""
    answers = {answer for _, answer in source.sources(54, 0, "train")}
    documents = [document.split(f" {SEP} ") for document in source.documents(400, 0, "train")]
    kinds = {"plain": [d for d in documents if d[1] in answers and len(d) == 2]}
    kinds["restated"] = [d for d in documents if d[1] in answers and len(d) > 2]
    kinds["echoed"] = [d for d in documents if d[1] not in answers]
    for kind, share in DOCUMENTS.items():
        assert abs(len(kinds[kind]) / 400 - share) < 0.08
    assert all(len(set(d[1:])) == 1 for d in kinds["restated"]) and all(len(set(d)) == 1 for d in kinds["echoed"])
    full = [f" {SEP} ".join(d) for d in kinds["restated"] + kinds["echoed"]]
    rows = document_rows(source.tokenizer, full, source.lengths.document, pack=source.pack_documents)
    assert rows["mask"].all()


def test_every_prompt_fits_its_window(source):
    longest = max(source.sources(54, 0, "train"), key=lambda row: len(row[1]))
    encode_batch(source.tokenizer, [visa_prompt(*longest, np.ones(10))], source.lengths.visa_prompt)


def test_a_quick_try_reads_all_over_the_file(tmp_path, capsys):
    rows = [row | {"question": f"{row['question']} {i}"} for i, row in enumerate(make_rows())]
    source = make_source(config_of(tmp_path, rows, most_rows=16, test_share=0.25))
    assert "16 different rows" in capsys.readouterr().err
    asked = source.questions(12, 0, "train") + source.questions(4, 0, "test")
    places = sorted(int(question.split()[-1]) for question in asked)
    assert len(places) == 16 and places[0] == 0 and places[-1] == 71
    assert max(b - a for a, b in zip(places[:-1], places[1:], strict=True)) <= 10  # eight pairs over 72 rows


def test_long_rows_are_counted_or_refused_never_cut(tmp_path, capsys):
    rows = make_rows()
    rows[5] |= {"answer": "bread " * 30 + "ends."}
    make_source(config_of(tmp_path, rows))
    told = capsys.readouterr().err
    assert "72 different rows, 1 too long" in told
    kept = re.search(r"(\d+) to train on and (\d+) held out", told).groups()
    assert sum(map(int, kept)) == 71
    with pytest.raises(UserError, match=r"rows.jsonl line 6: question of 4 and answer of 32 tokens"):
        make_source(config_of(tmp_path, rows, sizes=SizeConfig(question=12, text=24, on_long="refuse")))
    with pytest.raises(UserError, match="too few; see config.data.sizes"):
        make_source(config_of(tmp_path, rows, sizes=SizeConfig(question=1, text=4)))


def test_unlabelled_texts_need_a_detector_run_for_targets(tmp_path):
    rows = [{"question": row["question"], "answer": row["answer"]} for row in make_rows()]
    source = make_source(config_of(tmp_path, rows, fields=FieldConfig()))
    assert source.labelled is None and source.scored is None
    with pytest.raises(UserError, match="config.data.value_run: name a detector run"):
        source.visa_pairs(4, 0, "train")
    missing = make_source(config_of(tmp_path, rows, fields=FieldConfig(), value_run=str(tmp_path / "none")))
    with pytest.raises(UserError, match="config.data.value_run: .*none does not exist"):
        missing.visa_pairs(4, 0, "train")


def test_single_answers_are_their_own_references(tmp_path):
    rows = [row for row in make_rows() if "safe" in row["answer"]]
    pairs = make_source(config_of(tmp_path, rows)).visa_pairs(5, 0, "train")
    assert all(pair.source == pair.reference and pair.target[0] == -0.5 for pair in pairs)


def test_a_tokenizer_is_loaded_with_the_special_tokens_it_lacks(tmp_path, source):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["</s>"]
    )
    backend.train_from_iterator([row[name] for row in make_rows() for name in ("question", "answer")], trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(str(tmp_path / "foreign"))
    config = config_of(tmp_path, make_rows(), tokenizer=TokenizerConfig(directory=str(tmp_path / "foreign")))
    tokenizer = make_source(config).tokenizer
    assert set(SPECIAL_TOKENS) <= set(tokenizer.get_vocab())
    ids = tokenizer("<bos> it <sep>", add_special_tokens=False)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.convert_tokens_to_ids("<sep>")


def test_settings_that_cannot_be_are_refused(tmp_path):
    for name, value in {"format": "xml", "test_share": 1.0, "most_rows": -1}.items():
        with pytest.raises(FieldError, match=name):
            config_of(tmp_path, make_rows(), **{name: value})
    with pytest.raises(FieldError, match="path: is empty"):
        DataConfig(value_run="runs/detector")
    with pytest.raises(UserError, match="gives no token '.' of its own"):
        rows = [{"question": "a a a", "answer": "b b b"}]
        tiny = TokenizerConfig("", "word", len(SPECIAL_TOKENS) + 2)
        make_source(config_of(tmp_path, rows, fields=FieldConfig(), tokenizer=tiny))
