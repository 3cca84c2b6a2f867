"""A CUDA device that a CPU simulates, strict about which tensor is where.

A tensor on it holds a tensor of the CPU and says of itself that it is on `cuda:0`. Operators are
computed on the CPU, after a check that a GPU would have taken the same arguments: what mixes
devices is refused, as CUDA refuses it. So a training run shows here whether every tensor is where
it has to be, and how often the program waits for the device. It shows nothing of a GPU's kernels,
memory or speed.

Numbers are those of the CPU, so that a run equals that of the CPU to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
TOTAL_BYTES = 80 << 30

aten = torch.ops.aten
ACROSS = {aten.copy_.default, aten._to_copy.default, aten._foreach_copy_.default}
"""Operators that may read from one device and write to another."""
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
"""Operators whose indices may lie on the CPU when the indexed tensor lies on a GPU."""
OF_UNKNOWN_SIZE = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default}
"""Operators whose result has a size that only the device knows."""
NUMBERS = {aten._local_scalar_dense.default, aten.equal.default}
"""Operators that return no tensor."""

waits: Counter[str] = Counter()
"""How often the program had to wait for the device, by operator."""
transfers: Counter[str] = Counter()
"""How often numbers were brought to the device, by operator; the program may have to wait then."""
launches: Counter[str] = Counter()
"""How many operators were computed on the device, by operator."""


class MixedDevicesError(RuntimeError):
    """An operator was given tensors of two devices."""


class SimulatedTensor(Tensor):
    """A tensor that says it is on a GPU, with its numbers in a tensor of the CPU."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor) -> SimulatedTensor:
        assert not isinstance(numbers, SimulatedTensor)
        made = Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            layout=numbers.layout,
            device=CUDA,
            requires_grad=False,
        )
        made.numbers = numbers
        return made

    def __repr__(self, **_: Any) -> str:
        return f"{self.numbers!r} on {CUDA}"

    def tolist(self) -> Any:
        waits["tolist"] += 1
        return self.numbers.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {CUDA} device type tensor to numpy")
        return self.numbers.detach().numpy()

    # where its numbers are in memory, for those who write files

    def storage(self) -> Any:
        return self.numbers.storage()

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> SimulatedTensor:
        if id(self) not in memo:
            copied = SimulatedTensor(self.numbers.detach().clone())
            copied._is_param = getattr(self, "_is_param", False)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return cast(SimulatedTensor, memo[id(self)])

    def __reduce_ex__(self, protocol: Any) -> Any:
        # a file holds the numbers; where they go is said when it is read
        return self.numbers.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(
        cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(operator, args, kwargs or {})


class Computing(TorchDispatchMode):
    """Sees the operators that make tensors of nothing, and those that bring some to the device."""

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}

        # inference mode hands on what is made of other operators, such as `to`, in one piece
        if torch.is_inference_mode_enabled() and operator._can_decompose():
            with self:
                found = operator.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        return computed(operator, args, kwargs)


def computed(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of an operator, computed on the CPU, on the device where a GPU would have it.

    Raises:
        MixedDevicesError: its arguments lie on two devices, and it is none that takes such.
    """
    refuse_mixed(operator, args, kwargs)
    from_gpu = any(isinstance(leaf, SimulatedTensor) for leaf in tree_leaves((args, kwargs)))
    numbers_args, numbers_kwargs = tree_map_only(
        SimulatedTensor, lambda tensor: tensor.numbers, (args, kwargs)
    )

    # a device that is named says where the result goes, otherwise it stays where it comes from
    to_gpu = from_gpu
    asked = kwargs.get("device")
    if asked is not None:
        to_gpu = torch.device(asked).type == "cuda"
        numbers_kwargs["device"] = CPU if to_gpu else asked
    count(operator, args, from_gpu, to_gpu)
    found = ON_CPU.get(operator, operator)(*numbers_args, **numbers_kwargs)
    if operator is aten.copy_.default:
        return args[0]
    if operator in NUMBERS or not to_gpu:
        return found
    return on_gpu(operator, args, kwargs, found)


def on_gpu(operator: Any, args: Any, kwargs: dict[str, Any], found: Any) -> Any:
    """What an operator has found, as tensors of the GPU; what it has written to is returned."""
    # a view of a tensor from outside inference mode is none of that mode either
    first = args[0] if args else None
    is_older = isinstance(first, SimulatedTensor) and not first.is_inference()
    in_inference = torch.is_inference_mode_enabled()
    with torch.inference_mode(in_inference and not (is_older and is_view(operator))):
        found = tree_map_only(Tensor, SimulatedTensor, found)
    if not in_inference:
        return return_and_correct_aliasing(operator, args, kwargs, found)

    # without a gradient nothing but the written argument itself need be told
    for place, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return kwargs[argument.name] if argument.kwarg_only else args[place]
    return found


def count(operator: Any, args: Any, from_gpu: bool, to_gpu: bool) -> None:
    """Count an operator, and whether the program waits for its result."""
    name = str(operator)
    if to_gpu and not from_gpu and operator in ACROSS:
        transfers[name] += 1
    if not from_gpu:
        return
    launches[name] += 1
    to_cpu = operator is aten.copy_.default and not isinstance(args[0], SimulatedTensor)
    if not to_gpu or to_cpu or operator in NUMBERS | OF_UNKNOWN_SIZE:
        waits[name] += 1


def is_view(operator: Any) -> bool:
    """Whether an operator returns a part of its argument without writing to it."""
    schema = operator._schema
    return not schema.is_mutable and any(value.alias_info for value in schema.returns)


def refuse_mixed(operator: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Refuse what CUDA refuses: tensors of the CPU beside those of a GPU, but for lone numbers."""
    if operator in ACROSS:
        return
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    of_gpu = [tensor for tensor in tensors if isinstance(tensor, SimulatedTensor)]
    of_cpu = [
        tensor for tensor in tensors if tensor.dim() and not isinstance(tensor, SimulatedTensor)
    ]

    # a generator of the CPU cannot fill a tensor of a GPU
    generator, asked = kwargs.get("generator"), kwargs.get("device")
    fills_gpu = bool(of_gpu) if asked is None else torch.device(asked).type == "cuda"
    if isinstance(generator, torch.Generator) and fills_gpu:
        raise MixedDevicesError(f"{operator}: a generator of the CPU for a tensor on {CUDA}")
    if not of_gpu or not of_cpu:
        return

    # indices may lie on the CPU, and nothing else
    if operator in INDEXED and isinstance(args[0], SimulatedTensor):
        indices = [index for index in args[1] if index is not None]
        if all(any(tensor is index for index in indices) for tensor in of_cpu):
            return
    places = ", ".join(f"{list(tensor.shape)} on {tensor.device}" for tensor in tensors)
    raise MixedDevicesError(f"{operator}: tensors of two devices: {places}")


def wide_product(left: Tensor, right: Tensor, out_dtype: torch.dtype, out: Tensor) -> Tensor:
    """A product of 16-bit matrices that is summed up and returned in 32 bits."""
    assert left.dtype == right.dtype != out_dtype == out.dtype == torch.float32
    return torch.mm(left.to(out_dtype), right.to(out_dtype), out=out)


ON_CPU = {aten.mm.dtype_out: wide_product}
"""What computes the operators that only a GPU has."""


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of plain products, because torch asks a GPU which kernel it prefers."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        hidden = attn_mask.logical_not()
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(hidden, -torch.inf)
    found: Tensor = aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]
    return found


@contextmanager
def plain_attention() -> Iterator[None]:
    """The attention of the simulated GPU, for a run of the CPU that is compared with one on it."""
    functional = torch.nn.functional
    with mock.patch.object(functional, "scaled_dot_product_attention", attention):
        yield


class Properties:
    """What a GPU says of itself."""

    name, total_memory, major, minor = "a simulated GPU", TOTAL_BYTES, 9, 0
    multi_processor_count = 132


@contextmanager
def simulated_gpu() -> Iterator[None]:
    """One simulated GPU for this process, which must have loaded the library of `library.py`.

    It replaces what torch would ask the driver, and attention's choice of a kernel. Memory is not
    counted.
    """
    for counter in (waits, transfers, launches):
        counter.clear()
    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "mem_get_info": lambda device=None: (TOTAL_BYTES, TOTAL_BYTES),
        "get_device_properties": lambda device=None: Properties,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: Properties.name,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_rng_state": lambda device="cuda": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device="cuda": None,
    }

    # a module that moves keeps its parameters, and with them those that it shares
    future = torch.__future__
    swaps = future.get_swap_module_params_on_conversion()
    future.set_swap_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with (
            mock.patch.multiple(torch.cuda, **answers),
            plain_attention(),
            torch.autograd.set_multithreading_enabled(False),
            Computing(),
        ):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        future.set_swap_module_params_on_conversion(swaps)
