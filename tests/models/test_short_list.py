"""The families that people train: every number of a tiny model against the model itself."""

from __future__ import annotations

import pytest

from tests.models.measures import measure

FAMILIES = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_5_text",
    "qwen3_moe",
    "gemma2",
    "gemma3_text",
    "phi3",
    "mistral",
    "granite",
    "gpt_oss",
    "olmo2",
    "smollm3",
)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_all_numbers_are_those_of_the_model(model_type: str) -> None:
    """Log-probs, Phi, padding, sampling, training mode and export; see `measures`."""
    row = measure(model_type)
    assert row.verdict == "agrees", (row.reason, row.gaps)
    assert set(row.gaps) == {
        "log-probs", "Phi", "padding", "sampling", "training mode", "export"
    }  # fmt: skip


def test_a_wrong_number_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same comparison of a policy that forgets what Gemma 2 does to its logits."""
    from g2rl.policy import policy
    from g2rl.policy.checks import LogitShape

    monkeypatch.setattr(policy, "measure_logits", lambda *_: LogitShape())
    row = measure("gemma2")
    assert row.verdict == "differs"
    assert row.gaps["log-probs"] > 1e-4
    assert row.gaps["Phi"] > 1e-4
