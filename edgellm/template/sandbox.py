"""Runs chat templates from model files: Jinja2's immutable sandbox, with limits on what they cost.

Jinja2's sandbox keeps a template away from Python, but not from the clock and the memory. Rendering
in a child process that can be killed would stop anything, yet costs a second interpreter: a tenth
of a second and 20 MB on a laptop, several times that on a small board, for every answer. So the
template itself is metered, in whatever thread it runs:

1. Every value that it makes is measured, nested ones as they would be written out, and is refused
   beyond a size. Operations that could overshoot are judged by their operands beforehand.
2. Thereby each single operation takes about linear time in a bounded size; those that don't are
   bounded by their operands or absent.
3. Each loop turn, call, operator, filter, test, subscript and comparison is a step, counted against
   a budget and a deadline. Nothing in Jinja repeats without one of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from edgellm.errors import TemplateError
from edgellm.template import filters
from edgellm.template.meter import METER, Meter

SOURCE_LIMIT = 128 * 1024
"""Characters of a template; the longest published ones have about 20,000."""
NODE_LIMIT = 8_000
"""Nodes of its syntax tree; the largest published ones have about 1,500."""
_TEXT_METHODS = """
    capitalize casefold center count endswith find format index isalnum isalpha isascii isdecimal
    isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix
    removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith
    strip swapcase title upper zfill
"""
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS.split()),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    bytes: frozenset(),
    int: frozenset(),
    float: frozenset({"is_integer"}),
}
"""Methods that a template may call: those of linear time, or that the meter judges."""
_FILTERS = """
    abs attr capitalize count d default dictsort e escape filesizeformat first float forceescape
    groupby int items last length list lower map max min random reject rejectattr reverse safe
    select selectattr slice sort string title truncate unique upper urlencode wordcount
"""
"""Jinja's own filters that take linear time; those of `filters` judge their arguments
first, and the rest (`pprint`, `urlize`, `wordwrap`, …) are for web pages."""


class _Opaque(Namespace):
    """A namespace that shows nothing of what it holds: it is the only value that can change after
    it was measured, so it must not be written out as a part of another."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Generation(Extension):
    """`{% generation %}`: marks the assistant's words for training; here it just renders them."""

    tags = {"generation"}  # noqa: RUF012 (as in the base class)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Instrument(NodeTransformer):
    """Routes what Jinja compiles to plain Python through the meter, as filters whose names can't be
    written in a template."""

    def __init__(self) -> None:
        self.count = 0

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        self.count += 1
        if self.count > NODE_LIMIT:
            raise TemplateError(f"chat template: it has more than {NODE_LIMIT} elements")
        return super().generic_visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter(node.iter, "(turns)")
        return node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "(made)") if node.ctx == "load" else node

    def visit_List(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "(made)")

    visit_Dict = visit_List

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter(node.expr, "(compared)")
        for operand in node.ops:
            operand.expr = _filter(operand.expr, "(compared)")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "(made)") if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.Tuple(node.nodes, "load", lineno=node.lineno), "(joined)")


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 set up as model authors expect it (trimmed blocks, loop controls, `tojson` without
    HTML escapes), and metered."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[LoopControlExtension, _Generation],
            optimized=False,  # constants folded while compiling would go past the meter
            finalize=_finalize,
            cache_size=0,
        )
        known: dict[str, Callable[..., Any]] = {
            name: self.filters[name] for name in _FILTERS.split()
        }
        known |= filters.FILTERS
        self.filters = {name: _metered(function) for name, function in known.items()}
        self.filters |= {
            "(turns)": lambda value: METER.get().turns(value),
            "(made)": lambda value: METER.get().made(value),
            "(compared)": lambda value: METER.get().compared(value),
            "(joined)": _joined,
        }
        tests: dict[str, Any] = {**self.tests}
        self.tests = {name: _metered(test) for name, test in tests.items()}
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "cycler": Cycler,
            "joiner": Joiner,
            "namespace": _Opaque,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Instrument().visit(source), *args, **kwargs)

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Joins what a macro, a block or a `set` block wrote."""
        return METER.get().joined(pieces)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        METER.get().step()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        METER.get().step()
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        template = value.__self__

        def bounded(*args: Any, **kwargs: Any) -> str:
            METER.get().format(template, args, kwargs)
            return wrapped(*args, **kwargs)

        return bounded

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        meter = METER.get()
        meter.step()
        if operator in ("*", "**"):
            meter.product(operator, left, right)
        elif operator == "%" and isinstance(left, str):
            meter.printf(left, right)
        return meter.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.step()
        # A macro sees them as `varargs` and `kwargs`.
        meter.size(args)
        meter.size(kwargs)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            args = meter.method(owner, __obj.__name__, args, kwargs)
        elif isinstance(__obj, LoopContext) and args:
            args = (meter.turns(args[0]), *args[1:])
        return meter.made(super().call(__context, __obj, *args, **kwargs))


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # keeps Jinja's mark of what else the function is to be passed
    def metered(*args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.step()
        return meter.made(function(*args, **kwargs))

    return metered


@jinja2.pass_context
def _finalize(context: Any, value: Any) -> Any:
    """Charges for a value that is to be written out."""
    return METER.get().made(value) if not isinstance(value, Iterator) else value


@jinja2.pass_eval_context
def _joined(eval_context: nodes.EvalContext, values: tuple[Any, ...]) -> str:
    """The operator `~`."""
    meter = METER.get()
    meter.step(len(values))
    meter.room(meter.size(values))
    text: str = meter.made((markup_join if eval_context.autoescape else str_join)(values))
    return text


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message)[:1000])


def _strftime_now(form: str) -> str:
    return METER.get().now.strftime(form[:256])


@functools.cache
def _environment() -> Sandbox:
    return Sandbox()


@functools.lru_cache(maxsize=8)
def compile(source: str) -> jinja2.Template:
    """The template ready to render; raises TemplateError if it isn't one."""
    if len(source) > SOURCE_LIMIT:
        raise TemplateError(f"chat template: it is longer than {SOURCE_LIMIT} characters")
    try:
        return _environment().from_string(source)
    except TemplateError:
        raise
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"chat template, line {error.lineno}: {error.message}") from error
    except (RecursionError, SyntaxError) as error:  # Python's own limits to what it compiles
        raise TemplateError("chat template: it is nested too deeply") from error
    except (MemoryError, ValueError, OverflowError) as error:
        raise TemplateError(f"chat template: {_shown(error)}") from error


def render(source: str, variables: Mapping[str, Any], now: datetime) -> str:
    """Render a template within limits that grow with the size of what it is given.

    Raises TemplateError with the template's own words for `raise_exception`, else with the line and
    the reason.
    """
    template = compile(source)
    meter = Meter(variables, now)
    token = METER.set(meter)
    try:
        return Sandbox.concat(template.root_render_func(template.new_context(dict(variables))))
    except TemplateError:
        raise
    except Exception as error:  # whatever the template's expressions came upon
        line = _line(template, error)
        raise TemplateError(f"chat template, line {line}: {_shown(error)}") from error
    finally:
        METER.reset(token)


def _line(template: jinja2.Template, error: BaseException) -> int:
    """The template's line that an error came from."""
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


def _shown(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split())[:300]
    return (
        text
        if isinstance(error, jinja2.TemplateError) and text
        else (f"{type(error).__name__}: {text}")
    )
