"""Sentiment: tell whether a text speaks well or badly of its subject.

Four datasets with the options 'negative' and 'positive': film reviews (IMDB), tweets (Sentiment140), single
sentences of film critics (SST-2) and reviews of local businesses (Yelp). None has a turned-around template: a text
cannot be found from its sentiment alone.
"""

import html
import re

from flan_jax.data.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenised, labelled, lines

_OPTIONS = ("negative", "positive")
_HTML_BREAKS = re.compile(r"\s*(?:<br\s*/?>\s*)+", re.IGNORECASE)


def _imdb_row(raw):
    return labelled(raw["label"], 2, text=lines(_HTML_BREAKS.sub("\n", raw["text"])))


IMDB_REVIEWS = Dataset(
    name="imdb_reviews",
    paper_dataset="IMDB",
    cluster="sentiment",
    tfds="imdb_reviews/plain_text:1.0.0",
    hub=Hub("stanfordnlp/imdb", "plain_text"),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="none at ai.stanford.edu/~amaas/data/sentiment nor in its README",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 24800},
    fields=("text",),
    row=_imdb_row,
    options=_OPTIONS,
    metrics=("accuracy",),
    templates=(
        Template("question_last", "{text}\n\nIs this movie review positive or negative?\n{options}"),
        Template(
            "author_opinion",
            "Decide what the author of this film review thought of the film overall.\n\nReview: {text}\n{options}"),
        Template("options_first", "{options}\nGive the overall verdict of the following movie review. {text}"),
        Template(
            "before_the_cinema",
            "Noor: I found a review of that film we talked about. \"{text}\"\n"
            "Sam: So what did the reviewer make of it? Was the opinion positive or negative?\n{options}"),
        Template(
            "cinema_programmer",
            "You choose the films for a small cinema and sort viewers' reviews into two piles, positive for praise "
            "and negative for complaint. Which pile does this one go on? {text}\n{options}"),
        Template(
            "one_word_rating",
            "A website about films replaces the stars of every review by a word for its sentiment. Find the word for "
            "this review: {text}\n{options}"),
        Template("terse", "Movie review: {text}\nOverall sentiment:\n{options}"),
        Template(
            "mixed_feelings",
            "Reviewers may like the acting and dislike the plot, but what counts is their opinion of the film as a "
            "whole. State that opinion.\n{options}\nReview to judge: {text}"),
        Template(
            "director_reads_it",
            "If the director of the film read these lines by a viewer, would the feedback seem positive or negative? "
            "{text}\n{options}"),
        Template(
            "did_they_enjoy_it",
            "Did this viewer enjoy the movie? Do not answer with yes or no, but with the sentiment of the review.\n"
            "\"{text}\"\n{options}"),
    ),
)


def _sentiment140_row(raw):
    polarity = raw["polarity"]
    if polarity == 2:
        return Drop("neutral tweet")
    if polarity not in (0, 4):
        return Drop("no gold label")
    return labelled(polarity // 4, 2, text=lines(html.unescape(raw["text"])))


SENTIMENT140 = Dataset(
    name="sentiment140",
    paper_dataset="Sent140",
    cluster="sentiment",
    tfds="sentiment140:1.0.0",
    hub=Hub("stanfordnlp/sentiment140", "sentiment140", rename={"polarity": "sentiment"}),
    licence="LicenseRef-Sentiment140",
    commercial=None,
    licence_evidence="help.sentiment140.com: terms of its own; the texts are tweets",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 1599800},
    fields=("text",),
    row=_sentiment140_row,
    options=_OPTIONS,
    metrics=("accuracy",),
    templates=(
        Template("mood_question", "Tweet: \"{text}\"\nWhat is the mood of this tweet?\n{options}"),
        Template("how_do_they_feel", "How does the person who posted \"{text}\" on Twitter feel?\n{options}"),
        Template("options_first", "{options}\nRead the tweet and name its sentiment: {text}"),
        Template(
            "two_followers",
            "Ravi: Look what my sister just tweeted: \"{text}\"\n"
            "Elsa: Is the feeling behind it positive or negative?\n{options}"),
        Template(
            "social_media_team",
            "You work in a social media team and tag every incoming post with its emotional tone.\n"
            "Post: \"{text}\"\nTag:\n{options}"),
        Template(
            "missing_smiley",
            "A smiley is to go with this message. Which one suits it, a happy one (positive) or a sad one "
            "(negative)? Message: {text}\n{options}"),
        Template("terse", "Twitter sentiment check: {text}\n{options}"),
        Template(
            "attitude_last",
            "Somebody shared this with the world in 140 characters or fewer: \"{text}\"\n{options}\n"
            "What attitude comes across?"),
        Template(
            "slang_aside",
            "Slang, links and user names aside, the next tweet expresses either a positive or a negative feeling. "
            "State which. {text}\n{options}"),
        Template(
            "congratulate_or_comfort",
            "Would a kind follower answer this tweet with a cheer or with words of comfort? Label it positive in the "
            "first case and negative in the second. \"{text}\"\n{options}"),
    ),
)


def _sst2_row(raw):
    # A sentence is one line; this source also puts a backslash before a slash and an asterisk.
    return labelled(raw["label"], 2, sentence=detokenised(re.sub(r"\\(?=[/*])", "", raw["sentence"])))


SST2 = Dataset(
    name="sst2",
    paper_dataset="SST-2",
    cluster="sentiment",
    tfds="glue/sst2:2.0.0",
    hub=Hub("nyu-mll/glue", "sst2"),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="none at nlp.stanford.edu/sentiment nor in its README",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 67140},
    fields=("sentence",),
    row=_sst2_row,
    options=_OPTIONS,
    metrics=("accuracy",),
    templates=(
        Template(
            "line_from_a_critic",
            "\"{sentence}\" Is this line by a film critic positive or negative about the film?\n{options}"),
        Template("terse", "Phrase from a film review: {sentence}\nSentiment of the phrase:\n{options}"),
        Template(
            "options_first",
            "{options}\nA critic summed up a picture in these words: \"{sentence}\" What is their sentiment?"),
        Template(
            "producer_and_assistant",
            "Producer: What do the papers say about our film?\nAssistant: One of them writes, \"{sentence}\"\n"
            "Producer: Would you call that positive or negative?\n{options}"),
        Template(
            "poster_quote",
            "Only praise may be quoted on a film poster. Before the words \"{sentence}\" can be printed there, "
            "somebody has to find out what their sentiment is. What is it?\n{options}"),
        Template(
            "two_ends",
            "Imagine a scale whose ends are called negative and positive. Nearer to which end does the opinion in "
            "this sentence lie? {sentence}\n{options}"),
        Template(
            "excerpt_last",
            "Judge the tone of a short excerpt from a movie critique.\n{options}\nExcerpt: {sentence}"),
        Template(
            "wording_matters",
            "Praise, mockery, irony and boredom all leave traces in the wording. Take the sentence \"{sentence}\" as "
            "a whole and label what it says about the movie.\n{options}"),
        Template(
            "finish_the_statement",
            "Finish the statement with a fitting adjective. From the remark \"{sentence}\" we can tell that the "
            "reviewer's reaction to the film was largely ...\n{options}"),
        Template(
            "language_lesson",
            "In a lesson on the language of opinion, students sort snippets of film writing by polarity. How should "
            "they sort this one? {sentence}\n{options}"),
    ),
)


def _yelp_row(raw):
    # The source file writes a line break as \n and a double quote as \"".
    text = raw["text"].replace("\\n", "\n").replace('\\""', '"').replace('\\"', '"').replace('""', '"')
    return labelled(raw["label"], 2, text=lines(text))


YELP_POLARITY_REVIEWS = Dataset(
    name="yelp_polarity_reviews",
    paper_dataset="Yelp",
    cluster="sentiment",
    tfds="yelp_polarity_reviews:0.2.0",
    hub=Hub("fancyzhx/yelp_polarity", "plain_text"),
    licence="LicenseRef-Yelp-Dataset",
    commercial=False,
    licence_evidence="Yelp Dataset Terms of Use: academic, non-commercial use",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 559800},
    fields=("text",),
    row=_yelp_row,
    options=_OPTIONS,
    metrics=("accuracy",),
    templates=(
        Template(
            "experience_question",
            "{text}\n\nWas the experience that this customer describes positive or negative?\n{options}"),
        Template(
            "would_they_return",
            "Ask yourself if this customer would go there again, and then give the sentiment of the review.\n\n"
            "{text}\n{options}"),
        Template(
            "options_first",
            "{options}\nBelow is what somebody posted on Yelp about a local business. Classify it by sentiment.\n"
            "{text}"),
        Template(
            "tourist_and_guide",
            "Tourist: Is the place any good?\nGuide: This is what one visitor had to say: \"{text}\"\n"
            "Tourist: I see. What sort of impression did it leave on that visitor?\n{options}"),
        Template(
            "owner_files_reviews",
            "You own the business reviewed here and file compliments under positive, complaints under negative. "
            "Where do you file this one? {text}\n{options}"),
        Template(
            "hidden_stars",
            "The star rating of this review is hidden. A high rating counts as positive and a low one as negative. "
            "Work out from the words alone which it was. {text}\n{options}"),
        Template("terse", "Yelp review: {text}\nPolarity:\n{options}"),
        Template(
            "feedback_table",
            "A table of customer feedback has a column for sentiment.\n{options}\n"
            "Fill in that column for the following entry: {text}"),
        Template(
            "tell_a_friend",
            "Someone wrote about a visit to a shop, restaurant or other service. Tell a friend in a word "
            "whether the writer's view of the place is positive or negative.\n\n{text}\n{options}"),
        Template(
            "leaning",
            "Service, price, quality and atmosphere may all come up in a customer's report, yet in the end it leans "
            "one way. Say which way it leans.\nReport: {text}\n{options}"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (IMDB_REVIEWS, SENTIMENT140, YELP_POLARITY_REVIEWS, SST2)
