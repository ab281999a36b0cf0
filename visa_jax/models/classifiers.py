"""Models that read texts, from Hugging Face directories: classes, rewards, embeddings; encoders and decoders alike.

An encoder has the head that its family has (``encoder_hf``); a decoder reads classes from its last token's state
(``heads.make_decoder_classifier``), as transformers' LlamaForSequenceClassification and its like.

1 ``load_classifier``    config.json, weights, tokenizer -> Classifier
2 ``start_classifier``   the same model with other classes: what is there is read, the rest of the head is drawn
3 ``save_classifier``    the way back, from a config.json and parameters
"""

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from visa_jax.config import UserError
from visa_jax.models.decoder import DecoderConfig, make_decoder
from visa_jax.models.encoder import EncoderConfig, make_classifier, make_encoder
from visa_jax.models.encoder_families import ENCODER_FAMILIES
from visa_jax.models.encoder_hf import CLASSIFIER, encoder_slots, load_encoder, read_encoder_config, read_labels
from visa_jax.models.encoder_layers import STD
from visa_jax.models.families import FAMILIES
from visa_jax.models.heads import make_decoder_classifier, make_embedder
from visa_jax.models.hf import fit_weights, load_tokenizer, read_decoder_config, read_family, read_params
from visa_jax.models.hub import local_directory
from visa_jax.models.layout import stored_tensors
from visa_jax.models.weights import open_weights, read_json, write_json, write_weights
from visa_jax.types import Array, Params

SCORE = "score.weight"
WRITER = re.compile("(ForCausalLM|LMHeadModel)$")  # ends of decoders' architecture names


class Classifier(NamedTuple):
    """A model that reads texts. Its functions take (params, token_BT, mask_BT, type_BT)."""

    classify: Callable | None  # -> float32 logits [B, classes]; None: it has no classes
    embed: Callable | None  # -> float32 [B, D] of length 1; None: a decoder
    params: Any
    labels: tuple[str, ...]  # names of the classes
    problem: str  # problem_type of config.json: regression, multi_label_classification ...; "" where it is not said
    max_length: int  # tokens of a text, or of a pair


class Headed(NamedTuple):
    """A published model with a head of its own, before that has learned anything."""

    classifier: Classifier  # its params are None
    init: Callable[[Array], Params]  # key -> parameters: those read, the same arrays each time, and the head's, drawn
    contents: dict[str, Any]  # config.json: the model's own, with the new classes
    tokenizer: Any


def load_classifier(directory: str | Path, *, param_dtype: str = "float32") -> tuple[Classifier, Any]:
    """``(classifier, tokenizer)`` of a Hugging Face directory or hub name: an encoder, or a decoder with classes.

    Raises:
        UserError: one line with the file and the field or tensor; all is checked before a device holds anything.
    """
    directory = local_directory(directory)
    if _is_encoder(directory):
        encoder, tokenizer = load_encoder(directory, param_dtype=param_dtype)
        params = encoder.params
    else:
        if not _architecture(directory).endswith(CLASSIFIER):
            raise UserError(f"{directory / 'config.json'}: architecture {_architecture(directory)!r} has no classes")
        params, tokenizer = _load_decoder(directory, param_dtype)
    return open_classifier(directory, params, tokenizer), tokenizer


def open_classifier(directory: str | Path, params: Params | None, tokenizer: Any) -> Classifier:
    """The classifier that ``directory/config.json`` describes, with parameters from elsewhere (None: later).

    Raises UserError where it describes none.
    """
    contents = read_json(Path(directory) / "config.json")
    if _is_encoder(directory):
        _, config = read_encoder_config(directory)
        return _of_encoder(config, params, read_labels(directory)[: config.classes], contents, tokenizer)
    config = _decoder_config(directory)
    return _of_decoder(config, params, read_labels(directory), contents, tokenizer)


def start_classifier(directory: str | Path, labels: tuple[str, ...], problem: str) -> Headed:
    """A published encoder or decoder as a classifier of ``labels``, to be trained.

    A directory that has these very classes keeps its head. Else the last map is drawn, and so is an encoder's pooler
    where the file has none: normal with deviation 0.02, biases 0, as transformers does.

    Args:
        labels: names of the outputs.
        problem: problem_type of config.json: regression, single_label_classification, multi_label_classification.

    Raises UserError as ``load_classifier``; a decoder need not have classes here.
    """
    directory = Path(directory)
    contents = {name: x for name, x in read_json(directory / "config.json").items() if name != "num_labels"}
    named = {str(i): label for i, label in enumerate(labels)}
    contents |= {"problem_type": problem, "id2label": named, "label2id": {label: i for i, label in enumerate(labels)}}
    if _is_encoder(directory):
        encoder, tokenizer = load_encoder(directory)
        family = ENCODER_FAMILIES[encoder.family]
        config = dataclasses.replace(encoder.config, classes=len(labels), pooler=family.pooled)
        maps = {"pooler": (config.width, config.width), "classifier": (config.width, len(labels))}
        params, same, bias = dict(encoder.params), encoder.labels == labels, True
        model, architecture = _of_encoder(config, None, labels, contents, tokenizer), family.name + CLASSIFIER
    else:
        params, tokenizer = _load_decoder(directory, "float32")
        config = _decoder_config(directory)
        maps, bias = {"score": (config.width, len(labels))}, False
        same = "score" in params and read_labels(directory) == labels
        if tokenizer.pad_token_id is None:  # transformers finds the last token by what fills up behind it
            tokenizer.pad_token = tokenizer.eos_token
        contents["pad_token_id"] = tokenizer.pad_token_id
        model = _of_decoder(config, None, labels, contents, tokenizer)
        family = FAMILIES[contents["model_type"]]
        architecture = family.classifier or WRITER.sub(CLASSIFIER, family.architecture)
    last = list(maps)[-1]
    if not same:
        params.pop(last, None)

    def init(key: Array) -> Params:
        keys = dict(zip(maps, jax.random.split(key, len(maps)), strict=True))
        drawn = {name: _draw_map(keys[name], shape, bias) for name, shape in maps.items() if name not in params}
        return params | drawn

    return Headed(model, init, contents | {"architectures": [architecture]}, tokenizer)


def save_classifier(
    directory: str | Path, source: str | Path, params: Params, tokenizer: Any, *, dtype: str = "float32"
) -> None:
    """Write what ``load_classifier`` reads: the classifier of ``source/config.json`` and ``params``."""
    directory, contents = Path(directory), read_json(Path(source) / "config.json")
    if _is_encoder(source):
        family, config = read_encoder_config(source)
        slots = encoder_slots(ENCODER_FAMILIES[family], config, ENCODER_FAMILIES[family].base)
        tensors = stored_tensors(params, slots, jnp.dtype(dtype))
    else:
        score = jax.device_get(params["score"]["kernel"]).T.astype(dtype)
        decoder = stored_tensors(params["decoder"], FAMILIES[read_family(source)].slots, jnp.dtype(dtype))
        tensors = itertools.chain(decoder, [(SCORE, score)])
    directory.mkdir(parents=True, exist_ok=True)
    write_weights(directory, tensors)
    tokenizer.save_pretrained(str(directory))
    # last: a directory without it counts as no model
    write_json(directory / "config.json", {k: x for k, x in contents.items() if k != "dtype"} | {"torch_dtype": dtype})


def _is_encoder(directory: str | Path) -> bool:
    path = Path(directory) / "config.json"
    name = read_json(path).get("model_type")
    if name not in ENCODER_FAMILIES and name not in FAMILIES:
        raise UserError(f"{path}: model_type {name!r} is none of {', '.join((*ENCODER_FAMILIES, *FAMILIES))}")
    return name in ENCODER_FAMILIES


def _architecture(directory: Path) -> str:
    return (read_json(directory / "config.json").get("architectures") or [""])[0]


def _decoder_config(directory: str | Path) -> DecoderConfig:
    # a classifier has no output over the vocabulary; tied to the embedding, it is no parameter
    return dataclasses.replace(read_decoder_config(directory), tie_embeddings=True)


def _of_encoder(config: EncoderConfig, params, labels, contents, tokenizer) -> Classifier:
    embed = make_embedder(make_encoder(config)[0])
    classify = make_classifier(config) if config.classes else None
    return Classifier(classify, embed, params, labels, *_problem_and_window(contents, config.max_length, tokenizer))


def _of_decoder(config: DecoderConfig, params, labels, contents, tokenizer) -> Classifier:
    classify = make_decoder_classifier(make_decoder(config)[0])

    def classify_texts(params, token_BT, mask_BT, type_BT=None):
        del type_BT  # a decoder knows one kind of token
        return classify(params, token_BT, mask_BT)

    more = _problem_and_window(contents, config.max_length, tokenizer)
    return Classifier(classify_texts, None, params, labels, *more)


def _problem_and_window(contents: dict, window: int, tokenizer: Any) -> tuple[str, int]:
    return contents.get("problem_type") or "", min(window, tokenizer.model_max_length)


def _load_decoder(directory: Path, param_dtype: str) -> tuple[Params, Any]:
    """``{"decoder": ...}``, with ``score`` where the directory is a classifier, and the tokenizer."""
    config, has_classes = _decoder_config(directory), _architecture(directory).endswith(CLASSIFIER)
    with open_weights(directory) as weights:
        slots = fit_weights(weights, FAMILIES[read_family(directory)], config)
        if has_classes:
            weights.check(SCORE, (len(read_labels(directory)), config.width))
        tokenizer = load_tokenizer(directory, config.vocab_size)
        shapes = flatten_dict(jax.eval_shape(make_decoder(config)[1], jax.random.key(0)))
        params = {"decoder": read_params(weights, slots, shapes, param_dtype, None)}
        if has_classes:
            params["score"] = {"kernel": jnp.asarray(weights.read(SCORE)).T.astype(param_dtype)}
    return params, tokenizer


def _draw_map(key: Array, shape: tuple[int, int], bias: bool) -> Params:
    kernel = {"kernel": STD * jax.random.normal(key, shape)}
    return kernel | {"bias": jnp.zeros(shape[1])} if bias else kernel
