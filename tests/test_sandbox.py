"""The sandbox: what templates may do, and that hostile ones end soon and small."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
import time
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.errors import TemplateError
from edgellm.template import sandbox
from edgellm.template.meter import DEADLINE_S

NOW = datetime(2026, 1, 2)


def render(source: str, **variables: object) -> str:
    return sandbox.render(source, variables, NOW)


def grown(start: str, step: str) -> str:
    """A template that applies `step` 64 times."""
    return (
        "{% set ns = namespace(a=" + start + ") %}{% for i in range(64) %}"
        "{% set ns.a = " + step + " %}{% endfor %}{{ ns.a }}"
    )


FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "loops": FOREVER,
    "long output": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "long range": "{{ range(10 ** 18) | list }}",
    "list of a range": "{{ range(99999) | list }}",
    "text times": "{{ 'x' * 10 ** 9 }}",
    "times text": "{{ 10 ** 9 * 'x' }}",
    "list times": "{{ [1] * 10 ** 9 }}",
    "power": "{{ (9 ** 99) ** 99999 }}",
    "squares": grown("7", "ns.a * ns.a"),
    "doubled text": grown("'x'", "ns.a + ns.a"),
    "doubled by ~": grown("'x'", "ns.a ~ ns.a"),
    "shared lists": grown("['x']", "[ns.a, ns.a]"),
    "shared tuples": grown("('x',)", "(ns.a, ns.a)"),
    "shared mappings": grown("'x'", "{'a': ns.a, 'b': ns.a}"),
    "shared by dict()": grown("'x'", "dict(a=ns.a, b=ns.a)"),
    "shared by arguments": "{% macro m(n) %}{% if n %}{{ m(n - 1, varargs, varargs) }}"
    "{% else %}{{ varargs }}{% endif %}{% endmacro %}{{ m(60) }}",
    "center": "{{ 'x' | center(10 ** 9) }}",
    "center method": "{{ 'x'.center(10 ** 9) }}",
    "zfill": "{{ 'x'.zfill(10 ** 9) }}",
    "printf width": "{{ '%1000000000d' % 1 }}",
    "printf star": "{{ '%*d' % (10 ** 9, 1) }}",
    "printf precision": "{{ '%.1000000000f' | format(1) }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "format nested": "{{ '{:{w}}'.format(1, w=10 ** 9) }}",
    "format map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "format repeated": "{{ ('{0}' * 999).format('x' * 99999) }}",
    "format by attr": "{{ ('{:1000000000}' | attr('format'))(1) }}",
    "replace": "{{ ('x' * 99999) | replace('x', 'y' * 99999) }}",
    "replace method": "{{ ('x' * 99999).replace('', 'y' * 99999) }}",
    "replace number": "{{ ('1' * 99999) | replace(1, ['y' * 99999]) }}",
    "format attribute": "{% set ns = namespace(a='x' * 99999) %}{{ ('{0.a}' * 800).format(ns) }}",
    "join attribute": "{% set ns = namespace(a='x' * 99999) %}"
    "{{ ([ns] * 9999) | join(attribute='a') }}",
    "join": "{{ range(60000) | join('y' * 99999) }}",
    "join method": "{{ ('y' * 99999).join(range(9000) | map('string')) }}",
    "indent": "{{ ('\n' * 99999) | indent(9999) }}",
    "json indent": "{{ {'a': [1, 2]} | tojson(indent=10 ** 9) }}",
    "batch": "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "slice": "{{ [1] | slice(10 ** 9) | list }}",
    "round": "{{ 1.5 | round(10 ** 9, 'ceil') }}",
    "endless macro": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "branching macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "endless block": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "recursive loop": "{% for i in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "lazy copies": "{{ range(60000) | map('default', 'x' * 99999, true) | list }}",
    "wide map": "{{ range(99999) | map('center', 99999) | list }}",
    "backward search": "{% set b = 'a' * 200000 %}{{ b.rfind('b' + 'a' * 99999) }}",
    "strip": "{% set b = 'a' * 200000 %}{{ b.strip('b' * 200000) }}",
    "trim": "{% set b = 'a' * 200000 %}{{ b | trim('b' * 200000) }}",
    "list comparison": "{% set a = range(9999) | list %}{% set b = range(9999) | list %}"
    "{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}",
    "list search": "{% set a = range(9999) | list %}"
    "{% for i in range(99999) %}{% if 'x' in a %}{% endif %}{% endfor %}",
    "list sum": "{{ [[1]] * 9000 | sum(start=[]) }}",
    "set blocks": "{% for i in range(99999) %}{% set x %}{{ 'y' * 99999 }}{% endset %}{% endfor %}",
    "long macro output": "{% macro m() %}{% for i in range(99999) %}{{ 'y' * 99999 }}{% endfor %}"
    "{% endmacro %}{{ m() }}",
    "kept texts": "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set ns.l = ns.l + ['y' * 9999 ~ i] %}{% endfor %}",
    "huge number": "{{ 0x" + "f" * 99999 + " }}",
    "punycode": "{{ ('x' * 99999).encode('punycode') }}",
    "markup": "{{ ('<!--' * 9999) | striptags }}",
    "lorem ipsum": "{{ lipsum(10 ** 9) }}",
    "bytes": "{{ (1).to_bytes(10 ** 9, 'big') }}",
    "growing list": "{% set l = ['a'] %}{% for x in l %}{% set _ = l.append('b') %}{% endfor %}",
    "deep source": "{{ " + "(" * 50000 + "1" + ")" * 50000 + " }}",
    "deep blocks": "{% if a %}" * 5000 + "{% endif %}" * 5000,
    "deep loops": "{% for a in b %}" * 30 + "{% endfor %}" * 30,
    "long chain": "{% if a %}" + "{% elif b %}" * 4000 + "{% endif %}",
    "long sum": "{{ 1" + " + 1" * 9000 + " }}",
    "many outputs": "{{ a }}" * 12000,
    "long source": "x" * 10**6,
    "open comments": "{#" * 60000,
    "python": "{{ ''.__class__.__mro__ }}",
    "file": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_template_fails_soon(source: str) -> None:
    started = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert time.monotonic() - started < 2 * DEADLINE_S
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


CHILD = """
import json, resource, sys
from datetime import datetime
from edgellm.template import sandbox
from edgellm.errors import TemplateError
sandbox.render("{{ 1 }}", {}, datetime.now())
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (160 << 20), used + (160 << 20)))
for source in json.load(sys.stdin):
    try:
        sandbox.render(source, {}, datetime.now())
    except TemplateError as error:
        if "MemoryError" in str(error):
            sys.exit(source[:99])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_hostile_templates_stay_small() -> None:
    """All of them in one process whose address space has little left."""
    sources = json.dumps(list(HOSTILE.values()))
    subprocess.run([sys.executable, "-c", CHILD], input=sources, text=True, check=True, timeout=120)


def test_limits_hold_in_any_thread() -> None:
    seen: list[object] = []

    def work() -> None:
        try:
            render(FOREVER)
        except TemplateError as error:
            seen.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert render("{{ 1 + 1 }}") == "2"
    for thread in threads:
        thread.join(4 * DEADLINE_S)
    assert len(seen) == 2


def test_long_conversations_are_not_taken_for_hostile() -> None:
    messages = [{"role": "user", "content": "word " * 200}] * 1000
    source = """
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
{%- set content = m.content.split('</think>')[-1].lstrip('\\n') | trim %}
{{- '<' + m.role + '>' + content + '\\n' }}{% if loop.index0 == ns.last %}{{ '!' }}{% endif %}
{%- endfor %}"""
    text = render(source, messages=messages)
    assert text.count("<user>") == 1000
    assert text.endswith("!")


def test_a_namespace_shows_nothing_of_itself() -> None:
    source = "{% set ns = namespace() %}{% set ns.a = [ns, ns] %}{{ ns }} {{ ns.a }}"
    assert render(source) == "<Namespace> [<Namespace>, <Namespace>]"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}"
         "{% if i == 3 %}{% break %}{% endif %}{% endfor %}", "023"),
        ("a{% generation %}b{{ 1 }}{% endgeneration %}c", "ab1c"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ loop }}{% for x in 'ab' %}{{ loop.index }}/{{ loop.length }}{{ x }}"
         "{{ '' if loop.last else ',' }}{% endfor %}", "1/2a,2/2b"),
        ("{% for x in [3, 1] | sort %}{{ x }}{% else %}none{% endfor %}", "13"),
        ("{% for x in y %}{{ x }}{% else %}none{% endfor %}", "none"),
        ("{{ [1, 2] | map('string') | join('-') }} {{ 'x%sy' % 1 }} {{ '{}'.format(2) }}",
         "1-2 x1y 2"),
        ("{% if [] | select %}lazy is true{% endif %}", "lazy is true"),
        ("{{ [{'a': 1}, {'a': 2}] | selectattr('a', 'equalto', 2) | list }}", "[{'a': 2}]"),
        ("{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}"
         "{% call m(1) %}!{% endcall %}", "12!"),
        ("{% set x %}a{{ 1 ~ 'b' }}{% endset %}{{ x | upper }}{{ x[1:] }}{{ x[::-1] }}",
         "A1B1bb1a"),
        ("{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ -2 }}{{ 'ab' * 2 }}", "338-2abab"),
        ("{% for n in t recursive %}{{ n.v }}{{ loop(n.c) if n.c }}{% endfor %}", "123"),
        ("{{ strftime_now('%Y-%m-%d') }}", "2026-01-02"),
        ("{% autoescape true %}{{ '<' ~ '&' }}{% endautoescape %}", "&lt;&amp;"),
    ],
)  # fmt: skip
def test_what_templates_use_works(source: str, expected: str) -> None:
    tree = [{"v": 1, "c": [{"v": 2, "c": []}, {"v": 3, "c": []}]}]
    assert render(source, t=tree) == expected


def test_errors_say_where() -> None:
    with pytest.raises(TemplateError, match=r"^chat template, line 3: 'a' is undefined$"):
        render("x\ny\n{{ a.b }}")
    with pytest.raises(TemplateError, match=r"^chat template, line 2: "):
        render("x\n{% if %}")
    with pytest.raises(TemplateError, match=r"line 1: No filter named 'x'"):
        render("{{ 1 | x }}")


words = ["{{", "}}", "{%", "%}", "for", "in", "if", "endfor", "endif", "set", "a", "messages",
         "=", "[", "]", "(", ")", "'", "x", "1", "|", "join", "~", ".", "+", "*", "**", "%",
         " ", "\n", "{#", "#}", "range", "macro", "call", "namespace", "loop", "-"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(words), max_size=40).map(" ".join))
def test_any_source_renders_or_fails_cleanly(source: str) -> None:
    try:
        render(source, messages=[{"role": "user", "content": "Hello"}])
    except TemplateError as error:
        assert str(error)  # noqa: PT017 (either outcome is right)


def test_mutated_templates_render_or_fail_cleanly() -> None:
    """Real constructs and hostile ones, cut, doubled and spliced into each other."""
    rng = random.Random(11)
    sources = [source for source in HOSTILE.values() if len(source) < 500]
    fragments = [found for text in sources for found in re.findall(r"\{[{%].*?[%}]\}", text)]
    for _ in range(150):
        source = rng.choice(sources)
        for _ in range(rng.randint(1, 5)):
            a, b = sorted(rng.randrange(len(source) + 1) for _ in range(2))
            middle = rng.choice([rng.choice(fragments), "", source[a:b] * 2, source[a : b - 1]])
            source = source[:a] + middle + source[b:]
        started = time.monotonic()
        try:
            render(source, messages=[{"role": "user", "content": "Hello"}])
        except TemplateError as error:
            assert len(str(error)) < 1200  # noqa: PT017 (either outcome is right)
        assert time.monotonic() - started < 2 * DEADLINE_S
