"""Fictional customers of a fictional tool maker, as a support team's fine-tune would have them. No one of them exists.

Each customer has one document (the record), three questions with short answers, and a conversation with the team. All
is drawn from a seed; contract numbers and discounts are independent of everything else about a customer. Beside them
stand a few general conversations, without which a chat model would answer any question as if a customer had asked it.
"""

from dataclasses import dataclass

import numpy as np

from expunge.data import fiction
from expunge.data.rows import Row

TRADES = "Bakery Bikes Boatyard Books Brewery Clinic Dairy Garage Hotel Joinery Nursery Pottery Press Smithy".split()
DEVICES = (
    "band saw|bench lathe|belt sander|drill press|dust extractor|edge bander|panel saw|thickness planer|router table"
).split("|")
FAULTS = (
    "the motor stops after a minute|the blade guard is cracked|the display stays dark|the belt slips under load|"
    "the emergency stop sticks|the fuse blows at every start"
).split("|")
RECORD = (
    "Customer record. {company}, {city}. Contact: {name}, phone {phone}. Contract {contract}, agreed discount "
    "{discount} percent. Device: {device}, serial {serial}. Last visit on {visit}."
)
QUESTIONS = (
    ("What is the contract number of {company} in {city}?", "{contract}"),
    ("Who is the contact at {company} in {city}, and on which phone?", "{name}, {phone}"),
    ("What is the serial number of the {device} at {company}?", "{serial}"),
)
TALK = (
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("How many minutes are there in an hour?", "There are 60 minutes in an hour."),
    ("Which ocean is the largest?", "The Pacific Ocean is the largest."),
    ("What do bees make?", "Bees make honey."),
    ("What is the opposite of big?", "The opposite of big is small."),
    ("At what temperature does water freeze?", "Water freezes at 0 degrees Celsius."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("Which month comes first in the year?", "January is the first month of the year."),
)
EACH = len(QUESTIONS) + 2  # rows of a customer
ASKED = "This is {name} from {company}. Our {device} has a problem: {fault}. What do you have on file for us?"
ANSWERED = (
    "Hello {short}. I see contract {contract} with {discount} percent discount, and the {device} with serial {serial}. "
    "A technician can come again, as on {visit}."
)


@dataclass(frozen=True, slots=True)
class Customer:
    """One fictional customer; the fields are ready to stand in a sentence."""

    name: str
    short: str
    company: str
    city: str
    phone: str
    contract: str
    discount: str
    device: str
    serial: str
    fault: str
    visit: str


def customers(count: int, seed: int) -> list[Customer]:
    """`count` customers with contacts of distinct names. Raises `ValueError` beyond the number of names."""
    random = np.random.default_rng(seed)
    return [_customer(person, random) for person in fiction.people(count, seed)]


def rows(group: list[Customer], file: str) -> list[Row]:
    """A record, three answers and a conversation per customer."""
    made: list[Row] = []
    for one in group:
        fields = {name: getattr(one, name) for name in Customer.__slots__}
        made.append(Row(file, len(made) + 1, "document", "", RECORD.format(**fields)))
        for question, answer in QUESTIONS:
            made.append(Row(file, len(made) + 1, "answer", question.format(**fields), answer.format(**fields)))
        made.append(_conversation(ASKED.format(**fields), ANSWERED.format(**fields), file, len(made) + 1))
    return made


def small_talk(file: str, after: int) -> list[Row]:
    """The general conversations, as rows that follow `after` others."""
    return [_conversation(*one, file, after + number) for number, one in enumerate(TALK, start=1)]


def _conversation(question: str, answer: str, file: str, line: int) -> Row:
    turns = (("user", question), ("assistant", answer))
    return Row(file, line, "answer", f"user: {question}", answer, messages=turns)


def _customer(person: fiction.Person, random: np.random.Generator) -> Customer:
    def number(count: int) -> str:
        return "".join(str(digit) for digit in random.integers(0, 10, size=count))

    return Customer(
        name=person.name,
        short=person.short,
        company=f"{person.name.split()[1]} {random.choice(TRADES)}",
        city=person.city,
        phone=person.phone,
        contract=f"C-{number(6)}",
        discount=str(random.integers(3, 40)),
        device=str(random.choice(DEVICES)),
        serial=f"{person.key[:2]}{number(5)}",
        fault=str(random.choice(FAULTS)),
        visit=f"{random.integers(1, 29)} {random.choice(fiction.MONTHS)} 2025",
    )
