r"""What of a completion is reasoning, and what is said to the reader.

Models set their reasoning apart by markers (`MARKERS`), or by named channels (gpt-oss, "harmony").
Only what follows the reasoning may hold an answer; reasoning that was never closed means that the
model did not come to an answer. A chat template may open the reasoning in the prompt already
(DeepSeek-R1, QwQ, Qwen3-Thinking): then nothing in the completion shows that it is reasoning, so
whoever samples puts `opened_by(prompt)` in front of the completion that it has graded.
"""

from __future__ import annotations

import re

MARKERS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
    ("<longcat_think>", "</longcat_think>"),
    ("<mm:think>", "</mm:think>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
    ("<think:opensource>", "</think:opensource>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    ("[unused16]", "[unused17]"),
    ("<ifm|think>", "</ifm|think>"),
    ("<ifm|think_fast>", "</ifm|think_fast>"),
    ("<ifm|think_faster>", "</ifm|think_faster>"),
    ("to=self<|message|>", "to=user<|message|>"),
)
"""What opens and what closes reasoning. Case counts.

By model, as public reasoning parsers (vLLM, llama.cpp) and other public code have them; the models'
own templates were not read, and that SmolLM3, Phi-4-reasoning, Granite 3.3 and GLM write <think> is
from memory: <think> DeepSeek-R1, Qwen3, those four and most others;
<thought> EXAONE Deep; <seed:think> Seed-OSS; [THINK] Magistral; <|begin_of_thought|> OpenThoughts;
<|START_THINKING|> Command A; triangles Kimi-VL and Kimi-Dev; <longcat_think> LongCat; <mm:think>
MiniMax-M3; <|inner_prefix|> Apertus; <|channel>thought Gemma 4; <unused94> MedGemma;
<think:opensource> Hunyuan 3; <|think:start|> Solar Open 2; PLaMo 3; [unused16] openPangu;
<ifm|think> K2 Horizon; to=self Muse. <thinking>, <reasoning> and <scratchpad> are what prompts ask
for, and no model is known here to be trained on the last. Not covered: Solar Open 1, whose closing
marker was found in no public source.
"""

CUT_OFF = "<|cut_off|>"
"""Stands behind a completion that the token limit ended, on its way to a verifier that minds."""

# gpt-oss: a message is <|channel|>NAME<|message|>TEXT, and the answer stands in the channel "final"
_CHANNEL = re.compile(r"<\|channel\|>\s?(?P<name>[a-z]{1,20})[^<]{0,80}<\|message\|>")
# Granite 3.2 sets its thoughts apart by two sentences
_THOUGHTS = re.compile(r"\s*Here(?: is|'s) my thought process:")
_RESPONSE = re.compile(r"Here(?: is|'s) my response:")
_MESSAGE_END = re.compile(r"<\|(?:end|return|start|call)\|>")
_PREFILLED = 60
"""Most characters that a prompt may put behind an opening marker, such as "Okay,"."""


def spoken(completion: str) -> str:
    """What a completion says behind its reasoning; empty while the reasoning goes on."""
    if "<|channel|>" in completion:
        return _final_channel(completion)
    if _THOUGHTS.match(completion):
        _, *responses = _RESPONSE.split(completion)
        return responses[-1] if responses else ""

    # behind the last marker that closes reasoning
    start = 0
    for _, closing in MARKERS:
        place = completion.rfind(closing)
        if place >= 0:
            start = max(start, place + len(closing))
    tail = completion[start:]

    # reasoning that was opened behind it goes on
    if any(opening in tail for opening, _ in MARKERS):
        return ""
    return tail


def opened_by(prompt: str) -> str:
    """The marker of reasoning that the end of a rendered prompt leaves open, or an empty string.

    Only a marker at the very end counts, perhaps with a few words behind it. One that an
    instruction mentions further up does not.
    """
    for opening in (*(opening for opening, _ in MARKERS), "<|channel|>analysis<|message|>"):
        place = prompt.rfind(opening)
        if place < 0:
            continue
        # little may stand behind it, and nothing that begins a turn or a line
        rest = prompt[place + len(opening) :].strip()
        if len(rest) <= _PREFILLED and not re.search(r"[<\[◁\n]", rest):
            # an instruction that ends with a mention of the marker opens nothing
            is_mentioned = bool(re.match(r"[`'\"”]|\s?(?:tag|and\b|or\b|to\b)", rest))
            if not is_mentioned:
                return opening
    return ""


def _final_channel(completion: str) -> str:
    """The last message in the channel "final"; empty without one."""
    # other channels hold reasoning and calls of tools
    messages = list(_CHANNEL.finditer(completion))
    if not messages or messages[-1]["name"] != "final":
        return ""
    text = completion[messages[-1].end() :]
    end = _MESSAGE_END.search(text)
    return text[: end.start()] if end else text
