"""One step direction from K gradients. Every rule is a function of the Gram matrix: d = Jᵀ α(J Jᵀ).

Weights are data: no gradient flows through them.
"""

import functools

import jax
import jax.numpy as jnp

from visa_jax.ops.numerics import as_float, sqrt_or_zero
from visa_jax.solvers.min_norm import min_norm
from visa_jax.solvers.simplex import LARGEST_ENUMERATION, feasible, solve_on_supports, supports
from visa_jax.solvers.systems import eigh_small, solve_small
from visa_jax.types import Array

NEWTON_STEPS = 100


def combine_weights(name: str, gram_KK: Array, *, preference_K: Array | None = None, cagrad_c: float = 0.5) -> Array:
    """The weights α that a rule gives to K signals, where the step is d = Σ_k α_k signal_k.

    ======================  ==========================================================================
    ``mean``, ``uniform``   1/K each
    ``linear``              ``preference_K``, as given
    ``min_norm``, ``mgda``  the shortest vector of the hull, exact (Frank-Wolfe above K = 8)
    ``frank_wolfe``         the same by Frank-Wolfe
    ``pcgrad``              each gradient projected off the conflicting ones in order, summed (Yu et al. 2020)
    ``cagrad``              best worst case within c‖g0‖ of the mean g0 (Liu et al. 2021)
    ``nash_mtl``            Γα = 1/α, then d scaled to norm <= 1 (Navon et al. 2022)
    ``upgrad``              mean of the projections onto the dual cone (Quinton & Rey 2024)
    ``imtl_g``              equal projections on every unit gradient (Liu et al. 2021, IMTL)
    ``aligned_mtl``         mean of the gradients with equalised principal components (Senushkin et al. 2023)
    ======================  ==========================================================================

    Args:
      name: one of the above.
      gram_KK: Γ = J Jᵀ, symmetric positive semi-definite.
      preference_K: weights for ``linear``.
      cagrad_c: c of ``cagrad``, in [0, 1).

    Returns:
      ``[K]`` weights; they sum to 1 for ``mean``, ``uniform``, ``min_norm``, ``mgda``, ``frank_wolfe``, ``imtl_g``.

    Raises:
      ValueError: unknown ``name``, ``linear`` without ``preference_K``, or K > 8 where a rule enumerates
        (``cagrad``, ``upgrad``).
    """
    if name not in AGGREGATORS:
        raise ValueError(f"name must be one of {', '.join(AGGREGATORS)}, got {name!r}")
    if name == "linear" and preference_K is None:
        raise ValueError("preference_K must be given for name 'linear'")
    rule = {
        **GRAM_RULES,
        "linear": functools.partial(_linear, preference_K=preference_K),
        "cagrad": functools.partial(_cagrad, c=cagrad_c),
    }[name]
    return rule(jax.lax.stop_gradient(as_float(gram_KK)))


def combine_direction(
    name: str, jacobian_KD: Array, *, preference_K: Array | None = None, cagrad_c: float = 0.5
) -> Array:
    """The direction d = Jᵀα, α = ``combine_weights(name, J Jᵀ)``.

    Args:
      name: a rule, see ``combine_weights``.
      jacobian_KD: one gradient per row.
      preference_K: weights for ``linear``.
      cagrad_c: c of ``cagrad``.

    Returns:
      ``[D]``. A step against it lowers the losses whose gradients are the rows.

    Raises:
      ValueError: as ``combine_weights``.
    """
    jacobian_KD = as_float(jacobian_KD)
    gram_KK = jnp.matmul(jacobian_KD, jacobian_KD.T, precision="highest")
    weight_K = combine_weights(name, gram_KK, preference_K=preference_K, cagrad_c=cagrad_c)
    return jnp.matmul(weight_K, jacobian_KD, precision="highest")


def _mean(gram_KK):
    return jnp.full(gram_KK.shape[0], 1 / gram_KK.shape[0], gram_KK.dtype)


def _linear(gram_KK, preference_K):
    return jnp.asarray(preference_K, gram_KK.dtype)


def _mgda(gram_KK):
    return min_norm(gram_KK, "exact" if gram_KK.shape[0] <= LARGEST_ENUMERATION else "frank_wolfe")


def _unit_trace(gram_KK):
    """Γ on the scale of its trace: it changes no direction, but it decides what underflows."""
    trace = jnp.trace(gram_KK)
    return gram_KK / jnp.where(trace == 0, 1, trace)


def _pcgrad(gram_KK):
    gram_KK = _unit_trace(gram_KK)
    K = gram_KK.shape[0]

    def projected(i):
        def project_off(j, weight_K):
            dot = weight_K @ gram_KK[:, j]
            conflict = (dot < 0) & (j != i)
            length = jnp.where(conflict, gram_KK[j, j], 1)
            return weight_K.at[j].add(jnp.where(conflict, -dot / length, 0))

        return jax.lax.fori_loop(0, K, project_off, jax.nn.one_hot(i, K, dtype=gram_KK.dtype))

    return jnp.sum(jax.vmap(projected)(jnp.arange(K)), axis=0)


def _upgrad(gram_KK):
    """The projection of g_i is Jᵀ(e_i + x), x >= 0, of least norm: solved on every support of x."""
    gram_KK = _unit_trace(gram_KK)
    K = gram_KK.shape[0]
    support_SK = supports(K)

    def projected(i):
        start_K = jax.nn.one_hot(i, K, dtype=gram_KK.dtype)
        added_SK = jnp.maximum(solve_on_supports(gram_KK, -gram_KK[i][None, :], support_SK), 0)
        weight_SK = jnp.concatenate([start_K[None, :], start_K[None, :] + added_SK])
        return _best(weight_SK, jnp.einsum("sk,kl,sl->s", weight_SK, gram_KK, weight_SK))

    return jnp.mean(jax.vmap(projected)(jnp.arange(K)), axis=0)


def _cagrad(gram_KK, c):
    """d = g0 + √φ g_w / ‖g_w‖, w = argmin over the simplex of g_w·g0 + √φ ‖g_w‖, φ = c² ‖g0‖².

    On a support, with b = Γ1/K: w ∝ Γ⁻¹(ν1 - b), ν a root of (ν1 - b)ᵀ Γ⁻¹ (ν1 - b) = φ.
    """
    gram_KK = _unit_trace(gram_KK)
    K = gram_KK.shape[0]
    mean_K = _mean(gram_KK)
    along_K = gram_KK @ mean_K
    radius = c * sqrt_or_zero(mean_K @ along_K)

    support_SK = supports(K)
    ones_SK = jnp.asarray(support_SK, gram_KK.dtype)
    inv_one_SK = solve_on_supports(gram_KK, ones_SK, support_SK)
    inv_along_SK = solve_on_supports(gram_KK, along_K[None, :], support_SK)
    quadratic_S = jnp.sum(inv_one_SK, axis=1)
    linear_S = jnp.sum(inv_along_SK, axis=1)
    constant_S = inv_along_SK @ along_K - radius**2
    root_S = jnp.sqrt(jnp.maximum(linear_S**2 - quadratic_S * constant_S, 0))
    nu_RS = jnp.stack([linear_S + root_S, linear_S - root_S]) / quadratic_S[None, :]
    stationary_RSK = nu_RS[:, :, None] * inv_one_SK[None] - inv_along_SK[None]
    # vertices, for supports where the rest rounds away; the shortest vector, where the objective has its kink
    candidates = [*stationary_RSK, jnp.eye(K, dtype=gram_KK.dtype), _mgda(gram_KK)[None, :]]
    weight_PK = feasible(jnp.concatenate(candidates))
    length_P = sqrt_or_zero(jnp.einsum("pk,kl,pl->p", weight_PK, gram_KK, weight_PK))
    weight_K = _best(weight_PK, weight_PK @ along_K + radius * length_P)
    length = sqrt_or_zero(weight_K @ gram_KK @ weight_K)
    return mean_K + jnp.where(length > 0, radius / jnp.where(length > 0, length, 1), 0) * weight_K


def _nash_mtl(gram_KK):
    """Γα = 1/α minimises ½ αᵀΓα - Σ log α, which is convex and self-concordant: damped Newton.

    Solved for unit gradients, since α_k ‖g_k‖ depends on the angles only. A ridge of rounding size bounds α
    where the hull of the gradients holds 0. A zero gradient gets weight 0.
    """
    K = gram_KK.shape[0]
    norm_K = sqrt_or_zero(jnp.diagonal(gram_KK))
    inverse_K = jnp.where(norm_K > 0, 1 / jnp.where(norm_K > 0, norm_K, 1), 0)
    cosine_KK = gram_KK * inverse_K[:, None] * inverse_K[None, :]
    eye_KK = jnp.eye(K, dtype=gram_KK.dtype)
    # a zero gradient becomes a direction of its own, so that the system stays regular
    ridge_K = jnp.where(norm_K > 0, 4 * K * jnp.finfo(gram_KK.dtype).eps, 1).astype(gram_KK.dtype)
    system_KK = cosine_KK + ridge_K[:, None] * eye_KK

    def newton(_, alpha_K):
        # in the variable log α the Hessian is well scaled however small or large α is
        gradient_K = alpha_K * (system_KK @ alpha_K) - 1
        hessian_KK = alpha_K[:, None] * system_KK * alpha_K[None, :] + eye_KK
        step_K = solve_small(hessian_KK, gradient_K)
        decrement = sqrt_or_zero(gradient_K @ step_K)
        return alpha_K * (1 - step_K / jnp.where(decrement > 0.25, 1 + decrement, 1))

    start_K = jnp.ones(K, gram_KK.dtype) / sqrt_or_zero(jnp.sum(system_KK) / K)
    alpha_K = jax.lax.fori_loop(0, NEWTON_STEPS, newton, start_K)
    alpha_K = jnp.where(norm_K > 0, alpha_K, 0)
    length = sqrt_or_zero(alpha_K @ cosine_KK @ alpha_K)
    return jnp.where(jnp.any(norm_K > 0), alpha_K * inverse_K / jnp.maximum(length, 1), _mean(gram_KK))


def _imtl_g(gram_KK):
    scaled_KK = _unit_trace(gram_KK)
    power_K, vector_KK, kept_K = _spectrum(scaled_KK)
    inverse_K = jnp.where(kept_K, 1 / jnp.where(kept_K, power_K, 1), 0)
    raw_K = vector_KK @ (inverse_K * (vector_KK.T @ sqrt_or_zero(jnp.diagonal(scaled_KK))))
    total = jnp.sum(raw_K)
    defined = jnp.abs(total) > 1e-12
    return jnp.where(defined, raw_K / jnp.where(defined, total, 1), _mean(gram_KK))


def _aligned_mtl(gram_KK):
    scaled_KK = _unit_trace(gram_KK)
    power_K, vector_KK, kept_K = _spectrum(scaled_KK)
    smallest = jnp.min(jnp.where(kept_K, power_K, jnp.inf))
    ratio_K = jnp.where(kept_K, jnp.sqrt(smallest / jnp.where(kept_K, power_K, 1)), 0)
    balanced_K = vector_KK @ (ratio_K * (vector_KK.T @ _mean(gram_KK)))
    return jnp.where(kept_K.any(), balanced_K, _mean(gram_KK))


def _spectrum(gram_KK):
    """Eigenvalues, eigenvectors, and which eigenvalues are not rounding."""
    power_K, vector_KK = eigh_small(gram_KK)
    return power_K, vector_KK, power_K > jnp.max(power_K) * len(power_K) * jnp.finfo(power_K.dtype).eps


def _best(weight_SK, objective_S):
    usable_S = jnp.isfinite(objective_S)
    return weight_SK[jnp.argmin(jnp.where(usable_S, objective_S, jnp.inf))]


GRAM_RULES = {
    "mean": _mean,
    "uniform": _mean,
    "min_norm": _mgda,
    "mgda": _mgda,
    "frank_wolfe": functools.partial(min_norm, method="frank_wolfe"),
    "pcgrad": _pcgrad,
    "nash_mtl": _nash_mtl,
    "upgrad": _upgrad,
    "imtl_g": _imtl_g,
    "aligned_mtl": _aligned_mtl,
}
AGGREGATORS = (*GRAM_RULES, "linear", "cagrad")
