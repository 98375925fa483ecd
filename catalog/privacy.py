"""Detection of columns with personal data; imports refuse them unless the user allows them by name.

A column's name is split into words: "customerEmail" into customer and email, "shipping" has no word ip. A name alone is
weak evidence, because "phone" can be a model and "address" that of a picture; the values must have the form that the
name promises.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

SAMPLE_ROWS = 1000  # number of rows that callers pass as values
MIN_SHARE = 0.05  # share of a column's values that must look personal
MIN_FORM = 0.5  # share of the values that must have the form that the name promises
MIN_CARDS = 0.8  # share of the long numbers that must be valid: one in ten is by chance

# Words that name personal data of one form; see `FORMS`.
FORM_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("email", "mail", "courriel", "correo", "emailaddress"), "e-mail"),
    **dict.fromkeys(
        ("phone", "telephone", "mobile", "fax", "phonenumber", "telefon", "telefono"), "telephone"
    ),
    **dict.fromkeys(("ip", "ipaddress"), "IP"),
    **dict.fromkeys(
        ("address", "address1", "street", "adresse", "anschrift", "strasse", "direccion", "indirizzo"),
        "address",
    ),
    **dict.fromkeys(("postcode", "zipcode", "plz", "zip"), "postcode"),
    **dict.fromkeys(("latitude", "longitude"), "coordinate"),
    **dict.fromkeys(("iban", "cookie"), "code"),
}
# Words that name personal data of any form.
WORDS = {
    "apellido", "apellidos", "birth", "birthday", "birthdate", "cognome", "dob", "firstname", "income", "lastname",
    "middlename", "nachname", "nickname", "passport", "password", "prenom", "ssn", "surname", "taxvat", "userid",
    "username", "vorname",
}  # fmt: skip
# People: personal alone, before one of `TRAITS`, or two of them; "customer rating" and "user manual" are not.
PEOPLE = {
    "assignee", "buyer", "cardholder", "cashier", "client", "cliente", "cust", "customer", "kunde", "payer", "person",
    "recipient", "requester", "respondent", "reviewer", "session", "shopper", "subscriber", "user", "visitor",
}  # fmt: skip
HOLDERS = PEOPLE | {"contact", "device", "guest", "member", "profile"}  # with a trait only
TRAITS = {
    "account", "age", "agent", "birthday", "city", "contacts", "email", "gender", "guid", "hash", "hashed", "id",
    "ids", "ip", "key", "login", "mail", "name", "names", "no", "nr", "number", "owner", "phone", "pseudo", "token",
    "uid", "uuid",
}  # fmt: skip
COMPOUND = re.compile(
    r"(kunden|besteller|benutzer|liefer|rechnungs)(nummer|nr|name|id|mail|adresse|anschrift|telefon)"
)
PLACES = {"address", "billing", "delivery", "geo", "invoice", "ship", "shipping", "to"}
PLACE_PARTS = {
    "address", "address1", "address2", "city", "email", "first", "last", "name", "phone", "postal", "postcode",
    "street", "telephone", "zip", "zipcode",
}  # fmt: skip
NAMES = {("first", "name"), ("last", "name"), ("full", "name"), ("family", "name"), ("given", "name")}
PAIRS = {
    ("account", "holder"), ("card", "holder"), ("card", "last4"), ("card", "number"), ("code", "postal"),
    ("middle", "name"), ("post", "code"), ("postal", "code"), ("user", "agent"), ("zip", "code"),
}  # fmt: skip
BUSINESSES = {"importer", "manufacturer", "seller", "shop", "store", "supplier", "vendor", "warehouse"}
FLAGS = {"yes", "no", "y", "n", "true", "false", "0", "1", "on", "off", "ja", "nein", "oui", "non", "si"}

EMAIL = re.compile(
    r"(?:mailto:|[^<>@]{0,60}<)?[\w.+'-]+@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+([a-z]{2,24})>?",
    re.IGNORECASE,
)
FILE_ENDINGS = {
    "ai", "avif", "bmp", "css", "csv", "eps", "gif", "heic", "htm", "html", "ico", "jpeg", "jpg", "js", "json", "mov",
    "pdf", "php", "png", "psd", "svg", "tif", "tiff", "txt", "webm", "webp", "xml", "zip",
}  # fmt: skip
PHONE = re.compile(r"(?:tel:)?\+\d[\d ()./-]{7,18}\d")
EMBEDDED_PHONE = re.compile(rf"(?<!\w){PHONE.pattern}(?!\w)")
DIGIT_OR_AT = re.compile(r"[\d@]")
LONG_NUMBER = re.compile(r"(?<!\d)\d(?:[ -]?\d){13,18}(?!\d)")
LOCAL_PHONE = re.compile(r"(?:tel:)?\+?\(?\d[\d ()./-]{5,18}\d", re.IGNORECASE)
DATE = re.compile(r"\d{4}-\d\d-\d\d|\d\d?[./]\d\d?[./]\d{4}")
IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
HASH = re.compile(r"[0-9a-f]{32,128}", re.IGNORECASE)  # a pseudonym
CARD_PREFIX = re.compile(r"3[0-9]|4|5[1-5]|2[2-7]|6")
ADDRESS = re.compile(r"(?!.*://)(?=.*\d)(?=.*[^\W\d_]).* .*", re.DOTALL)
IDENTITY = re.compile(r"[\d@]|^[^\W\d_]\S* [^\W\d_]")  # a number, an address, or two words
PERSON_NAME = re.compile(r"(?:[^\W\d_][\w'’.-]*)(?: [^\W\d_][\w'’.-]*){0,3}")
VERSIONS = {"build", "driver", "firmware", "release", "software", "version"}


def looks_personal(name: str, values: Iterable[Any] = ()) -> str | None:
    """Explain why a column looks personal, by its name or its values; None if it does not.

    Args:
        name: The column's name.
        values: A sample of its values.
    """
    words = _split_words(name)
    texts = [text for value in values if value is not None and (text := str(value).strip().lstrip("'"))]
    if reason := _rate_name(words, texts):
        return f"is named '{name}', for a {reason}"
    for kind, matches in DETECTORS.items():
        if kind == "IP addresses" and VERSIONS & set(words):
            continue
        if texts and sum(bool(matches(text)) for text in texts) >= max(1, MIN_SHARE * len(texts)):
            return f"holds {kind}"
    return "holds payment cards" if _are_cards(texts) else None


def find_personal(text: str) -> str | None:
    """Find personal data within a text, such as a query that someone typed; its kind, None if there is none.

    E-mail addresses, telephone numbers with + and country, bank accounts (IBAN), IP addresses and payment cards have a
    form that tells them from other texts. A name, an address, or a telephone number without a country has not.
    """
    if not DIGIT_OR_AT.search(text):
        return None  # as most queries
    words = [word.strip("<>()[]{},;:!?\"'") for word in text.split()]
    for kind, matches in DETECTORS.items():
        if any(matches(part) for part in (text.strip(), *words)):
            return kind
    if EMBEDDED_PHONE.search(text):
        return "telephone numbers"
    return "payment cards" if any(_are_cards([number]) for number in LONG_NUMBER.findall(text)) else None


def _split_words(name: str) -> list[str]:
    """Split a name into words, without case and accents: "customerEmail" → customer, email."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    parts = re.findall(r"[A-Z]?[a-z]+\d?(?![a-z])|[A-Z]?[a-z]+|[A-Z]+(?![a-z])\d?|[^\W\d_a-zA-Z]+", plain)
    return [part.lower() for part in parts]


def _rate_name(words: Sequence[str], texts: Sequence[str]) -> str | None:
    """The kind of personal data that a name promises and the values do not contradict."""
    if (texts and {text.lower() for text in texts} <= FLAGS) or BUSINESSES & set(words):
        return None
    pairs = list(itertools.pairwise(words))
    for pair in pairs:
        is_trait = pair[0] in HOLDERS and pair[1] in TRAITS | PEOPLE
        if (
            is_trait
            or pair in PAIRS
            or (pair[0] in PLACES and pair[1] in PLACE_PARTS and _fits(texts, _is_place))
        ):
            return " ".join(pair)
        if pair in NAMES and _fits(texts, _is_person_name):
            return " ".join(pair)
    if len(words) == 1 and words[0] in PEOPLE | {"uid"} and _fits(texts, IDENTITY.search):
        return words[0]
    for word in words:
        if (
            word in WORDS
            or COMPOUND.fullmatch(word)
            or (word in FORM_WORDS and _fits(texts, FORMS[FORM_WORDS[word]]))
        ):
            return word
    return None


def _fits(texts: Sequence[str], has_form: Callable[[str], object]) -> bool:
    """Whether values do not contradict a form; pseudonyms fit each."""
    return not texts or sum(bool(has_form(text) or HASH.fullmatch(text)) for text in texts) >= MIN_FORM * len(
        texts
    )


def _is_email(text: str) -> bool:
    """Whether a text is an e-mail address, and not a file such as "logo@2x.jpg"."""
    match = EMAIL.fullmatch(text)
    return match is not None and match[1].lower() not in FILE_ENDINGS


def _is_phone(text: str) -> bool:
    return bool(LOCAL_PHONE.fullmatch(text)) and not DATE.fullmatch(text)


def _is_place(text: str) -> bool:
    return "://" not in text and text.lower() not in FLAGS


def _is_person_name(text: str) -> bool:
    """Whether a text can be the name of a person: up to four words, each with a capital where the script has them."""
    return bool(PERSON_NAME.fullmatch(text)) and not any(word[0].islower() for word in text.split())


def _is_iban(text: str) -> bool:
    """Whether a text is an IBAN with valid check digits (ISO 13616)."""
    code = text.replace(" ", "")
    return (
        bool(IBAN.fullmatch(code))
        and int("".join(str(int(digit, 36)) for digit in code[4:] + code[:4])) % 97 == 1
    )


def _is_ip_address(text: str) -> bool:
    try:
        return bool(ip_address(text)) and ("." in text or ":" in text)
    except ValueError:
        return False


def _are_cards(texts: Sequence[str]) -> bool:
    """Whether values are payment card numbers, 14 to 19 digits (13 are a GTIN); other values may stand between them."""
    numbers = [digits for text in texts if re.fullmatch(r"\d{14,19}", digits := re.sub(r"[ -]", "", text))]
    valid = sum(bool(CARD_PREFIX.match(digits)) and _passes_luhn(digits) for digits in numbers)
    return valid >= max(1, MIN_SHARE * len(texts), MIN_CARDS * len(numbers))


def _passes_luhn(digits: str) -> bool:
    """The check digit of ISO/IEC 7812."""
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


# Form → whether a value has it.
FORMS: Mapping[str, Callable[[str], object]] = {
    "e-mail": _is_email,
    "telephone": _is_phone,
    "IP": _is_ip_address,
    "address": ADDRESS.fullmatch,
    "postcode": re.compile(r"'?(?=.*\d)[A-Z0-9 -]{3,10}", re.IGNORECASE).fullmatch,
    "coordinate": re.compile(r"-?\d{1,3}([.,]\d+)?").fullmatch,
    "code": lambda text: (
        _is_iban(text) or (re.fullmatch(r"\S+=.*|[\w-]{16,}", text) and not IBAN.fullmatch(text))
    ),
}
DETECTORS: Mapping[str, Callable[[str], object]] = {
    "e-mail addresses": _is_email,
    "telephone numbers": PHONE.fullmatch,
    "bank accounts": _is_iban,
    "IP addresses": _is_ip_address,
}
