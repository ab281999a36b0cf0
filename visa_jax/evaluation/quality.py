"""How good the supervised parts are, on held-out rows and probes (VISA notes 3)."""

from collections.abc import Callable

import numpy as np

from visa_jax.types import VALUES

NEUTRAL = 0.25  # below this a value counts as not expressed: half of the smallest level


def signs(value: np.ndarray) -> np.ndarray:
    """-1, 0 or 1 per entry."""
    return np.where(np.abs(value) < NEUTRAL, 0, np.sign(value)).astype(int)


def macro_f1(predicted: np.ndarray, label: np.ndarray, classes: tuple[int, ...] = (-1, 0, 1)) -> float:
    """Unweighted mean F1 over the classes; a class that occurs nowhere is left out."""
    scores = []
    for name in classes:
        hit = np.sum((predicted == name) & (label == name))
        total = np.sum(predicted == name) + np.sum(label == name)
        if total:
            scores.append(2 * hit / total)
    return float(np.mean(scores))


def detector_quality(predicted_NM: np.ndarray, label_NM: np.ndarray) -> dict:
    """Cosine over rows with a label, L2, MAE, Pearson r, macro-F1 of the sign (pooled over values), calibration."""
    norms_N = np.linalg.norm(predicted_NM, axis=1) * np.linalg.norm(label_NM, axis=1)
    directed_N = np.linalg.norm(label_NM, axis=1) > 0
    cosine_N = np.sum(predicted_NM * label_NM, axis=1) / np.maximum(norms_N, 1e-9)
    edges = np.linspace(-1, 1, 9)
    place = np.clip(np.digitize(predicted_NM.ravel(), edges) - 1, 0, 7)
    calibration = [
        [
            float(predicted_NM.ravel()[place == b].mean()),
            float(label_NM.ravel()[place == b].mean()),
            int(np.sum(place == b)),
        ]
        for b in range(8)
        if np.any(place == b)
    ]
    return {
        "cosine": float(cosine_N[directed_N].mean()),
        "l2": float(np.linalg.norm(predicted_NM - label_NM, axis=1).mean()),
        "mae": float(np.abs(predicted_NM - label_NM).mean()),
        "mae_by_value": {name: float(np.abs(predicted_NM - label_NM)[:, i].mean()) for i, name in enumerate(VALUES)},
        "pearson": float(np.corrcoef(predicted_NM.ravel(), label_NM.ravel())[0, 1]),
        "macro_f1": macro_f1(signs(predicted_NM), signs(label_NM)),
        "calibration": calibration,
    }


def probe_accuracy(predicted_NM: np.ndarray, label_NM: np.ndarray) -> float:
    """Share of probed entries with the right sign: the labelled values, or all of them in a neutral probe."""
    right_NM = signs(predicted_NM) == signs(label_NM)
    probed_NM = label_NM != 0
    return float(right_NM[probed_NM].mean() if probed_NM.any() else right_NM.mean())


def detector_report(read_fn: Callable, source, rows: int = 512) -> dict:
    """Quality on held-out wordings and, where the source has them, on its probes.

    Args:
      read_fn: texts -> predicted values [n, 10].
      source: a ``data.source.Source``.
    """
    texts, label = source.labelled(rows, 77, "test")
    report = detector_quality(read_fn(texts), label)
    if source.probes is not None:
        for name in ("held_out", "negation", "neutral", "irony"):
            texts, label = source.probes(name, rows // 2, 77)
            report[f"probe_{name}"] = probe_accuracy(read_fn(texts), label)
    return report


def translator_report(read_fn: Callable, source, rows: int = 512) -> dict:
    """MAE, sign accuracy on moved values, false activation on unmoved ones (|prediction| >= 0.25)."""
    texts, shift = source.wishes(rows, 77, "test")
    predicted = read_fn(texts)
    moved = shift != 0
    return {
        "mae": float(np.abs(predicted - shift).mean()),
        "sign_accuracy": float((np.sign(predicted) == np.sign(shift))[moved].mean()),
        "false_activation": float((np.abs(predicted) >= NEUTRAL)[~moved].mean()),
    }


def analyzer_report(claim_BT: np.ndarray, entailed_BT: np.ndarray, rows: dict[str, np.ndarray]) -> dict:
    """Accuracy on pairs (is every claim entailed?) and on single sentences.

    Args:
      claim_BT, entailed_BT: sentence logits at every hypothesis token.
      rows: ``data.rows.entailment_rows``.
    """
    stop, label = rows["stop"], rows["label"]
    claim, entailed = claim_BT > 0, entailed_BT > 0
    pair = np.where(stop & claim, entailed, True).all(axis=1)
    return {
        "accuracy": float((pair == rows["pair_label"]).mean()),
        "claim_accuracy": float((claim == (label >= 0))[stop].mean()),
        "sentence_accuracy": float((entailed == (label > 0))[stop & (label >= 0)].mean()),
    }


def reward_report(predicted_N: np.ndarray, label_N: np.ndarray) -> dict:
    """R squared and correlation of a reward model on held-out answers."""
    residual = np.sum((predicted_N - label_N) ** 2) / np.sum((label_N - label_N.mean()) ** 2)
    return {"r2": float(1 - residual), "pearson": float(np.corrcoef(predicted_N, label_N)[0, 1])}
