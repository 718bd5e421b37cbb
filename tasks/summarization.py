"""Summarization (11 datasets): emails, news, reviews, debates, chats and how-to guides.

The target of AG News is the topic.
"""

import html
import re
from typing import Any

from flan_jax.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import column, detokenized, lines, one_line

# How CNN/DailyMail articles begin: what stands before the end of such a match is no part of the
# text.
_DATELINES = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        # "By . A Name . PUBLISHED: . 09:10 EST, 4 May 2013 . | . UPDATED: . 10:02 EST, 4 May 2013 .
        # Text"
        (
            r"^.{0,300}?(?:\b(?:PUBLISHED|UPDATED|Last updated|Created)\b.{0,60}?\b(?:19|20)\d\d "
            r"\.[\s|.]*)+"
        ),
        # "By . A Name . 4 May 2013 . Text", "By . Daily Mail Reporter . Text", "4 May 2013 . Text"
        (
            r"^(?:By \. [^.]{2,60} \. )?(?:[\d:]{4,5} \w+, )?\d{1,2}(?:st|nd|rd|th)? [A-Z][a-z]+,? "
            r"(?:19|20)\d\d \. "
        ),
        r"^By \. [^.]{2,60} \. ",
        # "Editor's note: ... MIAMI, Florida (CNN) -- Text", "LONDON, England (Reuters)  -- Text"
        r"^.{0,600}?\((?:[^()]{0,30}\b)?(?:CNN|Reuters|AP|AFP)\b[^()]{0,30}\)\s*--\s*",
        # "(CNN)Text", "( cnn ) Text", "(Mental Floss) -- Text", "BREMEN, Germany -- Text"
        r"^\(\s*(?:CNN|cnn)\s*\)\s*",
        r"^(?:[A-Z][A-Z .'-]+[^()]{0,40})?\([^()]{2,40}\)\s*--\s*",
        r"^[A-Z][A-Z .'-]{2,40}(?:[,.] [A-Z][\w .'-]{2,40})? -- ",
    )
)


def _mail_text(text: str) -> str:
    """Mail without the rest of quoted-printable: '=20', '=09' for blanks, '=' at broken lines."""
    blank = r"=(?:20|09)(?!\d)"
    text = text or ""
    if re.search(blank, text) or len(re.findall(r"[a-z,]=\s[a-z]", text)) > 1:
        text = re.sub(blank, " ", re.sub(r"=\s", "", text)).replace("=01,", "'").replace("=3D", "=")
    return lines(text)


def _email(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    body, subject = _mail_text(raw["email_body"]), one_line(_mail_text(raw["subject_line"]))
    if not body or not re.search(r"\w", subject):
        return Drop("empty body or subject")
    return {"body": body, "answer": subject}


def _unescape(text: str) -> str:
    """News text without the rest of HTML: a blank for '&' and a backslash for a line break."""
    text = html.unescape(re.sub(r" (?=(?:#\d{2,4}|amp|quot|lt|gt|nbsp);)", "&", text or ""))
    text = re.sub(r"</?[A-Za-z][^<>]*>", " ", text).replace("\\$", "$").replace("\\", " ")
    return re.sub(r" (?=[,.](?:\s|$))", "", one_line(text))


def _topic(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    title, text = _unescape(raw["title"]), _unescape(raw["description"]).lstrip(": ")
    if not title or not text:
        return Drop("empty title or text")
    return {"title": title, "text": text, "label": raw["label"]}


def _topic_hub_row(raw: dict[str, Any]) -> dict[str, Any]:
    # This copy, the only one on the hub that keeps title and description apart, counts the classes
    # from one.
    return {**raw, "label": raw["label"] - 1}


def _sentences(text: str) -> str:
    """Lines that end in ' .' as sentences; some copies of the data are tokenized throughout."""
    text = re.sub(r"(?m)(?<=[.!?:;,]) \.(?=\s|$)|(?<=\w) (?=\.$)", "", text)
    text = detokenized(text)
    return "\n".join(
        line if re.search(r"(^|[.!?…]['\"”’)]*)$", line) else line + "."
        for line in text.split("\n")
    )


def _article(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    # a link below old CNN stories
    article = re.sub(r"\bE-mail to a friend\s*(?:\.|$)", "", raw["article"]).strip()
    for pattern in _DATELINES:
        article = pattern.sub("", article, count=1)
    article, highlights = _sentences(article), _sentences(raw["highlights"])
    if not article or not highlights:
        return Drop("empty article or highlights")
    return {"article": article, "highlights": highlights, "answer": highlights}


def _headline(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    text, summary = (one_line(detokenized(raw[key])) for key in ("document", "summary"))
    if re.search(r"UNK|<unk>|#", text + summary):
        return Drop("masked word or number")
    if not text or not summary:
        return Drop("empty text or headline")
    return {"text": text, "summary": summary, "answer": summary}


def _articles(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    document = re.sub(r"</?(?:a|b|i|p|br|em|strong|span|div|img)\b[^<>]*>", " ", raw["document"])
    parts = [lines(part) for part in document.replace("NEWLINE_CHAR", "\n").split("|||||")]
    parts, summary = (
        [part for part in parts if part],
        one_line(raw["summary"]).removeprefix("–").strip(),
    )
    if not parts or not summary:
        return Drop("no article or no summary")
    articles = "\n\n".join(f"Article {number}: {part}" for number, part in enumerate(parts, 1))
    return {"articles": articles, "answer": summary}


def _story(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    story = {
        "title": one_line(raw["title"]),
        "text": lines(raw["text"]),
        "answer": lines(raw["summary"]),
    }
    return story if all(story.values()) else Drop("empty title, text or summary")


def _numbered(sequence: Any) -> tuple[list[str], str]:
    """The first ten opinions, and them as a numbered list."""
    values = [value for value in map(one_line, column(sequence, "value")) if value][:10]
    return values, "\n".join(f"{number}. {value}" for number, value in enumerate(values, 1))


def _consensus(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    values, reviews = _numbered(raw["_critics"])
    movie = one_line(raw["_movie_name"].replace("_", " "))
    consensus = one_line(re.sub(r"</?\w+>", "", raw["_critic_consensus"]))
    if not values or not movie or not consensus:
        return Drop("no review, title or consensus")
    return {"movie": movie, "reviews": reviews, "first_review": values[0], "answer": consensus}


def _claim(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    values, arguments = _numbered(raw["_argument_sentences"])
    debate, claim = one_line(raw["_debate_name"].replace("_", " ")), one_line(raw["_claim"])
    if not values or not debate or not claim:
        return Drop("no argument, debate or claim")
    return {"debate": debate, "arguments": arguments, "answer": claim}


def _chat(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    text = re.sub(r"<file_(\w+)>", r"(\1)", raw["dialogue"])
    lines = [one_line(line) for line in re.sub(r"<(\w+)>", r"(\1)", text).splitlines()]
    dialogue, summary = "\n".join(line for line in lines if line), one_line(raw["summary"])
    if not dialogue or not summary:
        return Drop("empty dialogue or summary")
    return {"dialogue": dialogue, "summary": summary, "answer": summary}


def _guide(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    # Some guides hold the address of an icon as JSON, and full stops stray where parts of the page
    # were joined.
    guide, steps = (
        re.sub(
            r"(?<=[.!?]) \.(?=\s|$)", "", lines(re.sub(r"\{\"smallUrl\".*?\}", " ", raw[key]))
        ).lstrip(". ")
        for key in ("source", "target")
    )
    if not guide or not steps:
        return Drop("empty guide or steps")
    return {"guide": guide, "steps": steps, "answer": steps}


def _report(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    document, summary = lines(raw["document"]), lines(raw["summary"])
    if not document or not summary:
        return Drop("empty document or summary")
    return {"document": document, "answer": summary}


AESLC = Dataset(
    name="aeslc",
    paper_dataset="AESLC",
    cluster="summarization",
    tfds="aeslc:1.0.0",
    hub=Hub("Yale-LILY/aeslc"),
    splits={"train": "train", "validation": "validation[-200:]", "test": "test"},
    rows={"train": 14_430},
    fields=("body",),
    row=_email,
    options=None,
    metrics=("rouge",),
    license="CC-BY-NC-SA-4.0",
    commercial=False,
    license_evidence="github.com/ryanzhumich/AESLC, LICENSE",
    templates=(
        Template("empty_subject", "Which subject should I give the email below?\n\n{body}"),
        Template("two_labels", "Email: {body}\nSubject:"),
        Template("question_last", "{body}\n\nWhat should the subject line of this message be?"),
        Template("fill_it_in", "The subject field is empty. Fill it in.\n\n{body}"),
        Template("at_a_glance", "What is this email about, at a glance?\n\n{body}"),
        Template("suggest_for_draft", "Suggest a subject for my draft.\n\n{body}"),
        Template("missing_subject", "Body: {body}\nMissing subject:"),
        Template(
            "few_words",
            "{body}\n\nSum up the email above in a few words, as one does in the subject field.",
        ),
        Template("short_heading", "Short heading for this message:\n{body}"),
        Template(
            "forwarding_note", "I am forwarding this note. What should the subject say?\n\n{body}"
        ),
    ),
)

AG_NEWS_SUBSET = Dataset(
    name="ag_news_subset",
    paper_dataset="AG News",
    cluster="summarization",
    tfds="ag_news_subset:1.0.0",
    hub=Hub("sh0416/ag_news", row=_topic_hub_row, assumed=True),
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 119_800},
    fields=("title", "text"),
    evidence=("text",),
    row=_topic,
    metrics=("accuracy",),
    options=("World", "Sports", "Business", "Science and technology"),
    license="LicenseRef-AG-News",
    commercial=False,
    license_evidence=(
        "groups.di.unipi.it/~gulli/AG_corpus_of_news_articles.html: non-commercial activity"
    ),
    templates=(
        Template(
            "section_label", "Title: {title}\nStory: {text}\nSection of the newspaper:\n{options}"
        ),
        Template(
            "which_topic", "Headline: {title}\n{text}\n\nWhich news topic is this?\n{options}"
        ),
        Template(
            "options_middle",
            "Under which topic would an online paper file the following article?\n{options}\n"
            "Headline: {title}\nArticle: {text}",
        ),
        Template(
            "options_first",
            "{options}\nAssign the right topic to this news item.\nItem: {title}\nDetails: {text}",
        ),
        Template(
            "named_choices",
            "Is this news story about world affairs, sports, business, or science and "
            "technology?\n{options}\nStory: {text}",
        ),
        Template("topic_of_story", "Topic of this story:\n{options}\n\n{text}"),
        Template(
            "feed_channel", "Which channel of a news feed should carry this?\n{text}\n{options}"
        ),
        Template("belongs_under", "{text}\n\nThis belongs under:\n{options}"),
        Template(
            "headline_from_text",
            "Write a headline for this news item.\n\n{text}",
            "{title}",
            "inverted",
        ),
        Template(
            "headline_for_pages",
            "A short report for the {answer} pages lacks its headline.\nReport: {text}\nHeadline:",
            "{title}",
            "inverted",
        ),
    ),
)

CNN_DAILYMAIL = Dataset(
    name="cnn_dailymail",
    paper_dataset="CNN-DM",
    cluster="summarization",
    tfds="cnn_dailymail:3.4.0",
    hub=Hub("abisee/cnn_dailymail", "3.0.0"),
    rows={"train": 287_040},
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    fields=("article", "highlights"),
    evidence=("article",),
    row=_article,
    options=None,
    metrics=("rouge",),
    license="NOASSERTION",
    commercial=None,
    license_evidence=(
        "Apache-2.0 in github.com/abisee/cnn-dailymail is the scripts'; the articles "
        "are the publishers'"
    ),
    templates=(
        Template("imperative", "Give the highlights of this news article.\n\n{article}"),
        Template("two_labels", "Article: {article}\nHighlights:"),
        Template("question_last", "{article}\n\nWhat are the main points of the story above?"),
        Template("key_facts", "List the key facts in short sentences.\n\n{article}"),
        Template(
            "must_know", "What must a hurried reader know? A few brief sentences.\n\n{article}"
        ),
        Template("three_or_four", "{article}\n\nThe story in three or four sentences, please."),
        Template("why_it_matters", "Who did what, and why does it matter?\n\n{article}"),
        Template(
            "condense_story",
            "Condense this story. Keep the names and figures that matter.\n\n{article}",
        ),
        Template("key_points", "Article: {article}\nKey points:"),
        Template(
            "article_from_these_points",
            "Write a news article that covers these points.\n\n{highlights}",
            "{article}",
            "inverted",
        ),
    ),
)

GIGAWORD = Dataset(
    name="gigaword",
    paper_dataset="Gigaword",
    cluster="summarization",
    tfds="gigaword:1.2.0",
    hub=Hub("Harvard/gigaword"),
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 2_044_370},
    fields=("text", "summary"),
    evidence=("text",),
    row=_headline,
    options=None,
    metrics=("rouge",),
    license="MIT",
    commercial=None,
    license_evidence=(
        "card of Harvard/gigaword on the hub; the texts are LDC's Gigaword, under a "
        "license for a fee"
    ),
    templates=(
        Template("imperative", "Write a headline for this sentence from a news agency: {text}"),
        Template("two_labels", "First sentence: {text}\nHeadline:"),
        Template(
            "eight_words",
            "{text}\n\nHow would the wire put this in a headline of about eight words?",
        ),
        Template("lower_case", "Shorten to a headline, in lower case.\n\n{text}"),
        Template("one_ticker_line", "Make one ticker line of this: {text}"),
        Template("gist", "What is the gist, in telegram style?\n{text}"),
        Template("headline_only", "{text}\n\nToo long. Give the headline only."),
        Template("down_to_the_core", "Cut this lead down to its core.\n{text}"),
        Template(
            "sentence_from_headline",
            "Write the first sentence of the news story with this headline: {summary}",
            "{text}",
            "inverted",
        ),
        Template(
            "full_sentence",
            "{summary}\n\nExpand this headline into one full sentence.",
            "{text}",
            "inverted",
        ),
    ),
)

MULTI_NEWS = Dataset(
    name="multi_news",
    paper_dataset="Multi-News",
    cluster="summarization",
    tfds="multi_news:2.1.0",
    hub=Hub("alexfabbri/multi_news"),
    rows={"train": 44_960},
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    fields=("articles",),
    row=_articles,
    options=None,
    metrics=("rouge",),
    license="LicenseRef-Multi-News",
    commercial=False,
    license_evidence=(
        "github.com/Alex-Fabbri/Multi-News, LICENSE: non-commercial research and education"
    ),
    templates=(
        Template(
            "same_event",
            "News outlets reported on the same event. Write one summary that combines their "
            "reports.\n\n{articles}",
        ),
        Template(
            "articles_first", "{articles}\n\nSummarize all of the coverage above in one text."
        ),
        Template(
            "each_fact_once",
            "Combine the coverage below into a single account that tells every fact only "
            "once.\n\n{articles}",
        ),
        Template(
            "what_sources_tell", "What do these sources tell us, taken together?\n\n{articles}"
        ),
        Template("all_sources", "{articles}\n\nSummary of all sources:"),
        Template(
            "without_originals",
            "Write a digest that can be understood without the originals.\n\n{articles}",
        ),
        Template("whole_story", "What is the whole story?\n\n{articles}"),
        Template("by_whom", "Press review: say what is reported, and by whom.\n\n{articles}"),
        Template("brief_me", "Brief me on this.\n\n{articles}"),
        Template("terse_merge", "Merge into one news summary.\n{articles}"),
    ),
)

NEWSROOM = Dataset(
    name="newsroom",
    paper_dataset="Newsroom",
    cluster="summarization",
    tfds="newsroom:1.0.0",
    hub=None,
    rows={"train": 994_560},
    license="LicenseRef-Newsroom",
    commercial=False,
    license_evidence="lil.nlp.cornell.edu/newsroom/download: agreement for research",
    manual="Register at https://summari.es/download/ and download the data. Put train.jsonl, "
    "dev.jsonl and test.jsonl "
    "into the manual directory of TFDS.",
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    fields=("title", "text"),
    evidence=("text",),
    row=_story,
    options=None,
    metrics=("rouge",),
    templates=(
        Template("imperative", "Summarize this article from a newspaper site: {text}"),
        Template("three_labels", "Title: {title}\nText: {text}\nSummary:"),
        Template(
            "search_description", "{text}\n\nWrite the description a search engine would show."
        ),
        Template(
            "share_with_headline",
            "Headline: {title}\nStory: {text}\nA sentence or two to share with it:",
        ),
        Template(
            "what_about", "What is this article about? Tell me in one to three sentences.\n\n{text}"
        ),
        Template("catalogue_abstract", "Write an abstract of this for our catalog.\n\n{text}"),
        Template(
            "below_the_headline",
            "Write the lines that stand between headline and article.\n\n"
            "Headline: {title}\nArticle: {text}",
        ),
        Template("what_would_i_learn", "What would I learn from reading this? Be brief.\n\n{text}"),
        Template(
            "think_of_title",
            "Think of a title for this newspaper article.\n\n{text}",
            "{title}",
            "inverted",
        ),
        Template(
            "title_from_both", "Abstract: {answer}\nArticle: {text}\nTitle:", "{title}", "inverted"
        ),
    ),
)

OPINION_ABSTRACTS_ROTTEN_TOMATOES = Dataset(
    name="opinion_abstracts_rotten_tomatoes",
    paper_dataset="Opin-Abs: Movie",
    cluster="summarization",
    tfds="opinion_abstracts/rotten_tomatoes:1.0.0",
    rows={"train": 3_130},
    license="NOASSERTION",
    commercial=None,
    license_evidence="none at web.eecs.umich.edu/~wangluxy/data.html",
    splits={"train": "train[:-600]", "validation": "train[-600:-500]", "test": "train[-500:]"},
    fields=("movie", "reviews", "first_review"),
    evidence=("reviews",),
    row=_consensus,
    options=None,
    metrics=("rouge",),
    templates=(
        Template("labels", "Film: {movie}\nReviews:\n{reviews}\nConsensus of the critics:"),
        Template(
            "read_and_state",
            "Read what critics wrote about {movie} and state their consensus in one "
            "sentence.\n\n{reviews}",
        ),
        Template("question_last", "{reviews}\n\nWhat do these reviewers of {movie} agree on?"),
        Template("one_line", "One line that sums up the critics on {movie}:\n{reviews}"),
        Template("in_short", "Reviews of {movie}:\n{reviews}\n\nIn short, what do critics think?"),
        Template("received", "How was {movie} received?\n\n{reviews}"),
        Template(
            "verdict_label",
            "Boil these opinions down to a verdict.\n{reviews}\nVerdict on {movie}:",
        ),
        Template(
            "cinema_programme",
            "A single sentence on {movie} for a cinema program, from these reviews:\n{reviews}",
        ),
        Template(
            "line_of_one_review",
            "Critics on the whole: {answer}\nA line from one review of {movie}:",
            "{first_review}",
            "inverted",
        ),
        Template(
            "fits_the_verdict",
            "Write a line from a review of {movie} that fits this verdict.\n{answer}",
            "{first_review}",
            "inverted",
        ),
    ),
)

OPINION_ABSTRACTS_IDEBATE = Dataset(
    name="opinion_abstracts_idebate",
    paper_dataset="Opin-Abs: iDebate",
    cluster="summarization",
    tfds="opinion_abstracts/idebate:1.0.0",
    rows={"train": 1_650},
    license="NOASSERTION",
    commercial=None,
    license_evidence="none at web.eecs.umich.edu/~wangluxy/data.html",
    splits={"train": "train[:-600]", "validation": "train[-600:-500]", "test": "train[-500:]"},
    fields=("debate", "arguments"),
    evidence=("arguments",),
    row=_claim,
    options=None,
    metrics=("rouge",),
    templates=(
        Template("labels", "Arguments:\n{arguments}\nClaim that they support:"),
        Template("being_claimed", "Debate: {debate}\n{arguments}\n\nWhat is being claimed?"),
        Template(
            "meant_to_prove",
            "{arguments}\n\nState in one sentence the point that all of this is meant to prove.",
        ),
        Template("so_what", "{arguments}\n\nSo what is the claim?"),
        Template("one_claim", "Reduce this argument to its one claim.\n{arguments}"),
        Template("point_in_one_sentence", "Put the point in one sentence.\n{arguments}"),
        Template(
            "heading",
            "Topic: {debate}\nReasons:\n{arguments}\nWhich claim would stand as the heading over "
            "these reasons?",
        ),
        Template(
            "no_details",
            "Without going into the details, say what is being argued here.\n{arguments}",
        ),
        Template(
            "name_the_debate",
            "Claim: {answer}\nArguments:\n{arguments}\nName the debate in which this was said.",
            "{debate}",
            "inverted",
        ),
        Template(
            "motion_debated",
            "{answer}\n\n{arguments}\n\nWhich motion is being debated here?",
            "{debate}",
            "inverted",
        ),
    ),
)

SAMSUM = Dataset(
    name="samsum",
    paper_dataset="SamSum",
    cluster="summarization",
    tfds="samsum:1.0.0",
    hub=Hub("knkarthick/samsum", assumed=True),
    manual="Download https://arxiv.org/src/1911.12237v2/anc/corpus.7z and unpack it. Put "
    "train.json, val.json and "
    "test.json into the manual directory of TFDS.",
    splits={"train": "train", "validation": "validation[:200]", "test": "test"},
    rows={"train": 14_730},
    fields=("dialogue", "summary"),
    evidence=("dialogue",),
    row=_chat,
    options=None,
    metrics=("rouge",),
    license="CC-BY-NC-ND-4.0",
    commercial=False,
    license_evidence="SAMSum paper (1911.12237), and the license in its archive",
    templates=(
        Template("imperative", "Summarize this chat.\n\n{dialogue}"),
        Template("two_labels", "Messages:\n{dialogue}\nWhat the messages say, in brief:"),
        Template("what_happens", "{dialogue}\n\nTell in brief what happens in this conversation."),
        Template("what_did_i_miss", "What did I miss?\n\n{dialogue}"),
        Template(
            "third_person_note",
            "Write a short note in the third person about the following exchange of text "
            "messages.\n{dialogue}",
        ),
        Template("who_tells_whom", "Who tells whom what, and what comes of it?\n\n{dialogue}"),
        Template("gist", "{dialogue}\n\nGive me the gist."),
        Template(
            "for_an_outsider",
            "Tell somebody who was not in this chat what they should know.\n\n{dialogue}",
        ),
        Template(
            "chat_from_summary",
            "Write a chat conversation that fits this summary: {summary}",
            "{dialogue}",
            "inverted",
        ),
        Template(
            "messages_with_senders",
            "{summary}\n\nWrite the text messages, each with its sender's name.",
            "{dialogue}",
            "inverted",
        ),
    ),
)

WIKI_LINGUA_ENGLISH_EN = Dataset(
    name="wiki_lingua_english_en",
    paper_dataset="Wiki Lingua EN",
    cluster="summarization",
    tfds="gem/wiki_lingua_english_en:1.1.0",
    hub=Hub("GEM/gem", "wiki_lingua_english_en"),
    rows={"train": 99_000},
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    fields=("guide", "steps"),
    evidence=("guide",),
    row=_guide,
    options=None,
    metrics=("rouge",),
    license="CC-BY-NC-SA-3.0",
    commercial=False,
    license_evidence="github.com/esdurmus/Wikilingua: WikiHow's license",
    templates=(
        Template(
            "imperative", "Summarize this how-to guide as a series of short steps.\n\n{guide}"
        ),
        Template("two_labels", "Guide: {guide}\nSteps in short:"),
        Template("question_last", "{guide}\n\nWhat are the main instructions in the text above?"),
        Template("heading_of_each_step", "Write a one-line heading for each step.\n\n{guide}"),
        Template("on_a_sticky_note", "Put this advice on a sticky note.\n\n{guide}"),
        Template("essential_steps", "Only the essential steps, please.\n\n{guide}"),
        Template(
            "imperative_sentences",
            "Summarize in imperative sentences, one for each piece of advice.\n\n{guide}",
        ),
        Template("condense", "Condense the following instructions: {guide}"),
        Template(
            "brief_commands",
            "What should somebody do who follows this text? Answer in brief commands.\n{guide}",
        ),
        Template(
            "explain_each_step",
            "Explain each of these steps in a few sentences.\n\n{steps}",
            "{guide}",
            "inverted",
        ),
    ),
)

XSUM = Dataset(
    name="xsum",
    paper_dataset="XSum",
    cluster="summarization",
    tfds="xsum:1.1.0",
    hub=Hub("EdinburghNLP/xsum"),
    manual="Run the scripts that "
    "https://github.com/EdinburghNLP/XSum/blob/master/XSum-Dataset/README.md describes. "
    "Pack the folder xsum-extracts-from-downloads as xsum-extracts-from-downloads.tar.gz and put "
    "that into the "
    "manual directory of TFDS.",
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    rows={"train": 203_560},
    fields=("document",),
    row=_report,
    options=None,
    metrics=("rouge",),
    license="NOASSERTION",
    commercial=None,
    license_evidence="none in github.com/EdinburghNLP/XSum for the articles, which are the BBC's",
    templates=(
        Template(
            "imperative", "Summarize the news report below in a single sentence.\n\n{document}"
        ),
        Template("two_labels", "Report: {document}\nOne-sentence summary:"),
        Template("question_last", "{document}\n\nIn one sentence, what is the news here?"),
        Template(
            "missing_first_sentence", "The first sentence is missing. Write it.\n\n{document}"
        ),
        Template("time_for_one_sentence", "I have time for one sentence on this.\n\n{document}"),
        Template("what_happened", "What happened? One sentence.\n\n{document}"),
        Template("archive_entry", "Write an archive entry of about twenty words.\n\n{document}"),
        Template("very_short", "Extremely short summary wanted.\n\n{document}"),
        Template("cut_to_one_sentence", "Cut this report down to one sentence.\n\n{document}"),
        Template(
            "whole_article",
            "Which sentence best captures what the following article reports as a whole? Write "
            "it in your own words.\n{document}",
        ),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (
    AESLC,
    CNN_DAILYMAIL,
    GIGAWORD,
    MULTI_NEWS,
    NEWSROOM,
    SAMSUM,
    XSUM,
    AG_NEWS_SUBSET,
    OPINION_ABSTRACTS_ROTTEN_TOMATOES,
    OPINION_ABSTRACTS_IDEBATE,
    WIKI_LINGUA_ENGLISH_EN,
)
