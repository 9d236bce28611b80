"""Stratified samples and folds, as pure functions of the rows' labels and a seed.

Stratified: each label's share is the same in every part, as nearly as whole rows allow.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from typing import TypeVar

from tfew.schema import Prompt

Label = TypeVar("Label", bound=Hashable)


def stratified_folds(
    labels: Sequence[Hashable], folds: int, seed: int, groups: Sequence[Hashable] | None = None
) -> list[int]:
    """The fold of each row, 0 to `folds` - 1.

    Folds differ by at most one row in size, and by at most one row of any label. The rows of a label that has fewer
    rows than there are folds are all in different folds. Rows of one of `groups` (None: each is its own) are in the
    same fold, and the other rules hold as nearly as that allows.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for row in _stratified_order(labels, seed):
        members[row if groups is None else groups[row]].append(row)
    fold_of_row, size, size_by_label = [0] * len(labels), [0] * folds, Counter[tuple[int, Hashable]]()
    for rows in sorted(members.values(), key=lambda rows: -len(rows)):  # stable: of equals in the stratified order
        label = labels[rows[0]]
        fold = min(range(folds), key=lambda fold: (size_by_label[fold, label], size[fold], fold))
        size[fold] += len(rows)
        for row in rows:
            fold_of_row[row] = fold
            size_by_label[fold, labels[row]] += 1
    return fold_of_row


def stratified_sample(labels: Sequence[Hashable], share: float, seed: int) -> list[int]:
    """The numbers of the sampled rows, sorted: this share of all rows, and as nearly as possible of every label.

    At least one row of every label is left out of the sample, to train on.
    """
    take = _rows_to_take(labels, share)
    drawn = []
    for row in _stratified_order(labels, seed):
        if take[labels[row]]:
            take[labels[row]] -= 1
            drawn.append(row)
    return sorted(drawn)


def _rows_to_take(labels: Sequence[Hashable], share: float) -> dict[Hashable, int]:
    """How many rows of each label a sample of this share has."""
    count = Counter(labels)
    wanted = round(share * len(labels))
    exact = {label: share * rows for label, rows in count.items()}
    take = {label: min(int(exact[label]), rows - 1) for label, rows in count.items()}
    by_remainder = sorted(exact, key=lambda label: take[label] - exact[label])  # stable: equals in order of appearance
    for label in by_remainder:
        if sum(take.values()) < wanted and take[label] < count[label] - 1:
            take[label] += 1
    return take


def held_out_groups(labels: Sequence[Hashable], contents: Sequence[Hashable], share: float, seed: int) -> list[int]:
    """`stratified_sample` that draws rows of equal content together; without such rows it is the same.

    As near to the share as whole groups allow. At least one row of every label is left out of the sample.
    """
    order, lacks, left = _stratified_order(labels, seed), Counter(_rows_to_take(labels, share)), Counter(labels)
    members: dict[Hashable, list[int]] = defaultdict(list)
    for row in order:
        members[contents[row]].append(row)
    counts = {content: Counter(labels[row] for row in rows) for content, rows in members.items()}
    drawn: dict[Hashable, None] = {}

    def draw(content: Hashable) -> None:
        drawn[content] = None
        lacks.subtract(counts[content])
        left.subtract(counts[content])

    for content, own in counts.items():  # in the order of their first rows
        if all(lacks[label] >= rows for label, rows in own.items()):
            draw(content)
    for label in sorted(lacks, key=lambda label: -lacks[label]):  # groups that are larger than what their label lacks
        if (missing := sum(lacks.values())) <= 0:
            break
        for content, own in counts.items():
            is_nearer = content not in drawn and own[label] and own.total() < 2 * missing
            if is_nearer and all(left[other] > rows for other, rows in own.items()):
                draw(content)
                break
    return sorted(row for content in drawn for row in members[content])


def held_out_rows(labels: Sequence[Hashable], contents: Sequence[Hashable], share: float, seed: int) -> list[int]:
    """`stratified_sample` without rows whose content also occurs outside the sample: those are trained on.

    Only for runs of earlier versions, whose rows these are: of a table with many repeated rows hardly any is left.
    """
    drawn = stratified_sample(labels, share, seed)
    sample = set(drawn)
    trained_on = {content for row, content in enumerate(contents) if row not in sample}
    return [row for row in drawn if contents[row] not in trained_on]


def stratified_parts(
    label_sets: Sequence[Collection[Hashable]],
    shares: Sequence[float],
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> list[int]:
    """The part of each row, for rows with several labels: each part gets about its share of every label, and so of the
    rows.

    Iterative stratification (Sechidis et al. 2011, ECML PKDD): the rarest label with rows left is assigned first, each
    row to the part that lacks most of this label. Having no label counts as one more label. Rows of one of `groups`
    (None: each is its own) are in the same part.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for row in range(len(label_sets)):
        members[row if groups is None else groups[row]].append(row)
    units = list(members.values())
    random.Random(f"{seed}/held out").shuffle(units)
    labels_of = [Counter(label for row in unit for label in label_sets[row] or (None,)) for unit in units]
    left = sum(labels_of, Counter[Hashable]())
    lacks = {label: [share * count for share in shares] for label, count in left.items()}
    room = [share * len(label_sets) for share in shares]
    part_of_row, waiting = [0] * len(label_sets), dict.fromkeys(range(len(units)))
    order = {label: place for place, label in enumerate(left)}
    while waiting:
        rarest = min((label for label in left if left[label] > 0), key=lambda label: (left[label], order[label]))
        for unit in [unit for unit in waiting if labels_of[unit][rarest]]:
            part = max(range(len(shares)), key=lambda part: (lacks[rarest][part], room[part], -part))
            for row in units[unit]:
                part_of_row[row] = part
            for label, count in labels_of[unit].items():
                lacks[label][part] -= count
                left[label] -= count
            room[part] -= len(units[unit])
            del waiting[unit]
    for part in range(len(shares)):  # with few rows a part may stay empty
        sizes = Counter(part_of_row[unit[0]] for unit in units)
        if not sizes[part] and sizes.most_common(1)[0][1] > 1:
            fullest = sizes.most_common(1)[0][0]
            for row in next(unit for unit in units if part_of_row[unit[0]] == fullest):
                part_of_row[row] = part
    return part_of_row


def held_out_sets(
    label_sets: Sequence[Collection[Hashable]], contents: Sequence[Hashable], share: float, seed: int
) -> list[int]:  # fmt: skip
    """Row numbers of a sample of this share by `stratified_parts`; rows with equal content are never separated."""
    parts = stratified_parts(label_sets, [1 - share, share], seed, contents)
    return [row for row, part in enumerate(parts) if part == 1]


def rare_labels(labels: Sequence[Label], rows: int) -> dict[Label, int]:
    """Labels with fewer rows than this, and how many they have; rarest first."""
    found = {label: count for label, count in Counter(labels).items() if count < rows}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def duplicate_groups(prompts: Sequence[Sequence[Prompt]]) -> list[int]:
    """For each row the first row with the same content (up to blanks, case and order of choices), possibly itself."""
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    return [
        first.setdefault((normalized(own_text(row[0])), tuple(sorted(row[0].choices))), number)
        for number, row in enumerate(prompts)
    ]


def normalized(text: str) -> str:
    """The text for comparisons: without differences in blanks and case."""
    return " ".join(text.split()).casefold()


def own_text(prompt: Prompt) -> str:
    """The row's own text, without the words of the template, if known."""
    return " ".join(prompt.input[start:end] for start, end in prompt.cuttable) or prompt.input


def _stratified_order(labels: Sequence[Hashable], seed: int) -> list[int]:
    """All rows, label by label, those of one label in random order."""
    by_label = defaultdict(list)
    for row, label in enumerate(labels):
        by_label[label].append(row)
    draw = random.Random(f"{seed}/held out")
    rows = []
    for group in by_label.values():
        draw.shuffle(group)
        rows += group
    return rows
