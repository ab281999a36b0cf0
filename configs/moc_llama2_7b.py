"""MOC (arXiv 2604.04497) with Llama-2-7B and LoRA of rank 64, on a pod or, with `single`, on one card of 48 GB.

    visa-jax plan  --config=configs/moc_llama2_7b.py --topology=v5e:4x4
    visa-jax train --config=configs/moc_llama2_7b.py --workdir=runs/moc_llama2_7b
    visa-jax train --config=configs/moc_llama2_7b.py:single --workdir=runs/moc_llama2_7b

Hardware: 16 chips of 16 GB (v5e:4x4: 11.1 GB in the rollout, a step at least 1.8 s; docs/scaling.md), or
one card of 48 GB with the base in four bits (`:single`: 19.4 GB in the rollout of 16 prompts at a time, 12.2 GB in the
update; 64 prompts at once would hold 51 GB). Not run yet; needs two reward models of `supervise` and a file of
questions (config.data.path).
"""

from visa_jax_configs.pods import LLAMA2_7B, moc_page


def get_config(arg=None):
    return moc_page(arg, "Llama-2-7b-hf", LLAMA2_7B, tensor=4, micro_batches=4)
