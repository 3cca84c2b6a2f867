"""The records that flow through g2rl, and the legend of tensor axes.

Axis letters, used as suffixes of tensor names everywhere (`rewards_PG`, `hidden_TD`):

    P  prompts in a batch              G  responses per prompt (the *group*)
    N  responses, flattened: N = P*G, prompt-major (n = p*G + g)
    T  response tokens                 V  vocabulary
    D  width of the last hidden state  E  width of an external embedding

In batches of tokens, attention and caches also:

    B  rows that are computed at once  L  tokens of a row; of all rows where they are packed
    S  tokens of a prompt              M  places of a cache; texts that are encoded
    K  key heads; keys in a mask       R  query heads that one key head serves
    H  query heads, H = K*R            Q  queries, of all heads that are computed together
    X  prompts times key heads, P*K    Y  rows times key heads, B*K
    d  width of one head               1  an axis that is kept for broadcasting

A file that means something else by one of them, or has another letter, says so: in statistics S
counts seeds.

Importing this module must stay cheap (no torch): grading workers import it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


def fits_a_float(number: float) -> bool:
    """Whether a number is finite as a float; a whole one of Python may be larger than every float,
    and comparing it with the largest is exact."""
    return abs(number) <= sys.float_info.max


@dataclass(slots=True, frozen=True)
class Problem:
    """One question with a verifiable answer, e.g. ``Problem("c-7", "use 3 7 2 make 13 :",
    "13")``."""

    id: str
    """Unique within its task; names the problem in every file."""
    prompt: str
    """What the user turn says, before the model's chat template."""
    answer: str
    """The gold answer in the form the task's verifier expects."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Plain data the verifier needs (numbers and target, options of a multiple-choice question,
    ...)."""


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that g2rl calls; options are those of transformers."""

    chat_template: str | None
    eos_token_id: Any
    """One token id, a list of them, or None."""
    pad_token_id: int | None

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]:
        """Token ids of a text and, on request, the place of each token in it."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Render messages the way the model was taught to read them."""
        ...

    def encode(self, text: str, **options: Any) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, token_ids: list[int], **options: Any) -> str:
        """Text of token ids."""
        ...

    def convert_ids_to_tokens(self, ids: int) -> Any:
        """The vocabulary's entry of a token id."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Token ids by vocabulary entry."""
        ...

    def save_pretrained(self, folder: Any) -> Any:
        """Write the tokenizer's files to a folder."""
        ...


@dataclass(slots=True, frozen=True)
class Verdict:
    """What a verifier says of one completion, e.g. ``Verdict(True, "13", "string", 0.0001)``."""

    correct: bool
    """True when the final answer is right. Anything unreadable is wrong."""
    answer: str | None
    """The extracted final answer; None when none could be read."""
    route: str
    """The rule that decided: string, math, letter, expression, unparsed, timeout, killed, ..."""
    seconds: float = 0.0
    """Wall-clock time the decision took."""
    graded: float | None = None
    """The reward of a verifier that gives more than right and wrong; None of any other."""

    @property
    def reward(self) -> float:
        """Base reward: the graded one, else +1 for a right answer and -1 for a wrong one."""
        if self.graded is not None:
            return self.graded
        return 1.0 if self.correct else -1.0


@dataclass(slots=True, frozen=True)
class SamplingParams:
    """How responses are drawn. ``SamplingParams(temperature=0.8, max_tokens=1024)``; 0 means
    greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    max_tokens: int = 128

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0 (0 is greedy), got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0 (0 keeps every token), got {self.top_k}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be >= 1, got {self.max_tokens}")


@dataclass(slots=True, frozen=True)
class Completion:
    """One sampled response."""

    token_ids: list[int]
    """Response tokens; the stop token is kept as the last one when `finish` is "stop"."""
    finish: str
    """"stop" when a stop token ended it, "length" when the token limit did."""
    text: str
    """Decoded response without special tokens; hostile input, never evaluated."""
    logps: list[float] | None = None
    """Log-probability of each response token under the distribution that the sampler drew it from
    (temperature and truncation applied); None from an engine that shares the policy's weights, and
    for greedy samples."""


@dataclass(slots=True)
class GroupBatch:
    """Everything a signal may look at: P whole groups of G responses, of all ranks.

    Optional fields are None unless the `needs` of a signal or an observer ask for them.
    """

    # what the verifier says
    rewards_PG: Tensor
    """Base rewards as graded: -1 or +1, or any finite numbers where a verifier gives them; see
    `r01_PG` for another convention."""
    correct_PG: Tensor
    """Boolean verdicts."""
    lengths_PG: Tensor
    """Response lengths in tokens (int64)."""
    entropy_PG: Tensor | None = None
    """Mean token entropy of each response under the behaviour policy, nats, needs={"entropy"}."""
    step: int = 0
    """Training step, counted from 1; 0 where nothing is trained."""
    features_PGD: Tensor | None = None
    """Gradient features Phi (method: sequence-level mean of phi_t), needs={"features"}."""
    embeddings_PGE: Tensor | None = None
    """External sentence embeddings, needs={"embeddings"}."""
    answers: list[list[str | None]] | None = None
    """Extracted final answers, P lists of G, needs={"answers"}."""
    # what only some signals need, from here on: more of the verifier's word and of the algorithm
    answer_keys: list[list[str | None]] | None = None
    """Normal forms of the answers, P lists of G, needs={"answers"}: equal keys mean equivalent
    answers. None where a batch was made without a verifier; then answers are their own keys."""
    advantages_PG: Tensor | None = None
    """What the algorithm (`algorithm=...`) makes of the base rewards, needs={"advantages"}; in a
    combination of signals, the advantages so far."""
    # what the policy says
    logp_sum_PG: Tensor | None = None
    """Log-probability of each response under the behaviour policy at the sampling temperature,
    summed over its tokens, nats, needs={"logps"}."""
    token_entropies: list[Tensor] | None = None
    """Entropy of every response token, N tensors (T_n,), nats, needs={"token_entropy"}."""
    hidden_PGD: Tensor | None = None
    """Last hidden state of the policy, averaged over the tokens of each response,
    needs={"hidden"}."""
    reference_hidden_PGD: Tensor | None = None
    """The same of the frozen initial policy, needs={"reference_hidden"}. Costs a forward, unless
    the KL term makes it anyway."""
    # words, and what counts as the same
    problem_ids: list[str] | None = None
    """Id of each problem, P texts, needs={"problem_ids"}."""
    texts: list[list[str]] | None = None
    """Decoded responses, P lists of G, needs={"texts"}. Hostile input, never evaluated."""
    partition_PG: Tensor | None = None
    """Cluster of each response (int64), needs={"partition"}: equal numbers in one group mean the
    same cluster. Made by the partitioner of `partition=...`."""
    first_alike_PG: Tensor | None = None
    """Place of the first response of the group with the same tokens (int64), see
    `g2rl.formulas.feature_sums.first_alike`."""

    @property
    def r01_PG(self) -> Tensor:
        """The verdicts as rewards of 0 and 1, in the dtype of the base rewards."""
        return self.correct_PG.to(self.rewards_PG.dtype)

    @property
    def logp_mean_PG(self) -> Tensor | None:
        """Mean log-probability of the tokens of each response, nats; 0 for an empty response.

        None unless the batch carries `logp_sum_PG`.
        """
        # an empty response has the sum 0
        if self.logp_sum_PG is None:
            return None
        return self.logp_sum_PG / self.lengths_PG.clamp(min=1)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the batch by field name, without those that are None.

        Only those of one value or vector a response, so not `token_entropies`.
        """
        # a dataclass would list what is no tensor too
        fields = {
            "rewards_PG": self.rewards_PG,
            "correct_PG": self.correct_PG,
            "lengths_PG": self.lengths_PG,
            "features_PGD": self.features_PGD,
            "embeddings_PGE": self.embeddings_PGE,
            "entropy_PG": self.entropy_PG,
            "advantages_PG": self.advantages_PG,
            "logp_sum_PG": self.logp_sum_PG,
            "hidden_PGD": self.hidden_PGD,
            "reference_hidden_PGD": self.reference_hidden_PGD,
            "partition_PG": self.partition_PG,
        }
        return {name: tensor for name, tensor in fields.items() if tensor is not None}


@dataclass(slots=True)
class Shaped:
    """What a signal returns: the reward that enters the advantage, or the advantage itself, and how
    it came about."""

    rewards_PG: Tensor
    """Shaped rewards; never logged as accuracy and never used in evaluation. A signal that returns
    advantages leaves the base rewards here."""
    # the loss
    entropy_coef: float = 0.0
    """Coefficient of the entropy bonus: loss -= entropy_coef * mean token entropy."""
    token_bonus: list[Tensor] | None = None
    """Optional N tensors (T_n,), added to the advantage of each response token."""
    # what is written down
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    """Per-response quantities (P, G) written to the geometry files, e.g. "nu"."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Scalars for metrics.jsonl, named `quantity` (the caller adds the stage)."""
    # advantages, and who takes part
    advantage_scale: str | None = None
    """Whether advantages of `rewards_PG` are divided by the spread of the group ("std") or not
    ("none"), where that is part of the signal. None: as `algorithm.advantage_scale` says."""
    advantages_PG: Tensor | None = None
    """Advantages that are used as they are: they are not centred, not divided by a spread, and the
    policy for uniform groups does not apply. None: the algorithm makes advantages of
    `rewards_PG`."""
    keep_P: Tensor | None = None
    """Boolean (P,): groups that take part in the update. The others count in no mean, as if they
    had not been sampled. None keeps all."""
    keep_PG: Tensor | None = None
    """Boolean (P, G): responses that take part in the update, likewise. None keeps all."""

    @property
    def kept_PG(self) -> Tensor | None:
        """Responses that take part in the update, by both masks, (P, G); None if all do."""
        # one mask alone, or both
        if self.keep_P is None:
            return self.keep_PG
        by_group_PG = self.keep_P.unsqueeze(-1).expand_as(self.rewards_PG)
        if self.keep_PG is None:
            return by_group_PG
        return by_group_PG & self.keep_PG
