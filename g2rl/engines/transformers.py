"""Sample with the training model itself.

Each prompt is read once. What is kept of it is repeated for its samples, or shared by them
(`g2rl.engines.readers`). Prompts of similar length are decoded together, padded on the left. Rows
that have stopped are dropped as soon as a tenth of the batch has stopped.

Decoding pads on the left, keeps a cache and has neighbours; scoring pads on the right and does
without. Both give the same numbers for most architectures. Which they are is measured: with a few
tokens before the first sampling, and with a few responses of every sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g2rl.engines.drift import TOLERANCE, Drift, DriftError, drift_metrics, measure_drift
from g2rl.engines.engine import Key, SamplerMemory, uniforms
from g2rl.engines.next_token import next_tokens
from g2rl.engines.readers import Reader, reader_of
from g2rl.engines.witnesses import TOKENS, Witnesses, choose
from g2rl.policy.anatomy import (
    UnsupportedModelError,
    decoder_of,
    length_switches,
    positions_of,
)
from g2rl.policy.checks import FAILURES
from g2rl.policy.policy import Policy
from g2rl.types import Completion, SamplingParams, Tokenizer

COMPACT_AT = 0.1
"""Share of finished rows from which on dropping them is worth copying the cache; waiting for a
quarter was 5-15 % slower."""
PROBE_LENGTHS = (3, 9, 21)
"""Tokens of the prompts of the check before the first sampling: padding is at work."""
PROBE = SamplingParams(temperature=0.7, max_tokens=8)
PROBE_SAMPLES = 2


@dataclass(slots=True)
class _Batch:
    """B rows (responses) that are decoded together, and the tokens drawn since rows last left.

    Row number p * samples + g is sample g of prompt p.
    """

    rows: list[int]
    """Number of each row that is still in the batch."""
    last_B: Tensor
    """The token that each row reads next."""
    positions_B1: Tensor
    """Position of the token that each row reads next."""
    uniforms_BT: Tensor
    """The random number of each response token."""
    reader: Reader
    """Reads the next token of each row behind what it has read before."""
    done_B: Tensor
    """Whether each row has drawn a stop token."""
    columns: list[Tensor] = field(default_factory=list)
    """Tokens drawn since rows last left, one (B,) tensor a step; -1 after a row has stopped."""

    def release(self, everything: bool, tokens: dict[int, list[int]]) -> int:
        """Write out the tokens drawn so far and drop the finished rows.

        Args:
            everything: drop all rows, finished or not.
            tokens: response tokens by row number, which are extended.

        Returns:
            How many rows were dropped.
        """
        # one transfer from the device for all steps since the last release
        drawn = torch.stack(self.columns, dim=1).tolist()
        self.columns = []

        # a row that stopped since then has -1 behind its stop token
        for row, token_ids in zip(self.rows, drawn, strict=True):
            tokens[row].extend(token for token in token_ids if token >= 0)

        # keys and values of the rows that go on
        keep_B = torch.zeros_like(self.done_B) if everything else ~self.done_B
        index = keep_B.nonzero().squeeze(1)
        dropped = len(self.rows) - index.numel()
        if index.numel():
            self.reader.keep(index)

        # and everything else that has one entry a row
        self.rows = [self.rows[i] for i in index.tolist()]
        self.last_B, self.done_B = self.last_B[index], self.done_B[index]
        self.positions_B1, self.uniforms_BT = self.positions_B1[index], self.uniforms_BT[index]
        return dropped


class TransformersEngine:
    """Sample from the policy with forwards of transformers.

    The engine uses the policy's own module. With a sharded policy this is not possible: all ranks
    take part in each of its forwards, but they decode different numbers of tokens. The engine then
    holds whole weights of its own, in the dtype that the policy computes in, and `push_weights`
    gathers them.

    Args:
        policy: the training policy.
        tokenizer: decodes the response text.
        stop_ids: token ids that end a response.
        max_rows: responses decoded at once, which bounds the memory of the KV cache.
        drift_every: compare the log-probabilities of a few responses with those of scoring in the
            first sampling and in every `drift_every`-th after it; 0: in none. With a sharded policy
            a few tokens are sampled for this purpose at as many weight pushes, which all ranks make
            together.
        drift_tolerance: limit in nats, of the largest difference in float32 and of the mean
            difference in bfloat16; None: `drift.TOLERANCE`.

    Raises:
        ValueError: `max_rows` is below 1, or a setting of the comparison is below 0.
    """

    reports_logps = False

    def __init__(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        stop_ids: Sequence[int],
        max_rows: int = 512,
        drift_every: int = 1,
        drift_tolerance: float | None = None,
    ) -> None:
        if max_rows < 1:
            raise ValueError(f"engine.max_rows must be >= 1, got {max_rows}")
        if drift_every < 0 or (drift_tolerance is not None and drift_tolerance <= 0):
            raise ValueError(
                f"engine.drift_every must be >= 0 and engine.drift_tolerance > 0 or null, got "
                f"{drift_every} and {drift_tolerance}"
            )
        self.policy, self.tokenizer = policy, tokenizer
        self.stop_ids = list(stop_ids)
        self.max_rows = max_rows

        # the comparison with scoring
        dtype = policy.compute_dtype or next(policy.parameters()).dtype
        self.compared_in = "float32" if dtype in (torch.float32, torch.float64) else "bfloat16"
        self.tolerance = drift_tolerance or TOLERANCE[self.compared_in]
        self.drift_every = drift_every
        self.pushes = self.samplings = 0
        self.tried_lengths: set[int] = set()
        self.drift: Drift | None = None
        """What the latest comparison found; None if the latest sampling was not compared."""

        # the policy's module itself, unless it is sharded
        self.model = policy.model
        if policy.sharding is not None:
            self.model = policy.empty_copy(policy.device, policy.sharding.gathered_dtype)

    @staticmethod
    def sampler_memory(settings: Mapping[str, Any]) -> SamplerMemory:
        """See `Engine.sampler_memory`: a KV cache for `max_rows` responses, and no weights."""
        return SamplerMemory(max_rows=settings.get("max_rows", 512))

    def push_weights(self) -> None:
        """Gather a sharded policy's weights, and try whether the model can be sampled from.

        Where the policy's module is used, only the first push does anything: it is the try.

        Raises:
            UnsupportedModelError: at the first push, see `check_model`.
            DriftError: later, if samples of a sharded policy are not drawn from what is scored.
        """
        is_sharded = self.policy.sharding is not None
        if is_sharded:
            self.policy.copy_weights_to(self.model)

        # ranks meet here, and not in the samplings, of which they make different numbers
        self.pushes += 1
        if self.pushes == 1:
            drift = self.check_model()
            self.drift = drift if is_sharded and self.drift_every else None
        elif is_sharded and self.drift_every and (self.pushes - 1) % self.drift_every == 0:
            self.drift = self._probe(PROBE_LENGTHS)
            self._refuse_drift(self.drift)

    def check_model(self) -> Drift:
        """Sample a few tokens after prompts of different lengths and compare them with scoring.

        Returns:
            What was found.

        Raises:
            UnsupportedModelError: the architecture cannot be decoded this way, or not exactly.
        """
        name = type(self.policy.model).__name__
        instead = "engine=vllm decodes with kernels of its own; otherwise train another model"
        try:
            drift = self._probe(PROBE_LENGTHS)
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            raise UnsupportedModelError(
                f"engine=transformers cannot sample from {name}: its cache is none whose rows can "
                f"be selected, or it takes no left-padded batch ({type(error).__name__}: {error}). "
                f"{instead}"
            ) from error
        if not drift.share_of(self.tolerance, self.compared_in) <= 1:
            raise UnsupportedModelError(
                f"engine=transformers samples from {name} with other log-probs than scoring finds, "
                f"by {drift}, over the {self.compared_in} tolerance of {self.tolerance:g}: its "
                f"numbers depend on padding or on the other rows of a batch. {instead}"
            )
        return drift

    def _check_lengths(self, longest: int) -> None:
        """Pass, once each, the lengths from which on the model may compute otherwise.

        The check before the first sampling is too short for them, and the comparison of responses
        ends after their beginnings. Ranks sample different numbers of times, so the model that
        samples is compared with itself here, which no other rank has to join.

        Args:
            longest: tokens of the longest prompt and its response.

        Raises:
            UnsupportedModelError: padded on the left, the model computes something else there.
        """
        for length, key in length_switches(self.model.config).items():
            if length in self.tried_lengths or not max(PROBE_LENGTHS) < length < longest:
                continue
            self.tried_lengths.add(length)

            # a long prompt, whose response passes the length, and a short one beside it
            whole = self._whole_policy()
            drift = self._probe((length - PROBE.max_tokens // 2, min(PROBE_LENGTHS)), whole)
            if not drift.share_of(self.tolerance, self.compared_in) <= 1:
                name = type(self.policy.model).__name__
                raise UnsupportedModelError(
                    f"engine=transformers samples from {name} with other log-probs than scoring "
                    f"finds, by {drift}, once texts of different lengths pass {length} tokens "
                    f"({key} of its configuration): keep prompts and responses shorter, or "
                    "engine.max_rows=1, which pads nothing, or engine=vllm"
                )

    def _whole_policy(self) -> Policy:
        """The policy around the model that samples, which holds whole weights."""
        if self.policy.sharding is None:
            return self.policy
        policy = Policy(self.model)
        policy.compute_dtype = self.policy.compute_dtype
        policy._logit_shape = self.policy.logit_shape
        return policy

    def _probe(self, lengths: Sequence[int], policy: Policy | None = None) -> Drift:
        """Compare a few sampled tokens, after prompts that need padding, with scoring.

        Args:
            lengths: of the prompts, in tokens.
            policy: scores; None takes the policy of the engine.
        """
        # as long as the model has positions for
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        room = (positions_of(self.model.config) or max(PROBE_LENGTHS) + 99) - PROBE.max_tokens
        prompts: list[list[int]] = []
        for length in lengths:
            prompts.append([(3 + i) % vocabulary for i in range(max(1, min(length, room)))])

        # the same random numbers in every probe, and no stop ids
        keys = [(p,) for p in range(len(prompts))]
        rows = list(range(len(prompts) * PROBE_SAMPLES))
        witnesses = Witnesses(PROBE.temperature, {row: [] for row in choose(rows)})
        decoded = self._sample(prompts, keys, PROBE_SAMPLES, PROBE, [], witnesses)
        return self._compare(prompts, PROBE_SAMPLES, decoded, witnesses, policy)

    def _compare(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        decoded: Mapping[int, list[int]],
        witnesses: Witnesses,
        policy: Policy | None = None,
    ) -> Drift:
        """The drift of the watched responses, from their beginnings."""
        watched_prompts: list[Sequence[int]] = []
        groups: list[list[Completion]] = []
        for row, logps in witnesses.logps.items():
            # what was written down after the stop token is of no token
            token_ids = decoded[row][:TOKENS]
            watched_prompts.append(prompts[row // samples])
            groups.append([Completion(token_ids, "length", "", logps[: len(token_ids)])])
        scorer = policy or self.policy
        return measure_drift(scorer, watched_prompts, groups, witnesses.temperature)

    def _refuse_drift(self, drift: Drift) -> None:
        """Stop the run if samples were not drawn from what is scored."""
        if drift.share_of(self.tolerance, self.compared_in) <= 1:
            return
        raise DriftError(
            f"engine=transformers: the log-probs that responses were drawn from differ from those "
            f"of scoring by {drift}, over the {self.compared_in} tolerance of {self.tolerance:g}: "
            f"numbers of {type(self.policy.model).__name__} depend on padding, on the cache or on "
            "the other rows of a batch. engine.max_rows=1 decodes every response alone; "
            "engine.drift_tolerance moves the limit; see docs/engines.md"
        )

    def metrics(self) -> dict[str, float]:
        """See `Engine.metrics`."""
        return drift_metrics(self.drift, self.tolerance, self.compared_in)

    def close(self) -> None:
        """Does nothing: the engine holds neither processes nor files."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        samples: int,
        params: SamplingParams,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`.

        Raises:
            DriftError: watched responses were not drawn from what is scored.
            UnsupportedModelError: texts as long as these would not be, see `_check_lengths`.
        """
        if prompts:
            self._check_lengths(max(map(len, prompts)) + params.max_tokens)

        # which responses are watched, if any
        rows: list[int] = []
        for batch_rows in self._rows_of_batches(prompts, samples):
            rows += batch_rows
        is_compared = self.drift_every > 0 and self.samplings % self.drift_every == 0
        is_compared &= self.policy.sharding is None
        watched: dict[int, list[float]] = {}
        if is_compared:
            watched = {row: [] for row in choose(rows)}
        witnesses = Witnesses(params.temperature or 1.0, watched)  # greedy: as at temperature 1

        self.samplings += 1
        decoded = self._sample(
            prompts, keys, samples, params, self.stop_ids, witnesses, on_progress
        )
        if self.policy.sharding is None:
            self.drift = None
        if is_compared and watched:
            self.drift = self._compare(prompts, samples, decoded, witnesses)
            self._refuse_drift(self.drift)

        # prompt-major, as the rows are numbered
        results: list[list[Completion]] = []
        for p in range(len(prompts)):
            numbers = range(p * samples, (p + 1) * samples)
            results.append([self._finish(decoded[row]) for row in numbers])
        return results

    @torch.no_grad()
    def _sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        samples: int,
        params: SamplingParams,
        stop_ids: Sequence[int],
        witnesses: Witnesses,
        on_progress: Callable[[int], None] | None = None,
    ) -> dict[int, list[int]]:
        """Response tokens by row number."""
        # noise of training mode would make samples of another policy
        was_training = self.policy.training
        self.policy.eval()
        decoded: dict[int, list[int]] = {}
        try:
            for rows in self._rows_of_batches(prompts, samples):
                with self.policy.autocast():
                    batch = self._prefill(prompts, keys, rows, samples, params)

                    # lists of tokens come out of it, so autograd need not account for any tensor
                    inference = batch.reader.leaves_no_tensor
                    with torch.inference_mode() if inference else nullcontext():
                        decoded |= self._decode(batch, params, stop_ids, witnesses, on_progress)
        finally:
            self.policy.train(was_training)
        return decoded

    def _rows_of_batches(self, prompts: Sequence[Sequence[int]], samples: int) -> list[list[int]]:
        """Divide the rows into batches of at most `max_rows`, prompts of similar length together.

        A batch holds whole groups of `samples` rows, or a part of one group that is larger.

        Returns:
            The row numbers of each batch; row p * samples + g is sample g of prompt p.
        """
        # neighbours in length need the least padding
        rows_of_groups: list[list[int]] = []
        for p in sorted(range(len(prompts)), key=lambda p: len(prompts[p])):
            rows_of_groups.append(list(range(p * samples, (p + 1) * samples)))

        batches: list[list[int]] = []

        # a group that is larger than a batch is cut, and its prompt is read once for each slice
        if samples > self.max_rows:
            for rows in rows_of_groups:
                for start in range(0, samples, self.max_rows):
                    batches.append(rows[start : start + self.max_rows])
            return batches

        # otherwise whole groups, as many as fit
        groups_per_batch = self.max_rows // samples
        for start in range(0, len(rows_of_groups), groups_per_batch):
            batch: list[int] = []
            for rows in rows_of_groups[start : start + groups_per_batch]:
                batch += rows
            batches.append(batch)
        return batches

    def _prefill(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        rows: list[int],
        samples: int,
        params: SamplingParams,
    ) -> _Batch:
        """Read each prompt of a batch once and repeat its cache for its rows.

        The last token of the prompt is left out: the first decoding step reads it.
        """
        # the prompts of these rows, each once
        prompt_numbers = list(dict.fromkeys(row // samples for row in rows))
        batch_prompts = [prompts[p] for p in prompt_numbers]
        ids_PL, mask_PL = self._pad_left(batch_prompts)
        length = ids_PL.shape[1]

        # nothing to read before the last token of one-token prompts
        cache = None
        if length > 1:
            # positions count from the first real token; those of the padding are masked anyway
            positions_PL = (mask_PL.cumsum(-1) - 1).clamp_min(0)
            output = decoder_of(self.model)(
                input_ids=ids_PL[:, :-1],
                attention_mask=mask_PL[:, :-1],
                position_ids=positions_PL[:, :-1],
                use_cache=True,
            )
            cache = output.past_key_values

        # every row reads on behind its prompt
        place_of_prompt = {p: place for place, p in enumerate(prompt_numbers)}
        places = [place_of_prompt[row // samples] for row in rows]
        repeat_B = torch.tensor(places, device=ids_PL.device)
        reader = reader_of(self.model, cache, mask_PL, repeat_B, self._may_share())

        # and the random numbers of its sample
        noise = [uniforms(keys[row // samples], row % samples, params.max_tokens) for row in rows]
        return _Batch(
            rows=list(rows),
            last_B=ids_PL[repeat_B, -1],
            positions_B1=mask_PL[repeat_B].sum(-1, keepdim=True) - 1,
            uniforms_BT=torch.from_numpy(np.stack(noise)).to(ids_PL.device),
            reader=reader,
            done_B=torch.zeros(len(rows), dtype=torch.bool, device=ids_PL.device),
        )

    def _may_share(self) -> bool:
        """Whether rows may share what is kept of their prompts: where scoring and update do, too.

        Scores in bfloat16 would round what the kernels of attention keep in float32.
        """
        return self.policy.shares_prefixes and self.compared_in == "float32"

    def _pad_left(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, (P, L) each; all prompts end in the last column."""
        # which token fills the padding does not matter, because it is masked
        length = max(len(prompt) for prompt in prompts)
        ids: list[list[int]] = []
        mask: list[list[int]] = []
        for prompt in prompts:
            padding = length - len(prompt)
            ids.append([0] * padding + list(prompt))
            mask.append([0] * padding + [1] * len(prompt))
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _decode(
        self,
        batch: _Batch,
        params: SamplingParams,
        stop_ids: Sequence[int],
        witnesses: Witnesses,
        on_progress: Callable[[int], None] | None,
    ) -> dict[int, list[int]]:
        """Sample until every row has stopped or reached the limit.

        Returns:
            Response tokens by row number.
        """
        device = batch.last_B.device
        stops = torch.tensor(stop_ids, device=device)
        head = self.model.get_output_embeddings()
        tokens: dict[int, list[int]] = {row: [] for row in batch.rows}
        witnesses.enter(batch.rows, device)

        # one token a row and step
        for t in range(params.max_tokens):
            hidden_BD = batch.reader.read(batch.last_B, batch.positions_B1)

            # rows that have stopped draw as well, but their tokens do not count
            logits_BV = self.policy.logit_shape(head(hidden_BD))
            batch.last_B = next_tokens(logits_BV, batch.uniforms_BT[:, t], params)
            witnesses.see(logits_BV, batch.last_B, t)
            batch.columns.append(batch.last_B.masked_fill(batch.done_B, -1))

            # every row grows by one token, whether it has stopped or not
            batch.done_B = batch.done_B | torch.isin(batch.last_B, stops)
            batch.positions_B1 = batch.positions_B1 + 1

            # copying the cache pays once enough rows have stopped
            # counting them waits for the device
            finished = int(batch.done_B.sum())
            everything = finished == len(batch.rows) or t == params.max_tokens - 1
            if everything or finished >= COMPACT_AT * len(batch.rows):
                witnesses.leave()
                dropped = batch.release(everything, tokens)
                witnesses.enter(batch.rows, device)
                if on_progress:
                    on_progress(dropped)
            if not batch.rows:
                break
        return tokens

    def _finish(self, token_ids: list[int]) -> Completion:
        """The completion of a decoded response."""
        finish = "length"
        if token_ids and token_ids[-1] in self.stop_ids:
            finish = "stop"
        return Completion(
            token_ids, finish, self.tokenizer.decode(token_ids, skip_special_tokens=True)
        )
