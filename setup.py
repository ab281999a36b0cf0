"""Package metadata. Exact versions of everything that was tested together: constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "visa_jax/__init__.py").read_text(encoding="utf-8"), re.M)[1]
README = ROOT / "README.md"

REQUIRES = [
    # jax and flax have to fit: flax up to 0.12.8 breaks on jax 0.11.1, flax from 0.12.9 wants it (and Python 3.12).
    "jax>=0.10.2,<0.12",
    "flax>=0.12.8,<0.12.9; python_version < '3.12'",
    "flax>=0.12.9,<0.14; python_version >= '3.12'",
    "optax>=0.2.8,<0.4",
    "orbax-checkpoint>=0.12.8,<0.14",
    "transformers>=5,<6",  # tokenizers and configs only; PyTorch is no dependency of it
    "datasets>=4,<6",
    "ml-collections>=1.1,<2",
    "absl-py>=2.3,<3",
    "numpy>=2.1,<3",
    "scipy>=1.15,<2",
    "matplotlib>=3.10,<4",
    "jinja2>=3.1,<4",
    "tensorboardX>=2.6.2,<3",
    "rich>=14,<16",
    "moocore>=0.1.9,<0.4",
]

EXTRAS = {
    "test": [
        "pytest>=8.4,<10",
        "pytest-xdist>=3.8,<4",
        "ruff>=0.14,<0.18",
        "import-linter>=2.5,<3",
        "jaxtyping>=0.3.3,<0.4",
        "beartype>=0.22,<0.24",
    ],
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],
    "notebook": ["jupyterlab>=4.4,<5", "nbclient>=0.10,<0.12", "ipykernel>=6.30,<8"],
    # wandb reads the TensorBoard events of a run: `wandb sync runs/visa/tensorboard`.
    "tracking": ["wandb>=0.22,<1"],
}

setup(
    name="visa-jax",
    version=VERSION,
    description="VISA and MOC: steering language models by a vector of values or preferences, in JAX",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    packages=[*find_packages(include=["visa_jax", "visa_jax.*"]), "visa_jax_configs"],
    # configs/ travels in the wheel under a name that is ours, so that --config=configs/visa.py works from there too.
    package_dir={"visa_jax_configs": "configs"},
    # What lies beside the modules and is no Python: report templates, word lists.
    package_data={"visa_jax": ["**/*.j2", "**/*.json", "**/*.txt"]},
    entry_points={"console_scripts": ["visa-jax = visa_jax.cli.main:run"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
