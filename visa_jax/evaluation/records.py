"""What a run leaves behind, read back: summary.json, curves/<run>.jsonl, samples/<method>.json. Several runs as one."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from visa_jax.config import UserError

SECTIONS = ("visa", "moc", "fishwood", "fishwood_idle")


class RunRecord(NamedTuple):
    """One directory, read. curves: {run: [track, …]} with one track (a list of records) a seed."""

    name: str
    summary: dict[str, Any]
    curves: dict[str, list[list[dict]]]
    samples: dict[str, list[dict]]


def read_json(path: Path) -> Any:
    """The file's content. UserError with one line that names the file, if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is this the directory of a finished run?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def write_json(path: Path, value: Any) -> Path:
    """Write ``value``; JSON has no NaN, so null stands for it."""
    path.write_text(json.dumps(_finite(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_track(path: Path) -> list[dict]:
    """One JSON object a line, in order of the step. A step written twice (by a resumed run) counts once, the later one.

    A last line cut short by an interrupted run is left out; a broken line elsewhere is a UserError.
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    steps: dict[Any, dict] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}: line {number} is not valid JSON ({error})") from None
        if not isinstance(record, dict) or "step" not in record:
            raise UserError(f'{path}: line {number} has no "step"')
        steps[record["step"]] = steps.get(record["step"], {}) | record
    return [steps[step] for step in sorted(steps)]


def read_run(run_dir: str | Path) -> RunRecord:
    """Read a run's directory. Only summary.json must be there.

    Raises: UserError naming the file that is missing or broken.
    """
    run_dir = Path(run_dir)
    summary = read_json(run_dir / "summary.json")
    if not isinstance(summary, dict):
        raise UserError(f"{run_dir / 'summary.json'}: must hold an object, found a {type(summary).__name__}")
    curves = {path.stem: [read_track(path)] for path in sorted((run_dir / "curves").glob("*.jsonl"))}
    samples = {}
    for path in sorted((run_dir / "samples").glob("*.json")):
        samples[path.stem] = read_json(path)
        if not isinstance(samples[path.stem], list):
            raise UserError(f"{path}: must hold a list of samples")
    return RunRecord(run_dir.resolve().name, summary, curves, samples)


def group_runs(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs that are repetitions of each other: same mode and configuration, all seeds different.

    Two runs with the same seed cannot be told from one experiment changed by hand, so their group falls apart into
    single runs: averaging them would hide the change.
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        key = json.dumps([run.summary.get("mode"), run.summary.get("config")], sort_keys=True, default=str)
        groups.setdefault(key, []).append(run)
    made: list[list[RunRecord]] = []
    for group in groups.values():
        seeds = [run.summary.get("seed") for run in group]
        made += [group] if len(set(seeds)) == len(seeds) else [[run] for run in group]
    return made


def unique_names(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The same runs, those with equal directory names numbered."""
    counts: dict[str, int] = {}
    named = []
    for run in runs:
        counts[run.name] = counts.get(run.name, 0) + 1
        named.append(run._replace(name=f"{run.name} ({counts[run.name]})") if counts[run.name] > 1 else run)
    return named


def merge_runs(runs: Sequence[RunRecord]) -> RunRecord:
    """Several runs as one record, for one table and one figure.

    Repetitions (see `group_runs`) share rows: each figure becomes {"values": [one a run]}, points and curves are put
    together. Otherwise a row is named "method · run". Fronts, reference points and normalisers come from the first
    run that has them. Raises UserError where two runs measure hyper-volume from different reference points.
    """
    runs = unique_names(runs)
    check_references(runs)
    groups = group_runs(runs)
    if len(groups) == 1 and len(runs) == 1:
        return runs[0]
    summary: dict[str, Any] = {}
    curves: dict[str, list] = {}
    samples: dict[str, list] = {}
    for group in groups:
        suffix = "" if len(groups) == 1 else f" · {group[0].name}" + (f" +{len(group) - 1}" if len(group) > 1 else "")
        for section in SECTIONS:
            merge_section(summary, group, section, suffix)
        for run in group:
            for name, tracks in run.curves.items():
                curves.setdefault(name + suffix, []).extend(tracks)
        for name, rows in group[0].samples.items():
            samples[name + suffix] = rows
    summary["runs"] = [{"run": r.name, "seed": r.summary.get("seed"), "mode": r.summary.get("mode")} for r in runs]
    if len(groups) == 1:
        for key in ("supervised", "seconds"):
            merged = merge_numbers([run.summary.get(key) for run in runs])
            if merged is not None:
                summary[key] = merged
    summary["machine"] = next((r.summary["machine"] for r in runs if r.summary.get("machine")), {})
    summary["claims"] = merge_claims(runs)
    return RunRecord(f"{len(runs)} runs", {key: value for key, value in summary.items() if value}, curves, samples)


def merge_section(summary: dict, group: Sequence[RunRecord], section: str, suffix: str) -> None:
    """Add one group's rows and points of a section to the merged summary."""
    tables = [run.summary.get(section) or {} for run in group]
    names = dict.fromkeys(name for table in tables for name in table.get("rows") or {})
    if not names:
        return
    target = summary.setdefault(section, {"rows": {}, "points": {}})
    for name in names:
        rows = [(table.get("rows") or {}).get(name, {}) for table in tables]
        keys = dict.fromkeys(key for row in rows for key in row)
        target["rows"][name + suffix] = {key: {"values": [number_of(row.get(key)) for row in rows]} for key in keys}
    for table in tables:
        for name, points in (table.get("points") or {}).items():
            target["points"].setdefault(name + suffix, []).extend(points)
        for key in ("front", "reference_point", "normalizer", "objectives"):
            if table.get(key) is not None:
                target.setdefault(key, table[key])


def merge_numbers(trees: Sequence[Any]) -> Any:
    """Nested dictionaries of numbers, leaf by leaf, as {"values": [one a run]}; leaves without a number are dropped."""
    if any(isinstance(tree, Mapping) for tree in trees):
        keys = dict.fromkeys(key for tree in trees if isinstance(tree, Mapping) for key in tree)
        parts = {key: merge_numbers([t.get(key) if isinstance(t, Mapping) else None for t in trees]) for key in keys}
        return {key: part for key, part in parts.items() if part is not None} or None
    numbers = [float(tree) if isinstance(tree, int | float) else None for tree in trees]
    return {"values": numbers} if any(number is not None for number in numbers) else None


def number_of(value: Any) -> float | None:
    """A number for averaging; a list (one entry an objective) by its mean, anything else is missing."""
    if isinstance(value, list) and value and all(isinstance(entry, int | float) for entry in value):
        return float(sum(value) / len(value))
    return float(value) if isinstance(value, int | float) else None


def merge_claims(runs: Sequence[RunRecord]) -> list[dict]:
    """Each claim once: what was measured in every run, and in how many runs it holds."""
    claims: dict[str, list[Mapping]] = {}
    for run in runs:
        for claim in run.summary.get("claims") or []:
            claims.setdefault(claim["claim"], []).append(claim)
    merged = []
    for text, found in claims.items():
        tested = [claim["holds"] for claim in found if isinstance(claim.get("holds"), bool)]
        holds = None if not tested else all(tested) if len(set(tested)) == 1 else f"in {sum(tested)} of {len(tested)}"
        measured = "; ".join(str(claim["measured"]) for claim in found if claim.get("measured") is not None) or None
        merged.append({"claim": text, "expected": found[0].get("expected"), "measured": measured, "holds": holds})
    return merged


def check_references(runs: Sequence[RunRecord]) -> None:
    """Hyper-volumes from different reference points must not stand in one column."""
    for section in SECTIONS:
        known = {run.name: (run.summary.get(section) or {}).get("reference_point") for run in runs}
        known = {name: point for name, point in known.items() if point is not None}
        if len({json.dumps([float(x) for x in point]) for point in known.values()}) > 1:
            told = ", ".join(f"{name}: {point}" for name, point in known.items())
            raise UserError(f"{section}.reference_point: hyper-volumes cannot be compared, the runs differ ({told})")
