"""`visa-jax plan` on devices of this host: what it counts is what the sizes say, and a bad request is one line."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from visa_jax.cli.blueprint import draw, programs
from visa_jax.cli.configs import VisaRuns, VisaTrainConfig
from visa_jax.cli.flags import load_config_file
from visa_jax.cli.main import run
from visa_jax.cli.plan import candidates, sweep, work_of
from visa_jax.cli.train import read_config
from visa_jax.methods.visa import VisaConfig
from visa_jax.models import DecoderConfig
from visa_jax.parallel import MeshConfig, make_mesh
from visa_jax.planning import counts, hlo
from visa_jax.planning.programs import Compiled, TooLarge, compile_program, device_bytes
from visa_jax.planning.sizes import PlanConfig
from visa_jax.planning.tables import sweep_table, table
from visa_jax.planning.topology import open_topology
from visa_jax.training.loop import LoopConfig
from visa_jax.training.policy import PolicyConfig

SIZES = dict(vocab_size=96, width=32, layers=2, heads=4, kv_heads=4, head_dim=8, mlp_width=96, max_length=64)
CUT = MeshConfig(fsdp=4)
PARTS = ("layers", "embedding")
PODS = {
    "visa_qwen3_0_6b": 0.596,
    "visa_qwen3_4b": 4.02,
    "visa_qwen3_8b": 8.19,
    "visa_llama31_8b": 8.03,
    "moc_llama2_7b": 6.74,
}


def make_config(mesh=CUT, reader=True, reward_dtype="float32", epochs=1, **policy) -> VisaTrainConfig:
    decoder = DecoderConfig(**SIZES)
    lengths = dict(prompt_length=16, completion_length=12, context_length=10)
    return VisaTrainConfig(
        runs=VisaRuns(base="", start="none", detector="", analyzer=""),
        policy=PolicyConfig(**policy),
        visa=VisaConfig(num_generations=2, max_completion_length=12),
        loop=LoopConfig(prompts_per_step=8, mesh=mesh, epochs=epochs, reward_dtype=reward_dtype),
        plan=PlanConfig(decoder=decoder, reader=decoder if reader else None, **lengths),
    )


@pytest.mark.usefixtures("quick_compiles")
@pytest.mark.parametrize(
    ("mesh", "policy"),
    [
        (MeshConfig(fsdp=4), {"remat": "full"}),
        (MeshConfig(fsdp=2, tensor=2), {"logp_chunk": 32}),
        (MeshConfig(data=4), {"lora_rank": 2, "lora_pattern": "attention/.*|mlp/.*", "epochs": 2}),
    ],
    ids=str,
)
def test_compiled_flops_of_an_update_are_those_of_the_sizes(mesh, policy):
    """With all layers and chunks counted; a little above, for the method has products of its own (group means)."""
    config = make_config(mesh, reader=False, **policy)
    blueprint = draw(config, "cpu")
    compiled = compile_program(programs(blueprint, make_mesh(mesh))["update"])
    ratio = hlo.count(compiled.text)[0].flops * 4 / counts.update_flops(work_of(blueprint, "cpu", 4))
    assert 0.995 < ratio < 1.01


@pytest.fixture(scope="module")
def eight(root, tmp_path_factory):
    """What the command prints for eight devices, fsdp = 8; more than the session has, so in a process of its own."""
    config = make_config(MeshConfig(fsdp=8), remat="full")
    env = os.environ | {"PYTHONPATH": str(root), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    words = ["plan", f"--config={page(tmp_path_factory.mktemp('eight'), config)}", "--topology=cpu:8", "--json"]
    command = [sys.executable, "-m", "visa_jax.cli.main", *words]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_whole_plan(eight):
    assert eight["fits"] and (eight["chip"], eight["devices"]) == ("cpu", 8)
    assert set(eight["programs"]) == {"prefill", "decode", "score", "update"}
    for cost in eight["programs"].values():
        assert cost["hbm_bytes"] > cost["argument_bytes"] > 0
        assert cost["flops"] > 0 and cost["bytes"] > 0 and cost["seconds"] > 0 and cost["temp_bytes"] > 0
    assert eight["programs"]["decode"]["times"] == 11
    assert eight["step"]["seconds"] > 11 * eight["programs"]["decode"]["seconds"]


def test_a_step_of_decoding_sends_one_number_and_reward_models_nothing(eight):
    """The number tells all devices that some row goes on; parameters were laid out before the first token."""
    decode, score = eight["programs"]["decode"], eight["programs"]["score"]
    assert set(decode["collective_bytes"]) <= {"all-reduce"} and decode["largest_bytes"]["all-reduce"] <= 2 * 8
    assert not score["collective_bytes"]


def test_an_update_gathers_each_kernel_once_a_pass(eight):
    """Three passes read it (reference, policy, and again in the backward pass): a device sends its eighth to seven."""
    blueprint = draw(make_config(MeshConfig(fsdp=8)), "cpu")
    layers, table = (4 * sum(x.size for x in jax.tree.leaves(blueprint.trained["decoder"][part])) for part in PARTS)
    sent = eight["programs"]["update"]["collective_bytes"]["all-gather"]
    # the table to embed prompts, to embed completions, and for logits; in the forward passes alone
    assert sent <= (3 * layers + 2 * 3 * table) * 7 / 8


def test_no_program_gathers_the_whole_tree(eight):
    config = make_config(MeshConfig(fsdp=8))
    params = draw(config, "cpu").trained
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    # parameters, two moments and the reference, an eighth of each, and the step's rows
    rows = 4 * 3 * 16 * (16 + 12 + 10)
    assert eight["programs"]["update"]["argument_bytes"] <= 4 * whole * (1 / 8 + 0.02) + rows
    assert eight["programs"]["update"]["largest_bytes"]["all-gather"] < whole / 4


def test_parameters_and_moments_are_cut():
    config = make_config()
    blueprint = draw(config, "cpu")
    state = programs(blueprint, make_mesh(config.loop.mesh))["update"].arguments[0]
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(blueprint.trained))
    assert device_bytes(state.params) + device_bytes(state.opt_state) <= 3 * whole * (1 / 4 + 0.02)


def test_reward_models_may_lie_in_half_of_the_bytes():
    """Their trunks; the heads, small, are float32."""

    def held(dtype):
        blueprint = draw(make_config(reward_dtype=dtype), "cpu")
        models = [reward.params for reward in blueprint.experiment.rewards if jax.tree.leaves(reward.params)]
        return device_bytes(programs(blueprint, make_mesh(CUT))["score"].arguments[0]), models

    (wide, models), (narrow, _) = held("float32"), held("bfloat16")
    assert wide - narrow == 2 * sum(leaf.size for model in models for leaf in jax.tree.leaves(model["decoder"]))


def test_visas_base_is_held_beside_its_start():
    """Another model of the policy's sizes, frozen, in the same pieces; one directory for both is one copy."""
    config = make_config()
    one = dataclasses.replace(config, runs=dataclasses.replace(config.runs, base=config.runs.start))
    (two, plan), (alone, _) = (
        (programs(drawn, make_mesh(CUT)), drawn) for drawn in (draw(each, "cpu") for each in (config, one))
    )
    quarter = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(plan.reference)) / 4
    for name in ("rollout", "score", "update"):
        assert quarter <= two[name].held_bytes - alone[name].held_bytes <= 1.02 * quarter


def test_useful_work_of_adapters_has_no_slope_of_frozen_kernels():
    """Two products a kernel where the whole is trained has three, and three of each adapter."""
    whole, low = (
        counts.useful_flops(work_of(draw(make_config(reader=False, **policy), "cpu"), "cpu", 4))
        for policy in ({}, {"lora_rank": 2, "lora_pattern": "mlp/up"})
    )
    work = work_of(draw(make_config(reader=False), "cpu"), "cpu", 4)
    layers, attention, logits = counts.forward_flops(work)
    tokens = 8 * 16 + 16 * 12
    adapters = SIZES["layers"] * 2 * (SIZES["width"] + SIZES["mlp_width"])
    assert whole == 3 * (layers + attention + logits)
    assert low == 2 * (layers + logits) + 3 * attention + 3 * 2 * tokens * adapters


def test_a_plan_for_tpus_prints_a_plan_alone(root, tmp_path):
    """What libtpu has to say of the machine that it is not on would stand before the JSON, or beside it."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (extra tpu)")
    words = [f"--config={page(tmp_path, make_config(reader=False))}", "--topology=v5e:2x2", "--json"]
    command = [sys.executable, "-m", "visa_jax.cli.main", "plan", *words]
    path = os.pathsep.join([str(root), *sys.path])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TPU_")}
    done = subprocess.run(
        command, cwd=root, env=kept | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout)["topology"] == "v5e:2x2"
    assert "WARNING" not in done.stderr and "Error" not in done.stderr


@pytest.mark.parametrize(("limit", "fitting"), [(2, [2, 2, 2, 4, 4, 8]), (4, [4, 4, 8])])
def test_what_does_not_fit_is_said_and_ranked_last(monkeypatch, limit, fitting):
    """A compiler that has room for ``limit`` micro-batches or more, and needs longer with more of them."""
    names = ("rollout", "update")

    def compile_fn(name):
        pieces = current["pieces"]
        compiled.append(name)
        if name == "update" and pieces < limit:
            raise TooLarge("Used 17.1G of 15.7G hbm")
        text = "HloModule m\nENTRY %main (x: f32[8]) -> f32[8] {\n  ROOT %x = f32[8] parameter(0)\n}\n"
        return Compiled(text, 1, 1, 1, 10, seconds=0.0)

    current, said, compiled = {}, [], []
    monkeypatch.setattr("visa_jax.cli.plan.compile_program", compile_fn)
    monkeypatch.setattr("visa_jax.cli.plan.programs", lambda blueprint, mesh: {name: name for name in names})
    seconds = lambda counts, chip: (current["pieces"] if compiled[-1] == "update" else 1, "compute")
    monkeypatch.setattr("visa_jax.planning.roofline.seconds", seconds)
    drawn = lambda config, platform: current.update(pieces=config.loop.micro_batches) or draw(config, platform)
    monkeypatch.setattr("visa_jax.cli.plan.draw", drawn)
    found = sweep(make_config(), open_topology("cpu:4"), said.append)
    assert [told["micro_batches"] for told in found if told["fits"]] == fitting
    assert {told["reason"] for told in found if not told["fits"]} == {"update: Used 17.1G of 15.7G hbm"}
    assert len(said) == len(found) == len(fitting) + 3 and sweep_table(found).count("\n") == len(found) + 1
    assert "a step takes at least" in table(found[0]) and "17.1G of 15.7G" in table(found[-1])
    # three meshes: a rollout each; larger pieces than those that do not fit are not tried
    assert compiled.count("rollout") == 3 and compiled.count("update") == len(found)


@pytest.mark.parametrize("name", PODS)
def test_pages_of_pods_are_whole(name, root):
    """Every page is a config of train, its sizes agree with one another and divide into 16 devices."""
    config = read_config(load_config_file(str(root / "configs" / f"{name}.py")))
    blueprint = draw(config, "tpu")
    assert blueprint.decoder.dtype == "bfloat16"
    assert candidates(config, 16)


@pytest.mark.parametrize(("name", "billions"), PODS.items())
def test_the_numbers_of_parameters_are_the_published_ones(name, billions, root):
    """As the model cards say; a table that is the output layer too counts once."""
    config = read_config(load_config_file(str(root / "configs" / f"{name}.py")))
    reference = draw(config, "cpu").reference["decoder"]
    assert sum(leaf.size for leaf in jax.tree.leaves(reference)) / 1e9 == pytest.approx(billions, rel=3e-3)


def page(directory: Path, config) -> str:
    """A page that holds a typed config as it is."""
    text = json.dumps(dataclasses.asdict(config))
    (directory / "page.py").write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\n"
        "def tuples(x):\n"
        "    if isinstance(x, dict):\n        return {key: tuples(value) for key, value in x.items()}\n"
        "    return tuple(map(tuples, x)) if isinstance(x, list) else x\n\n\n"
        f"def get_config(arg=None):\n    return ConfigDict(tuples(json.loads({text!r})))\n"
    )
    return str(directory / "page.py")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v9:4x4"], "--topology=v9:4x4: there is no 'v9'"),
        (["--topology=cpu:4", "--config.loop.mesh.fsdp=3"], "1 x 3 x 1 = 3, but there are 4 devices"),
        (["--topology=cpu:4", "--config.loop.prompts_per_step=6"], "6 prompts do not divide into 4 devices"),
        (["--topology=cpu:4", "--config.plan.prompt_length=60"], "config.plan.decoder.max_length: 64 < 72 tokens"),
        (["--topology=cpu:4", "--config.loop.mesh.way=pmap_sharded"], "config.loop.mesh.way: a plan knows jit alone"),
    ],
)
def test_a_bad_request_is_one_line(flags, message, tmp_path, capsys):
    assert run(["plan", f"--config={page(tmp_path, make_config())}", *flags]) != 0
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_a_page_without_sizes_is_one_line(tmp_path, capsys):
    config = dataclasses.replace(make_config(), plan=PlanConfig())
    assert run(["plan", f"--config={page(tmp_path, config)}", "--topology=cpu:4"]) == 1
    assert "config.plan.decoder: is missing" in capsys.readouterr().err
