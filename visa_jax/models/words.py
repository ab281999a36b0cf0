"""A value detector that is linear in which tokens a text holds: ridge regression, solved and not trained.

A few thousand labelled texts of a few hundred topics teach a small transformer less than this, and two of these that
learned from different topics agree far more (LOG.md): the weight of a word they have both seen is their evidence,
and of what they have not seen they say the mean label.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from visa_jax.models.readers import Detection
from visa_jax.types import Array, Params


def make_word_detector() -> Callable[[Params, Array, Array], Detection]:
    """``detect(params, token_BT, mask_BT) -> Detection``, v = clip(b + sum_w r_w k_w / |r|, -1, 1).

    The sum is over the different tokens w of a text, r_w is a token's rarity and |r| the length of the text's vector
    of rarities, so a text that says a word twice, or is long, reads no stronger. Presence is |v|.
    """

    def detect(params: Params, token_BT: Array, mask_BT: Array) -> Detection:
        rarity_BT = params["rarity"][token_BT] * first_uses(token_BT, mask_BT)
        size_B1 = jnp.sqrt(jnp.sum(jnp.square(rarity_BT), axis=1, keepdims=True))
        share_BT = rarity_BT / jnp.maximum(size_B1, 1e-6)
        value_BM = params["bias"][None] + jnp.einsum("bt,btm->bm", share_BT, params["kernel"][token_BT])
        value_BM = jnp.clip(value_BM, -1.0, 1.0)
        return Detection(value_BM=value_BM, presence_BM=jnp.abs(value_BM))

    return detect


def first_uses(token_BT: Array, mask_BT: Array) -> Array:
    """True [B, T] where a token stands in its text for the first time."""
    place_T = jnp.arange(token_BT.shape[1])
    earlier_TT = place_T[None, :] < place_T[:, None]
    same_BTT = (token_BT[:, :, None] == token_BT[:, None, :]) & mask_BT[:, None, :]
    return mask_BT & ~jnp.any(same_BTT & earlier_TT[None], axis=2)


def solve_word_detector(
    token_BT: np.ndarray, mask_BT: np.ndarray, value_BM: np.ndarray, *, vocab_size: int, ridge: float
) -> Params:
    """Parameters of ``make_word_detector`` that minimise sum_B |v - label|^2 + ridge |k|^2, unclipped, b free.

    A token's rarity is log((B + 1) / (texts that hold it + 1)): a word that every text holds says nothing, one never
    seen makes a text less certain, since its own weight is 0.

    Args:
      token_BT, mask_BT: texts; equal texts with equal labels count once.
      value_BM: labels in [-1, 1].
      ridge: weight of the penalty, > 0, in texts: about so many have to hold a word before its weight is believed.
    """
    _, chosen = np.unique(np.hstack([np.where(mask_BT, token_BT, -1), value_BM]), axis=0, return_index=True)
    token_BT, mask_BT, value_BM = token_BT[chosen], mask_BT[chosen], value_BM[chosen]
    rows = len(token_BT)
    held_BV = np.zeros((rows, vocab_size))
    held_BV[np.nonzero(mask_BT)[0], token_BT[mask_BT]] = 1.0
    rarity_V = np.log((rows + 1) / (held_BV.sum(axis=0) + 1))
    share_BV = held_BV * rarity_V
    share_BV /= np.maximum(np.linalg.norm(share_BV, axis=1, keepdims=True), 1e-6)
    centre_V, mean_M = share_BV.mean(axis=0), value_BM.mean(axis=0)
    share_BV -= centre_V
    # the same solution from the smaller of two systems: words by words, or texts by texts
    if vocab_size <= rows:
        moment_VV = share_BV.T @ share_BV + ridge * np.eye(vocab_size)
        kernel_VM = np.linalg.solve(moment_VV, share_BV.T @ (value_BM - mean_M))
    else:
        likeness_BB = share_BV @ share_BV.T + ridge * np.eye(rows)
        kernel_VM = share_BV.T @ np.linalg.solve(likeness_BB, value_BM - mean_M)
    params = {"rarity": rarity_V, "kernel": kernel_VM, "bias": mean_M - centre_V @ kernel_VM}
    return {name: jnp.asarray(x, jnp.float32) for name, x in params.items()}
