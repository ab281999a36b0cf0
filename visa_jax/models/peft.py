"""Adapter directories of PEFT (adapter_config.json, adapter_model.safetensors) in and out.

A file has ``lora_A.weight`` [rank, inputs] and ``lora_B.weight`` [outputs, rank] for each layer; ours are turned and
stacked. Names are those of the base's tensors in ``families``.
"""

from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from visa_jax.config import UserError
from visa_jax.models.decoder import DecoderConfig, make_decoder
from visa_jax.models.families import FAMILIES
from visa_jax.models.hf import hf_config, refuse_fields
from visa_jax.models.hub import name_and_revision
from visa_jax.models.layout import Path as ParamPath
from visa_jax.models.layout import Slot, stored_shape
from visa_jax.models.lora import LoraConfig
from visa_jax.models.weights import open_file, read_json, write_file, write_json
from visa_jax.types import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# what an adapter may not have: it would be lost without a word
PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "use_rslora": (False,),
    "modules_to_save": ([],),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layers_to_transform": ([],),
}


def save_adapters(
    directory: str | Path, adapters: Params, lora: LoraConfig, config: DecoderConfig, *, base: str | None = None
) -> None:
    """Write adapters as PEFT does, in float32; ``PeftModel.from_pretrained(base model, directory)`` reads them.

    Args:
        directory: made when missing; what an earlier call left is replaced.
        adapters: of ``init_adapters``, trained.
        lora: its rank and alpha are written.
        config: of the base.
        base: name (perhaps with a revision) or directory of the base, for the readers of the directory.

    Raises:
        UserError: the base belongs to no Hugging Face family, or an adapter to no tensor there (a part of a fused one).
    """
    directory, family = Path(directory), hf_config(config)["model_type"]
    slots, flat, tensors = _slots(family, config), flatten_dict(adapters), {}
    paths = sorted({(*path[:-1], "kernel") for path in flat})
    for path in paths:
        if path not in slots:
            raise UserError(f"{directory}: PEFT has no place for an adapter of {'/'.join(path[:-1])} of a {family}")
        stacked = path[0] == "layers"
        for letter, leaf in (("A", "a"), ("B", "b")):
            adapter = np.asarray(flat[*path[:-1], leaf], np.float32)
            for layer, matrix in enumerate(adapter if stacked else adapter[None]):
                tensors[_tensor(slots[path], layer, letter)] = matrix.T
    directory.mkdir(parents=True, exist_ok=True)
    write_file(directory / WEIGHTS, tensors)
    base, revision = (None, None) if base is None else name_and_revision(base)
    contents = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({_module(slots[path]) for path in paths}),
        "fan_in_fan_out": not all(slots[path].turned for path in paths),
        "bias": "none",
        "inference_mode": True,
    }
    write_json(directory / CONFIG, contents)  # last: a directory without it counts as none


def load_adapters(directory: str | Path, config: DecoderConfig) -> tuple[Params, LoraConfig]:
    """``(adapters, their LoraConfig)`` of a PEFT directory, float32, for a base of ``config``.

    Raises UserError naming file and field or tensor: one is missing, damaged or of another shape, belongs to no kernel
    of such a base, or the adapter has what ours have not (DoRA, biases, ranks that differ ...).
    """
    path, weights_path = Path(directory) / CONFIG, Path(directory) / WEIGHTS
    contents = read_json(path)
    refuse_fields(path, contents, PLAIN)
    rank, alpha = contents.get("r"), contents.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1 or alpha <= 0:
        raise UserError(f"{path}: r = {rank!r} and lora_alpha = {alpha!r} must be positive numbers")
    shapes = flatten_dict(jax.eval_shape(make_decoder(config)[1], jax.random.key(0)))
    adapters, expected = {}, set()
    with open_file(weights_path) as weights:
        for kernel, slot in _slots(hf_config(config)["model_type"], config).items():
            stacked = kernel[0] == "layers"
            layers = range(config.layers if stacked else 1)
            if not any(_tensor(slot, layer, "A") in weights for layer in layers):
                continue
            shape = shapes[kernel].shape[1:] if stacked else shapes[kernel].shape
            outputs, inputs = stored_shape(kernel, slot._replace(turned=True), shape)
            for letter, leaf, stored in (("A", "a", (rank, inputs)), ("B", "b", (outputs, rank))):
                names = [_tensor(slot, layer, letter) for layer in layers]
                matrices = [weights.read_as(name, stored, np.float32).T for name in names]
                adapters[*kernel[:-1], leaf] = jax.numpy.asarray(np.stack(matrices) if stacked else matrices[0])
                expected.update(names)
        for name in weights.names:
            if name not in expected:
                raise UserError(f"{weights_path}: tensor {name} has no place in the model of config")
    if not adapters:
        raise UserError(f"{weights_path}: has no adapter")
    modules = sorted({"/".join(path[:-1]) for path in adapters})
    return unflatten_dict(adapters), LoraConfig(rank=rank, alpha=alpha, pattern="|".join(modules))


def _slots(family: str, config: DecoderConfig) -> dict[ParamPath, Slot]:
    """Kernels that PEFT can adapt: each is all of one tensor."""
    there = flatten_dict(jax.eval_shape(make_decoder(config)[1], jax.random.key(0)))
    slots = FAMILIES[family].slots
    return {path: slots[path] for path in there if path[-1] == "kernel" and path in slots and slots[path].parts == 1}


def _tensor(slot: Slot, layer: int, letter: str) -> str:
    return f"base_model.model.{slot.name.removesuffix('.weight').format(layer)}.lora_{letter}.weight"


def _module(slot: Slot) -> str:
    """What PEFT finds the modules by, the end of their names: GPT-2 has two that are called c_proj."""
    parts = slot.name.removesuffix(".weight").split(".")
    return ".".join(parts[-2:]) if not slot.turned else parts[-1]
