"""The policy losses: arithmetic written out, invariances, then the peers' numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.losses import LOSS_TYPES, policy_loss, policy_loss_sums

ADV = np.array([1.0, -1.0, 0.5])
LOGP = np.log(np.array([[0.5, 0.2], [0.4, 0.1], [0.3, 0.6]]))
RATIO = np.array([[1.5, 0.5], [1.5, 0.5], [1.1, 1.0]])
MASK = np.array([[1, 1], [1, 1], [1, 0]], bool)
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")


def needs(loss_type):
    """What a loss asks for beyond the shared arguments."""
    return {"cispo": {"epsilon_high": 5.0}, "dr_grpo": {"max_completion_length": 4}}.get(loss_type, {})


def loss_of(loss_type, **arguments):
    arguments = {**needs(loss_type), **arguments}
    return policy_loss(jnp.array(LOGP), jnp.array(LOGP - np.log(RATIO)), ADV, MASK, loss_type=loss_type, **arguments)


def batch(rows=6, tokens=5, seed=0):
    rng = np.random.default_rng(seed)
    logp, old, ref = (jnp.array(-rng.exponential(1, (rows, tokens)), jnp.float32) for _ in range(3))
    mask = np.arange(tokens)[None] < rng.integers(1, tokens + 1, (rows, 1))
    return logp, old, ref, jnp.array(rng.normal(size=rows), jnp.float32), jnp.array(mask)


# -min(ρ A, clip(ρ, .8, 1.2) A) of the five valid tokens:
#   A = 1: ρ = 1.5 -> -1.2, ρ = .5 -> -.5     A = -1: ρ = 1.5 -> 1.5, ρ = .5 -> .8     A = .5: ρ = 1.1 -> -.55
REDUCED = {
    "grpo": ((-1.2 - 0.5) / 2 + (1.5 + 0.8) / 2 - 0.55) / 3,
    "dapo": (-1.2 - 0.5 + 1.5 + 0.8 - 0.55) / 5,
    "bnpo": (-1.2 - 0.5 + 1.5 + 0.8 - 0.55) / 5,
    "dr_grpo": (-1.2 - 0.5 + 1.5 + 0.8 - 0.55) / (3 * 4),
    "luspo": (-1.2 - 0.5 + 1.5 + 0.8 - 0.55) / 3,
}


@pytest.mark.parametrize("loss_type", CLIPPED)
def test_clipped_losses_by_hand(loss_type):
    np.testing.assert_allclose(loss_of(loss_type)[0], REDUCED[loss_type], rtol=1e-5)


def test_upper_range_and_delta():
    # ε_high = .4: A = 1, ρ = 1.5 -> -1.4;   δ = 1.45: A = -1, ρ = 1.5 -> 1.45
    loss, _ = loss_of("dapo", epsilon_high=0.4, delta=1.45)
    np.testing.assert_allclose(loss, (-1.4 - 0.5 + 1.45 + 0.8 - 0.55) / 5, rtol=1e-5)


def test_cispo_by_hand_and_its_gradient():
    cap = 1.2
    weight = np.minimum(RATIO, cap) * ADV[:, None] * MASK
    np.testing.assert_allclose(loss_of("cispo", epsilon_high=cap)[0], -(weight * LOGP).sum() / 5, rtol=1e-5)
    old = jnp.array(LOGP - np.log(RATIO))
    gradient = jax.grad(lambda x: policy_loss(x, old, ADV, MASK, loss_type="cispo", epsilon_high=cap)[0])
    np.testing.assert_allclose(gradient(jnp.array(LOGP)), -weight / 5, rtol=1e-5)


def test_sapo_by_hand():
    tau = np.where(ADV > 0, 1.0, 1.05)[:, None]
    token = -4 / tau / (1 + np.exp(-tau * (RATIO - 1))) * ADV[:, None] * MASK
    expected = ((token[0].sum() + token[1].sum()) / 2 + token[2].sum()) / 3
    np.testing.assert_allclose(loss_of("sapo")[0], expected, rtol=1e-5)


def test_sequence_ratio_is_the_geometric_mean_of_the_row():
    row = np.exp([np.log(RATIO[0]).mean(), np.log(RATIO[1]).mean(), np.log(1.1)])  # .87 .87 1.1
    expected = (-row[0] * 1 + row[1] * 1 - row[2] * 0.5) / 3
    loss, metrics = loss_of("grpo", importance_sampling_level="sequence")
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["ratio_mean"], row.mean(), rtol=1e-5)


def test_clip_fractions_by_hand():
    _, metrics = loss_of("dapo")
    shares = [metrics[f"clip_ratio/{name}_mean"] for name in ("low", "high", "region")]
    np.testing.assert_allclose(shares, [1 / 5, 1 / 5, 2 / 5], rtol=1e-6)
    np.testing.assert_allclose(metrics["ratio_mean"], 5.1 / 5, rtol=1e-6)
    # the gradient vanishes exactly on those two tokens
    old = jnp.array(LOGP - np.log(RATIO))
    gradient = jax.grad(lambda x: policy_loss(x, old, ADV, MASK, loss_type="dapo")[0])(jnp.array(LOGP))
    np.testing.assert_array_equal(np.asarray(gradient) == 0, [[True, False], [False, True], [False, True]])


def test_kl_is_added_after_the_token_mask():
    ref = LOGP + 0.3
    k3 = np.exp(0.3) - 0.3 - 1
    keep = np.array([[False, False], [True, True], [True, True]])
    arguments = {"beta": 0.5, "logp_ref_BT": jnp.array(ref), "keep_BT": jnp.array(keep)}
    loss, metrics = loss_of("dapo", **arguments)
    np.testing.assert_allclose(loss, (1.5 + 0.8 - 0.55) / 5 + 0.5 * k3, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], k3, rtol=1e-5)
    loss, _ = loss_of("dapo", bias_corrected_kl=True, **arguments)
    np.testing.assert_allclose(loss, (1.5 + 0.8 - 0.55) / 5 + 0.5 * k3 * (RATIO * MASK).sum() / 5, rtol=1e-5)


def test_bias_correction_takes_the_ratio_before_delta_and_differentiates_it():
    logp, old, ref = jnp.array([[-1.0]]), jnp.array([[-2.0]]), jnp.array([[-1.5]])
    one = jnp.ones((1, 1), bool)

    def kl_term(x):
        return policy_loss(
            x, old, jnp.zeros(1), one, beta=1.0, logp_ref_BT=ref, bias_corrected_kl=True, delta=1.1, loss_type="dapo"
        )[0]

    # K ρ with d/dℓ K = 1 - exp(u), d/dℓ ρ = ρ
    ratio, u = np.e, -0.5
    k3 = np.exp(u) - u - 1
    np.testing.assert_allclose(kl_term(logp), ratio * k3, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(kl_term)(logp)[0, 0], ratio * (1 - np.exp(u)) + ratio * k3, rtol=1e-5)


def test_loss_starts_at_zero_but_its_gradient_does_not():
    logp, _, _, _, mask = batch()
    adv = jnp.array([1.0, -1.0, 2.0, -2.0, 0.5, -0.5])
    loss, gradient = jax.value_and_grad(lambda x: policy_loss(x, logp, adv, mask)[0])(logp)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    # d/dℓ of -ρ A / |row| / B
    expected = -np.asarray(adv)[:, None] * mask / mask.sum(1, keepdims=True) / 6
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_micro_batches_add_up_to_the_whole(loss_type, level):
    logp, old, ref, adv, mask = batch()

    def sums(rows):
        return policy_loss_sums(
            logp[rows],
            old[rows],
            adv[rows],
            mask[rows],
            loss_type=loss_type,
            importance_sampling_level=level,
            beta=0.1,
            logp_ref_BT=ref[rows],
            **needs(loss_type),
        )

    whole, metrics = sums(slice(0, 6))
    parts = [sums(slice(0, 2)), sums(slice(2, 3)), sums(slice(3, 6))]
    added = parts[0][0] + parts[1][0] + parts[2][0]
    same = np.allclose(added.mean(), whole.mean(), rtol=1e-5)
    assert same == (loss_type != "bnpo")  # the one that depends on how the batch is cut
    for name, metric in metrics.items():
        of_parts = parts[0][1][name] + parts[1][1][name] + parts[2][1][name]
        np.testing.assert_allclose(of_parts.mean(), metric.mean(), rtol=1e-5, err_msg=name)


def test_bnpo_of_one_micro_batch_is_dapo():
    np.testing.assert_allclose(loss_of("bnpo")[0], loss_of("dapo")[0], rtol=1e-5)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_padding_with_anything_changes_nothing(loss_type, level):
    logp, old, ref, adv, mask = batch()
    arguments = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.1, **needs(loss_type)}

    def loss(logp, old, ref, mask):
        return policy_loss(logp, old, adv, mask, logp_ref_BT=ref, **arguments)[0]

    def padded(x, value):
        return jnp.concatenate([jnp.where(mask, x, value), jnp.full((6, 2), value)], axis=1)

    longer = jnp.concatenate([mask, jnp.zeros((6, 2), bool)], axis=1)
    dirty = [padded(logp, -jnp.inf), padded(old, jnp.nan), padded(ref, jnp.inf), longer]
    value, gradient = jax.value_and_grad(loss)(logp, old, ref, mask)
    dirty_value, dirty_gradient = jax.value_and_grad(loss)(*dirty)
    np.testing.assert_allclose(dirty_value, value, rtol=1e-6)
    np.testing.assert_allclose(dirty_gradient[:, :5], gradient, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(dirty_gradient[:, 5:], 0)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_advantages_per_token_equal_those_per_row(loss_type):
    logp, old, _, adv, mask = batch()
    per_row = policy_loss(logp, old, adv, mask, loss_type=loss_type, **needs(loss_type))
    per_token = policy_loss(logp, old, jnp.tile(adv[:, None], (1, 5)), mask, loss_type=loss_type, **needs(loss_type))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, per_row, per_token))


@pytest.mark.parametrize(
    "argument, change",
    [
        ("loss_type", {"loss_type": "ppo"}),
        ("importance_sampling_level", {"importance_sampling_level": "row"}),
        ("epsilon_high", {"loss_type": "cispo"}),
        ("max_completion_length", {"loss_type": "dr_grpo"}),
        ("logp_ref_BT", {"beta": 0.1}),
        ("kl_kind", {"kl_kind": "k1"}),
        ("kl_kind", {"kl_kind": "k1", "beta": 0.1, "logp_ref_BT": jnp.array(LOGP)}),
        ("adv", {"adv": jnp.ones(2)}),
    ],
)
def test_bad_arguments_are_named(argument, change):
    logp = jnp.array(LOGP)
    with pytest.raises(ValueError, match=argument):
        policy_loss(**{"logp_BT": logp, "logp_old_BT": logp, "adv": ADV, "mask_BT": MASK, **change})


def test_agrees_with_peers(shared, x64):
    known = json.loads((shared / "oracles.json").read_text())
    inputs = known["loss_inputs"]
    logp, old, ref, adv = (jnp.array(inputs[k], float) for k in ("logp", "logp_old", "logp_ref", "adv"))
    mask = jnp.array(inputs["mask"], bool)
    for case in known["loss"]:
        expected = case.pop("loss"), case.pop("grad_norm")
        arguments = {**case, "importance_sampling_level": case.pop("level")}
        arguments.pop("level", None)

        def loss(x, arguments=arguments):
            length = inputs["max_completion_length"]
            return policy_loss(x, old, adv, mask, logp_ref_BT=ref, max_completion_length=length, **arguments)

        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(logp)
        ours = value, jnp.linalg.norm(gradient)
        np.testing.assert_allclose(ours, expected, atol=2e-6, rtol=2e-6, err_msg=str(arguments))
        if arguments == {"loss_type": "grpo", "importance_sampling_level": "token"}:
            for name, share in known["clip_fractions"].items():
                np.testing.assert_allclose(metrics[f"clip_ratio/{name}_mean"], share, atol=2e-6)
