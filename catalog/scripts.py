"""Writing systems: the characters that belong to them, as parts of character classes of regular expressions."""

import unicodedata

HAN = "\u2e80-\u2fd5\u3005-\u3007\u3105-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufad9\U00020000-\U000323af"
HIRAGANA = "\u3041-\u3096\u3099\u309a\u309d-\u309f"
KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
THAI = "\u0e01-\u0e3a\u0e40-\u0e4e"
LAO = "\u0e81-\u0ece\u0edc-\u0edf"
KHMER = "\u1780-\u17d3\u17d7\u17dc\u17dd"
MYANMAR = "\u1000-\u103f\u1050-\u108f\u109a-\u109d\ua9e0-\ua9ef\uaa60-\uaa7f"

# Scripts without blanks between words: of whole characters, and of characters with vowel signs and tone marks.
IDEOGRAPHIC = HAN + HIRAGANA + KATAKANA
SOUTH_EAST_ASIAN = THAI + LAO + KHMER + MYANMAR
UNSEGMENTED = IDEOGRAPHIC + SOUTH_EAST_ASIAN


def _list_marks() -> str:
    r"""List the combining marks of all languages. `\w` lacks them, and so breaks words of Hindi or Thai."""
    marks = [unicodedata.category(chr(code)).startswith("M") for code in range(0x20000)]
    starts = [code for code, mark in enumerate(marks) if mark and not marks[code - 1]]
    ends = [code for code, mark in enumerate(marks) if mark and not marks[code + 1]]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


MARKS = _list_marks()
# A character with its vowel signs and tone marks, and the consonants that are written below it.
CLUSTER = f"[{SOUTH_EAST_ASIAN}](?:[\u17d2\u1039].|[{MARKS}\u0e33\u0eb3])*"
