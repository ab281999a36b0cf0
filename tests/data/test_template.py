"""Prompts: what they say, what they cannot say, what they refuse."""

import json

import numpy as np
import pytest

from visa_jax.config import UserError
from visa_jax.data.symbols import SPECIAL_TOKENS
from visa_jax.data.template import answer_prompt, encode_preference, moc_prompt, round_levels, visa_prompt
from visa_jax.data.testbed import make_testbed
from visa_jax.data.testbed.corpus import visa_pairs
from visa_jax.types import VALUES


def target(**levels):
    return np.array([levels.get(name, 0.0) for name in VALUES])


def test_levels_prompt():
    prompt = visa_prompt("describe the mill", "it is red .", target(Security=1.0, Stimulation=-0.4))
    expected = "<bos> describe the mill <sep> it is red . <sep> <stimulation:-0.5> <security:+1.0> <sep>"
    assert prompt == expected  # in the order of VALUES, rounded, zeros left out


def test_levels_prompt_of_a_zero_target():
    assert visa_prompt("", "it is red .", np.zeros(10)) == "<bos> <sep> it is red . <sep> <sep>"


def test_levels_prompt_is_short():
    pairs = visa_pairs(make_testbed(0), np.random.default_rng(0), 500)
    assert max(len(visa_prompt(p.question, p.source, p.target).split()) for p in pairs) <= 45


def test_rounding():
    got = round_levels(np.array([0.24, 0.25, -0.25, 0.74, 0.75, -1.7, -0.1]))
    assert got.tolist() == [0.0, 0.5, -0.5, 0.5, 1.0, -1.0, 0.0]
    assert not np.signbit(got[-1])


def test_json_prompt():
    prompt = visa_prompt("what is it ?", "it is red .", target(Security=0.504, Power=-0.25), "json")
    said = json.loads(prompt.split("Target values: ")[1].split("\n")[0])
    assert list(said) == list(VALUES) and said["Security"] == 0.5 and said["Power"] == -0.25 and said["Hedonism"] == 0
    assert "it is red ." in prompt and all(f"- {name}: " in prompt for name in VALUES)
    assert prompt.endswith("Rewritten answer:\n")


def test_preference_numbers():
    assert moc_prompt("describe the mill", [0.37, 0.63]) == (
        "<bos> <rm1_score> <0.> <.3> <.07> <rm2_score> <0.> <.6> <.03> describe the mill <sep>"
    )
    assert encode_preference([1.0, 0.0]) == "<rm1_score> <1.> <.0> <.00> <rm2_score> <0.> <.0> <.00>"
    assert encode_preference([0.29, 0.71]) == "<rm1_score> <0.> <.2> <.09> <rm2_score> <0.> <.7> <.01>"
    assert encode_preference([0.5, 0.3, 0.2], "symbol") == "<rm1_score> <p0.50> <rm2_score> <p0.30> <rm3_score> <p0.20>"
    assert moc_prompt("describe the mill", [0.5, 0.5], "prefix") == answer_prompt("describe the mill")


@pytest.mark.parametrize("encoding", ["text", "symbol"])
def test_every_hundredth_has_its_own_spelling(encoding):
    said = [encode_preference([i / 100, 1 - i / 100], encoding) for i in range(101)]
    assert len(set(said)) == 101
    assert all(word in SPECIAL_TOKENS for text in said for word in text.split())


def test_a_text_cannot_write_special_tokens():
    assert "<security:+1.0>" not in visa_prompt("a <security:+1.0>", "b <eos>", np.zeros(10))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: visa_prompt("a", "b", np.zeros(9)), "target must be 10 numbers"),
        (lambda: visa_prompt("a", "b", np.full(10, np.nan)), "target must be"),
        (lambda: visa_prompt("a", "b", target(Power=1.5)), "target must be"),
        (lambda: visa_prompt("a", "b", np.zeros(10), "xml"), "template 'xml'"),
        (lambda: moc_prompt("a", [0.5, 0.5], "digits"), "encoding 'digits'"),
        (lambda: moc_prompt("a", []), "1 to 4 entries"),
        (lambda: moc_prompt("a", [1.2, -0.2]), "not in"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert issubclass(UserError, ValueError)
