"""Cleaning at import, comparing, and words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.text import clean, join_words, normalise, split_words

# characters that meet in texts of shops, among them every kind that cleaning treats
CHARACTERS = (
    "aB1 <>&;/p b='\"\n\t\x00\u200b\u200c\u200d\ufe0f\u00ad"
    "™½é\u0301ｶﾞ衫が\u0e4d\u0e32\u0e49कक्\u064b\u0633ﬁ❤👨\u3164²"
)
FRAGMENTS = [
    "<p>",
    "</b>",
    "<br/>",
    "&lt;",
    "&amp;",
    "&nbsp;",
    "&#0;",
    "<!--",
    "-->",
    "<script>",
    "<![CDATA[",
]
TEXTS = st.lists(st.sampled_from([*CHARACTERS, *FRAGMENTS])).map("".join)


@given(TEXTS | st.text())
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert not set(once) & set("\x00\u200b\u00ad\n\t\u3164") and once == once.strip()


@given(TEXTS | st.text())
def test_what_is_compared_is_clean_and_stable(text: str) -> None:
    once = normalise(text)
    assert once is None or (normalise(once) == once == clean(once))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>A <b>red</b>&nbsp;mug.</p><ul><li>dishwasher safe</li></ul>", "A red mug. dishwasher safe"),
        ("one<br/>two<td>three</td><TD class=x>four", "one two three four"),
        ("<b>T</b>-shirt <em>XL</em>", "T-shirt XL"),
        ("<script>var a = 1</script><style>p {}</style>red<!-- no -->", "red"),
        ('<a href="x" title="a > b">red</a> mug', "red mug"),
        ("&lt;p&gt;red&amp;nbsp;mug&lt;/p&gt;", "red mug"),
        ("<![CDATA[red mug]]>", "red mug"),
        ('red <b>mug</b> <a href="http://shop.exam', "red mug"),
        ("<b>red</b> a <b", "red a <b"),
        ("Tom &amp; Co. &eacute;", "Tom & Co. é"),
    ],
)
def test_markup_becomes_text(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "I <3 mugs",
        "if a<b and c>d",
        "R&D; A&B",
        "mug <new> 3 > 2",
        "?a=1&copy=2",
        "a &b; c",
        "<-> x",
    ],
)
def test_what_only_looks_like_markup_stays(text: str) -> None:
    assert clean(text) == text


def test_signs_that_look_like_markup_stay_beside_markup() -> None:
    assert clean("x<y &amp; <b>3 < 4</b>") == "x<y & 3 < 4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＵＳＢ　ｹｰﾌﾞﾙ", "USB ケーブル"),
        ("cafe\u0301 ﬁne m²", "café fine m2"),
        ("Acme™ L´Oréal 1½ l, 90˚C", "Acme L'Oréal 1 1/2 l, 90°C"),
        ("re\u200bd \u2060mu\u00adg\ufeff\x00", "red mug"),
        ("  red \n\t mug\u2028\u3000big ", "red mug big"),
        ("น้ำ", "น้ำ"),  # the vowel stays composed
    ],
)
def test_characters(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize("text", ["می\u200cخواهم", "क्\u200dष", "ന്\u200d", "👨\u200d👩\u200d👧", "❤\ufe0f"])
def test_joiners_stay_where_they_change_letters(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize("text", ["re\u200dd", "\u200cred\u200c", "re\ufe0fd"])
def test_other_joiners_go(text: str) -> None:
    assert clean(text) == "red"


@pytest.mark.parametrize(
    "text", ["\x00", "\u200b\u200d\ufeff", "\u3164\u2800", " \u00ad\n", "<br>", "<p>&nbsp;</p>"]
)
def test_nothing_visible_is_no_text(text: str) -> None:
    assert clean(text) == "" and normalise(text) is None


@pytest.mark.parametrize(
    ("text", "other"), [("STRASSE", "Straße"), ("Ｒｅｄ  mug", "red MUG"), ("İzmir", "i̇zmir")]
)
def test_equal_words_compare_equal(text: str, other: str) -> None:
    assert normalise(text) == normalise(other)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the red chair's series-1, 1.5 l", ["the", "red", "chair's", "series-1", "1.5", "l"]),
        ("लाल सूती कुर्ता", ["लाल", "सूती", "कुर्ता"]),
        ("赤い綿の長袖シャツ", ["赤い", "綿の", "長袖", "シャツ"]),
        ("蓝色纯棉衬衫男士长袖", ["蓝色纯", "棉衬衫", "男士长袖"]),
        ("nike跑步鞋air 90", ["nike", "跑步鞋", "air", "90"]),
        ("빨간 원피스", ["빨간", "원피스"]),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_words_are_joined_as_people_type_them() -> None:
    assert join_words(["蓝色", "衬衫", "nike", "鞋"]) == "蓝色衬衫 nike 鞋"
    assert join_words(["red", "mug"]) == "red mug"
    assert join_words(["เสื้อ", "สีดำ"]) == "เสื้อสีดำ"
    assert join_words(["빨간", "원피스"]) == "빨간 원피스"
    assert join_words([]) == ""


@given(st.lists(st.sampled_from(["衫", "ガ", "あ", "ア", "เ", "สื้", "อ", "ကြ", "ក្ក"])))
def test_pieces_of_a_run_are_short_and_add_up_to_it(units: list[str]) -> None:
    pieces = split_words("".join(units))
    assert "".join(pieces) == join_words(pieces) == "".join(units)
    assert len(pieces) >= len(units) / 8  # a run of Han and a run of Hiragana, of 4 characters each
