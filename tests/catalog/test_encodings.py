"""Encodings are read rightly or refused; garbled text is found."""

import io
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.reading import encodings
from catalog.reading.encodings import detect_encoding, rank_readings
from catalog.reading.mojibake import WORD, find_mojibake
from catalog.schema import DataError

# Language → encodings, and titles.
TITLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "de": (
        ("cp1252", "cp850", "mac_roman"),
        ("Kühlschrank weiß", "Schüssel aus Glas", "Größe für Mädchen", "Öl"),
    ),
    "fr": (
        ("cp1252", "iso8859_15"),
        ("Lunettes de soleil été", "Théière grège", "Pâte à modeler", "Écharpe"),
    ),
    "es": (("cp1252",), ("Camisón de algodón", "Muñeca pequeña", "Pantalón azul", "Sartén")),
    "pl": (
        ("cp1250", "iso8859_2"),
        ("Sukienka żółta", "Łóżko drewniane", "Książka dla dzieci", "Kubek duży biały"),
    ),
    "cs": (("cp1250", "iso8859_2"), ("Dřevěný stůl", "Žlutý hrnek", "Skleněná láhev", "Dětské šaty")),
    "hu": (("cp1250",), ("Női cipő", "Üvegpohár", "Kék bögre tölgyből", "Gyerek kötény fűzős")),
    "tr": (("cp1254",), ("Kırmızı elbise", "Gümüş yüzük", "Çocuk ayakkabısı", "Ahşap masa")),
    "el": (("cp1253",), ("Κόκκινο φόρεμα", "Ξύλινο τραπέζι", "Άσπρη κούπα", "Παιδικά παπούτσια")),
    "ru": (
        ("cp1251", "koi8_r", "cp866", "iso8859_5", "mac_cyrillic"),
        ("Красное платье", "Детская обувь", "ДЕРЕВЯННЫЙ СТОЛ", "Белая кружка"),
    ),
    "uk": (("cp1251", "koi8_u"), ("Червона сукня", "Дитяче взуття", "Біла чашка", "Зимова куртка жіноча")),
    "he": (("cp1255",), ("שמלה אדומה", "נעלי ילדים", "שולחן עץ", "מעיל חורף")),
    "ar": (("cp1256",), ("فستان أحمر", "حذاء أطفال", "طاولة خشبية", "كوب أبيض")),
    "th": (("cp874",), ("ชุดเดรสสีแดง", "รองเท้าเด็ก", "แก้วสีขาว", "เสื้อกันหนาว")),
    "zh-Hans": (("gbk", "gb18030"), ("红色连衣裙 夏季", "儿童运动鞋", "实木餐桌", "不锈钢保温杯 500ml")),
    "zh-Hant": (("big5",), ("紅色連身裙 夏季", "兒童運動鞋", "實木餐桌", "白色馬克杯")),
    "ja": (("cp932", "euc_jp"), ("赤いワンピース", "子供用スニーカー", "白いマグカップ", "冬のコート")),
    "ko": (("cp949",), ("빨간 원피스", "아동 운동화", "흰색 머그컵", "겨울 코트")),
}
PAIRS = [(language, encoding) for language, (names, _) in TITLES.items() for encoding in names]


def detect(content: bytes) -> str:
    return detect_encoding(io.BytesIO(content), "t.csv")


def write_table(titles: list[str]) -> str:
    return "product_id,title\n" + "".join(f"{number},{title}\n" for number, title in enumerate(titles))


@pytest.mark.parametrize(("language", "encoding"), PAIRS)
def test_each_encoding_is_read(language: str, encoding: str) -> None:
    table = write_table([*TITLES[language][1]])
    content = table.encode(encoding)
    assert content.decode(detect(content)) == table


def test_vowels_without_a_consonant_are_not_thai() -> None:
    """As Thai, each of these words of Big5 ends with a vowel that stands before its consonant."""
    titles = ["兒童運動鞋", *["實木餐桌"] * 4]
    table = "product_id,title\n" + "".join(f"{number},{title}\n" for number, title in enumerate(titles))
    assert table.encode("big5").decode(detect(table.encode("big5"))) == table


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(PAIRS), st.data())
def test_a_short_table_is_never_garbled(pair: tuple[str, str], data: st.DataObject) -> None:
    """Two titles or more: read rightly, or refused with the name of the option."""
    language, encoding = pair
    titles = data.draw(st.lists(st.sampled_from(TITLES[language][1]), min_size=2, max_size=8, unique=False))
    table = write_table(titles)
    content = table.encode(encoding)
    try:
        detected = detect(content)
    except DataError as error:
        assert "give --encoding NAME" in str(error) and "\n" not in str(error)
    else:
        assert (
            content.decode(detected) == table or len({*titles}) == 1
        )  # one title can be too little evidence


@pytest.mark.parametrize("language", TITLES)
def test_text_in_utf_8_is_not_called_garbled(language: str, capsys: pytest.CaptureFixture[str]) -> None:
    for count in (1, 2, 4):
        assert detect(write_table([*TITLES[language][1][:count]]).encode()) == "utf-8"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("language", ["de", "ru", "zh-Hans"])
def test_unicode_with_and_without_a_mark(encoding: str, language: str) -> None:
    table = write_table([*TITLES[language][1]])
    assert table.encode(encoding).decode(detect(table.encode(encoding))).lstrip("\ufeff") == table


def test_a_zero_byte_is_no_sign_of_utf_16() -> None:
    assert detect(b'product_id,title\n1,"a\0b"\n2,ok\n') == "utf-8"


def test_the_whole_file_is_evidence() -> None:
    table = write_table(["plain"] * 200_000 + ["Kühlschrank weiß für Mädchen"])
    content = table.encode("cp1252")
    assert len(content) > 2 * encodings.BLOCK_BYTES and content[: 2 * encodings.BLOCK_BYTES].isascii()
    assert detect(content) == "cp1252"


def test_a_few_broken_bytes_leave_utf_8() -> None:
    assert detect("1,Köln Straße\n".encode() * 50 + b"1,K\xf6ln\n") == "utf-8"
    with pytest.raises(
        DataError, match=r"t.csv: some lines are UTF-8, others are not; give --encoding utf-8"
    ):
        detect(("1,Köln\n".encode() + "1,Köln\n".encode("latin-1")) * 5)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("Vaikiški\n".encode("cp1257"), ("cp1252 ('", "cp1257 ('Vaikiški')")),
        ("Dětské\n".encode("cp1250"), ("cp1250",)),
    ],
)
def test_too_little_evidence_names_the_choices(content: bytes, names: tuple[str, ...]) -> None:
    with pytest.raises(
        DataError, match=r"the encoding is not clear; likely are .*; give --encoding NAME"
    ) as error:
        detect(content)
    assert all(name in str(error.value) for name in names)


def test_random_bytes_are_no_text() -> None:
    with pytest.raises(DataError, match="the encoding is not clear"):
        detect(bytes((n * 7919 + n // 3) % 223 + 33 for n in range(3000)))


GARBLED = [
    *product(("de", "fr", "pl", "ru", "zh-Hans", "ja", "th"), (("utf-8", "cp1252"), ("utf-8", "latin-1"))),
    *product(("de", "ru", "zh-Hans"), (("utf-8", "cp1251"), ("utf-8", "gb18030"), ("utf-8", "mac_roman"))),
    *(
        (language, (encoding, "latin-1"))
        for language, encoding in PAIRS
        if encoding[:6] not in ("cp1252", "iso885")
    ),
]


@pytest.mark.parametrize(("language", "codecs"), GARBLED)
def test_garbled_text_in_utf_8_is_refused(language: str, codecs: tuple[str, str]) -> None:
    saved, read = codecs
    table = write_table([*TITLES[language][1]]).encode(saved).decode(read, "replace")
    with pytest.raises(
        DataError, match=r"words outside of ASCII are garbled, such as .*export the file again"
    ):
        detect(table.encode())


def test_a_few_garbled_words_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        detect(write_table(["Köln", "Über", "Mädchen", "Öl", "Größe", "weiß", "KÃ¶ln"]).encode()) == "utf-8"
    )
    assert "warning: t.csv: 1 of 7 words outside of ASCII are garbled, such as 'KÃ¶ln' for 'Köln'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("word", ["Ã", "茅台", "Ünlü", "ÀÉ", "ÎÁÓÂÜ", "Ёлка", "中国茅台酒", "«Été»", "café"])
def test_real_words_are_not_garbled(word: str) -> None:
    assert find_mojibake(WORD.findall(word)) == []


def test_readings_are_ranked() -> None:
    best, *others = rank_readings("Красное платье".encode("koi8_r"))
    assert (best.encoding, best.text) == ("koi8_r", "Красное платье")
    assert [reading.score for reading in others] == sorted(
        (reading.score for reading in others), reverse=True
    )
