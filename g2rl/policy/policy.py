"""The policy: a causal LM together with its tiled head, as one module.

They are one module so that everything that needs the weights happens inside one forward, where the
hooks of FSDP have gathered them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from g2rl.policy.batching import MicroBatch, mean_by_response
from g2rl.policy.lm_head import DEFAULT_TILE_BYTES, FeatureRequest, HeadOutput, Objective, head_pass
from g2rl.policy.lora import base_layer, merged_items, merged_state, merged_weight
from g2rl.policy.sharding import Gathered, ShardSettings, blank, reshard, shard, whole
from g2rl.policy.weights import DTYPES, without_second_names

HEAD_TOLERANCE = 2e-2  # relative; catches soft-capping or logit scaling, not bfloat16 rounding


class Scorable(Protocol):
    """What `g2rl.policy.scoring.score` can score with: a policy, or one with its adapters off."""

    training: bool
    """Whether it is in training mode, as for any `torch.nn.Module`."""

    @property
    def device(self) -> torch.device:
        """The device of the computation; micro-batches have to lie there."""
        ...

    def __call__(
        self,
        batch: MicroBatch,
        temperature: float = 1.0,
        features: bool = False,
        feature_temperature: float | None = None,
        objective: Objective | None = None,
        hidden: bool = False,
    ) -> HeadOutput:
        """Score the response tokens of a micro-batch, see `Policy.forward`."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or back."""
        ...

    def eval(self) -> Any:
        """Switch to evaluation mode."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """The module itself and all modules inside it."""
        ...


@dataclass(slots=True)
class Skeleton:
    """Holds the model of a sharded policy as it was before sharding, without values.

    It is no `torch.nn.Module`, and for this reason only: a module that is assigned to an attribute
    of the policy becomes a submodule, which would be sharded, trained and saved with it.
    """

    model: Any
    """A causal LM on the meta device: shapes, dtypes, ties and buffers."""


class Policy(nn.Module):
    """A Hugging Face causal LM whose forward yields log-probs, entropies and features of responses.

    Args:
        model: a causal LM with a linear output head (tied or not, with or without a bias).
        tile_bytes: memory for one tile of logits.
        compute_dtype: "bfloat16" computes the backbone and the products with the head in bfloat16,
            while weights and softmax stay in float32; None computes in the dtype of the weights.

    Raises:
        ValueError: another compute dtype than these two.
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
        self.compute_dtype = DTYPES[compute_dtype] if compute_dtype else None

        # these are set by `shard`
        self.skeleton: Skeleton | None = None
        self.sharding: ShardSettings | None = None
        self._device: torch.device | None = None  # of the computation; None: where the weights lie

        # the tiled head computes logits itself, which it can do only for a linear one
        head = model.get_output_embeddings()
        if not isinstance(base_layer(head), nn.Linear):
            raise TypeError(
                f"the model's output head is {type(head).__name__}, g2rl needs a linear one"
            )

    @property
    def device(self) -> torch.device:
        """The device of the computation; divided weights may lie in host memory nevertheless."""
        return self._device or next(self.model.parameters()).device

    @property
    def has_dropout(self) -> bool:
        """Whether a forward in training mode differs from one in evaluation mode."""
        # attention reads its rate from the configuration and has no dropout module
        rates = list(dropout_rates(self.model.config.to_diff_dict()))
        for module in self.model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                rates.append(module.p)
        return any(rate > 0 for rate in rates)

    @property
    def copies_weights(self) -> bool:
        """Whether the graph of a forward holds copies of weights until its backward has run.

        Copies are casts to the compute dtype, and the merged weight W + (alpha / r) B A of a head
        with an adapter.
        """
        # autocast and the head's products cast float32 weights
        casts_weights = self.compute_dtype is not None

        # a head with an adapter is merged anew in every forward
        head = self.model.get_output_embeddings()
        head_has_adapter = base_layer(head) is not head
        return casts_weights or head_has_adapter

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every weight, as a plain checkpoint of the model would hold them.

        This is what an engine takes over. Adapters are merged, and a head that is tied to the
        embedding comes once. The weights of a sharded policy are gathered one at a time; this is
        collective, so every rank has to exhaust the iterator.
        """
        if self.sharding is not None:
            # one whole weight at a time
            reshard(self)
            yield from merged_items(self.model, Gathered(self.model))
        else:
            # nothing is copied but merged weights, so all of them can be there at once
            yield from without_second_names(merged_state(self.model))

    def shard(self, mesh: DeviceMesh, settings: ShardSettings, offload: bool = False) -> Policy:
        """Divide the weights over the mesh, in place.

        From here on all ranks have to call the same methods together. The optimizer has to be made
        afterwards, of the divided weights.

        Args:
            mesh: the processes.
            settings: how weights are gathered and gradients are summed.
            offload: keep the divided weights in host memory.
        """
        # what can no longer be told from divided weights: shapes, ties, the device of computation
        self.skeleton = Skeleton(blank(self.model, "meta"))
        self._device, self.sharding = self.device, settings

        shard(self, self.model, mesh, settings, offload)
        return self

    def empty_copy(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Any:
        """The model of a sharded policy with whole, uninitialised weights on one device.

        `copy_weights_to` fills them in.

        Args:
            device: where the weights are to lie.
            dtype: of the weights; None takes that of the policy's.
        """
        assert self.skeleton is not None
        return blank(self.skeleton.model, device, dtype)

    @torch.no_grad()
    def copy_weights_to(self, model: Any) -> None:
        """Gather the weights of a sharded policy and store them in an `empty_copy`.

        This is collective: every rank has to call it, or `take_part_in_copy`.
        """
        # one weight is whole at a time, so the copy needs hardly more memory than it has
        reshard(self)
        for source, target in zip(self.model.parameters(), model.parameters(), strict=True):
            target.copy_(whole(source))

    @torch.no_grad()
    def take_part_in_copy(self) -> None:
        """Take part in the gather of another rank's `copy_weights_to`, and store nothing."""
        # the same gathers in the same order
        reshard(self)
        for source in self.model.parameters():
            whole(source)

    def autocast(self) -> torch.autocast:
        """The context of mixed precision for the backbone; no effect without a compute dtype."""
        dtype = self.compute_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Last hidden states (T, D) at the positions that predict the response tokens."""
        return self._in_compute_dtype(self._states(batch)[batch.positions_T])

    def _states(self, batch: MicroBatch) -> Tensor:
        """Last hidden states at all positions, padding included, (B * L, D)."""
        # base_model is the model without its head, whose logits would take (B, L, V)
        with self.autocast():
            output = self.model.base_model(input_ids=batch.input_ids_BL, use_cache=False)
        return output.last_hidden_state.flatten(0, 1)

    def _in_compute_dtype(self, tensor: Tensor) -> Tensor:
        """The tensor in the dtype of products with the head."""
        if self.compute_dtype is None:
            return tensor
        return tensor.to(self.compute_dtype)

    def forward(
        self,
        batch: MicroBatch,
        temperature: float = 1.0,
        features: bool = False,
        feature_temperature: float | None = None,
        objective: Objective | None = None,
        hidden: bool = False,
    ) -> HeadOutput:
        """Score the response tokens of a micro-batch.

        Args:
            batch: a micro-batch of N responses with T response tokens altogether.
            temperature: sampling temperature of the responses.
            features: compute the gradient features as well.
            feature_temperature: temperature of p_t in the features; None takes `temperature`.
            objective: a loss that is a sum over tokens, see `g2rl.policy.lm_head.head_pass`.
            hidden: compute the mean last hidden state of each response as well, that is the mean
                over the positions of its own tokens, the stop token included.

        Returns:
            Log-probabilities and entropies (T,); features (N, D), the loss and mean hidden states
            (N, D) where asked for.
        """
        # the features need to know which response each token belongs to
        request = None
        if features:
            scored_at = temperature if feature_temperature is None else feature_temperature
            request = FeatureRequest(batch.segments_T, len(batch.rows), scored_at)

        # the head's weight; with an adapter on it, the merged one
        head = self.model.get_output_embeddings()
        weight_VD = self._in_compute_dtype(merged_weight(head))

        # a token's own position follows the one that predicts it
        states = self._states(batch)
        mean_hidden_ND = None
        if hidden:
            own_states_TD = states.detach()[batch.positions_T + 1].float()
            mean_hidden_ND = mean_by_response(own_states_TD, batch)

        output = head_pass(
            self._in_compute_dtype(states[batch.positions_T]),
            weight_VD,
            batch.targets_T,
            temperature=temperature,
            bias_V=head.bias,
            features=request,
            objective=objective,
            tile_bytes=self.tile_bytes,
        )
        output.hidden_ND = mean_hidden_ND
        return output

    @torch.no_grad()
    def check_head(self) -> None:
        """Make sure that the model's logits are W h + b and nothing more.

        Raises:
            ValueError: the model scales, caps or otherwise changes its logits, so that log-probs
                and gradient features computed from its head would be wrong.
        """
        # a short input of any tokens
        head = self.model.get_output_embeddings()
        ids_BL = torch.arange(1, 9, device=self.device).unsqueeze(0) % head.weight.shape[0]

        # the model's logits, and its head applied to its last hidden states
        was_training = self.model.training
        self.model.eval()
        expected = self.model(input_ids=ids_BL, use_cache=False).logits.float()
        hidden = self.model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
        computed = head(hidden).float()
        self.model.train(was_training)

        # `not <` also catches logits that are not a number
        gap = (expected - computed).abs().max() / expected.abs().max().clamp_min(1e-6)
        if not gap < HEAD_TOLERANCE:
            raise ValueError(
                f"the logits of {type(self.model).__name__} are not its head applied to its last "
                f"hidden state (relative difference {gap:.3g}): soft-capped or scaled logits are "
                "not supported"
            )


def dropout_rates(config: Mapping[str, Any]) -> Iterator[float]:
    """Every dropout rate in a model's configuration, nested configurations included."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from dropout_rates(value)

        # attention_dropout, resid_pdrop, hidden_dropout_prob, ...
        elif "drop" in name and isinstance(value, float):
            yield value
