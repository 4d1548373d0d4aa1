"""Grammars: answers that are valid by construction, token by token, with llguidance behind.

Strategy: a grammar gives, before each token, the set of those tokens that it allows; all others'
logits are given up before any sampler sees them. What llguidance needs to know of a vocabulary
takes half a second for 128,000 tokens, so it is made once for each tokenizer, in a thread, as soon
as somebody is likely to need it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import BackendError, EdgeError, UsageError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from edgellm.tokenizer import Tokenizer
    from edgellm.tools.call_form import CallForm
    from edgellm.tools.tool import Tool

SCHEMA_LIMIT = 16 * 1024
"""Characters of a JSON Schema."""
RULES_LIMIT = 128 * 1024
"""Characters of a grammar."""
KEPT = 16
"""Of so many sets of tools, and schemas, the grammars are kept for those who ask for the same:
devices declare their tools each time that they come back."""
STEPS_LIMIT = 1000
"""The product of a schema's `multipleOf`, as whole numbers: so many states may be computed."""
DEPTH_LIMIT = 64
"""Of lists and mappings in each other."""
JOINED_LIMIT = 8
"""Patterns, formats and references in a schema where some of them hold together: each further one
may double what llguidance has to look through, and there it has no limit of its own."""
_OPTIONS = '%llguidance {"no_forcing": true}\n'
"""Forced text may be cut into any tokens, not only into those that the tokenizer would choose."""
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As Python and templates write JSON: a model can't fill an answer with white space."""


class Grammars:
    """Compiles grammars for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words: Future[LLTokenizer] | None = None
        self._kept: dict[str, Mapping[str, Grammar] | UsageError] = {}
        self._lock = Lock()

    def prepare(self) -> None:
        """Begin with what takes longest, in a thread. Raises UsageError without llguidance."""
        if self._words is None:
            needed()
            thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
            self._words = thread.submit(_words, self._tokenizer)
            thread.shutdown(wait=False)

    def compile(self, rules: str) -> Grammar:
        """A grammar in llguidance's Lark dialect. Raises UsageError for one that it refuses."""
        self.prepare()
        from llguidance import LLMatcher

        source = _OPTIONS + rules
        if len(source) > RULES_LIMIT:
            raise UsageError(f"the grammar has {len(source)} characters; at most {RULES_LIMIT}")
        if message := LLMatcher.validate_grammar(source, limits=_limits()):
            raise UsageError(f"the grammar can't be used: {_first_line(message)}")
        return Grammar(self, source)

    def of_calls(self, form: CallForm, tools: Sequence[Tool]) -> Mapping[str, Grammar]:
        """By the texts that a call of one of the tools begins with, what may follow. Raises what
        `compile` does; takes up to a tenth of a second, but for tools that were asked for lately.
        May be called in any thread, as `of_schema` may."""
        from edgellm.tools.tool import check_all

        def compiled() -> dict[str, Grammar]:
            check_all(tools)
            return {mark: self.compile(rules) for mark, rules in form.grammars(tools).items()}

        return self._keep(repr((form.mark, [tool.declaration() for tool in tools])), compiled)

    def of_schema(self, schema: Mapping[str, object]) -> Grammar:
        """The JSON texts that are valid by a JSON Schema, as far as llguidance knows its keywords.

        Raises UsageError for one that can't be used, or would cost too much.
        """
        text = _spelled(schema)

        def compiled() -> dict[str, Grammar]:
            source = _rules(text)
            self.prepare()
            return {"": Grammar(self, source)}

        return self._keep(text, compiled)[""]

    def compile_all(
        self, form: CallForm, sets: Iterable[Sequence[object]], schema: Mapping[str, object] | None
    ) -> None:
        """What `of_calls` and `of_schema` will be asked for, for some sets of tools as devices
        declare them; what can't be used, they tell."""
        from edgellm.tools.tool import Tool

        for declared in filter(None, sets):
            with contextlib.suppress(UsageError):
                self.of_calls(form, [Tool.check(tool) for tool in declared])
        if schema is not None:
            with contextlib.suppress(UsageError):
                self.of_schema(schema)

    def _keep(self, key: str, make: Callable[[], Mapping[str, Grammar]]) -> Mapping[str, Grammar]:
        """What was made for this key before, be it an error."""
        made = self._kept.get(key)
        if made is None:
            try:
                made = make()
            except UsageError as error:
                made = error
            with self._lock:
                if len(self._kept) >= KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = made
        if isinstance(made, UsageError):
            raise made.with_traceback(None)
        return made

    def words(self) -> LLTokenizer:
        """What llguidance knows of the vocabulary; waits until it does."""
        self.prepare()
        assert self._words is not None
        return self._words.result()

    def spell(self, text: str) -> list[int]:
        """Ids of tokens whose pieces together are the text, nothing put before or after it."""
        return list(self.words().greedy_tokenize(text))

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer


class Grammar:
    """A grammar that any number of answers may follow."""

    def __init__(self, grammars: Grammars, source: str) -> None:
        self._grammars = grammars
        self._source = source
        self._matcher: LLMatcher | None = None

    def guide(self) -> Guide:
        """A guide for one answer; whatever takes time happens when it is first asked."""
        return Guide(self)

    def matcher(self) -> LLMatcher:
        """A parser at the beginning."""
        if self._matcher is None:
            from llguidance import LLMatcher

            words = self._grammars.words()
            matcher = LLMatcher(words, self._source, log_level=0, limits=_limits())
            if matcher.is_error():
                raise UsageError(f"the grammar can't be used: {_first_line(matcher.get_error())}")
            self._matcher = matcher
        return self._matcher.deep_copy()

    @property
    def tokenizer(self) -> Tokenizer:
        return self._grammars.tokenizer


class Guide:
    """Leads one answer through a grammar. Used by one thread at a time."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._size = grammar.tokenizer.size
        self._ends = sorted(grammar.tokenizer.eog)
        self._matcher: LLMatcher | None = None
        self.done = False
        """Nothing may follow any more."""

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of the logits (vocab,) with all tokens given up that the grammar doesn't allow.

        Raises BackendError where that are all, UsageError where a schema turns out to be too
        complex.
        """
        if self._matcher is None:
            self._matcher = self._grammar.matcher()
        bits = np.zeros(self._size // 32 + 1, np.uint32)  # one more than tokens: the end
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        if self._matcher.is_error():
            raise _failure(self._matcher)
        allowed = np.unpackbits(bits.view(np.uint8), count=self._size + 1, bitorder="little")
        if allowed[self._size]:
            allowed[self._ends] = 1
        masked = np.full(len(logits), -np.inf, np.float32)  # a model may have more than its words
        np.copyto(masked[: self._size], logits[: self._size], where=allowed[:-1].view(np.bool_))
        return masked

    def accept(self, token: int) -> None:
        """Go on after a token that the mask allowed. Raises what `mask` does."""
        if self._matcher is None:
            self._matcher = self._grammar.matcher()
        if token in self._grammar.tokenizer.eog:
            self.done = True
            return
        if not self._matcher.consume_token(token):
            raise _failure(self._matcher)
        # Without an end token it ends as early as it may.
        self.done = self._matcher.is_stopped() or (not self._ends and self._matcher.is_accepting())


def _failure(matcher: LLMatcher) -> EdgeError:
    """Why a parser can't go on."""
    reason = _first_line(matcher.get_error())
    if reason == "NoExtensionBias":  # there's no token
        return BackendError("the model's vocabulary can't write what the grammar asks for")
    return UsageError(f"the grammar is too complex: {reason}")


def rules_of_schema(schema: Mapping[str, object]) -> str:
    """A JSON Schema as llguidance takes it. Raises UsageError as `Grammars.of_schema`."""
    return _rules(_spelled(schema))


def _rules(schema: str) -> str:
    needed()
    from llguidance import LLMatcher

    source = f"{_OPTIONS}start: %json {schema}\n"
    failed, messages = LLMatcher.validate_grammar_with_warnings(source, limits=_limits())
    if failed:
        raise UsageError(f"the JSON Schema can't be used: {_first_line(messages[0])}")
    return source


def _limits() -> LLParserLimits:
    """What one grammar may cost: a tenth of a second to compile."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_grammar_size=20_000)


def needed() -> None:
    """Raises UsageError unless llguidance is installed."""
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise UsageError(
            'tool calls and answers by a JSON Schema need llguidance: pip install "edgellm[tools]"'
        ) from error


class _Words:
    """A vocabulary as llguidance wants it: with one token more, which stands for the end."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        size = tokenizer.size
        # An end token that is spelled out is no text that a grammar could mean.
        ends = tokenizer.eog
        self.tokens = [b"" if i in ends else tokenizer.piece(i) for i in range(size)] + [b""]
        self.eos_token_id = size
        self.special_token_ids = [size]

    def __call__(self, text: bytes) -> list[int]:
        """How the tokenizer would cut a text; of no use, since nothing is forced."""
        return []


def _words(tokenizer: Tokenizer) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Words(tokenizer)))


def _spelled(schema: Mapping[str, object]) -> str:
    """The schema as text, once it is known to be no larger and no more costly than allowed."""
    try:
        text = json.dumps({**schema, "x-guidance": _SPACING}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the JSON Schema isn't made of JSON: {error}") from error
    if len(text) > SCHEMA_LIMIT:
        raise UsageError(f"the JSON Schema has {len(text)} characters; at most {SCHEMA_LIMIT}")
    steps, joins, joined = 1, 0, False
    for part in _mappings(schema, DEPTH_LIMIT):
        if "multipleOf" in part:
            steps *= _step(part["multipleOf"])
            if steps > STEPS_LIMIT:
                fine = part["multipleOf"]
                raise UsageError(f"the JSON Schema has too fine a multipleOf: {fine!r}")
        words = [key for key in ("pattern", "format", "$ref") if isinstance(part.get(key), str)]
        lists = [key for key in ("anyOf", "oneOf") if isinstance(part.get(key), list | tuple)]
        every = part.get("allOf")
        count = len(words) + len(lists) + (len(every) if isinstance(every, list | tuple) else 0)
        joins, joined = joins + len(words), joined or count > 1
    if joined and joins > JOINED_LIMIT:
        raise UsageError(
            f"the JSON Schema joins some of its {joins} patterns, formats and references, as allOf "
            f"does; it may have {JOINED_LIMIT} of them then"
        )
    return text


def _step(value: object) -> int:
    """How many remainders there are by a `multipleOf`, with its decimals counted."""
    from decimal import Decimal, InvalidOperation

    try:
        number = Decimal(str(value))
        sign, digits, exponent = number.normalize().as_tuple()
    except InvalidOperation as error:
        raise UsageError(f"multipleOf is {value!r}; it must be a number") from error
    if sign or not number or not isinstance(exponent, int) or not -9 <= exponent <= 9:
        raise UsageError(f"multipleOf is {value!r}; it must be a positive number")
    return int("".join(map(str, digits)) + "0" * max(exponent, 0))


def _mappings(value: object, depth: int) -> Iterator[Mapping[str, object]]:
    """Each mapping in a schema, at any depth."""
    if not depth:
        raise UsageError(f"the JSON Schema is nested more than {DEPTH_LIMIT} deep")
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _mappings(one, depth - 1)


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0][:300]
