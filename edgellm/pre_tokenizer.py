"""Pre-tokenizing: how a byte-level BPE tokenizer cuts text into words before it merges bytes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex

_CONTRACTION = "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT_2 = r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _ranges(points: str) -> str:
    """A character class from hexadecimal code points and ranges of them."""
    pairs = [part.partition("-") for part in points.split()]
    return "".join(
        rf"\U{low.zfill(8)}" + (rf"-\U{high.zfill(8)}" if high else "") for low, _, high in pairs
    )


def _llama3(numbers: str) -> str:
    """The pattern of Llama 3 and its kin, which differ in how they cut numbers."""
    words = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


def _gpt_4o(upper: str, lower: str, contraction: str, numbers: str) -> str:
    """The pattern of GPT-4o and its kin: words are also cut where lower case turns to upper."""
    lead = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{lead}{upper}*{lower}+{contraction}|{lead}{upper}+{lower}*{contraction}"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


def _gpt_4(numbers: str) -> str:
    """The pattern of GPT-4 and its kin: Llama 3's, but one line end at a time."""
    words = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
    lines = r"\s*[\r\n]|\s+(?!\S)|\s+"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{lines}"


_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# DeepSeek's letters of the scripts that have two cases, which no Unicode property gives.
_CASED = _ranges(
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376-377 37b-37d 37f 386 "
    "388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd "
    "1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d "
    "1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 "
    "1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 "
    "212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183-2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee "
    "2cf2-2cf3 a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 "
    "ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 "
    "118a0-118df 1e900-1e943"
)
# What GGUF's vocabularies are cut by: letters beyond ASCII count as both cases, marks as neither.
_UPPER_ASCII = r"(?:(?=\p{L})[^a-z])"
_LOWER_ASCII = r"(?:(?=\p{L})[^A-Z])"

STEPS: dict[str, str] = {
    "gpt-2": _GPT_2,
    "digits": r"\p{N}",
    "numbers": r"\p{N}+",
    "three-digits": r"[0-9][0-9][0-9]",
    "three-numbers": r"\p{N}{1,3}",
    "punctuation": r"[\p{P}$+<=>^~|`]+",
    "most-punctuation": r"[\p{P}$+<=>^~|]+",
    "llama3": _llama3(r"\p{N}{1,3}"),
    "qwen2": _llama3(r"\p{N}"),
    "seed": rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",
    "qwen35": rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "gpt-4o": _gpt_4o(_UPPER, _LOWER, rf"(?:{_CONTRACTION})?", r"\p{N}{1,3}"),
    "gpt-4o-ascii": _gpt_4o(_UPPER_ASCII, _LOWER_ASCII, rf"(?:{_CONTRACTION})?", r"\p{N}{1,3}"),
    "tekken": _gpt_4o(_UPPER, _LOWER, "", r"\p{N}"),
    "tekken-ascii": _gpt_4o(_UPPER_ASCII, _LOWER_ASCII, "", r"\p{N}"),
    "gpt-4": _gpt_4(r"\p{N}{1,3}"),
    "bailing": _gpt_4(r"\p{N}"),
    "line-ends": r"[\r\n]",
    "spaced-letters": r"\s?\p{L}+",
    "spaced-punctuation": r"\s?\p{P}+",
    "deepseek-words": rf"\s?[{_CASED}]+",
    "deepseek-punctuation": r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    "last-spaces": r"(?<!\s)\s+\Z",
    "cjk": "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    "kana-and-han": "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "deepseek-v3": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + rf"|{_SPACES}",
    "bloom": " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",
}
"""Patterns by name. What lies between two matches is a word too."""

_NAMES: dict[tuple[str, ...], str] = {
    ("most-punctuation", "gpt-2", "numbers", "three-digits"): "default",
    ("gpt-2",): "gpt-2 olmo mpt phi-2 jais trillion exaone4 granite-docling gigachat mellum "
    "a.x-4.0 modern-bert roberta-bpe",
    ("digits", "gpt-2"): "smollm refact starcoder command-r codeshell exaone minerva-7b",
    ("punctuation", "gpt-2", "three-digits"): "falcon",
    ("llama3",): "llama-bpe llama3 llama-v3 lfm2 falcon3 falcon-h1 pixtral midm-2.0 dbrx "
    "smaug-bpe glm4 chatglm-bpe",
    ("qwen2",): "qwen2 stablelm2 deepseek-r1-qwen megrez hunyuan grok-2 solar-open",
    ("qwen35",): "qwen35",
    ("bailing",): "bailingmoe bailingmoe2 llada-moe",
    ("gpt-4o-ascii",): "gpt-4o llama4 kanana2 minimax-m2",
    ("tekken-ascii",): "tekken",
    ("seed",): "seed-coder",
    (
        "line-ends",
        "deepseek-words",
        "deepseek-punctuation",
        "last-spaces",
        "cjk",
        "numbers",
    ): "deepseek-llm",
    ("line-ends", "spaced-letters", "spaced-punctuation", "cjk", "digits"): "deepseek-coder",
    ("three-numbers", "kana-and-han", "deepseek-v3"): "deepseek-v3 hunyuan-dense joyai-llm",
    ("bloom",): "bloom gpt3-finnish poro-chat",
    ("bloom", "digits"): "viking",
}
PRE_TOKENIZERS = {name: steps for steps, names in _NAMES.items() for name in names.split()}
"""The steps that each of GGUF's pre-tokenizer names stands for."""


# How tokenizer.json files spell steps; `tokenizers` runs them on its own engine, with the same
# results on whole characters.
_ANY_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_NO_CASE = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT_4 = "'(?i:[sdmt]|ll|ve|re)"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"


@functools.cache
def _spellings() -> dict[str, str]:
    found = {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
        "[0-9][0-9][0-9]": "three-digits",
        r"\p{N}{1,3}": "three-numbers",
        r"\p{N}": "digits",
        r"\d": "digits",
        r"[\r\n]": "line-ends",
        r"\s?\p{L}+": "spaced-letters",
        r"\s?\p{P}+": "spaced-punctuation",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+": "cjk",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+": "kana-and-han",
        STEPS["deepseek-v3"]: "deepseek-v3",
    }
    for numbers, step in ((r"\p{N}{1,3}", "llama3"), (r"\p{N}", "qwen2")):
        for case in (_ANY_CASE, _NO_CASE):
            words = rf"{case}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}"
            found[rf"{words}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_END}"] = step
    for case in (_ANY_CASE, _NO_CASE):
        words = rf"{case}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        found[rf"{words}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_END}"] = "qwen35"
        found[_gpt_4o(_UPPER, _LOWER, f"{case}?", r"\p{N}{1,3}")] = "gpt-4o"
    found[_gpt_4o(_UPPER, _LOWER, "", r"\p{N}")] = "tekken"
    for numbers, step in ((r"\p{N}{1,3}", "gpt-4"), (r"\p{N}", "bailing")):
        words = rf"{_GPT_4}|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|{numbers}"
        tail = r"\s*[\r\n]|\s+(?!\S)|\s+"
        found[rf"{words}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|{tail}"] = step
    return found


def named_step(pattern: str) -> str | None:
    """The step that a tokenizer.json spells as `pattern`, None where it isn't known.

    Unknown patterns are not run: a hostile one can take exponential time.
    """
    return _spellings().get(pattern)


@functools.cache
def _compiled(step: str) -> regex.Pattern[str]:
    import regex

    return regex.compile(STEPS[step])


def words(text: str, steps: Sequence[str]) -> list[str]:
    """The text cut by each step in turn; joined, the words are the text."""
    found: Iterable[str] = [text]
    for step in steps:
        found = _cut(found, _compiled(step))
    return list(found)


def _cut(texts: Iterable[str], pattern: regex.Pattern[str]) -> Iterable[str]:
    for text in texts:
        end = 0
        for match in pattern.finditer(text):
            if match.start() > end:
                yield text[end : match.start()]
            yield match.group()
            end = match.end()
        if end < len(text):
            yield text[end:]
