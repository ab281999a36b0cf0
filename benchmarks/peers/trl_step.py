"""One process of TRL 1.16 for ``grpo_step.py``: its own GRPOTrainer on a workload, on CPU.

    benchmarks/peers/.venv-trl/bin/python benchmarks/peers/trl_step.py --workload=M

Prints one JSON line. Generation, the reference's log-probabilities and the whole step are timed by wrapping the
trainer's methods. Gradient checkpointing and bfloat16, TRL's defaults, are off, and the KL term is the plain k3, as in
ours and tunix. The tokenizer's end token has an id that the model cannot produce.
"""

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
warnings.simplefilter("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from workloads import (  # noqa: E402
    BETA,
    CLIP_NORM,
    END,
    LEARNING_RATE,
    PAD,
    TEMPERATURE,
    UNKNOWN,
    Timer,
    parse,
    record,
    reward,
    show,
)


def make_tokenizer(sizes):
    backend = Tokenizer(models.WordLevel(sizes.words(), unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, padding_side="left"
    )


def make_model(sizes):
    config = transformers.Qwen2Config(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp_width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=sizes.prompt + sizes.completion + 1,
        tie_word_embeddings=True,
        eos_token_id=sizes.end_id,
        pad_token_id=0,
        bos_token_id=None,
        dtype="float32",
    )
    torch.manual_seed(0)
    return transformers.Qwen2ForCausalLM(config)


def run(sizes, steps: int) -> dict:
    with tempfile.TemporaryDirectory() as directory:
        tokenizer, model = make_tokenizer(sizes), make_model(sizes)
        # the trainer loads its reference model from where the policy came from
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        model = transformers.AutoModelForCausalLM.from_pretrained(directory)
        config = trl.GRPOConfig(
            output_dir=directory,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=sizes.rows,
            num_generations=sizes.group,
            max_completion_length=sizes.completion,
            temperature=TEMPERATURE,
            top_k=0,
            beta=BETA,
            use_bias_correction_kl=False,
            loss_type="grpo",
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta2=0.99,
            weight_decay=0.0,
            max_grad_norm=CLIP_NORM,
            max_steps=steps + 1,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
            shuffle_dataset=False,
        )
        texts = [text for step in range(steps + 1) for text in sizes.texts(step)]
        timer, lengths = Timer(), []

        def score(completions, completion_ids, **_):
            lengths.extend(map(len, completion_ids))
            return [reward(text) for text in completions]

        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=score,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer,
        )
        trainer._generate_single_turn = timer.wrap("rollout", trainer._generate_single_turn)
        logps = trainer._get_per_token_logps_and_entropies

        def timed_logps(model, *args, **kwargs):
            began = time.perf_counter()
            result = logps(model, *args, **kwargs)
            if not torch.is_grad_enabled():  # the policy's own call is part of the update
                timer.add("reference", time.perf_counter() - began)
            return result

        trainer._get_per_token_logps_and_entropies = timed_logps
        trainer.add_callback(EndOfStep(timer))
        trainer.remove_callback(transformers.PrinterCallback)  # the JSON line stands alone
        trainer.train()
    assert set(lengths) == {sizes.completion}, f"completions of {set(lengths)} tokens"
    return record(sizes, timer.steps, {"trl": trl.__version__, "torch": torch.__version__})


class EndOfStep(transformers.TrainerCallback):
    """Closes a step where the trainer has updated and logged it; the next begins there."""

    def __init__(self, timer: Timer):
        self.timer = timer
        self.began = 0.0

    def on_train_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        now = time.perf_counter()
        self.timer.end_step(now - self.began)
        self.began = now


if __name__ == "__main__":
    options = parse(__doc__)
    show(run(options.sizes, options.steps))
