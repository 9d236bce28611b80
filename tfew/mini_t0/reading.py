"""Training families whose answer is in the text: who, where, what, and whether the text states it."""

import random

from tfew.mini_t0.family import FAMILIES, Row, choices, listing, sentences
from tfew.mini_t0.lexicon import COLORS, MEN, PEOPLE, PLACES, PORTABLE, THINGS, WOMEN

Words = tuple[str, ...]

IN_PLACE = ("{} is in the {}", "{} went to the {}", "{} waits in the {}", "{} is at the {}")
HAS = ("{} has a {}", "{} holds a {}", "{} owns a {}", "{} carries a {}")
COLORED = ("the {0} is {1}", "there is a {1} {0}", "i see a {1} {0}")
GIVES = ("{} gave the {} to {}", "{} sent the {} to {}", "{} sold the {} to {}", "{} lent the {} to {}")
TAKES = ("{} got the {} from {}", "{} bought the {} from {}", "{} borrowed the {} from {}", "{} took the {} from {}")
FEELINGS = ("happy", "tired", "hungry", "thirsty", "angry", "scared", "cold", "sick", "proud", "bored")


def _pairs(source: random.Random, left: Words, right: Words, most: int = 3) -> list[tuple[str, str]]:
    count = source.randint(2, most)
    return list(zip(source.sample(left, count), source.sample(right, count), strict=True))


def _describe(source: random.Random, forms: Words, pairs: list[tuple[str, str]]) -> str:
    return sentences([source.choice(forms).format(*pair) for pair in pairs])


def _look_up(source: random.Random, forms: Words, left: Words, right: Words, told: str, asked: int) -> Row:
    """Facts that each pair a word of `left` with one of `right`. For one fact, `told` is the field of the word in the
    question; the other word, `asked` (0 left, 1 right), is the answer."""
    pairs = _pairs(source, left, right)
    pair = source.choice(pairs)
    wrong = [other[asked] for other in pairs] + source.sample((left, right)[asked], 1 + asked)
    return {"text": _describe(source, forms, pairs), told: pair[1 - asked], **choices(source, pair[asked], wrong)}


@FAMILIES.family()
def where(source: random.Random) -> Row:
    return _look_up(source, IN_PLACE, PEOPLE, PLACES, told="person", asked=1)


@FAMILIES.family()
def who_is_there(source: random.Random) -> Row:
    return _look_up(source, IN_PLACE, PEOPLE, PLACES, told="place", asked=0)


@FAMILIES.family()
def who_has(source: random.Random) -> Row:
    return _look_up(source, HAS, PEOPLE, THINGS, told="thing", asked=0)


@FAMILIES.family()
def what_has(source: random.Random) -> Row:
    return _look_up(source, HAS, PEOPLE, THINGS, told="person", asked=1)


@FAMILIES.family()
def color_of(source: random.Random) -> Row:
    return _look_up(source, COLORED, THINGS, COLORS, told="thing", asked=1)


def _transfer(source: random.Random) -> tuple[str, str, str, str]:
    """Text of one transfer, its giver, its receiver, its thing."""
    giver, receiver = source.sample(PEOPLE, 2)
    thing = source.choice(PORTABLE)
    if source.random() < 0.5:
        return source.choice(GIVES).format(giver, thing, receiver), giver, receiver, thing
    return source.choice(TAKES).format(receiver, thing, giver), giver, receiver, thing


@FAMILIES.family()
def who_has_now(source: random.Random) -> Row:
    text, giver, receiver, thing = _transfer(source)
    return {"text": f"{text}.", "thing": thing, **choices(source, receiver, [giver, source.choice(PEOPLE)])}


@FAMILIES.family()
def who_had_before(source: random.Random) -> Row:
    text, giver, receiver, thing = _transfer(source)
    return {"text": f"{text}.", "thing": thing, **choices(source, giver, [receiver, source.choice(PEOPLE)])}


@FAMILIES.family()
def is_it_there(source: random.Random) -> Row:
    """A question to be answered yes or no, about place."""
    pairs = _pairs(source, PEOPLE, PLACES)
    person, place = source.choice(pairs)
    asked = place if source.random() < 0.5 else source.choice([p for p in PLACES if p != place])
    return {"text": _describe(source, IN_PLACE, pairs), "person": person, "place": asked, "label": int(asked == place)}


@FAMILIES.family()
def is_it_true(source: random.Random) -> Row:
    """A claim to be judged, about possession."""
    pairs = _pairs(source, PEOPLE, THINGS)
    person, thing = source.choice(pairs)
    others = [other for _, other in pairs if other != thing]
    asked = thing if source.random() < 0.5 else source.choice([*others, source.choice(THINGS)])
    return {"text": _describe(source, HAS, pairs), "person": person, "thing": asked, "label": int(asked == thing)}


@FAMILIES.family()
def in_the_list(source: random.Random) -> Row:
    words = source.sample(THINGS, source.randint(2, 5))
    asked = source.choice(words) if source.random() < 0.5 else source.choice([w for w in THINGS if w not in words])
    return {"text": listing(words), "thing": asked, "label": int(asked in words)}


@FAMILIES.family()
def same_place(source: random.Random) -> Row:
    first, second = source.sample(PEOPLE, 2)
    here = source.choice(PLACES)
    there = here if source.random() < 0.5 else source.choice([p for p in PLACES if p != here])
    text = _describe(source, IN_PLACE, [(first, here), (second, there)])
    return {"text": text, "first": first, "second": second, "label": int(here == there)}


@FAMILIES.family()
def pronoun(source: random.Random) -> Row:
    woman, man = source.choice(WOMEN), source.choice(MEN)
    first, second = source.sample((woman, man), 2)
    feeling, act = source.choice(FEELINGS), source.choice(("met", "called", "saw", "visited", "followed"))
    right, word = source.choice(((woman, "she"), (man, "he")))
    text = f"{first} {act} {second}. {word} was {feeling}."
    return {"text": text, "feeling": feeling, **choices(source, right, (woman, man))}


@FAMILIES.family()
def missing_word(source: random.Random) -> Row:
    """The text repeated with a gap: copying from the context."""
    pairs = _pairs(source, PEOPLE, THINGS)
    told = [source.choice(HAS).format(*pair) for pair in pairs]
    gap = source.randrange(len(pairs))
    hidden = pairs[gap][source.randrange(2)]
    wrong = [word for pair in pairs for word in pair]
    return {"text": sentences(told), "gap": told[gap].replace(hidden, "_"), **choices(source, hidden, wrong)}


@FAMILIES.family()
def retell(source: random.Random) -> Row:
    """A transfer told from the other person's side."""
    giver, receiver = source.sample(PEOPLE, 2)
    thing, other = source.sample(PORTABLE, 2)
    give, take = source.choice(list(zip(GIVES, TAKES, strict=True)))
    told, right = give.format(giver, thing, receiver), take.format(receiver, thing, giver)
    wrong = [
        take.format(giver, thing, receiver),
        take.format(receiver, other, giver),
        take.format(giver, other, receiver),
    ]
    if source.random() < 0.5:
        told, right = right, told
        wrong = [
            give.format(receiver, thing, giver),
            give.format(giver, other, receiver),
            give.format(receiver, other, giver),
        ]
    return {"text": f"{told}.", **choices(source, right, wrong)}


@FAMILIES.family()
def say_again(source: random.Random) -> Row:
    """Repeats the text word for word; the only wrong choice has two words exchanged."""
    forms, left, right = source.choice(((IN_PLACE, PEOPLE, PLACES), (HAS, PEOPLE, THINGS)))
    pairs = _pairs(source, left, right)
    told = _describe(source, forms, pairs)
    (first, _), (second, _) = pairs[:2]
    swapped = told.replace(first, "_").replace(second, first).replace("_", second)
    return {"text": told, **choices(source, told, [swapped])}


def _all(source: random.Random, pairs: list[tuple[str, str]], form: str) -> Row:
    """All facts of the text in another order; the wrong choice has the values exchanged."""
    asked = source.sample(pairs, len(pairs))
    names, values = [name for name, _ in asked], [value for _, value in asked]
    right = listing([form.format(*pair) for pair in asked])
    turned = listing([form.format(name, value) for name, value in zip(names, values[1:] + values[:1], strict=True)])
    return {"asked": listing(names), **choices(source, right, [turned])}


@FAMILIES.family()
def all_places(source: random.Random) -> Row:
    pairs = _pairs(source, PEOPLE, PLACES)
    return {"text": _describe(source, IN_PLACE, pairs), **_all(source, pairs, "{} {}")}


@FAMILIES.family()
def all_things(source: random.Random) -> Row:
    pairs = _pairs(source, PEOPLE, THINGS)
    return {"text": _describe(source, HAS, pairs), **_all(source, pairs, "{} {}")}


# what people do with things, for claims about a whole sentence
DEEDS = ("washed", "painted", "dropped", "carried", "sold", "hid", "cleaned", "broke", "packed", "fixed")


def _deeds(source: random.Random) -> tuple[list[dict[str, str]], str]:
    """One to three sentences on who did what to which thing where, as parts and as text."""
    count = source.randint(1, 3)
    told = [
        {"who": who, "did": source.choice(DEEDS), "color": source.choice(COLORS), "what": what, "where": where}
        for who, what, where in zip(
            source.sample(PEOPLE, count), source.sample(THINGS, count), source.sample(PLACES, count), strict=True
        )
    ]
    return told, sentences([_deed(parts) for parts in told])


def _deed(parts: dict[str, str], form: str = "{who} {did} the {color} {what} near the {where}") -> str:
    return form.format(**parts)


def _altered(source: random.Random, parts: dict[str, str]) -> dict[str, str]:
    pools = {"who": PEOPLE, "did": DEEDS, "color": COLORS, "what": THINGS, "where": PLACES}
    key = source.choice(sorted(pools))
    return {**parts, key: source.choice([word for word in pools[key] if word != parts[key]])}


@FAMILIES.family()
def was_it_said(source: random.Random) -> Row:
    """Is a claim what the text says? The claim is shorter than the sentence; a wrong one differs in one word of it."""
    told, text = _deeds(source)
    parts = source.choice(told)
    form = source.choice((
        "{who} {did} the {what}", "{who} near the {where}", "the {color} {what}", "the {what} near the {where}",
        "{who} {did} something {color}", "{who} and the {what}", "near the {where} {who} {did} the {what}",
    ))  # fmt: skip
    claim = right = _deed(parts, form)
    true = source.random() < 0.5
    while not true and claim == right:  # the altered word may not be part of the claim
        claim = _deed(_altered(source, parts), form)
    return {"text": text, "claim": claim, "label": int(true)}


@FAMILIES.family()
def which_was_said(source: random.Random) -> Row:
    """Which of the sentences is one of the text?"""
    told, text = _deeds(source)
    parts = source.choice(told)
    return {"text": text, **choices(source, _deed(parts), [_deed(_altered(source, parts)) for _ in range(5)])}
