"""Sentiment: tell whether a text speaks well or badly of its subject.

Four datasets with the options 'negative' and 'positive': film reviews (IMDB), tweets
(Sentiment140), single sentences of film critics (SST-2) and reviews of local businesses (Yelp).
None has an inverted template: a text cannot be found from its sentiment alone.
"""

import html
import re
from typing import Any

from flan_jax.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenized, labeled, lines

_OPTIONS = ("negative", "positive")
_HTML_BREAKS = re.compile(r"\s*(?:<br\s*/?>\s*)+", re.IGNORECASE)


def _imdb_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labeled(raw["label"], 2, text=lines(_HTML_BREAKS.sub("\n", raw["text"])))


IMDB_REVIEWS = Dataset(
    name="imdb_reviews",
    paper_dataset="IMDB",
    cluster="sentiment",
    tfds="imdb_reviews/plain_text:1.0.0",
    hub=Hub("stanfordnlp/imdb", "plain_text"),
    license="NOASSERTION",
    commercial=None,
    license_evidence="none at ai.stanford.edu/~amaas/data/sentiment nor in its README",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 24800},
    fields=("text",),
    row=_imdb_row,
    options=_OPTIONS,
    metrics=("accuracy",),
    templates=(
        Template(
            "on_balance",
            "{text}\n\nOn balance, is the reviewer's view positive or negative?\n{options}",
        ),
        Template(
            "what_they_thought",
            "What did the author think of the film overall?\n\n{text}\n{options}",
        ),
        Template(
            "options_then_verdict",
            "{options}\nWhat is the overall verdict of this movie review?\n{text}",
        ),
        Template(
            "view_it_takes",
            (
                "I found this review of a film:\n{text}\n\nWhat view does it take of the film?\n"
                "{options}"
            ),
        ),
        Template(
            "praise_or_complaint", "Praise (positive) or complaint (negative)?\n{text}\n{options}"
        ),
        Template("rating", "Review: {text}\n\nRating, negative or positive:\n{options}"),
        Template("terse", "Movie review: {text}\nOverall sentiment:\n{options}"),
        Template(
            "all_in_all",
            "All in all, how does the reviewer feel about the film?\n{options}\n{text}",
        ),
        Template(
            "recommendation",
            "Is this a recommendation (positive) or a warning (negative)?\n{text}\n{options}",
        ),
        Template(
            "impression",
            "{text}\n\nWhat impression of the movie did this viewer come away with?\n{options}",
        ),
    ),
)


def _sentiment140_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    polarity = raw["polarity"]
    if polarity == 2:
        return Drop("neutral tweet")
    if polarity not in (0, 4):
        return Drop("no gold label")
    return labeled(polarity // 4, 2, text=lines(html.unescape(raw["text"])))


SENTIMENT140 = Dataset(
    name="sentiment140",
    paper_dataset="Sent140",
    cluster="sentiment",
    tfds="sentiment140:1.0.0",
    hub=Hub("stanfordnlp/sentiment140", "sentiment140", rename={"polarity": "sentiment"}),
    license="LicenseRef-Sentiment140",
    commercial=None,
    license_evidence="help.sentiment140.com: terms of its own; the texts are tweets",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 1599800},
    fields=("text",),
    row=_sentiment140_row,
    options=_OPTIONS,
    metrics=("accuracy",),
    templates=(
        Template("mood", "Tweet: {text}\nWhat is the mood of this tweet?\n{options}"),
        Template(
            "how_they_feel", "{text}\n\nHow does the person who tweeted this feel?\n{options}"
        ),
        Template("options_then_tweet", "{options}\nName the sentiment of this tweet.\n{text}"),
        Template(
            "feeling_behind_it",
            "Is the feeling behind this tweet positive or negative?\n{text}\n{options}",
        ),
        Template("emotional_tone", "Post: {text}\nEmotional tone:\n{options}"),
        Template(
            "which_smiley",
            (
                "{text}\n\nWhich smiley suits this, a happy one (positive) or a sad one "
                "(negative)?\n"
                "{options}"
            ),
        ),
        Template("terse", "Twitter sentiment check: {text}\n{options}"),
        Template("attitude", "Posted online: {text}\n{options}\nWhat attitude comes across?"),
        Template(
            "slang_and_links",
            (
                "Leaving slang, links and user names aside, what feeling does this express?\n"
                "{text}\n"
                "{options}"
            ),
        ),
        Template(
            "good_day_or_bad",
            (
                "{text}\n\nDoes that sound like a good day (positive) or a bad one (negative)?\n"
                "{options}"
            ),
        ),
    ),
)


def _sst2_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    # A sentence is one line; this source also puts a backslash before a slash and an asterisk.
    return labeled(
        raw["label"], 2, sentence=detokenized(re.sub(r"\\(?=[/*])", "", raw["sentence"]))
    )


SST2 = Dataset(
    name="sst2",
    paper_dataset="SST-2",
    cluster="sentiment",
    tfds="glue/sst2:2.0.0",
    hub=Hub("nyu-mll/glue", "sst2"),
    license="NOASSERTION",
    commercial=None,
    license_evidence="none at nlp.stanford.edu/sentiment nor in its README",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 67140},
    fields=("sentence",),
    row=_sst2_row,
    options=_OPTIONS,
    metrics=("accuracy",),
    templates=(
        Template(
            "for_or_against",
            "Line by a film critic: {sentence}\nDoes it speak for the film (positive) or against "
            "it (negative)?\n"
            "{options}",
        ),
        Template(
            "terse", "Phrase from a film review: {sentence}\nSentiment of the phrase:\n{options}"
        ),
        Template(
            "options_then_words",
            "{options}\nWhat opinion do these words of a critic express?\n{sentence}",
        ),
        Template(
            "praise_or_criticism",
            "Is this praise (positive) or criticism (negative)?\n{sentence}\n{options}",
        ),
        Template(
            "fit_for_the_poster",
            (
                "Quote: {sentence}\nWould the film's poster quote this (positive) or leave it out "
                "(negative)?\n{options}"
            ),
        ),
        Template(
            "leaning",
            "Does this comment on a film lean negative or positive?\n{sentence}\n{options}",
        ),
        Template(
            "excerpt_last",
            (
                "Judge the tone of a short excerpt from a movie critique.\n{options}\nExcerpt: "
                "{sentence}"
            ),
        ),
        Template(
            "in_what_light", "In what light do these words put the movie?\n{sentence}\n{options}"
        ),
        Template("reaction", "{sentence}\n{options}\nThe critic's reaction to the film:"),
        Template("polarity", "Polarity of this snippet of film writing:\n{sentence}\n{options}"),
    ),
)


def _yelp_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    # The source file writes a line break as \n and a double quote as \"".
    text = (
        raw["text"].replace("\\n", "\n").replace('\\""', '"').replace('\\"', '"').replace('""', '"')
    )
    return labeled(raw["label"], 2, text=lines(text))


YELP_POLARITY_REVIEWS = Dataset(
    name="yelp_polarity_reviews",
    paper_dataset="Yelp",
    cluster="sentiment",
    tfds="yelp_polarity_reviews:0.2.0",
    hub=Hub("fancyzhx/yelp_polarity", "plain_text"),
    license="LicenseRef-Yelp-Dataset",
    commercial=False,
    license_evidence="Yelp Dataset Terms of Use: academic, non-commercial use",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 559800},
    fields=("text",),
    row=_yelp_row,
    options=_OPTIONS,
    metrics=("accuracy",),
    templates=(
        Template(
            "experience_question",
            (
                "{text}\n\nWas the experience that this customer describes positive or negative?\n"
                "{options}"
            ),
        ),
        Template(
            "satisfied_or_disappointed",
            "Satisfied customer (positive) or disappointed customer (negative)?\n{text}\n{options}",
        ),
        Template("options_then_post", "{options}\nClassify this Yelp post by sentiment.\n{text}"),
        Template(
            "impression_of_the_place",
            "{text}\n\nWhat kind of impression did the place leave?\n{options}",
        ),
        Template(
            "compliment_or_complaint",
            "Compliment (positive) or complaint (negative)?\n{text}\n{options}",
        ),
        Template(
            "few_stars_or_many", "{text}\n\nFew stars (negative) or many (positive)?\n{options}"
        ),
        Template("terse", "Yelp review: {text}\nPolarity:\n{options}"),
        Template(
            "feedback_then_options", "Feedback: {text}\n{options}\nSentiment of the customer:"
        ),
        Template(
            "opinion_of_the_business",
            "What is this customer's opinion of the business?\n\n{text}\n{options}",
        ),
        Template(
            "which_way",
            (
                "Good points and bad ones may both come up. Which way does the report lean?\n"
                "Report: {text}\n{options}"
            ),
        ),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (IMDB_REVIEWS, SENTIMENT140, YELP_POLARITY_REVIEWS, SST2)
