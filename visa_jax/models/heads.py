"""Small outputs on a model: a scorer (reward, classes, value vector), per-token critics, classes, text embeddings."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from visa_jax.config import UserError
from visa_jax.models.decoder import DecoderConfig, make_decoder
from visa_jax.types import LanguageModel


def make_scorer(config: DecoderConfig, outputs: int, pool: str = "mean"):
    """``(score_fn, init_fn)`` of a decoder with a linear head.

    Args:
        config: the decoder; ``causal=False`` lets every token see the whole text.
        outputs: numbers per text (or per token).
        pool: ``mean`` over the valid tokens, ``last`` valid token, or ``token`` (no pooling).

    Returns:
        ``score_fn(params, tokens_BT, mask_BT) -> float32 [B, outputs]`` ([B, T, outputs] for
        ``token``) and ``init_fn(key) -> {"decoder": ..., "head": {"kernel", "bias"}}``; the
        decoder's parameters may be replaced by those of a trained one.
    """
    if pool not in ("mean", "last", "token"):
        raise UserError(f"pool must be mean, last or token, not {pool!r}")
    lm, init_decoder = make_decoder(config)

    def score_fn(params, tokens_BT, mask_BT):
        hidden = lm.forward(params["decoder"], tokens_BT, mask_BT).astype(jnp.float32)
        return linear(params["head"], pool_tokens(hidden, mask_BT, pool))

    def init_fn(key):
        decoder_key, head_key = jax.random.split(key)
        kernel = jax.random.normal(head_key, (config.width, outputs)) * (0.1 * config.width**-0.5)
        return {"decoder": init_decoder(decoder_key), "head": {"kernel": kernel, "bias": jnp.zeros(outputs)}}

    return score_fn, init_fn


def make_critic(width: int, outputs: int):
    """``(critic_fn, init_fn)``: ``critic_fn(params, state_BTD) -> float32 [B, T, outputs]``.

    Zero at the start, so that the first advantages are the returns themselves.
    """

    def critic_fn(params, state_BTD):
        return linear(params, state_BTD.astype(jnp.float32))

    def init_fn(key):
        del key  # nothing is drawn
        return {"kernel": jnp.zeros((width, outputs)), "bias": jnp.zeros(outputs)}

    return critic_fn, init_fn


def make_decoder_classifier(lm: LanguageModel) -> Callable:
    """``classify(params, token_BT, mask_BT) -> logits`` float32 [B, classes] from the last valid token's state.

    As transformers' LlamaForSequenceClassification and its like; with one class it is a reward. ``params`` is
    ``{"decoder": ..., "score": {"kernel": [D, classes]}}``.
    """

    def classify(params, token_BT, mask_BT):
        hidden_BTD = lm.forward(params["decoder"], token_BT, mask_BT).astype(jnp.float32)
        return pool_tokens(hidden_BTD, mask_BT, "last") @ params["score"]["kernel"].astype(jnp.float32)

    return classify


def make_embedder(encode_fn: Callable) -> Callable:
    """``embed(params, token_BT, mask_BT, type_BT=None) -> float32 [B, D]`` of length 1: the mean of the valid states.

    Reimers & Gurevych 2019 (section 3, MEAN) and the normalisation of all-MiniLM-L6-v2. ``encode_fn`` is that of
    ``make_encoder``. A text without tokens gives zeros.
    """

    def embed(params, token_BT, mask_BT, type_BT=None):
        hidden_BTD = encode_fn(params, token_BT, mask_BT, type_BT).astype(jnp.float32)
        mean_BD = pool_tokens(hidden_BTD, mask_BT, "mean")
        square_B1 = jnp.sum(jnp.square(mean_BD), axis=-1, keepdims=True)
        return mean_BD * jax.lax.rsqrt(jnp.maximum(square_B1, 1e-24))

    return embed


def pool_tokens(hidden_BTD: jax.Array, mask_BT: jax.Array, pool: str) -> jax.Array:
    """[B, D]: the mean over valid tokens or the last valid one; ``token`` returns the input."""
    if pool == "token":
        return hidden_BTD
    if pool == "mean":
        weight = mask_BT.astype(hidden_BTD.dtype)
        total = jnp.einsum("btd,bt->bd", hidden_BTD, weight)
        return total / jnp.maximum(jnp.sum(weight, axis=1), 1)[:, None]
    last_B = jnp.max(jnp.where(mask_BT, jnp.arange(mask_BT.shape[1])[None, :], 0), axis=1)
    return jnp.take_along_axis(hidden_BTD, last_B[:, None, None], axis=1)[:, 0]


def linear(params, x: jax.Array) -> jax.Array:
    """x @ kernel + bias over the last axis."""
    out = x @ params["kernel"]
    return out + params["bias"].reshape((1,) * (out.ndim - 1) + (-1,))
