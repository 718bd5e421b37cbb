"""Translation (8 datasets): ParaCrawl English-Spanish, WMT-14 English-French, six of WMT-16.

English is the source and the other language the answer; inverted templates go the other way, which
the paper evaluates as well. Both sides are fields, so that an inverted template can show one of
them and have the other as target.
"""

from typing import Any

from flan_jax.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import one_line


def _pair(raw: dict[str, Any], code: str, name: str) -> dict[str, Any] | Drop:
    """Fields of one aligned pair: `english`, and the other language under its name and as answer.

    Rows of one English sentence are one unit for standard errors: each of Finnish's test set has
    two translations.
    """
    pair = raw.get("translation", raw)
    english, other = (one_line(pair[key]) for key in ("en", code))
    if not english or not other:
        return Drop("one side of the pair is empty")
    return {"english": english, name: other, "answer": other, "group": english}


def _spanish(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _pair(raw, "es", "spanish")


def _french(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _pair(raw, "fr", "french")


def _german(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _pair(raw, "de", "german")


def _turkish(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _pair(raw, "tr", "turkish")


def _czech(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _pair(raw, "cs", "czech")


def _finnish(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _pair(raw, "fi", "finnish")


def _romanian(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _pair(raw, "ro", "romanian")


def _russian(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _pair(raw, "ru", "russian")


PARA_CRAWL_ENES = Dataset(
    name="para_crawl_enes",
    paper_dataset="ParaCrawl EN/ES",
    cluster="translation",
    tfds="para_crawl/enes:1.2.0",
    hub=None,
    splits={"train": "train[:-1200]", "validation": "train[-1200:-1000]", "test": "train[-1000:]"},
    rows={"train": 30_000},
    fields=("english", "spanish"),
    evidence=("english",),
    row=_spanish,
    options=None,
    metrics=("bleu",),
    inverted_metrics=("bleu",),
    license="CC0-1.0",
    commercial=True,
    license_evidence="paracrawl.eu: the packaging; the texts are their sites'",
    templates=(
        Template(
            "web_page_imperative", "Translate this text from a web page into Spanish: {english}"
        ),
        Template("two_labels", "English: {english}\nSpanish:"),
        Template(
            "text_then_question",
            "{english}\n\nHow would this read on the Spanish version of the same page?",
        ),
        Template("en_espanol", "En español: {english}"),
        Template(
            "names_as_they_are", "Spanish version, with names and numbers as they are:\n{english}"
        ),
        Template("natural_spanish", "Put this into natural Spanish for a web site.\n{english}"),
        Template("need_this", "I need this in Spanish: {english}"),
        Template(
            "line_of_a_page",
            "This line is from a Spanish web page. Give it in English.\n{spanish}",
            "{english}",
            "inverted",
        ),
        Template(
            "spanish_above",
            "{spanish}\n\nRender the Spanish above in English.",
            "{english}",
            "inverted",
        ),
        Template(
            "say_in_english", "What does this say in English?\n{spanish}", "{english}", "inverted"
        ),
    ),
)

WMT14_ENFR = Dataset(
    name="wmt14_enfr",
    paper_dataset="WMT-14 EN/FR",
    cluster="translation",
    tfds="wmt14_translate/fr-en:1.0.0",
    hub=Hub("wmt/wmt14", "fr-en"),
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 40_835_840},
    fields=("english", "french"),
    evidence=("english",),
    row=_french,
    options=None,
    metrics=("bleu",),
    inverted_metrics=("bleu",),
    license="LicenseRef-WMT",
    commercial=None,
    license_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("say_it", "Say it in French: {english}"),
        Template(
            "sentence_above", "{english}\n\nTranslate the sentence above from English to French."
        ),
        Template("faithful_french", "A faithful French version of this, please:\n{english}"),
        Template(
            "tense_tone_names",
            "English to French, keeping tense, tone and names.\nText: {english}\nTranslation:",
        ),
        Template("text_labels", "English text: {english}\nFrench text:"),
        Template("traduis", "Traduis ceci en français.\n{english}"),
        Template("means_the_same", "Which French sentence means the same?\n{english}"),
        Template("rusty_french", "My French is rusty. How do I write this?\n{english}"),
        Template(
            "into_english",
            "Put this French sentence into English: {french}",
            "{english}",
            "inverted",
        ),
        Template(
            "reconstruct_original",
            "The following is a French translation of an English text. Reconstruct the "
            "English text.\n\n{french}",
            "{english}",
            "inverted",
        ),
    ),
)

WMT16_DEEN = Dataset(
    name="wmt16_translate_deen",
    paper_dataset="WMT-16 EN/DE",
    cluster="translation",
    tfds="wmt16_translate/de-en:1.0.0",
    hub=Hub("wmt/wmt16", "de-en"),
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 4_548_800},
    fields=("english", "german"),
    evidence=("english",),
    row=_german,
    options=None,
    metrics=("bleu",),
    inverted_metrics=("bleu",),
    license="LicenseRef-WMT",
    commercial=None,
    license_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("polite_request", "Please translate into German.\n\n{english}"),
        Template("original_label", "Original in English: {english}\nTranslation into German:"),
        Template("auf_deutsch", "Auf Deutsch, bitte: {english}"),
        Template("nothing_added", "German text, same content, nothing added:\n{english}"),
        Template("mind_word_order", "Mind the word order and translate into German: {english}"),
        Template(
            "table_columns",
            "Fill in the missing column of a bilingual table.\nEnglish column: {english}\n"
            "German column:",
        ),
        Template("how_would_a_german", "How would a German put this?\n{english}"),
        Template("now_in_german", "{english}\n\nNow the same sentence in German."),
        Template(
            "german_label_first", "German text: {german}\nEnglish text:", "{english}", "inverted"
        ),
        Template(
            "only_reads_english",
            "My colleague only reads English. What do these German lines say?\n{german}",
            "{english}",
            "inverted",
        ),
    ),
)

WMT16_TREN = Dataset(
    name="wmt16_translate_tren",
    paper_dataset="WMT-16 EN/TR",
    cluster="translation",
    tfds="wmt16_translate/tr-en:1.0.0",
    hub=Hub("wmt/wmt16", "tr-en"),
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 205_750},
    fields=("english", "turkish"),
    evidence=("english",),
    row=_turkish,
    options=None,
    metrics=("bleu",),
    inverted_metrics=("bleu",),
    license="LicenseRef-WMT",
    commercial=None,
    license_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("turn_below", "Turn the English below into Turkish.\n\n{english}"),
        Template("in_two_languages", "In English: {english}\nIn Turkish:"),
        Template("write_again", "{english}\n\nWrite this again, but in Turkish."),
        Template("turkish_for_this", "Can you give me the Turkish for this?\n{english}"),
        Template("subtitle_line", "Turkish subtitle for this line: {english}"),
        Template(
            "languages_named",
            "Source language: English\nTarget language: Turkish\nSource text: {english}",
        ),
        Template(
            "naturally_said",
            "Write this the way a Turkish speaker would naturally say it.\n{english}",
        ),
        Template("turkceye_cevir", "Türkçeye çevir: {english}"),
        Template(
            "meaning_of_turkish",
            "What does this Turkish sentence mean in English? {turkish}",
            "{english}",
            "inverted",
        ),
        Template(
            "for_an_international_paper",
            "{turkish}\n\nGive an English version for an international newspaper.",
            "{english}",
            "inverted",
        ),
    ),
)

WMT16_CSEN = Dataset(
    name="wmt16_translate_csen",
    paper_dataset="WMT-16 EN/CS",
    cluster="translation",
    tfds="wmt16_translate/cs-en:1.0.0",
    hub=Hub("wmt/wmt16", "cs-en"),
    manual="Register at http://ufal.mff.cuni.cz/czeng/czeng16pre, download "
    "czeng16pre.deduped-ignoring-sections.txt.gz and put it into the manual directory of TFDS.",
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 52_335_360},
    fields=("english", "czech"),
    evidence=("english",),
    row=_czech,
    options=None,
    metrics=("bleu",),
    inverted_metrics=("bleu",),
    license="LicenseRef-WMT",
    commercial=None,
    license_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("from_to", "Translate from English to Czech: {english}"),
        Template(
            "language_wanted",
            "Original: {english}\nLanguage of the original: English. Language wanted: Czech. "
            "Translation:",
        ),
        Template("how_the_line_goes", "How does this line go in Czech?\n{english}"),
        Template(
            "czech_speaker", "{english}\n\nWhat would a Czech speaker write to say exactly this?"
        ),
        Template("show_how", "Can this be said in Czech? Show how.\n{english}"),
        Template(
            "omit_nothing", "Omit nothing, explain nothing: the Czech text alone.\n\n{english}"
        ),
        Template("cesky", "Česky, prosím: {english}"),
        Template("two_halves", "Parallel corpus.\nEnglish half: {english}\nCzech half:"),
        Template(
            "same_in_english", "Czech: {czech}\nThe same in English:", "{english}", "inverted"
        ),
        Template(
            "please_from_czech", "From Czech to English, please. {czech}", "{english}", "inverted"
        ),
    ),
)

WMT16_FIEN = Dataset(
    name="wmt16_translate_fien",
    paper_dataset="WMT-16 EN/FI",
    cluster="translation",
    tfds="wmt16_translate/fi-en:1.0.0",
    hub=Hub("wmt/wmt16", "fi-en"),
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 2_073_360},
    fields=("english", "finnish"),
    evidence=("english",),
    row=_finnish,
    options=None,
    metrics=("bleu",),
    inverted_metrics=("bleu",),
    license="LicenseRef-WMT",
    commercial=None,
    license_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("express_in", "Express in Finnish what this English sentence says: {english}"),
        Template("sentence_label", "English sentence: {english}\nFinnish translation:"),
        Template("what_is_this", "What is this in Finnish?\n{english}"),
        Template("rewrite_in_finnish", "Rewrite this in Finnish: {english}"),
        Template(
            "right_case_endings",
            "{english}\n\nA Finnish version, please, with the right case endings.",
        ),
        Template("tell_grandfather", "How do I tell my grandfather this in Finnish?\n{english}"),
        Template(
            "segment",
            "Language pair: English and Finnish.\nSegment to translate: {english}\nTranslated "
            "segment:",
        ),
        Template("suomeksi", "Suomeksi: {english}"),
        Template(
            "finnish_imperative",
            "Translate the Finnish sentence into English.\n\nSentence: {finnish}",
            "{english}",
            "inverted",
        ),
        Template(
            "leave_nothing_out",
            "What does this Finnish text say in English? Leave nothing out.\n{finnish}",
            "{english}",
            "inverted",
        ),
    ),
)

WMT16_ROEN = Dataset(
    name="wmt16_translate_roen",
    paper_dataset="WMT-16 EN/RO",
    cluster="translation",
    tfds="wmt16_translate/ro-en:1.0.0",
    hub=Hub("wmt/wmt16", "ro-en"),
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 610_320},
    fields=("english", "romanian"),
    evidence=("english",),
    row=_romanian,
    options=None,
    metrics=("bleu",),
    inverted_metrics=("bleu",),
    license="LicenseRef-WMT",
    commercial=None,
    license_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("equivalent", "Give the Romanian equivalent of this English text: {english}"),
        Template("form_lines", "From: English\nTo: Romanian\nText: {english}"),
        Template("now_say_this", "{english}\n\nNow say this in Romanian."),
        Template("source_target", "Source (English): {english}\nTarget (Romanian):"),
        Template("romanian_readers", "Write this sentence for Romanian readers.\n{english}"),
        Template("in_romana", "În română: {english}"),
        Template(
            "how_to_translate",
            "How should this be translated into Romanian?\nSentence: {english}\nTranslation:",
        ),
        Template(
            "romanian_original",
            "Romanian original: {romanian}\nEnglish rendering:",
            "{english}",
            "inverted",
        ),
        Template(
            "cannot_read_romanian",
            "I cannot read Romanian. What is written here?\n{romanian}",
            "{english}",
            "inverted",
        ),
        Template(
            "english_newspaper",
            "{romanian}\n\nHow would an English newspaper phrase this Romanian sentence?",
            "{english}",
            "inverted",
        ),
    ),
)

WMT16_RUEN = Dataset(
    name="wmt16_translate_ruen",
    paper_dataset="WMT-16 EN/RU",
    cluster="translation",
    tfds="wmt16_translate/ru-en:1.0.0",
    hub=Hub("wmt/wmt16", "ru-en"),
    manual="Ask for the corpus at https://translate.yandex.ru/corpus?lang=en, download "
    "1mcorpus.zip and put it into "
    "the manual directory of TFDS.",
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 2_516_160},
    fields=("english", "russian"),
    evidence=("english",),
    row=_russian,
    options=None,
    metrics=("bleu",),
    inverted_metrics=("bleu",),
    license="LicenseRef-WMT",
    commercial=None,
    license_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("write_in", "Write the following sentence in Russian.\n\n{english}"),
        Template("short_codes", "EN (English): {english}\nRU (Russian):"),
        Template("give_me_this", "Give me this in Russian: {english}"),
        Template(
            "russian_version", "This line goes into the Russian version. Translate it.\n{english}"
        ),
        Template(
            "spelled_in_russian",
            "Translate into Russian, with names spelled the Russian way.\n{english}",
        ),
        Template(
            "reads_only_russian",
            "{english}\n\nMake this understandable to somebody who reads only Russian.",
        ),
        Template("na_russkiy", "Переведи на русский: {english}"),
        Template(
            "back_into_english",
            "Back from Russian into English, please: {russian}",
            "{english}",
            "inverted",
        ),
        Template(
            "show_understanding",
            "Translate to show that you understand.\nRussian sentence: {russian}\nEnglish:",
            "{english}",
            "inverted",
        ),
        Template(
            "tell_me_in_english",
            "{russian}\n\nTell me in English what this Russian text says.",
            "{english}",
            "inverted",
        ),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (
    PARA_CRAWL_ENES,
    WMT14_ENFR,
    WMT16_DEEN,
    WMT16_TREN,
    WMT16_CSEN,
    WMT16_FIEN,
    WMT16_ROEN,
    WMT16_RUEN,
)
