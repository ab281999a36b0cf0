"""One runnable page per experiment; installed as `visa_jax_configs`, so that commands find them from a wheel too.

A config is a file with `get_config(arg)` that returns an ml_collections ConfigDict. Its docstring says what it
reproduces, the command, hardware, time and expected numbers. It imports nothing from `visa_jax`.
"""
