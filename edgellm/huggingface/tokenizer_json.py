"""tokenizer.json, as Hugging Face's `tokenizers` library writes it.

Every section is read strictly: a component that edgellm doesn't run is refused by name, because
one that is ignored gives other tokens than the model was trained with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgellm import json_file
from edgellm.errors import FormatError, UnsupportedError
from edgellm.pre_tokenizer import PRE_TOKENIZERS, named_step
from edgellm.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, TokenizerData

LIMIT = 64 << 20
"""Bytes; the largest known, with 260 thousand tokens, has 35 MB."""
MAX_TOKENS = 1 << 20
SPACE = "▁"

NormalForm = Literal["", "NFC", "NFD", "NFKC", "NFKD"]
FORMS: dict[str, NormalForm] = {"NFC": "NFC", "NFD": "NFD", "NFKC": "NFKC", "NFKD": "NFKD"}


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before anything else is."""

    id: int
    content: str
    special: bool
    lstrip: bool
    rstrip: bool

    @property
    def kind(self) -> int:
        """Control if special or if it looks it, else user-defined: as GGUF's converters have it."""
        looks = re.fullmatch(r"<\|.*\|>|<\uff5c.*\uff5c>|<unused.*>|<pad>|<mask>", self.content)
        return CONTROL if self.special or looks else USER_DEFINED

    def text(self, model: str) -> str:
        """The text as it is found, with spaces as such."""
        if model == "llama" and self.kind == USER_DEFINED:
            return self.content.replace(SPACE, " ")
        return self.content


def added_token(entry: object, file: Path) -> AddedToken:
    """An added token from its JSON object. Raises FormatError."""
    if not isinstance(entry, dict):
        raise FormatError(file, "added token", entry, "it must be an object")
    i, content = entry.get("id"), entry.get("content")
    if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < MAX_TOKENS:
        raise FormatError(file, "id of an added token", i, f"it must be 0 to {MAX_TOKENS - 1}")
    if not isinstance(content, str) or not content:
        raise FormatError(file, f"content of added token {i}", content, "it must be a string")
    flags = {}
    for name in ("special", "lstrip", "rstrip", "single_word"):
        flag = entry.get(name, False)
        if not isinstance(flag, bool):
            raise FormatError(file, f"{name} of added token {i}", flag, "true or false")
        flags[name] = flag
    if flags.pop("single_word"):
        raise UnsupportedError(file, f"single_word of added token {i}", True, "false is supported")
    return AddedToken(id=i, content=content, **flags)


def vocabulary(entries: object, file: Path) -> dict[int, str]:
    """Text by id from a JSON object of id by text. Raises FormatError."""
    if not isinstance(entries, dict) or not entries:
        raise FormatError(file, "vocab", type(entries).__name__, "it must be a non-empty object")
    texts: dict[int, str] = {}
    for text, i in entries.items():
        if type(i) is not int or not 0 <= i < MAX_TOKENS:
            raise FormatError(file, f"id of {text!r}", i, f"it must be 0 to {MAX_TOKENS - 1}")
        texts[i] = text
    if len(texts) < len(entries):
        raise FormatError(file, "vocab", len(entries), f"its tokens share {len(texts)} ids")
    return texts


def by_id(texts: Mapping[int, str], file: Path) -> list[str]:
    """The texts as a list; ids that are left out get a text of their own. Raises FormatError."""
    count = max(texts) + 1
    if count > 2 * len(texts) + 1024:
        raise FormatError(file, "highest id", count - 1, f"there are only {len(texts)} tokens")
    return [texts.get(i, f"[PAD{i}]") for i in range(count)]


def read(path: Path) -> TokenizerData:
    """The tokenizer in a tokenizer.json file.

    Raises FormatError for a broken file, UnsupportedError for a component that isn't known.
    """
    return _Sections(json_file.read(path, LIMIT), path).data()


class _Sections:
    def __init__(self, found: dict[str, object], file: Path) -> None:
        self.file = file
        self.found = found
        self.model = self.section("model")

    def data(self) -> TokenizerData:
        self.check_model()
        texts = vocabulary(self.model.get("vocab"), self.file)
        fallback = self.flag(self.model, "model", "byte_fallback", False)
        kind = "llama" if fallback else "gpt2"
        if fallback:
            prefix, once, lacking, form = self.spaces()
            splits: tuple[str, ...] = ()
        else:
            splits, prefix = self.splits()
            once, lacking, form = False, True, self.normal_form()
        self.check_decoder()
        added = self.added_tokens()
        types = dict.fromkeys(texts, NORMAL)
        unk = self.unknown(texts, types)
        if fallback:
            for i, text in texts.items():
                if re.fullmatch("<0x[0-9A-F]{2}>", text):
                    types[i] = BYTE
        for token in added:
            texts[token.id], types[token.id] = token.text(kind), token.kind
        tokens = by_id(texts, self.file)
        bos, eos = self.template(len(tokens))
        names = (name for name, steps in PRE_TOKENIZERS.items() if steps == splits)
        return TokenizerData(
            model=kind,
            pre="default" if fallback else next(names, ""),
            splits=splits,
            tokens=tokens,
            types=[types.get(i, UNUSED) for i in range(len(tokens))],
            merges=self.merges(),
            bos=bos,
            eos=eos,
            unk=unk,
            add_bos=bos is not None,
            add_eos=eos is not None,
            add_space_prefix=prefix,
            prefix_once=once,
            prefix_lacking=lacking,
            ignore_merges=self.flag(self.model, "model", "ignore_merges", False),
            normal_form=form,
            lstrip=frozenset(token.id for token in added if token.lstrip),
            rstrip=frozenset(token.id for token in added if token.rstrip),
            file=str(self.file),
        )

    def section(self, name: str) -> dict[str, object]:
        value = self.found.get(name)
        if not isinstance(value, dict):
            raise FormatError(self.file, name, value, "it must be an object")
        return value

    def flag(self, section: Mapping[str, object], name: str, key: str, default: bool) -> bool:
        value = section.get(key, default)
        if not isinstance(value, bool):
            raise FormatError(self.file, f"{name}.{key}", value, "it must be true or false")
        return value

    def parts(self, name: str, list_name: str) -> list[dict[str, object]]:
        """A section's components in order, those of a Sequence one by one; none where null."""
        value = self.found.get(name)
        if value is None:
            return []
        components: list[object] = [value]
        if isinstance(value, dict) and value.get("type") == "Sequence":
            listed = value.get(list_name)
            if not isinstance(listed, list):
                raise FormatError(self.file, f"{name}.{list_name}", listed, "it must be a list")
            components = listed
        found: list[dict[str, object]] = []
        for component in components:
            if not isinstance(component, dict) or not isinstance(component.get("type"), str):
                raise FormatError(self.file, name, component, "it must be an object with a type")
            found.append(component)
        return found

    def unsupported(self, field: str, value: object, allowed: str) -> UnsupportedError:
        return UnsupportedError(self.file, field, value, allowed)

    def check_model(self) -> None:
        kind = self.model.get("type", "BPE")
        if kind != "BPE":
            raise self.unsupported("model.type", kind, "BPE is supported")
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            value = self.model.get(key)
            if value not in (None, "", 0):
                raise self.unsupported(f"model.{key}", value, "null is supported")

    def unknown(self, texts: Mapping[int, str], types: dict[int, int]) -> int | None:
        name = self.model.get("unk_token")
        found = [i for i, text in texts.items() if text == name]
        for i in found:
            types[i] = UNKNOWN
        return found[0] if found else None

    def merges(self) -> list[str]:
        value = self.model.get("merges")
        if not isinstance(value, list):
            raise FormatError(self.file, "model.merges", value, "it must be a list")
        merges: list[str] = []
        for merge in value:
            pair = merge.split(" ") if isinstance(merge, str) else merge
            if not isinstance(pair, list) or len(pair) != 2:
                raise FormatError(self.file, "model.merges", merge, "it must be a pair")
            left, right = pair
            if not isinstance(left, str) or not isinstance(right, str):
                raise FormatError(self.file, "model.merges", merge, "it must be two strings")
            merges.append(f"{left} {right}")
        return merges

    def added_tokens(self) -> list[AddedToken]:
        value = self.found.get("added_tokens", [])
        if not isinstance(value, list):
            raise FormatError(self.file, "added_tokens", value, "it must be a list")
        return [added_token(entry, self.file) for entry in value]

    def normal_form(self) -> NormalForm:
        form: NormalForm = ""
        for part in self.parts("normalizer", "normalizers"):
            kind = part["type"]
            if form or not isinstance(kind, str) or kind not in FORMS:
                raise self.unsupported(
                    "normalizer", kind, f"one of {', '.join(FORMS)} is supported"
                )
            form = FORMS[kind]
        return form

    def splits(self) -> tuple[tuple[str, ...], bool]:
        """The pre-tokenizing steps of a byte-level tokenizer, and whether it prefixes a space.

        `tokenizers` runs steps after ByteLevel on its visible characters, here all run on the
        text: the same for patterns of ASCII digits, the only ones that follow it in practice.
        """
        steps: list[str] = []
        byte_level = prefix = False
        for part in self.parts("pre_tokenizer", "pretokenizers"):
            kind = part["type"]
            if kind == "ByteLevel":
                byte_level = True
                prefix = self.flag(part, "pre_tokenizer", "add_prefix_space", True)
                if self.flag(part, "pre_tokenizer", "use_regex", True):
                    steps.append("gpt-2")
            elif kind == "Digits":
                single = self.flag(part, "pre_tokenizer", "individual_digits", False)
                steps.append("digits" if single else "numbers")
            elif kind == "Punctuation" and part.get("behavior", "Isolated") == "Contiguous":
                steps.append("punctuation")
            elif kind == "Split":
                steps.append(self.split(part))
            else:
                allowed = "ByteLevel, Digits, contiguous Punctuation and Split are supported"
                raise self.unsupported("pre_tokenizer", kind, allowed)
        if not byte_level:
            allowed = "byte-level BPE or byte_fallback is supported"
            raise self.unsupported("pre_tokenizer", self.found.get("pre_tokenizer"), allowed)
        return tuple(steps), prefix

    def split(self, part: Mapping[str, object]) -> str:
        pattern = part.get("pattern")
        text = pattern.get("Regex") if isinstance(pattern, dict) else None
        step = named_step(text) if isinstance(text, str) else None
        if step is None:
            allowed = "the patterns of known model families are supported"
            raise self.unsupported("pre_tokenizer pattern", text or pattern, allowed)
        how = (part.get("behavior"), self.flag(part, "pre_tokenizer", "invert", False))
        if how not in (("Isolated", False), ("Removed", True)):
            raise self.unsupported("pre_tokenizer behavior", how[0], "Isolated is supported")
        return step

    def spaces(self) -> tuple[bool, bool, bool, NormalForm]:
        """Space prefix, whether only once, only where lacking; normal form."""
        prefix = once = lacking = replaced = False
        form: NormalForm = ""
        for part in self.parts("normalizer", "normalizers"):
            kind = part["type"]
            if kind == "Prepend" and part.get("prepend") == SPACE:
                prefix = True
            elif kind == "Replace" and self.replaces_space(part):
                replaced = True
            elif isinstance(kind, str) and kind in FORMS and not form:
                form = FORMS[kind]
            else:
                allowed = "Prepend and Replace of a space and normal forms are supported"
                raise self.unsupported("normalizer", kind, allowed)
        for part in self.parts("pre_tokenizer", "pretokenizers"):
            kind = part["type"]
            # Gemma's Split at spaces finds none, as the normalizer has replaced them.
            if kind == "Split" and part.get("pattern") == {"String": " "} and replaced:
                continue
            if kind != "Metaspace" or part.get("replacement") != SPACE:
                raise self.unsupported("pre_tokenizer", kind, "Metaspace is supported")
            if self.flag(part, "pre_tokenizer", "split", True):
                raise self.unsupported("pre_tokenizer.split", True, "false is supported")
            scheme = part.get("prepend_scheme", "always")
            if scheme not in ("always", "first", "never"):
                raise FormatError(self.file, "prepend_scheme", scheme, "always, first or never")
            replaced = lacking = True
            prefix, once = scheme != "never", scheme == "first"
        if not replaced:
            raise self.unsupported("normalizer", None, "it must replace spaces by ▁")
        return prefix, once, lacking, form

    def replaces_space(self, part: Mapping[str, object]) -> bool:
        return part.get("pattern") == {"String": " "} and part.get("content") == SPACE

    def check_decoder(self) -> None:
        for part in self.parts("decoder", "decoders"):
            if part["type"] not in ("ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace"):
                strips = part["type"] == "Strip" and part.get("content") == " "
                if not strips:
                    allowed = "ByteLevel, ByteFallback, Fuse, Metaspace, Replace and Strip"
                    raise self.unsupported("decoder", part["type"], allowed)

    def template(self, count: int) -> tuple[int | None, int | None]:
        """Ids that the post-processor puts before and after a text."""
        around: list[int | None] = [None, None]
        for part in self.parts("post_processor", "processors"):
            if part["type"] == "ByteLevel":
                continue
            if part["type"] != "TemplateProcessing":
                allowed = "ByteLevel and TemplateProcessing are supported"
                raise self.unsupported("post_processor", part["type"], allowed)
            single, special = part.get("single"), part.get("special_tokens", {})
            if not isinstance(single, list) or not isinstance(special, dict):
                raise FormatError(self.file, "post_processor.single", single, "it must be a list")
            side = 0
            for item in single:
                if not isinstance(item, dict):
                    raise FormatError(self.file, "post_processor.single", item, "an object")
                if "Sequence" in item:
                    side = 1
                    continue
                if around[side] is not None:
                    allowed = "one token before and one after the text are supported"
                    raise self.unsupported("post_processor.single", item, allowed)
                around[side] = self.template_id(item, special, count)
        return around[0], around[1]

    def template_id(
        self, item: Mapping[str, object], special: Mapping[str, object], count: int
    ) -> int:
        token = item.get("SpecialToken")
        name = token.get("id") if isinstance(token, dict) else None
        entry = special.get(name) if isinstance(name, str) else None
        ids = entry.get("ids") if isinstance(entry, dict) else None
        if isinstance(ids, list) and len(ids) == 1 and type(ids[0]) is int and 0 <= ids[0] < count:
            return ids[0]
        raise FormatError(self.file, "post_processor.single", item, "it must name one token")
