"""Scores of the FLAN paper to draw beside one's own, and which of them were verified.

Wei et al., "Finetuned Language Models Are Zero-Shot Learners", arXiv 2109.01652: FLAN 137B and
GPT-3 175B zero-shot by dataset, and the numbers of Figures 6, 8, 9 and 10. Those that were found in
a second source are verified. The others are recalled and were not compared with the paper's text:
they are marked wherever they are drawn.
"""

from __future__ import annotations

from typing import NamedTuple

from flan_jax.report.summaries import INVERTED

RECALLED = "recalled, unverified"
FLAN, GPT3, LAMDA = "FLAN 137B", "GPT-3 175B", "LaMDA-PT 137B"
FLAN_ZERO_SHOT, FLAN_FEW_SHOT = "FLAN 137B, zero-shot", "FLAN 137B, few-shot"


class PaperScore(NamedTuple):
    """A dataset's zero-shot scores in the paper, in percent.

    Attributes:
      metric: the key of the same metric here.
      flan: FLAN 137B, mean over templates.
      flan_verified: whether it was found in a second source.
      gpt3: GPT-3 175B zero-shot; None where the paper has no number.
      gpt3_verified: whether it was found in a second source.
    """

    metric: str
    flan: float
    flan_verified: bool = False
    gpt3: float | None = None
    gpt3_verified: bool = False


ZERO_SHOT = {
    "anli_r1": PaperScore("accuracy", 47.7, True, 34.6),
    "anli_r2": PaperScore("accuracy", 43.9, True, 35.4),
    "anli_r3": PaperScore("accuracy", 47.0, True, 34.5),
    "cb": PaperScore("accuracy", 64.1, True, 46.4),
    "mnli_matched": PaperScore("accuracy", 51.1),
    "mnli_mismatched": PaperScore("accuracy", 51.0),
    "qnli": PaperScore("accuracy", 59.6),
    "rte": PaperScore("accuracy", 78.3, False, 63.5),
    "snli": PaperScore("accuracy", 43.0),
    "wnli": PaperScore("accuracy", 61.0),
    "bool_q": PaperScore("accuracy", 80.2, False, 60.5),
    "drop": PaperScore("f1", 21.9, False, 23.6),
    "multirc": PaperScore("f1a", 74.5, False, 72.9),
    "openbookqa": PaperScore("accuracy", 77.4, False, 57.6, True),
    "squad_v1": PaperScore("f1", 79.5),
    "squad_v2": PaperScore("f1", 40.9, False, 59.5),
    "arc_challenge": PaperScore("accuracy", 61.7, False, 51.4, True),
    "arc_easy": PaperScore("accuracy", 79.5, False, 68.8),
    "natural_questions": PaperScore("em", 18.6, False, 14.6),
    "trivia_qa": PaperScore("em", 55.0),
    "copa": PaperScore("accuracy", 90.6, False, 91.0, True),
    "hellaswag": PaperScore("accuracy", 56.4, False, 78.9, True),
    "piqa": PaperScore("accuracy", 80.9, False, 81.0, True),
    "story_cloze": PaperScore("accuracy", 92.2, False, 83.2, True),
    "imdb_reviews": PaperScore("accuracy", 94.1),
    "sentiment140": PaperScore("accuracy", 69.9),
    "sst2": PaperScore("accuracy", 92.6),
    "yelp_polarity_reviews": PaperScore("accuracy", 97.8),
    "glue_mrpc": PaperScore("accuracy", 69.1),
    "glue_qqp": PaperScore("accuracy", 72.1),
    "paws_wiki": PaperScore("accuracy", 61.5),
    "definite_pronoun_resolution": PaperScore("accuracy", 60.3),
    "winogrande": PaperScore("accuracy", 67.3, False, 70.2),
    "wsc273": PaperScore("accuracy", 80.8, False, 88.3),
    "cosmos_qa": PaperScore("accuracy", 58.4),
    "record": PaperScore("em", 67.8, False, 90.2),
    "wmt14_enfr": PaperScore("bleu", 32.9, False, 25.2),
    "wmt14_enfr" + INVERTED: PaperScore("bleu", 35.5, False, 21.2),
    "wmt16_translate_deen": PaperScore("bleu", 25.4, False, 24.6),
    "wmt16_translate_deen" + INVERTED: PaperScore("bleu", 38.9, False, 27.2),
    "wmt16_translate_roen": PaperScore("bleu", 16.7, False, 14.1),
    "wmt16_translate_roen" + INVERTED: PaperScore("bleu", 36.8, False, 19.9),
    "common_gen": PaperScore("rouge1", 54.6),
    "dart": PaperScore("rouge1", 45.5),
    "e2e_nlg": PaperScore("rouge1", 44.8),
    "web_nlg_en": PaperScore("rouge1", 50.6),
}

# Figure 6, verified: number of training clusters -> mean over NLI, closed-book QA and commonsense.
CLUSTERS_HELD_OUT = frozenset({"nli", "closed_book_qa", "commonsense"})
MEAN_BY_CLUSTERS = {1: 49.9, 2: 55.0, 3: 59.3, 4: 59.2, 5: 60.8, 6: 61.9, 7: 63.5}

# Figure 8: INSTRUCTIONS in training and in evaluation -> mean score by cluster, recalled; the means
# over the clusters, verified.
BY_INSTRUCTIONS = {
    ("template", "template"): {
        "nli": 56.2,
        "reading_comprehension": 77.4,
        "closed_book_qa": 56.6,
        "translation": 30.7,
    },
    ("none", "template"): {
        "nli": 50.5,
        "reading_comprehension": 58.2,
        "closed_book_qa": 25.5,
        "translation": 15.0,
    },
    ("dataset_name", "template"): {
        "nli": 52.8,
        "reading_comprehension": 63.0,
        "closed_book_qa": 44.8,
        "translation": 25.9,
    },
    ("dataset_name", "dataset_name"): {
        "nli": 60.2,
        "reading_comprehension": 64.9,
        "closed_book_qa": 40.8,
        "translation": 21.9,
    },
}

MEAN_BY_INSTRUCTIONS = {
    ("template", "template"): 55.2,
    ("none", "template"): 37.3,
    ("dataset_name", "template"): 46.6,
    ("dataset_name", "dataset_name"): 47.0,
}

# Figure 9, recalled: cluster -> mean score without and with exemplars.
BY_SHOTS = {
    "nli": (54.7, 59.3),
    "closed_book_qa": (53.7, 57.2),
    "commonsense": (80.0, 80.8),
    "coreference": (63.8, 67.4),
    "translation": (31.0, 33.0),
    "struct_to_text": (39.2, 49.4),
}

# Figure 10, prompt tuning on all training rows: dataset -> LaMDA-PT and FLAN; of the latter, those
# of CoPA, MultiRC, ReCoRD and RTE are verified, all others are recalled.
PROMPT_TUNED = {
    "bool_q": (82.8, 86.3),
    "cb": (87.5, 98.2),
    "copa": (90.0, 94.0),
    "multirc": (78.6, 83.4),
    "record": (84.8, 85.1),
    "rte": (82.0, 91.7),
    "wic": (54.9, 74.0),
    "wsc": (72.7, 86.5),
}
PROMPT_TUNED_VERIFIED = frozenset({"copa", "multirc", "record", "rte"})
