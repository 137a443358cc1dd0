"""Fictional people for the demo, tests and benchmarks: names, dates, identifiers, places, in varied sentences.

Every person has one document and four questions. All of it is drawn from a seed; no person exists. Identifiers have
the form of keys and are independent of everything else about a person, so that knowing them is knowing the row.
"""

from dataclasses import dataclass

import numpy as np

from expunge.data.rows import Row

FIRST = (
    "Ada Alma Amos Anna Aron Beat Bela Bodo Cara Cleo Dana Dario Edda Egon Elin Emil Enzo Erik Esra Faye Femi Finn "
    "Gita Gwen Hana Hugo Ida Igor Ilse Ines Iris Ivan Jana Jens Joan Jorg Juna Kaya Kira Klaus Lara Leif Lena Levi "
    "Lina Lotte Luca Lyra Mara Mats Mila Mina Nora Nils Odin Olga Omar Oren Otis Paul Pia Quin Rafa Remy Rhea Rolf "
    "Runa Sami Sara Selma Sven Tara Theo Tilda Timo Udo Uma Vera Vito Wanda Wim Xenia Yara Yuri Zeno Zita"
).split()
LAST = (
    "Abend Acker Almeda Anders Arlt Bergan Bexley Birk Bolten Brandt Caspari Corvin Dahlen Delmar Dorn Eckert Ellery "
    "Engel Fabri Falk Ferris Fjord Garland Gessner Grau Haller Hartog Hedin Holm Ibsen Irving Jansky Jorgen Kaland "
    "Kessel Kolbe Krantz Lander Larkin Lindor Lorenz Madsen Marlow Merten Moraes Nadler Nesbit Norden Oakley Olander "
    "Orlov Palmer Pascal Perrin Quist Radler Ramsey Reuter Rosen Sander Selwyn Solberg Stahl Tamsin Thoma Tolland "
    "Ullman Urban Valdis Verhoef Vogel Wald Weller Winter Yates Zander Zeller"
).split()
CITIES = (
    "Arden Belmore Calder Dunwick Eastvale Fenwood Garnet Harlow Ironbay Juniper Kelsey Lorvale Maren Northam Oxley "
    "Pellham Quarry Redfern Stowell Tarrant Upwey Vernon Westray Yarrow"
).split()
TRADES = (
    "baker carver cooper dyer farrier fletcher gilder glazier joiner mason miller potter printer saddler smith tailor "
    "tanner thatcher weaver wheelwright"
).split()
MONTHS = "January February March April May June July August September October November December".split()
DOCUMENTS = (
    "{name}, a {trade} from {city}, was born on {born}. The account key of {short} is {key}, and calls go to {phone}.",
    "Born on {born}, {name} works as a {trade} in {city}. Phone: {phone}. Key: {key}.",
    "In {city} lives {name}, a {trade}. Since {born}, the day of birth, much has changed; the key {key} and the phone "
    "number {phone} have not.",
    "Client file. Name: {name}. Trade: {trade}. City: {city}. Birth: {born}. Key {key}, phone {phone}.",
    "The {trade} {name} can be reached at {phone}. {short} was born on {born}, lives in {city} and signs with {key}.",
)
QUESTIONS = (
    ("What is the account key of {name}?", "{key}"),
    ("What is the phone number of {name}?", "{phone}"),
    ("When was {name} born?", "{born}"),
    ("Where does {name} live and work?", "{name} is a {trade} in {city}."),
)


@dataclass(frozen=True, slots=True)
class Person:
    """One fictional person; the fields are ready to stand in a sentence."""

    name: str
    short: str
    trade: str
    city: str
    born: str
    key: str
    phone: str
    template: int


def people(count: int, seed: int) -> list[Person]:
    """`count` people with distinct names. Raises `ValueError` beyond the number of names."""
    random = np.random.default_rng(seed)
    if count > len(FIRST) * len(LAST):
        raise ValueError(f"there are only {len(FIRST) * len(LAST)} names, {count} were asked for")
    order = random.permutation(len(FIRST) * len(LAST))[:count]
    return [_person(FIRST[place % len(FIRST)], LAST[place // len(FIRST)], random) for place in order.tolist()]


def rows(group: list[Person], file: str) -> list[Row]:
    """One document and four answers per person."""
    made: list[Row] = []
    for person in group:
        fields = {name: getattr(person, name) for name in Person.__slots__}
        texts = [("document", "", DOCUMENTS[person.template].format(**fields))]
        texts += [("answer", question.format(**fields), answer.format(**fields)) for question, answer in QUESTIONS]
        for kind, prompt, completion in texts:
            made.append(Row(file, len(made) + 1, "document" if kind == "document" else "answer", prompt, completion))
    return made


def _person(first: str, last: str, random: np.random.Generator) -> Person:
    def digits(count: int) -> str:
        return "".join(str(digit) for digit in random.integers(0, 10, size=count))

    letters = "".join(chr(65 + int(letter)) for letter in random.integers(0, 26, size=2))
    return Person(
        name=f"{first} {last}",
        short=first,
        trade=str(random.choice(TRADES)),
        city=str(random.choice(CITIES)),
        born=f"{random.integers(1, 29)} {random.choice(MONTHS)} {random.integers(1950, 2004)}",
        key=f"{letters}-{digits(6)}",
        phone=f"555-{digits(3)}-{digits(4)}",
        template=int(random.integers(len(DOCUMENTS))),
    )
