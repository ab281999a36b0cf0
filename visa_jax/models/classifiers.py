"""Models that read texts, from Hugging Face directories: classes, rewards, embeddings; encoders and decoders alike.

An encoder has the head that its family has (``encoder_hf``); a decoder reads classes from its last token's state
(``heads.make_decoder_classifier``), as transformers' LlamaForSequenceClassification and its like.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from visa_jax.config import UserError
from visa_jax.models.decoder import make_decoder
from visa_jax.models.encoder_families import ENCODER_FAMILIES
from visa_jax.models.encoder_hf import CLASSIFIER, load_encoder, read_labels
from visa_jax.models.families import FAMILIES
from visa_jax.models.heads import make_decoder_classifier
from visa_jax.models.hf import fit_weights, load_tokenizer, read_decoder_config, read_family, read_params
from visa_jax.models.hub import local_directory
from visa_jax.models.weights import open_weights, read_json

SCORE = "score.weight"


class Classifier(NamedTuple):
    """A model that reads texts. Its functions take (params, token_BT, mask_BT, type_BT)."""

    classify: Callable | None  # -> float32 logits [B, classes]; None: it has no classes
    embed: Callable | None  # -> float32 [B, D] of length 1; None: a decoder
    params: Any
    labels: tuple[str, ...]  # names of the classes
    problem: str  # problem_type of config.json: regression, multi_label_classification ...; "" where it is not said
    max_length: int  # tokens of a text, or of a pair


def load_classifier(directory: str | Path, *, param_dtype: str = "float32") -> tuple[Classifier, Any]:
    """``(classifier, tokenizer)`` of a Hugging Face directory or hub name: an encoder, or a decoder with classes.

    Raises:
        UserError: one line with the file and the field or tensor; all is checked before a device holds anything.
    """
    directory = local_directory(directory)
    contents = read_json(directory / "config.json")
    name, problem = contents.get("model_type"), contents.get("problem_type") or ""
    if name in ENCODER_FAMILIES:
        encoder, tokenizer = load_encoder(directory, param_dtype=param_dtype)
        classifier = Classifier(
            encoder.classify, encoder.embed, encoder.params, encoder.labels, problem, encoder.config.max_length
        )
    elif name in FAMILIES:
        classifier, tokenizer = _load_decoder(directory, contents, param_dtype)
        classifier = classifier._replace(problem=problem)
    else:
        known = ", ".join((*ENCODER_FAMILIES, *FAMILIES))
        raise UserError(f"{directory / 'config.json'}: model_type {name!r} is none of {known}")
    return classifier._replace(max_length=min(classifier.max_length, tokenizer.model_max_length)), tokenizer


def _load_decoder(directory: Path, contents: dict, param_dtype: str) -> tuple[Classifier, Any]:
    architecture = (contents.get("architectures") or [""])[0]
    if not architecture.endswith(CLASSIFIER):
        raise UserError(f"{directory / 'config.json'}: architecture {architecture!r} has no classes")
    # a classifier has no output over the vocabulary; tied to the embedding, it is no parameter
    config = dataclasses.replace(read_decoder_config(directory), tie_embeddings=True)
    labels = read_labels(directory)
    lm, init_fn = make_decoder(config)
    with open_weights(directory) as weights:
        slots = fit_weights(weights, FAMILIES[read_family(directory)], config)
        weights.check(SCORE, (len(labels), config.width))
        tokenizer = load_tokenizer(directory, config.vocab_size)
        shapes = flatten_dict(jax.eval_shape(init_fn, jax.random.key(0)))
        decoder = read_params(weights, slots, shapes, param_dtype, None)
        score = jnp.asarray(weights.read(SCORE)).T.astype(param_dtype)
    classify = make_decoder_classifier(lm)

    def classify_texts(params, token_BT, mask_BT, type_BT=None):
        del type_BT  # a decoder knows one kind of token
        return classify(params, token_BT, mask_BT)

    params = {"decoder": decoder, "score": {"kernel": score}}
    return Classifier(classify_texts, None, params, labels, "", config.max_length), tokenizer
