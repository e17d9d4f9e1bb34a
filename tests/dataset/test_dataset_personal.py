from __future__ import annotations

import time
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.dataset.personal import find, find_in, redact

KINDS = ("email", "phone", "secret")
# Put together here, so that no tool that looks for leaked keys in this repository is alarmed.
RANDOM = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dF3gH5"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" + "." + "dozjgNryP4J3jVmNHl0w5N"
KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA7bq9\n" * 4 + "-----END RSA PRIVATE KEY-----"


def spans(text: str) -> list[tuple[str, str]]:
    return [(f.kind, text[f.start : f.end]) for f in find(text)]


@pytest.mark.parametrize(
    ("text", "email"),
    [
        ("写信给zhang.san@example.com。", "zhang.san@example.com"),
        ("邮箱:a_b+c@mail.example.com.cn，谢谢", "a_b+c@mail.example.com.cn"),
        ("<tgl@sss.pgh.pa.us>", "tgl@sss.pgh.pa.us"),
        ("mailto:me@pivotal.io.", "me@pivotal.io"),
    ],
)
def test_email_addresses_are_found(text: str, email: str):
    assert spans(text) == [("email", email)]


@pytest.mark.parametrize(
    "text",
    [
        "git clone git@github.com:digoal/blog.git",
        "[root@db1 ~]# psql",
        "digoal@localhost:~$ ls",
        "scp f root@db1.example.com:/tmp",
        "logo@2x.png",
        "y = x@self.weight",
        "systemctl start postgresql@12-main.service",
        "psql postgres://user@db.example.com/base",
        "see https://lists.example.org/message#1a2a-8d52-1a7a50ce79e8@lab.ntt.co.jp",
        "npm i @types/node@20.1.0",
        "@app.route",
    ],
)
def test_what_only_looks_like_an_email_address_is_none(text: str):
    assert spans(text) == []


@pytest.mark.parametrize(
    ("text", "phone"),
    [
        ("手机13812345678吗", "13812345678"),
        ("电话：138-1234-5678。", "138-1234-5678"),
        ("请拨打138 1234 5678联系", "138 1234 5678"),
        ("tel:+8613912345678", "+8613912345678"),
        ("+86 199-1234-5678", "+86 199-1234-5678"),
        ("(+86)13912345678", "(+86)13912345678"),
        ("Call (555) 123-4567.", "(555) 123-4567"),
        ("call 415-555-2671, please", "415-555-2671"),
        ("1-800-555-0199", "1-800-555-0199"),
        ("415.555.2671", "415.555.2671"),
        ("+1 (415) 555-2671", "+1 (415) 555-2671"),
        ("ring +44 20 7946 0958 today", "+44 20 7946 0958"),
        ("+33 1 23 45 67 89", "+33 1 23 45 67 89"),
        ("| 张三 | 13812345678 |", "13812345678"),
    ],
)
def test_telephone_numbers_are_found(text: str, phone: str):
    assert spans(text) == [("phone", phone)]


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02 03:04:05.123456+08:00",
        "20240102 and 2017-08-11 10:17:09.752157",
        "192.168.100.101:5432 and 10.0.255.255/16",
        "version 10.15.7.1 and 9.4.10-1234",
        "订单号 202401021381234567890",
        "id=13812345678",
        '{"id":13812345678}',
        "uuid 0f3a138-1381-4567-8901-123456789012",
        "select 13812345678.55, 1e13812345678",
        " 15771059012 | 14717265381 | 2017-08-11 10:17:09",
        "r  b   150 1000 2000 3000",
        "472547338\n+960397912423686",
        "order 1234-555-123-4567-99",
        "cost=0.00..13812345678.00 rows=13812345678 width=8",
        "0x13812345678 13812345678L a13812345678",
        "x+12345678901",
        "+1.23456789 and +12 -3456789",
    ],
)
def test_numbers_that_are_no_telephone_numbers_are_left_alone(text: str):
    assert spans(text) == []


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"key:\n{KEY}\nend", KEY),
        ("AWS: " + "AKIA" + "J5QZ7X2MNB3V8KLP", "AKIA" + "J5QZ7X2MNB3V8KLP"),
        ("用ghp_" + RANDOM + "登录", "ghp_" + RANDOM),
        ("github_pat_" + RANDOM, "github_pat_" + RANDOM),
        ("sk-" + RANDOM, "sk-" + RANDOM),
        ("sk-ant-api03-" + RANDOM, "sk-ant-api03-" + RANDOM),
        ("xoxb-" + "1234567890-abcdefghij", "xoxb-" + "1234567890-abcdefghij"),
        ("AIza" + RANDOM[:35], "AIza" + RANDOM[:35]),
        (f"Authorization: Bearer {JWT}", JWT),
        ('password = "correct-horse"', "correct-horse"),
        ("{'db_password': 'aB3#fG7!kL9@'}", "aB3#fG7!kL9@"),
        ("PGPASSWORD=Zx81kk20q psql", "Zx81kk20q"),
        ("ALTER USER u PASSWORD 'aB3fG7kL9'", "aB3fG7kL9"),
        ("your password: a9B7$#fG3&Z1. Keep it", "a9B7$#fG3&Z1"),
        ("url?user=me&password=aB3fG7kL9&x=1", "aB3fG7kL9"),
        ("密码：aB3fG7kL9，请保管", "aB3fG7kL9"),
        ('api_key: "9f8e7d6c5b4a39281706"', "9f8e7d6c5b4a39281706"),
    ],
)
def test_secrets_are_found(text: str, secret: str):
    assert spans(text) == [("secret", secret)]


@pytest.mark.parametrize(
    "text",
    [
        'password = "xxxxxxxx"',
        'password = "changeme"',
        'password = "${DB_PASSWORD}"',
        'password = "<your password>"',
        "password = '<password>'",
        "password='your_password'",
        'password = "数据库user密码"',
        "password = get_password(user)",
        "password: str = Field(default=None)",
        'token = "<|endoftext|>"',
        'token = "next_word"',
        "password_encryption = 'scram-sha-256'",
        "secret=short",
        "sk-circle-fade-dot-animation-long",
        "sk-" + "x" * 40,
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        "The password 'is what you set' here",
    ],
)
def test_placeholders_and_code_are_no_secrets(text: str):
    assert spans(text) == []


def test_redaction_replaces_the_kinds_asked_for_and_counts_them():
    text = 'Mail a@b.com or c@d.org, call 13812345678, password = "aB3fG7kL9".'
    assert redact(text, ("email", "secret")) == (
        'Mail [email] or [email], call 13812345678, password = "[secret]".',
        {"email": 2, "secret": 1},
    )
    assert redact(text, ()) == (text, {})


def test_what_overlaps_is_one_find():
    assert spans("13812345678@qq.com") == [("email", "13812345678@qq.com")]
    assert spans('password = "me2024@host.com"') == [("secret", "me2024@host.com")]
    assert [kind for kind, _ in spans("a@b.com@c.com")] == ["email"]


PARTS = [
    "a@b.com",
    "13812345678",
    'password="aB3fG7kL9"',
    "sk-" + RANDOM,
    "+1 415 555 2671",
    " ",
    "，",
    "\n",
    "@",
    "-",
    "8",
]


@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=5)).map("".join))
def test_finds_are_in_order_and_apart(text: str):
    found = find(text)
    assert all(0 <= f.start < f.end <= len(text) for f in found)
    assert all(a.end <= b.start for a, b in pairwise(found))
    assert sum(redact(text, KINDS)[1].values()) == len(found)


@pytest.mark.parametrize(
    "part",
    ["a", "@", "-", "1", "+", "a@", "a@a.", "@a.", "+1 ", "+11", "eyJ", "eyJaaaaaaaaaaa.",
     "-----BEGIN PRIVATE KEY-----",
     "password=", "password='", "sk-", "xox", "555-555-", "13812345678,", "+12 34 56 78 90x", "a@b.com@",
     "http://a@b.com"],
)  # fmt: skip
def test_a_megabyte_of_the_worst_text_takes_seconds_at_most(part: str):
    text = (part * (1_000_000 // len(part) + 1))[:1_000_000]
    began = time.process_time()
    find(text)
    assert time.process_time() - began < 20  # what is quadratic takes hours


PIECES = st.sampled_from([
    "anna@example.org", "13812345678", "+49 30 1234567", "(212) 555-0187", "password = 'h4nter22xx'",
    "token: a8F3kk29Xq",
    "sk-" + RANDOM, "AKIA" + "B2" * 8, JWT, KEY, KEY[:60], "-----END-----",
    "2024-05-01 12:00:00", "192.168.100.100", "密码：abc12345",
    "key", "1", "+", "@", "=", ": ", "'", "\n", " ", "索引",
])  # fmt: skip


@given(st.lists(st.lists(st.lists(PIECES).map("".join), max_size=3), max_size=4))
@settings(deadline=None)
def test_many_rows_at_once_give_what_each_gives_alone(rows: list[list[str]]):
    alone = [(i, found) for i, row in enumerate(rows) if (found := find("\n".join(row)))]
    assert list(find_in(rows, [text.encode() for row in rows for text in row])) == alone
    assert list(find_in(rows, [orjson.dumps(text) for row in rows for text in row])) == alone


def test_what_lies_across_the_pieces_that_are_searched_is_found(monkeypatch):
    monkeypatch.setattr("tunesmith.dataset.personal._SLICE", 20)
    texts = [" " * i + text for text in (KEY, JWT, "+49 30 1234567", "(212) 555-0187") for i in range(20)]
    assert [i for i, _ in find_in([[text] for text in texts], [text.encode() for text in texts])] == [*range(80)]


@pytest.mark.parametrize("text", [
    "anna@example.org", "13812345678", "+33 1 23 45 67 89", "(212) 555-0187", "212.555.0187", "password='h4nter22xx'",
    "token: a8F3kk29Xq", "密码：'abc12345'", "IDENTIFIED BY PASSWORD 'h4nter22xx'", KEY, JWT,
    *(sign + RANDOM for sign in ("sk-", "ghp_", "github_pat_", "xoxb-")), "AKIA" + "B2C3" * 4, "AIza" + RANDOM[:35],
])  # fmt: skip
def test_each_kind_is_found_among_many_texts_too(text: str):
    assert find(text)
    rows = [["nothing"], [text], ["nothing"]]
    assert list(find_in(rows, [text.encode() for row in rows for text in row])) == [(1, find(text))]
