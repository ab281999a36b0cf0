"""VISA and MOC, two methods of steering language models by a vector, over shared parts, in JAX.

Importing the package does nothing but set the version: every part is imported by its own name
(`from visa_jax.estimators import group_advantages`), so that `visa-jax --help` needs no accelerator.
"""

__version__ = "0.1.0"
