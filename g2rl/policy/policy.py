"""The policy: a causal LM and its tiled head as one module, so that sharding hooks see one
forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from g2rl.policy.batching import MicroBatch
from g2rl.policy.lm_head import DEFAULT_TILE_BYTES, FeatureRequest, HeadOutput, Objective, head_pass
from g2rl.policy.lora import base_layer, merged_items, merged_state, merged_weight
from g2rl.policy.sharding import Gathered, ShardSettings, blank, reshard, shard, whole
from g2rl.policy.weights import DTYPES, without_second_names

HEAD_TOLERANCE = 2e-2  # relative; catches soft-capping or logit scaling, not bfloat16 rounding


class Scorable(Protocol):
    """What can score responses: a policy, or a view of one."""

    training: bool

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def __call__(
        self,
        batch: MicroBatch,
        temperature: float = 1.0,
        features: bool = False,
        feature_temperature: float | None = None,
        objective: Objective | None = None,
    ) -> HeadOutput:
        """Score the response tokens of a micro-batch."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or back."""
        ...

    def eval(self) -> Any:
        """Switch to evaluation mode."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """All modules inside, as of `torch.nn.Module`."""
        ...


@dataclass(slots=True)
class Skeleton:
    """The model of a sharded policy as it was before, on the meta device: shapes and ties without
    values.

    A plain object around the module, because a submodule of the policy would be sharded and saved
    with it.
    """

    model: Any


class Policy(nn.Module):
    """A Hugging Face causal LM whose forward yields log-probs, entropies and features of responses.

    Args:
        model: a causal LM with a linear output head (tied or not, with or without a bias).
        tile_bytes: memory for one tile of logits.
        compute_dtype: "bfloat16" runs backbone and head products in it, with float32 master weights
            and float32 softmax; None computes in the dtype of the weights.

    Raises:
        ValueError: another compute dtype.
        TypeError: the output head is not linear.
    """

    def __init__(
        self, model: Any, tile_bytes: int = DEFAULT_TILE_BYTES, compute_dtype: str | None = None
    ) -> None:
        super().__init__()
        if compute_dtype not in (None, "bfloat16"):
            raise ValueError(f"model.compute_dtype must be null or bfloat16, got {compute_dtype!r}")
        self.model = model
        self.tile_bytes = tile_bytes
        self.compute_dtype = None if compute_dtype is None else DTYPES[compute_dtype]

        # set by `shard`
        self.skeleton: Skeleton | None = None
        self.sharding: ShardSettings | None = None
        self._device: torch.device | None = None

        head = model.get_output_embeddings()
        if not isinstance(base_layer(head), nn.Linear):
            raise TypeError(
                f"the model's output head is {type(head).__name__}, g2rl needs a linear one"
            )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device or next(self.model.parameters()).device

    @property
    def has_dropout(self) -> bool:
        """Whether a forward in training mode differs from the one that sampled."""
        # as configured, and as built
        rates = list(dropout_rates(self.model.config.to_diff_dict()))
        rates += [m.p for m in self.model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        return any(rate > 0 for rate in rates)

    @property
    def copies_weights(self) -> bool:
        """Whether a forward that can be differentiated holds weights of its own: casts, or a merged
        head."""
        # casts to the compute dtype, or W + (alpha / r) B A
        head = self.model.get_output_embeddings()
        return self.compute_dtype is not None or base_layer(head) is not head

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every weight as a plain checkpoint holds them: what an engine takes
        over.

        Adapters are merged; a head tied to the embedding comes once. Weights of a sharded policy
        are gathered one at a time: every rank goes through all of them.
        """
        if self.sharding is not None:
            reshard(self)
            yield from merged_items(self.model, Gathered(self.model))
        else:
            yield from without_second_names(merged_state(self.model))

    def shard(self, mesh: DeviceMesh, settings: ShardSettings, offload: bool = False) -> Policy:
        """Divide the weights over the mesh, in place; from here on every rank calls the same,
        together.

        An optimizer has to be made afterwards. Copies are made by `empty_copy`.
        """
        self.skeleton = Skeleton(blank(self.model, "meta"))
        self._device, self.sharding = self.device, settings
        shard(self, self.model, mesh, settings, offload)
        return self

    def empty_copy(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Any:
        """The model of a sharded policy with room for whole weights, which `copy_weights_to`
        fills."""
        assert self.skeleton is not None
        return blank(self.skeleton.model, device, dtype)

    @torch.no_grad()
    def copy_weights_to(self, model: Any) -> None:
        """Gather the weights of a sharded policy into an empty copy.

        Collective: every rank calls this or `take_part_in_copy`.
        """
        reshard(self)
        for source, target in zip(self.model.parameters(), model.parameters(), strict=True):
            target.copy_(whole(source))

    @torch.no_grad()
    def take_part_in_copy(self) -> None:
        """Join the gather of another rank's `copy_weights_to` and store nothing."""
        reshard(self)
        for source in self.model.parameters():
            whole(source)

    def autocast(self) -> torch.autocast:
        """Mixed precision of the backbone; a no-op without a compute dtype."""
        dtype = self.compute_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Last hidden states (T, D) at the positions that predict response tokens."""
        # the backbone alone: the head has its own pass
        with self.autocast():
            output = self.model.base_model(input_ids=batch.input_ids_BL, use_cache=False)
        hidden_TD = output.last_hidden_state.flatten(0, 1)[batch.positions_T]
        return self._in_compute_dtype(hidden_TD)

    def _in_compute_dtype(self, tensor: Tensor) -> Tensor:
        """The tensor as products are computed with it."""
        return tensor if self.compute_dtype is None else tensor.to(self.compute_dtype)

    def forward(
        self,
        batch: MicroBatch,
        temperature: float = 1.0,
        features: bool = False,
        feature_temperature: float | None = None,
        objective: Objective | None = None,
    ) -> HeadOutput:
        """Score the response tokens of a micro-batch.

        Args:
            batch: the micro-batch, T response tokens of N responses.
            temperature: sampling temperature.
            features: compute the gradient features as well.
            feature_temperature: temperature of p_t in the features; None takes `temperature`.
            objective: a loss that is a sum over tokens, see `g2rl.policy.lm_head.head_pass`.
        """
        request = None
        if features:
            scored_at = temperature if feature_temperature is None else feature_temperature
            request = FeatureRequest(batch.segments_T, len(batch.rows), scored_at)

        # under LoRA the head's weight is the merged one
        head = self.model.get_output_embeddings()
        weight_VD = self._in_compute_dtype(merged_weight(head))
        return head_pass(
            self.hidden(batch),
            weight_VD,
            batch.targets_T,
            temperature=temperature,
            bias_V=head.bias,
            features=request,
            objective=objective,
            tile_bytes=self.tile_bytes,
        )

    @torch.no_grad()
    def check_head(self) -> None:
        """Make sure that logits are W h + b and nothing more.

        Raises:
            ValueError: when the model scales, caps or otherwise changes its logits; log-probs and
                gradient features computed from the head would then be wrong.
        """
        head = self.model.get_output_embeddings()
        ids = torch.arange(1, 9, device=self.device).unsqueeze(0) % head.weight.shape[0]
        was_training = self.model.training
        self.model.eval()
        expected = self.model(input_ids=ids, use_cache=False).logits.float()
        found = head(
            self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        ).float()
        self.model.train(was_training)
        gap = (expected - found).abs().max() / expected.abs().max().clamp_min(1e-6)
        if not gap < HEAD_TOLERANCE:
            raise ValueError(
                f"the logits of {type(self.model).__name__} are not its head applied to its last hidden "
                f"state (relative difference {gap:.3g}): soft-capped or scaled logits are not supported"
            )


def dropout_rates(config: Mapping[str, Any]) -> Iterator[float]:
    """Every dropout rate of a model's configuration, those of nested ones included."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from dropout_rates(value)
        elif "drop" in name and isinstance(value, float):
            yield value
