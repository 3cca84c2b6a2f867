"""LoRA: low-rank adapters on a frozen base, W' = W + (alpha / r) B A (arXiv 2106.09685, Eq. 3); all
of peft.

Adapters are injected in place, so that module paths stay and the policy, the engine and the
optimizer need not know of them. Three places do: the head's weight is the merged one (log-probs and
gradient features take W', not W), the reference policy is the same model with its adapters off, and
exports merge them or hold them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

ADAPTER = "default"  # peft's name for the only adapter of a model
EXPORTS = ("merged", "adapter")


@dataclass(slots=True, frozen=True)
class LoraSettings:
    """Low-rank adapters; `model.lora`.

    Args:
        r: rank.
        alpha: scale of the update, alpha / r; None: 2 r.
        dropout: of the adapters' inputs in training.
        target_modules: last names of the layers that get one; None: every linear layer but the
            head.
        include_head: one on the output head too (an embedding tied to it stays as it is).
        export: what a run writes at its end: "merged" weights, or the "adapter" alone.
    """

    r: int
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None
    include_head: bool = False
    export: str = "merged"

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"model.lora: need r >= 1 and 0 <= dropout < 1, got {self.r} and {self.dropout}"
            )
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"model.lora.alpha must be > 0 or null (2 r), got {self.alpha}")
        if self.export not in EXPORTS:
            raise ValueError(f"model.lora.export must be one of {EXPORTS}, got {self.export!r}")
        if self.include_head and self.dropout:
            raise ValueError(
                "model.lora.include_head needs model.lora.dropout=0: log-probs are taken from the merged "
                "head, in which there is nothing to drop"
            )


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'g2rl[peft]'") from error
    return peft


def add_lora(model: Any, settings: LoraSettings, source: str, revision: str | None = None) -> None:
    """Freeze a causal LM and give its layers adapters that change nothing yet (B = 0), float32 or
    wider.

    Args:
        source: where the base came from, a folder or a hub id; an exported adapter names it.

    Raises:
        ImportError: without peft.
        ValueError: for target modules that the model does not have.
    """
    # the settings in peft's words
    peft = _peft()
    targets = target_modules(model, settings)
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=2 * settings.r if settings.alpha is None else settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        base_model_name_or_path=source,
        revision=revision,
    )
    _inject(model, config)


def _inject(model: Any, config: Any) -> None:
    with warnings.catch_warnings():
        # of tied embeddings, which peft's merge would change with the head; ours does not
        warnings.filterwarnings("ignore", message=r".*tie_word_embeddings", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message=r".*is_gradient_checkpointing", category=FutureWarning
        )
        _peft().inject_adapter_in_model(config, model, ADAPTER)
    # bfloat16 adapters would not move: one step at a usual learning rate is below their resolution
    _peft().tuners.tuners_utils.cast_adapter_dtype(model, ADAPTER)


def target_modules(model: Any, settings: LoraSettings) -> list[str]:
    """Last names of the layers that get an adapter.

    Raises:
        ValueError: for a name that no linear layer has, or the head without `include_head`.
    """
    # every linear layer by its path, and their last names
    head = model.get_output_embeddings()
    paths = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    leaves = {path.rsplit(".", 1)[-1] for path, module in paths.items() if module is not head}
    [head_name] = [path for path, module in paths.items() if module is head]

    # what the settings name must be there
    chosen = leaves if settings.target_modules is None else set(settings.target_modules)
    if unknown := sorted(chosen - leaves):
        hint = "; for the head set model.lora.include_head=true" if head_name in unknown else ""
        raise ValueError(
            f"model.lora.target_modules: no linear layer is named {unknown[0]!r}, there are "
            f"{sorted(leaves)}{hint}"
        )
    if not chosen and not settings.include_head:
        raise ValueError("model.lora.target_modules is empty: nothing would be trained")
    return sorted(chosen | ({head_name} if settings.include_head else set()))


def has_lora(model: nn.Module) -> bool:
    """Whether `add_lora` has been here."""
    return bool(getattr(model, "peft_config", None))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Path and module of every layer with an adapter."""
    if has_lora(model):
        layer = _peft().tuners.lora.LoraLayer
        yield from (
            (name, module) for name, module in model.named_modules() if isinstance(module, layer)
        )


def base_layer(layer: Any) -> nn.Module:
    """The layer under an adapter, or the layer itself."""
    return getattr(layer, "base_layer", layer)


def merged_weight(layer: Any) -> Tensor:
    """Weight of a linear layer with its adapter: W + (alpha / r) B A, differentiable in A and B.

    In the dtype of W; W itself where there is no adapter, or where it is off.
    """
    if not hasattr(layer, "base_layer") or layer.disable_adapters:
        return layer.weight
    weight = layer.base_layer.weight
    return (weight + layer.get_delta_weight(ADAPTER)).to(weight.dtype)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The base model, for as long as the context lasts; which parameters are trained does not
    change."""
    # remember what trains, because peft freezes what it turns off
    layers = [layer for _, layer in lora_layers(model)]
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        for (
            parameter
        ) in trained:  # peft freezes what it turns off; sharding may remember such a flag
            parameter.requires_grad_(True)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged_state(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """State dict of the model as if it had never had adapters, with these merged into the weights.

    A tied head with an adapter is in it under its own name, with a weight that is no longer the
    embedding's.

    Args:
        state: full state dict of the model (gathered, if it is sharded); None takes it from the
            model.
    """
    return dict(merged_items(model, state))


def merged_items(
    model: nn.Module, state: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """What `merged_state` holds, one weight at a time."""
    # a state dict has the base's weight under PATH.base_layer and the adapter's under PATH.lora_A
    # and lora_B
    full = model.state_dict() if state is None else state
    scales = {f"{name}.": layer.scaling[ADAPTER] for name, layer in lora_layers(model)}
    for name in full:
        path, mark, rest = name.partition("base_layer.")
        if ".lora_" in name:
            continue
        tensor = full[name]  # where values are gathered when asked for, one at a time

        # W + (alpha / r) B A, computed no narrower than float32
        if mark and rest == "weight":
            a, b = (full[f"{path}lora_{side}.{ADAPTER}.weight"] for side in "AB")
            delta = (b.float() @ a.float() if b.dtype == torch.bfloat16 else b @ a) * scales[path]
            tensor = (tensor + delta).to(tensor.dtype)
        yield path + rest if mark else name, tensor.detach()


def load_adapter(model: Any, folder: Path) -> None:
    """Merge the LoRA adapter of a folder into the weights of a plain causal LM, in place.

    Raises:
        ValueError: the folder holds none, one of another model, or a kind other than plain LoRA.
    """
    peft = _peft()
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"model.adapter={folder}: no adapter_config.json there")

    # only plain LoRA can be merged
    config = peft.PeftConfig.from_pretrained(str(folder))
    plain = config.peft_type == peft.PeftType.LORA and config.bias == "none"
    if not plain or config.use_dora or config.lora_bias or config.modules_to_save:
        raise ValueError(
            f"model.adapter={folder}: only plain LoRA adapters are supported (no DoRA, no biases)"
        )

    # fill the adapter's weights in, and refuse those of another model
    _inject(model, config)
    found = peft.set_peft_model_state_dict(
        model, peft.load_peft_weights(str(folder), device="cpu"), ADAPTER
    )
    missing = [name for name in found.missing_keys if ".lora_" in name]
    if missing or found.unexpected_keys:
        wrong = (missing or found.unexpected_keys)[0]
        raise ValueError(f"model.adapter={folder} is of another model: {wrong} does not fit")

    # from here on it is a plain model
    fold(model)


@torch.no_grad()
def fold(model: Any) -> None:
    """Merge the adapters into the weights for good; every parameter trains again, a tied head is
    untied."""
    head = model.get_output_embeddings()
    for name, layer in list(lora_layers(model)):
        base = layer.base_layer
        base.weight = nn.Parameter(
            merged_weight(layer)
        )  # a new one: the old may be the embedding's too
        if layer is head:
            model.config.tie_word_embeddings = False
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, base)
    del model.peft_config
    model.requires_grad_(True)


def save_lora(
    model: Any, folder: Path, export: str, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model with adapters: merged, as plain transformers loads it, or the adapter, as peft
    does.

    Args:
        export: "merged" or "adapter".
        state: full state dict of the model (gathered, if it is sharded); None takes it from the
            model.
    """
    # the adapter alone, as peft writes it
    if export == "adapter":
        peft, config = _peft(), copy.copy(model.peft_config[ADAPTER])
        full = dict(model.state_dict() if state is None else state)
        own = peft.get_peft_model_state_dict(model, full, ADAPTER, save_embedding_layers=False)
        save_file(
            {
                f"base_model.model.{name}": tensor.detach().cpu().contiguous()
                for name, tensor in own.items()
            },
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        model.generation_config.save_pretrained(folder)
        config.inference_mode = True
        config.target_modules = sorted(
            config.target_modules
        )  # a set, whose order changes between processes
        config.save_pretrained(str(folder))
        return

    # merged; a head with an adapter is no longer the embedding
    tied = model.config.tie_word_embeddings
    if hasattr(model.get_output_embeddings(), "base_layer"):
        model.config.tie_word_embeddings = False
    try:
        model.save_pretrained(folder, state_dict=merged_state(model, state))
    finally:
        model.config.tie_word_embeddings = tied
