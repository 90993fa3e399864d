"""Contrasts from templates: two passages that differ in one small word, and a question for each.

    generate(400, seed=0)    ->  contrasts of ten kinds in turn: all / none, before / after, 40 / 70, from A to B, …

Both questions and both passages have nearly the same words, so whoever counts words, or pools them into one vector, has
little to go by. A scorer must pair both questions rightly; guessing earns 1/4.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InputError
from .contrast import Contrast

PEOPLE = [
    "Anna",
    "Bruno",
    "Clara",
    "David",
    "Elena",
    "Farid",
    "Grace",
    "Hugo",
    "Irene",
    "Jonas",
    "Kofi",
    "Lena",
    "Marta",
    "Nadim",
    "Olga",
    "Pedro",
]
PLACES = [
    "Aldenham",
    "Brackwater",
    "Corvane",
    "Dunmere",
    "Eastholm",
    "Farrow",
    "Glenick",
    "Harwick",
    "Ilmouth",
    "Kestrel",
    "Lowick",
    "Marden",
]
THINGS = [
    "bridges",
    "schools",
    "roofs",
    "boats",
    "windows",
    "gardens",
    "ovens",
    "trams",
    "wells",
    "barns",
    "lamps",
    "gates",
]
STATES = ["repaired", "inspected", "painted", "insured", "replaced", "sold", "cleaned", "measured"]
SITES = ["library", "bakery", "museum", "clinic", "harbour", "station", "theatre", "workshop"]
EVENTS = ["the war ended", "the road was built", "the mayor resigned", "the river froze", "the mine closed"]
DAYS = ["Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays"]
OPENINGS = [
    "The yearly report of {place} came out in spring.",
    "A short note about {place} appeared in the regional paper.",
    "The archive of {place} keeps several pages on this.",
]
CLOSINGS = ["Further details were not given.", "Nobody objected.", "The figures are from the town office."]

Edit = tuple[str, str, str, str]  # question 1, question 2, the sentences that answer them
Draw = Callable[[Sequence[Any]], Any]


def _all_none(pick: Draw, place: str) -> Edit:
    things, state = pick(THINGS), pick(STATES)
    ask = f"Were {{}} of the {things} in {place} {state}?"
    say = f"{{}} of the {things} in {place} were {state}."
    return ask.format("all"), ask.format("none"), say.format("All"), say.format("None")


def _all_some(pick: Draw, place: str) -> Edit:
    things, state = pick(THINGS), pick(STATES)
    ask = f"Were {{}} of the {things} in {place} {state}?"
    say = f"{{}} of the {things} in {place} were {state}."
    return ask.format("all"), ask.format("only some"), say.format("All"), say.format("Only some")


def _numbers(pick: Draw, place: str) -> Edit:
    site, (low, high) = pick(SITES), pick([(14, 40), (30, 70), (120, 210), (19, 91), (4, 7), (250, 520)])
    ask, say = f"Is the {site} of {place} {{}} metres high?", f"The {site} of {place} is {{}} metres high."
    return ask.format(low), ask.format(high), say.format(low), say.format(high)


def _before_after(pick: Draw, place: str) -> Edit:
    site, event = pick(SITES), pick(EVENTS)
    ask, say = f"Did the {site} of {place} burn down {{}} {event}?", f"The {site} of {place} burned down {{}} {event}."
    return ask.format("before"), ask.format("after"), say.format("before"), say.format("after")


def _more_fewer(pick: Draw, place: str) -> Edit:
    site, count = pick(SITES), pick([30, 80, 200, 500, 1200])
    ask = f"Does the {site} of {place} receive {{}} than {count} visitors a day?"
    say = f"The {site} of {place} receives {{}} than {count} visitors a day."
    return ask.format("more"), ask.format("fewer"), say.format("more"), say.format("fewer")


def _not(pick: Draw, place: str) -> Edit:
    site, day = pick(SITES), pick(DAYS)
    ask, say = f"Is it true that the {site} of {place} is {{}} on {day}?", f"The {site} of {place} is {{}} on {day}."
    return ask.format("open"), ask.format("not open"), say.format("open"), say.format("not open")


def _who_whom(pick: Draw, place: str) -> Edit:
    a = pick(PEOPLE)
    b = pick([name for name in PEOPLE if name != a])
    deed, past = pick([("beat", "beat"), ("hire", "hired"), ("teach", "taught"), ("outbid", "outbid"), ("sue", "sued")])
    ask, say = f"In {place}, did {{}} {deed} {{}}?", f"In {place}, {{}} {past} {{}}."
    return ask.format(a, b), ask.format(b, a), say.format(a, b), say.format(b, a)


def _from_to(pick: Draw, place: str) -> Edit:
    other, goods = pick([p for p in PLACES if p != place]), pick(["grain", "timber", "salt", "coal", "glass"])
    ask, say = f"Was {goods} shipped from {{}} to {{}}?", f"Most {goods} was shipped from {{}} to {{}}."
    return ask.format(place, other), ask.format(other, place), say.format(place, other), say.format(other, place)


def _rise_fall(pick: Draw, place: str) -> Edit:
    what, year = pick(["rents", "wages", "rainfall", "traffic", "bread prices"]), pick(range(1950, 2020))
    ask, say = f"Did {what} in {place} {{}} in {year}?", f"In {place}, {what} {{}} in {year}."
    return ask.format("rise"), ask.format("fall"), say.format("rose"), say.format("fell")


def _always_never(pick: Draw, place: str) -> Edit:
    site, what = pick(SITES), pick(["lends tools", "serves soup", "accepts cheques", "rings a bell", "sells maps"])
    ask, say = f"Is it true that the {site} of {place} {{}} {what}?", f"The {site} of {place} {{}} {what}."
    return ask.format("always"), ask.format("never"), say.format("always"), say.format("never")


KINDS: dict[str, Callable[[Draw, str], Edit]] = {
    "all / none": _all_none,
    "all / some": _all_some,
    "always / never": _always_never,
    "before / after": _before_after,
    "from / to": _from_to,
    "more / fewer": _more_fewer,
    "not": _not,
    "numbers": _numbers,
    "rise / fall": _rise_fall,
    "who / whom": _who_whom,
}


def generate(count: int, seed: int = 0, kinds: Sequence[str] | None = None, context: bool = True) -> list[Contrast]:
    """`count` different contrasts, the kinds in turn; the same seed gives the same ones.

    context: put a neutral sentence before and after the one that answers. InputError for an unknown kind, and for more
    contrasts than the templates can make.
    """
    names = list(KINDS) if kinds is None else list(kinds)
    if not names or any(name not in KINDS for name in names):
        raise InputError(f"kinds must be some of {list(KINDS)}, not {names}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"count must be a whole number of at least 1, not {count!r}")
    rng = random.Random(seed)
    found: dict[tuple[str, str], Contrast] = {}
    tries = 0
    while len(found) < count:
        kind = names[len(found) % len(names)]
        place = rng.choice(PLACES)
        q1, q2, right, left = KINDS[kind](rng.choice, place)
        if context:
            start, end = rng.choice(OPENINGS).format(place=place), rng.choice(CLOSINGS)
            right, left = f"{start} {right} {end}", f"{start} {left} {end}"
        tries = 0 if found.setdefault((q1, q2), c := Contrast((q1, q2), (right, left), kind)) is c else tries + 1
        if tries > 1000:
            raise InputError(f"the templates cannot make {count} different contrasts: ask for {len(found)} at most")
    return list(found.values())
