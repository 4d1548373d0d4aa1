"""How models that we train see a conversation: ChatML, with a device's tools after the question.

    <|im_start|>user
    fan to 40<|im_end|>
    <|im_start|>tools
        set fan: Sets the speed of the fan (percent: 0..100 %) #1
        read temperature: Reads the temperature #2<|im_end|>
    <|im_start|>assistant
    [[call]]1 {"percent": 40}<|im_end|>
    <|im_start|>tool
    ok<|im_end|>
    <|im_start|>assistant
    OK, done.<|im_end|>

Each tool is read in the light of the newest question, and its number in that of all that is said of
it: so a small model has only to find the number that fits best. Before each tool is a tab, by which
it counts them, and no other (the lines of the above end before it for the eye alone). Questions
before the newest are the role `earlier`'s, so that it tells them apart. Of what it has computed for
the question before, only what came up to there is of use, which costs such a model milliseconds. A
question that is all in capitals is shown in small letters.
"""

from __future__ import annotations

TEMPLATE = """\
{%- macro values(of) -%}
{%- if of.enum is defined -%}
{%- for one in of.enum -%}{{ '|' if not loop.first }}{{ one | tojson }}{%- endfor -%}
{%- elif of.type in ('integer', 'number') and of.minimum is defined and of.maximum is defined -%}
{{ of.minimum }}..{{ of.maximum }}
{%- elif of.type == 'boolean' -%}true|false
{%- elif of.type == 'string' -%}text
{%- elif of.type in ('integer', 'number') -%}number
{%- else -%}{{ of | tojson }}
{%- endif -%}
{%- if of.unit or of.description %} {{ of.unit or of.description }}{% endif -%}
{%- endmacro -%}
{%- macro declared() -%}
<|im_start|>tools
{%- for tool in tools -%}
{%- set function = tool.function -%}
{%- set schema = function.parameters | default({}) -%}
{{ '\\t' }}{{ function.name | replace('_', ' ') }}
{{- ': ' ~ function.description if function.description is defined and function.description }}
{%- for name, of in (schema.properties | default({})).items() -%}
{{ ', ' if not loop.first else ' (' }}{{ name }}\
{{ '' if name in (schema.required | default([])) else '?' }}: {{ values(of) }}
{{- ')' if loop.last }}
{%- endfor -%}
{{ ' #' ~ loop.index }}
{%- endfor -%}
<|im_end|>{{ '\\n' }}
{%- endmacro -%}
{%- macro number(name) -%}
{%- for tool in tools or [] -%}{{ loop.index if tool.function.name == name }}{%- endfor -%}
{%- endmacro -%}
{%- set newest = namespace(question=0) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set newest.question = loop.index -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
<|im_start|>\
{{ 'earlier' if message.role == 'user' and loop.index != newest.question else message.role }}
{{- '\\n' }}\
{{ message.content | lower if message.role == 'user' and message.content == message.content | upper
else message.content }}
{%- for call in message.tool_calls or [] -%}
[[call]]{{ number(call.function.name) }} {{ call.function.arguments | tojson }}
{%- endfor -%}
<|im_end|>{{ '\\n' }}
{%- if tools and loop.index == newest.question -%}{{ declared() }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\\n' }}{%- endif -%}
"""

CONTROL = ("<|im_end|>", "<|im_start|>")
"""The first ends a generation."""

MARK = "[[call]]"
