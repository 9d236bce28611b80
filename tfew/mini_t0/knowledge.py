"""Training families whose answer is not in the text: what things are, what words mean, what goes with what."""

import random

from tfew.mini_t0.family import FAMILIES, Row, choices, filler_words, listing
from tfew.mini_t0.lexicon import (
    ANTONYMS,
    BAD,
    CAUSES,
    FILLERS,
    GOOD,
    JOBS,
    KIND_OF,
    KINDS,
    PEOPLE,
    PLACES,
    PROPERTIES,
    SENSES,
    SYNONYMS,
    THINGS,
    TOPICS,
)

JUDGED = ("food", "film", "hotel", "book", "music", "weather", "trip", "teacher", "party", "room", "game", "song")
TITLED = ("photo", "parcel", "ticket", "phone", "wallet", "letter", "bill", "loan", "key", "ring", "map", "coin")
SENSE_NAMES = tuple(sorted({name for senses in SENSES.values() for name, _ in senses}))


@FAMILIES.family()
def kind_of(source: random.Random) -> Row:
    thing = source.choice(THINGS)
    return {"thing": thing, **choices(source, KIND_OF[thing], tuple(KINDS))}


@FAMILIES.family()
def one_of_kind(source: random.Random) -> Row:
    kind = source.choice(tuple(KINDS))
    wrong = [source.choice(KINDS[other]) for other in source.sample([k for k in KINDS if k != kind], 3)]
    row = choices(source, source.choice(KINDS[kind]), wrong)
    return {"kind": kind, "text": listing(row["choices"], "or"), **row}


@FAMILIES.family()
def same_kind(source: random.Random) -> Row:
    kind = source.choice(tuple(KINDS))
    first = source.choice(KINDS[kind])
    same = source.random() < 0.5
    pool = KINDS[kind] if same else [thing for thing in THINGS if KIND_OF[thing] != kind]
    second = source.choice([thing for thing in pool if thing != first])
    return {"first": first, "second": second, "label": int(same)}


def _sides(source: random.Random) -> tuple[str, str, str, str]:
    """A property's name, a thing that has it, its opposite's name, a thing that has that."""
    name = source.choice(tuple(PROPERTIES))
    having, lacking, opposite = PROPERTIES[name]
    return name, source.choice(having), opposite, source.choice(lacking)


@FAMILIES.family()
def which_property(source: random.Random) -> Row:
    name, having, opposite, lacking = _sides(source)
    thing, right, wrong = source.choice(((having, name, opposite), (lacking, opposite, name)))
    return {"thing": thing, **choices(source, right, [wrong])}


@FAMILIES.family()
def has_property(source: random.Random) -> Row:
    name, having, opposite, lacking = _sides(source)
    true = source.random() < 0.5
    thing, word = source.choice(((having, name if true else opposite), (lacking, opposite if true else name)))
    return {"thing": thing, "property": word, "label": int(true)}


@FAMILIES.family()
def which_is_more(source: random.Random) -> Row:
    name, having, opposite, lacking = _sides(source)
    asked, right, wrong = source.choice(((name, having, lacking), (opposite, lacking, having)))
    row = choices(source, right, [wrong])
    return {"property": asked, "first": row["choices"][0], "second": row["choices"][1], **row}


@FAMILIES.family()
def opposite(source: random.Random) -> Row:
    word, right = source.sample(source.choice(ANTONYMS), 2)
    return {"word": word, **choices(source, right, [w for pair in ANTONYMS for w in pair if w != word])}


@FAMILIES.family()
def same_meaning_word(source: random.Random) -> Row:
    word, right = source.sample(source.choice(SYNONYMS), 2)
    return {"word": word, **choices(source, right, [w for pair in SYNONYMS for w in pair if w != word])}


def _about(source: random.Random, topic: str) -> str:
    """A sentence that two or three words of the topic occur in."""
    first, second, third = source.sample(TOPICS[topic], 3)
    forms = (
        "the {0} was near the {1}", "we talked about the {0} and the {1}", "a {0} and a {1} with a {2}",
        "she told me of the {0} after the {1}", "there was a {0}, a {1} and a {2}", "the {0} came before the {1}",
        "he read about a {0} and the {1}",
    )  # fmt: skip
    return source.choice(forms).format(first, second, third)


@FAMILIES.family()
def topic(source: random.Random) -> Row:
    right = source.choice(tuple(TOPICS))
    return {"text": f"{_about(source, right)}.", **choices(source, right, tuple(TOPICS))}


@FAMILIES.family()
def same_topic(source: random.Random) -> Row:
    first, other = source.sample(tuple(TOPICS), 2)
    same = source.random() < 0.5
    second = first if same else other
    return {"first": f"{_about(source, first)}.", "second": f"{_about(source, second)}.", "label": int(same)}


def _judgement(source: random.Random, good: bool) -> str:
    forms = ("the {} was {}", "what a {1} {0}", "i found the {} {}", "we had a {1} {0}", "{1} {0}, they said")
    return source.choice(forms).format(source.choice(JUDGED), source.choice(GOOD if good else BAD))


@FAMILIES.family()
def mood(source: random.Random) -> Row:
    good = source.random() < 0.5
    return {"text": f"{_judgement(source, good)}.", "label": int(good)}


@FAMILIES.family()
def same_mood(source: random.Random) -> Row:
    first, same = source.random() < 0.5, source.random() < 0.5
    texts = [f"{_judgement(source, good)}." for good in (first, first == same)]
    return {"first": texts[0], "second": texts[1], "label": int(same)}


@FAMILIES.family()
def job_place(source: random.Random) -> Row:
    job = source.choice(tuple(JOBS))
    return {"job": job, **choices(source, JOBS[job][0], PLACES)}


@FAMILIES.family()
def job_of(source: random.Random) -> Row:
    job, person = source.choice(tuple(JOBS)), source.choice(PEOPLE)
    return {"text": f"{person} {JOBS[job][1]}.", "person": person, **choices(source, job, tuple(JOBS))}


@FAMILIES.family()
def what_follows(source: random.Random) -> Row:
    cause = source.choice(tuple(CAUSES))
    return {"cause": cause, **choices(source, CAUSES[cause], tuple(CAUSES.values()))}


@FAMILIES.family()
def what_led_to(source: random.Random) -> Row:
    cause = source.choice(tuple(CAUSES))
    return {"effect": CAUSES[cause], **choices(source, cause, tuple(CAUSES))}


@FAMILIES.family()
def ends_with(source: random.Random) -> Row:
    """Cause and effect inside sentences."""
    cause, person = source.choice(tuple(CAUSES)), source.choice(PEOPLE)
    asked = source.choice(("begin", "end"))
    given, wanted = (cause, CAUSES[cause]) if asked == "end" else (CAUSES[cause], cause)
    others = CAUSES.values() if asked == "end" else CAUSES
    text, frame = (_scattered(source, person) for _ in range(2))
    wrong = [frame.format(other) for other in others if other != wanted]
    row = {"text": f"{text.format(given)}.", "asked": asked}
    return {**row, **choices(source, frame.format(wanted), wrong)}


def _scattered(source: random.Random, person: str) -> str:
    """A name, a gap for a word, and words that mean nothing, in any order."""
    words = [person, "{}", *source.sample(FILLERS, source.randint(0, 4))]
    source.shuffle(words)
    return " ".join(words)


@FAMILIES.family()
def title(source: random.Random) -> Row:
    """The point of a message: its thing, and another word for what is said of it."""
    thing, other = source.sample(THINGS + tuple(TITLED), 2)
    (said, meant), (_, wrong) = (source.sample(pair, 2) for pair in source.sample(SYNONYMS, 2))
    order = source.sample((thing, said), 2)
    text = " ".join(
        filter(None, (filler_words(source), order[0], filler_words(source, 2), order[1], filler_words(source)))
    )
    row = choices(source, f"{meant} {thing}", [f"{meant} {other}", f"{wrong} {thing}", f"{wrong} {other}"])
    return {"text": f"{text}.", **row}


def _used(source: random.Random, word: str, sense: int) -> str:
    """A sentence that two words which show this sense of the word occur in."""
    first, second = source.sample(SENSES[word][sense][1], 2)
    forms = ("the {0} was near the {1} and the {2}", "a {1}, a {0} and a {2}", "the {1} and the {0}", "{0} of the {1}")
    return source.choice(forms).format(word, first, second)


@FAMILIES.family()
def sense(source: random.Random) -> Row:
    word, which = source.choice(tuple(SENSES)), source.randrange(2)
    names = [name for name, _ in SENSES[word]]
    wrong = [names[1 - which], *source.sample(SENSE_NAMES, 3)]
    text = f"{_used(source, word, which)}."
    return {"text": text, "word": word, **choices(source, names[which], [w for w in wrong if w != names[which]])}


SAID = ("the {} was {{}}", "we have a {{}} {}", "that {} is {{}}", "i want a {{}} {}")


@FAMILIES.family()
def same_said(source: random.Random) -> Row:
    """Two sentences that differ in one word: a synonym, or another word."""
    word, near = source.sample(source.choice(SYNONYMS), 2)
    same = source.random() < 0.5
    other = near if same else source.choice([w for pair in SYNONYMS for w in pair if word not in pair])
    form = source.choice(SAID).format(source.choice(JUDGED))
    return {"first": form.format(word) + ".", "second": form.format(other) + ".", "label": int(same)}
