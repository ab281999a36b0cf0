"""The programs of a run on a mesh: the same functions, jitted for arrays that lie in pieces."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from visa_jax.parallel.axes import ACTIVATION_RULES, ROLLOUT_RULES, WHOLE_RULES, constrain_params, on_mesh, spec
from visa_jax.parallel.mesh import make_mesh, row_shards
from visa_jax.parallel.rows import row_numbers, take_rows
from visa_jax.rewards.base import stack_rewards
from visa_jax.training import placement
from visa_jax.training.experiment import Experiment, LoopConfig
from visa_jax.training.programs import Programs, make_rollout, run_optimizer, update_choices
from visa_jax.training.state import state_shapes
from visa_jax.training.update import make_update
from visa_jax.types import Array, Params, Rollout, TrainState


def start_meshed(experiment: Experiment, config: LoopConfig, params: Params, method_state, key: Array) -> TrainState:
    """The state at step 0, laid out: no device ever holds more than its pieces of the optimizer's moments.

    Parameters and method state are copied, for the update donates its state, and what is laid on several devices may
    be, on the first, the array that was laid. Raises as ``make_meshed``.
    """
    mesh, optimizer = make_mesh(config.mesh), run_optimizer(config)
    held = state_shardings(experiment, state_shapes(params, optimizer, method_state, key), mesh)
    params, method_state = jax.tree.map(jnp.copy, (placement.place(params, held.params), method_state))
    opt_state = jax.jit(optimizer.init, out_shardings=held.opt_state)(params)
    step, method_state, key = placement.place_whole((jnp.int32(0), method_state, key), mesh)
    return TrainState(step=step, params=params, opt_state=opt_state, method_state=method_state, key=key)


def state_shardings(experiment: Experiment, state: TrainState, mesh: Mesh) -> TrainState:
    """Where each array of a state lies; ``state`` may be abstract."""
    return placement.shardings(state, placement.state_axes(state, experiment.axes_fn(state.params)), mesh)


def make_meshed(experiment: Experiment, config: LoopConfig, state: TrainState, mesh: Mesh | None = None) -> Programs:
    """The programs on ``mesh`` (default: that of the config).

    Rollouts have a layout of their own: parameters are made whole along fsdp once, before the first token, so that no
    step of decoding gathers them. Reward models are whole on every device, their rows are cut.

    Raises:
      FieldError: prompts, heads or widths that do not divide into the mesh, with both numbers.
    """
    mesh = make_mesh(config.mesh) if mesh is None else mesh
    placement.require_rows(config, row_shards(mesh))
    held = state_shardings(experiment, state, mesh)
    rows = NamedSharding(mesh, spec(("batch",), ACTIVATION_RULES))
    everywhere = NamedSharding(mesh, PartitionSpec())
    draw = make_rollout(experiment, config)

    def rollout(trained, ref_params, prompts, key) -> Rollout:
        trained, ref_params = (constrain_params(tree, experiment.axes_fn(tree)) for tree in (trained, ref_params))
        return draw(trained, ref_params, prompts, key)

    choices = update_choices(experiment, config)
    update = make_update(experiment.method, experiment.policy_fn, run_optimizer(config), **choices)

    def put_params(params):
        return placement.place(params, placement.shardings(params, experiment.axes_fn(params), mesh))

    return Programs(
        rollout=jax.jit(on_mesh(rollout, mesh, ROLLOUT_RULES), out_shardings=rows),
        score=jax.jit(on_mesh(stack_rewards(experiment.rewards), mesh, WHOLE_RULES), out_shardings=rows),
        update=jax.jit(on_mesh(update, mesh), donate_argnums=0, out_shardings=(held, everywhere)),
        put_state=lambda state: placement.place(state, held),
        put_params=put_params,
        put_rewards=lambda params: placement.place_whole(params, mesh),
        put_prompts=lambda prompts: placement.place_rows(prompts, mesh, config.prompts_per_step),
        own_prompts=row_numbers(rows, (config.prompts_per_step,)),
        take_rows=lambda tree: jax.tree.map(take_rows, tree),
    )
