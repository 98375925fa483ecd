"""Rules of languages for `fusion.search.analysis`; languages are ISO 639-1 codes."""

# Language → algorithm of Snowball. Bosnian and Croatian are written as Serbian is, Malay nearly as Indonesian.
STEMMERS = {
    "ar": "arabic",
    "bs": "serbian",
    "ca": "catalan",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "eo": "esperanto",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hr": "serbian",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "lt": "lithuanian",
    "ms": "indonesian",
    "ne": "nepali",
    "nl": "dutch",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "st": "sesotho",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}
# Short lists that bm25s carries: those of stopwords-iso also have words such as "large", "home" and "computer".
SHORT_LISTS = {
    "da": "DANISH",
    "de": "GERMAN",
    "en": "EN",
    "es": "SPANISH",
    "fr": "FRENCH",
    "it": "ITALIAN",
    "nl": "DUTCH",
    "no": "NORWEGIAN",
    "pt": "PORTUGUESE",
    "ru": "RUSSIAN",
    "sv": "SWEDISH",
    "tr": "TURKISH",
}
# Stop words that are nouns of shops: "été" is also summer.
NOUNS = {"fr": frozenset({"été", "étés"})}
# Latin languages whose accents are letters that everybody types. In all others, people leave them out.
UNFOLDED = frozenset({"da", "et", "fi", "is", "no", "sv"})
# Short words that lose their vowel before another vowel, as in "l'eau"; as Lucene's filters of these languages.
ELISIONS = {
    "ca": "d l m n s t",
    "fr": "c d j jusqu l lorsqu m n puisqu qu quoiqu s t",
    "ga": "b d m",
    "it": "agl all c coll d dagl dall degl dell gl l m nell negl quest quell s sugl sull t un v",
}
TURKIC = frozenset({"az", "tr"})  # a capital I has no dot; an apostrophe begins an ending
# Languages that write compounds as one word.
COMPOUNDING = frozenset({"da", "de", "et", "fi", "hu", "is", "nl", "no", "sv"})
