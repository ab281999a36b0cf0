"""config.policy: what it refuses; frozen parameters of a supervised task; a decoder that keeps what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.config import FieldError
from visa_jax.models import DecoderConfig
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.policy import PolicyConfig
from visa_jax.training.supervised import FitConfig, FitHooks, Task, fit, start_fit
from visa_jax.types import WeightedSum

SIZES = dict(vocab_size=9, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, mlp_width=8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lora_rank=-1), "lora_rank: must be 0"),
        (dict(lora_alpha=0.0), "lora_alpha: must be positive"),
        (dict(quantize="int4", lora_rank=1), "quantize: 'int4' is none of '', int8, nf4"),
        (dict(quantize="int8"), "quantize: is for a frozen base"),
        (dict(dtype="float16"), "dtype: 'float16' is none of float32, bfloat16"),
        (dict(remat="all"), "remat: 'all' is none of none, full, dots"),
        (dict(attention="flash"), "attention: 'flash' is none of"),
        (dict(logp_chunk=-1), "logp_chunk: must be >= 0"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(FieldError, match=message):
        PolicyConfig(**settings)


def test_choices_of_computation_leave_the_decoder_what_it_is():
    decoder = DecoderConfig(**SIZES, attention="xla")
    assert PolicyConfig().computed(decoder) == decoder  # auto = as the start says
    assert PolicyConfig(dtype="bfloat16", remat="dots").computed(decoder) == DecoderConfig(
        **SIZES, attention="xla", dtype="bfloat16", remat="dots"
    )
    other = DecoderConfig(**SIZES)
    assert PolicyConfig(attention="xla").computed(other).attention == "xla"


def test_what_is_trained_is_float32_and_what_is_frozen_is_as_asked():
    params = {"layers": {"mlp": {"up": {"kernel": jnp.ones((1, 4, 6))}}}, "embedding": jnp.ones((3, 4))}
    assert PolicyConfig(dtype="bfloat16").frozen_dtype == "float32"
    low = PolicyConfig(dtype="bfloat16", lora_rank=2, lora_pattern="up")
    frozen = low.freeze(params)
    assert low.frozen_dtype == "bfloat16" and {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.bfloat16.dtype}
    adapters = low.adapters(jax.random.key(0), frozen)
    assert {leaf.dtype for leaf in jax.tree.leaves(adapters)} == {np.dtype(np.float32)}


def test_training_an_offset_is_training_what_it_is_added_to():
    """loss(w) from w = 3, and loss(a + 3) with 3 frozen from a = 0: the same path, for their gradients are equal."""

    def task(**changes):
        def loss(w, batch):
            return WeightedSum(total=jnp.sum((w - batch) ** 2), weight=jnp.float32(2)), {}

        fields = dict(name="line", init=lambda key: jnp.zeros(2), loss=loss, batch=lambda step: np.float32([step, 1]))
        return Task(**fields | changes)

    config = FitConfig(steps=5, batch_size=1, optimizer=OptimizerConfig(learning_rate=0.1, weight_decay=0.0))
    key = jax.random.key(0)
    whole, _ = fit(task(), config, start_fit(task(), config, key, params=jnp.full(2, 3.0)))
    low = task(frozen=jnp.full(2, 3.0), join=lambda a, frozen: a + frozen)
    seen = []
    hooks = FitHooks(on_step=lambda step, metrics: seen.append(metrics["loss"]))
    offset, _ = fit(low, config, start_fit(low, config, key), hooks=hooks)
    np.testing.assert_allclose(offset.params + 3, whole.params, rtol=1e-5)
    assert seen[0] == pytest.approx((9 + 4) / 2) and float(jnp.abs(offset.params).min()) > 0.05
