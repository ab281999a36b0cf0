"""One update, from scored rows to new parameters: the function that jit, mesh and pmap wrap.

The journey of a batch:
1. log-probabilities of the reference policy (and, with critics, of the policy before the update);
2. ``method.combine``: K rewards -> one advantage per token (inside the same program, so min-norm is jitted too);
3. for each epoch and minibatch: ``method.loss``, its gradient, the optimizer;
4. metrics, each divided once, at the end.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from visa_jax.methods.base import Advantages, Method, PolicyOutput
from visa_jax.ops.masked import is_end
from visa_jax.parallel import constrain
from visa_jax.training.lengths import cut_batch, cut_rollout, in_bucket, length_order, take_prompts
from visa_jax.types import Array, Batch, EndId, Params, Rollout, Scored, TrainState, WeightedSum

# (params, rollout) -> (logp_BT, critic_BTK): the forward pass of policy and critic heads
PolicyFn = Callable[[Params, Rollout], tuple[Array, Array]]
# (what is trained, the reference's params) -> the policy's params: how adapters find their frozen base
JoinFn = Callable[[Params, Params], Params]


def whole(trained: Params, ref_params: Params) -> Params:
    """The JoinFn of a policy that is trained as a whole: what is trained is the policy."""
    return trained


class Across(NamedTuple):
    """How an update that holds some of the rows, and perhaps a piece of each parameter, meets its peers under pmap.

    A program on a mesh needs none of it: there every array is the whole one, wherever its pieces lie.
    """

    rows: Callable  # own rows -> all rows, in the order of the devices
    own: Callable  # all rows -> own rows
    total: Callable  # sums over own rows -> sums over all rows
    whole: Callable  # params as they are held -> whole params
    held: Callable  # gradient of whole params over own rows -> over all rows, as params are held
    norm: Callable  # Euclidean norm of a whole tree from what is held of it


def _same(x):
    return x


ALONE = Across(rows=_same, own=_same, total=_same, whole=_same, held=_same, norm=optax.tree.norm)


def make_update(
    method: Method,
    policy_fn: PolicyFn,
    optimizer: optax.GradientTransformation,
    *,
    end_id: EndId,
    epochs: int = 1,
    minibatches: int = 1,
    micro_batches: int = 1,
    length_buckets: int = 1,
    join_fn: JoinFn = whole,
    across: Across = ALONE,
) -> Callable:
    """``update(state, ref_params, scored) -> (state, metrics)``; pure, to be jitted by the caller.

    Minibatches are cut by prompts, so the rows of a group stay together. With one epoch of one minibatch and no
    critic the old log-probabilities are the current ones (ratio 1 exactly), which saves a forward pass.
    ``micro_batches`` pieces of a minibatch are computed one after the other, for less memory: sums are added up and
    divided once, so the gradient is the same (``bnpo`` apart).
    With ``length_buckets`` those pieces are of prompts with completions of like lengths, and each is computed in the
    narrowest of so many widths (``training/lengths.py``).
    With ``join_fn`` (``training/policy.py``) the state's params may be adapters of the reference, whose params are data
    of the program: no gradient, no optimizer state, never donated, one copy.
    ``across`` is for pmap (``training/pmapped.py``): ``combine`` sees all rows on every device, so that whatever it
    normalises or solves is global; only forward and backward passes are of a device's own rows.
    """
    on_policy = epochs * minibatches == 1 and method.signals == 0

    def read(params: Params, rollout: Rollout) -> tuple[Array, Array]:
        """``policy_fn`` by micro-batches."""

        def outputs(piece: Rollout):
            length = piece.mask_BT.shape[1]

            def within(width: int):
                some = policy_fn(params, cut_rollout(piece, width))
                return jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (0, length - width), (0, 0)][: x.ndim]), some)

            return in_bucket(within, piece.mask_BT, length_buckets)

        if micro_batches == 1:
            return outputs(rollout)
        prompts = rollout.prompts.prompt_NL.shape[0]
        order_N = sorting(rollout, prompts)
        ordered = rollout if order_N is None else take_prompts(rollout, order_N)
        told = jax.lax.map(outputs, split_rows(ordered, prompts, micro_batches))
        told = jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), told)
        return told if order_N is None else take_prompts(told, jnp.argsort(order_N))

    def sorting(rollout: Rollout, prompts: int) -> Array | None:
        """The order of prompts in which pieces are cut; None: as they are."""
        return length_order(rollout.mask_BT, prompts) if min(length_buckets, micro_batches) > 1 else None

    def update(state: TrainState, ref_params: Params, scored: Scored) -> tuple[TrainState, dict[str, Array]]:
        rollout, ref_params = scored.rollout, across.whole(ref_params)
        logp_ref_BT, _ = read(ref_params, rollout)
        if on_policy:
            logp_old_BT, critic_old_BTK = rollout.logp_BT, jnp.zeros((*rollout.mask_BT.shape, 0))
        else:
            logp_old_BT, critic_old_BTK = read(join_fn(across.whole(state.params), ref_params), rollout)
        batch = jax.lax.stop_gradient(
            Batch(scored=scored, logp_old_BT=logp_old_BT, logp_ref_BT=logp_ref_BT, critic_old_BTK=critic_old_BTK)
        )
        everything = across.rows(batch)
        method_state, advantages, metrics = method.combine(state.method_state, everything)
        advantages = across.own(advantages)

        def sum_fn(params: Params, part: tuple[Batch, Advantages]):
            logp_BT, critic_BTK = policy_fn(join_fn(params, ref_params), part[0].scored.rollout)
            rows = part[0]
            if on_policy:
                rows = _with_old(rows, jax.lax.stop_gradient(logp_BT))
            total, sums = method.loss(PolicyOutput(logp_BT=logp_BT, critic_BTK=critic_BTK), rows, part[1])
            return total.total, sums | {"loss": total}

        def slope(params: Params, piece: tuple[Batch, Advantages]):
            slope_fn = jax.grad(sum_fn, has_aux=True)
            mask_BT = piece[0].scored.rollout.mask_BT
            return in_bucket(lambda width: slope_fn(params, cut_batch(*piece, width)), mask_BT, length_buckets)

        def gradient(params: Params, part: tuple[Batch, Advantages]):
            prompts = rollout.prompts.prompt_NL.shape[0] // minibatches
            order_N = sorting(part[0].scored.rollout, prompts)
            pieces = split_rows(part if order_N is None else take_prompts(part, order_N), prompts, micro_batches)
            grads, sums = _add_up(lambda piece: slope(params, piece), pieces, micro_batches)
            sums = across.total(sums)
            weight = sums["loss"].weight
            grads = across.held(grads)
            return jax.tree.map(lambda grad: grad / jnp.where(weight == 0, 1, weight).astype(grad.dtype), grads), sums

        def gradient_step(carry, part):
            params, opt_state = carry
            grads, sums = gradient(across.whole(params), part)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return (params, opt_state), sums | {"grad_norm": _scalar(across.norm(grads))}

        parts = split_rows((batch, advantages), rollout.prompts.prompt_NL.shape[0], minibatches)
        carry = (state.params, state.opt_state)
        if epochs * minibatches == 1:
            carry, sums = gradient_step(carry, jax.tree.map(lambda x: x[0], parts))
        else:
            repeated = jax.tree.map(lambda x: jnp.concatenate([x] * epochs), parts)
            carry, stacked = jax.lax.scan(gradient_step, carry, repeated)
            sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), stacked)
        metrics |= {name: value.mean() for name, value in sums.items() if name not in metrics}
        metrics |= completion_metrics(everything.scored.rollout, end_id)
        new_state = TrainState(
            step=state.step + 1, params=carry[0], opt_state=carry[1], method_state=method_state, key=state.key
        )
        return new_state, metrics

    return update


def split_rows(tree, prompts: int, parts: int):
    """Cut every leaf along its first axis (N prompts or B rows) into ``parts`` equal pieces: [parts, ...]."""
    if prompts % parts:
        raise ValueError(f"update.minibatches: {prompts} prompts do not divide into {parts} minibatches")

    def cut(x):
        x = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
        # on a mesh every piece is spread over all devices; cut as it lies, it would be the work of a few
        return constrain(x, "pieces", "batch", *("length",) * (x.ndim - 2)) if parts > 1 else x

    return jax.tree.map(cut, tree)


def _add_up(fn: Callable, pieces, count: int):
    """The sum of ``fn(piece)`` over ``pieces`` [count, ...], one after the other."""
    if count == 1:
        return fn(jax.tree.map(lambda x: x[0], pieces))
    shapes = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], pieces))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(lambda total, piece: (jax.tree.map(jnp.add, total, fn(piece)), None), zero, pieces)[0]


def completion_metrics(rollout: Rollout, end_id: EndId) -> dict[str, Array]:
    """Lengths, the share cut off by the limit, and the entropy estimate -E[logp] of the sampled tokens."""
    length_B = jnp.sum(rollout.mask_BT, axis=1)
    ended_B = jnp.any(rollout.mask_BT & is_end(rollout.completion_BT, end_id), axis=1)
    tokens = jnp.maximum(jnp.sum(rollout.mask_BT), 1)
    return {
        "completions/mean_length": jnp.mean(length_B),
        "completions/min_length": jnp.min(length_B),
        "completions/max_length": jnp.max(length_B),
        "completions/clipped_ratio": jnp.mean(~ended_B),
        "entropy": -jnp.sum(jnp.where(rollout.mask_BT, rollout.logp_BT, 0.0)) / tokens,
    }


def _with_old(batch: Batch, logp_old_BT: Array) -> Batch:
    return Batch(
        scored=batch.scored,
        logp_old_BT=logp_old_BT,
        logp_ref_BT=batch.logp_ref_BT,
        critic_old_BTK=batch.critic_old_BTK,
    )


def _scalar(value: Array) -> WeightedSum:
    return WeightedSum(total=value, weight=jnp.float32(1.0))
