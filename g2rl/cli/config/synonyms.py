"""What other programs call a setting, and what is typed here instead."""

from __future__ import annotations

from collections.abc import Collection

FOLDER = ("hydra.run.dir=FOLDER", "hydra.sweep.dir=FOLDER (of a sweep)")
MODEL = ("model=hf model.source=...",)
ROWS = ("task=rows task.source.source=FILE", "benchmark=rows benchmark.source=FILE")
REWARD = ("task=rows task.source.reward=FILE.py:FUNCTION",)
TOKENS = ("task.max_response_tokens=...", "benchmark.max_tokens=...")
GROUP = ("trainer.group_size=...", "benchmark.samples=...")

SYNONYMS: dict[tuple[str, ...], tuple[str, ...]] = {
    # where a run lies, and what becomes of an earlier one
    ("out", "output", "output_dir", "output_path", "out_dir", "outdir", "output_folder"): FOLDER,
    ("save_dir", "save_path", "log_dir", "logdir", "work_dir", "dir", "default_local_dir"): FOLDER,
    ("folder", "run", "run_dir", "run_folder", "runs"): ("run=RUN", *FOLDER),
    ("overwrite", "overwrite_output_dir", "force", "restart", "resume_from_checkpoint"): (
        "resume=never",
    ),
    # what is trained, on what, and by which reward
    ("model_path", "model_name_or_path", "pretrained", "base_model", "checkpoint_path"): MODEL,
    ("data", "dataset", "dataset_name", "data_path", "data_file", "train_file", "file"): ROWS,
    ("train_files", "val_files", "train_data", "eval_dataset", "test_file"): ROWS,
    ("reward", "reward_fn", "reward_func", "reward_funcs", "reward_function"): REWARD,
    ("signal", "bonus", "intrinsic", "novelty"): ("exploration=...",),
    ("loss", "loss_type", "advantage", "adv_estimator", "rl"): ("algorithm=...",),
    ("lora_r", "lora_rank", "rank", "peft"): ("model.lora.r=...",),
    ("bf16", "fp16", "precision", "torch_dtype"): ("model.dtype=...",),
    # how much of it
    ("max_steps", "num_steps", "total_steps", "iterations", "total_training_steps"): (
        "trainer.steps=...",
    ),
    ("num_train_epochs", "total_epochs"): ("trainer.steps=...",),
    ("batch_size", "train_batch_size", "per_device_train_batch_size"): (
        "trainer.prompts_per_step=...",
        "trainer.group_size=...",
    ),
    ("num_generations", "rollouts", "generations", "num_samples", "n"): GROUP,
    ("max_new_tokens", "max_length", "max_completion_length", "max_response_length"): TOKENS,
    ("max_tokens",): TOKENS,
    ("max_prompt_length",): ("task.max_prompt_tokens=...",),
    ("save_steps", "save_every", "save_freq"): ("trainer.checkpoint_every=...",),
    ("eval_steps", "test_freq"): ("trainer.eval_every=...",),
    # how it learns
    ("learning_rate", "actor_lr"): ("optimizer.lr=...",),
    ("warmup", "warmup_steps"): ("optimizer.warmup_updates=...",),
    ("scheduler", "lr_scheduler", "lr_scheduler_type"): ("optimizer.schedule=...",),
    ("max_grad_norm", "gradient_clip"): ("optimizer.grad_clip=...",),
    ("micro_batch_size", "gradient_accumulation_steps"): ("optimizer.micro_batch_tokens=...",),
    ("beta", "kl", "kl_coeff", "kl_loss_coef"): ("algorithm.kl_coef=...",),
    ("clip", "clip_range", "clip_ratio", "epsilon"): (
        "algorithm.clip_low=...",
        "algorithm.clip_high=...",
    ),
    # with what, and who is told
    ("gpus", "num_gpus", "n_gpus", "fsdp", "world_size"): ("parallel=...",),
    ("vllm", "use_vllm", "backend", "sampler"): ("engine=...",),
    ("wandb", "report_to", "logger", "project"): ("tracking=...",),
    ("workers", "num_workers"): ("verify.workers=...",),
    ("verbose", "debug", "log_level"): ("hydra.verbose=true",),
}
"""By the last part of a key: what is typed here."""


def meant_by(key: str, known: Collection[str]) -> list[str]:
    """What a key that does not exist is called here, if other programs call something so.

    Args:
        key: as typed, or a flag without its dashes.
        known: settings and groups of the command.
    """
    name = key.rpartition(".")[2].replace("-", "_").lower()
    meant: list[str] = []
    for names, texts in SYNONYMS.items():
        # of the texts, those whose first word this command takes
        for text in texts if name in names else ():
            first = text.partition("=")[0]
            if first.startswith("hydra.") or first in known:
                meant.append(text)
    return meant
