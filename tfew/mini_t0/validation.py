"""Validation families: held out of pre-training like those of `held_out.py`, and never part of a reported result.

Only these serve to choose settings of few-shot training (learning rate, steps).
"""

import random

from tfew.mini_t0.family import FAMILIES, Row, choices
from tfew.mini_t0.lexicon import COLORS, DAYS, NUMBERS, PEOPLE, PLACES, PORTABLE, SYNONYMS, TOPICS


@FAMILIES.family(content=lambda row: str(row["text"]))
def asks_for(source: random.Random) -> Row:
    """Like TREC: what kind of answer does a question ask for?"""
    person, other = source.sample(PEOPLE, 2)
    thing, place = source.choice(PORTABLE), source.choice(PLACES)
    forms = (
        ("who brought the {t} to the {s}", "which person did {p} meet", "who told {p} about the {t}"),
        ("where did {p} leave the {t}", "in which room is the {t}", "where does {p} live"),
        ("when will {p} visit the {s}", "on which day did {p} call {o}", "when did the {s} open"),
        ("how many {t}s are in the {s}", "how many people saw {p}", "how many times did {p} call {o}"),
        ("why did {p} visit the {s}", "why was {p} angry with {o}", "for what reason is the {t} lost"),
    )
    label = source.randrange(len(forms))
    return {"text": source.choice(forms[label]).format(p=person, o=other, t=thing, s=place) + "?", "label": label}


@FAMILIES.family(content=lambda row: str(row["text"]))
def answers(source: random.Random) -> Row:
    """Like QNLI: does the sentence hold the answer to the question?"""
    person, other = source.sample(PEOPLE, 2)
    thing, second = source.sample(PORTABLE, 2)
    kind = source.choice(("color", "day", "number"))
    told = {
        "color": (f"{person} painted the {thing} {source.choice(COLORS)}", "which color did {} paint the {}"),
        "day": (f"{person} found the {thing} on {source.choice(DAYS)}", "which day did {} find the {}"),
        "number": (f"{person} bought {source.choice(NUMBERS)} of the {thing}s", "how many did {} buy of the {}"),
    }
    right = source.random() < 0.5
    asked = (person, thing)
    question = told[kind][1]
    if not right:
        changed = source.randrange(3)
        asked = ((other, thing), (person, second), (person, thing))[changed]
        if changed == 2:
            question = told[source.choice([k for k in told if k != kind])][1]
    return {"text": told[kind][0] + ".", "question": question.format(*asked) + "?", "label": int(right)}


@FAMILIES.family(content=lambda row: str(row["text"]))
def page(source: random.Random) -> Row:
    """Like AG News: on which page of the newspaper does a headline belong?"""
    pages = ("sport", "money", "health", "travel", "weather", "war")
    label = source.randrange(len(pages))
    words = source.sample(TOPICS[pages[label]], 2)
    form = source.choice((
        "{p} speaks about {a}, {b} still to come", "new {a} in town, {b} expected on {d}",
        "{d}: {a} surprises {p}", "after the {a} now a {b}, says {p}",
    ))  # fmt: skip
    text = form.format(p=source.choice(PEOPLE), d=source.choice(DAYS), a=words[0], b=words[1])
    return {"text": text + ".", "label": label}


@FAMILIES.family(content=lambda row: str(row["text"]))
def outcome(source: random.Random) -> Row:
    """Like COPA, from what a text says: which of three sequels fits the people and things of the story?"""
    person, other = source.sample(PEOPLE, 2)
    thing, second = source.sample(PORTABLE, 2)
    place = source.choice(PLACES)
    text = f"{person} put the {thing} into a bag and walked from the {place} to see {other}."
    right = source.choice((f"{other} looked into the bag and saw the {thing}", f"{other} met {person}"))
    stranger = source.choice([p for p in PEOPLE if p not in (person, other)])
    wrong = [f"{stranger} looked into the bag and saw the {second}", f"{stranger} met {source.choice(PEOPLE)}"]
    return {"text": text, **choices(source, right, wrong, 3)}


@FAMILIES.family(content=lambda row: " ".join(sorted(row["words"])))
def says_the_same(source: random.Random) -> Row:
    """Like MRPC: do two sentences say the same?"""
    word, near = source.sample(source.choice(SYNONYMS), 2)
    same = source.random() < 0.5
    other = near if same else source.choice([w for pair in SYNONYMS for w in pair if word not in pair])
    person, place = source.choice(PEOPLE), source.choice(PLACES)
    forms = ("at the {s} {p} said {w} twice", "{p} used the word {w} at the {s}", "the {s} heard {p} whisper {w}")
    first, second = source.sample(forms, 2)
    told = [form.format(p=person, s=place, w=w) + "." for form, w in ((first, word), (second, other))]
    return {"first": told[0], "second": told[1], "words": [word, other], "label": int(same)}
