"""How FLAN's code evaluates each configuration, and where the catalogue differs: docs/fidelity.md.

FLAN is google-research/FLAN at commit e9e4ec6 (2021). Splits, options and their order, targets and
metrics are as there, except for the lines of `DEPARTURES`.
"""

from __future__ import annotations

from typing import NamedTuple


class Departure(NamedTuple):
    """One difference: what FLAN does, what is done here, and why."""

    there: str
    here: str
    why: str


class Original(NamedTuple):
    """FLAN's evaluation of a configuration.

    It is the choice of answers (or 'free text'), the metrics and the TFDS builder.
    """

    answer: str
    metrics: str
    tfds: str


# What concerns every dataset.
EVERYWHERE = (
    Departure(
        "ten templates",
        "ten or more in new words, at most three of them inverted",
        "FLAN's include 33 that cannot be answered from their input, 16 repetitions or "
        "near-repetitions, and wrong directions",
    ),
    Departure(
        "row i gets template i mod 10 in every epoch",
        "the template follows from a hash of row, seed and epoch",
        "by position, a row never meets another template",
    ),
    Departure(
        "up to 9 rows a shard are lost where templates are batched",
        "no row is lost; dropped rows are counted",
        "a dataset of 50 rows may lose all of them",
    ),
    Departure(
        "the dialogue marks of LaMDA around every input",
        "none",
        "they have no meaning for other models",
    ),
    Departure(
        "options in one order",
        "the same by default; OPTIONS_STYLE has others",
        "FLAN has no other",
    ),
    Departure(
        "N-template tasks are scored without their postprocessing",
        "every metric gets what it needs",
        "perfect predictions scored 0 to 10 in CB, CoQA, QuAC, ReCoRD",
    ),
    Departure(
        (
            "few-shot: 1, 2, 3, 5, 10 exemplars, or 16 within 960 tokens; an exemplar may be "
            "the row itself"
        ),
        "SHOTS of any number, as many as fit beside the row; never the row itself; SHOTS=16 with "
        "inputs of 960 tokens is FLAN's last setting",
        "lengths depend on the model; a row that is its own exemplar has its answer in the input",
    ),
    Departure(
        "texts longer than 1,024 tokens lose their end, question included",
        "the longest field is truncated",
        "the question must stay",
    ),
    Departure(
        "only the datasets of related clusters do not train",
        "datasets that share text do not train, either; RELATED='paper' is FLAN's rule",
        "up to 98 % of held-out rows were in the training rows",
    ),
    Departure("rates count raw rows", "rates count usable rows", "dropped rows are not drawn"),
)

_LOWER = Departure(
    "options begin with a capital letter",
    "options in lower case",
    "one spelling in all inference sets",
)
_ACCURACY = Departure(
    "F1 is the first metric",
    "accuracy is the first metric, F1 the second",
    "the paper's tables have accuracy",
)
_BOTH_SCORES = Departure(
    "ROUGE", "ROUGE and BLEU", "BLEU is what the dataset's own evaluation reports"
)
_ONE_INPUT = Departure(
    "each row counts by itself",
    "rows of one input are one unit for standard errors",
    "several references of one input are not independent",
)
_TOKENS = Departure("tokenized text", "detokenized", "people do not write tokens")
_TOKENS_IN_PLACES = _TOKENS._replace(there="text as stored, tokenized in places")
_TITLES = Departure(
    "the title is shown", "the title is left out", "some copies of the data have none"
)
_BRACKETS = Departure(
    "the pronoun is named", "it also stands in brackets", "the same pronoun may occur twice"
)
_DIRECTIONS = Departure(
    "each template is evaluated in its own direction by the same task",
    "from English with the forward templates, into English with the inverted ones, apart",
    "the paper reports both directions",
)
_SIMILARITY = Departure(
    "edit distance", "edit similarity in percent", "of a distance, lower is better"
)
_UNICODE = Departure(
    "only ASCII letters are changed", "all letters are", "accented ones kept their case or vanished"
)

DEPARTURES: dict[str, tuple[Departure, ...]] = {
    **dict.fromkeys(
        ("anli_r1", "anli_r2", "anli_r3"),
        (
            _LOWER,
            Departure("context as stored", "without what wiki markup left", "tags are not text"),
        ),
    ),
    "cb": (
        _LOWER,
        Departure(
            "mean F1 of three classes stands first",
            "accuracy stands first",
            "the paper's tables give accuracy",
        ),
    ),
    "mnli_mismatched": (
        Departure("trains beside mnli_matched", "counts once in training", "the rows are the same"),
    ),
    "glue_mrpc": (_ACCURACY,),
    "glue_qqp": (
        _ACCURACY,
        Departure(
            "doubled quotation marks become an apostrophe",
            "they become one mark",
            "that is what they stand for in the file",
        ),
    ),
    "paws_wiki": (
        Departure(
            "the tokenized variant",
            "the raw variant (labeled_final_raw)",
            "people do not write tokens",
        ),
    ),
    "stsb": (
        Departure(
            "halves round to the even grade (0.5 to 0, 2.5 to 2)",
            "halves round up",
            "every grade then covers one unit of the scale",
        ),
    ),
    "sentiment140": (
        Departure(
            "neutral tweets are labeled negative", "they are dropped", "they are not negative"
        ),
    ),
    "sst2": (_TOKENS,),
    "trivia_qa": (
        Departure(
            "the target is normalized: lower case, no punctuation",
            "the answer as it is written",
            "the metric normalizes both sides",
        ),
        Departure(
            "each row counts by itself",
            "the rows of one question are one unit for standard errors",
            "most questions stand in two collections",
        ),
    ),
    "web_nlg_en": (_BOTH_SCORES, _ONE_INPUT),
    "common_gen": (_BOTH_SCORES, _ONE_INPUT),
    "e2e_nlg": (_BOTH_SCORES, _ONE_INPUT, _TOKENS_IN_PLACES),
    "dart": (
        _BOTH_SCORES,
        _ONE_INPUT,
        Departure(
            "cells in brackets are removed in one of two forms", "in all", "they mark table parts"
        ),
    ),
    "squad_v1": (_TITLES,),
    "squad_v2": (_TITLES,),
    "drop": (
        Departure(
            "scored against one answer",
            "against all validated answers, the best counts",
            "the dataset's own evaluation does so",
        ),
    ),
    "multirc": (
        Departure(
            "questions are grouped by a wrong index",
            "by paragraph and question",
            "em is over the answers of one question",
        ),
        Departure(
            "f1 over all answers and em", "the same, and accuracy", "majority baselines need it"
        ),
    ),
    "openbookqa": (
        Departure(
            "the core fact is always shown",
            "it is shown where the source has it",
            "some copies of the data lack it",
        ),
    ),
    "bool_q": (
        Departure(
            "the question as stored: lower case, no mark",
            "with a capital letter and a question mark",
            "people write so",
        ),
    ),
    "record": (
        Departure(
            "an option is a name with the rest of the sentence",
            "an option is the name",
            "em and F1 compare names; the templates ask who or what",
        ),
        Departure(
            "the passage ends before its highlights",
            "highlights stay as sentences",
            "some answers stand nowhere else",
        ),
    ),
    "cosmos_qa": (
        Departure(
            "'none of the above choices'",
            "'None of the other answers.'",
            "'above' is wrong where options are shuffled or not shown",
        ),
        _TOKENS,
    ),
    "definite_pronoun_resolution": (_BRACKETS,),
    "winogrande": (
        Departure(
            "of a sentence with two blanks, the end is lost",
            "the row is dropped",
            "its options would not be sentences",
        ),
    ),
    "wsc": (_BRACKETS,),
    "wsc273": (
        Departure(
            (
                "an option is a candidate with the rest of the sentence, after the text before the "
                "pronoun"
            ),
            "an option is the candidate, after the whole text with the pronoun in brackets",
            "templates ask in words; winogrande has the form of FLAN",
        ),
    ),
    "quac": (
        Departure(
            "background, title and context are shown",
            "title, section and context",
            "some rows have no background",
        ),
    ),
    "coqa": (
        Departure(
            "all questions of a dialogue at once, answered as a numbered list",
            "the last question that has an answer, after all turns before it",
            "F1 over words cannot judge a list; FLAN's metric gave 10.5 for perfect lists",
        ),
    ),
    "true_case": (_SIMILARITY, _UNICODE),
    "fix_punct": (_SIMILARITY, _UNICODE),
    "word_segment": (_SIMILARITY,),
    "math_dataset": (
        Departure(
            "the question as stored",
            "equation and unknown are fields of their own",
            "templates word the request",
        ),
    ),
    "wic": (
        Departure(
            "'different meanings', 'the same meaning'",
            "'different', 'same'",
            "FLAN's templates ask yes or no and offer phrases",
        ),
    ),
    "cola": (
        Departure("accuracy", "accuracy and Matthews correlation", "GLUE reports the latter"),
    ),
    "trec": (
        Departure(
            "'human', 'numeric'",
            "'person or group', 'number or date'",
            "the names say what is meant",
        ),
        _TOKENS,
    ),
    **dict.fromkeys(
        (
            "para_crawl_enes",
            "wmt14_enfr",
            "wmt16_translate_deen",
            "wmt16_translate_tren",
            "wmt16_translate_csen",
            "wmt16_translate_roen",
            "wmt16_translate_ruen",
        ),
        (_DIRECTIONS,),
    ),
    "wmt16_translate_fien": (
        _DIRECTIONS,
        Departure(
            "each row counts by itself",
            "the rows of one English sentence are one unit for standard errors",
            "the test set holds each English sentence twice, with two translations",
        ),
    ),
    "cnn_dailymail": (
        Departure(
            "the text before the dateline is kept",
            "the text after it is",
            "a slip, mended in FLAN's second version",
        ),
        _TOKENS_IN_PLACES,
    ),
    "multi_news": (
        Departure(
            "articles as one text with separators",
            "numbered articles without marks of the file",
            "marks such as NEWLINE_CHAR are not text",
        ),
    ),
    "gigaword": (
        _TOKENS,
        Departure("brackets as -lrb- and -rrb-", "as brackets", "people do not write tokens"),
    ),
    "samsum": (
        Departure(
            "attachments such as <file_photo> vanish",
            "they stand as (photo)",
            "summaries speak of them",
        ),
    ),
    "ag_news_subset": (
        Departure("'Science/Tech'", "'Science and technology'", "words instead of a label"),
    ),
    "wiki_lingua_english_en": (
        Departure("text as stored", "without JSON of icons", "it is not text"),
    ),
}

_GRADES = "0 to 5"
_RANKED = {
    **dict.fromkeys(("anli_r1", "anli_r2", "anli_r3"), "Yes / It's impossible to say / No"),
    "cb": "Yes / No / It's impossible to say",
    **dict.fromkeys(("rte", "qnli"), "yes / no"),
    **dict.fromkeys(
        ("mnli_matched", "mnli_mismatched", "snli"), "yes / it is not possible to tell / no"
    ),
    **dict.fromkeys(
        ("wnli", "glue_mrpc", "glue_qqp", "paws_wiki", "multirc", "bool_q", "wsc"), "no / yes"
    ),
    **dict.fromkeys(
        ("imdb_reviews", "sentiment140", "yelp_polarity_reviews", "sst2"), "negative / positive"
    ),
    "stsb": _GRADES,
    "cola": "unacceptable / acceptable",
    "wic": "different meanings / the same meaning",
    "trec": "description / entity / abbreviation / human / numeric / location",
    "ag_news_subset": "World / Sports / Business / Science/Tech",
    "copa": "two choices",
    "hellaswag": "four endings",
    "story_cloze": "two endings",
    "piqa": "two solutions",
    "arc_challenge": "four choices",
    "arc_easy": "four choices",
    "openbookqa": "four choices",
    "record": "names, each with the rest of the sentence",
    "cosmos_qa": "four answers",
    "definite_pronoun_resolution": "two candidates",
    "winogrande": "two candidates with the rest of the sentence",
    "wsc273": "two candidates with the rest of the sentence",
}
_METRICS = {
    "cb": "mean 3-class F1, accuracy",
    **dict.fromkeys(("glue_mrpc", "glue_qqp"), "F1, accuracy"),
    "stsb": "Pearson, Spearman",
    **dict.fromkeys(("trivia_qa", "natural_questions", "quac"), "TriviaQA em and F1"),
    **dict.fromkeys(("squad_v1", "squad_v2", "drop", "coqa"), "SQuAD em and F1"),
    "multirc": "F1 over all answers, em over questions",
    "record": "SQuAD em and F1 over groups",
    **dict.fromkeys(("true_case", "fix_punct", "word_segment"), "edit distance"),
    "math_dataset": "exact match",
}
_CLUSTER_METRICS = {"struct_to_text": "ROUGE", "translation": "BLEU", "summarization": "ROUGE"}

# The builders that FLAN names where the catalogue has another: TFDS 4.9 lacks them, or they need
# other packages.
_TFDS = {
    "winogrande": "winogrande:1.1.0",
    "cnn_dailymail": "cnn_dailymail:3.1.0",
    "multi_news": "multi_news:1.0.0",
    "xsum": "huggingface:xsum",
    "paws_wiki": "paws_wiki:1.1.0",
    "cola": "glue/cola",
}


def original(name: str, cluster: str, tfds: str | None) -> Original:
    """FLAN's evaluation of a configuration of the catalogue.

    Args:
      name: of the configuration.
      cluster: its cluster.
      tfds: its builder in the catalogue.
    """
    answer = _RANKED.get(name)
    metrics = _METRICS.get(name) or ("accuracy" if answer else _CLUSTER_METRICS[cluster])
    return Original(answer or "free text", metrics, _TFDS.get(name, tfds))
