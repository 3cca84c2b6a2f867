"""Sampling with the training model itself: prefill once a group, decode, let finished rows go.

Each prompt is prefilled once and its cache is repeated for its samples; rows of a batch are prompts
of similar length (left-padded); rows that have stopped leave the batch as soon as a tenth has. On
CPU a plain forward with a growing cache is the fastest path transformers offers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g2rl.engines.engine import Key, uniforms
from g2rl.engines.next_token import next_tokens
from g2rl.policy.policy import Policy
from g2rl.types import Completion, SamplingParams, Tokenizer

COMPACT_AT = (
    0.1  # share of finished rows that makes copying the cache worth while (0.25 was 5-15 % slower)
)


@dataclass(slots=True)
class _Batch:
    """Rows being decoded together, and the tokens drawn since rows last left."""

    ids: list[int]
    """Global row number (prompt * samples + sample) of each live row."""
    last_B: Tensor
    """The token each row is about to read."""
    mask_BL: Tensor
    positions_B1: Tensor
    uniforms_BT: Tensor
    cache: Any
    done_B: Tensor
    columns: list[Tensor] = field(default_factory=list)
    """Tokens drawn since the last release, one (B,) tensor a step; -1 after a row has stopped."""

    def release(self, everything: bool, tokens: dict[int, list[int]]) -> int:
        """Write out the drawn tokens, drop finished rows (or all) and return how many were
        dropped."""
        # tokens of each row, in the order in which they were drawn
        drawn = torch.stack(self.columns, dim=1).tolist()
        self.columns = []
        for row, values in zip(self.ids, drawn, strict=True):
            tokens[row].extend(v for v in values if v >= 0)

        # rows that go on
        keep = torch.zeros_like(self.done_B) if everything else ~self.done_B
        index = keep.nonzero().squeeze(1)
        dropped = len(self.ids) - index.numel()
        if index.numel():
            self.cache.batch_select_indices(index)

        # everything that belongs to a row goes with it
        self.ids = [self.ids[i] for i in index.tolist()]
        self.last_B, self.done_B = self.last_B[index], self.done_B[index]
        self.mask_BL, self.positions_B1 = self.mask_BL[index], self.positions_B1[index]
        self.uniforms_BT = self.uniforms_BT[index]
        return dropped


class TransformersEngine:
    """Sample from a causal LM by transformers forwards; weights are shared with the policy.

    A sharded policy cannot be decoded with, rank by rank and token by token: then the engine holds
    whole weights of its own, in the dtype that the policy computes in, and `push_weights` gathers
    them.

    Args:
        policy: the training policy; unless it is sharded, its weights are shared and never copied.
        tokenizer: decodes the response text.
        stop_ids: token ids that end a response.
        max_rows: responses decoded at once (bounds the memory of the KV cache).
    """

    reports_logps = False

    def __init__(
        self, policy: Policy, tokenizer: Tokenizer, stop_ids: Sequence[int], max_rows: int = 512
    ) -> None:
        if max_rows < 1:
            raise ValueError(f"engine.max_rows must be >= 1, got {max_rows}")
        self.policy, self.tokenizer = policy, tokenizer
        self.model = policy.model
        if policy.sharding is not None:
            self.model = policy.empty_copy(policy.device, policy.sharding.gathered_dtype)
        self.stop_ids = list(stop_ids)
        self.max_rows = max_rows

    def push_weights(self) -> None:
        """Gather a sharded policy's weights; nothing to do where the policy's module is the
        sampler."""
        if self.policy.sharding is not None:
            self.policy.copy_weights_to(self.model)

    def close(self) -> None:
        """Nothing to do: the engine holds nothing of its own."""

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        samples: int,
        params: SamplingParams,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. Prompts of one batch have similar lengths; results keep their
        order."""
        # batch by batch; rows find their place by number
        was_training = self.model.training
        self.model.eval()
        results: list[list[Completion | None]] = [[None] * samples for _ in prompts]
        try:
            for rows in self._rows_of_batches(prompts, samples):
                with self.policy.autocast():
                    batch = self._prefill(prompts, keys, rows, samples, params)
                    decoded = self._decode(batch, params, on_progress)
                for row, token_ids in decoded.items():
                    results[row // samples][row % samples] = self._finish(token_ids)
        finally:
            self.model.train(was_training)
        return results  # type: ignore[return-value]  # every row was decoded

    def _rows_of_batches(self, prompts: Sequence[Sequence[int]], samples: int) -> list[list[int]]:
        """Rows of each batch: whole groups where one fits, otherwise slices of one group.

        Row p * samples + g is sample g of prompt p; prompts of similar length come together.
        """
        rows_of_groups: list[list[int]] = []
        for p in sorted(range(len(prompts)), key=lambda p: len(prompts[p])):
            rows_of_groups.append(list(range(p * samples, (p + 1) * samples)))

        batches: list[list[int]] = []
        if samples > self.max_rows:
            for rows in rows_of_groups:
                for start in range(0, samples, self.max_rows):
                    batches.append(rows[start : start + self.max_rows])
            return batches
        groups_per_batch = self.max_rows // samples
        for start in range(0, len(rows_of_groups), groups_per_batch):
            batches.append(sum(rows_of_groups[start : start + groups_per_batch], []))
        return batches

    def _prefill(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        rows: list[int],
        samples: int,
        params: SamplingParams,
    ) -> _Batch:
        """Run each prompt once up to its last token and repeat the cache for its rows."""
        device = self.model.device
        own_prompts = list(dict.fromkeys(row // samples for row in rows))

        # left-pad the prompts, so that all end in the same column
        length = max(len(prompts[p]) for p in own_prompts)
        ids: list[list[int]] = []
        mask: list[list[int]] = []
        for p in own_prompts:
            padding = length - len(prompts[p])
            ids.append([0] * padding + list(prompts[p]))
            mask.append([0] * padding + [1] * len(prompts[p]))
        ids_PL = torch.tensor(ids, device=device)
        mask_PL = torch.tensor(mask, device=device)

        # read each prompt once, but for its last token, which the first decoding step reads
        cache = None
        if length > 1:
            positions_PL = (mask_PL.cumsum(-1) - 1).clamp_min(0)
            output = self.model.base_model(
                input_ids=ids_PL[:, :-1],
                attention_mask=mask_PL[:, :-1],
                position_ids=positions_PL[:, :-1],
                use_cache=True,
            )
            cache = output.past_key_values

        # every row gets its prompt's cache, and random numbers of its own
        place = {p: i for i, p in enumerate(own_prompts)}
        repeat_B = torch.tensor([place[row // samples] for row in rows], device=device)
        if cache is not None:
            cache.batch_select_indices(repeat_B)
        noise = [uniforms(keys[row // samples], row % samples, params.max_tokens) for row in rows]
        return _Batch(
            ids=list(rows),
            last_B=ids_PL[repeat_B, -1],
            mask_BL=mask_PL[repeat_B],
            positions_B1=mask_PL[repeat_B].sum(-1, keepdim=True) - 1,
            uniforms_BT=torch.from_numpy(np.stack(noise)).to(device),
            cache=cache,
            done_B=torch.zeros(len(rows), dtype=torch.bool, device=device),
        )

    def _decode(
        self, batch: _Batch, params: SamplingParams, on_progress: Callable[[int], None] | None
    ) -> dict[int, list[int]]:
        """Sample until every row has stopped or reached its limit; returns the response tokens."""
        # one token a row and step
        stops = torch.tensor(self.stop_ids, device=batch.last_B.device)
        head = self.model.get_output_embeddings()
        tokens: dict[int, list[int]] = {row: [] for row in batch.ids}
        for t in range(params.max_tokens):
            output = self.model.base_model(
                input_ids=batch.last_B.unsqueeze(1),
                attention_mask=batch.mask_BL,
                position_ids=batch.positions_B1,
                past_key_values=batch.cache,
                use_cache=True,
            )

            # draw
            batch.cache = output.past_key_values
            batch.last_B = next_tokens(
                head(output.last_hidden_state[:, -1]), batch.uniforms_BT[:, t], params
            )
            batch.columns.append(batch.last_B.masked_fill(batch.done_B, -1))

            # rows that have stopped stay until enough of them have
            batch.done_B = batch.done_B | torch.isin(batch.last_B, stops)
            batch.mask_BL = torch.nn.functional.pad(batch.mask_BL, (0, 1), value=1)
            batch.positions_B1 = batch.positions_B1 + 1

            # release rows
            finished = int(batch.done_B.sum())
            everything = finished == len(batch.ids) or t == params.max_tokens - 1
            if everything or finished >= COMPACT_AT * len(batch.ids):
                dropped = batch.release(everything, tokens)
                if on_progress:
                    on_progress(dropped)
            if not batch.ids:
                break
        return tokens

    def _finish(self, token_ids: list[int]) -> Completion:
        """The completion of a decoded response."""
        stopped = bool(token_ids) and token_ids[-1] in self.stop_ids
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return Completion(token_ids, "stop" if stopped else "length", text)
