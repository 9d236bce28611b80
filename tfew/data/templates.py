"""Row -> Prompt, by promptsource's templates or by those in a data set's YAML."""

import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from typing import Any, NotRequired

from jinja2 import Environment, meta
from typing_extensions import TypedDict

from tfew.data.labels import CHOICE_SEPARATOR
from tfew.data.sandbox import RenderError, SafeTemplate, extract_spans
from tfew.environment.versions import pip_install, requirements
from tfew.errors import UserError, shorten_list, unknown_value_error
from tfew.files.untrusted import validated
from tfew.schema import Example, Prompt

OWN = "own"  # the name of a template that a user has set
Rendered = tuple[str, str | None, list[str], tuple[tuple[int, int], ...]]


class Template(ABC):
    """A prompt template. `original_task`: promptsource's flag for templates that ask what the data set was made for."""

    name: str
    original_task: bool
    has_choices: bool

    @property
    @abstractmethod
    def columns(self) -> frozenset[str]:
        """The columns that it uses."""

    @abstractmethod
    def _render(self, fields: Mapping[str, Any]) -> Rendered:
        """Input, target (None: the label's choice), answer choices (empty: a template for generation), and the spans
        of the input that may be truncated."""

    def render(self, dataset: str, example: Example, number: int | None = None) -> Prompt | None:
        """The prompt; None if the template does not apply to the row: empty input (COPA's are one-sided) or target.

        `number`: of the row, for messages; None: its `idx`.
        """
        where = self._where(dataset, example.idx if number is None else number)
        text, target, choices, cuttable = self._render_checked(example, where)
        if not text or (target == "" and example.label is not None):
            return None
        for choice in choices:
            if not isinstance(choice, str) or not choice:
                raise UserError(
                    f"{where}: answer choice {choice!r} is {'empty' if choice == '' else 'not text'}"
                    f" (choices: {choices}). Quote a bare yes or no in YAML: it reads them as booleans."
                )
        label = _right_choice(example.label, target, choices, where)
        return Prompt(dataset, self.name, example.idx, text, tuple(choices), label, cuttable)

    def render_target(self, dataset: str, example: Example) -> Prompt | None:
        """A generation prompt: the right answer is the only choice. None if input or answer is empty."""
        text, target, choices, cuttable = self._render_checked(example, self._where(dataset, example.idx))
        if target is None and example.label is not None and example.label < len(choices):
            target = choices[example.label]
        if not (text and target):
            return None
        return Prompt(dataset, self.name, example.idx, text, (target,), 0, cuttable)

    def _render_checked(self, example: Example, where: str) -> Rendered:
        try:
            with _seeded(f"{self.name}/{example.idx}"):
                return self._render(example.fields)
        except RenderError as error:
            raise UserError(f"{where} cannot be rendered: {str(error).rstrip('.')}.") from error
        except Exception as error:  # of any kind: a template is a program
            reason = str(error).rstrip(".")
            raise UserError(f"{where} cannot be rendered: {type(error).__name__}: {reason}.") from error

    def _where(self, dataset: str, number: int) -> str:
        what = "template=" if self.name == OWN else f"Template {self.name!r}"  # of a user's own: the setting
        return f"{what} of {dataset}, row {number}"


class PromptsourceTemplate(Template):
    """A template of promptsource's collection, applied by promptsource itself, as in the official code.

    Promptsource truncates every variable to 2,048 characters.
    """

    def __init__(self, template: Any) -> None:
        self.name = template.name
        self.original_task = bool(template.metadata.original_task)
        self.has_choices = template.answer_choices is not None
        self._template = template

    @property
    def columns(self) -> frozenset[str]:
        """The columns that input, target and answer choices use."""
        sources = (self._template.jinja, self._template.answer_choices or "")
        return frozenset().union(*(meta.find_undeclared_variables(Environment().parse(text)) for text in sources))

    def _render(self, fields: Mapping[str, Any]) -> Rendered:
        parts = self._template.apply(dict(fields))
        choices = self._template.get_answer_choices_list(dict(fields)) or []
        return parts[0], parts[1] if len(parts) > 1 else None, choices, ()


class InlineTemplate(Template):
    """A template of a data set's YAML, or of a user; rendered in a sandbox (`tfew.data.sandbox`).

    `answer_choices` is a list or `a ||| b`. Texts of the columns `cut` may be truncated if an input is too long.
    """

    original_task = True
    has_choices = True

    def __init__(
        self, name: str, jinja: str, answer_choices: str | Sequence[str], cut: Sequence[str] | None = None
    ) -> None:
        self.name = name
        self.cut = list(cut or ())
        self._input = _compile(jinja, "template=" if name == OWN else f"The template {name!r}")
        self._choices = (
            _compile(answer_choices, f"The answer choices of {name!r}")
            if isinstance(answer_choices, str)
            else list(answer_choices)
        )

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the template and its answer choices use."""
        of_choices = self._choices.columns if isinstance(self._choices, SafeTemplate) else frozenset()
        return (self._input.columns | of_choices) - {"answer_choices"}

    def _render(self, fields: Mapping[str, Any]) -> Rendered:
        if isinstance(self._choices, SafeTemplate):
            choices = [choice.strip() for choice in self._choices.render(fields).split(CHOICE_SEPARATOR)]
        else:
            choices = self._choices
        text, cuttable = extract_spans(self._input.render({**fields, "answer_choices": choices}, self.cut))
        return text, None, choices, cuttable


def load_templates(prompts: str | Sequence[Mapping[str, Any]] | None) -> list[Template]:
    """All templates of a promptsource collection ("super_glue/rte"), sorted by name, or the inline ones as listed."""
    if prompts is None:
        raise UserError("dataset.prompts is null: there is no template to render the rows.")
    if not isinstance(prompts, str):
        return [_make_inline(prompt) for prompt in prompts]
    dataset, _, subset = prompts.partition("/")
    library = _promptsource()
    if (dataset, subset or None) not in _collections(library):
        known = ["/".join(filter(None, key)) for key in _collections(library)]
        raise unknown_value_error("promptsource collection", prompts, sorted(known), "dataset.prompts=")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # promptsource leaves the file open
        found = library.DatasetTemplates(dataset, subset or None).templates.values()
    return sorted((PromptsourceTemplate(template) for template in found), key=lambda template: template.name)


class _InlinePrompt(TypedDict):
    """A template in a data set's YAML or in a run's settings."""

    name: str
    jinja: str
    answer_choices: str | list[Any]
    cut: NotRequired[list[str] | None]


def _make_inline(prompt: Mapping[str, Any]) -> InlineTemplate:
    try:
        known = validated(prompt, _InlinePrompt)
        if more := known.keys() - _InlinePrompt.__annotations__:
            raise ValueError(f"unknown keys {shorten_list(map(str, more))}")
    except ValueError as error:
        raise UserError(f"A template of dataset.prompts is incomplete or malformed: {error}.") from error
    return InlineTemplate(**known)


def find_promptsource(name: str) -> tuple[str, str | None, frozenset[str]]:
    """COLLECTION or COLLECTION/TEMPLATE as collection, template (None: all of the original task) and their columns."""
    known = ["/".join(filter(None, key)) for key in _collections(_promptsource())]
    matching = [collection for collection in known if f"{name}/".startswith(f"{collection}/")]
    if not matching:
        near = get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(
            f"template={name!r} is neither Jinja, which shows a column as in '{{{{ text }}}}', nor a file, nor a"
            f" promptsource collection or COLLECTION/TEMPLATE{hint}."
        )
    collection = max(matching, key=len)
    single = name[len(collection) + 1 :] or None
    chosen = select_templates(load_templates(collection), "single" if single else "original", single)
    columns = [template.columns for template in chosen if isinstance(template, PromptsourceTemplate)]
    return collection, single, frozenset().union(*columns)


def select_templates(templates: Sequence[Template], use: str, name: str | None, ranking: bool = True) -> list[Template]:
    """`use`: "original" (those of the original task), "all", or "single" (the one called `name`).

    `ranking`: only templates with answer choices; training to generate can use the others as well.
    """
    if use == "single":
        chosen = [template for template in templates if template.name == name]
        if not chosen:
            raise unknown_value_error("template", name, [t.name for t in templates], "templates.name=")
        if ranking and not chosen[0].has_choices:
            raise UserError(f"Template {name!r} has no answer choices, so nothing can be ranked with it.")
        return chosen
    usable = [template for template in templates if template.has_choices or not ranking]
    return [template for template in usable if template.original_task] if use == "original" else usable


def _right_choice(label: int | None, target: str | None, choices: Sequence[str], where: str) -> int | None:
    """The label's choice; for a template that inverts the question, the choice that it renders as target."""
    if label is None:
        return choices.index(target) if target in choices else None
    if target is not None and target in choices and not (label < len(choices) and choices[label] == target):
        return choices.index(target)
    if label >= len(choices) or (target is not None and target not in choices):
        raise UserError(
            f"{where}: label {label}{f' ({target!r})' if target else ''} is outside the choices {list(choices)}."
        )
    return label


def _compile(source: str, what: str) -> SafeTemplate:
    try:
        return SafeTemplate(source)
    except RenderError as error:
        raise UserError(f"{what} cannot be used: {str(error).rstrip('.')}.") from error


@cache
def _promptsource() -> Any:
    try:
        with warnings.catch_warnings():
            # promptsource 0.2.3, the only release, imports pkg_resources, which is deprecated
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
            import promptsource.templates as library
    except ModuleNotFoundError as error:
        raise UserError(
            f"promptsource cannot be imported ({error}): make env, or pip install --no-deps --ignore-requires-python"
            f" promptsource==0.2.3 and {pip_install(requirements('paper'))}."
        ) from error
    library.env.from_string = cache(library.env.from_string)  # otherwise every row compiles the template again
    return library


@cache
def _collections(library: Any) -> frozenset[tuple[str, str | None]]:
    from pathlib import Path

    folder = Path(library.TEMPLATES_FOLDER_PATH)
    keys = [path.parent.relative_to(folder).parts for path in folder.glob("**/templates.yaml")]
    return frozenset((parts[0], "/".join(parts[1:]) or None) for parts in keys)


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Seeds Python's global generator, which promptsource's `choice` filter uses: the same row gets the same draw."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
