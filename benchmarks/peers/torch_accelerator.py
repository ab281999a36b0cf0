"""PyTorch's side of ``benchmarks/accelerator.py``: transformers' Qwen2, random weights, bfloat16, on the same sizes.

    python benchmarks/peers/torch_accelerator.py [--prompts=32] [--group=8] [--prompt=512] [--completion=256]

Needs torch and transformers on the machine with the GPU (another environment than ours). Prints one JSON line: tokens a
second drawn by ``generate`` with a cache, and seconds of one update: log-probabilities of the reference, forward,
backward and AdamW of the policy by micro-batches, with checkpointed layers.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

SIZES = dict(
    hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864
)


def timed(fn):
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = fn()
    torch.cuda.synchronize()
    return result, time.perf_counter() - began


def logps(model, rows, prompt):
    """Log-probabilities [B, T] of the completions, head over the completion alone."""
    hidden = model.model(rows).last_hidden_state[:, prompt - 1 : -1]
    logits = model.lm_head(hidden).float()
    return torch.gather(logits, 2, rows[:, prompt:, None])[:, :, 0] - torch.logsumexp(logits, dim=-1)


def run(sizes) -> dict:
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=151_936, tie_word_embeddings=True, **SIZES)
    model = Qwen2ForCausalLM(config).to("cuda", torch.bfloat16)
    reference = Qwen2ForCausalLM(config).to("cuda", torch.bfloat16).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    draw = dict(max_new_tokens=sizes.completion, min_new_tokens=sizes.completion, do_sample=True, pad_token_id=0)
    rollouts, updates = [], []
    for _ in range(sizes.repeats + 1):
        ids = torch.randint(3, 151_936, (sizes.prompts, sizes.prompt), device="cuda").repeat_interleave(sizes.group, 0)
        model.eval()
        model.gradient_checkpointing_disable()
        with torch.no_grad():
            rows, seconds = timed(lambda ids=ids: model.generate(ids, attention_mask=torch.ones_like(ids), **draw))
        rollouts.append(seconds)
        model.train()
        model.gradient_checkpointing_enable()

        def update(rows=rows):
            reward = (rows[:, sizes.prompt :] % 2 == 0).float().mean(1).view(sizes.prompts, sizes.group)
            adv = ((reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)).view(-1, 1)
            for piece, a in zip(rows.chunk(sizes.micro_batches), adv.chunk(sizes.micro_batches), strict=True):
                with torch.no_grad():
                    old = logps(reference, piece, sizes.prompt)
                logp = logps(model, piece, sizes.prompt)
                kl = torch.exp(old - logp) - (old - logp) - 1
                (-(torch.exp(logp - logp.detach()) * a - 0.04 * kl).mean() / sizes.micro_batches).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        updates.append(timed(update)[1])
    rollout, step = statistics.median(rollouts[1:]), statistics.median(updates[1:])
    return {
        "device": torch.cuda.get_device_name(),
        "rollout_seconds": rollout,
        "tokens_per_second": sizes.prompts * sizes.group * sizes.completion / rollout,
        "update_seconds": step,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "versions": {"torch": torch.__version__},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(prompts=32, group=8, prompt=512, completion=256, micro_batches=8, repeats=3).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    print(json.dumps(run(parser.parse_args())))
