"""The logical axes of every array of a model: plain parameters, adapters, quantised kernels."""

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from visa_jax.models.decoder import DecoderConfig, logical_axes
from visa_jax.models.layout import input_axes
from visa_jax.models.lora import adapter_axes
from visa_jax.parallel.axes import is_axes
from visa_jax.types import Params


def decoder_axes(params: Params, config: DecoderConfig) -> Params:
    """A tree like ``params`` with a tuple of axis names for every array.

    Args:
        params: of a decoder, whole or adapters alone; arrays or their shapes; records may stand for kernels.
        config: of that decoder.
    """
    plain, named = flatten_dict(logical_axes(config)), {}
    for path, leaf in flatten_dict(params).items():
        stacked = path[0] == "layers"
        kernel = (*path[:-1], "kernel")
        if path[-1] in ("a", "b"):
            pair = adapter_axes(plain[kernel][stacked:], input_axes(kernel))
            axes = pair[path[-1] == "b"]
        elif hasattr(leaf, "axes"):
            axes = leaf.axes(plain[path][stacked:], input_axes(path))
        else:
            axes = plain[path][stacked:]
        named[path] = jax.tree.map(lambda names: ("layers", *names), axes, is_leaf=is_axes) if stacked else axes
    return unflatten_dict(named)
