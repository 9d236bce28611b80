"""Held-out families that resemble the paper's data sets; nothing of them occurs in pre-training.

They need knowledge that training families teach, but use other texts, questions and answer words. `content` keeps the
contents of test rows out of the shots: scripts, statements, pairs of words or phrasings.
"""

import random

from tfew.mini_t0.family import FAMILIES, Row, choices, sentences
from tfew.mini_t0.lexicon import (
    BAD,
    CAUSES,
    COLORS,
    GOOD,
    KIND_OF,
    KINDS,
    PEOPLE,
    PLACES,
    PORTABLE,
    PROPERTIES,
    SENSES,
)


def _by_text(row: Row) -> str:
    return str(row["text"])


@FAMILIES.family(content=_by_text)
def entails(source: random.Random) -> Row:
    """Like RTE: does the hypothesis follow from a short report?"""
    giver, receiver, other = source.sample(PEOPLE, 3)
    thing, there = source.choice(PORTABLE), source.choice(PLACES)
    verb = source.choice(("handed", "passed", "offered"))
    text = f"yesterday at the {there} {giver} {verb} a {thing} to {receiver} while {other} watched."
    away = source.choice([place for place in PLACES if place != there])
    wrong_kind = source.choice([kind for kind in KINDS if kind != KIND_OF[thing]])
    follows = source.random() < 0.5
    if follows:
        claim = source.choice((
            f"{receiver} received something from {giver}", f"{giver} visited the {there}",
            f"{other} saw {giver}", f"a {KIND_OF[thing]} changed hands", f"the {thing} reached {receiver}",
        ))  # fmt: skip
    else:
        claim = source.choice((
            f"{giver} received something from {receiver}", f"{giver} visited the {away}",
            f"{source.choice([p for p in PEOPLE if p not in (giver, receiver, other)])} saw {giver}",
            f"a {wrong_kind} changed hands", f"the {thing} reached {other}",
        ))  # fmt: skip
    return {"text": text, "claim": f"{claim}.", "label": int(not follows)}


@FAMILIES.family(content=_by_text)
def commits(source: random.Random) -> Row:
    """Like CB: a speaker reports something; is the claim true, false, or open?"""
    speaker, person, stranger = source.sample(PEOPLE, 3)
    thing, place = source.choice(PORTABLE), source.choice(PLACES)
    color, second = source.sample(COLORS, 2)
    fact = f"{person} left a {color} {thing} in the {place}"
    text = f"{speaker} {source.choice(('wrote', 'explained', 'noticed', 'recalled'))} that {fact}."
    label = source.randrange(3)
    if label == 0:
        claim = source.choice((f"the {thing} of {person} is {color}", f"{person} was in the {place}", fact))
    elif label == 1:
        away = source.choice([p for p in PLACES if p != place])
        claim = source.choice((
            f"the {thing} of {person} is {second}", f"{person} left the {thing} in the {away}",
            f"{person} left a {second} {thing} in the {place}",
        ))  # fmt: skip
    else:
        new = source.choice([t for t in PORTABLE if t != thing])
        claim = source.choice((
            f"the {new} of {stranger} is {color}", f"{stranger} left a {color} {new} in the {place}",
            f"{stranger} likes the {new}",
        ))  # fmt: skip
    return {"text": text, "claim": f"{claim}.", "label": label}


# causes whose effect is something that a person does or is, so that it can stand in any of the sentences below
SCRIPTS = tuple(
    cause for cause in CAUSES
    if CAUSES[cause] not in ("doctor", "police", "lamp", "coat", "bubbles", "blew", "leaked", "melted", "stuck", "opened")
)  # fmt: skip
CAUSE_SENTENCES = (
    "{p} met with {w} last night", "last night brought {w} to {p}", "{p} could not avoid the {w}", "{w} was near {p}",
)  # fmt: skip
EFFECT_SENTENCES = ("{p} {w} for a while", "for a while {p} {w}", "{p} suddenly {w}", "my friends saw how {p} {w}")


@FAMILIES.family(content=lambda row: str(row["script"]))
def consequence(source: random.Random) -> Row:
    """Like COPA: cause or effect of an event, among two."""
    script, other = source.sample(SCRIPTS, 2)
    person = source.choice(PEOPLE)
    cause, effect = source.choice(CAUSE_SENTENCES), source.choice(EFFECT_SENTENCES)
    asked = source.choice(("cause", "effect"))
    if asked == "effect":
        text, right, wrong = cause.format(p=person, w=script), CAUSES[script], CAUSES[other]
    else:
        text, right, wrong = effect.format(p=person, w=CAUSES[script]), script, other
    form = effect if asked == "effect" else cause
    row = choices(source, form.format(p=person, w=right), [form.format(p=person, w=wrong)])
    return {"text": f"{text}.", "asked": asked, "script": script, **row}


# how a story begins and goes on, and how it ends; {a} and {b} are people, {t} a thing, {p} a place
STORIES = (
    (
        "{a} looked for the {t} all morning",
        "a friend remembered the {p}",
        ("{a} hurried to the {p}", "the {t} was there", "{a} hugged the friend"),
    ),
    (
        "{a} promised a {t} to {b}",
        "the {p} had the very last one",
        ("{a} wrapped the {t}", "{b} unwrapped it", "both were pleased"),
    ),
    (
        "{a} broke the {t} of {b}",
        "nobody at the {p} could repair it",
        ("{a} told {b} the truth", "{b} forgave {a}", "they shared a new {t}"),
    ),
    (
        "{a} wanted to learn about the {t}",
        "{b} gave lessons at the {p}",
        ("{b} taught {a}", "{a} practised with the {t}", "everyone clapped"),
    ),
    (
        "{a} and {b} found a {t} on the way",
        "a note on it named the {p}",
        ("they brought the {t} to the {p}", "the owner was grateful", "{b} felt proud"),
    ),
    (
        "{a} forgot the {t} on a bench",
        "{b} ran after the stranger to the {p}",
        ("{b} returned the {t}", "{a} offered a reward", "{b} refused"),
    ),
    (
        "{a} painted a picture of the {t}",
        "the {p} hung it on the wall",
        ("visitors admired the {t}", "{b} purchased the picture", "{a} painted more"),
    ),
    (
        "{a} hid the {t} as a surprise",
        "{b} searched the {p} in vain",
        ("{a} pointed at the {p}", "{b} discovered the {t}", "both giggled"),
    ),
    (
        "{a} carried the {t} through the {p}",
        "{b} stumbled over it",
        ("{a} apologised to {b}", "{b} rubbed the knee", "the {t} was put away"),
    ),
    (
        "{a} won a {t} at the {p}",
        "{b} had always dreamed of one",
        ("{a} surprised {b}", "{b} kept the {t} for years", "their bond deepened"),
    ),
    (
        "{a} needed money for the {p}",
        "only the {t} was worth anything",
        ("{a} parted with the {t}", "{b} bought it cheaply", "the {p} was paid"),
    ),
    (
        "{a} invited {b} to the {p}",
        "{b} arrived with a {t}",
        ("{a} admired the {t}", "{b} explained it", "the visit lasted long"),
    ),
)


@FAMILIES.family(content=_by_text)
def ending(source: random.Random) -> Row:
    """Like HellaSwag and Story Cloze: four endings of one to three clauses, of unequal length."""
    number = source.randrange(len(STORIES))
    first, second, third, fourth = source.sample(PEOPLE, 4)
    thing, other_thing = source.sample(PORTABLE, 2)
    place, other_place = source.sample(PLACES, 2)
    slots = {"a": first, "b": second, "t": thing, "p": place}
    right = _clauses(source, number, slots)
    swapped = (
        {**slots, "a": third, "b": fourth}, {**slots, "a": third, "b": fourth, "t": other_thing},
        {"a": third, "b": second, "t": other_thing, "p": other_place},
    )  # fmt: skip
    strange = [k for k in range(len(STORIES)) if k != number]
    wrong = [_clauses(source, source.choice((number, source.choice(strange))), changed) for changed in swapped]
    text = sentences([part.format(**slots) for part in STORIES[number][:2]])
    return {"text": text, **choices(source, right, wrong)}


def _clauses(source: random.Random, number: int, slots: dict[str, str]) -> str:
    parts = STORIES[number][2]
    return " and ".join(part.format(**slots) for part in parts[: source.randint(1, len(parts))])


@FAMILIES.family(content=lambda row: f"{sorted(row['choices'])}")
def blank(source: random.Random) -> Row:
    """Like Winogrande: which of two things does the blank stand for? The trigger word reverses the answer."""
    name = source.choice(tuple(PROPERTIES))
    having, lacking, opposite = PROPERTIES[name]
    first, second = source.choice(having), source.choice(lacking)
    trigger, right, wrong = source.choice(((name, first, second), (opposite, second, first)))
    one, two = source.sample((first, second), 2)
    person = source.choice(PEOPLE)
    form = source.choice((
        "{p} took the {one} instead of the {two} because the _ seemed very {w}",
        "when {p} compared the {one} with the {two} it was the _ that turned out {w}",
        "{p} wondered about the {one} and the {two} since the _ is so {w}",
    ))  # fmt: skip
    return {"text": form.format(p=person, one=one, two=two, w=trigger) + ".", **choices(source, right, [wrong])}


@FAMILIES.family(content=lambda row: f"{row['word']} {sorted(row['shown'])}")
def same_sense(source: random.Random) -> Row:
    """Like WiC: is the word used in the same sense in both sentences?"""
    word, sense = source.choice(tuple(SENSES)), source.randrange(2)
    same = source.random() < 0.5
    senses = (sense, sense if same else 1 - sense)
    shown = [source.choice(SENSES[word][which][1]) for which in senses]
    while shown[0] == shown[1]:
        shown[1] = source.choice(SENSES[word][senses[1]][1])
    forms = (
        "{p} thought of a {w} when the {c} came up", "without the {c} nobody would mention that {w}",
        "{p} described the {c} next to one {w}", "some {w} appeared together with its {c}",
    )  # fmt: skip
    told = [
        f.format(p=source.choice(PEOPLE), w=word, c=c) + "."
        for f, c in zip(source.sample(forms, 2), shown, strict=True)
    ]
    return {"word": word, "first": told[0], "second": told[1], "shown": shown, "label": int(same)}


# what customers write about, and their words for it
OBJECTS = {
    "card": ("card", "bank card"), "parcel": ("parcel", "package"), "bill": ("bill", "invoice"),
    "ticket": ("ticket", "train ticket"), "photo": ("photo", "picture"), "phone": ("phone", "telephone"),
}  # fmt: skip
# what they want, and their phrasings
PROBLEMS: dict[str, tuple[str, ...]] = {
    "lost {}": ("my {} is missing", "i cannot find the {} anywhere", "where did my {} go", "the {} has gone missing"),
    "broken {}": (
        "my {} is damaged",
        "there is a damaged part on my {}",
        "i fear my {} was damaged",
        "a damaged {} came",
    ),
    "late {}": (
        "my {} is delayed",
        "why is the {} delayed",
        "still waiting for my delayed {}",
        "delayed again: the {}",
    ),
    "stop {}": (
        "i want to cancel the {}",
        "could you cancel my {}",
        "the {} is to be cancelled: cancel it",
        "cancel the {}",
    ),
    "replace {}": ("i want to change my {}", "may i change the {}", "change this {} for me", "i need to change a {}"),
    "purchase {}": (
        "how can i buy a {}",
        "i would like to buy the {}",
        "where do people buy a {}",
        "let me buy your {}",
    ),
}


OPENINGS = ("hello", "hi there", "good day", "please help", "excuse me", "dear team")
REQUESTS = tuple(problem.format(thing) for problem in PROBLEMS for thing in OBJECTS)


@FAMILIES.family(content=lambda row: str(row["said"]))
def request(source: random.Random) -> Row:
    """Like Banking 77: what a customer wants, among many labels of several words."""
    thing, problem = source.choice(tuple(OBJECTS)), source.choice(tuple(PROBLEMS))
    form, name = source.choice(PROBLEMS[problem]), source.choice(OBJECTS[thing])
    text = f"{source.choice(OPENINGS)}, {form.format(name)}."
    right = problem.format(thing)
    return {"text": text, "said": form.format(name), "label": REQUESTS.index(right)}


@FAMILIES.family(content=lambda row: " ".join(sorted(row["judged"])))
def complaint(source: random.Random) -> Row:
    """Like RAFT's Twitter complaints: is the message a complaint?"""
    bad = source.random() < 0.5
    word, other = source.sample(BAD if bad else GOOD, 2)
    thing, place = source.choice(PORTABLE), source.choice(PLACES)
    form = source.choice((
        "@{p} the {t} from your {s} arrived and it is {w}, truly {o}", "just opened my {t}: {w} and {o}! thanks {p}",
        "{p} at the {s} sent me such a {w} {t}, so {o}", "my {t} by the {s} looks {w} but also {o}, {p}",
    ))  # fmt: skip
    text = form.format(p=source.choice(PEOPLE), t=thing, s=place, w=word, o=other)
    return {"text": text + ".", "judged": [word, other], "label": int(bad)}
