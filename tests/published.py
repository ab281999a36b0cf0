"""Tiny Hugging Face directories of models that read texts, as transformers would have written them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.models.encoder import EncoderConfig, make_encoder
from visa_jax.models.encoder_hf import save_encoder
from visa_jax.models.families import FAMILIES
from visa_jax.models.hf import hf_config
from visa_jax.models.layout import stored_tensors
from visa_jax.models.weights import write_json, write_weights

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
PAD, CLS, SEP, UNK = range(4)


def make_tokenizer(words) -> PreTrainedTokenizerFast:
    """Whole words, lower case; [CLS] a [SEP] b [SEP] as BERT has it."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *words))}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names)


def encoder_config(tokenizer, classes: int, max_length: int = 64) -> EncoderConfig:
    sizes = dict(width=16, layers=1, heads=2, mlp_width=16, types=2, pooler="tanh")
    return EncoderConfig(vocab_size=len(tokenizer), classes=classes, max_length=max_length, **sizes)


def random_params(config: EncoderConfig, seed: int = 0, scale: float = 20.0):
    """Drawn parameters whose kernels are ``scale`` times as large, so that texts differ."""
    params = jax.jit(make_encoder(config)[1])(jax.random.key(seed))
    return jax.tree_util.tree_map_with_path(lambda path, x: scale * x if path[-1].key != "scale" else x, params)


def write_encoder(directory: Path, tokenizer, labels, params=None, *, max_length=64, seed=0, problem="") -> Path:
    """A BERT classifier with these labels."""
    config = encoder_config(tokenizer, len(labels), max_length)
    params = random_params(config, seed) if params is None else params
    save_encoder(directory, params, config, tokenizer, labels=tuple(labels), family="bert")
    if problem:
        change_config(directory, problem_type=problem)
    return directory


def write_reward_decoder(directory: Path, tokenizer, seed: int = 0) -> Path:
    """A GPT-2 with one class, as the reward models of MOC are."""
    config = DecoderConfig(
        vocab_size=len(tokenizer),
        width=16,
        layers=1,
        heads=2,
        kv_heads=2,
        head_dim=8,
        mlp_width=64,
        positions="learned",
        norm="layer",
        bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        activation="gelu_tanh",
        max_length=64,
    )
    params = jax.jit(make_decoder(config)[1])(jax.random.key(seed))
    score = np.random.default_rng(seed).normal(size=(1, 16)).astype(np.float32)
    directory.mkdir(parents=True)
    tensors = [*stored_tensors(params, FAMILIES["gpt2"].slots, jnp.float32), ("score.weight", score)]
    write_weights(directory, iter(tensors), 10**9)
    tokenizer.save_pretrained(str(directory))
    write_json(directory / "config.json", hf_config(config, "gpt2"))
    change_config(directory, architectures=["GPT2ForSequenceClassification"], id2label={"0": "LABEL_0"})
    return directory


def change_config(directory: Path, **fields) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
