import pytest
from html_page import HOSTILE

from tunesmith.pages.text import harmless, language


@pytest.mark.parametrize(
    ("text", "lang"), [("退款", "zh"), ("refund", ""), ("返金はいつ", "ja"), ("환불", "ko"), ("", "")]
)
def test_the_language_of_a_text_is_told_by_its_letters(text, lang):
    assert language(text) == lang


def test_what_turns_hides_or_drives_is_shown_and_everything_else_stays():
    assert harmless("a\u202eb\x1b[31m\x85\ud800") == "a⟨U+202E⟩b␛[31m\ufffd\ufffd"
    assert harmless("两行\n\tand a tab 😀") == "两行\n\tand a tab 😀"
    assert harmless(3) == 3
    for text in HOSTILE:
        assert harmless(text).encode("utf-8")
