from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.pages.differences import differences


def test_what_differs_is_marked_word_by_word_also_in_chinese():
    first, second = differences("保留三十天。 One licence", "保留七天。 Two licences")
    assert [text for differs, text in first if differs] == ["三十", "One licence"]
    assert [text for differs, text in second if differs] == ["七", "Two licences"]
    assert differences("same", "same") == ([(False, "same")], [(False, "same")])
    assert differences("", "new") == ([], [(True, "new")])


@settings(max_examples=100, deadline=None)
@given(st.text("ab 中文。\n", max_size=40), st.text("ab 中文。\n", max_size=40))
def test_pieces_joined_are_the_texts_and_the_unmarked_ones_are_common(first, second):
    a, b = differences(first, second)
    assert ("".join(text for _, text in a), "".join(text for _, text in b)) == (first, second)
    assert all(text for _, text in a + b)
    if not any(differs for differs, _ in a + b):
        assert first == second
