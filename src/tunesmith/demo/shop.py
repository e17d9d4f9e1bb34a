"""A sample to learn from that this project wrote itself: questions to a small shop, answered in SQL.

Three files: ``shop.sql`` makes the database, ``train.jsonl`` and ``test.jsonl`` hold the questions. The
test is held out twice. Its wordings (``test`` in `tunesmith.demo.questions`) are in no training question,
and neither are its values:

    names, products, cities, categories    the lists below named TEST_…
    years, and months and dates in them    2020 and 2024
    prices, stock levels, top-n            whole numbers that end in 3 or 8

A model that learned questions by heart, or answers by value, gets none of it right. The schema is the
same on both sides, and so are the kinds of question: those are what is to be learned.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import date, timedelta
from itertools import combinations, product
from pathlib import Path
from typing import Literal

from tunesmith.demo.questions import INTENTS, Intent
from tunesmith.files import write_text

Part = Literal["train", "test"]

SYSTEM = (
    "Tables: products(id, name, category, price, stock); customers(id, name, city, joined); "
    "orders(id, customer_id, product_id, quantity, ordered)\nAnswer with one SQLite query."
)
"""The prompt above every question: 49 tokens of SmolLM2's, because a short one keeps training cheap."""

SCHEMA = """\
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, category TEXT, price REAL, stock INTEGER);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT, joined TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers, \
product_id INTEGER REFERENCES products, quantity INTEGER, ordered TEXT);
"""

TRAIN_PRODUCTS = {
    "kitchen": ("Copper Kettle", "Bread Knife", "Iron Pan", "Salad Bowl", "Pepper Mill"),
    "office": ("Desk Lamp", "Paper Tray", "Steel Stapler", "Swivel Chair", "Wall Planner"),
    "garden": ("Rose Shears", "Watering Can", "Leaf Rake", "Herb Planter", "Bird Feeder"),
    "toys": ("Wooden Train", "Puzzle Cube", "Rag Doll", "Toy Drum", "Marble Run"),
    "sports": ("Yoga Mat", "Jump Rope", "Tennis Racket", "Swim Goggles", "Foam Roller"),
    "music": ("Brass Trumpet", "Maple Ukulele", "Drum Sticks", "Music Stand", "Guitar Strap"),
    "books": ("Star Atlas", "Bread Cookbook", "Sea Stories", "Bird Guide", "Chess Primer"),
    "lighting": ("Floor Lamp", "Paper Lantern", "Reading Light", "Candle Holder", "Lava Lamp"),
}
TEST_PRODUCTS = {
    "camping": ("Trail Tent", "Sleeping Bag", "Camp Stove", "Tin Mug", "Head Torch"),
    "pets": ("Dog Basket", "Cat Tunnel", "Fish Tank", "Hamster Wheel", "Parrot Perch"),
    "bath": ("Cotton Towel", "Soap Dish", "Shower Cap", "Bamboo Brush", "Bath Mat"),
    "travel": ("Leather Suitcase", "Neck Pillow", "Passport Cover", "Rain Poncho", "Money Belt"),
}
TRAIN_CITIES = "Lisbon Oslo Vienna Dublin Prague Madrid Athens Warsaw Helsinki Zurich Porto Milan"
TEST_CITIES = "Berlin Krakow Bergen Lyon Seville"
TRAIN_NAMES = (
    "Ada Ben Carla David Elena Felix Greta Hugo Irene Jonas Karin Leo Maria Nils Olga Pablo Rosa Simon Tessa Victor",
    "Adler Brandt Costa Duarte Eriksen Fischer Garcia Hansen Ivanova Jensen Keller Lopez Moreau Novak Olsen "
    "Pereira Quinn Rossi Schmidt Torres",
)
TEST_NAMES = (
    "Anton Bianca Cedric Dora Emil Flora Gustav Hanna Igor Julia",
    "Almeida Berger Conti Dahl Engel Ferrari Gruber Holm Iversen Janssen",
)
YEARS = range(2019, 2026)
TEST_YEARS = (2020, 2024)


def write_sample(folder: Path, train: int = 1600, test: int = 200, seed: int = 0) -> None:
    """Writes ``shop.sql``, ``train.jsonl`` and ``test.jsonl`` into ``folder``, the same for the same seed.

    Each row is ``{"messages": [system, user, assistant]}``. Every kind of question comes up equally
    often, every gold query returns at least one row and not just 0, and no question comes twice. Raises
    ValueError when more questions are asked for than there are, StorageError when they cannot be written.
    """
    script = shop_script(seed)
    with closing(sqlite3.connect(":memory:")) as shop:
        shop.executescript(script)
        files = {
            "shop.sql": script,
            "train.jsonl": _jsonl(questions(shop, "train", train, seed)),
            "test.jsonl": _jsonl(questions(shop, "test", test, seed)),
        }
    for name, text in files.items():
        write_text(folder / name, text)


def shop_script(seed: int = 0) -> str:
    """The shop as SQL: 60 products, 119 customers (two in seven never ordered), 500 orders."""
    rng = random.Random(f"shop {seed}")
    items = [(name, kind) for kind, names in (TRAIN_PRODUCTS | TEST_PRODUCTS).items() for name in names]
    # No two prices alike: "the 5 most expensive" must have one answer.
    prices = [cents / 100 for cents in rng.sample(range(495, 30_000, 50), len(items))]
    products = [
        (number, name, kind, price, rng.randrange(1, 120))
        for number, ((name, kind), price) in enumerate(zip(items, prices, strict=True), 1)
    ]
    customers = _customers(rng)
    buyers = [row[0] for row in customers if row[0] % 7 > 1]
    orders = [
        (
            number,
            buyers[number % len(buyers)],
            rng.randrange(1, len(items) + 1),
            rng.randrange(1, 6),
            _day(rng),
        )
        for number in range(1, 501)
    ]
    tables: dict[str, Iterable[tuple[object, ...]]] = {
        "products": products,
        "customers": customers,
        "orders": orders,
    }
    return SCHEMA + "".join(_insert(table, row) for table, rows in tables.items() for row in rows)


def questions(shop: sqlite3.Connection, part: Part, count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` questions with their SQL, in mixed order. Raises ValueError when there are not so many."""
    rng = random.Random(f"{part} {seed}")
    values = _values(part)
    supplies = [_ask(intent, part, values, shop, rng) for intent in INTENTS]
    asked: dict[str, str] = {}
    while supplies and len(asked) < count:
        for supply in list(supplies):
            pair = next(supply, None)
            if pair is None:
                supplies.remove(supply)
            elif len(asked) < count:
                asked.setdefault(*pair)
    if len(asked) < count:
        raise ValueError(f"the sample has only {len(asked)} {part} questions; ask for no more than that")
    pairs = list(asked.items())
    rng.shuffle(pairs)
    return pairs


Values = dict[str, list[dict[str, str]]]
"""For each slot the ways to fill it. A way fills a second slot too where two values hang together."""


def _ask(
    intent: Intent, part: Part, values: Values, shop: sqlite3.Connection, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Every question of one intent in random order, without those whose answer is nothing or 0."""
    fillings = product(*(ways for slot, ways in values.items() if f"{{{slot}}}" in intent.sql))
    pairs = list(product(intent.wordings(part), fillings))
    rng.shuffle(pairs)
    for wording, ways in pairs:
        filling = {slot: value for way in ways for slot, value in way.items()}
        sql = intent.sql.format(**filling)
        rows = shop.execute(sql).fetchall()
        if rows and rows[0] not in {(0,), (None,)}:
            yield wording.format(**filling), sql


def _values(part: Part) -> Values:
    """What fills the slots of one part's questions; nothing is in both."""
    training = part == "train"
    stock = TRAIN_PRODUCTS if training else TEST_PRODUCTS
    years = [year for year in YEARS if (year in TEST_YEARS) != training]
    numbers = [n for n in range(2, 251) if (n % 10 in {3, 8}) != training]
    fives = [n for n in numbers if n >= 10 and n % 5 == (0 if training else 3)]
    days = (date(years[0], 1, 1) + timedelta(days=n) for n in range(366 * len(YEARS)))
    return {
        "product": _each("product", (name for names in stock.values() for name in names)),
        "category": _each("category", stock),
        "city": _each("city", (TRAIN_CITIES if training else TEST_CITIES).split()),
        "customer": _each("customer", _full_names(TRAIN_NAMES if training else TEST_NAMES)),
        "year": _each("year", years),
        "month": _each("month", (f"{year}-{month:02}" for year in years for month in range(1, 13))),
        "date": _each("date", (day for day in days if day.year in years)),
        "price": _each("price", (n for n in numbers if n >= 10)),
        "stock": _each("stock", (n for n in numbers if 5 <= n <= 60)),
        "top": _each("top", (n for n in numbers if n <= 14)),
        "low": [{"low": str(a), "high": str(b)} for a, b in combinations(fives, 2)],
    }


def _each(slot: str, values: Iterable[object]) -> list[dict[str, str]]:
    return [{slot: str(value)} for value in values]


def _full_names(names: tuple[str, str]) -> list[str]:
    firsts, lasts = names
    return [f"{first} {last}" for first in firsts.split() for last in lasts.split()]


def _customers(rng: random.Random) -> list[tuple[int, str, str, str]]:
    """84 customers with names of the training questions, then 35 with names of the test's; cities mixed."""
    cities = [*TRAIN_CITIES.split(), *TEST_CITIES.split()]
    names = rng.sample(_full_names(TRAIN_NAMES), 84) + rng.sample(_full_names(TEST_NAMES), 35)
    return [(n, name, cities[n % len(cities)], _day(rng)) for n, name in enumerate(names, 1)]


def _day(rng: random.Random) -> str:
    return str(date(YEARS.start, 1, 1) + timedelta(days=rng.randrange(365 * len(YEARS))))


def _insert(table: str, row: tuple[object, ...]) -> str:
    # No value holds a quote, so Python writes each as SQL does.
    return f"INSERT INTO {table} VALUES ({', '.join(map(repr, row))});\n"


def _jsonl(pairs: Iterable[tuple[str, str]]) -> str:
    lines: list[str] = []
    for question, sql in pairs:
        turns = (("system", SYSTEM), ("user", question), ("assistant", sql))
        messages = [{"role": role, "content": content} for role, content in turns]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return "".join(lines)
