"""Chat templates: how a turn ends, which day it is, control tokens in a problem's text."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from g2rl.policy.chat import ModelError, pin_date, render, template_of, turn_end
from g2rl.policy.loading import resolve_stop_ids
from g2rl.policy.prompts import encode_prompt

CONTROLS = ["<|im_start|>", "<|im_end|>", "<think>", "<|endoftext|>", "<|end|>", "<|return|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bytes_tokenizer(template: Any = CHATML, special: tuple[str, ...] = ()) -> Any:
    """A tokenizer of single bytes, with control tokens of which only some are declared special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")
    tokenizer.add_tokens([token for token in CONTROLS if token not in special])
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def declared(eos: Any) -> Any:
    return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=eos))


def stops(tokenizer: Any, eos: Any = None) -> list[str]:
    return tokenizer.convert_ids_to_tokens(resolve_stop_ids(declared(eos), tokenizer))


def test_the_end_of_a_turn_is_what_the_template_writes_behind_it() -> None:
    assert stops(bytes_tokenizer()) == ["<|endoftext|>", "<|im_end|>"]
    made_up = bytes_tokenizer(CHATML.replace("<|im_end|>", "<~over~>"), ("<~over~>",))
    assert stops(made_up) == ["<|endoftext|>", "<~over~>"]
    only_prompt = bytes_tokenizer("{{ messages[0].content }}<|im_end|>")
    assert stops(only_prompt) == ["<|endoftext|>", "<|im_end|>"]
    assert stops(bytes_tokenizer("{{ messages[0].content }}\nAnswer:")) == ["<|endoftext|>"]
    assert stops(bytes_tokenizer(None)) == ["<|endoftext|>"]
    assert stops(bytes_tokenizer("{{ raise_exception('only users') }}")) == ["<|endoftext|>"]


def test_a_channel_that_closes_inside_a_response_ends_nothing() -> None:
    """As gpt-oss: messages end with <|end|>, the last one of the assistant with <|return|>."""
    harmony = (
        "{% for m in messages %}{{ m.role }}{{ m.content }}"
        "{% if m.role == 'assistant' and loop.last %}<|return|>{% else %}<|end|>{% endif %}"
        "{% endfor %}"
    )
    assert stops(bytes_tokenizer(harmony)) == ["<|endoftext|>", "<|return|>"]

    # who declares several has thought of it, whatever a template that renders users only suggests
    tokenizer = bytes_tokenizer("user{{ messages[0].content }}<|end|>assistant")
    ids = tokenizer.convert_tokens_to_ids(["<|return|>", "<|endoftext|>"])
    assert stops(tokenizer, ids) == ["<|return|>", "<|endoftext|>"]


def test_named_templates() -> None:
    several = bytes_tokenizer({"default": CHATML, "tool_use": "{{ messages }}"})
    assert stops(several) == ["<|endoftext|>", "<|im_end|>"]
    assert encode_prompt(several, "q", chat=True) == encode_prompt(bytes_tokenizer(), "q", True)
    with pytest.raises(ModelError, match=r"rag.*tool_use"):
        template_of(bytes_tokenizer({"rag": CHATML, "tool_use": CHATML}))


def test_a_closed_vocabulary_of_words() -> None:
    words = SimpleNamespace(
        get_vocab=lambda: {"<end>": 3, "stop": 4, "a": 5},
        chat_template="{{ messages[0].content }} <end>",
    )
    assert turn_end(words, alone=True) == 3  # type: ignore[arg-type]
    words.chat_template = "{{ messages[0].content }} stop"
    assert turn_end(words, alone=True) is None, "an ordinary word"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "clock",
    [
        "{{ strftime_now('%d %b %Y') }}",
        "{% set form = '%d %b %Y' %}{{ strftime_now(form) }}",
        "{% if strftime_now is defined %}{{ strftime_now('%d ') ~ strftime_now('%b %Y') }}"
        "{% endif %}",
    ],
)
def test_a_template_that_writes_the_date_is_told_a_fixed_day(clock: str) -> None:
    tokenizer = bytes_tokenizer(clock + "{{ messages[0].content }}")
    user = [{"role": "user", "content": "q"}]
    assert render(tokenizer, user, prompt=True) == "01 Jan 2025q"
    pin_date(tokenizer, "2024-03-07")
    assert tokenizer.decode(encode_prompt(tokenizer, "q", chat=True)) == "07 Mar 2024q"
    with pytest.raises(ModelError, match=r"model\.date.*yesterday"):
        pin_date(tokenizer, "yesterday")


PARTS = "{% for part in messages[0].content %}{{ part.text }}{% endfor %}answer:"


@pytest.mark.parametrize("template", [PARTS, "{{ bos_token }}answer:"])
def test_a_template_that_leaves_out_the_prompt_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match="leaves out the prompt"):
        encode_prompt(bytes_tokenizer(template), "What is 2 + 2?", chat=True)


@pytest.mark.parametrize("written", ["content | trim", "content | tojson", "content | e"])
def test_a_template_may_trim_or_quote_the_prompt(written: str) -> None:
    tokenizer = bytes_tokenizer("{{ messages[0]." + written + " }}")
    for text in ('  Is 1 < 2 & "so"?\n', "\\frac{1}{2}", "Wie groß?", "二加二", "<|im_end|>", "\n"):
        assert encode_prompt(tokenizer, text, chat=True) is not None


def test_every_form_of_the_date_is_what_python_writes() -> None:
    tokenizer = bytes_tokenizer()
    pin_date(tokenizer, "2024-03-07")
    day = datetime.datetime(2024, 3, 7)
    for form in ("%A, %-d %B %Y", "%e|%k|%l|%P|%C|%g|%r|%t", "%-m/%-d/%y", "100%% %Y", "%%Y %%%d"):
        tokenizer.chat_template = (
            "{%- macro system() -%}{{ strftime_now('" + form + "') }}{%- endmacro -%}"
            "{{ system() }}{{ messages[0].content }}"
        )
        assert render(tokenizer, [{"role": "user", "content": ""}], True) == day.strftime(form)


@pytest.mark.parametrize("chat", [True, False])
def test_control_tokens_of_a_problem_stay_text(chat: bool) -> None:
    tokenizer = bytes_tokenizer(CHATML + "<think>\n", ("<|im_start|>", "<|im_end|>"))
    text = "say <|im_end|> twice: <|im_end|><think> and <|endoftext|>"
    ids = encode_prompt(tokenizer, text, chat)
    plain = encode_prompt(tokenizer, "say", chat)
    for control in CONTROLS:
        number = tokenizer.convert_tokens_to_ids(control)
        assert ids.count(number) == plain.count(number), control
    expected = text
    if chat:
        expected = render(tokenizer, [{"role": "user", "content": text}], prompt=True)
    assert tokenizer.decode(ids) == expected


def test_ordinary_text_is_encoded_as_ever() -> None:
    tokenizer = bytes_tokenizer()
    rendered = render(tokenizer, [{"role": "user", "content": "a <b> c"}], prompt=True)
    expected = tokenizer.encode(rendered, add_special_tokens=False)
    assert encode_prompt(tokenizer, "a <b> c", chat=True) == expected


def test_a_prompt_does_not_end_with_an_end_token() -> None:
    core = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "q": 2, "x": 3}, unk_token="x"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    assert encode_prompt(tokenizer, "q x", chat=False) == [0, 2, 3]
    assert encode_prompt(tokenizer, "x x", chat=False) == [0, 3, 3]
