"""VISA (arXiv 2603.04822) with Qwen3-8B as the rewriter, trained as a whole, on a pod.

    visa-jax plan  --config=configs/visa_qwen3_8b.py --topology=v5e:8x8
    visa-jax train --config=configs/visa_qwen3_8b.py --workdir=runs/visa_qwen3_8b

Hardware: 64 chips of 16 GB (v5e:8x8: 10.3 GB each, a step at least 11.1 s, the update 6.8 s of it; docs/scaling.md).
Not run yet; needs runs of `supervise` for the rewards and a file of questions (config.data.path).
"""

from visa_jax_configs.pods import QWEN3_8B, visa_page


def get_config(arg=None):
    return visa_page(arg, "Qwen3-8B", QWEN3_8B, prompts=256, tensor=4, micro_batches=16)
