"""Small models that read a text for the rewards: value detector, translator, Fact Analyzer, reward model.

Each is a trunk (``decoder``; causal or not) with a head that has the structure of its question built in, because a
plain pooled linear head has to find products (this value *and* that sign; this fact *and* the same fact there) by
itself, and had hardly begun to after 300 steps, when these heads were nearly there (LOG.md).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from visa_jax.models.cache import same_segment
from visa_jax.models.heads import linear
from visa_jax.types import Array, LanguageModel, Params

PRESENCE_PRIOR = -3.0  # a token expresses no value unless it learns to
COMPARE_WIDTH = 64
CLIPPED_LOGP = -8.0


class Detection(NamedTuple):
    """What the detector finds in n texts."""

    value_BM: Array  # in (-1, 1)
    presence_BM: Array  # probability that the text takes a stance on the value at all


def make_detector(lm: LanguageModel, values: int) -> tuple[Callable, Callable]:
    """``(detect(params, token_BT, mask_BT) -> Detection, init_head(key, width))``.

    At each token: presence p = sigmoid(W_p h + b) and stance s = W_s h (unbounded: a bounded one saturated and could no
    longer tell a half from one, LOG.md); v = tanh(sum_t p_t s_t). The text's
    presence is the noisy or 1 - prod_t (1 - p_t), which also serves data with presence labels only.
    """

    def detect(params: Params, token_BT: Array, mask_BT: Array) -> Detection:
        hidden_BTD = lm.forward(params["decoder"], token_BT, mask_BT)
        head = params["head"]
        absence_BTM = jnp.where(mask_BT[..., None], jax.nn.log_sigmoid(-linear(head["presence"], hidden_BTD)), 0.0)
        stance_BTM = linear(head["stance"], hidden_BTD)
        prior_1M = jax.nn.log_sigmoid(-head["prior"]["presence"])[None]
        reading_BM = jnp.sum(-jnp.expm1(absence_BTM) * stance_BTM, axis=1)
        reading_BM = reading_BM - jnp.expm1(prior_1M) * head["prior"]["stance"][None]
        absence_BM = jnp.sum(absence_BTM, axis=1) + prior_1M
        return Detection(value_BM=jnp.tanh(reading_BM), presence_BM=-jnp.expm1(absence_BM))

    def init_head(key: Array, width: int) -> Params:
        presence_key, stance_key = jax.random.split(key)
        return {
            "presence": _init_linear(presence_key, width, values) | {"bias": jnp.full(values, PRESENCE_PRIOR)},
            "stance": _init_linear(stance_key, width, values),
            "prior": {"presence": jnp.full(values, PRESENCE_PRIOR), "stance": jnp.zeros(values)},
        }

    return detect, init_head


class SentenceLogits(NamedTuple):
    """For every hypothesis token the logits of the sentence that it belongs to (read them at sentence ends)."""

    claim_BT: Array
    entailed_BT: Array


def make_analyzer(lm: LanguageModel, *, stop_id: int) -> tuple[Callable, Callable, Callable]:
    """``(encode, compare, init_head)`` of the Fact Analyzer: attend, compare, aggregate (Parikh et al. 2016).

    ``encode(params, token_BT, mask_BT) -> hidden_BTD`` reads each text once; ``compare(params, premise, hypothesis)``
    with (token, mask, hidden) triples aligns every hypothesis token with the premise and sums over its sentence:
    a sentence is entailed when some of its tokens find support and none objects.
    """

    def encode(params: Params, token_BT: Array, mask_BT: Array) -> Array:
        return lm.forward(params["decoder"], token_BT, mask_BT)

    def compare(params: Params, premise: tuple, hypothesis: tuple) -> SentenceLogits:
        head = params["head"]
        (_, premise_mask_BS, premise_BSD), (token_BT, mask_BT, hidden_BTD) = premise, hypothesis
        left_BTE, right_BSE = linear(head["align"], hidden_BTD), linear(head["align"], premise_BSD)
        score_BTS = jnp.einsum("bte,bse->bts", left_BTE, right_BSE) * head["sharpness"][None, None]
        weight_BTS = jax.nn.softmax(jnp.where(premise_mask_BS[:, None, :], score_BTS, -1e30), axis=-1)
        found_BTE = jnp.einsum("bts,bse->bte", weight_BTS, right_BSE)
        features_BTF = jnp.concatenate(
            [left_BTE, found_BTE, left_BTE * found_BTE, jnp.square(left_BTE - found_BTE)], axis=-1
        )
        out_BTO = linear(head["out"], jax.nn.gelu(linear(head["compare"], features_BTF)))
        objection_BT, support_BT = (jnp.where(mask_BT, jax.nn.softplus(out_BTO[..., i]), 0.0) for i in (0, 2))
        claim_BT = jnp.where(mask_BT, out_BTO[..., 1], 0.0)
        same_BTT = same_segment((token_BT == stop_id) & mask_BT).astype(objection_BT.dtype)
        claim_BT, objection_BT, support_BT = (
            jnp.einsum("btu,bu->bt", same_BTT, x_BT) for x_BT in (claim_BT, objection_BT, support_BT)
        )
        # support saturates, so that repeating what is there never outweighs one objection
        return SentenceLogits(claim_BT=claim_BT, entailed_BT=6.0 * jnp.tanh(support_BT) - 3.0 - objection_BT)

    def init_head(key: Array, width: int) -> Params:
        align_key, compare_key, out_key = jax.random.split(key, 3)
        return {
            "align": _init_linear(align_key, width, COMPARE_WIDTH),
            "sharpness": jnp.full((1,), COMPARE_WIDTH**-0.5),
            "compare": _init_linear(compare_key, 4 * COMPARE_WIDTH, COMPARE_WIDTH),
            "out": _init_linear(out_key, COMPARE_WIDTH, 3) | {"bias": jnp.array([-1.0, 0.0, -1.0])},
        }

    return encode, compare, init_head


def make_reward_reader(lm: LanguageModel) -> tuple[Callable, Callable]:
    """``(score(params, question_NS, mask, answer_BT, mask) -> reward_B, init_head)``, B = N * G.

    Every answer token adds its share, read from its hidden state and from how likely the trunk, as the language model
    it was pretrained to be, finds the token: a wrong fact is a surprise. Questions are read once for their G answers.
    """

    def score(params: Params, question_NS: Array, question_mask_NS: Array, answer_BT: Array, mask_BT: Array) -> Array:
        asked = question_NS, question_mask_NS, None
        hidden_BTD, last_hidden_ND = lm.extend(params["decoder"], *asked, answer_BT, mask_BT)
        first_BD = jnp.repeat(last_hidden_ND, hidden_BTD.shape[0] // question_NS.shape[0], axis=0)
        state_BTD = jnp.concatenate([first_BD[:, None], hidden_BTD[:, :-1]], axis=1)
        logits_BTV = lm.logits(params["decoder"], state_BTD)
        here_BTV = jnp.arange(logits_BTV.shape[-1])[None, None, :] == answer_BT[..., None]
        logp_BT = jnp.sum(jnp.where(here_BTV, logits_BTV, 0.0), axis=-1) - jax.nn.logsumexp(logits_BTV, axis=-1)
        surprise_BT = jnp.maximum(logp_BT, CLIPPED_LOGP)[..., None] / CLIPPED_LOGP
        features_BTF = jnp.concatenate([hidden_BTD, surprise_BT, surprise_BT * hidden_BTD], axis=-1)
        share_BT1 = linear(params["head"]["share"], features_BTF)
        return jnp.sum(share_BT1[..., 0], axis=1, where=mask_BT) + params["head"]["bias"][0]

    def init_head(key: Array, width: int) -> Params:
        share = _init_linear(key, 2 * width + 1, 1)
        # a sum over all tokens: small at the start, or its first errors are hundreds of times those of its targets
        return {"share": jax.tree.map(lambda x: 0.1 * x, share), "bias": jnp.zeros(1)}

    return score, init_head


def hold(params: Params, dtype: str) -> Params:
    """A reader's parameters with those of its trunk in ``dtype``; what they are computed in is the trunk's config's.

    A reader without a trunk (a linear detector) stays as it is.
    """
    if "decoder" not in params:
        return params
    return params | {"decoder": jax.tree.map(lambda leaf: leaf.astype(dtype), params["decoder"])}


def _init_linear(key: Array, inputs: int, outputs: int) -> Params:
    return {"kernel": jax.random.normal(key, (inputs, outputs)) * inputs**-0.5, "bias": jnp.zeros(outputs)}
