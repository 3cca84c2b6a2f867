"""LoRA: low-rank adapters on a frozen base, W' = W + (alpha / r) B A (arXiv 2106.09685, Eq. 3).

This is the only module that calls peft. Adapters are injected into the model in place, so that the
policy, the engine and the optimizer need not know of them. Only three places do:

- the head: log-probs and gradient features take its merged weight W', not W;
- the reference policy: it is the same model with its adapters off;
- exports: they hold the merged weights, or the adapter alone.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from g2rl.hub import missing_package
from g2rl.policy.anatomy import text_config
from g2rl.policy.weights import as_in_files, unlayered_weights

log = logging.getLogger(__name__)
SMALL_SHARE = 0.05
"""Share of a model's weights that may stay without adapters unnoticed."""
ADAPTER = "default"  # peft's name for the only adapter of a model
EXPORTS = ("merged", "adapter")
PLAIN_SETTINGS = (
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "r",
    "target_modules",
    "exclude_modules",
    "lora_alpha",
    "lora_dropout",
    "fan_in_fan_out",
    "use_rslora",
    "init_lora_weights",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)
"""Settings of peft's LoraConfig under which an adapter is W + s B A, whatever their values."""
PLAIN_STARTS = (True, False, None, "gaussian", "pissa", "olora")
"""How such an adapter may have begun: what changes the base does so in one way only."""


@dataclass(slots=True, frozen=True)
class LoraSettings:
    """Which layers get adapters, and of what kind; the settings of `model.lora`.

    Args:
        r: rank.
        alpha: scales the update by alpha / r; None takes 2 r.
        dropout: rate of dropout on the adapters' inputs in training.
        target_modules: last names of the layers that get an adapter; None stands for every linear
            layer but the head.
        include_head: give the output head an adapter too (an embedding tied to it stays as it is).
        export: what a run writes at its end: "merged" weights, or the "adapter" alone.

    Raises:
        ValueError: a value is out of its range, or two settings exclude each other.
    """

    r: int
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None
    include_head: bool = False
    export: str = "merged"

    def __post_init__(self) -> None:
        # ranges and choices
        if self.r < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"model.lora: need r >= 1 and 0 <= dropout < 1, got {self.r} and {self.dropout}"
            )
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"model.lora.alpha must be > 0 or null (2 r), got {self.alpha}")
        if self.export not in EXPORTS:
            raise ValueError(f"model.lora.export must be one of {EXPORTS}, got {self.export!r}")

        # settings that exclude each other
        if self.include_head and self.dropout:
            raise ValueError(
                "model.lora.include_head needs model.lora.dropout=0: log-probs are taken from the "
                "merged head, in which there is nothing to drop"
            )

    @property
    def effective_alpha(self) -> float:
        """The alpha of W + (alpha / r) B A, with its default filled in."""
        return 2 * self.r if self.alpha is None else self.alpha


def _peft() -> Any:
    """The peft package, which is imported only by runs with adapters.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError(missing_package("LoRA", "peft", "peft")) from error
    return peft


def add_lora(model: Any, settings: LoraSettings, source: str, revision: str | None = None) -> None:
    """Freeze a causal LM and give its layers adapters, in place.

    The adapters change nothing yet, because B = 0. They are float32, or wider if the model is. A is
    drawn from torch's global random generator.

    Args:
        model: the causal LM.
        settings: which layers get an adapter, and of what kind.
        source: where the base came from, a folder or a hub id; an exported adapter names it.
        revision: branch, tag or commit of the base; an exported adapter names it too.

    Raises:
        ImportError: peft is not installed.
        ValueError: the model does not have the target modules.
    """
    _name_what_stays_frozen(model)
    config = _peft().LoraConfig(
        r=settings.r,
        lora_alpha=settings.effective_alpha,
        lora_dropout=settings.dropout,
        target_modules=target_modules(model, settings),
        task_type="CAUSAL_LM",
        base_model_name_or_path=source,
        revision=revision,
    )
    _inject(model, config)


def _inject(model: Any, config: Any) -> None:
    """Freeze the model and put the adapters of a peft configuration into it."""
    with warnings.catch_warnings():
        # peft warns that its own merge would change a tied embedding with the head; ours does not
        warnings.filterwarnings("ignore", message=r".*tie_word_embeddings", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message=r".*is_gradient_checkpointing", category=FutureWarning
        )
        _peft().inject_adapter_in_model(config, model, ADAPTER)

    # bfloat16 adapters would not move: one step at a usual learning rate is below their resolution
    _peft().tuners.tuners_utils.cast_adapter_dtype(model, ADAPTER)


def _name_what_stays_frozen(model: Any) -> None:
    """Say which part of the model no adapter can reach, if it is more than a small one."""
    # how much of the model that is
    frozen = unlayered_weights(model)
    size = sum(parameter.numel() for parameter in frozen.values())
    share = size / sum(parameter.numel() for parameter in model.parameters())
    if share < SMALL_SHARE:
        return

    # one example of each kind
    kinds = sorted({name.rpartition(".")[2] for name in frozen})
    log.warning(
        "model.lora: %s keeps %.0f %% of its weights (%s: stacked experts, or the like) outside of "
        "linear layers, where adapters do not reach; they stay as they are. model.lora.r=null "
        "trains every weight",
        type(model).__name__,
        100 * share,
        ", ".join(kinds),
    )


def target_modules(model: Any, settings: LoraSettings) -> list[str]:
    """Last names of the layers that get an adapter, sorted; the head comes by its full path.

    Raises:
        ValueError: no linear layer has one of the names, the head is named without `include_head`,
            or no layer would get an adapter.
    """
    # names of the linear layers: the head's full path, and the last part of the others' paths
    head = model.get_output_embeddings()
    head_paths: list[str] = []
    layer_names: set[str] = set()
    for path, module in model.named_modules():
        if module is head:
            head_paths.append(path)
        elif isinstance(module, nn.Linear):
            layer_names.add(path.rpartition(".")[2])
    [head_path] = head_paths

    # the layers that the settings name
    targets = layer_names
    if settings.target_modules is not None:
        targets = set(settings.target_modules)
    unknown = sorted(targets - layer_names)
    if unknown:
        hint = "; for the head set model.lora.include_head=true" if head_path in unknown else ""
        raise ValueError(
            f"model.lora.target_modules: no linear layer is named {unknown[0]!r}, there are "
            f"{sorted(layer_names)}{hint}"
        )
    if not targets and not settings.include_head:
        raise ValueError("model.lora.target_modules is empty: nothing would be trained")

    if settings.include_head:
        targets = targets | {head_path}
    return sorted(targets)


def has_lora(model: nn.Module) -> bool:
    """Whether the model has adapters."""
    return bool(getattr(model, "peft_config", None))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Path and module of every layer with an adapter."""
    if not has_lora(model):
        return
    lora_class = _peft().tuners.lora.LoraLayer
    for path, module in model.named_modules():
        if isinstance(module, lora_class):
            yield path, module


def adapter_dropouts(model: nn.Module) -> Iterator[nn.Module]:
    """The dropout modules of adapters; none of a model without adapters, or with rate 0."""
    for _, layer in lora_layers(model):
        for dropout in layer.lora_dropout.values():
            if getattr(dropout, "p", 0.0) > 0:
                yield dropout


def base_layer(layer: Any) -> nn.Module:
    """The layer under an adapter, or the layer itself."""
    return getattr(layer, "base_layer", layer)


def merged_weight(layer: Any) -> Tensor:
    """Weight of a linear layer with its adapter, W + (alpha / r) B A, differentiable in A and B.

    It is W itself if there is no adapter, or if the adapter is off. Otherwise the result has the
    dtype of the adapter, float32 or wider: rounded to bfloat16, most of a small update would be
    gone.
    """
    if not hasattr(layer, "base_layer") or layer.disable_adapters:
        return layer.weight
    return layer.base_layer.weight + layer.get_delta_weight(ADAPTER)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """While the context lasts the model computes as its base does, without adapters.

    Which parameters are trained does not change.
    """
    layers = [layer for _, layer in lora_layers(model)]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for layer in layers:
            layer.enable_adapters(False)

        # peft freezes what it turns off, and sharding may remember that a parameter was frozen
        for parameter in trained:
            parameter.requires_grad_(True)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged_state(
    model: nn.Module, state: Mapping[str, Tensor] | None = None, wide: bool = False
) -> dict[str, Tensor]:
    """State dict of the model as if it had never had adapters: they are merged into the weights.

    A tied head with an adapter has an entry of its own, because its weight is no longer the
    embedding's.

    Args:
        model: a causal LM, with adapters or without.
        state: its full state dict (gathered, if the model is sharded); None takes it from the
            model.
        wide: give every float weight as float32 at least. Otherwise weights keep their dtype, which
            rounds away most of a small update of bfloat16 weights.
    """
    return dict(merged_items(model, state, wide))


def merged_items(
    model: nn.Module, state: Mapping[str, Tensor] | None = None, wide: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """The entries of `merged_state`, one at a time."""
    full_state = model.state_dict() if state is None else state
    scale_of_path = {path: layer.scaling[ADAPTER] for path, layer in lora_layers(model)}

    # a layer with an adapter has three entries: base_layer.weight, and the weights A and B
    for name in full_state:
        if ".lora_" in name:
            continue
        tensor = full_state[name]  # of a sharded model, this gathers the value
        if wide and tensor.is_floating_point():
            tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        path, has_adapter, last_name = name.partition(".base_layer.")
        if not has_adapter:
            yield name, tensor.detach()
            continue

        # a bias stays as it is
        if last_name == "weight":
            a = full_state[f"{path}.lora_A.{ADAPTER}.weight"]
            b = full_state[f"{path}.lora_B.{ADAPTER}.weight"]
            delta = _product(b, a) * scale_of_path[path]
            tensor = (tensor + delta).to(tensor.dtype)
        yield f"{path}.{last_name}", tensor.detach()


def _product(b: Tensor, a: Tensor) -> Tensor:
    """B A, in float32 if they are bfloat16."""
    if b.dtype == torch.bfloat16:
        return b.float() @ a.float()
    return b @ a


def load_adapter(model: Any, folder: Path) -> None:
    """Merge the LoRA adapter of a folder into the weights of a plain causal LM, in place.

    Raises:
        ImportError: peft is not installed.
        ValueError: the folder holds no adapter, one of another model, or one that is not plain
            LoRA; or the model's weights are too coarse to be merged with.
    """
    peft = _peft()
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"model.adapter={folder}: no adapter_config.json there")

    # other kinds are more than the product B A
    config = peft.PeftConfig.from_pretrained(str(folder))
    _refuse_other_adapters(config, folder)

    # peft would fall back to a pickle
    if not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(
            f"model.adapter={folder}: no adapter_model.safetensors there; other formats are "
            "pickles, which could run code"
        )

    # a sum that is rounded to bfloat16 lacks most of what a usual learning rate has changed
    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"model.adapter={folder}: merged into {model.dtype} weights most of it would be "
            "rounded away; set model.dtype=float32 (with model.compute_dtype=bfloat16 for speed)"
        )

    # put the adapter in, and see whether its weights are those of this model
    _inject(model, config)
    adapter_weights = peft.load_peft_weights(str(folder), device="cpu")
    report = peft.set_peft_model_state_dict(model, adapter_weights, ADAPTER)
    misfits = [name for name in report.missing_keys if ".lora_" in name] or report.unexpected_keys
    if misfits:
        raise ValueError(f"model.adapter={folder} is of another model: {misfits[0]} does not fit")

    # from here on it is a plain model
    fold(model)


def _refuse_other_adapters(config: Any, folder: Path) -> None:
    """Refuse an adapter whose effect is not that of adding (alpha / r) B A to the weights.

    peft has many kinds, and each new version adds some: adapters that act behind a certain word
    only, that replace rows of the embedding, that repeat layers. So the settings that are known to
    be plain are listed, and any other one must be as peft leaves it.

    Raises:
        ValueError: naming the first setting that is not plain.
    """
    if config.peft_type != _peft().PeftType.LORA:
        raise ValueError(
            f"model.adapter={folder}: only plain LoRA adapters are supported, and this one is "
            f"{config.peft_type}"
        )

    # the file itself, of which peft passes over what only a later version of it knows
    usual = _peft().LoraConfig()
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    for name, value in settings.items():
        if name in PLAIN_SETTINGS or not value or value == getattr(usual, name, None):
            continue
        raise ValueError(
            f"model.adapter={folder}: only plain LoRA adapters are supported, and this one sets "
            f"{name}={value!r}; merge it with peft's merge_and_unload and give the merged folder "
            "as model.source"
        )

    # others change the base by chance, or by data that is not here
    if config.init_lora_weights not in PLAIN_STARTS:
        raise ValueError(
            f"model.adapter={folder}: it was begun with "
            f"init_lora_weights={config.init_lora_weights!r}, which changes the base too; save it "
            "with peft's path_initial_model_for_weight_conversion, or merge it there"
        )


@torch.no_grad()
def fold(model: Any) -> None:
    """Merge the adapters into the weights for good, which makes the model a plain one again.

    Every parameter is trained again, and a tied head that had an adapter is untied.
    """
    head = model.get_output_embeddings()
    for path, layer in list(lora_layers(model)):
        # a new parameter, because the old one may be the embedding's too
        base = layer.base_layer
        base.weight = nn.Parameter(merged_weight(layer).to(base.weight.dtype))
        if layer is head:
            _set_tied(model.config, False)

        # put the plain layer into the place of the one with an adapter
        parent, _, last_name = path.rpartition(".")
        setattr(model.get_submodule(parent), last_name, base)

    # nothing tells it from a model that never had adapters
    del model.peft_config
    model.requires_grad_(True)


def save_lora(
    model: Any, folder: Path, export: str, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model with adapters to a folder.

    Args:
        model: a causal LM with adapters.
        folder: exists.
        export: "merged" writes a plain model, as transformers loads it; "adapter" writes the
            adapter alone, as peft loads it.
        state: full state dict of the model (gathered, if it is sharded); None takes it from the
            model.
    """
    if export == "adapter":
        _save_adapter(model, folder, state)
    else:
        _save_merged(model, folder, state)


def _save_adapter(model: Any, folder: Path, state: Mapping[str, Tensor] | None) -> None:
    """Write the adapter alone, with the configuration that peft wants beside it."""
    # weights, under the names that peft gives them
    full_state = dict(model.state_dict() if state is None else state)
    adapter_state = _peft().get_peft_model_state_dict(
        model, full_state, ADAPTER, save_embedding_layers=False
    )
    weights: dict[str, Tensor] = {}
    for name, tensor in adapter_state.items():
        weights[f"base_model.model.{name}"] = tensor.detach().cpu().contiguous()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    model.generation_config.save_pretrained(folder)

    # configuration; target_modules is a set, whose order changes between processes
    config = copy.copy(model.peft_config[ADAPTER])
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(str(folder))


def _save_merged(model: Any, folder: Path, state: Mapping[str, Tensor] | None) -> None:
    """Write a plain model with merged weights; a head with an adapter is no longer tied in it."""
    # the model itself stays as it is
    config = model.config
    model.config = copy.deepcopy(config)

    # who loads a model whose config says that it is tied gets the embedding as its head
    if hasattr(model.get_output_embeddings(), "base_layer"):
        _set_tied(model.config, False)
    try:
        model.save_pretrained(folder, state_dict=merged_state(model, state, wide=True))

        # transformers writes the dtype of the module into the file, not that of the weights
        dtype = torch.promote_types(model.dtype, torch.float32)
        _set_everywhere(model.config, "dtype", dtype)
        model.config.save_pretrained(folder)
    finally:
        model.config = config


def _set_tied(config: Any, tied: bool) -> None:
    """Say in a configuration, and in that of its language model, whether the head is tied."""
    config.tie_word_embeddings = tied
    text_config(config).tie_word_embeddings = tied


def _set_everywhere(config: Any, name: str, value: Any) -> None:
    """Set a value of a configuration and of all configurations in it."""
    setattr(config, name, value)
    for part in config.sub_configs:
        inner = getattr(config, part, None)
        if inner is not None:
            _set_everywhere(inner, name, value)


@torch.no_grad()
def share_in_export(model: Any, folder: Path, state: Mapping[str, Tensor] | None = None) -> float:
    """How much of what the adapters have learnt is in a merged export.

    The weights in the files are read back and compared with those that the policy was trained to
    have, layer by layer.

    Args:
        model: a causal LM with adapters.
        folder: what `save_lora` has written.
        state: full state dict of the model; None takes it from the model.

    Returns:
        1 - |file - (W + D)| / |D| over all layers with an adapter, with D = (alpha / r) B A; 1 if
        nothing has been learnt yet.
    """
    # squared lengths of what is lost and of what was learnt, over all layers
    full_state = model.state_dict() if state is None else state
    missing = learnt = 0.0
    with ExitStack() as stack:
        # where each tensor is
        files: dict[str, Any] = {}
        for place in sorted(folder.glob("*.safetensors")):
            file = stack.enter_context(safe_open(place, "pt"))
            files |= dict.fromkeys(file.keys(), file)

        for path, layer in lora_layers(model):
            a = full_state[f"{path}.lora_A.{ADAPTER}.weight"].double().cpu()
            b = full_state[f"{path}.lora_B.{ADAPTER}.weight"].double().cpu()
            delta = b @ a * layer.scaling[ADAPTER]
            base = full_state[f"{path}.base_layer.weight"].double().cpu()

            # under the names that files have
            for name, trained in as_in_files(model, {f"{path}.weight": base + delta}).items():
                stored = files[name].get_tensor(name).double()
                missing += float((stored - trained).square().sum())
            learnt += float(delta.square().sum())
    return 1.0 if learnt == 0 else 1.0 - math.sqrt(missing / learnt)
