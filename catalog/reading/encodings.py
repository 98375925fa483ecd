"""Detects the encoding of a text file, and refuses to guess: the text must be plausible, and no other reading close."""

import codecs
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

from charset_normalizer import from_bytes

from catalog.reading.alphabets import log_likelihood
from catalog.reading.mojibake import WORD, Mojibake, encode_cp1252, find_mojibake
from catalog.schema import DataError

BLOCK_BYTES = 1 << 20  # read at a time; the whole file is read, because the first MiB can be ASCII
BLOCK_SAMPLE = 1 << 12  # bytes of lines that are not ASCII, of each block
MAX_SAMPLE = 1 << 14
MAX_BROKEN = 0.1  # broken bytes for each byte of `Sample.valid`, in a file that counts as UTF-8
MIN_MARGIN = 4.0  # difference of log-likelihoods of the best reading and the next
MIN_MISREAD = 12.0  # like `MIN_MARGIN`, to call a text of cp1252 letters garbled
MIN_MISREAD_CHARS = 10
MIN_MIXED = 0.2  # share of lines that are UTF-8 in a file that is not
MAX_MOJIBAKE = 0.2  # share of the words outside of ASCII
MIN_MEAN = -8.0  # log-likelihood of a byte outside of ASCII; known languages are above, random bytes below
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins like this
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NUMBERS = b"0123456789,;\"'"
HIGH = re.compile(rb"[\x80-\xff]")
BROKEN = re.compile("[\udc80-\udcff]")  # bytes that UTF-8 does not have, as `surrogateescape` gives them

# Encoding → its languages, and the logarithm of its prior probability.
ENCODINGS: dict[str, tuple[tuple[str, ...], float]] = {
    "cp1252": (("de", "fr", "es", "pt", "it", "nl", "sv", "da", "is"), 2),
    "cp1250": (("pl", "cs", "hu", "hr", "ro", "de"), -1),
    "cp1254": (("tr",), -1),
    "cp1257": (("lt", "lv", "et"), -2.5),
    "cp1258": (("vi",), -1.5),
    "iso8859_2": (("pl", "cs", "hu", "hr", "ro"), -2),
    "iso8859_15": (("fr", "de", "et"), -2.5),
    "cp1251": (("ru", "uk", "bg"), -1),
    "koi8_r": (("ru",), -1.5),
    "koi8_u": (("uk",), -2),
    "iso8859_5": (("ru", "uk", "bg"), -2),
    "cp866": (("ru",), -2),
    "mac_cyrillic": (("ru", "uk"), -2.5),
    "cp1253": (("el",), -1),
    "iso8859_7": (("el",), -4),
    "cp1255": (("he",), -1),
    "cp1256": (("ar",), -1),
    "iso8859_6": (("ar",), -2),
    "cp874": (("th",), -1),
    "gb18030": (("zh-Hans",), -1),
    "big5hkscs": (("zh-Hant",), -1),
    "cp932": (("ja",), -1),
    "euc_jp": (("ja",), -1.5),
    "cp949": (("ko",), -1),
    "cp850": (("de", "fr", "es", "da"), -3),
    "mac_roman": (("de", "fr", "es", "da"), -3),
}
RARE = {"is": -3}  # natural logarithm of the prior probability of a language within its encoding


class Reading(NamedTuple):
    """A sample of bytes, decoded."""

    score: float  # log-likelihood, with the prior of the encoding
    mean: float  # score per byte outside of ASCII
    encoding: str
    text: str


class Sample(NamedTuple):
    """Lines that are not ASCII, from all parts of a file, and how the file decodes as UTF-8."""

    lines: Sequence[bytes]
    valid: int  # bytes of characters outside of ASCII, after their first
    broken: int  # bytes that are not UTF-8


def open_text(stream: IO[bytes], encoding: str) -> IO[str]:
    """Decode a stream. Bytes that are invalid become lone surrogates; the conversion rejects their values.

    Raises:
        DataError: if Python does not know the encoding.
    """
    try:
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise DataError(f"--encoding {encoding}: Python does not know this encoding") from error
    return io.TextIOWrapper(stream, codec, errors="surrogateescape", newline="")


def detect_encoding(stream: IO[bytes], name: str) -> str:
    """Detect the encoding of a text file; reads all of it.

    A byte order mark decides, then the zero bytes of UTF-16, then whether nearly all is UTF-8. Else each encoding of
    `ENCODINGS` decodes the lines that are not ASCII, and the reading that is most likely in a language wins.

    Args:
        stream: The file.
        name: Its name, for messages.

    Raises:
        DataError: if no reading is likely, or two different ones are; or if the text is UTF-8 of garbled letters.
    """
    head = stream.read(BLOCK_BYTES)
    if mark := next((encoding for mark, encoding in MARKS if head.startswith(mark)), None):
        return mark
    if wide := _detect_wide(head[:4096]):
        return wide
    sample = _take_sample(head, stream)
    if not sample.broken:
        _refuse_mojibake(b"".join(sample.lines).decode("utf-8", "ignore"), name)
        return "utf-8"
    if sample.broken <= MAX_BROKEN * sample.valid:
        return "utf-8"  # a few broken characters: their values are rejected, and listed
    return _choose(sample, name)


def _detect_wide(head: bytes) -> str | None:
    """Detect UTF-16 without a byte order mark: letters and line ends of ASCII have a zero byte, all on one side."""
    head = head[: len(head) // 2 * 2]
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if zeros.count(0) < max(2, len(zeros) // 100):
            continue
        text = head.decode(encoding, "ignore")
        if "\n" in text and not re.search(r"[\x00-\x08\x0e-\x1f\ufffe\uffff]", text):
            return encoding
    return None


def _take_sample(head: bytes, stream: IO[bytes]) -> Sample:
    """Read a file to its end, and keep some lines that are not ASCII of each block."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines: list[bytes] = []
    size = valid = broken = 0
    block = head
    while block:
        state = decoder.getstate()
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError:  # from here on, count the bytes that are not UTF-8
            decoder.errors = "surrogateescape"
            decoder.setstate(state)
            text = decoder.decode(block)
        if decoder.errors != "strict":
            broken += len(BROKEN.findall(text))
        if not block.isascii():
            valid += len(block) - len(text)  # bytes after the first of each character
            if size < MAX_SAMPLE:
                lines += _find_lines(block)
                size = sum(map(len, lines))
        block = stream.read(BLOCK_BYTES)
    return Sample(lines, valid, broken + len(decoder.getstate()[0]))  # half of a character at the end


def _find_lines(block: bytes) -> Iterator[bytes]:
    """Find the first lines of a block that are not ASCII."""
    size, end = 0, 0
    while size < BLOCK_SAMPLE and (match := HIGH.search(block, end)):
        start = max(block.rfind(b"\n", 0, match.start()) + 1, match.start() - BLOCK_SAMPLE)
        end = block.find(b"\n", match.start()) + 1 or len(block)
        line = block[start:end][:BLOCK_SAMPLE]
        if len(line) == BLOCK_SAMPLE:  # cut where no encoding has half of a character
            line = re.split(rb"[^ ,;<]*$", line)[0]
        size += len(line)
        yield line


def rank_readings(sample: bytes) -> list[Reading]:
    """Decode a sample in each encoding of `ENCODINGS`; the most likely reading is the first."""
    # a word that is repeated is no more evidence, whatever number or delimiter stands before it
    words = b" ".join(dict.fromkeys(word.lstrip(NUMBERS) for word in sample.split()))
    high = len(HIGH.findall(words))
    readings = []
    for encoding, (languages, prior) in ENCODINGS.items():
        text = words.decode(encoding, "replace")
        score = prior + max(log_likelihood(text, language) + RARE.get(language, 0) for language in languages)
        readings.append(Reading(score, score / high, encoding, text))
    return sorted(readings, key=lambda reading: -reading.score)


def _choose(sample: Sample, name: str) -> str:
    """The encoding of a sample that is not UTF-8."""
    if sum(map(_is_utf8, sample.lines)) >= MIN_MIXED * len(sample.lines):
        raise DataError(
            f"{name}: some lines are UTF-8, others are not; give --encoding utf-8 to leave out the others, "
            f"or save the file in one encoding"
        )
    best, *others = rank_readings(b"".join(sample.lines))
    rivals = [
        reading for reading in others if reading.text != best.text and reading.score > best.score - MIN_MARGIN
    ]
    if best.mean >= MIN_MEAN and not rivals:
        return best.encoding
    raise DataError(_describe_readings(name, sample.lines[0], [best, *rivals][:4]))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _describe_readings(name: str, line: bytes, readings: Sequence[Reading]) -> str:
    """The message that shows how the first word outside of ASCII reads in several encodings."""
    words = re.split(rb"[\s,;\t|\"]+", line)
    word = next((word for word in words if HIGH.search(word)), line)[:40]
    suggested = [match.encoding for match in from_bytes(line)][:3]  # also of languages that we do not know
    names = dict.fromkeys([*(reading.encoding for reading in readings), *suggested])
    choices = ", ".join(f"{encoding} ('{word.decode(encoding, 'replace')}')" for encoding in names)
    return f"{name}: not UTF-8, and the encoding is not clear; likely are {choices}; give --encoding NAME"


def _refuse_mojibake(text: str, name: str) -> None:
    """Warn of garbled words in a sample of text that is valid UTF-8; refuse many of them."""
    words = WORD.findall(text)
    garbled = max(find_mojibake(words), _find_misread(words), key=len)
    if not garbled:
        return
    example = next((item for item in garbled if item.original), garbled[0])
    meaning = f" for '{example.original}'" if example.original else ""
    message = (
        f"{name}: {len(garbled):,} of {len(words):,} words outside of ASCII are garbled, such as "
        f"'{example.word[:40]}'{meaning}: an earlier program used a wrong encoding; export the file again"
    )
    if len(garbled) >= MAX_MOJIBAKE * len(words):
        raise DataError(f"{message}, or import it as it is: --encoding utf-8")
    print(f"warning: {message}", file=sys.stderr)


def _find_misread(words: Sequence[str]) -> list[Mojibake]:
    """Find words that are more likely in another encoding than cp1252: "êðàñíîå", which is "красное" in cp1251.

    A text that was read as cp1252 has no other characters.
    """
    encoded: dict[str, bytes] = {}
    for word in words:
        with suppress(UnicodeEncodeError):
            encoded[word] = encode_cp1252(word)
    if len(encoded) < len(set(words)) or sum(map(len, encoded)) < MIN_MISREAD_CHARS:
        return []
    best, *others = rank_readings(b" ".join(encoded.values()))
    western = next(reading for reading in (best, *others) if reading.encoding == "cp1252")
    if best.mean < MIN_MEAN or best.score < western.score + MIN_MISREAD:
        return []
    originals = ((word, encoded[word].decode(best.encoding, "replace")) for word in words)
    return [Mojibake(word, original) for word, original in originals if word != original]
