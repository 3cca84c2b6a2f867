"""The policy: a causal LM together with its tiled head, as one module.

They are one module so that everything that needs the weights happens inside one forward, where the
hooks of FSDP have gathered them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from g2rl.policy.anatomy import UnsupportedModelError, decoder_of
from g2rl.policy.batching import MicroBatch, Sequences, make_micro_batch, mean_by_response
from g2rl.policy.checks import (
    CAP_KEY,
    SCALE_KEY,
    LogitShape,
    check_class,
    check_losses,
    check_padding,
    logit_keys,
    measure_logits,
    modes_differ,
    noise_keys,
)
from g2rl.policy.lean_modules import with_lean_modules
from g2rl.policy.lm_head import DEFAULT_TILE_BYTES, FeatureRequest, HeadOutput, Objective, head_pass
from g2rl.policy.lora import (
    adapter_dropouts,
    base_layer,
    merged_items,
    merged_state,
    merged_weight,
)
from g2rl.policy.prefix_sharing import SHARING_CHOICES, can_share, layout_keywords
from g2rl.policy.sharding import Gathered, ShardSettings, blank, reshard, shard, whole
from g2rl.policy.weights import DTYPES, as_in_files, without_second_names


class ForwardOptions(TypedDict, total=False):
    """What a forward computes besides log-probabilities and entropies, see `Policy.forward`."""

    features: bool
    feature_temperature: float | None
    objective: Objective | None
    hidden: bool


class Scorable(Protocol):
    """What `g2rl.policy.scoring.score` can score with: a policy, or one with its adapters off."""

    training: bool
    """Whether it is in training mode, as for any `torch.nn.Module`."""

    @property
    def shares_prefixes(self) -> bool:
        """Whether it takes packed micro-batches, see `g2rl.policy.packing`."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the computation; micro-batches have to lie there."""
        ...

    def __call__(
        self, batch: MicroBatch, temperature: float = 1.0, **options: Unpack[ForwardOptions]
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
        training_noise: let the update compute with the noise of training mode (dropout, router
            jitter). Without it the update's forward is that of the policy which sampled; the
            dropout of adapters is on nevertheless, because it is a setting of the run.
        prefix_sharing: whether a prompt is computed once for all of its responses; `check` finds
            out what "auto" comes to, see `g2rl.policy.prefix_sharing`.
        lean_modules: replace norms and MLPs of the model, in place, by modules that compute the
            same and keep less for the backward, see `g2rl.policy.lean_modules`. False leaves the
            model as it is, for models that another program trains.

    Raises:
        ValueError: another compute dtype than these two, or another choice of prefix sharing.
        UnsupportedModelError: the output head is not linear, or the model cannot be taken apart.
    """

    def __init__(
        self,
        model: Any,
        tile_bytes: int = DEFAULT_TILE_BYTES,
        compute_dtype: str | None = None,
        training_noise: bool = False,
        prefix_sharing: str = "off",
        lean_modules: bool = True,
    ) -> None:
        super().__init__()
        if prefix_sharing not in SHARING_CHOICES:
            raise ValueError(
                f"model.prefix_sharing must be one of {SHARING_CHOICES}, got {prefix_sharing!r}"
            )
        if compute_dtype not in (None, "bfloat16"):
            raise ValueError(f"model.compute_dtype must be null or bfloat16, got {compute_dtype!r}")
        self.model = model
        self.tile_bytes = tile_bytes
        self.compute_dtype = DTYPES[compute_dtype] if compute_dtype else None
        self.training_noise = training_noise
        self.prefix_sharing = prefix_sharing
        self.shares_prefixes = False  # until `check` has found that nothing speaks against it

        # what is measured with a forward, once and before the weights are divided
        self._logit_shape: LogitShape | None = None
        self._has_noise: bool | None = None

        # these are set by `shard`
        self.skeleton: Skeleton | None = None
        self.sharding: ShardSettings | None = None
        self._device: torch.device | None = None  # of the computation; None: where the weights lie

        # the tiled head computes logits itself, which it can do only for a linear one
        head = model.get_output_embeddings()
        if not isinstance(base_layer(head), nn.Linear):
            raise UnsupportedModelError(
                f"the output head of {type(model).__name__} is {type(head).__name__}, g2rl needs a "
                "linear one; train another architecture"
            )

        # after what may be refused, because it changes the model in place
        if lean_modules:
            with_lean_modules(model)

    @property
    def device(self) -> torch.device:
        """The device of the computation; divided weights may lie in host memory nevertheless."""
        return self._device or next(self.model.parameters()).device

    @property
    def decoder(self) -> nn.Module:
        """The model without its head, whose logits would take (B, L, V)."""
        return decoder_of(self.model)

    @property
    def logit_shape(self) -> LogitShape:
        """What the model does to the output of its head, measured at the first use."""
        # a check may have measured it already
        if self._logit_shape is None:
            # a configuration without such a key leaves nothing to measure
            config = self.model.config
            if logit_keys(config, SCALE_KEY) or logit_keys(config, CAP_KEY):
                self.check_head()
            else:
                self._logit_shape = LogitShape()
        assert self._logit_shape is not None
        return self._logit_shape

    @property
    def has_dropout(self) -> bool:
        """Whether a forward of the update differs from that of the policy which sampled.

        Adapters with dropout make it differ once they have moved. Everything else is measured, at
        the first use, by comparing a forward in training mode with one in evaluation mode.
        """
        if any(True for _ in adapter_dropouts(self.model)):
            return True
        if self._has_noise is None:
            self._has_noise = self._measure_noise()
        return self._has_noise

    def _measure_noise(self) -> bool:
        """Compare the two modes on two short sequences; see `has_dropout`."""
        was_training = self.training

        # no module changes its mode, so nothing can differ
        self.train()
        some_module_trains = any(module.training for module in self.model.modules())
        self.train(was_training)
        if not some_module_trains:
            return False

        # tokens of every row count, so that a rare event is not missed
        sequences = Sequences([[1], [2]], [list(range(3, 35)), list(range(5, 29))])
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        for response in sequences.responses:
            response[:] = [token % vocabulary for token in response]
        batch = make_micro_batch(sequences, [0, 1], self.device)
        noisy = modes_differ(lambda: self.hidden(batch), self.train)
        self.train(was_training)
        return noisy

    def train(self, mode: bool = True) -> Policy:
        """Switch to the mode of the update, or to evaluation mode.

        Unless `training_noise` is set, the update computes in evaluation mode too, so that its
        forward is that of the policy which sampled. Two kinds of modules need training mode
        nevertheless: those that recompute activations, and the dropout of adapters.
        """
        # everything into evaluation mode, but for the policy itself; the walk that sets the mode
        # takes many times as long as a look at whether all have it
        noisy = mode and self.training_noise
        if any(module.training != noisy for module in self.model.modules()):
            super().train(noisy)
        self.training = mode
        if mode:
            for module in self.model.modules():
                if getattr(module, "gradient_checkpointing", False):
                    module.training = True
            for dropout in adapter_dropouts(self.model):
                dropout.train()
        return self

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

        This is what an engine takes over. Adapters are merged, experts are separate as in files,
        and a head that is tied to the embedding comes once. The weights of a sharded policy are
        gathered one at a time; this is collective, so every rank has to exhaust the iterator.
        """
        if self.sharding is not None:
            # one whole weight at a time
            reshard(self)
            for name, weight in merged_items(self.model, Gathered(self.model)):
                yield from as_in_files(self.model, {name: weight}).items()
        else:
            # nothing is copied but merged weights, so all of them can be there at once
            weights = dict(without_second_names(merged_state(self.model)))
            yield from as_in_files(self.model, weights).items()

    def shard(self, mesh: DeviceMesh, settings: ShardSettings, offload: bool = False) -> Policy:
        """Divide the weights over the mesh, in place.

        From here on all ranks have to call the same methods together. The optimizer has to be made
        afterwards, of the divided weights.

        Args:
            mesh: the processes.
            settings: how weights are gathered and gradients are summed.
            offload: keep the divided weights in host memory.
        """
        # what can no longer be told from divided weights: shapes, ties, the device of computation,
        # and what takes a forward that not every rank would join
        self._logit_shape, self._has_noise = self.logit_shape, self.has_dropout
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
        with self.autocast():
            output = self.decoder(
                input_ids=batch.input_ids_BL, use_cache=False, **layout_keywords(batch)
            )
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
        # z = cap tanh(scale x / cap), divided by tau, is a cap of cap / scale on x and tau / scale
        shape = self.logit_shape
        cap = None if shape.cap is None else shape.cap / shape.scale

        # the features need to know which response each token belongs to
        request = None
        if features:
            scored_at = temperature if feature_temperature is None else feature_temperature
            request = FeatureRequest(batch.segments_T, len(batch.rows), scored_at / shape.scale)

        # the head's weight; with an adapter on it, the merged one
        head = self.model.get_output_embeddings()
        weight_VD = self._in_compute_dtype(merged_weight(head))

        # a response token has a state of its own, and another that predicts it
        states = self._states(batch)
        mean_hidden_ND = None
        if hidden:
            own_states_TD = states.detach()[batch.own_positions_T].float()
            mean_hidden_ND = mean_by_response(own_states_TD, batch)

        output = head_pass(
            self._in_compute_dtype(states[batch.positions_T]).to(weight_VD.dtype),
            weight_VD,
            batch.targets_T,
            temperature=temperature / shape.scale,
            cap=cap,
            bias_V=head.bias,
            features=request,
            objective=objective,
            tile_bytes=self.tile_bytes,
        )
        output.hidden_ND = mean_hidden_ND
        return output

    def check(self) -> None:
        """Make sure, on a few tokens and before the first rollout, that numbers will be right.

        Raises:
            UnsupportedModelError: the model could not be loaded again or asks for a loss of its
                own, the logits are not those of the head, hidden states depend on padding or
                neighbours, recomputing activations switches noise on, or prefixes are to be
                shared and cannot.
        """
        check_class(self.model)
        check_losses(self.model)
        self.check_head()
        was_training = self.training
        self.eval()
        check_padding(self.model, self.decoder)
        self.train(was_training)

        # noise that nobody has asked for: a block that recomputes is in training mode
        self._has_noise = self._measure_noise()
        if self._has_noise and not self.training_noise:
            keys = ", ".join(noise_keys(self.model.config.to_dict())) or "none named so"
            raise UnsupportedModelError(
                f"model.gradient_checkpointing=true switches on noise in the blocks of "
                f"{type(self.model).__name__}, so that the update would not learn from the policy "
                f"that sampled: set these keys of its configuration to 0 by model.overrides "
                f"({keys}), or model.gradient_checkpointing=false, or model.training_noise=true"
            )

        # now that it is known whether the update is noisy
        self.shares_prefixes = can_share(self)

    def check_head(self) -> None:
        """Find out how the model's logits follow from its head.

        Raises:
            UnsupportedModelError: they are more than the head's outputs, scaled or soft-capped.
        """
        was_training = self.training
        self.eval()
        self._logit_shape = measure_logits(self.model, self.decoder)
        self.train(was_training)
