"""A table for a language model: the next token depends on the last one only, so all probabilities are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.types import LanguageModel, Prefix, PromptBatch


@pytest.fixture(scope="session")
def table_lm():
    """Make the LanguageModel of V tokens whose params are logits_VV [last token, next token].

    ``on_decode(step)`` is called at every decode step that is really run.
    """

    def make(vocab: int, on_decode=None) -> LanguageModel:
        def prefill(params, prompt_NL, mask_NL, condition_NM=None):
            last = jnp.take_along_axis(prompt_NL, jnp.sum(mask_NL, axis=1)[:, None] - 1, axis=1)[:, 0]
            keys = jnp.zeros((1, *prompt_NL.shape, 1, 1))
            return Prefix(key_XNLHC=keys, value_XNLHC=keys, mask_NL=mask_NL, last_hidden_ND=jax.nn.one_hot(last, vocab))

        def extend(params, prompt_NL, mask_NL, condition_NM, completion_BT, mask_BT):
            last_hidden = prefill(params, prompt_NL, mask_NL).last_hidden_ND
            return jax.nn.one_hot(completion_BT, vocab), last_hidden

        def decode(params, prefix, cache, token_B, step):
            if on_decode is not None:
                jax.debug.callback(on_decode, step)
            return jax.nn.one_hot(token_B, vocab), cache

        return LanguageModel(
            forward=lambda params, tokens, mask: jax.nn.one_hot(tokens, vocab),
            prefill=prefill,
            extend=extend,
            init_cache=lambda prefix, rows, length, dtype: (),
            decode=decode,
            logits=lambda params, hidden: hidden @ params,
        )

    return make


@pytest.fixture(scope="session")
def chain():
    """Make logits [V, V] of a table in which each token is followed by its link with near certainty."""

    def make(*links, vocab: int) -> jax.Array:
        table = np.full((vocab, vocab), -50.0, np.float32)
        for last, following in links:
            table[last, following] = 0.0
        return jnp.asarray(table)

    return make


@pytest.fixture(scope="session")
def prompt_batch():
    """Make a PromptBatch of ids [N, L] with the given lengths (all L by default)."""

    def make(ids, lengths=None):
        ids = jnp.asarray(ids, jnp.int32)
        lengths = jnp.full(ids.shape[0], ids.shape[1]) if lengths is None else jnp.asarray(lengths)
        mask = jnp.arange(ids.shape[1])[None, :] < lengths[:, None]
        return PromptBatch(
            prompt_NL=ids,
            prompt_mask_NL=mask,
            condition_NM=jnp.zeros((ids.shape[0], 1)),
            context_NS=ids,
            context_mask_NS=mask,
        )

    return make
