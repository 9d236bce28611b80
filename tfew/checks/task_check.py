"""Checks a task before training: a short list of errors and doubts, each with its remedy.

Used by preview, training and the Python API. It reads prompts as the model will: tokenised and truncated.
"""

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tfew.checks.finding import Finding
from tfew.checks.near_labels import near_identical
from tfew.data.cells import MISSING_WORDS
from tfew.data.label_column import alike_labels, rows_named
from tfew.data.split import duplicate_groups, own_text, rare_labels
from tfew.errors import shorten_list
from tfew.label_sets.questions import YES
from tfew.ranking.per_label_metrics import is_uneven
from tfew.ranking.ties import same_choices
from tfew.schema import Prompt
from tfew.task import Task

if TYPE_CHECKING:
    from tfew.data.tokenization import PromptTokenizer

log = logging.getLogger(__name__)

MOST_ROWS = 2000  # number of rows whose texts are tokenised
UNKNOWN, UNREADABLE = 0.02, 0.5  # share of unknown characters for a warning; for an error
FEW_ROWS = 5  # of a label
ROUNDED_TO = 64  # tokens


def check_task(
    task: Task, prompt_tokenizer: "PromptTokenizer", folds: int | None = None, labels_are_named: bool = False
) -> list[Finding]:
    """Errors first. `labels_are_named`: the user has listed all labels, so similar ones are intended."""
    prompts = [row[0] for row in task.prompts[:MOST_ROWS]]
    found = [
        *_labels(task, labels_are_named),
        *_same_labels(task, prompt_tokenizer, labels_are_named),
        *_same_choices(task, prompt_tokenizer),
        *_near_labels(task),
        *_unknown_characters(prompts, prompt_tokenizer),
        *_cut(prompts, prompt_tokenizer, len(task.prompts)),
        *_duplicates(task, folds),
        *_counts(task, folds),
        *_given_away(task),
    ]
    return sorted(found, key=lambda finding: not finding.is_error)


def _named(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names)) if len(names) < 3 else shorten_list(map(repr, names))


def _rows_by_label(task: Task) -> Counter[str]:
    """Row counts, also of labels without rows; empty if each row has its own choices."""
    names = task.classes or ()
    counts = Counter[str](dict.fromkeys(names, 0))
    counts.update(names[example.label] for example in task.examples if names and example.label is not None)
    counts.update(names[place] for example in task.examples for place in example.labels or ())
    return counts


def _spelt(name: str) -> str:
    """The name in quotation marks; with escapes if another name may look the same."""
    return repr(name) if name == unicodedata.normalize("NFKC", name) else ascii(name)


def _labels(task: Task, labels_are_named: bool) -> Iterator[Finding]:
    """Names that look like spellings of one label, or like a missing label."""
    counts = _rows_by_label(task)
    groups = [] if labels_are_named else alike_labels(task.classes or ())
    if groups:
        listed = "; ".join(" and ".join(f"{_spelt(name)} ({counts[name]} rows)" for name in group) for group in groups)
        merged = {name: max(group, key=lambda n: (counts[n], n)) for group in groups for name in group}
        one = dict.fromkeys(merged.get(name, name) for name in task.classes or ())
        yield Finding(
            True,
            f"labels that are alike but for upper case, Unicode's form, blanks or underscores: {listed}",
            f"labels=[{','.join(one)}] takes such spellings as one, labels= with all of them keeps them apart",
        )
    missing = [name for name in task.classes or () if name.casefold() in MISSING_WORDS and counts[name]]
    if missing:
        rows = ", ".join(str(counts[name]) for name in missing)
        yield Finding(
            False, f"{_named(missing)} ({rows} rows) may mean that there is no label", "if so, leave these rows out"
        )


def _same_labels(task: Task, prompt_tokenizer: "PromptTokenizer", labels_are_named: bool) -> Iterator[Finding]:
    """Labels (shared by all rows) that have the same tokens."""
    if task.classes is None:
        return
    # of labels that a row may have several of, every second choice says yes to one
    own = slice(YES, None, 2) if task.several else slice(None)
    choices = dict.fromkeys(prompt.choices[own] for row in task.prompts[:1] for prompt in row)
    alike = [] if labels_are_named else [set(group) for group in alike_labels(task.classes)]
    for words, places in same_choices(prompt_tokenizer, choices).items():
        groups: dict[int, list[int]] = defaultdict(list)
        for place, first in enumerate(places):
            groups[first].append(place)
        for group in groups.values():
            names = [task.classes[place] for place in group]
            if len(group) > 1 and not any(set(names) <= other for other in alike):
                pairs = ", ".join(f"{name}: ..." for name in names[:3])
                yield Finding(
                    True,
                    f"the labels {_named(names)} are the same tokens to this model"
                    f" ({_why_same([words[place] for place in group], prompt_tokenizer)})",
                    f"say other words for them, choices='{{{pairs}}}', or take a model whose vocabulary knows them",
                )


def _why_same(words: Sequence[str], prompt_tokenizer: "PromptTokenizer") -> str:
    (encoded,) = prompt_tokenizer.tokenize([Prompt("", "", 0, "", tuple(words), None)])
    if encoded.cut_choice_tokens:
        return f"of which only the first {prompt_tokenizer.max_tokens} count, max_tokens="
    unknown = prompt_tokenizer.tokenizer.unk_token_id
    if unknown is not None and any(unknown in ids for ids in encoded.choice_ids):
        return "its vocabulary does not know their characters"
    return "which makes no difference between their characters"


def _same_choices(task: Task, prompt_tokenizer: "PromptTokenizer") -> Iterator[Finding]:
    """Rows with their own choices, two of which have the same tokens."""
    if task.classes is not None:
        return
    same = same_choices(prompt_tokenizer, (row[0].choices for row in task.prompts))
    rows = [number for number, row in enumerate(task.prompts, start=1) if row[0].choices in same]
    if rows:
        choices = task.prompts[rows[0] - 1][0].choices
        twins = [choices[place] for place, first in enumerate(same[choices]) if same[choices].count(first) > 1]
        yield Finding(
            len(rows) == task.rows,
            f"{_rows(task, rows)} ({len(rows)} of {task.rows} rows) have choices that the model cannot tell apart,"
            f" since its tokenizer makes the same tokens of them ({_named(twins)} in {_rows(task, rows[:1])})",
            "if they mean different things, reword one of them; if they mean the same, delete one; until then no"
            " answer to such a row counts as right",
        )


def _near_labels(task: Task) -> Iterator[Finding]:
    """Labels with the same words that `_labels` does not report as spellings of one."""
    if task.classes is None or not task.prompts or len(words := task.prompts[0][0].choices) != len(task.classes):
        return
    names, spellings, counts = task.classes, [set(group) for group in alike_labels(task.classes)], _rows_by_label(task)
    groups = [[names[place] for place in group] for group in near_identical(words)]
    if groups := [group for group in groups if not any(set(group) <= spelt for spelt in spellings)]:
        listed = "; ".join(" and ".join(f"{name!r} ({counts[name]} rows)" for name in group) for group in groups)
        yield Finding(
            False,
            f"labels that say the same words but for their order or the plural: {listed}",
            f"make one label of them, or if they differ, say other words: choices='{{{groups[0][0]}: ...}}'",
        )


def _unknown_characters(prompts: Sequence[Prompt], prompt_tokenizer: "PromptTokenizer") -> Iterator[Finding]:
    tokenizer = prompt_tokenizer.tokenizer
    if tokenizer.unk_token_id is None or not getattr(tokenizer, "is_fast", False):
        return
    texts = [own_text(prompt) for prompt in prompts]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    unknown = Counter[str]()
    for text, ids, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        for token, (start, end) in zip(ids, spans, strict=True):
            if token == tokenizer.unk_token_id:
                unknown.update(character for character in text[start:end] if not character.isspace())
    total = sum(not character.isspace() for text in texts for character in text)
    share = sum(unknown.values()) / max(total, 1)
    if share >= UNKNOWN:
        examples = ", ".join(repr(character) for character, _ in unknown.most_common(5))
        yield Finding(
            share >= UNREADABLE,
            f"{100 * share:.0f} % of the texts' characters are unknown to this model's vocabulary ({examples})",
            "take a model that reads this script (model=, model.path=), or texts in one that this model reads",
        )


def _rows(task: Task, numbers: Sequence[int]) -> str:
    """These of the task's rows, counted from 1, by their numbers in the table, from which rows may be held out."""
    return rows_named([task.examples[number - 1].idx + 1 for number in numbers])


def _cut(prompts: Sequence[Prompt], prompt_tokenizer: "PromptTokenizer", rows: int) -> Iterator[Finding]:
    items = prompt_tokenizer.tokenize(prompts)
    cut = [item for item in items if item.cut_tokens]
    of = f"{len(items)} rows" if len(items) == rows else f"the first {len(items)} rows"
    if cut:
        lost = sum(item.cut_tokens for item in items)
        total = lost + sum(len(item.input_ids) for item in items)
        longest = max(len(item.input_ids) + item.cut_tokens for item in cut)
        yield Finding(
            False,
            f"{len(cut)} of {of} are longer than max_tokens={prompt_tokenizer.max_tokens} and are truncated, by"
            f" {100 * lost / total:.0f} % of all tokens",
            f"max_tokens={-(-longest // ROUNDED_TO) * ROUNDED_TO} truncates nothing, and takes more memory and time",
        )
    if choices := [item for item in items if item.cut_choice_tokens]:
        yield Finding(
            False,
            f"choices of {len(choices)} of {of} are longer than max_tokens={prompt_tokenizer.max_tokens} and are"
            " truncated",
            "a larger max_tokens=, or shorter choices",
        )


def _duplicates(task: Task, folds: int | None) -> Iterator[Finding]:
    task = task.only(sorted(range(task.rows), key=lambda row: task.examples[row].idx))  # drawn ones are in any order
    groups = duplicate_groups(task.prompts)
    different = len(set(groups))
    if different < task.rows:
        kept = "cross-validation keeps them in the same fold" if folds else "validation= and folds= keep them together"
        repeats = [number for number, group in enumerate(groups, start=1) if group != number - 1]
        yield Finding(
            False,
            f"{_rows(task, repeats)} ({len(repeats)} of {task.rows} rows) repeat{'s' * (len(repeats) == 1)} what an"
            " earlier row shows the model (other columns are not compared; upper case and blanks do not count);"
            f" {kept}",
            f"delete them, for they add no information; {different} different rows remain",
        )
    answers = defaultdict(set)
    for group, (prompt, *_) in zip(groups, task.prompts, strict=True):
        answers[group].add(prompt.answers if prompt.label is None else prompt.choices[prompt.label])
    if torn := [group + 1 for group, found in answers.items() if len(found) > 1]:
        yield Finding(
            False,
            f"the text of {_rows(task, torn)} occurs elsewhere with another label",
            "decide on one of them",
        )


def _counts(task: Task, folds: int | None) -> Iterator[Finding]:
    """Findings on the number of rows per label."""
    if task.classes is None:
        return
    counts = _rows_by_label(task)
    least = folds or FEW_ROWS
    rare = rare_labels([name for name, rows in counts.items() for _ in range(rows)], least)
    if rare:
        listed = shorten_list(f"{name} ({rows})" for name, rows in rare.items())
        why = f"fewer rows than there are folds ({folds})" if folds else f"fewer than {least} rows"
        yield Finding(False, f"labels with {why}: {listed}", "more rows of them, or one label for several of them")
    if empty := [name for name in task.classes if not counts[name]]:
        yield Finding(
            False,
            f"labels without any row: {shorten_list(map(repr, empty))}",
            "the model may answer with them, and nothing here says how well",
        )
    if task.several:
        if every := [name for name in task.classes if counts[name] == task.rows]:
            remedy = "nothing can be learnt about them: leave them out, or bring rows without them"
            yield Finding(False, f"labels that every row has: {shorten_list(map(repr, every))}", remedy)
        return
    (commonest, rows), total = counts.most_common(1)[0], sum(counts.values())
    if is_uneven(counts.values()):
        others = [name for name in task.classes if name != commonest]
        yield Finding(
            False,
            f"{rows} of {total} rows are {commonest!r}, so always saying it is right in {100 * rows / total:.0f} %",
            f"look at balanced accuracy and macro-F1 rather than at accuracy, and bring more rows of {_named(others)}",
        )


def _given_away(task: Task) -> Iterator[Finding]:
    """Texts that contain the words of their own label, and of no other, in nearly every row."""
    if task.classes is None or task.rows < 2 * FEW_ROWS:
        return
    telling = sum(_tells(row[0]) for row in task.prompts)
    if telling >= 0.95 * task.rows:
        yield Finding(
            False,
            f"the text of {telling} of {task.rows} rows holds the words of its own label and of no other",
            "if they are not there in new rows, leave them out of the texts (text=)",
        )


def _tells(prompt: Prompt) -> bool:
    if prompt.label is None:
        return False
    text = f" {' '.join(own_text(prompt).casefold().split())} "
    held = [place for place, words in enumerate(prompt.choices) if f" {words.casefold()} " in text]
    return held == [prompt.label]
