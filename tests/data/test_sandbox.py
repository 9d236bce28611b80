"""Templates that reach for Python, loop, recurse, print or grow without end are stopped with a sentence."""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfew.config import CONFIGS
from tfew.data import rendering, sandbox
from tfew.data.rendering import END, START
from tfew.data.sandbox import MAX_OUTPUT_CHARACTERS, RENDER_TIMEOUT_SECONDS, RenderError, SafeTemplate, extract_spans
from tfew.data.templates import InlineTemplate
from tfew.errors import UserError
from tfew.schema import Example

FIELDS = {"text": "some text", "n": 10**9, "tags": ["a", "b"]}
UNSAFE = "SecurityError: access to attribute '.*' of '.*' object is unsafe"
MEMORY, TIME, OUTPUT = "needs more than 512 MB of memory", "takes longer than", "prints more than 1,000,000 characters"


def rendered(jinja: str, cut: tuple[str, ...] = (), **fields: Any) -> Any:
    template = InlineTemplate("q", jinja, ["a", "b"], cut)
    return template.render("d", Example(7, {**FIELDS, "idx": 7, **fields}, 0))


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{{ ''.__class__.__mro__ }}", UNSAFE),
        ("{{ text['__class__'] }}", UNSAFE),
        ("{{ text | attr('__cl' ~ 'ass__') }}", UNSAFE),
        ("{{ ().__class__.__bases__[0].__subclasses__() }}", UNSAFE),
        ("{{ '{0.__class__.__mro__}'.format(text) }}", UNSAFE),
        ("{{ '{a.__class__}'.format_map({'a': text}) }}", UNSAFE),
        ("{{ self._TemplateReference__context }}", UNSAFE),
        ("{{ cycler.__init__.__globals__ }}", UNSAFE),
        ("{{ lipsum.__globals__ }}", "'lipsum' is undefined"),
        ("{{ joiner().__init__ }}", "'joiner' is undefined"),
        ("{{ namespace().__init__.__globals__ }}", "has no attribute '__init__'"),
        ("{{ tags.append(1) }}", UNSAFE),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ 'a' * 10**10 }}", MEMORY),
        ("{{ text * n }}", MEMORY),
        ("{{ [1] * n * n }}", MEMORY),
        ("{{ range(n) | list }}", "The sandbox blocks ranges larger"),
        ("{{ text | center(10**9) }}", MEMORY),
        ("{{ text | indent(10**10) }}", MEMORY),
        ("{{ text.ljust(10**9) | length }}", MEMORY),
        ("{{ '%1000000000d' | format(1) }}", MEMORY),
        ("{{ '{:>10000000000}'.format(1) }}", MEMORY),
        ("{% set s = 'abcdefgh' %}" + "{% set s = s ~ s %}" * 40 + "{{ s | length }}", MEMORY),
        (
            "{% set x = namespace(s=text) %}{% for i in range(60) %}{% set x.s = x.s ~ x.s %}{% endfor %}{{ x.s }}",
            MEMORY,
        ),
        ("{% macro f(k) %}{{ f(k + 1) }}{% endmacro %}{{ f(0) }}", "recurses without end"),
        ("{% for t in tags recursive %}{{ loop(tags) }}{% endfor %}", "recurses without end"),
        ("{% for i in range(100000) %}{% for j in range(100000) %}spam{% endfor %}{% endfor %}", OUTPUT),
        ("{% for i in range(99999) %}{{ text }}{{ text }}{% endfor %}", OUTPUT),
    ],
)
def test_hostile_templates_are_stopped(jinja: str, message: str) -> None:
    started, before = time.monotonic(), _peak_bytes()
    with pytest.raises(UserError, match=rf"^Template 'q' of d, row 7 cannot be rendered: .*{message}.*(?<!\.)\.$"):
        rendered(jinja)
    assert time.monotonic() - started < 60  # it ends at all; how fast depends on the machine
    assert _peak_bytes() - before < 100 * 2**20, "its memory is another process's"


@pytest.mark.parametrize(
    "jinja",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{{ n ** n }}",
        "{{ text | slice(10**9) | list | length }}",
    ],
)
def test_what_takes_long_is_stopped(jinja: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "RENDER_TIMEOUT_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"row 7 cannot be rendered: it takes longer than 0.5 seconds\.$"):
        rendered(jinja)
    monkeypatch.setattr(sandbox, "RENDER_TIMEOUT_SECONDS", 30.0)
    assert rendered("{{ text | center(11) }}!").input == "some text !"  # there is a new process


def test_what_is_constant_is_not_computed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler would compute 1 ** 10**9 and the like before anything is rendered."""
    monkeypatch.setattr(sandbox, "RENDER_TIMEOUT_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"The template 'q' cannot be used: it takes longer than 0.5 seconds"):
        InlineTemplate("q", "{{ 1 | round(-10**9) }}", ["a"])
    with pytest.raises(UserError, match="The answer choices of 'q' cannot be used: it takes longer"):
        InlineTemplate("q", "x", "{{ 1 | round(-10**9) }}")


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{{ " + "(" * 40_000 + "1" + ")" * 40_000 + " }}", "recursion"),
        ("{{ text | nofilter }}", "No filter named 'nofilter'"),
        ("{% for %}", "it is not valid Jinja"),
    ],
)
def test_templates_that_cannot_be_read(jinja: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"The template 'q' cannot be used: .*{message}"):
        InlineTemplate("q", jinja, ["a"])


def test_a_process_that_is_killed_is_missed_and_comes_back() -> None:
    assert rendered("{{ text | center(11) }}!").input == "some text !"
    process = sandbox._process()._process
    assert process is not None
    process.kill()
    process.wait()
    with pytest.raises(RenderError, match="its process ended"):
        SafeTemplate("{{ text | center(11) }}")
    assert rendered("{{ text | center(11) }}!").input == "some text !"


@pytest.mark.parametrize(
    ("jinja", "plain"),
    [
        ("{{ text }}: {{ tags | join(', ') }}?", True),
        ("{% if n > 3 and tags[0] in text %}{{ text[:5] | upper }}{% else %}no{% endif %}", True),
        ("{{ 'a' if text == 'b' else 'c' ~ text }}", True),
        ("{% for t in tags %}{{ t }}{% endfor %}", False),
        ("{% set x = text %}{{ x }}", False),
        ("{{ text.upper() }}", False),
        ("{{ text * 2 }}", False),
        ("{{ tags | join(text) }}", False),
        ("{{ tags | join('" + "-" * 100 + "') }}", False),
        ("{{ text | replace('a', 'bb') }}", False),
    ],
)
def test_which_templates_are_rendered_here(jinja: str, plain: bool) -> None:
    assert (SafeTemplate(jinja)._template is not None) == plain


def test_both_ways_of_rendering_agree() -> None:
    for jinja in ("{{ text }} {{ tags[1] | upper }}", "{{ text }}{% if n %} yes{% endif %}"):
        elsewhere = jinja + "{% set x = 1 %}"  # which makes it not plain
        assert SafeTemplate(elsewhere)._template is None
        assert SafeTemplate(jinja).render(FIELDS, ["text"]) == SafeTemplate(elsewhere).render(FIELDS, ["text"])
        assert (
            SafeTemplate(jinja).columns
            == SafeTemplate(elsewhere).columns
            == {"text", "n", "tags"} & {name for name in FIELDS if name in jinja}
        )


def test_the_projects_own_templates_are_plain() -> None:
    """So that pre-training's millions of rows are rendered without another process."""
    from omegaconf import OmegaConf

    checked = 0
    for file in (CONFIGS / "dataset").glob("mini/*.yaml"):
        for prompt in OmegaConf.to_container(OmegaConf.load(file), resolve=False).get("prompts") or ():
            if isinstance(prompt, dict):
                assert SafeTemplate(prompt["jinja"])._template is not None, file
                checked += 1
    assert checked > 100


def test_the_random_filter_draws_the_same_for_the_same_row() -> None:
    jinja = "{{ range(100000) | random }}"
    assert rendered(jinja).input == rendered(jinja).input
    assert (
        len({rendered(jinja, idx=7).input, InlineTemplate("r", jinja, ["a"]).render("d", Example(7, FIELDS, 0)).input})
        == 2
    )


def test_parts_that_may_be_cut_are_marked_where_they_stand() -> None:
    prompt = rendered("Text: {{ text }}, {{ n }}. {{ text | trim | upper }} {{ text[:4] }} End", cut=("text", "n"))
    assert prompt.input == "Text: some text, 1000000000. SOME TEXT some End"
    assert [prompt.input[start:end] for start, end in prompt.cuttable] == ["some text", "SOME TEXT", "some"]
    assert rendered("{% set t = text %}<{{ t }}>", cut=("text",)).cuttable == ((1, 10),)
    assert rendered("{{ text ~ '!' }}", cut=("text",)).cuttable == ()
    assert rendered("{{ tags | join(' ') }} {{ text }}").cuttable == ()


def test_space_around_and_marks_of_the_text_itself_do_no_harm() -> None:
    prompt = rendered("  {{ text }} ", cut=("text",), text="  padded  ")
    assert (prompt.input, prompt.cuttable) == ("padded", ((0, 6),))
    odd = f"a {END} b {START} c"
    prompt = rendered("<{{ text }}>", cut=("text",), text=odd)
    assert prompt.cuttable == ()
    assert extract_spans(f"x {START}{END} y") == ("x  y", ())


def refused(source: str, message: str, **fields: Any) -> None:
    with pytest.raises(RenderError, match=message):
        SafeTemplate(source).render(fields)


def test_longest_source() -> None:
    most = sandbox.MAX_SOURCE_CHARACTERS
    assert len(SafeTemplate("x" * most).render({})) == most
    refused("x" * (most + 1), "it has 100,001 characters, and the limit is 100,000")


def test_longest_output() -> None:
    source = "{% for i in range(n) %}x{% endfor %}" * 11
    whole, rest = divmod(sandbox.MAX_OUTPUT_CHARACTERS, 11)
    assert len(SafeTemplate(source + "y" * rest).render({"n": whole})) == sandbox.MAX_OUTPUT_CHARACTERS
    refused(source + "y" * (rest + 1), "it prints more than 1,000,000 characters", n=whole)


def test_most_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "RENDER_TIMEOUT_SECONDS", 60.0)  # time is not what is tested here
    half, whole = sandbox.MAX_MEMORY_BYTES // 2, sandbox.MAX_MEMORY_BYTES
    assert SafeTemplate("{{ ('x' * n) | length }}").render({"n": half}) == str(half)
    refused("{{ ('x' * n) | length }}", "it needs more than 512 MB of memory", n=whole)


@pytest.fixture
def slow_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., sandbox._RenderProcess]:
    """A process that answers each request after as many seconds as its source says."""
    program = tmp_path / "slow.py"
    program.write_text(
        "import json, sys, time\n"
        "for line in sys.stdin:\n"
        "    time.sleep(float(json.loads(line)['source'] or START))\n"
        '    print(\'{"text": "done"}\', flush=True)\n'
    )

    def make(start_seconds: float = 0.0) -> sandbox._RenderProcess:
        program.write_text(program.read_text().replace("START", str(start_seconds)))
        monkeypatch.setattr(rendering, "__file__", str(program))
        return sandbox._RenderProcess()

    return make


def test_longest_render(slow_process: Callable[..., sandbox._RenderProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "RENDER_TIMEOUT_SECONDS", 1.0)
    process = slow_process()
    assert process.ask({"source": "0.2"}) == "done"
    with pytest.raises(RenderError, match="it takes longer than 1 seconds"):
        process.ask({"source": "60"})
    assert process.ask({"source": "0.2"}) == "done"
    process.close()


def test_longest_start(slow_process: Callable[..., sandbox._RenderProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "START_TIMEOUT_SECONDS", 1.0)
    process = slow_process(start_seconds=60)
    with pytest.raises(RenderError, match="it takes longer than 1 seconds"):
        process.ask({"source": "0"})
    process.close()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)


PLAIN_BOMBS = {
    "a column many times": ("{{ text }}" * 9_000, 2_000_000),
    "filters in a chain": ("{{ text" + "|upper|lower" * 500 + " }}", 2_000_000),
    "join of join": ("{{ text" + "|join('12345678901234567890')" * 30 + " }}", 1),
    "quoted quotes": ("{{ " + "[" * 40 + "text" + "|string]" * 40 + " }}", 1),
}


@pytest.mark.parametrize("name", PLAIN_BOMBS)
def test_a_plain_template_is_bounded_in_output_and_in_time(name: str) -> None:
    source, size = PLAIN_BOMBS[name]
    started = time.monotonic()
    try:
        found = SafeTemplate(source).render({"text": "'\\" * size})
    except RenderError:
        found = ""
    assert len(found) <= MAX_OUTPUT_CHARACTERS
    assert time.monotonic() - started < RENDER_TIMEOUT_SECONDS + 5


def test_a_long_row_is_rendered_elsewhere_with_the_same_text() -> None:
    template, row = SafeTemplate("{{ text }} {{ label|upper }}"), {"text": "ab " * 10, "label": "ß"}
    assert template._template is not None
    short = template.render(row, cut=["text"])
    template._nodes = sandbox.PLAIN_WORK
    assert template.render(row, cut=["text"]) == short
