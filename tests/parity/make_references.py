"""What transformers on PyTorch computes with a tiny model of every family of decoders, for tests/parity.

    python tests/parity/make_references.py        # needs torch, rewrites decoders.json and decoders.npz beside it

Weights follow from their names (``draw_weights``), so that they need not be stored: a test writes the same ones.
``decoders.json`` has for each case config.json as transformers writes it and the name and shape of every tensor.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

HERE = Path(__file__).parent
LENGTH, PROMPT, NEW = 14, 9, 6
SIZES = dict(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
)
GEMMA = SIZES | dict(sliding_window=4, query_pre_attn_scalar=24)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=1000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
# name -> (class of transformers' configuration, its fields)
CASES = {
    "llama": ("LlamaConfig", SIZES | dict(attention_bias=True, mlp_bias=True)),
    "llama_llama3": ("LlamaConfig", SIZES | dict(rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True)),
    "llama_linear": (
        "LlamaConfig",
        SIZES | dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    ),
    "mistral": ("MistralConfig", SIZES | dict(sliding_window=4)),
    "qwen2": ("Qwen2Config", SIZES | dict(tie_word_embeddings=True, head_dim=8)),
    "qwen2_window": (
        "Qwen2Config",
        SIZES | dict(head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ),
    "qwen3": ("Qwen3Config", SIZES),
    "gemma2": ("Gemma2Config", GEMMA | dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": (
        "Gemma3TextConfig",
        GEMMA
        | dict(
            num_hidden_layers=6,
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=5e4, factor=8.0),
                sliding_attention=dict(rope_type="default", rope_theta=100.0),
            ),
        ),
    ),
    "gemma3_vision": (
        "Gemma3Config",
        dict(
            text_config=GEMMA,
            vision_config=dict(
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                image_size=8,
                patch_size=4,
            ),
            mm_tokens_per_image=4,
        ),
    ),
    "gpt2": (
        "GPT2Config",
        dict(vocab_size=48, n_embd=32, n_layer=2, n_head=4, n_inner=40, n_positions=64, bos_token_id=1, eos_token_id=2),
    ),
}


def draw_weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """float32 tensors whose numbers follow from their names; large enough that caps and windows count."""
    tensors, gemma = {}, any("pre_feedforward_layernorm" in name for name in shapes)  # which adds one itself
    for name, shape in shapes.items():
        noise = _noise(name, shape)
        scale = 0.2 if len(shape) == 1 else 1.5 * shape[-1] ** -0.5
        is_norm = len(shape) == 1 and name.endswith("weight") and not gemma
        tensors[name] = (scale * noise + is_norm).astype(np.float32)
    return tensors


def draw_tokens(vocab: int) -> np.ndarray:
    """int [2, LENGTH]."""
    return np.random.default_rng(7).integers(1, vocab, (2, LENGTH))


def direction(name: str, shape) -> np.ndarray:
    """What gradients are projected on: one number per tensor is compared, and its norm."""
    return _noise(f"{name} direction", shape)


def _noise(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)


def build(config):
    """transformers' model in float32 with the weights of ``draw_weights``, and the shapes of its tensors as saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation="eager").float().eval()
    state = model.state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    shapes = {name: list(tensor.shape) for name, tensor in sorted(state.items())}
    tensors = {name: torch.from_numpy(tensor) for name, tensor in draw_weights(shapes).items()}
    model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    return model, shapes


def compute(model, stored_as: Mapping[str, str] = MappingProxyType({})) -> dict[str, np.ndarray]:
    """Everything that a test compares, for a model of ``build``.

    ``stored_as``: names of tensors -> those under which they were compared before, where these are others.
    """
    import torch

    tokens = torch.from_numpy(draw_tokens(model.config.get_text_config().vocab_size))
    mask = torch.ones_like(tokens)
    base, found = getattr(model.base_model, "language_model", model.base_model), {}
    last_norm = base.ln_f if hasattr(base, "ln_f") else base.norm

    def run(ids, mask, **more):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **more)

    with torch.no_grad():
        out = run(tokens, mask, output_hidden_states=True)
        hidden = [last_norm(layer) for layer in out.hidden_states[1:-1]] + [out.hidden_states[-1]]
        found["hidden"] = torch.stack(hidden)[:, 1, -4:]
        found["logits"] = out.logits[:, ::3]
        ids = tokens[:, :PROMPT]
        for _ in range(NEW):
            ids = torch.cat([ids, run(ids, torch.ones_like(ids)).logits[:, -1:].argmax(-1)], dim=1)
        found["greedy"] = ids[:, PROMPT:]
        padded, padded_mask = tokens.clone(), mask.clone()
        padded[1, :5], padded_mask[1, :5] = 0, 0
        found["left_padded"] = run(padded, padded_mask).logits[:, -3:]
    logps = torch.log_softmax(run(tokens, mask).logits[:, :-1], dim=-1)
    logps.gather(-1, tokens[:, 1:, None]).sum().backward()
    for name, parameter in model.named_parameters():  # shared ones once
        if parameter.grad is None:  # vision, which text does not reach
            continue
        gradient = parameter.grad.double().numpy()
        found[f"gradient {name}"] = np.asarray(
            [np.sum(gradient * direction(stored_as.get(name, name), gradient.shape)), np.linalg.norm(gradient)]
        )
    return {name: np.asarray(value, np.int32 if name == "greedy" else np.float32) for name, value in found.items()}


def main() -> None:
    import transformers

    told, arrays = {}, {}
    for case, (kind, fields) in CASES.items():
        config = getattr(transformers, kind)(**fields)
        model, shapes = build(config)
        config.architectures = [type(model).__name__]
        told[case] = {"config": json.loads(config.to_json_string(use_diff=False)), "shapes": shapes}
        found = compute(model)
        arrays |= {f"{case} {name}": value for name, value in found.items() if not name.startswith("gradient ")}
        told[case]["gradients"] = {
            name.removeprefix("gradient "): [float(f"{x:.8g}") for x in value]
            for name, value in found.items()
            if name.startswith("gradient ")
        }
    (HERE / "decoders.json").write_text(json.dumps(told, separators=(",", ":")) + "\n")
    np.savez_compressed(HERE / "decoders.npz", **arrays)


if __name__ == "__main__":
    main()
