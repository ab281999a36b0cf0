"""The same costs from the sizes alone: what a compiled program is held against.

FLOPs of products only, two for a multiplication with its addition. A token's forward pass through a kernel of n numbers
takes 2n, the gradient of its input 2n more and that of the kernel 2n more (Kaplan et al. 2020, section 2.1).
"""

import dataclasses
import math

from visa_jax.models import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Work:
    """The sizes of a step that costs depend on."""

    decoder: DecoderConfig
    prompts: int  # N
    group: int  # G
    prompt_length: int  # L
    completion_length: int  # T
    splash: bool = False  # whether attention leaves out what is masked, and computes scores again in its gradient
    chunked: bool = True  # whether logits are computed again in the backward pass
    old_pass: bool = False  # a forward pass for the log-probabilities before the update (critics, epochs)
    passes: int = 1  # epochs
    rollout_batches: int = 1  # in which prompts are drawn, one after the other
    adapter_numbers: int = 0  # of LoRA, all layers; 0 = every kernel is trained

    @property
    def rows(self) -> int:
        """B."""
        return self.prompts * self.group

    @property
    def tokens(self) -> int:
        """Of all prompts, each once, and all completions."""
        return self.prompts * self.prompt_length + self.rows * self.completion_length

    @property
    def adapter_flops(self) -> int:
        """Of the adapters in one pass over the tokens."""
        return 2 * self.tokens * self.adapter_numbers


def layer_numbers(decoder: DecoderConfig) -> int:
    """Numbers in the kernels of one layer."""
    attention = decoder.width * decoder.head_dim * (2 * decoder.heads + 2 * decoder.kv_heads)
    return attention + (3 if decoder.gated else 2) * decoder.width * decoder.mlp_width


def forward_flops(work: Work) -> tuple[float, float, float]:
    """(kernels of the layers, scores and outputs of attention, logits) of one pass over prompts and completions."""
    decoder = work.decoder
    half = 2 if work.splash else 1
    met = work.prompts * work.prompt_length**2 / half
    met += work.rows * work.completion_length * (work.prompt_length + work.completion_length / half)
    attention = 4 * decoder.layers * decoder.heads * decoder.head_dim * met
    logits = 2 * work.rows * work.completion_length * decoder.vocab_size * decoder.width
    return 2 * work.tokens * decoder.layers * layer_numbers(decoder), attention, logits


def update_flops(work: Work) -> float:
    """Of one update, with what the backward pass computes again by ``decoder.remat``."""
    layers, attention, logits = forward_flops(work)
    forwards = 2 + work.old_pass - 1  # of the reference and of old log-probabilities: no gradient
    # a block computed again stops before its last kernel: nothing reads what that gives
    decoder = work.decoder
    last = 0 if decoder.post_norms else decoder.width * decoder.mlp_width / layer_numbers(decoder)
    again = {"none": (0, 0), "dots": (0, 1), "full": (1 - last, 1)}[decoder.remat]
    slopes = 1 if work.adapter_numbers else 2  # of the input; of the kernel
    trained = layers * (1 + again[0] + slopes) + logits * (1 + work.chunked + slopes)
    trained += attention * (1 + again[1] + (3.5 if work.splash else 2))
    trained += work.adapter_flops * (3 + again[0])
    return forwards * (layers + attention + logits) + work.old_pass * work.adapter_flops + work.passes * trained


def useful_flops(work: Work) -> float:
    """Forward and backward pass of the policy, nothing twice: what a bound of MFU counts (Chowdhery et al. 2022).

    Beside adapters a kernel is frozen: its backward pass is that of its input alone.
    """
    layers, attention, logits = forward_flops(work)
    kernels = 2 if work.adapter_numbers else 3
    return work.passes * (kernels * (layers + logits) + 3 * (attention + work.adapter_flops))


def decode_bytes(work: Work, row_shards: int, tensor: int, weight_bytes: float) -> float:
    """What one device must read for one token of each row: its weights, and keys and values of all columns, once.

    ``weight_bytes`` of all parameters that a step of decoding reads, as they are held there.
    """
    decoder = work.decoder
    width = 2 if decoder.dtype != "float32" else 4
    columns = work.prompts * work.prompt_length + work.rows * (work.completion_length - 1)
    cache = 2 * decoder.layers * decoder.kv_heads * decoder.head_dim * columns * width / work.rollout_batches
    return weight_bytes / tensor + cache / row_shards / tensor


# products of [queries, columns] by the width of a head: scores and output; scores, their slope, that of queries; and,
# of keys and values, scores, their slope and the two
_PRODUCTS = {"_fwd": 2, "_dq": 3, "_dkv": 4}


def splash_flops(name: str, arguments: list[tuple[int, ...]], own_tokens: int) -> float:
    """FLOPs of a call of the splash kernel ``name``, whose compiled text says nothing of the blocks that it leaves out.

    ``arguments`` are the sizes of its arrays of floats, queries and keys the first of three axes or, where a device has
    several prompts, four. A query meets the columns before its group and, on average, half of its row; a row behind a
    prompt has ``own_tokens``, others all that there are.
    """
    products = next((number for part, number in _PRODUCTS.items() if name.startswith("splash") and part in name), 0)
    wide = [(math.prod(sizes[:-3]), *sizes[-3:]) for sizes in arguments if len(sizes) >= 3]
    if not products or len(wide) < 2:
        return 0.0
    (rows, heads, queries, width), columns = wide[0], wide[1][2]
    before = columns - queries
    met = before + (own_tokens if before and own_tokens else queries) / 2
    return 2 * products * rows * heads * queries * met * width
