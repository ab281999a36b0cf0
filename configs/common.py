"""What the pages share: the text after the colon of `--config=configs/visa.py:tiny,seed=1`, and common sections."""

import difflib
from typing import Any

from ml_collections import ConfigDict

# What each MOC baseline changes; the same numbers as visa_jax/methods/baselines.py.
MOC_BASELINES = {
    "linear_ppo": {"signals": "linear", "weights": "uniform"},
    "fixed_half": {"signals": "bi", "weights": "uniform"},
    "mse_only": {"signals": "mse", "weights": "uniform"},
}


def policy() -> ConfigDict:
    """Trunk of the base model and of every policy that starts from it."""
    return ConfigDict({"width": 128, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 32, "mlp_width": 384})


def reader() -> ConfigDict:
    """Trunk of the small models that read a text: every token sees the whole of its sentence, on both sides."""
    sizes = {"width": 96, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 24, "mlp_width": 192}
    return ConfigDict(sizes | {"causal": False, "sentences_apart": True})


def data(**changes: Any) -> ConfigDict:
    """The text of a run: the testbed, or with `path` a file of one's own (docs/real_data.md); every field is there."""
    section = ConfigDict(
        {
            "seed": 0,
            "path": "",
            "format": "table",  # .jsonl, .csv, .tsv by `fields`; or valuebench, valueeval, truthfulqa
            "value_path": "",
            "value_format": "table",
            "value_run": "",
            "fields": {"question": "question", "answer": "answer", "values": "", "rewards": ()},
            "sizes": {"question": 24, "text": 48, "on_long": "drop"},
            "tokenizer": {"directory": "", "kind": "bpe", "vocab_size": 4096},
            "template": "levels",  # prompts in special tokens; json: in plain words, for published models
            "chat": False,  # json as the user's turn of the tokenizer's chat template
            "test_share": 0.1,
            "most_rows": 0,
        }
    )
    section.update(changes)
    return section


def fit(*, steps: int, batch_size: int, learning_rate: float) -> ConfigDict:
    """A supervised run with Muon on the blocks, AdamW on all else, and a cosine decay.

    Muon leaves the plateau before copying is learned in half of the steps (LOG.md).
    """
    optimizer = {"name": "muon", "learning_rate": learning_rate, "decay": "cosine", "warmup": 0.05}
    return ConfigDict({"steps": steps, "batch_size": batch_size, "optimizer": optimizer})


def finetune(steps: int) -> ConfigDict:
    """A head on a published encoder, trained with all that is below it: Devlin et al. 2019, appendix A.3."""
    optimizer = {"name": "adamw", "learning_rate": 5e-5, "decay": "linear", "final_scale": 0.0, "warmup": 0.1}
    return ConfigDict({"steps": steps, "batch_size": 32, "optimizer": optimizer})


def preferences() -> tuple[tuple[float, float], ...]:
    """The 21 training preferences: the eleven tenths, and ten more so that every digit occurs in both places."""
    off_grid = (1, 12, 23, 34, 45, 56, 67, 78, 89, 99)
    hundredths = sorted([*range(0, 101, 10), *off_grid])
    return tuple((h / 100, 1 - h / 100) for h in hundredths)


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """Read a config's argument string; what is not listed in `defaults` is refused.

    `parse_arg("tiny,seed=3", tiny=False, seed=0, lr=1e-3)` gives `{tiny: True, seed: 3, lr: 0.001}`: a bare name
    switches a bool on, `name=text` is read as the type of the default.

    Args:
      arg: what stands after the colon; None or "" for nothing.
      **defaults: the known names with values of type bool, int, float or str.

    Raises:
      ValueError: unknown name, or text that the type of the default can not be read from.
    """
    values = ConfigDict(defaults)
    for part in filter(None, (part.strip() for part in (arg or "").split(","))):
        name, given, text = part.partition("=")
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(defaults) or 'none'}"
            raise ValueError(f"unknown argument {name!r}; {hint}")
        values[name] = _read(name, text if given else None, type(defaults[name]))
    return values


def _read(name: str, text: str | None, kind: type) -> Any:
    if kind is bool:
        words = {None: True, "true": True, "1": True, "false": False, "0": False}
        if text not in words:
            raise ValueError(f"argument {name}={text}: expected true or false")
        return words[text]
    if text is None:
        raise ValueError(f"argument {name}: expected {name}=<{kind.__name__}>")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"argument {name}={text}: expected {kind.__name__}") from None
