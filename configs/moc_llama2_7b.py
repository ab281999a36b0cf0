"""MOC (arXiv 2604.04497) with Llama-2-7B and LoRA of rank 64, on a pod or, with `single`, on one card of 48 GB.

    visa-jax plan  --config=configs/moc_llama2_7b.py --topology=v5e:4x4
    visa-jax train --config=configs/moc_llama2_7b.py --workdir=runs/moc_llama2_7b
    visa-jax train --config=configs/moc_llama2_7b.py:single --workdir=runs/moc_llama2_7b

Hardware: PLAN
"""

from visa_jax_configs.pods import LLAMA2_7B, moc_page


def get_config(arg=None):
    return moc_page(arg, "Llama-2-7b-hf", LLAMA2_7B, tensor=4, micro_batches=4)
