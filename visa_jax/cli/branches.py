"""The two branches of the quickstart, each a sequence of the commands that a user could type.

    moc    detector, analyzer -> (the other branch's base) -> moc_sft, a reward model -> (the other branch's reward
           model) -> MOC and its baselines -> judged
    visa   base -> a reward model of MOC, SFT -> (detector and analyzer of the other branch) -> GRPO -> translator ->
           judged; FishWood

Which stage runs where is a matter of equal times (configs/quickstart.py); a stage waits for the runs it needs. A
branch writes ``<workdir>/<branch>.json`` (its share of summary.json), curves/ and samples/.
"""

import collections
import json
import shutil
import time
from pathlib import Path

from visa_jax.cli.configs import MocRuns, VisaRuns
from visa_jax.cli.evaluate import evaluate_moc, evaluate_visa
from visa_jax.cli.experiment import open_moc, open_visa
from visa_jax.cli.flags import load_config_file
from visa_jax.cli.judging import Judged, load_normalizer
from visa_jax.cli.runs import open_run
from visa_jax.cli.sources import make_source
from visa_jax.cli.supervise import SuperviseConfig, open_start, supervise
from visa_jax.cli.train import read_config, train_run
from visa_jax.config import from_config_dict
from visa_jax.training import fishwood
from visa_jax.training.metrics import METRICS_FILE, CompileCounter
from visa_jax.training.progress import Progress

OWN_PROGRAMS = ("single", "rollout", "score", "update", "program", "train", "loss")


class Branch:
    """What a branch gathers: seconds per stage, rows, compile counts."""

    def __init__(self, config, workdir: Path):
        self.config, self.workdir = config, workdir
        self.summary: dict = {"seconds": {}, "supervised": {}}

    def stage(self, name: str, budget: float | None, work) -> None:
        """Do ``work`` and note the seconds."""
        began = time.perf_counter()
        work()
        self.summary["seconds"][name] = {"used": round(time.perf_counter() - began, 1), "budget": budget}

    def keep(self, name: str, judged: Judged) -> None:
        """The method's samples and learning curve, where the report looks for them."""
        folder = self.workdir / "samples"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(judged.samples, indent=1) + "\n")
        self.keep_curve(name, self.workdir / name / METRICS_FILE)

    def keep_curve(self, name: str, file: Path) -> None:
        folder = self.workdir / "curves"
        folder.mkdir(exist_ok=True)
        if file.is_file():
            shutil.copyfile(file, folder / f"{name}.jsonl")


def run_branch(name: str, config, workdir: Path) -> None:
    """Run one branch to its end and write its share of the summary."""
    branch = Branch(config, workdir)
    with CompileCounter() as counter:
        for stage in config[name].order:
            spec = config[name][stage]
            branch.stage(stage, spec.seconds, lambda stage=stage, spec=spec: run_stage(branch, stage, spec))
        branch.stage("judge " + name, None, lambda: {"moc": judge_moc_branch, "visa": judge_visa_branch}[name](branch))
        if name == "visa":
            branch.stage("fishwood", 60, lambda: run_fishwood(branch))
    counts = collections.Counter(compiled.removeprefix("jit(").removesuffix(")") for compiled in counter.names)
    branch.summary["compiles"] = {
        f"{name}: {function}": count for function, count in counts.most_common() if function in OWN_PROGRAMS
    }
    (workdir / f"{name}.json").write_text(json.dumps(branch.summary) + "\n")


def run_stage(branch: Branch, name: str, spec) -> None:
    """One supervised or RL run in its own workdir, from its page."""
    page = load_config_file(f"configs/{spec.page}.py:{','.join(filter(None, ['tiny', spec.argument]))}")
    folder = branch.workdir / name
    with page.unlocked():
        if page.get("method"):
            page.seed, page.loop.steps = branch.config.seed, spec.steps
            page.runs.update(_runs_below(branch.workdir, page))
        else:
            page.role.seed, page.role.fit.steps = branch.config.seed, spec.steps
            page.start = str(branch.workdir / "base") if page.start else ""
        if branch.config.mode == "fast":
            page.update(only_what_is_read(page))
    if not (folder / "final.json").is_file():
        if page.get("method"):
            _train(branch, page, folder, name)
        else:
            config = from_config_dict(SuperviseConfig, page)
            if config.start:
                wait_for(Path(config.start))
            source = make_source(config.data)
            supervise(config, folder, source, open_start(config, source))
    quality = folder / "quality.json"
    if quality.is_file():
        _note_quality(branch, name, json.loads(quality.read_text()))


def only_what_is_read(page) -> dict:
    """Changes to a page for a run of few steps: rows that no step reads are neither drawn nor encoded."""
    if page.get("method"):
        rows = page.loop.steps * page.loop.prompts_per_step
        return {name: min(page[name], rows) for name in ("pool", "questions") if name in page}
    return {"role": {"rows": min(page.role.rows, page.role.fit.steps * page.role.fit.batch_size)}}


def _train(branch: Branch, page, folder: Path, name: str) -> None:
    config = read_config(page)
    for needed in needed_runs(config.runs):
        wait_for(Path(needed))
    parts = open_visa(config) if config.method == "visa" else open_moc(config)
    train_run(parts, folder, title=name)


def needed_runs(runs: VisaRuns | MocRuns) -> tuple[str, ...]:
    """What has to be there before an RL run; a translator reads only wishes in plain words."""
    return (runs.start, *runs.rewards) if isinstance(runs, MocRuns) else (runs.start, runs.detector, runs.analyzer)


def _runs_below(workdir: Path, page) -> dict:
    """The runs that a page names, moved below the quickstart's workdir."""

    def move(value):
        return tuple(move(v) for v in value) if isinstance(value, tuple) else str(workdir / Path(value).name)

    return {name: move(value) for name, value in page.runs.items()}


def _note_quality(branch: Branch, name: str, quality: dict) -> None:
    supervised = branch.summary["supervised"]
    judge = quality.pop("judge", None)
    if len(quality) > 2:
        supervised[name] = {k: v for k, v in quality.items() if k not in ("seconds", "mae_by_value")}
    if judge:
        supervised[f"{name}_judge"] = {k: v for k, v in judge.items() if k != "mae_by_value"}


def wait_for(folder: Path) -> None:
    """Wait until a run of the other branch is finished (if that branch fails, the parent ends this one too)."""
    if not (folder / "quality.json").is_file():
        print(f"waiting for {folder.name}, which the other branch trains", flush=True)
    while not (folder / "quality.json").is_file():
        time.sleep(0.5)


def judge_visa_branch(branch: Branch) -> None:
    """VISA's table: copy, prompted base, SFT, VISA, VISA with the closed loop."""
    run = open_run(branch.workdir / "visa", "visa", "visa")
    section, judged = evaluate_visa(open_visa(read_config(run.config)), run.params, branch.config.judged_rows)
    branch.summary |= section
    for name, one in judged.items():
        branch.keep(name, one)
    branch.keep_curve("sft", branch.workdir / "visa_sft" / METRICS_FILE)


def judge_moc_branch(branch: Branch) -> None:
    """MOC's table: every policy of the branch on the same questions, preferences and reward scale."""
    workdir, config = branch.workdir, branch.config
    names = [name for name in config.moc.order if config.moc[name].page == "moc"]
    parts = open_moc(read_config(open_run(workdir / "moc", "moc", "moc").config))
    policies = {"sft": parts.start} | {name: open_run(workdir / name, name, "moc").params for name in names}
    section, judged = evaluate_moc(parts, policies, load_normalizer(workdir / "moc"), config.judged_questions, 11)
    branch.summary |= section
    for name, one in judged.items():
        branch.keep(name if name != "sft" else "moc_sft", one)


def run_fishwood(branch: Branch) -> None:
    """FishWood and its idle variant, MOC and baselines."""
    for argument in branch.config.fishwood:
        words = argument.split(",") if argument else []
        section = "fishwood_idle" if "idle" in words else "fishwood"
        row = next((word for word in words if word != "idle"), "moc")
        page = load_config_file(f"configs/fishwood.py:{','.join([*words, f'seed={branch.config.seed}'])}")
        config = from_config_dict(fishwood.FishWoodConfig, page)
        with Progress(f"{section} {row}", config.steps) as progress:
            told = fishwood.run(
                config, lambda step, metrics, show=progress.update: show(step, reward=metrics["reward"])
            )
        part = branch.summary.setdefault(section, {"rows": {}, "points": {}, "front": [[0, 180], [20, 0]]})
        part["rows"][row], part["points"][row] = told["row"], told["points"]
        curve = branch.workdir / "curves" / f"{section}_{row}.jsonl"
        curve.parent.mkdir(exist_ok=True)
        curve.write_text("".join(json.dumps(line) + "\n" for line in told["curve"]))
