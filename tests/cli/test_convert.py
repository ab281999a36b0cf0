"""`visa-jax convert`, both ways, and `visa-jax generate` on what it writes."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from visa_jax.cli.runs import open_run
from visa_jax.models import load_pretrained
from visa_jax.models.weights import open_weights, write_weights

pytestmark = pytest.mark.usefixtures("quick_compiles")
QUESTION = "what about the archive ?"


@pytest.fixture
def source(shared, tmp_path):
    """A copy of the real model that a test may change, its weights in a given dtype."""

    def copy(dtype=np.float32):
        directory = tmp_path / "source"
        directory.mkdir()
        for file in (shared / "data" / "stories260k").iterdir():
            (directory / file.name).write_bytes(file.read_bytes())
        with open_weights(directory) as weights:
            write_weights(directory, [(name, weights.read(name).astype(dtype)) for name in weights.names])
        return directory

    return copy


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16], ids=["float32", "bfloat16", "float16"])
def test_hugging_face_to_run_to_hugging_face_is_bitwise(source, tmp_path, call, dtype):
    first, run, back = source(dtype), tmp_path / "run", tmp_path / "back"
    template = "{% for m in messages %}{{ m['content'] }} said{% endfor %}"
    path = first / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    assert call("convert", f"--model={first}", f"--out={run}")[0] == 0
    assert call("convert", f"--model={run}", f"--out={back}")[0] == 0
    with open_weights(first) as before, open_weights(back) as after:
        assert before.names == after.names
        for name in before.names:
            assert before.dtype(name) == after.dtype(name)
            assert before.read(name).tobytes() == after.read(name).tobytes(), name
    (one, its), (other, others) = load_pretrained(first), load_pretrained(back)
    assert (one.config, one.end_ids, one.pad_id) == (other.config, other.end_ids, other.pad_id)
    assert one.end_ids == (1, 2)
    assert its.chat_template == others.chat_template == template
    assert its("Zoo was")["input_ids"] == others("Zoo was")["input_ids"]


def test_a_converted_run_says_what_its_source_says(source, tmp_path, call):
    first, run = source(), tmp_path / "run"
    assert call("convert", f"--model={first}", f"--out={run}")[0] == 0
    texts = [call("generate", f"--model={it}", "--prompt=Zoo", "--max_new_tokens=9")[1] for it in (first, run)]
    assert texts[0] == texts[1] and texts[0].startswith("Zoo was a little girl")


def test_chat_writes_the_template(source, call):
    directory = source()
    told = call("generate", f"--model={directory}", "--prompt=Zoo", "--chat")
    assert told == (1, "", f"visa-jax generate: --chat: the tokenizer of {directory} has no chat template")
    (directory / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }} was{% endfor %}"
    )
    _, plain, _ = call("generate", f"--model={directory}", "--prompt=Zoo was", "--max_new_tokens=9")
    _, chat, _ = call("generate", f"--model={directory}", "--prompt=Zoo", "--chat", "--max_new_tokens=9")
    assert plain == f"Zoo was{chat}" and len(chat) > 5


@pytest.mark.parametrize("name", ["base", "visa"])
def test_a_run_goes_out_and_says_the_same(chain, call, tmp_path, name):
    run, out = chain.directory / name, tmp_path / "out"
    assert call("convert", f"--model={run}", f"--out={out}")[0] == 0
    found = open_run(run, "run")
    model, tokenizer = load_pretrained(out)
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), found.params, model.params)
    assert all(jax.tree.leaves(same))
    assert model.end_ids == (found.tokenizer.eos_token_id,)
    asked = f"<bos> {QUESTION} <sep>"
    assert tokenizer(asked, add_special_tokens=False) == found.tokenizer(asked, add_special_tokens=False)


def test_what_can_not_be_converted_is_told_in_one_line(chain, call, tmp_path, source):
    stories, out = source(), tmp_path / "out"
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    cases = [
        (["--model=nowhere", f"--out={out}"], "--model: nowhere does not exist"),
        ([f"--model={stories}", f"--out={full}"], f"--out: {full} is there already"),
        ([f"--model={full}", f"--out={out}"], f"{full}: not a run"),
        ([f"--model={chain.directory / 'detector'}", f"--out={out}"], "--model: "),
        ([f"--model={chain.directory / 'moc'}", f"--out={out}"], "condition = 2"),
        ([f"--model={stories}", f"--out={out}", "--dtype=int8"], "--dtype"),
    ]
    for argv, message in cases:
        code, printed, error = call("convert", *argv)
        assert code in (1, 2) and printed == "" and message in error and "\n" not in error, (argv, error)
    assert not out.exists()
