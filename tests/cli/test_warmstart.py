"""The warm start: what is learned of a demonstration, and that every recipe makes a policy."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from g2rl.cli.warmstart import IGNORED, batches, collate, encoded, learning_rate, main
from g2rl.policy.loading import load
from g2rl.tasks.recipes import RECIPES, Demonstration
from g2rl.tasks.word_policy import SPECIALS, word_tokenizer


def test_only_what_is_not_given_is_learned() -> None:
    inputs, labels = collate([([1, 5], [6, 2]), ([1, 5, 7], [2])])
    assert inputs.tolist() == [[1, 5, 6, 2], [1, 5, 7, 2]]
    assert labels.tolist() == [[IGNORED, IGNORED, 6, 2], [IGNORED, IGNORED, IGNORED, 2]]
    padded, ignored = collate([([1], [2]), ([1, 5], [6, 2])])
    assert padded.tolist() == [[1, 2, 0, 0], [1, 5, 6, 2]]
    assert ignored.tolist()[0] == [IGNORED, 2, IGNORED, IGNORED]

    # the first word of a completion may be given
    words = ["a", "b", "c"]
    tokenizer = word_tokenizer(words)
    recipe = RECIPES["detour"]
    ids = {word: len(SPECIALS) + place for place, word in enumerate(words)}
    for given, learned in ((0, ["b", "c"]), (1, ["c"])):
        shown = Demonstration("a", "b c", given)
        changed = dataclasses.replace(recipe, demonstrate=lambda seed, index, shown=shown: shown)
        prompt_ids, learned_ids = encoded(tokenizer, changed, 0)
        assert learned_ids == [*(ids[word] for word in learned), 2]
        assert prompt_ids + learned_ids == [1, ids["a"], ids["b"], ids["c"], 2]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_gives_batches_of_its_own_words(name: str) -> None:
    recipe = dataclasses.replace(RECIPES[name], steps=3, batch=4)
    tokenizer = word_tokenizer(recipe.words)
    drawn = list(batches(tokenizer, recipe))
    assert len(drawn) == 3
    for inputs, labels in drawn:
        assert inputs.shape == labels.shape
        assert inputs.shape[0] == 4
        assert inputs[:, 0].tolist() == [1] * 4
        assert (labels[:, 0] == IGNORED).all()
        assert int((labels == 2).sum()) == 4, "every end is learned"
    again = list(batches(tokenizer, recipe))
    assert all(torch.equal(one[0], two[0]) for one, two in zip(drawn, again, strict=True))


def test_a_shipped_policy_speaks_the_words_of_its_recipe() -> None:
    for name, recipe in RECIPES.items():
        source = "builtin:tiny" if name == "countdown" else f"builtin:{name}"
        loaded = load(source, device="cpu")
        words = [*SPECIALS, *recipe.words]
        assert loaded.tokenizer.get_vocab() == {word: id_ for id_, word in enumerate(words)}
        assert loaded.model.config.hidden_size == recipe.width
        assert loaded.model.config.intermediate_size == recipe.inner_width


def test_the_command_writes_a_policy_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "made"
    words = ["--task", "detour", "--steps", "2", "--batch", "4", "--out", str(out)]
    assert main(words) == 0
    loaded = load(str(out), device="cpu")
    assert loaded.stop_ids == [2]
    ids = torch.tensor([loaded.tokenizer.encode("<bos> walls a2 b3 :")])
    assert loaded.model(input_ids=ids).logits.shape == (1, 5, len(loaded.tokenizer))


def test_the_rate_warms_up_and_decays_to_nothing() -> None:
    rates = [learning_rate(step, 100, 1.0, warmup=10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1 / 90)
    assert all(math.isfinite(rate) for rate in rates)
