"""Drawing one token per row. All functions are pure; ``logits_BV`` is float32 [B, V]."""

import jax
import jax.numpy as jnp

from visa_jax.ops.numerics import token_logps

BLOCK = 128  # vocabulary entries that a draw sums first


def scale_logits(logits: jax.Array, temperature) -> jax.Array:
    """logits / temperature; temperature 0 (greedy) counts as 1, so that log-probabilities stay defined."""
    temperature = jnp.asarray(temperature, jnp.float32)
    return logits / jnp.where(temperature > 0, temperature, 1.0)


def truncate(logits_BV: jax.Array, *, top_k: int = 0, top_p=1.0, min_p=0.0) -> jax.Array:
    """Set to -inf what must not be drawn: first top-k, then top-p, then min-p. The best token always stays.

    Args:
        top_k: keep the k largest logits (ties with the k-th stay); 0 keeps all.
        top_p: keep the smallest set of largest tokens with mass >= top_p (Holtzman et al. 2020); 1 keeps all.
        min_p: keep tokens with at least ``min_p`` times the best token's probability; 0 keeps all.
    """
    if 0 < top_k < logits_BV.shape[-1]:
        logits_BV = _keep(logits_BV, jax.lax.top_k(logits_BV, top_k)[0][:, -1:])
    if not is_off(top_p, 1.0):
        ranked = -jnp.sort(-logits_BV, axis=-1)
        prob = jax.nn.softmax(ranked, axis=-1)
        before = jnp.cumsum(prob, axis=-1) - prob
        inside = (before < top_p) | (jnp.arange(ranked.shape[-1]) == 0)[None, :]
        logits_BV = _keep(logits_BV, jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True))
    if not is_off(min_p, 0.0):
        logits_BV = _keep(logits_BV, jnp.max(logits_BV, axis=-1, keepdims=True) + jnp.log(min_p))
    return logits_BV


def penalize(logits_BV: jax.Array, seen_BV: jax.Array, repetition_penalty) -> jax.Array:
    """Logits of tokens that are there already, divided by the penalty where positive and multiplied where not.

    Keskar et al. 2019, section 4.1, in the form of transformers and vLLM, which lowers negative logits too.

    Args:
        seen_BV: bool, tokens of the row's prompt or of its completion so far (``mark``).
        repetition_penalty: above 0; above 1 makes repetition rarer, 1 changes nothing. May be traced.
    """
    lowered_BV = jnp.where(logits_BV > 0, logits_BV / repetition_penalty, logits_BV * repetition_penalty)
    return jnp.where(seen_BV, lowered_BV, logits_BV)


def mark(seen_BV: jax.Array, token_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """``seen_BV`` with the tokens that ``mask_BT`` counts; padding marks nothing."""
    return seen_BV.at[jnp.arange(seen_BV.shape[0])[:, None], token_BT].max(mask_BT)


def sample_token(
    key: jax.Array,
    logits_BV: jax.Array,
    *,
    temperature=1.0,
    top_k: int = 0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    seen_BV: jax.Array | None = None,
    noise_B: jax.Array | None = None,
    places: tuple[jax.Array, int] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Draw one token per row: ``(token_B int32, logp_B float32)``.

    ``logp`` is the log-softmax of logits / temperature *before* penalty and truncation, which is what an
    update recomputes; with either of them it is therefore not the probability that the token was drawn with.
    Temperature 0 takes the largest (penalized) logit and gives ``logp`` at temperature 1.
    One uniform number per row is looked up in the cumulative distribution: far cheaper than noise
    for every entry of the vocabulary. ``temperature`` may be traced. With ``noise_B`` (int32 [B]) a
    row's number depends on the key and its entry alone: equal entries draw alike, whatever the batch;
    ``key`` may then be one for each row, [B]. ``places`` is (int32 [B], size): the rows stand at these places of a
    larger batch, and meet the noise that they would meet there. ``seen_BV`` is what a penalty counts (``penalize``).
    """
    scaled_BV = scale_logits(logits_BV, temperature)
    allowed_BV, kept_BV = logits_BV, scaled_BV
    if not is_off(repetition_penalty, 1.0):
        allowed_BV = penalize(logits_BV, seen_BV, repetition_penalty)
        kept_BV = scale_logits(allowed_BV, temperature)
    kept_BV = truncate(kept_BV, top_k=top_k, top_p=top_p, min_p=min_p)
    if places is not None:
        uniform_B1 = jax.random.uniform(key, (places[1], 1))[places[0]]
    elif noise_B is None:
        uniform_B1 = jax.random.uniform(key, (logits_BV.shape[0], 1))
    else:
        row_keys_B = jax.vmap(jax.random.fold_in)(jnp.broadcast_to(key, noise_B.shape), noise_B)
        uniform_B1 = jax.vmap(lambda row_key: jax.random.uniform(row_key, (1,)))(row_keys_B)
    drawn_B, logsumexp_B1 = _look_up(kept_BV, uniform_B1)
    token_B = jnp.where(jnp.asarray(temperature) > 0, drawn_B, _largest(allowed_BV)).astype(jnp.int32)
    if kept_BV is not scaled_BV:
        return token_B, token_logps(scaled_BV, token_B)
    return token_B, (jnp.take_along_axis(scaled_BV, token_B[:, None], axis=-1) - logsumexp_B1)[:, 0]


def _look_up(logits_BV, uniform_B1):
    """Where the cumulative distribution passes a uniform number in [0, 1), and the log-sum-exp.

    First among blocks of the vocabulary, then within one block: a cumulative sum over all of it costs several times
    as much as the rest together on CPU. An entry of -inf is never found, rounding or not.
    """
    top_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    block_BNX = _blocks(logits_BV)
    cumulative_BN = jnp.cumsum(jnp.sum(jnp.exp(block_BNX - top_B1[:, :, None]), axis=-1), axis=-1)
    sought_B1 = uniform_B1 * cumulative_BN[:, -1:]
    number_B1 = jnp.sum(cumulative_BN <= sought_B1, axis=-1, keepdims=True)
    before_B1 = jnp.max(jnp.where(cumulative_BN <= sought_B1, cumulative_BN, 0.0), axis=-1, keepdims=True)
    weight_BX = jnp.exp(jnp.take_along_axis(block_BNX, number_B1[:, :, None], axis=1)[:, 0] - top_B1)
    place_B = jnp.sum(jnp.cumsum(weight_BX, axis=-1) <= sought_B1 - before_B1, axis=-1)
    last_B = jnp.max(jnp.where(weight_BX > 0, jnp.arange(BLOCK)[None, :], 0), axis=-1)
    token_B = number_B1[:, 0] * BLOCK + jnp.minimum(place_B, last_B)
    return token_B, top_B1 + jnp.log(cumulative_BN[:, -1:])


def _largest(logits_BV):
    """argmax, the first of equals, in two levels: over the whole vocabulary at once it is far slower on CPU."""
    block_BNX = _blocks(logits_BV)
    number_B1 = jnp.argmax(jnp.max(block_BNX, axis=-1), axis=-1, keepdims=True)
    block_BX = jnp.take_along_axis(block_BNX, number_B1[:, :, None], axis=1)[:, 0]
    return number_B1[:, 0] * BLOCK + jnp.argmax(block_BX, axis=-1)


def _blocks(logits_BV):
    """[B, V / BLOCK, BLOCK], filled up with -inf."""
    short = -logits_BV.shape[1] % BLOCK
    padded = jnp.pad(logits_BV, ((0, 0), (0, short)), constant_values=-jnp.inf) if short else logits_BV
    return padded.reshape(logits_BV.shape[0], -1, BLOCK)


def _keep(logits_BV, threshold_B1):
    return jnp.where(logits_BV >= threshold_B1, logits_BV, -jnp.inf)


def is_off(setting, off) -> bool:
    """Whether a setting is known to do nothing when the program is made; a traced one is not."""
    return isinstance(setting, int | float) and setting == off
