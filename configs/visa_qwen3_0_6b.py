"""VISA (arXiv 2603.04822) with Qwen3-0.6B as the rewriter, trained as a whole, on a pod.

    visa-jax plan  --config=configs/visa_qwen3_0_6b.py --topology=v5e:4x4
    visa-jax train --config=configs/visa_qwen3_0_6b.py --workdir=runs/visa_qwen3_0_6b

Hardware: 16 chips of 16 GB (v5e:4x4: 4.9 GB each, a step at least 2.7 s, the update 0.6 s of it; docs/scaling.md). Not
run yet; needs runs of `supervise` for the rewards and a file of questions (config.data.path).
"""

from visa_jax_configs.pods import QWEN3_0_6B, visa_page


def get_config(arg=None):
    return visa_page(arg, "Qwen3-0.6B", QWEN3_0_6B, micro_batches=4)
