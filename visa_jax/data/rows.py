"""Texts with labels -> padded arrays, one dict of numpy arrays per supervised task.

``token``/``mask`` [n, T] hold the text that is scored or learned, ``context``/``context_mask`` [n, S] the text read
before it. Everything is encoded once; batches only index (``training/supervised.py``).
"""

from collections.abc import Sequence

import numpy as np

from visa_jax.data.symbols import BOS, EOS
from visa_jax.data.testbed.entailment import NO_CLAIM, EntailmentPair
from visa_jax.data.tokenizer import encode_batch, pad_id
from visa_jax.types import PromptBatch

Rows = dict[str, np.ndarray]


def document_rows(
    tokenizer, documents: Sequence[str], length: int, *, pack: bool, begin: str = f"{BOS} ", end: str = f" {EOS}"
) -> Rows:
    """Documents between ``begin`` and ``end`` in rows of ``length`` tokens; one longer than a row is cut.

    ``pack`` lays several into a row; a model then has to learn to ignore its neighbours, which delays copying from
    the context by hundreds of steps where documents are as short as the testbed's (LOG.md).
    """
    encoded = tokenizer([f"{begin}{text}{end}" for text in documents], add_special_tokens=False)["input_ids"]
    rows: list[list[int]] = [[]]
    for ids in encoded:
        ids = ids[:length]
        if rows[-1] and (not pack or len(rows[-1]) + len(ids) > length):
            rows.append([])
        rows[-1].extend(ids)
    token = np.full((len(rows), length), pad_id(tokenizer), np.int32)
    mask = np.zeros((len(rows), length), bool)
    for row, ids in enumerate(rows):
        token[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return {"token": token, "mask": mask}


def text_rows(tokenizer, texts: Sequence[str], length: int, **labels: np.ndarray) -> Rows:
    """Texts alone, with any labels of n rows (``value``, ``shift``)."""
    token, mask = encode_batch(tokenizer, texts, length)
    return {"token": token, "mask": mask, **{name: np.asarray(x, np.float32) for name, x in labels.items()}}


def pair_rows(tokenizer, contexts: Sequence[str], texts: Sequence[str], sizes: tuple[int, int], *, end: bool) -> Rows:
    """Texts behind contexts of (context, text) at most ``sizes`` tokens; ``end`` puts the end token behind the text."""
    context, context_mask = encode_batch(tokenizer, contexts, sizes[0])
    token, mask = encode_batch(tokenizer, texts, sizes[1], end=end)
    return {"context": context, "context_mask": context_mask, "token": token, "mask": mask}


def entailment_rows(tokenizer, pairs: Sequence[EntailmentPair], length: int) -> Rows:
    """Premise, hypothesis, and at each sentence end of the hypothesis (``stop``) its label in {-1, 0, 1}."""
    rows = text_rows(tokenizer, [p.hypothesis for p in pairs], length)
    premise = text_rows(tokenizer, [p.premise for p in pairs], length)
    rows |= {f"premise_{name}": array for name, array in premise.items()}
    stop_id = tokenizer.convert_tokens_to_ids(".")
    rows["stop"] = rows["mask"] & (rows["token"] == stop_id)
    rows["label"] = np.zeros(rows["token"].shape, np.int32)
    for row, pair in enumerate(pairs):
        rows["label"][row, np.flatnonzero(rows["stop"][row])] = pair.labels
    rows["pair_label"] = np.array([p.label for p in pairs], np.int32)
    return rows


def claim_pairs(pairs: Sequence[EntailmentPair]) -> tuple[list[str], list[str], np.ndarray]:
    """(premises, sentences, float [n]: 1 = entailed) of every claim in pairs; sentences without a claim are left out.

    Pairs in which a sentence has not exactly one full stop are left out too: labels are counted by full stops there.
    """
    premises, sentences, labels = [], [], []
    for pair in pairs:
        if len(pair.labels) != len(pair.sentences) or any(one.count(".") != 1 for one in pair.sentences):
            continue
        for sentence, label in zip(pair.sentences, pair.labels, strict=True):
            if label != NO_CLAIM:
                premises.append(pair.premise)
                sentences.append(sentence)
                labels.append(label)
    return premises, sentences, np.array(labels, np.float32)


def prompt_batch(
    tokenizer,
    prompts: Sequence[str],
    conditions: np.ndarray,
    contexts: Sequence[str],
    *,
    prompt_length: int,
    context_length: int,
) -> PromptBatch:
    """N prompts with what they ask for and what rewards may read beside a completion."""
    prompt, prompt_mask = encode_batch(tokenizer, prompts, prompt_length)
    context, context_mask = encode_batch(tokenizer, contexts, context_length)
    return PromptBatch(
        prompt_NL=prompt,
        prompt_mask_NL=prompt_mask,
        condition_NM=np.asarray(conditions, np.float32),
        context_NS=context,
        context_mask_NS=context_mask,
    )
