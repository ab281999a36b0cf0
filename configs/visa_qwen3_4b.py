"""VISA (arXiv 2603.04822) with Qwen3-4B as the rewriter, trained as a whole, on a pod.

    visa-jax plan  --config=configs/visa_qwen3_4b.py --topology=v5e:4x4
    visa-jax train --config=configs/visa_qwen3_4b.py --workdir=runs/visa_qwen3_4b

Hardware: 16 chips of 16 GB (v5e:4x4: 12.7 GB each, a step at least 8.1 s, the update 3.7 s of it; docs/scaling.md), or
more: `:prompts=256` keeps the work of a chip on 64, `:prompts=1024` on 256 (a step 8.1 s there, too). Not run yet;
needs runs of `supervise` for the rewards and a file of questions (config.data.path).
"""

from visa_jax_configs.pods import QWEN3_4B, visa_page


def get_config(arg=None):
    return visa_page(arg, "Qwen3-4B", QWEN3_4B, tensor=2, micro_batches=8)
