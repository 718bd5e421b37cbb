"""Summarization (11 datasets): emails, news, reviews, debates, chats and how-to guides; AG News asks for the topic."""

import html
import re

from flan_jax.data.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import column, detokenised, lines, one_line

# How CNN/DailyMail articles begin: what stands before the end of such a match is no part of the text.
_DATELINES = tuple(re.compile(pattern, re.DOTALL) for pattern in (
    # "By . A Name . PUBLISHED: . 09:10 EST, 4 May 2013 . | . UPDATED: . 10:02 EST, 4 May 2013 . Text"
    r"^.{0,300}?(?:\b(?:PUBLISHED|UPDATED|Last updated|Created)\b.{0,60}?\b(?:19|20)\d\d \.[\s|.]*)+",
    # "By . A Name . 4 May 2013 . Text", "By . Daily Mail Reporter . Text", "4 May 2013 . Text"
    r"^(?:By \. [^.]{2,60} \. )?(?:[\d:]{4,5} \w+, )?\d{1,2}(?:st|nd|rd|th)? [A-Z][a-z]+,? (?:19|20)\d\d \. ",
    r"^By \. [^.]{2,60} \. ",
    # "Editor's note: ... MIAMI, Florida (CNN) -- Text", "LONDON, England (Reuters)  -- Text"
    r"^.{0,600}?\((?:[^()]{0,30}\b)?(?:CNN|Reuters|AP|AFP)\b[^()]{0,30}\)\s*--\s*",
    # "(CNN)Text", "( cnn ) Text", "(Mental Floss) -- Text", "BREMEN, Germany -- Text"
    r"^\(\s*(?:CNN|cnn)\s*\)\s*",
    r"^(?:[A-Z][A-Z .'-]+[^()]{0,40})?\([^()]{2,40}\)\s*--\s*",
    r"^[A-Z][A-Z .'-]{2,40}(?:[,.] [A-Z][\w .'-]{2,40})? -- ",
))


def _mail_text(text):
    """Mail without the left-overs of quoted-printable: '=20' or '=09' for a blank, '=' where a line was broken."""
    blank = r"=(?:20|09)(?!\d)"
    if re.search(blank, text or ""):
        text = re.sub(blank, " ", re.sub(r"=\s", "", text)).replace("=01,", "'").replace("=3D", "=")
    return lines(text)


def _email(raw):
    body, subject = _mail_text(raw["email_body"]), one_line(_mail_text(raw["subject_line"]))
    if not body or not re.search(r"\w", subject):
        return Drop("empty body or subject")
    return {"body": body, "answer": subject}


def _unescape(text):
    """News text without the left-overs of HTML: there a blank stands for '&' and a backslash for a line break."""
    text = html.unescape(re.sub(r" (?=(?:#\d{2,4}|amp|quot|lt|gt|nbsp);)", "&", text or ""))
    text = re.sub(r"</?[A-Za-z][^<>]*>", " ", text).replace("\\$", "$").replace("\\", " ")
    return re.sub(r" (?=[,.](?:\s|$))", "", one_line(text))


def _topic(raw):
    title, text = _unescape(raw["title"]), _unescape(raw["description"]).lstrip(": ")
    if not title or not text:
        return Drop("empty title or text")
    return {"title": title, "text": text, "label": raw["label"]}


def _topic_hub_row(raw):
    # This copy, the only one on the hub that keeps title and description apart, counts the classes from one.
    return {**raw, "label": raw["label"] - 1}


def _sentences(text):
    """Lines that end in ' .' as sentences; some copies of the data are tokenised throughout."""
    text = re.sub(r"(?m)(?<=[.!?:;,]) \.(?=\s|$)|(?<=\w) (?=\.$)", "", text)
    text = detokenised(text)
    return "\n".join(line if re.search(r"(^|[.!?…]['\"”’)]*)$", line) else line + "." for line in text.split("\n"))


def _article(raw):
    article = re.sub(r"\bE-mail to a friend\s*(?:\.|$)", "", raw["article"]).strip()  # a link below old CNN stories
    for pattern in _DATELINES:
        article = pattern.sub("", article, count=1)
    article, highlights = _sentences(article), _sentences(raw["highlights"])
    if not article or not highlights:
        return Drop("empty article or highlights")
    return {"article": article, "highlights": highlights, "answer": highlights}


def _headline(raw):
    text, summary = (
        one_line(detokenised(raw[key])) for key in ("document", "summary"))
    if re.search(r"UNK|<unk>|#", text + summary):
        return Drop("masked word or number")
    if not text or not summary:
        return Drop("empty text or headline")
    return {"text": text, "summary": summary, "answer": summary}


def _articles(raw):
    document = re.sub(r"</?(?:a|b|i|p|br|em|strong|span|div|img)\b[^<>]*>", " ", raw["document"])
    parts = [lines(part) for part in document.replace("NEWLINE_CHAR", "\n").split("|||||")]
    parts, summary = [part for part in parts if part], one_line(raw["summary"]).removeprefix("–").strip()
    if not parts or not summary:
        return Drop("no article or no summary")
    articles = "\n\n".join(f"Article {number}: {part}" for number, part in enumerate(parts, 1))
    return {"articles": articles, "answer": summary}


def _story(raw):
    story = {"title": one_line(raw["title"]), "text": lines(raw["text"]), "answer": lines(raw["summary"])}
    return story if all(story.values()) else Drop("empty title, text or summary")


def _numbered(sequence):
    """The first ten opinions, and them as a numbered list."""
    values = [value for value in map(one_line, column(sequence, "value")) if value][:10]
    return values, "\n".join(f"{number}. {value}" for number, value in enumerate(values, 1))


def _consensus(raw):
    values, reviews = _numbered(raw["_critics"])
    movie = one_line(raw["_movie_name"].replace("_", " "))
    consensus = one_line(re.sub(r"</?\w+>", "", raw["_critic_consensus"]))
    if not values or not movie or not consensus:
        return Drop("no review, title or consensus")
    return {"movie": movie, "reviews": reviews, "first_review": values[0], "answer": consensus}


def _claim(raw):
    values, arguments = _numbered(raw["_argument_sentences"])
    debate, claim = one_line(raw["_debate_name"].replace("_", " ")), one_line(raw["_claim"])
    if not values or not debate or not claim:
        return Drop("no argument, debate or claim")
    return {"debate": debate, "arguments": arguments, "answer": claim}


def _chat(raw):
    text = re.sub(r"<file_(\w+)>", r"(\1)", raw["dialogue"])
    lines = [one_line(line) for line in re.sub(r"<(\w+)>", r"(\1)", text).splitlines()]
    dialogue, summary = "\n".join(line for line in lines if line), one_line(raw["summary"])
    if not dialogue or not summary:
        return Drop("empty dialogue or summary")
    return {"dialogue": dialogue, "summary": summary, "answer": summary}


def _guide(raw):
    # Some guides hold the address of an icon as JSON, and full stops stray where parts of the page were joined.
    guide, steps = (
        re.sub(r"(?<=[.!?]) \.(?=\s|$)", "", lines(re.sub(r"\{\"smallUrl\".*?\}", " ", raw[key]))).lstrip(". ")
        for key in ("source", "target"))
    if not guide or not steps:
        return Drop("empty guide or steps")
    return {"guide": guide, "steps": steps, "answer": steps}


def _report(raw):
    document, summary = lines(raw["document"]), lines(raw["summary"])
    if not document or not summary:
        return Drop("empty document or summary")
    return {"document": document, "answer": summary}


AESLC = Dataset(
    name="aeslc", paper_dataset="AESLC", cluster="summarization", tfds="aeslc:1.0.0", hub=Hub("Yale-LILY/aeslc"),
    splits={"train": "train", "validation": "validation[-200:]", "test": "test"}, rows={"train": 14_430},
    fields=("body",), row=_email, options=None, metrics=("rouge",),
    licence="CC-BY-NC-SA-4.0",
    commercial=False,
    licence_evidence="github.com/ryanzhumich/AESLC, LICENSE",
    templates=(
        Template("imperative", "Write a subject line for this email.\n\n{body}"),
        Template("two_labels", "Email: {body}\nSubject:"),
        Template("question_last", "{body}\n\nWhat should the subject line of this message be?"),
        Template("empty_field", "A colleague is about to send the message below and has left the subject field empty. "
                 "Fill it in.\n\n{body}"),
        Template("crowded_inbox", "In a crowded inbox only the subject is visible. Which subject would let the reader "
                 "see at a glance what this email is about? {body}"),
        Template("assistant_dialogue", "Assistant: Your draft has no subject yet. Shall I suggest one?\n"
                 "User: Yes, please. Here is the draft: {body}\nAssistant:"),
        Template("archive_entry", "Mail archive entry. Subject: missing. Body: {body}\nSupply the missing subject."),
        Template("few_words", "{body}\n\nSum up the email above in a few words, as one does in the subject field."),
        Template("post_room", "You sort the mail of a large energy company. Each message gets a short heading that "
                 "names its matter, be it a meeting, a contract or lunch.\nMessage: {body}\nHeading:"),
        Template("forwarding", "If you were to forward this note to your manager, what would you put in the subject "
                 "line? The note reads: {body}"),
    ),
)

AG_NEWS_SUBSET = Dataset(
    name="ag_news_subset", paper_dataset="AG News", cluster="summarization", tfds="ag_news_subset:1.0.0",
    hub=Hub("sh0416/ag_news", row=_topic_hub_row),
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"}, rows={"train": 119_800},
    fields=("title", "text"), evidence=("text",), row=_topic, metrics=("accuracy",),
    options=("World", "Sports", "Business", "Science and technology"),
    licence="LicenseRef-AG-News",
    commercial=False,
    licence_evidence="groups.di.unipi.it/~gulli/AG_corpus_of_news_articles.html: non-commercial activity",
    templates=(
        Template("section_label", "Title: {title}\nStory: {text}\nSection of the newspaper:\n{options}"),
        Template("title_after_text", "{text}\n\nThe headline above that story was \"{title}\".\n"
                 "Which news topic does the story belong to?\n{options}"),
        Template("options_middle", "Under which topic would an online paper file the following article?\n{options}\n"
                 "Headline: {title}\nArticle: {text}"),
        Template("options_first", "{options}\nAssign the right topic to this news item.\n"
                 "Item: {title}\nDetails: {text}"),
        Template("named_choices", "Is this news story about world affairs, sports, business, or science and "
                 "technology?\n{options}\nStory: {text}"),
        Template("intern_dialogue", "Intern: Where do I put this one? It is called \"{title}\".\nEditor: Read me "
                 "the start.\nIntern: {text}\nEditor: That goes under:\n{options}"),
        Template("feed_channels", "You run a news feed with one channel for each topic. A new item arrives: {text}\n"
                 "To which channel does it go?\n{options}"),
        Template("choosy_reader", "A reader who follows only one subject wants to know whether to open this article. "
                 "Name its subject.\nTitle: {title}\nOpening: {text}\n{options}"),
        Template("headline_from_text", "Write a headline for this news item.\n\n{text}", "{title}", "inverted"),
        Template("headline_for_pages", "A short report for the {answer} pages lacks its headline.\nReport: {text}\n"
                 "Headline:", "{title}", "inverted"),
    ),
)

CNN_DAILYMAIL = Dataset(
    name="cnn_dailymail", paper_dataset="CNN-DM", cluster="summarization", tfds="cnn_dailymail:3.4.0",
    hub=Hub("abisee/cnn_dailymail", "3.0.0"), rows={"train": 287_040},
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    fields=("article", "highlights"), evidence=("article",), row=_article, options=None, metrics=("rouge",),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="Apache-2.0 in github.com/abisee/cnn-dailymail is the scripts'; the articles are the publishers'",
    templates=(
        Template("imperative", "Give the highlights of this news article.\n\n{article}"),
        Template("two_labels", "Article: {article}\nHighlights:"),
        Template("question_last", "{article}\n\nWhat are the main points of the story above?"),
        Template("beside_the_story", "Readers of a news site see three or four short sentences beside every story, "
                 "each with one key fact. Write them for this story: {article}"),
        Template("hurried_reader", "Write what a hurried reader must know from the report below, in a few brief "
                 "sentences.\n\n{article}"),
        Template("anchor_dialogue", "Anchor: I have twenty seconds before we go on air. What is in this piece?\n"
                 "Piece: {article}\nProducer:"),
        Template("who_did_what", "Who did what, and why does it matter? Answer with a short summary of this report: "
                 "{article}"),
        Template("sub_editor", "You are the sub-editor who condenses long stories. Keep the names and figures that "
                 "matter and drop the rest.\nStory: {article}\nCondensed story:"),
        Template("bullet_points", "Above the article its key points are to be printed, one sentence each.\n"
                 "The article: {article}\nThe key points:"),
        Template("article_from_points", "Write a news article that covers these points: {highlights}", "{article}",
                 "inverted"),
    ),
)

GIGAWORD = Dataset(
    name="gigaword", paper_dataset="Gigaword", cluster="summarization", tfds="gigaword:1.2.0",
    hub=Hub("Harvard/gigaword"),
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"}, rows={"train": 2_044_370},
    fields=("text", "summary"), evidence=("text",), row=_headline, options=None, metrics=("rouge",),
    licence="MIT",
    commercial=None,
    licence_evidence="card of Harvard/gigaword on the hub; the texts are LDC's Gigaword, under a licence for a fee",
    templates=(
        Template("imperative", "Write a headline for this sentence from a news agency: {text}"),
        Template("two_labels", "First sentence: {text}\nHeadline:"),
        Template("eight_words", "{text}\n\nHow would the wire put this in a headline of about eight words?"),
        Template("lower_case", "Shorten to a headline, in lower case.\n\n{text}"),
        Template("ticker_line", "You write the news ticker and have one line. Make it from this opening sentence.\n"
                 "Opening: {text}\nTicker:"),
        Template("telegram_style", "What is the gist of the sentence below, in telegram style? {text}"),
        Template("desk_dialogue", "Reporter: My story starts like this: {text}\nDesk: That is too long for the top of "
                 "the page. Write instead:"),
        Template("core_only", "Compress the lead of this news story until only its core is left, without a full stop "
                 "at the end.\nLead: {text}"),
        Template("sentence_from_headline", "Write the first sentence of the news story with this headline: {summary}",
                 "{text}", "inverted"),
        Template("expand_headline", "\"{summary}\"\n\nExpand this headline of a news agency into one full sentence.",
                 "{text}", "inverted"),
    ),
)

MULTI_NEWS = Dataset(
    name="multi_news", paper_dataset="Multi-News", cluster="summarization", tfds="multi_news:2.1.0",
    hub=Hub("alexfabbri/multi_news"), rows={"train": 44_960},
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    fields=("articles",), row=_articles, options=None, metrics=("rouge",),
    licence="LicenseRef-Multi-News",
    commercial=False,
    licence_evidence="github.com/Alex-Fabbri/Multi-News, LICENSE: non-commercial research and education",
    templates=(
        Template("same_event", "News outlets reported on the same event. Write one summary that combines their "
                 "reports.\n\n{articles}"),
        Template("articles_first", "{articles}\n\nSummarise all of the coverage above in one text."),
        Template("each_fact_once", "Combine the coverage below into a single account that tells every fact only once."
                 "\n\n{articles}"),
        Template("taken_together", "What do these sources, taken together, tell us? {articles}"),
        Template("sources_label", "Sources on one story. {articles}\nSummary of all sources:"),
        Template("daily_digest", "You write the daily digest of a news service. From everything you have collected "
                 "about a story, compose a text that can be understood without the originals.\n{articles}\nDigest:"),
        Template("clippings_dialogue", "Manager: I have all these clippings and no time. What is the whole story?\n"
                 "{articles}\nAssistant:"),
        Template("press_review", "Press review. Read the coverage through to the end, then report what it says, and "
                 "name the outlets where that helps.\n{articles}"),
        Template("briefing", "Suppose you had to brief someone who has read none of the following pieces. What would "
                 "your summary be? {articles}"),
        Template("terse_merge", "Merge into one news summary.\n{articles}"),
    ),
)

NEWSROOM = Dataset(
    name="newsroom", paper_dataset="Newsroom", cluster="summarization", tfds="newsroom:1.0.0",
    hub=None, rows={"train": 994_560},
    licence="LicenseRef-Newsroom",
    commercial=False,
    licence_evidence="lil.nlp.cornell.edu/newsroom/download: agreement for research",
    manual="Register at https://summari.es/download/ and download the data. Put train.jsonl, dev.jsonl and test.jsonl "
           "into the manual directory of TFDS.",
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    fields=("title", "text"), evidence=("text",), row=_story, options=None, metrics=("rouge",),
    templates=(
        Template("imperative", "Summarise this article from a newspaper site: {text}"),
        Template("three_labels", "Title: {title}\nText: {text}\nSummary:"),
        Template("search_result", "{text}\n\nThe article above is headed \"{title}\".\nWrite the short description "
                 "that a search engine would show with it."),
        Template("shared_post", "A newspaper shares its stories online with a sentence or two beneath the headline.\n"
                 "Headline: {title}\nStory: {text}\nSentence or two to share:"),
        Template("what_about", "What is this article about? Tell me in one to three sentences.\n\n{text}"),
        Template("archive_dialogue", "Librarian: For the catalogue I need an abstract of the piece called "
                 "\"{title}\".\nPiece: {text}\nArchivist: The abstract reads:"),
        Template("standfirst", "Write the standfirst, the lines between headline and article that let readers know "
                 "what to expect.\nArticle: {text}"),
        Template("before_the_click", "You are an online editor. Readers have not yet decided whether to click on this "
                 "headline: \"{title}\". Describe in brief what the article tells them.\n{text}"),
        Template("think_of_title", "Think of a title for this newspaper article.\n\n{text}", "{title}", "inverted"),
        Template("title_from_both", "Abstract: {answer}\nArticle: {text}\nTitle:", "{title}", "inverted"),
    ),
)

OPINION_ABSTRACTS_ROTTEN_TOMATOES = Dataset(
    name="opinion_abstracts_rotten_tomatoes", paper_dataset="Opin-Abs: Movie", cluster="summarization",
    tfds="opinion_abstracts/rotten_tomatoes:1.0.0", rows={"train": 3_130},
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="none at web.eecs.umich.edu/~wangluxy/data.html",
    splits={"train": "train[:-600]", "validation": "train[-600:-500]", "test": "train[-500:]"},
    fields=("movie", "reviews", "first_review"), evidence=("reviews",), row=_consensus, options=None,
    metrics=("rouge",),
    templates=(
        Template("labels", "Film: {movie}\nReviews:\n{reviews}\nConsensus of the critics:"),
        Template("read_and_state", "Read what critics wrote about {movie} and state their consensus in one sentence."
                 "\n\n{reviews}"),
        Template("question_last", "{reviews}\n\nWhat do these reviewers of {movie} agree on?"),
        Template("line_above", "A film site prints one line above its reviews that tells what critics think on the "
                 "whole. Write that line for {movie}.\n{reviews}"),
        Template("friend_dialogue", "Friend: Is it worth a ticket? What, in short, do the critics say about {movie}?\n"
                 "Reviews: {reviews}\nYou:"),
        Template("how_received", "How was {movie} received by the press? Base your answer on these reviews.\n"
                 "{reviews}"),
        Template("verdict_label", "Boil these opinions down to a verdict.\n{reviews}\nVerdict on {movie}:"),
        Template("cinema_monthly", "You edit a monthly for cinemas and have room for a single sentence about each new "
                 "picture. The picture is {movie}, and reviewers had this to say: {reviews}\nYour sentence:"),
        Template("review_from_consensus", "Critics on the whole said of {movie}: {answer}\n"
                 "One of those critics put it like this in a line of the review:", "{first_review}", "inverted"),
        Template("fitting_excerpt", "Write a short excerpt from a press review of the film {movie} that fits this "
                 "overall verdict: {answer}", "{first_review}", "inverted"),
    ),
)

OPINION_ABSTRACTS_IDEBATE = Dataset(
    name="opinion_abstracts_idebate", paper_dataset="Opin-Abs: iDebate", cluster="summarization",
    tfds="opinion_abstracts/idebate:1.0.0", rows={"train": 1_650},
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="none at web.eecs.umich.edu/~wangluxy/data.html",
    splits={"train": "train[:-600]", "validation": "train[-600:-500]", "test": "train[-500:]"},
    fields=("debate", "arguments"), evidence=("arguments",), row=_claim, options=None, metrics=("rouge",),
    templates=(
        Template("labels", "Arguments:\n{arguments}\nClaim that they support:"),
        Template("debate_first", "In a debate entitled \"{debate}\", what is the claim that the following sentences "
                 "argue for?\n{arguments}"),
        Template("meant_to_prove", "{arguments}\n\nState in one sentence the point that all of this is meant to "
                 "prove."),
        Template("debating_club", "At a debating club the motion is \"{debate}\", and a speaker says this: "
                 "{arguments}\nSum up the speaker's claim."),
        Template("minutes", "You keep the minutes of a debate. Reduce the argument below to the one claim it makes.\n"
                 "{arguments}\nClaim for the minutes:"),
        Template("moderator_dialogue", "Speaker: {arguments}\nModerator: Thank you. Could you put your point in one "
                 "sentence?\nSpeaker:"),
        Template("heading", "Topic: {debate}\nReasons: {arguments}\nWhich claim would stand as the heading over these "
                 "reasons?"),
        Template("no_details", "Without going into the details, say what is being argued here.\n{arguments}"),
        Template("name_the_debate", "Claim: {answer}\nArguments: {arguments}\nName the debate in which this was said.",
                 "{debate}", "inverted"),
        Template("which_motion", "Which motion is being debated here? A speaker claims: {answer}\n"
                 "The reasons given are: {arguments}", "{debate}", "inverted"),
    ),
)

SAMSUM = Dataset(
    name="samsum", paper_dataset="SamSum", cluster="summarization", tfds="samsum:1.0.0", hub=Hub("knkarthick/samsum"),
    manual="Download https://arxiv.org/src/1911.12237v2/anc/corpus.7z and unpack it. Put train.json, val.json and "
           "test.json into the manual directory of TFDS.",
    splits={"train": "train", "validation": "validation[:200]", "test": "test"}, rows={"train": 14_730},
    fields=("dialogue", "summary"), evidence=("dialogue",), row=_chat, options=None, metrics=("rouge",),
    licence="CC-BY-NC-ND-4.0",
    commercial=False,
    licence_evidence="SAMSum paper (1911.12237), and the licence in its archive",
    templates=(
        Template("imperative", "Summarise this chat.\n\n{dialogue}"),
        Template("two_labels", "Messages:\n{dialogue}\nWhat the messages say, in brief:"),
        Template("what_happens", "{dialogue}\n\nTell in brief what happens in this conversation."),
        Template("missed_messages", "You were away from your phone and missed a conversation. Here it is: {dialogue}\n"
                 "What did you miss?"),
        Template("third_person_note", "Write a short note in the third person about the following exchange of text "
                 "messages.\n{dialogue}"),
        Template("who_tells_what", "Some people are texting one another. {dialogue}\nDescribe briefly who tells whom "
                 "what, and what comes of it."),
        Template("driver_dialogue", "Driver: I cannot look at the screen. What did they write, in short?\n"
                 "Screen: {dialogue}\nPassenger:"),
        Template("preview", "A phone sums up each conversation in its preview. Write the preview of this one: "
                 "{dialogue}"),
        Template("chat_from_summary", "Write a chat conversation that fits this summary: {summary}", "{dialogue}",
                 "inverted"),
        Template("imagine_messages", "{summary}\n\nImagine the text messages in which this took place and write them "
                 "out, each with the name of its sender.", "{dialogue}", "inverted"),
    ),
)

WIKI_LINGUA_ENGLISH_EN = Dataset(
    name="wiki_lingua_english_en", paper_dataset="Wiki Lingua EN", cluster="summarization",
    tfds="gem/wiki_lingua_english_en:1.1.0", hub=Hub("GEM/gem", "wiki_lingua_english_en"), rows={"train": 99_000},
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
    fields=("guide", "steps"), evidence=("guide",), row=_guide, options=None, metrics=("rouge",),
    licence="CC-BY-NC-SA-3.0",
    commercial=False,
    licence_evidence="github.com/esdurmus/Wikilingua: WikiHow's licence",
    templates=(
        Template("imperative", "Summarise this how-to guide as a series of short steps.\n\n{guide}"),
        Template("two_labels", "Guide: {guide}\nSteps in short:"),
        Template("question_last", "{guide}\n\nWhat are the main instructions in the text above?"),
        Template("lost_openings", "Each paragraph of a help page opened with a brief instruction, but these openings "
                 "were lost. Write them again, in order.\n{guide}"),
        Template("sticky_note", "How would you put this advice on a sticky note? {guide}"),
        Template("reader_dialogue", "Reader: I only need the essential steps, not all the explanations.\n"
                 "Explanations: {guide}\nAuthor:"),
        Template("site_maintainer", "You maintain a site of instructions written by volunteers. For the page below, "
                 "compose a summary in imperative sentences, one for each piece of advice.\n{guide}"),
        Template("condense", "Condense the following instructions: {guide}"),
        Template("brief_commands", "What should somebody do who follows this text? Answer in brief commands.\n"
                 "{guide}"),
        Template("explain_steps", "Explain each of these steps in a few sentences, as a how-to guide would. {steps}",
                 "{guide}", "inverted"),
    ),
)

XSUM = Dataset(
    name="xsum", paper_dataset="XSum", cluster="summarization", tfds="xsum:1.1.0", hub=Hub("EdinburghNLP/xsum"),
    manual="Run the scripts that https://github.com/EdinburghNLP/XSum/blob/master/XSum-Dataset/README.md describes. "
           "Pack the folder xsum-extracts-from-downloads as xsum-extracts-from-downloads.tar.gz and put that into the "
           "manual directory of TFDS.",
    splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"}, rows={"train": 203_560},
    fields=("document",), row=_report, options=None, metrics=("rouge",),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="none in github.com/EdinburghNLP/XSum for the articles, which are the BBC's",
    templates=(
        Template("imperative", "Summarise the news report below in a single sentence.\n\n{document}"),
        Template("two_labels", "Report: {document}\nOne-sentence summary:"),
        Template("question_last", "{document}\n\nIn one sentence, what is the news here?"),
        Template("first_sentence_missing", "The story below lacks its first sentence, the one that says what it is all "
                 "about. Write it.\n{document}"),
        Template("newsreader", "What would a newsreader say if there were time for just one sentence about this? "
                 "{document}"),
        Template("listener_dialogue", "Listener: I only caught the end of that item. What was it about?\n"
                 "Item: {document}\nPresenter, in one sentence:"),
        Template("archive_index", "You index the news archive of a broadcaster. The entry for every report is a "
                 "sentence of about twenty words with the essential who, what and where.\nReport: {document}\nEntry:"),
        Template("extremely_short", "Extremely short summary wanted. {document}"),
        Template("one_full_stop", "Your editor allows you one full stop, no more. Tell what this report says.\n"
                 "Report: {document}"),
        Template("whole_article", "Which sentence best captures what the following article reports as a whole? Write "
                 "it in your own words.\n{document}"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (
    AESLC, CNN_DAILYMAIL, GIGAWORD, MULTI_NEWS, NEWSROOM, SAMSUM, XSUM, AG_NEWS_SUBSET,
    OPINION_ABSTRACTS_ROTTEN_TOMATOES, OPINION_ABSTRACTS_IDEBATE, WIKI_LINGUA_ENGLISH_EN)
