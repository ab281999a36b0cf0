"""Commands: `visa-jax <command>` and `python -m visa_jax.cli.<command>`; see main.py for how one is written."""
