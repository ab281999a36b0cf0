"""Condition vectors: preferences on the simplex (MOC), value shifts and targets (VISA).

Grids and seeded sets are numpy, made once on the host; what is drawn for each prompt of a
step is jax. Hundredths are counted as integers, so that a vector equals its text.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.types import VALUES, Array

# The evaluation preferences of Rewards-in-Context for three objectives (Yang et al., 2024).
RIC_13 = np.array(
    [
        (0, 0, 1),
        (0, 1, 0),
        (0.1, 0.1, 0.8),
        (0.1, 0.8, 0.1),
        (0.2, 0.2, 0.6),
        (0.2, 0.4, 0.4),
        (0.2, 0.6, 0.2),
        (0.33, 0.33, 0.33),
        (0.4, 0.4, 0.2),
        (0.4, 0.2, 0.4),
        (0.6, 0.2, 0.2),
        (0.8, 0.1, 0.1),
        (1, 0, 0),
    ],
    np.float32,
)
RIC_13.flags.writeable = False

STRENGTHS = (0.5, 1.0, 1.5, 2.0)  # sizes of a non-zero shift of one value


def simplex_lattice(K: int, step: float) -> np.ndarray:
    """All points of the K-simplex whose entries are multiples of ``step``, in lexicographic order.

    Args:
      K: number of objectives, at least 1.
      step: 1 over a whole number.

    Returns:
      float32 ``[P, K]``, rows sum to 1.

    Raises:
      ValueError: ``step`` does not divide 1.
    """
    parts = round(1 / step)
    if K < 1 or parts < 1 or abs(parts * step - 1) > 1e-6:
        raise ValueError(f"step must divide 1 and K be at least 1, got step={step}, K={K}")
    counts = [c for c in itertools.product(range(parts + 1), repeat=K - 1) if sum(c) <= parts]
    lattice = np.array([(*c, parts - sum(c)) for c in counts])
    return (lattice / parts).astype(np.float32)


def two_decimal_preferences(seed: int, n: int = 21) -> np.ndarray:
    """Training preferences (p, 1 - p) for a model that reads numbers digit by digit.

    The eleven tenths points 0, 0.1, ..., 1 are always there, and over the set every digit 0-9
    occurs in both decimal places of p: a digit that was never trained on cannot be read.

    Args:
      seed: the same seed gives the same set.
      n: size of the set, in [20, 101].

    Returns:
      float32 ``[n, 2]``, ascending in p.

    Raises:
      ValueError: ``n`` is too small to hold every digit, or larger than what two decimals offer.
    """
    if not 20 <= n <= 101:
        raise ValueError(f"n must be in [20, 101] to hold every digit in both places, got {n}")
    rng = np.random.default_rng(seed)
    tenths = np.arange(0, 101, 10)
    # one point for each last digit 1-9, spread over the first digits
    spread = 10 * rng.permutation(10)[:9] + np.arange(1, 10)
    chosen = np.concatenate([tenths, spread])
    others = np.setdiff1d(np.arange(101), chosen)
    hundredths = np.sort(np.concatenate([chosen, rng.choice(others, n - 20, replace=False)]))
    return (np.stack([hundredths, 100 - hundredths], axis=1) / 100).astype(np.float32)


def unseen_preferences(seed: int, sets: int = 4, size: int = 10, *, exclude: np.ndarray) -> np.ndarray:
    """Disjoint sets of two-decimal preferences that were not trained on and lie off the grid of tenths.

    Args:
      seed: the same seed gives the same sets.
      sets: number of sets.
      size: preferences in a set.
      exclude: ``[P, K]`` preferences that must not occur; gives K.

    Returns:
      float32 ``[sets, size, K]``; no vector occurs twice.

    Raises:
      ValueError: fewer than ``sets * size`` vectors are left.
    """
    exclude = np.asarray(exclude)
    seen = {tuple(row) for row in np.rint(exclude * 100).astype(int)}
    lattice = np.rint(simplex_lattice(exclude.shape[1], 0.01) * 100).astype(int)
    free = np.array([row for row in lattice if tuple(row) not in seen and (row % 10).any()])
    if len(free) < sets * size:
        raise ValueError(f"sets * size must be at most {len(free)}, got {sets * size}")
    drawn = np.random.default_rng(seed).choice(free, sets * size, replace=False)
    return (drawn.reshape(sets, size, -1) / 100).astype(np.float32)


def draw_shift(
    key: Array, n: int, *, min_active: int = 1, max_active: int = len(VALUES) // 2, width: int = len(VALUES)
) -> Array:
    """Shifts of the value vector: sparse, each active coordinate ±½, ±1, ±1½ or ±2.

    Args:
      key: typed PRNG key.
      n: number of shifts.
      min_active: fewest non-zero coordinates.
      max_active: most non-zero coordinates, at most half of ``width``.
      width: length of the value vector.

    Returns:
      float32 ``[n, width]`` in [-2, 2].

    Raises:
      ValueError: not 0 <= min_active <= max_active <= width / 2.
    """
    if not 0 <= min_active <= max_active <= width // 2:
        raise ValueError(
            f"min_active and max_active must satisfy 0 <= min <= max <= {width // 2}, got {min_active}, {max_active}"
        )
    count_key, place_key, size_key, sign_key = jax.random.split(key, 4)
    count = jax.random.randint(count_key, (n, 1), min_active, max_active + 1)
    rank = jnp.argsort(jax.random.uniform(place_key, (n, width)), axis=1)
    size = jax.random.choice(size_key, jnp.array(STRENGTHS, jnp.float32), (n, width))
    sign = jax.random.rademacher(sign_key, (n, width), dtype=jnp.float32)
    return jnp.where(rank < count, size * sign, 0)


def add_shift(value: Array, shift: Array) -> Array:
    """The target clip(value + shift, -1, 1) (VISA's sum and clip). Both ``[..., M]``."""
    return jnp.clip(value + shift, -1, 1)


def draw_target(
    key: Array,
    anchor_NM: Array,
    *,
    min_active: int = 1,
    max_active: int = 2,
    overlap: float = 0.5,
    most_nonzero: int = 3,
    lowest: float = -1.0,
    tries: int = 8,
) -> Array:
    """Targets clip(anchor + shift) that move and that a short text can state (VISA, ours).

    The anchor is a detector's reading, rounded to halves before the two conditions are checked: at most
    ``most_nonzero`` values off 0, and some value moved by 1/2 at least. With probability ``overlap`` a shift moves a
    value that the anchor holds, towards its other side, else a rewrite would hardly ever take a value back.

    Args:
      key: typed PRNG key.
      anchor_NM: v_orig in [-1, 1].
      lowest: no target lies below it; 0 where the detector was taught presence alone and never reads less.
      tries: shifts drawn per row; the first that fits is taken (the last where none fits).

    Returns:
      float32 ``[N, M]`` in [lowest, 1].
    """
    n, width = anchor_NM.shape
    held_NM = jnp.round(2 * anchor_NM) / 2

    def attempt(key):
        shift_key, use_key, which_key, size_key = jax.random.split(key, 4)
        shift_NM = draw_shift(shift_key, n, min_active=min_active, max_active=max_active, width=width)
        # one held value per row (any, if none is held), and how far to push it against its sign
        score_NM = jax.random.uniform(which_key, (n, width)) + (held_NM != 0)
        chosen_NM = jax.nn.one_hot(jnp.argmax(score_NM, axis=1), width)
        size_N1 = jax.random.choice(size_key, jnp.array(STRENGTHS, jnp.float32), (n, 1))
        against_NM = jnp.where(chosen_NM > 0, -jnp.sign(held_NM) * size_N1, 0.0)
        use_N1 = (jax.random.uniform(use_key, (n, 1)) < overlap) & jnp.any(held_NM != 0, axis=1, keepdims=True)
        shift_NM = jnp.where(use_N1 & (chosen_NM > 0), against_NM, shift_NM)
        rounded_NM = jnp.maximum(add_shift(held_NM, shift_NM), lowest)
        fits_N = (jnp.sum(rounded_NM != 0, axis=1) <= most_nonzero) & (
            jnp.max(jnp.abs(rounded_NM - held_NM), axis=1) >= STRENGTHS[0]
        )
        return jnp.maximum(add_shift(anchor_NM, shift_NM), lowest), fits_N

    target_RNM, fits_RN = jax.vmap(attempt)(jax.random.split(key, tries))
    first_N = jnp.where(jnp.any(fits_RN, axis=0), jnp.argmax(fits_RN, axis=0), tries - 1)
    return target_RNM[first_N, jnp.arange(n)]
