"""Norms and MLPs of a model are replaced by modules that compute the same and keep less.

Of what a block of Qwen3 keeps for its backward in bfloat16, a third need not be kept (`norms` and
`gated_mlp`; docs/memory.md counts it). Neither the name of a class nor its attributes tell whether
it computes what a replacement computes, so this module tries it: a copy of each module, with small
random weights and with the settings of that very module, runs forward and backward beside its
replacement. Where any bit differs, the module stays as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from g2rl.policy.gated_mlp import LeanGatedMLP
from g2rl.policy.norms import LeanRMSNorm

TRIAL_ROWS = (2, 5)
"""Leading axes of the vectors that a copy and its replacement are tried on."""
TRIAL_SCALES = (1e-3, 1.0, 1e2)
"""Sizes of these vectors: so small that a norm's epsilon counts, and so large that limits do."""
TRIAL_WIDTH, TRIAL_MLP_WIDTH = 24, 40
"""D and F of an MLP that is tried; its operations are the same at every width."""
TRIAL_CASES = (
    (torch.float32, torch.float32, False),
    (torch.bfloat16, torch.bfloat16, False),
    (torch.float32, torch.float32, True),
    (torch.float32, torch.bfloat16, True),
)
"""Dtype of weights, dtype of vectors, and whether mixed precision is on. All have to agree."""
LAYERS = ("gate_proj", "up_proj", "down_proj")
"""Layers of a gated MLP, in transformers' words."""
NOT_WAYS = {"__init__", "forward", "extra_repr", *vars(type("Empty", (), {}))}
"""What every class of modules has of its own."""
PLAIN_VALUES = (bool, int, float, str, torch.dtype, type(None))
"""Types of settings that are handed to a copy; their values never change."""

Settings = tuple[tuple[str, Any], ...]
"""Names and values of the plain settings of one module."""


def with_lean_modules(model: nn.Module) -> int:
    """Let norms and MLPs of a model keep less for their backward; it is changed in place.

    Names and values of weights stay as they are. A module that has hooks, that was compiled, or
    whose forward was exchanged stays as it is.

    Args:
        model: of transformers, on any device.

    Returns:
        How many modules were replaced.
    """
    # a module may stand in several places, also of one parent
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            lean = replaced.get(child) or replacement_of(child)
            if lean is not None:
                replaced[child] = lean
                setattr(parent, name, lean)
    return len(replaced)


def replacement_of(module: nn.Module) -> nn.Module | None:
    """A module that computes the same and keeps less; None where none is known to."""
    if is_plain_norm(module):
        return LeanRMSNorm(module)
    return LeanGatedMLP(module) if is_plain_mlp(module) else None


def is_plain_norm(module: Any) -> bool:
    """Whether a module is a norm that `LeanRMSNorm` repeats bit by bit.

    Candidates look like Llama's norm: they have one weight, and a `variance_epsilon`.
    """
    # looks
    kind: Any = type(module)
    if not kind.__name__.endswith("RMSNorm") or kind is LeanRMSNorm or _is_altered(module):
        return False
    if not _takes_one_input(kind) or _has_own_ways(kind):
        return False
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    tensors = [*module.parameters(), *module.buffers()]
    if len(tensors) != 1 or tensors[0] is not weight or weight.dim() != 1:
        return False

    # what it computes
    return isinstance(epsilon, float) and _is_repeated_norm(
        kind, kind.forward, _plain_settings(module), len(weight)
    )


def is_plain_mlp(module: Any) -> bool:
    """Whether a module is an MLP that `LeanGatedMLP` repeats bit by bit.

    Candidates look like Llama's MLP: they have three layers, perhaps with adapters or quantised,
    and an activation. One that reads weights of its own finds none in the trial, and stays.
    """
    # looks
    kind: Any = type(module)
    children = dict(module.named_children())
    if not kind.__name__.endswith("MLP") or kind is LeanGatedMLP or _is_altered(module):
        return False
    if children.keys() != {*LAYERS, "act_fn"} or _has_own_tensors(module):
        return False
    if not _takes_one_input(kind) or _has_own_ways(kind):
        return False
    activation = children["act_fn"]
    if _is_altered(activation) or _has_own_ways(type(activation)):
        return False

    # what it computes; its layers are called as they are, so they are not tried
    activation_kind: Any = type(activation)
    return _is_repeated_mlp(
        (kind, activation_kind),
        (kind.forward, activation_kind.forward),
        (_plain_settings(module), _plain_settings(activation)),
    )


def _is_altered(module: nn.Module) -> bool:
    """Whether calling, saving or loading a module does more than its class says."""
    has_hooks = any(value for name, value in vars(module).items() if name.endswith("_hooks"))
    return has_hooks or "forward" in vars(module) or module._compiled_call_impl is not None


def _has_own_ways(kind: type) -> bool:
    """Whether modules of a class are called, saved, loaded or moved in another way than torch's."""
    ways = vars(nn.Module).keys() - NOT_WAYS
    return any(vars(one).keys() & ways for one in _own_classes(kind))


def _takes_one_input(kind: Any) -> bool:
    """Whether the forward of a class takes one tensor and nothing else that a model could hand
    it."""
    # compiled code may have no signature
    try:
        return len(inspect.signature(kind.forward).parameters) == 2  # self and the tensor
    except (TypeError, ValueError):
        return False


def _has_own_tensors(module: nn.Module) -> bool:
    """Whether a module has weights or buffers that are none of its children's."""
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])


def _plain_settings(module: nn.Module) -> Settings:
    """Numbers, texts and flags that stand in a module itself.

    A forward that reads anything else, a configuration for example, finds nothing there in its
    trial, so that its module stays.
    """
    internal = vars(nn.Module()).keys()
    found: list[tuple[str, Any]] = []
    for name, value in sorted(vars(module).items()):
        if name not in internal and isinstance(value, PLAIN_VALUES):
            found.append((name, value))
    return tuple(found)


@cache
def _is_repeated_norm(kind: Any, forward: object, settings: Settings, width: int) -> bool:
    """Try a norm with random weights.

    Args:
        kind: class of the norm.
        forward: of the class, which a library may replace later; then it is tried again.
        settings: of the norm, its epsilon among them.
        width: D.
    """

    def build() -> nn.Module:
        norm = _bare_copy(kind, settings)
        # the trial fills it
        norm.weight = nn.Parameter(torch.empty(width))
        return norm

    return _is_repeated(build, LeanRMSNorm, width)


@cache
def _is_repeated_mlp(
    kinds: tuple[Any, Any], forwards: tuple[object, object], settings: tuple[Settings, Settings]
) -> bool:
    """Try a small MLP with random weights.

    Args:
        kinds: classes of the MLP and of its activation.
        forwards: of these classes, which a library may replace later; then they are tried again.
        settings: of the two.
    """

    def build() -> nn.Module:
        mlp = _bare_copy(kinds[0], settings[0])
        mlp.act_fn = _bare_copy(kinds[1], settings[1])

        # with a bias, because a layer that is not called as a whole would lose it
        for name in LAYERS:
            widths = (TRIAL_WIDTH, TRIAL_MLP_WIDTH)
            setattr(mlp, name, nn.Linear(*(widths[::-1] if name == "down_proj" else widths)))
        return mlp

    return _is_repeated(build, LeanGatedMLP, TRIAL_WIDTH)


def _bare_copy(kind: Any, settings: Settings) -> nn.Module:
    """A module of some class with these settings, in training mode, without tensors and children.

    Its constructor is not called, because what that would be called with is not known.
    """
    module: nn.Module = kind.__new__(kind)
    nn.Module.__init__(module)

    # names that a constructor would have set
    for name, value in settings:
        setattr(module, name, value)
    return module


def _is_repeated(
    build: Callable[[], nn.Module], lean_class: Callable[[nn.Module], nn.Module], width: int
) -> bool:
    """Try a module and its replacement on the CPU, in all cases and in both modes."""
    # one that is called otherwise, or misses something that it reads, is another module; and code
    # of anybody raises errors of any kind, as kernels do that want a GPU
    try:
        with _undisturbed_trial():
            module = build()
            lean = lean_class(module)
            for is_training in (True, False):
                if not _agree(module.train(is_training), lean.train(is_training), width):
                    return False
    except Exception:
        return False
    return True


@contextmanager
def _undisturbed_trial() -> Iterator[None]:
    """Run a trial on the CPU, with gradients, and whatever surrounds it; no random number of the
    run is used up."""
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


def _agree(module: nn.Module, lean: nn.Module, width: int) -> bool:
    """Whether two modules that share weights have equal outputs and gradients in all cases, and the
    first one keeps nothing of its calls."""
    generator = torch.Generator().manual_seed(0)
    for dtype, input_dtype, is_mixed in TRIAL_CASES:
        # the weights are random, and so are the vectors, some small and some large
        module.to(dtype)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        scales = torch.tensor(TRIAL_SCALES).reshape(-1, 1, 1, 1)
        x = scales * torch.randn(*scales.shape[:1], *TRIAL_ROWS, width, generator=generator)
        grad = torch.randn(x.shape, generator=generator)

        # both round alike, or they are not the same
        before = _held_by(module)
        theirs = _output_and_gradients(module, x.to(input_dtype), grad, is_mixed)
        if not _holds(module, before):
            return False
        ours = _output_and_gradients(lean, x.to(input_dtype), grad, is_mixed)
        for expected, found in zip(theirs, ours, strict=True):
            if expected.dtype != found.dtype or not torch.equal(expected, found):
                return False
    return True


def _held_by(module: nn.Module) -> dict[str, tuple[Any, int]]:
    """What stands in a module, in its children and in their classes, by names; of lists and the
    like their sizes, too."""
    held: dict[str, tuple[Any, int]] = {}
    for place, one in module.named_modules():
        for owner in (one, *_own_classes(type(one))):
            for name, value in vars(owner).items():
                size = len(value) if isinstance(value, list | dict | set) else 0
                held[f"{place}.{id(owner)}.{name}"] = value, size
    return held


def _holds(module: nn.Module, before: dict[str, tuple[Any, int]]) -> bool:
    """Whether a module still holds the same objects, and no others.

    A forward may count its calls or keep what it has seen, which a replacement would not.
    """
    now = _held_by(module)
    if now.keys() != before.keys():
        return False
    for name, (value, size) in now.items():
        if value is not before[name][0] or size != before[name][1]:
            return False
    return True


def _own_classes(kind: type) -> list[type]:
    """A class of modules and those that it is made of, below torch's own `nn.Module`."""
    return [one for one in kind.__mro__ if one not in nn.Module.__mro__]


def _output_and_gradients(
    module: nn.Module, x: Tensor, grad: Tensor, is_mixed: bool
) -> list[Tensor]:
    """A module's output, and the gradients of its input and weights, perhaps under autocast."""
    x = x.clone().requires_grad_()
    # without the cache, which an autocast around the trial would keep while weights change
    with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed, cache_enabled=False):
        output = module(x)
    gradients = torch.autograd.grad(output, [x, *module.parameters()], grad.to(output.dtype))
    return [output.detach(), *gradients]
