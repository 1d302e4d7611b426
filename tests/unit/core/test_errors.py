"""Words that help to mend a mistake."""

from __future__ import annotations

import pytest

from bccp.core.errors import describe_difference, nearest


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("caf\u00e9", "cafe\u0301", "differ in Unicode form"),
        ("ant", "ant ", "differ in blanks"),
        ("red ant", "red\u00a0ant", "differ in blanks"),
        ("ant", "an\u200bt", "differ in a character that is not shown"),
        ("Bee", "bee", "differ in upper and lower case"),
        ("Bee", "bee ", "differ in upper and lower case and in blanks"),
        ("cat", "c\u0430t", "differ in letters that look alike: LATIN SMALL LETTER A and CYRILLIC SMALL LETTER A"),
        ("abc1", "abc\uff11", "differ in the width or style of letters"),
    ],
)
def test_it_is_said_how_names_differ_that_look_alike(one: str, other: str, said: str) -> None:
    assert describe_difference(one, other).startswith(said)
    assert describe_difference(other, one)


def test_names_that_differ_in_plain_sight_need_no_words() -> None:
    assert describe_difference("ant", "bee") == describe_difference("ant", "ant") == ""
    assert nearest("trian", ["train"]) == " (did you mean 'train'?)"
    assert nearest("Train", ["train"]) == " (did you mean 'train'? they differ in upper and lower case)"
