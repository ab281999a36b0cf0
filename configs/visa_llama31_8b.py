"""VISA (arXiv 2603.04822) with Llama-3.1-8B-Instruct as the rewriter, trained as a whole, on a pod.

    visa-jax plan  --config=configs/visa_llama31_8b.py --topology=v5e:8x8
    visa-jax train --config=configs/visa_llama31_8b.py --workdir=runs/visa_llama31_8b

Hardware: 64 chips of 16 GB (v5e:8x8: 9.3 GB each, a step at least 10.8 s, the update 6.8 s of it; v5p:4x4x4: 9.5 GB,
4.3 s; docs/scaling.md). Not run yet; needs runs of `supervise` for the rewards and a file of questions
(config.data.path).
"""

from visa_jax_configs.pods import LLAMA31_8B, visa_page


def get_config(arg=None):
    return visa_page(arg, "Llama-3.1-8B-Instruct", LLAMA31_8B, prompts=256, tensor=4, micro_batches=16)
