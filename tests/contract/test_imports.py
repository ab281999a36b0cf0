"""What import-linter can not say: who may use jit and meshes, what happens at import, how long a file may be."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "visa_jax"
MODULES = sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))
MATHEMATICS = ("ops", "estimators", "solvers", "losses")
# jit, shardings and donation are put on at the edge: training/, evaluation/run.py, cli/, planning/.
PURE = (*MATHEMATICS, "models", "rollout", "methods", "rewards")
EDGE_NAMES = ("jax.jit", "jax.pmap", "jax.shard_map", "flax.nnx.jit")
MESH_NAMES = ("jax.sharding", "jax.make_mesh", "jax.lax.with_sharding_constraint", "jax.distributed")


def names_used(path: Path) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of everything that a file imports or reaches through an imported module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
                aliases[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            head, dot, tail = ast.unparse(node).partition(".")
            if head in aliases:
                yield node.lineno, f"{aliases[head]}{dot}{tail}"


def uses(folders: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    """`file:line name` for every use of a forbidden name or of something below it."""
    return [
        f"{module}:{line} {name}"
        for module in MODULES
        if module.parts[1] in folders
        for line, name in names_used(ROOT / module)
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    ]


def test_the_finder_sees_every_way_of_naming(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("import jax\nimport jax.numpy as jnp\nfrom jax import jit as j\nfrom flax import nnx\n")
    file.write_text(file.read_text() + "@jax.jit\ndef f(): jnp.ones(1); nnx.jit(f); jax.sharding.Mesh\n")
    found = {name for _, name in names_used(file)}
    assert {"jax.jit", "jax.numpy.ones", "flax.nnx.jit", "jax.sharding.Mesh"} <= found
    assert (3, "jax.jit") in set(names_used(file))


def test_pure_parts_use_no_jit():
    assert uses(PURE, EDGE_NAMES) == []


def test_mathematics_knows_no_mesh():
    assert uses(MATHEMATICS, MESH_NAMES) == []


def test_nothing_imports_pytorch():
    everywhere = tuple({module.parts[1] for module in MODULES})
    assert uses(everywhere, ("torch", "tensorflow")) == []


def test_importing_everything_touches_no_device_and_no_torch():
    """JAX looks for a platform that is not there as soon as an array is made or a device asked for."""
    names = [".".join(module.with_suffix("").parts).removesuffix(".__init__") for module in MODULES]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert 'torch' not in sys.modules\n"
        "import jax\n"
        "try: jax.devices()\n"
        "except RuntimeError: sys.exit(0)\n"
        "sys.exit('the platform was there after all: this test proves nothing')\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "nowhere"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_file_is_short_and_says_what_it_is(module):
    text = (ROOT / module).read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert module.name != "utils.py"
    assert ast.get_docstring(ast.parse(text)), "a module begins with a docstring"


PUBLIC = {
    "visa_jax.estimators": {
        "group_advantages": "reward_BK group_size reward_weights=None scale_rewards='group' "
        "aggregation='sum_then_normalize' std_eps=0.0001 std_ddof=1",
        "gae": "reward_BT critic_BT mask_BT gamma lam",
        "kl_estimate": "logp_BT logp_ref_BT kind",
    },
    "visa_jax.losses": {
        "policy_loss": "logp_BT logp_old_BT adv mask_BT loss_type importance_sampling_level epsilon=0.2 "
        "epsilon_high=None delta=None beta=0.0 logp_ref_BT=None bias_corrected_kl=False max_completion_length=None",
        "critic_loss": "critic_BT critic_old_BT return_BT mask_BT clip",
    },
    "visa_jax.solvers": {
        "min_norm": "gram_KK method",
        "combine_weights": "name gram_KK",
        "combine_direction": "name jacobian_KD",
    },
    "visa_jax.evaluation": {
        "hypervolume": "points reference",
        "kendall_tau": "preferences rewards",
        "pareto_front": "points",
    },
    "visa_jax.models": {"load_pretrained": "directory"},
    "visa_jax.rollout": {"generate": ""},
}


@pytest.mark.parametrize(
    ("module", "function", "signature"),
    [(module, name, text) for module, functions in PUBLIC.items() for name, text in functions.items()],
)
def test_public_functions_keep_their_arguments(module, function, signature):
    """Others import these: names, their order and the defaults given here stay; arguments may be added."""
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    names = [part.partition("=")[0] for part in signature.split()]
    assert [name for name in parameters if name in names] == names
    for part in signature.split():
        name, given, default = part.partition("=")
        if given:
            assert repr(parameters[name].default) == default
