"""Translation (8 datasets): ParaCrawl English-Spanish, WMT-14 English-French and six pairs of WMT-16.

English is the source and the other language the answer; inverted templates go the other way, which the paper evaluates
as well. Both sides are fields, so that an inverted template can show the one and ask for the other.
"""

from flan_jax.data.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import one_line


def _pair(raw, code, name):
    """Fields of one aligned pair: `english`, the other language under its name, which is also the answer.

    Rows of one English sentence are one unit for standard errors: each of Finnish's test set has two translations.
    """
    pair = raw.get("translation", raw)
    english, other = (one_line(pair[key]) for key in ("en", code))
    if not english or not other:
        return Drop("one side of the pair is empty")
    return {"english": english, name: other, "answer": other, "group": english}


def _spanish(raw):
    return _pair(raw, "es", "spanish")


def _french(raw):
    return _pair(raw, "fr", "french")


def _german(raw):
    return _pair(raw, "de", "german")


def _turkish(raw):
    return _pair(raw, "tr", "turkish")


def _czech(raw):
    return _pair(raw, "cs", "czech")


def _finnish(raw):
    return _pair(raw, "fi", "finnish")


def _romanian(raw):
    return _pair(raw, "ro", "romanian")


def _russian(raw):
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
    licence="CC0-1.0",
    commercial=True,
    licence_evidence="paracrawl.eu: the packaging; the texts are their sites'",
    templates=(
        Template("web_page_imperative", "Translate this text from a web page into Spanish: {english}"),
        Template("two_labels", "English: {english}\nSpanish:"),
        Template("text_then_question", "{english}\n\nHow would this read on the Spanish version of the same page?"),
        Template("bilingual_companies",
                 "A hotel, a shop and a software company all keep their sites in two languages. Here is an English "
                 "line from one of them: {english}\nWrite the line for its Spanish site."),
        Template("visitor_dialogue",
                 "Visitor: I can only read Spanish. What does this notice say?\nNotice: {english}\nHelper:"),
        Template("localiser_role",
                 "You localise web sites for readers in Spain and Latin America. Put this English passage into natural "
                 "Spanish, keeping names, numbers and brands as they are.\n\n{english}"),
        Template("what_is_the_spanish", "What is the Spanish for the following? {english}"),
        Template("other_half",
                 "This line comes from the Spanish half of a bilingual web site: {spanish}\nWrite its English half.",
                 "{english}", "inverted"),
        Template("spanish_above", "{spanish}\n\nRender the Spanish above in English.", "{english}", "inverted"),
        Template("supplier_page",
                 "Customer: I do not speak Spanish, and our supplier's page says this. What does it mean in "
                 "English?\nPage: {spanish}\nAssistant:", "{english}", "inverted"),
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
    licence="LicenseRef-WMT",
    commercial=None,
    licence_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("say_it", "Say it in French: {english}"),
        Template("sentence_above", "{english}\n\nTranslate the sentence above from English to French."),
        Template("newspaper_print",
                 "A French newspaper wants to carry this sentence from an English report. What should it "
                 "print?\n\n{english}"),
        Template("exam_paper",
                 "Translation exam, English to French. Candidates should respect tense, tone and proper names.\n"
                 "Text: {english}\nYour translation:"),
        Template("minutes",
                 "Minutes of the meeting are kept in two languages.\nEnglish minutes: {english}\nFrench minutes:"),
        Template("friends_dialogue",
                 "Amélie: My English is rusty. Could you tell me in French what this means?\nText: {english}\nTom:"),
        Template("which_sentence", "Which French sentence has the same meaning as this English one? {english}"),
        Template("interpreter_booth",
                 "For listeners in Paris, Dakar and Montreal, the interpreter in the booth repeats in French what has "
                 "just been said in English.\nThe speaker said: {english}\nThe interpreter says:"),
        Template("into_english", "Put this French sentence into English: {french}", "{english}", "inverted"),
        Template("reconstruct_original",
                 "The following is a French translation of an English text. Reconstruct the English text.\n\n{french}",
                 "{english}", "inverted"),
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
    licence="LicenseRef-WMT",
    commercial=None,
    licence_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("polite_request", "Please translate into German.\n\n{english}"),
        Template("original_label", "Original in English: {english}\nTranslation into German:"),
        Template("neighbour",
                 "My neighbour grew up in Dresden and never learned English. How do I put this to her in German? "
                 "{english}"),
        Template("wire_editor",
                 "You edit the German edition of an international news service. The English wire carries the text "
                 "below; write the German text that goes out, with the same facts and nothing added.\n\n{english}"),
        Template("classroom",
                 "Teacher: Let us take one sentence from English into German, and mind the word order.\n"
                 "Sentence: {english}\nStudent:"),
        Template("table_columns",
                 "Fill in the missing column of a bilingual table.\nEnglish column: {english}\nGerman column:"),
        Template("how_expressed", "How is the following expressed in German? The English reads: {english}"),
        Template("reader_in_vienna",
                 "{english}\n\nA reader in Vienna would like to have these English words in German. What do you hand "
                 "the reader?"),
        Template("german_label_first", "German text: {german}\nEnglish text:", "{english}", "inverted"),
        Template("colleague_asks",
                 "An English-speaking colleague was sent the German lines below and asks what they say. Tell the "
                 "colleague in English.\n\n{german}", "{english}", "inverted"),
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
    licence="LicenseRef-WMT",
    commercial=None,
    licence_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("turn_below", "Turn the English below into Turkish.\n\n{english}"),
        Template("istanbul_desk",
                 "News desk, Istanbul office.\nIncoming story in English: {english}\nOutgoing story in Turkish:"),
        Template("write_again", "{english}\n\nWrite this again, but in Turkish."),
        Template("can_you_give", "Can you give me the Turkish translation of this sentence? {english}"),
        Template("subtitles",
                 "Deniz is putting Turkish subtitles under an English documentary.\nThe narrator says: {english}\n"
                 "The subtitle should be:"),
        Template("task_sheet",
                 "Task: translation. Source language: English. Target language: Turkish. Source text: {english}"),
        Template("native_speaker",
                 "Read the English sentence, then write it in Turkish in a way that a native speaker would find "
                 "natural and that says the same thing.\n\nSentence: {english}"),
        Template("poster_dialogue",
                 "Guest: Does anyone here speak Turkish? I need this for a poster.\nDraft: {english}\n"
                 "Host: I do. The poster should say:"),
        Template("meaning_of_turkish", "What does this Turkish sentence mean in English? {turkish}", "{english}",
                 "inverted"),
        Template("international_paper",
                 "{turkish}\n\nThe text above is Turkish. Give an English version that could appear in an "
                 "international newspaper.", "{english}", "inverted"),
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
    licence="LicenseRef-WMT",
    commercial=None,
    licence_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("from_to", "Translate from English to Czech: {english}"),
        Template("language_wanted",
                 "Original: {english}\nLanguage of the original: English. Language wanted: Czech. Translation:"),
        Template("library_in_brno",
                 "A library in Brno is making its English collection readable for everybody in town. One line of it "
                 "goes like this: {english}\nHow does the line go in Czech?"),
        Template("czech_speaker", "{english}\n\nWhat would a Czech speaker write to say exactly this?"),
        Template("of_course", "Can this English sentence be said in Czech? Of course it can. Show how.\n\n{english}"),
        Template("sworn_translator",
                 "You are a sworn translator of English and Czech. Omit nothing, explain nothing, and answer with the "
                 "Czech text alone.\n\nDocument: {english}"),
        Template("slide_dialogue",
                 "Petra: I have to present this in Prague tomorrow, and it is still in English.\n"
                 "Slide: {english}\nJan: Here is your slide in Czech:"),
        Template("lost_half",
                 "Below is an entry of a parallel corpus whose Czech half has been lost.\nEnglish half: {english}\n"
                 "Restore the Czech half."),
        Template("same_in_english", "Czech: {czech}\nThe same in English:", "{english}", "inverted"),
        Template("please_from_czech", "From Czech to English, please. {czech}", "{english}", "inverted"),
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
    licence="LicenseRef-WMT",
    commercial=None,
    licence_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("express_in", "Express in Finnish what this English sentence says: {english}"),
        Template("sentence_label", "English sentence: {english}\nFinnish translation:"),
        Template("how_do_you_say", "How do you say this in Finnish? {english}"),
        Template("radio_bulletin",
                 "A radio presenter in Helsinki receives her bulletins in English and reads them out in Finnish.\n"
                 "Bulletin: {english}\nWhat do her listeners hear?"),
        Template("case_endings",
                 "{english}\n\nPlease provide a Finnish version of this English text, with every case ending where it "
                 "belongs."),
        Template("grandpa_dialogue",
                 "Aino: Grandpa only speaks Finnish. Can you help me tell him this?\nNote: {english}\n"
                 "Mikko: Just tell him this:"),
        Template("segment",
                 "Language pair: English and Finnish.\nSegment to translate: {english}\nTranslated segment:"),
        Template("born_in_oulu",
                 "Suppose the writer of this English sentence had been born in Oulu and had written it in Finnish. "
                 "What would the sentence have been?\n\n{english}"),
        Template("finnish_imperative", "Translate the Finnish sentence into English.\n\nSentence: {finnish}",
                 "{english}", "inverted"),
        Template("forwarded_clipping",
                 "Someone forwarded me this from a Finnish newspaper: {finnish}\nLeave nothing out and tell me in "
                 "English what it says.", "{english}", "inverted"),
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
    licence="LicenseRef-WMT",
    commercial=None,
    licence_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("equivalent", "Give the Romanian equivalent of this English text: {english}"),
        Template("form_fields", "From: English. To: Romanian. Text: {english}"),
        Template("read_aloud",
                 "{english}\n\nIf you had to read this aloud in Bucharest, in Romanian, what would you say?"),
        Template("source_target", "Source (English): {english}\nTarget (Romanian):"),
        Template("reporter_away",
                 "A news portal publishes each of its stories twice, in English and in Romanian. The Romanian reporter "
                 "is away today, so her part falls to you. One sentence of the English story is: {english}\n"
                 "Write that sentence for the Romanian story."),
        Template("as_in_cluj", "Write this in Romanian, as somebody from Cluj would put it: {english}"),
        Template("question_answer",
                 "Question: How should this English sentence be translated into Romanian?\nSentence: {english}\n"
                 "Answer:"),
        Template("romanian_original", "Romanian original: {romanian}\nEnglish rendering:", "{english}", "inverted"),
        Template("help_a_visitor",
                 "Please help a visitor who cannot read Romanian by saying in English what is written here. "
                 "{romanian}", "{english}", "inverted"),
        Template("english_newspaper",
                 "{romanian}\n\nHow would an English newspaper phrase this Romanian sentence?", "{english}",
                 "inverted"),
    ),
)

WMT16_RUEN = Dataset(
    name="wmt16_translate_ruen",
    paper_dataset="WMT-16 EN/RU",
    cluster="translation",
    tfds="wmt16_translate/ru-en:1.0.0",
    hub=Hub("wmt/wmt16", "ru-en"),
    manual="Ask for the corpus at https://translate.yandex.ru/corpus?lang=en, download 1mcorpus.zip and put it into "
           "the manual directory of TFDS.",
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 2_516_160},
    fields=("english", "russian"),
    evidence=("english",),
    row=_russian,
    options=None,
    metrics=("bleu",),
    inverted_metrics=("bleu",),
    licence="LicenseRef-WMT",
    commercial=None,
    licence_evidence="statmt.org/wmt14 and wmt16, translation task: released for research",
    templates=(
        Template("write_in", "Write the following sentence in Russian.\n\n{english}"),
        Template("short_codes", "EN (English): {english}\nRU (Russian):"),
        Template("what_would_it_be", "What would this sentence be in Russian? {english}"),
        Template("missing_line",
                 "The Russian version of an article still lacks a line that stands in the English one: {english}\n"
                 "Add the line to the Russian version."),
        Template("press_agency",
                 "Olga translates for a press agency. She gets English text and returns Russian text, in Cyrillic "
                 "script, with names spelled the way Russian readers know them.\nShe gets: {english}\nShe returns:"),
        Template("reads_only_russian", "{english}\n\nMake this understandable to somebody who reads only Russian."),
        Template("announcement",
                 "Sergei: I did not catch the announcement because it was in English. What did they say?\n"
                 "Announcement: {english}\nMarina answers in Russian:"),
        Template("back_into_english", "Back from Russian into English, please: {russian}", "{english}", "inverted"),
        Template("learner_exercise",
                 "Exercise for learners of Russian. Show that you understand the sentence by translating it into "
                 "English.\nSentence: {russian}\nAnswer:", "{english}", "inverted"),
        Template("tell_me_in_english", "{russian}\n\nTell me in English what this Russian text says.", "{english}",
                 "inverted"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (
    PARA_CRAWL_ENES, WMT14_ENFR, WMT16_DEEN, WMT16_TREN, WMT16_CSEN, WMT16_FIEN, WMT16_ROEN, WMT16_RUEN)
