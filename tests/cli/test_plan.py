"""`visa-jax plan` on devices of this host: what it counts is what the sizes say, and a bad request is one line."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from visa_jax.cli.blueprint import draw, programs
from visa_jax.cli.experiment import VisaRuns, VisaTrainConfig
from visa_jax.cli.flags import load_config_file
from visa_jax.cli.main import run
from visa_jax.cli.plan import candidates, plan, work_of
from visa_jax.cli.train import read_config
from visa_jax.methods.visa import VisaConfig
from visa_jax.models import DecoderConfig
from visa_jax.parallel import MeshConfig, make_mesh
from visa_jax.planning import counts, hlo
from visa_jax.planning.programs import compile_program, device_bytes
from visa_jax.planning.sizes import PlanConfig
from visa_jax.planning.topology import open_topology
from visa_jax.training.loop import LoopConfig
from visa_jax.training.policy import PolicyConfig

SIZES = dict(vocab_size=96, width=32, layers=2, heads=4, kv_heads=4, head_dim=8, mlp_width=96, max_length=64)
CUT = MeshConfig(fsdp=4)
PODS = {
    "visa_qwen3_0_6b": 0.596,
    "visa_qwen3_4b": 4.02,
    "visa_qwen3_8b": 8.19,
    "visa_llama31_8b": 8.03,
    "moc_llama2_7b": 6.74,
}


def make_config(mesh=CUT, reader=True, **policy) -> VisaTrainConfig:
    decoder = DecoderConfig(**SIZES)
    lengths = dict(prompt_length=16, completion_length=12, context_length=10)
    return VisaTrainConfig(
        runs=VisaRuns(base="", start="none", detector="", analyzer=""),
        policy=PolicyConfig(**policy),
        visa=VisaConfig(num_generations=2, max_completion_length=12),
        loop=LoopConfig(prompts_per_step=8, mesh=mesh),
        plan=PlanConfig(decoder=decoder, reader=decoder if reader else None, **lengths),
    )


@pytest.mark.usefixtures("quick_compiles")
@pytest.mark.parametrize(
    ("mesh", "policy"),
    [
        (MeshConfig(fsdp=4), {"remat": "full"}),
        (MeshConfig(fsdp=2, tensor=2), {"logp_chunk": 32}),
        (MeshConfig(data=4), {"lora_rank": 2, "lora_pattern": "attention/.*|mlp/.*"}),
    ],
    ids=str,
)
def test_compiled_flops_of_an_update_are_those_of_the_sizes(mesh, policy):
    """With all layers and chunks counted; a little above, for the method has products of its own (group means)."""
    config = make_config(mesh, reader=False, **policy)
    blueprint = draw(config, "cpu")
    compiled = compile_program(programs(blueprint, make_mesh(mesh))["update"])
    ratio = hlo.count(compiled.text)[0].flops * 4 / counts.update_flops(work_of(blueprint, "cpu"))
    assert 0.995 < ratio < 1.05


@pytest.mark.usefixtures("quick_compiles")
def test_a_whole_plan():
    """A step of decoding sends one number, so that all end together; reward models stay where they are."""
    told = plan(make_config(), open_topology("cpu:4"))
    made = told["programs"]
    assert told["devices"] == 4 and told["fits"] and set(made) == {"prefill", "decode", "score", "update"}
    assert made["decode"]["times"] == 11
    assert sum(made["decode"]["collective_bytes"].values()) <= 2 * 4
    assert not made["score"]["collective_bytes"]
    assert made["decode"]["bytes"] > made["decode"]["least"]["bytes"]


def test_parameters_and_moments_are_cut_and_never_gathered_as_a_whole():
    config = make_config(reader=False)
    blueprint = draw(config, "cpu")
    made = programs(blueprint, make_mesh(config.loop.mesh))["update"]
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(blueprint.trained))
    state = made.arguments[0]
    assert device_bytes(state.params) + device_bytes(state.opt_state) <= 3 * whole * (1 / 4 + 0.02)


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
