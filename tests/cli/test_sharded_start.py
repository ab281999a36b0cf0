"""A start on a mesh: decoders are read into pieces and sample from them; a run goes on on other machines' meshes."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from visa_jax.cli import decoders
from visa_jax.cli import main as cli
from visa_jax.cli.experiment import make_moc, open_moc, open_visa
from visa_jax.cli.judging import make_moc_monitor
from visa_jax.config import load_config
from visa_jax.data.rows import prompt_batch
from visa_jax.parallel import MeshConfig, make_mesh
from visa_jax.training.metrics import read_metrics
from visa_jax.training.policy import PolicyConfig

MESH = MeshConfig(data=2, fsdp=2)
INT8 = PolicyConfig(lora_rank=2, lora_alpha=4.0, lora_pattern="attention/(query|value)|mlp/.*", quantize="int8")
pytestmark = pytest.mark.usefixtures("quick_compiles")


def held(tree) -> float:
    """Bytes on the first device, of all that there are."""
    leaves, first = jax.tree.leaves(tree), jax.devices()[0]
    here = sum(s.data.nbytes for leaf in leaves for s in leaf.addressable_shards if s.device == first)
    return here / sum(leaf.nbytes for leaf in leaves)


@pytest.fixture
def brought(monkeypatch):
    """Bytes of the arrays that were read whole and laid on the mesh afterwards."""
    lay, sizes = decoders.lay_decoder, []

    def count(params, config, mesh):
        arrays = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
        sizes.extend(leaf.nbytes for leaf in arrays if mesh is not None and len(leaf.devices()) == 1)
        return lay(params, config, mesh)

    monkeypatch.setattr(decoders, "lay_decoder", count)
    return sizes


def test_a_run_is_read_into_pieces_and_judged_there(chain, brought):
    config = chain.moc_config(chain.directory)
    alone, spread = open_moc(config), open_moc(config, make_mesh(MESH))
    jax.tree.map(np.testing.assert_array_equal, spread.start, alone.start)
    assert held(spread.start) < 0.55 and held(alone.start) == 1
    assert sum(brought) <= 2 * 16 * 4  # the map of two preferences, which no start has
    readers = [leaf for parts in (spread.rewarders, spread.judges) for leaf in jax.tree.leaves(parts)]
    assert readers and all(isinstance(leaf, np.ndarray) for leaf in readers)  # no chip holds them beside its pieces
    rows = []
    for parts in (alone, spread):
        started = make_moc(parts)  # its reward scale is that of texts which the start wrote
        low_K = np.asarray(started.method_state.normalizer.low_K)
        rows.append([low_K, make_moc_monitor(parts, started.method_state.normalizer)(parts.start)])
    np.testing.assert_array_equal(rows[0][0], rows[1][0])
    assert rows[0][1] == pytest.approx(rows[1][1], nan_ok=True)


def test_a_published_model_is_read_into_pieces_with_its_int8_base(chain, tmp_path, brought):
    """Adapters on int8 that start from a directory of Hugging Face; the frozen base is another run."""
    model = chain.real_model(tmp_path / "model")
    config = chain.visa_config(chain.directory, policy=INT8)
    config = dataclasses.replace(config, runs=dataclasses.replace(config.runs, start=str(model)))
    alone, spread = open_visa(config), open_visa(config, make_mesh(MESH))
    for name in ("start", "base"):
        jax.tree.map(np.testing.assert_array_equal, getattr(spread, name), getattr(alone, name))
        assert held(getattr(spread, name)) < 0.6
    jax.tree.map(np.testing.assert_array_equal, spread.policy.trained, alone.policy.trained)
    assert sum(brought) == sum(leaf.nbytes for leaf in jax.tree.leaves(alone.policy.trained))  # drawn, not read
    lengths = alone.source.lengths
    prompts = prompt_batch(
        alone.source.tokenizer, ["we like tradition ."] * 3, np.zeros((3, 1)), [""] * 3,
        prompt_length=lengths.visa_prompt, context_length=1,
    )  # fmt: skip
    said = [p.sample(p.policy.join(p.policy.trained), prompts, jax.random.key(1), 0.7).texts for p in (alone, spread)]
    assert said[0] == said[1] and len(set(said[0])) == 3


def test_a_run_goes_on_on_another_mesh_where_it_is_allowed_to(chain, tmp_path, capsys):
    """First no step is left, so the parameters must be those of before; then one more, judged on the mesh."""
    workdir = shutil.copytree(chain.directory / "moc", tmp_path / "moc")
    before, rows = json.loads((workdir / "final.json").read_text()), read_metrics(workdir)
    loop = dataclasses.replace(chain.moc_config(chain.directory).loop, prompts_per_step=4, mesh=MESH)
    for steps in (4, 5):
        changed = dataclasses.replace(loop, steps=steps, evaluate_every=5)
        page = chain.page(tmp_path / "page.py", chain.moc_config(chain.directory, loop=changed))
        argv = ["train", f"--config={page}", f"--workdir={workdir}"]
        assert cli.run(argv) == 1
        assert cli.run([*argv, "--allow_config_change"]) == 0
        told = capsys.readouterr().err
        assert "holds a run with another config" in told
        if steps == 4:
            assert "config changed: loop.mesh.fsdp: 1 -> 2" in told
            assert json.loads((workdir / "final.json").read_text()) == before
    after = json.loads((workdir / "final.json").read_text())
    assert after["step"] == 5 and after["params_sha256"] != before["params_sha256"]
    assert load_config(workdir).loop.mesh.fsdp == 2
    found = read_metrics(workdir)
    assert found[:4] == rows and [row["step"] for row in found] == [1, 2, 3, 4, 5]
    assert any(name.startswith("judge/") for name in found[-1])
