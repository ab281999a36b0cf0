"""Drawing one token per row. All functions are pure; ``logits_BV`` is float32 [B, V]."""

import jax
import jax.numpy as jnp

from visa_jax.ops.numerics import token_logps


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
    if not _is_off(top_p, 1.0):
        ranked = -jnp.sort(-logits_BV, axis=-1)
        prob = jax.nn.softmax(ranked, axis=-1)
        before = jnp.cumsum(prob, axis=-1) - prob
        inside = (before < top_p) | (jnp.arange(ranked.shape[-1]) == 0)[None, :]
        logits_BV = _keep(logits_BV, jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True))
    if not _is_off(min_p, 0.0):
        logits_BV = _keep(logits_BV, jnp.max(logits_BV, axis=-1, keepdims=True) + jnp.log(min_p))
    return logits_BV


def sample_token(
    key: jax.Array,
    logits_BV: jax.Array,
    *,
    temperature=1.0,
    top_k: int = 0,
    top_p=1.0,
    min_p=0.0,
    noise_B: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Draw one token per row: ``(token_B int32, logp_B float32)``.

    ``logp`` is the log-softmax of logits / temperature *before* any truncation, which is what an
    update recomputes. Temperature 0 takes the largest logit and gives ``logp`` at temperature 1.
    One uniform number per row is looked up in the cumulative distribution: far cheaper than noise
    for every entry of the vocabulary. ``temperature`` may be traced. With ``noise_B`` (int32 [B]) a
    row's number depends on the key and its entry alone: equal entries draw alike, whatever the batch.
    """
    scaled_BV = scale_logits(logits_BV, temperature)
    kept_BV = truncate(scaled_BV, top_k=top_k, top_p=top_p, min_p=min_p)
    cumulative_BV = jnp.cumsum(jnp.exp(kept_BV - jnp.max(kept_BV, axis=-1, keepdims=True)), axis=-1)
    if noise_B is None:
        uniform_B1 = jax.random.uniform(key, (logits_BV.shape[0], 1))
    else:
        uniform_B1 = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), (1,)))(noise_B)
    drawn_B = jnp.sum(cumulative_BV <= uniform_B1 * cumulative_BV[:, -1:], axis=-1)
    token_B = jnp.where(jnp.asarray(temperature) > 0, drawn_B, jnp.argmax(logits_BV, axis=-1)).astype(jnp.int32)
    return token_B, token_logps(scaled_BV, token_B)


def _keep(logits_BV, threshold_B1):
    return jnp.where(logits_BV >= threshold_B1, logits_BV, -jnp.inf)


def _is_off(setting, off):
    return isinstance(setting, int | float) and setting == off
