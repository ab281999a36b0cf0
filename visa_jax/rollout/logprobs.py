"""Log-probabilities of given completions, differentiable in the parameters."""

import jax
import jax.numpy as jnp

from visa_jax.ops.numerics import LOGSUMEXP, token_logps
from visa_jax.parallel import constrain, pieces
from visa_jax.rollout.sampling import scale_logits
from visa_jax.types import LanguageModel, Rollout

SMALL = 2**22  # logits (16 MiB) that are simply held
CHUNK = 2**22  # logits of a chunk
LEAST = 512  # tokens of a chunk


def completion_states(lm: LanguageModel, params, rollout: Rollout) -> jax.Array:
    """[B, T, D]: the hidden states that predict each completion token; the prompt is computed once per group."""
    prompts = rollout.prompts
    asked = prompts.prompt_NL, prompts.prompt_mask_NL, prompts.condition_NM
    hidden_BTD, last_hidden_ND = lm.extend(params, *asked, rollout.completion_BT, rollout.mask_BT)
    first_BD = jnp.repeat(last_hidden_ND, hidden_BTD.shape[0] // last_hidden_ND.shape[0], axis=0)
    return jnp.concatenate([first_BD[:, None], hidden_BTD[:, :-1]], axis=1)


def completion_logps(lm: LanguageModel, params, rollout: Rollout, *, temperature=1.0, chunk: int | None = None):
    """``(logp_BT, state_BTD)`` of a rollout's completions at ``temperature`` (0 counts as 1).

    Args:
        chunk: tokens whose logits exist at once (whole columns, at least one), computed again in the backward pass;
            B·T or more holds all of [B, T, V] and computes nothing twice. None: ``chunk_size``.

    Returns:
        logp_BT: float32, 0 where masked.
        state_BTD: the hidden states that predict each token, for critic heads.
    """
    state_BTD = completion_states(lm, params, rollout)

    def score(pair, *head):
        state, token = pair
        return token_logps(scale_logits(lm.logits(params, state, *head), temperature), token)

    (rows, length), tokens = rollout.completion_BT.shape, rollout.completion_BT.size
    if chunk is None:
        vocabulary = jax.eval_shape(lm.logits, params, state_BTD[:, 0]).shape[-1]
        chunk = chunk_size(tokens, vocabulary, state_BTD.shape[-1], pieces("batch"))
    if chunk >= tokens:
        logp_BT = score((state_BTD, rollout.completion_BT))
    else:
        chunks = -(-length // max(chunk // rows, 1))
        columns = -(-length // chunks)  # equal ones: a last one of few columns would be filled up with zeros
        pairs = jax.tree.map(lambda x: _fold(x, columns), (state_BTD, rollout.completion_BT))
        keep_sums = jax.checkpoint_policies.save_only_these_names(LOGSUMEXP)
        # on a mesh the output layer is gathered once and not with each chunk
        head = () if pieces("batch") == 1 else (lm.head(params),)
        score = jax.checkpoint(score, policy=keep_sums)
        logp_PBC = jax.lax.map(lambda pair: score(pair, *head), pairs)
        logp_BT = jnp.moveaxis(logp_PBC, 0, 1).reshape(rows, -1)[:, :length]
    return jnp.where(rollout.mask_BT, logp_BT, 0.0), state_BTD


def chunk_size(tokens: int, vocabulary: int, width: int, devices: int = 1) -> int:
    """Tokens per chunk: all where their logits are ``SMALL`` together, else near ``CHUNK`` logits in equal chunks.

    At least ``LEAST`` tokens, so that the matrix products stay large and gradients of the head are few. Sizes are of
    what one of ``devices`` has of the rows. Where there are several, each chunk sends its gradient of the head to all
    of them, so it has ``width`` tokens at least: its logits are then as many as the head's own numbers.
    """
    own = -(-tokens // devices)
    if own * vocabulary <= SMALL:
        return devices * own
    least = LEAST if devices == 1 else max(LEAST, width)
    return devices * -(-own // max(own // max(CHUNK // vocabulary, least), 1))


def _fold(x_BT, columns):
    """[B, T, ...] -> [pieces, B, columns, ...], the last piece filled up with zeros.

    By columns: a piece has some of every row, so that on a mesh it is the work of all devices.
    """
    x_BT = jnp.pad(x_BT, [(0, 0), (0, -x_BT.shape[1] % columns)] + [(0, 0)] * (x_BT.ndim - 2))
    x_BPC = x_BT.reshape(x_BT.shape[0], -1, columns, *x_BT.shape[2:])
    return constrain(jnp.moveaxis(x_BPC, 1, 0), "pieces", "batch", *("length",) * (x_BT.ndim - 1))
