#!/usr/bin/env python3
"""Writes jinja.json: what jinja2, set up as transformers does it, makes of the templates below.

Needs jinja2 (3.1). The set-up follows transformers/utils/chat_template_utils.py, _compile_jinja_template.
"""
import json
import pathlib
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

VARIABLES = """{"s": "Hello, World", "empty": "", "n": 3, "f": 0.1, "whole": 2.0, "big": 1e+22, "tiny": 0.00001, "t": true,
"no": false, "nil": null, "list": [3, 1, 2], "names": ["b", "a", "C"], "d": {"b": 1, "a": [1.5, null, true], "items": "x",
"é": "ü <&> \\" ' \\\\ \\n"}, "spaces": " \\t\\u001c a  b\\u3000\\n", "lines": "a\\nb\\r\\nc\\u2028d\\n",
"people": [{"name": "Bo", "age": 30}, {"name": "Al", "age": 25}, {"name": "Cy", "age": 30}], "html": "<b>&'\\"</b>"}"""

TEMPLATES = """
{{ t }} {{ no }} {{ nil }} {{ n }} {{ f }} {{ whole }} {{ big }} {{ tiny }} {{ missing }}|
{{ 'x' ~ t ~ nil ~ n ~ whole ~ missing }}
{{ list }} {{ d }} {{ names }} {{ [t, nil, 'a', 1.0] }} {{ (1, 'a') }} {{ (1,) }} {{ {} }} {{ [] }}
{{ "it's" }} {{ ["it's", 'say "hi"', 'both \\' "', 'a\\nb\\t\\\\', 'é'] }}
{{ html }} {{ html | e }} {{ html | safe }}
{{ d | tojson }} {{ s | tojson }} {{ n | tojson }} {{ f | tojson }} {{ big | tojson }} {{ tiny | tojson }} {{ nil | tojson }} {{ html | tojson }}
{{ d | tojson(indent=2) }}
{{ d | tojson(indent=4) }} {{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ [[], {}] | tojson(indent=1) }}
{{ d | tojson(ensure_ascii=True) }} {{ '😀' | tojson(true) }}
{{ d | tojson(separators=(',', ':')) }} {{ d | tojson(sort_keys=true) }} {{ people | tojson(indent=2, separators=(', ', ' : ')) }}
{{ (1, 'a') | tojson }} {{ {1: 2, true: 3, none: 4, 1.5: 5} | tojson }}
{{ missing | tojson }}
{{ s.split(', ') }} {{ s.split() }} {{ spaces.split() }} {{ s.split('l', 1) }} {{ s.rsplit('l', 1) }} {{ ' a b c '.split(none, 1) }} {{ ' a b c '.rsplit(none, 1) }} {{ ' a  b '.split(none, 5) }} {{ '  '.split(none, 0) }} {{ ' a b '.split(none, 0) }} {{ ' a b '.rsplit(none, 0) }} {{ 'a b c'.rsplit() }}
{{ s.split(sep='o', maxsplit=1) }} {{ 'a,b,'.split(',') }} {{ ''.split(',') }} {{ ''.split() }} {{ s.split('') }}
{{ spaces.strip() | tojson }} {{ spaces.lstrip() | tojson }} {{ spaces.rstrip() | tojson }} {{ spaces | trim | tojson }} {{ 'xxaxx'.strip('x') }} {{ 'abc'.strip('ca') }}
{{ lines.splitlines() }} {{ lines.splitlines(true) | tojson }} {{ lines.splitlines(keepends=True) | tojson }} {{ ''.splitlines() }} {{ '\\n\\n'.splitlines() }}
{{ s.partition(', ') }} {{ s.rpartition('o') }} {{ s.partition('zz') }} {{ s.rpartition('zz') }}
{{ s.removeprefix('Hello') }} {{ s.removesuffix('World') }} {{ s.removeprefix('zz') }}
{{ s.upper() }} {{ s.lower() }} {{ s.title() }} {{ s.capitalize() }} {{ s.startswith('He') }} {{ s.endswith(('x', 'd')) }} {{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('z') }} {{ s.count('l') }}
{{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ ', '.join(names) }} {{ '-'.join(['a']) }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }}
{{ '{} and {}'.format(1, 'b') }} {{ '{0}{0}'.format('x') }} {{ '%s is %d' | format('a', 3) }} {{ '%.2f' | format(3.14159) }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[-3:] }} {{ list[::-1] }} {{ list[1:] }} {{ list[:-1] }} {{ list[-1] }} {{ s[99] }} {{ list[99] }}
{{ d.a }} {{ d['b'] }} {{ d.get('b') }} {{ d.get('z') }} {{ d.get('z', 7) }} {{ d.z }} {{ d['z'] }} {{ 'a' in d }} {{ 'z' not in d }} {{ d['items'] }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d.keys() %}{{ k }}{% endfor %} {% for v in d.values() %}{{ v }}{% endfor %} {% for k in d %}{{ k }}{% endfor %}
{% for k, v in d | items %}{{ k }}={{ v }};{% endfor %} {% for k, v in d | dictsort %}{{ k }};{% endfor %} {{ d | length }} {{ d | list }}
{{ nil.foo }}|
{{ missing.foo }}
{{ missing['foo'] }}
{{ missing() }}
{{ d.z.z }}
{{ n.foo }}|{{ s.foo }}|{{ list.foo }}|
{{ missing == none }} {{ missing is defined }} {{ missing is none }} {{ nil is none }} {{ nil is defined }} {{ missing or 'x' }} {{ missing is undefined }} {{ not missing }}
{{ 'a' in missing }} {% for x in missing %}x{% endfor %} {{ missing | length }} {{ missing | default('dflt') }} {{ nil | default('dflt') }} {{ nil | default('dflt', true) }} {{ empty | d('e', true) }}
{{ missing + 'x' }}
{{ missing ~ 'x' }}
{{ s + n }}
{{ s + 1 | string }} {{ n + whole }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 3 }} {{ 2 ** 0.5 }} {{ 'ab' * 2 }} {{ [1] + [2] }} {{ 1 + true }}
{{ 1 / 0 }}
{{ s is string }} {{ n is string }} {{ n is number }} {{ f is float }} {{ n is integer }} {{ t is boolean }} {{ t is number }} {{ t is integer }} {{ d is mapping }} {{ list is mapping }} {{ list is sequence }} {{ s is sequence }} {{ d is sequence }} {{ s is iterable }} {{ n is iterable }} {{ list is iterable }} {{ d is iterable }} {{ missing is sequence }} {{ missing is iterable }} {{ nil is iterable }} {{ nil is sequence }} {{ n is sequence }} {{ (1, 2) is sequence }} {{ range(2) is iterable }} {{ d.items() is iterable }}
{{ t is true }} {{ n is true }} {{ no is false }} {{ nil is false }} {{ n is odd }} {{ n is even }} {{ 4 is divisibleby 2 }} {{ n is in list }} {{ n is eq 3 }} {{ n is gt 2 }} {{ s is lower }} {{ raise_exception is defined }}
{{ 1 == true }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ [1, 2] == (1, 2) }} {{ 1 < 2 < 3 }} {{ 'a' < 'b' }} {{ none == false }} {{ [] == [] }} {{ {} == {} }}
{{ 'yes' if t else 'no' }} {{ 'yes' if no }}| {{ ('a' if no) is defined }} {{ t and 'x' }} {{ no or 'y' }} {{ t and no }} {{ '' or none }} {{ not t }}
{{ list | sort }} {{ names | sort }} {{ list | sort(reverse=true) }} {{ list | max }} {{ list | min }} {{ list | sum }} {{ list | first }} {{ list | last }} {{ list | reverse | list }} {{ list | join('-') }} {{ [] | first }}|
{{ people | map(attribute='name') | list }} {{ people | map(attribute='name') | join(', ') }} {{ names | map('upper') | list }} {{ people | selectattr('age', 'equalto', 30) | map(attribute='name') | list }} {{ people | rejectattr('age', 'eq', 30) | list | length }} {{ list | select('odd') | list }} {{ list | reject('odd') | list }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ people | sum(attribute='age') }}
{% for g in people | groupby('age') %}{{ g.grouper }}:{{ g.list | length }};{% endfor %} {{ [1, 1, 2] | unique | list }} {{ list | batch(2) | list }} {{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ range(3) | length }}
{{ s | upper }} {{ s | lower }} {{ s | title }} {{ s | capitalize }} {{ s | length }} {{ s | replace('l', 'L') }} {{ s | list | length }} {{ 3.7 | int }} {{ '12' | int }} {{ 'x' | int(5) }} {{ '1.5' | float }} {{ 3 | float }} {{ -3 | abs }} {{ 3.14159 | round(2) }} {{ 2.5 | round }} {{ 7 | string }} {{ 1e22 | string }}
{{ 'a\\nb\\nc' | indent(2) }} {{ 'a\\nb' | indent(2, true) }} {{ 'a\\n\\nb' | indent(width=4) }}
{% set x = 1 %}{% for i in list %}{% set x = i %}{% endfor %}{{ x }} {% set ns = namespace(x=1, l=[]) %}{% for i in list %}{% set ns.x = i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.x }} {{ ns.l }} {% if t %}{% set y = 2 %}{% endif %}{{ y }}
{% set z %}block {{ n }}{% endset %}{{ z }} {% set a, b = 1, 2 %}{{ a }}{{ b }} {% set s2 = s ~ '!' %}{{ s2 }}
{% for i in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }} {% endfor %}
{% for i in list if i != 1 %}{{ i }}{{ loop.index }}{% else %}none{% endfor %} {% for i in [] %}x{% else %}none{% endfor %} {% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for a in [1, 2] recursive %}{{ a }}{% endfor %} {% for c in s[:3] %}{{ c }}.{% endfor %} {% for a, b in [[1, 2], [3, 4]] %}{{ a + b }}{% endfor %}
{% macro m(a, b='x', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(1, c=3) }}{{ m() }}
{% macro w(x) %}<{{ caller() }}{{ x }}>{% endmacro %}{% call w(1) %}in{% endcall %} {% macro lines(a) %}¶  {{ a }}¶{% endmacro %}{{ lines(1) }}|
{% with q = 5 %}{{ q }}{% endwith %}{{ q }}| {% filter upper %}abc{% endfilter %} {% raw %}{{ x }}{% endraw %} {# comment #}x
  {% if t %}¶    yes¶  {% endif %}¶no¶
  {%- if t -%}¶    yes¶  {%- endif +%}¶  no  {{- n -}}  ¶
a¶{% if t %}¶b¶{%+ if t %}c{% endif %}{% endif %}¶{# c #}¶d¶¶
{{- '\\n' }}{{ "a" 'b' }} {{ 'tab\\there' }} {{ '\\u00e9\\x41' }} {{ "\\"" }}
{{ bos_token }}{{ messages }}{{ tools }}{{ add_generation_prompt }}{{ documents }}{{ eos_token }}
{{ raise_exception('stop here') }}
{{ strftime_now('') }}
{{ list.append(1) }}
{{ d.update({'x': 1}) }}
{{ d.pop('b') }}
{{ nosuchfilter | nosuch }}
{{ s is nosuchtest }}
{{ s.nosuchmethod() }}
{{ ''.__class__ }}|
{{ ''.__class__.__mro__ }}
{{ dict(a=1, b='x') }} {{ dict(a=1).a }} {{ joiner is defined }} {{ namespace is defined }} {{ True }} {{ False }} {{ None }}
{{ 'a' 'b' }} {{ 1_000 }} {{ 1.5e3 }} {{ 0x10 if false else 16 }} {{ -n }} {{ n is not none }} {{ n not in list }} {{ not n in list }}
{{ 'x' if s.startswith('H') and not s.endswith('x') and (n > 2 or no) else 'y' }} {{ (s | length) > 3 }} {{ s | length > 3 }} {{ 'a' ~ 'b' | upper }} {{ -1 | abs }} {{ 2 + 3 * 4 }} {{ (2 + 3) * 4 }} {{ 10 - 2 - 3 }} {{ 2 ** 3 ** 2 }}
{%- set m = {'role': 'user', 'content': [{'type': 'text', 'text': 'hi'}]} -%}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{% if c.type == 'text' or 'text' in c %}{{ c.text }}{% endif %}{% endfor %}{% endif %}
{{ s | regex_replace('a', 'b') }}
{{ 'ab' in 'cabd' }} {{ 1 in [1] }} {{ n in (1, 3) }} {{ [1, 2, 3] | length }} {{ (1, 2) | length }} {{ '😀é' | length }} {{ '😀é'[1] }} {{ '😀é'[::-1] }}
{{ d | string }} {{ list | string }} {{ t | string }} {{ nil | string }} {{ d ~ '' }} {{ list | join }} {{ [t, nil] | join(',') }}
{{ people[0].name }} {{ people[-1]['name'] }} {{ people | length }} {{ (people | first).name }}
{{ 5 | tojson }} {{ 5.0 | tojson }} {{ -0.0 | tojson }} {{ 1e100 | tojson }} {{ 123456789012345678 | tojson }} {{ true | tojson }} {{ 'a/b' | tojson }} {{ '\\x7f\\x1f' | tojson }}
{{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.items() | length }}
""".strip("\n").split("\n")


def split(line):
    """Expressions one by one, so that one that fails hides no other; a pilcrow is a line break."""
    if line.startswith("{{") and line.endswith("}}") and "{%" not in line:
        return line.replace("}} {{", "}}\n{{").split("\n")
    return [line.replace("¶", "\n")]



def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return env


def run(source):
    case = {"template": source}
    variables = dict(json.loads(VARIABLES), messages=[], tools=None, documents=None, add_generation_prompt=False, bos_token="<s>")
    try:
        case["text"] = environment().from_string(source).render(**variables)
    except Exception as failure:
        case["error"] = f"{type(failure).__name__}: {failure}"
    return case


cases = [run(source) for line in TEMPLATES for source in split(line)]
path = pathlib.Path(__file__).with_name("jinja.json")
path.write_text(json.dumps({"variables": VARIABLES, "cases": cases}, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
print(f"{len(cases)} cases, {sum('error' in c for c in cases)} of them errors")
