"""What the row functions make of raw text, rule by rule.

Raw rows as TFDS gives them, through `read_row`.
"""

import importlib.util
import inspect
import sys

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, Drop
from flan_jax.catalogue.fingerprint import rendering_source, source_of_row
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.vocabulary import load_vocabulary
from flan_jax.tasks import cleaning


def news(article: str) -> dict:
    return {"article": article, "highlights": "A short text .\nAnother one ."}


def nli(premise: str, hypothesis: str = "It is so.") -> dict:
    return {"premise": premise, "hypothesis": hypothesis, "label": 0, "idx": 0}


def multirc(paragraph: str, answer: str = "Yes.") -> dict:
    return {
        "paragraph": paragraph,
        "question": "Is it so?",
        "answer": answer,
        "label": 1,
        "idx": {"paragraph": 0, "question": 0, "answer": 0},
    }


def cosmos(context: str, first: str = "One.") -> dict:
    return {
        "context": context,
        "question": "Why is it so ?",
        "answer0": first,
        "answer1": "Two.",
        "answer2": "Three.",
        "answer3": "Four.",
        "label": 0,
    }


def hellaswag(context: str, *endings: str) -> dict:
    return {
        "context": context,
        "activity_label": "Sport",
        "endings": list(endings) or ["a.", "b.", "c.", "d."],
        "label": 0,
    }


def trivia(question: str, value: str = "Oslo", *aliases: str) -> dict:
    return {"question": question, "answer": {"value": value, "aliases": list(aliases)}}


def boolq(passage: str, question: str = "is it so") -> dict:
    return {"question": question, "title": "T", "passage": passage, "answer": True}


def topic(description: str, title: str = "Title") -> dict:
    return {"title": title, "description": description, "label": 0}


def text(sentence: str) -> dict:
    return {"text": sentence, "label": 0}


def sst2(sentence: str) -> dict:
    return {"sentence": sentence, "label": 0, "idx": 0}


def pair(first: str) -> dict:
    return {"sentence1": first, "sentence2": "Another one .", "label": 0, "idx": 0}


def webnlg(*triples: str) -> dict:
    return {"input": list(triples), "category": "SportsTeam", "target": "A text.", "references": []}


def mail(body: str) -> dict:
    return {"email_body": body, "subject_line": "Subject"}


# dataset, field, raw row, the field expected.
RULES = {
    # Tokenised text, rejoined.
    "marks": (
        "sst2",
        "sentence",
        sst2("well , it works ; a bit late : no ? yes !"),
        "well, it works; a bit late: no? yes!",
    ),
    "contractions": (
        "sst2",
        "sentence",
        sst2("it 's fine , they do n't , ca n't , wo n't , i 'll and we 'd"),
        "it's fine, they don't, can't, won't, i'll and we'd",
    ),
    "penn_quotes": (
        "sst2",
        "sentence",
        sst2("a `` fine '' film , `` the end . ''"),
        'a "fine" film, "the end."',
    ),
    "penn_quotes_before_a_mark": (
        "sst2",
        "sentence",
        sst2("like `` the end '' , but `` new '' ."),
        'like "the end", but "new".',
    ),
    "quote_without_partner": (
        "sst2",
        "sentence",
        sst2("as if to say , `` look at this !"),
        'as if to say, "look at this!',
    ),
    "single_quotes": (
        "sst2",
        "sentence",
        sst2("as ` chick flicks ' go , it is ` new ' ."),
        "as 'chick flicks' go, it is 'new'.",
    ),
    "possessive_after_s": ("sst2", "sentence", sst2("the girls ' plan"), "the girls' plan"),
    "escaped_slash": (
        "sst2",
        "sentence",
        sst2("writer\\/director , 9 1\\/2 weeks and \\* stars"),
        "writer/director, 9 1/2 weeks and * stars",
    ),
    "dollars_and_percent": (
        "sst2",
        "sentence",
        sst2("it cost $ 1.8 million , 40 % more"),
        "it cost $1.8 million, 40% more",
    ),
    "brackets": (
        "glue_mrpc",
        "sentence1",
        pair("The list ( of 1999 ) , he said [ twice ] ."),
        "The list (of 1999), he said [twice].",
    ),
    "quotes_across": (
        "glue_mrpc",
        "sentence1",
        pair('" We won , " she said .'),
        '"We won," she said.',
    ),
    "quote_that_only_closes": (
        "glue_mrpc",
        "sentence1",
        pair('He was late , " Li said .'),
        'He was late," Li said.',
    ),
    "apostrophe_in_three": ("glue_mrpc", "sentence1", pair("They don 't say ."), "They don't say."),
    "ellipsis": (
        "glue_mrpc",
        "sentence1",
        pair("A hundred years . . . a hundred heroes ."),
        "A hundred years... a hundred heroes.",
    ),
    "time_of_day": (
        "glue_mrpc",
        "sentence1",
        pair("It ends at 12 : 01 a.m. today ."),
        "It ends at 12:01 a.m. today.",
    ),
    "mark_at_the_end": ("glue_mrpc", "sentence1", pair("It ends (today)"), "It ends (today)."),
    "quotes_the_wrong_way_round": (
        "paws_wiki",
        "sentence1",
        pair("He wrote '' My Town `` by A . B . and '' Our Sea `` ."),
        'He wrote "My Town" by A. B. and "Our Sea".',
    ),
    "doubled_quotes_of_a_table": (
        "glue_qqp",
        "question1",
        {"question1": 'What does ""ok"" mean', "question2": "b?", "label": 0, "idx": 0},
        'What does "ok" mean?',
    ),
    "trec": (
        "trec",
        "text",
        {"text": "What 's `` the end '' in French ?", "label-coarse": 0, "label-fine": 0},
        'What\'s "the end" in French?',
    ),
    "wsc": (
        "wsc",
        "sentence",
        {
            "text": "Tom 's dog ran , and he was glad .",
            "span1_text": "Tom",
            "span1_index": 0,
            "span2_text": "he",
            "span2_index": 6,
            "label": 1,
            "idx": 0,
        },
        "Tom's dog ran, and [he] was glad.",
    ),
    "winogrande": (
        "winogrande",
        "options",
        {
            "sentence": "Ann met Bea 's son , and _ 's bag fell .",
            "option1": "Ann",
            "option2": "Bea",
            "label": 0,
        },
        ["Ann's bag fell.", "Bea's bag fell."],
    ),
    "quote_before_the_gap": (
        "winogrande",
        "context",
        {
            "sentence": 'Ann met Bea and said , " _ is here . "',
            "option1": "Ann",
            "option2": "Bea",
            "label": 0,
        },
        'Ann met Bea and said, "',
    ),
    "cosmos": (
        "cosmos_qa",
        "context",
        cosmos("I did n't go ( yet ) . It 's late ."),
        "I didn't go (yet). It's late.",
    ),
    "cosmos_split_contractions": (
        "cosmos_qa",
        "context",
        cosmos("I ' m late , I ' ve no bus and it wo nt wait . that s it , i m gon na walk ."),
        "I'm late, I've no bus and it won't wait. that's it, i'm gonna walk.",
    ),
    "cosmos_spaced_hyphens": (
        "cosmos_qa",
        "context",
        cosmos(
            "My step - sister , 18 - year - old Ann , sent an e - mail - I read it in Wilmer - "
            "Davis , face - to - face with my mother - in - law , from 10 - 12 ."
        ),
        "My step-sister, 18-year-old Ann, sent an e-mail - I read it in Wilmer-Davis, face-to-face "
        "with my mother-in-law, from 10-12.",
    ),
    "cosmos_quotation_marks": (
        "cosmos_qa",
        "context",
        cosmos('She said" I am fine " , and he , " so am I "and left , the \' old \' way .'),
        'She said "I am fine", and he, "so am I" and left, the \'old\' way.',
    ),
    "cosmos_apostrophes": (
        "cosmos_qa",
        "context",
        cosmos("Boys ' bags , the girls ' books , rock ' n ' roll , get ' em goin ' on ."),
        "Boys' bags, the girls' books, rock 'n' roll, get 'em goin' on.",
    ),
    "quotations_after_their_lead": (
        "cosmos_qa",
        "context",
        cosmos(
            "He said , ' no way , ' and called it ' odd ' . Known as ' Bo ' , he wrote : ' hi ' ."
        ),
        "He said, 'no way,' and called it 'odd'. Known as 'Bo', he wrote: 'hi'.",
    ),
    "quotation_behind_a_sentence": (
        "cosmos_qa",
        "context",
        cosmos("She left . ' I am off , ' she said of the boys ' bags ."),
        "She left. 'I am off,' she said of the boys' bags.",
    ),
    "a_mark_too_many_before_a_quotation": (
        "cosmos_qa",
        "context",
        cosmos(
            "It is his ' story . Known as ' odd ' , it has the ' old ' ways of the boys ' bags ."
        ),
        "It is his 'story. Known as 'odd', it has the 'old' ways of the boys' bags.",
    ),
    "penn_brackets": (
        "cosmos_qa",
        "context",
        cosmos("He -LRB- not she -RRB- paid 10 , 000 -LSB- ? -RSB- ."),
        "He (not she) paid 10,000 [?].",
    ),
    "no_hyphen_in_ordinary_text": (
        "rte",
        "premise",
        nli("He has done it all - almost. Oslo - The half - empty one."),
        "He has done it all - almost. Oslo - The half - empty one.",
    ),
    "curly_marks": (
        "cnn_dailymail",
        "article",
        news("‘ I don ’ t know , ’ he said , “ yet ” ."),
        "‘I don’t know,’ he said, “yet”.",
    ),
    "news_tokenized_throughout": (
        "cnn_dailymail",
        "article",
        news("It 's `` late , `` says the 37-year - old 's £ 7,000 -lrb- $ 9,000 -rrb- ."),
        "It's \"late,\" says the 37-year-old's £7,000 ($9,000).",
    ),
    "headline": (
        "gigaword",
        "text",
        {"document": "oslo 's port , one of norway 's best , is open .", "summary": "s"},
        "oslo's port, one of norway's best, is open.",
    ),
    "word_in_context": (
        "wic",
        "sentence1",
        {
            "word": "show",
            "sentence1": "The show , they said , was over .",
            "sentence2": "b",
            "label": 0,
        },
        "The show, they said, was over.",
    ),
    "short_answers_of_nq": (
        "natural_questions",
        "references",
        {"question": "when was it", "answer": ["March 2 , 2016", "the king 's men"]},
        ["March 2, 2016", "the king's men"],
    ),
    "controls": (
        "rte",
        "premise",
        nli("It was \x93ok\x94 \x96 the cafÃ© of Iraqâ€™s\x07 town\ufeff."),
        "It was “ok” – the café of Iraq’s town.",
    ),
    "csv_field_of_qqp": (
        "glue_qqp",
        "question1",
        {"question1": '"What, if any, is ""ok""?"', "question2": "b?", "label": 0, "idx": 0},
        'What, if any, is "ok"?',
    ),
    "two_quotations_of_qqp": (
        "glue_qqp",
        "question1",
        {"question1": '"A" or "B"', "question2": "b?", "label": 0, "idx": 0},
        '"A" or "B"',
    ),
    "csv_field_of_arc": (
        "arc_easy",
        "question",
        {
            "question": 'Which is ""wet""?',
            "answerKey": "A",
            "choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]},
        },
        'Which is "wet"?',
    ),
    "cosmos_none_of_the_above": (
        "cosmos_qa",
        "options",
        cosmos("A b c.", "None of the above choices ."),
        ["None of the other answers.", "Two.", "Three.", "Four."],
    ),
    # NLI.
    "entity": ("rte", "premise", nli("A &amp; B won"), "A & B won."),
    "second_full_stop": ("rte", "premise", nli("It is over. ."), "It is over."),
    "wiki_tags": (
        "anli_r1",
        "context",
        {
            "context": "<nowiki>'</nowiki>Bo<ref name=\"x\"> </ref> {'1': \", '2': \"} ran",
            "hypothesis": "x",
            "label": 0,
            "uid": "",
            "reason": "",
        },
        "'Bo ran.",
    ),
    "marks_of_steps": (
        "anli_r3",
        "context",
        {
            "context": "Set space aside. [substeps] Water it.",
            "hypothesis": "x",
            "label": 0,
            "uid": "",
            "reason": "",
        },
        "Set space aside. Water it.",
    ),
    "line_breaks": (
        "anli_r1",
        "context",
        {
            "context": "Gift<br>I saw it .<BR/><br>So ?",
            "hypothesis": "x",
            "label": 0,
            "uid": "",
            "reason": "",
        },
        "Gift.\nI saw it.\nSo?",
    ),
    "clause_of_cb": ("cb", "hypothesis", nli("He left .", "that Ann knew it."), "Ann knew it"),
    "qnli_question": (
        "qnli",
        "question",
        {"question": "Who was it", "sentence": "Bo.", "label": 0, "idx": 0},
        "Who was it?",
    ),
    # Reading comprehension.
    "boolq_question": (
        "bool_q",
        "question",
        boolq("P.", "can i go if i'm late"),
        "Can I go if I'm late?",
    ),
    "boolq_quotes": (
        "bool_q",
        "passage",
        boolq("The ``Dr'' or ``Dr.'', 'Well, luck.''' as ''told''."),
        'The "Dr" or "Dr.", \'Well, luck.\'" as "told".',
    ),
    "multirc_opening_quote": (
        "multirc",
        "paragraph",
        multirc("It was new . ''I saw it , '' he said ."),
        'It was new. "I saw it," he said.',
    ),
    "multirc_answer_in_quotes": (
        "multirc",
        "response",
        multirc("P.", '"The Lone Fox"'),
        "The Lone Fox",
    ),
    "drop_entities": (
        "drop",
        "context",
        {"passage": "ran 94&#160;yards", "question": "q?", "answer": "94", "validated_answers": []},
        "ran 94 yards",
    ),
    "drop_dates": (
        "drop",
        "answer",
        {"passage": "p", "question": "q?", "answer": "1967-June-13", "validated_answers": []},
        "13 June 1967",
    ),
    "quac_end_mark": (
        "quac",
        "context",
        {
            "title": "T",
            "section_title": "S",
            "context": "He sang. CANNOTANSWER",
            "question": "What?",
            "orig_answer": {"text": "sang"},
            "answers": {"text": ["sang"]},
        },
        "He sang.",
    ),
    # Trivia.
    "csv_quotes": (
        "trivia_qa",
        "question",
        trivia('"What is called ""the gap""?"'),
        'What is called "the gap"?',
    ),
    "csv_field_cut_short": (
        "trivia_qa",
        "answer",
        trivia("Who?", '"The long way to the to'),
        "The long way to the to",
    ),
    "csv_field_with_a_comma": (
        "trivia_qa",
        "question",
        trivia('"Of two, who won?"'),
        "Of two, who won?",
    ),
    "answer_in_quotes": ("trivia_qa", "answer", trivia("Which?", '"The Lone Fox"'), "The Lone Fox"),
    "answer_in_marks_of_its_own": (
        "trivia_qa",
        "answer",
        trivia("Which?", '"""The Lone Fox"""'),
        "The Lone Fox",
    ),
    "capitals_in_quotes": (
        "trivia_qa",
        "answer",
        trivia("Which?", "'LONE FOX'", "Lone Fox", "'LONE FOX'"),
        "Lone Fox",
    ),
    "capitals_word_by_word": (
        "trivia_qa",
        "answer",
        trivia("Which?", "THE RIVER OF HENRY IV", "Henry IV's river"),
        "The river of Henry IV",
    ),
    "capitals_without_an_alias": (
        "trivia_qa",
        "answer",
        trivia("Which?", "TIGHT ROPE WALKER"),
        "Tight Rope Walker",
    ),
    "abbreviation_with_a_slip": (
        "trivia_qa",
        "answer",
        trivia("Which?", "NBA", "Nba", "NBA teams"),
        "NBA",
    ),
    "numeral_in_capitals": (
        "trivia_qa",
        "answer",
        trivia("Which?", "KING HENRY VIII"),
        "King Henry VIII",
    ),
    "quotation_cut_short": ("trivia_qa", "answer", trivia("Which?", "'THE LONE FO"), "The Lone Fo"),
    "abbreviation": (
        "trivia_qa",
        "answer",
        trivia("Which?", "SWIFT", "SWIFT (code)", "SWIFT"),
        "SWIFT",
    ),
    "marks_of_trivia": (
        "trivia_qa",
        "question",
        trivia("In \x91Bo' , who won ?"),
        "In ‘Bo', who won?",
    ),
    "question_mark": (
        "trivia_qa",
        "question",
        trivia("Oslo is the capital of which state"),
        "Oslo is the capital of which state?",
    ),
    "request": (
        "trivia_qa",
        "question",
        trivia("Name the capital of Norway"),
        "Name the capital of Norway.",
    ),
    "ordinary_case": (
        "trivia_qa",
        "answer",
        trivia("q?", "ANN LEE", "Ann Lee", "ann lee"),
        "Ann Lee",
    ),
    # Commonsense.
    "guide_marks": (
        "hellaswag",
        "context",
        hellaswag("[header] How to iron [title] Make a paste. [step] Mix it. now"),
        "How to iron. Make a paste. Mix it. Now",
    ),
    "ending_marks": (
        "hellaswag",
        "options",
        hellaswag("A man runs.", ", he falls.", "[substeps] b.", "c.", "d."),
        ["he falls.", "b.", "c.", "d."],
    ),
    "unfinished_goal": (
        "piqa",
        "goal",
        {"goal": "to open a jar, you can", "sol1": "a", "sol2": "b", "label": 0},
        "To open a jar, you can ...",
    ),
    "goal_with_a_comma": (
        "piqa",
        "goal",
        {"goal": "To open a jar,", "sol1": "a", "sol2": "b", "label": 0},
        "To open a jar ...",
    ),
    "candidate_as_in_the_sentence": (
        "definite_pronoun_resolution",
        "options",
        {
            "sentence": "Bees left the flowers when they ran dry.",
            "pronoun": "they",
            "candidates": ["Bees", "Flowers"],
            "label": 1,
        },
        ["Bees", "flowers"],
    ),
    "goal": (
        "piqa",
        "goal",
        {"goal": "open a jar", "sol1": "a", "sol2": "b", "label": 0},
        "Open a jar.",
    ),
    # Sentiment.
    "html_breaks": (
        "imdb_reviews",
        "text",
        text("Bad.<br /><br />Very <b>bad.<br />"),
        "Bad.\nVery <b>bad.",
    ),
    "windows_dashes": (
        "imdb_reviews",
        "text",
        text("Good \x96 no, \x93great\x94"),
        "Good – no, “great”",
    ),
    "tweet_entities": (
        "sentiment140",
        "text",
        {
            "text": "me &amp; you &lt;3 &quot;ok&quot;",
            "polarity": 4,
            "date": "",
            "user": "",
            "query": "",
        },
        'me & you <3 "ok"',
    ),
    "yelp_escapes": (
        "yelp_polarity_reviews",
        "text",
        text('A \\""great\\"" bar.\\n\\nGo!'),
        'A "great" bar.\n\nGo!',
    ),
    # Struct to text.
    "webnlg_cells": (
        "web_nlg_en",
        "triples",
        webnlg('A_B | cityServed | "Oslo, Norway"', 'C | time | "52.0"(minutes)'),
        "A B | city served | Oslo, Norway; C | time | 52.0 (minutes)",
    ),
    "restaurant": (
        "e2e_nlg",
        "text",
        {
            "meaning_representation": "name[A], priceRange[£20-25]",
            "target": "A is a kid - friendly pub , at £ 20 - 25 .",
            "references": [],
        },
        "A is a kid-friendly pub, at £20-25.",
    ),
    "restaurant_rating": (
        "e2e_nlg",
        "text",
        {
            "meaning_representation": "name[A], area[riverside]",
            "references": [],
            "target": "A is a highly - rated , fast - food take - away .",
        },
        "A is a highly-rated, fast-food take-away.",
    ),
    "restaurant_prices": (
        "e2e_nlg",
        "attributes",
        {
            "meaning_representation": "name[A], priceRange[£ 20 - 25]",
            "target": "A.",
            "references": [],
        },
        "name: A; price range: £20-25",
    ),
    "dart_entities": (
        "dart",
        "facts",
        {"tripleset": [["A", "OWNER", "B &amp; C"]], "target": "T.", "references": []},
        "A OWNER B & C",
    ),
    "webnlg_category": ("web_nlg_en", "category", webnlg("a | b | c"), "sports team"),
    "dart_cells": (
        "dart",
        "facts",
        {"tripleset": ['[TABLECONTEXT] [TITLE] "Bo_Lee"'], "target": "T.", "references": []},
        "TABLE TITLE Bo Lee",
    ),
    # Summaries.
    "broken_lines_of_mail": (
        "aeslc",
        "body",
        mail("the pla= n is\nn=5. The to=\nll"),
        "the plan is\nn=5. The toll",
    ),
    "equals_signs_of_mail": ("aeslc", "body", mail("x= y and\nz = 5"), "x= y and\nz = 5"),
    "quoted_printable": (
        "aeslc",
        "body",
        mail("the pla= n is =3D 5.=20\nThe toll=  is new= \nand don=01,t go"),
        "the plan is = 5.\nThe toll is new\nand don't go",
    ),
    "news_entities": (
        "ag_news_subset",
        "text",
        topic("Ann #39;s AT amp;T wins  #36;5  quot;now quot;"),
        'Ann\'s AT&T wins $5 "now"',
    ),
    "news_tags": (
        "ag_news_subset",
        "text",
        topic('At Dell &lt;A HREF="x"&gt;DELL.O&lt;/A&gt; , it\\says \\$5 ok'),
        "At Dell DELL.O, it says $5 ok",
    ),
    "cnn_dateline": (
        "cnn_dailymail",
        "article",
        news("OSLO, Norway (CNN) -- It rained .\nAll day ."),
        "It rained.\nAll day.",
    ),
    "cnn_short_dateline": ("cnn_dailymail", "article", news("(CNN)It rained ."), "It rained."),
    "cnn_editors_note": (
        "cnn_dailymail",
        "article",
        news("Editor's note: Bo writes. OSLO, Norway (CNN) -- It rained."),
        "It rained.",
    ),
    "mail_dateline": (
        "cnn_dailymail",
        "article",
        news(
            "By . Bo Lee . PUBLISHED: . 09:10 EST, 4 May 2013 . | . UPDATED: . 10:02 EST, 4 May "
            "2013 . It rained ."
        ),
        "It rained.",
    ),
    "cnn_link": ("cnn_dailymail", "article", news("It rained. E-mail to a friend ."), "It rained."),
    "mail_lines": (
        "aeslc",
        "body",
        mail("Dear Ann,\r\n\r\n\r\n\r\n  see  you.\nBo"),
        "Dear Ann,\n\nsee you.\nBo",
    ),
    "paragraphs": (
        "squad_v1",
        "context",
        {"context": "One.\n\nTwo.", "question": "q?", "answers": {"text": ["a"]}},
        "One.\n\nTwo.",
    ),
    "record_highlights": (
        "record",
        "passage",
        {
            "passage": "Bo won.\nAnn lost.\n@highlight\n\nBo is glad\n@highlight\n\nAnn is not",
            "query": "@placeholder won",
            "entities": ["Bo", "Ann"],
            "answers": ["Bo"],
            "idx": {"passage": 0, "query": 0},
        },
        "Bo won.\nAnn lost.\nIn brief:\nBo is glad.\nAnn is not.",
    ),
    "report_lines": (
        "xsum",
        "document",
        {"document": "It rained.\nAll day.", "summary": "s"},
        "It rained.\nAll day.",
    ),
    "highlights": ("cnn_dailymail", "answer", news("It rained."), "A short text.\nAnother one."),
    "headline_brackets": (
        "gigaword",
        "text",
        {"document": "a -lrb- b -rrb- c", "summary": "s"},
        "a (b) c",
    ),
    "multi_news": (
        "multi_news",
        "articles",
        {"document": 'One <a href="x">two</a> NEWLINE_CHAR three ||||| Four', "summary": "– So."},
        "Article 1: One two\nthree\n\nArticle 2: Four",
    ),
    "multi_news_summary": (
        "multi_news",
        "answer",
        {"document": "One", "summary": "– So it is."},
        "So it is.",
    ),
    "consensus": (
        "opinion_abstracts_rotten_tomatoes",
        "answer",
        {
            "_movie_name": "A_B",
            "_movie_id": "0",
            "_critic_consensus": "<em>Slow</em> but fine.",
            "_critics": {"key": ["0"], "value": ["Fine."]},
        },
        "Slow but fine.",
    ),
    "chat_files": (
        "samsum",
        "dialogue",
        {"id": "0", "dialogue": "A: <file_photo>\r\nB: ok  :)", "summary": "s"},
        "A: (photo)\nB: ok :)",
    ),
    "guide_icons": (
        "wiki_lingua_english_en",
        "guide",
        {"source": '. Open Start {"smallUrl":"x"}. Go on. . Stop.', "target": "t"},
        "Open Start . Go on. Stop.",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule(rule):
    name, field, raw, expected = RULES[rule]
    row = read_row(CATALOGUE[name], raw)
    assert not isinstance(row, Drop), row
    assert row[field] == expected


# Texts that are right as they are.
RIGHT = {
    "address": "See https://a.org/b?c=d&e=1,2;f and mail ann.lee@b-c.org.",
    "numbers": "It grew by 3.5 to 1,250,000.75 at 9:30 p.m., or .5 percent (-2.1%).",
    "abbreviations": "The U.S. and Mr. Lee, i.e. the St. Mary's Co. Inc., won.",
    "hyphens": "A well-known film - the best - ran 1999-2001 -- twice.",
    "quotes": "\"I heard 'no' and 'yes',\" she said, \"and 'the end.'\"",
    "non_ascii": "Zoë said: « Ça va » – “naïve” 北京，好。 Привет, мир!",
    "code": "Call std::sort(a[0], b) {x: 1} with f(x) == 'y' && !z; then $HOME/.bashrc.",
    "ellipses": "Well... he ... left … and .NET 4.0 stayed.",
    "contractions": "It's Ann's; they don't, can't and won't say 'tis so.",
    "word_after_an_apostrophe": (
        "In Breda, 's-Hertogenbosch and 's-Gravenhage, rock 'n' roll of the '90s."
    ),
    "letter_in_quotes": "The letter 's' and the word 'm' stay, and so does 'd-day'.",
    "sentence_that_begins_with_s": "He left. 's all he said.",
    "dashes": (
        "One thing - it works - is new, and 20 - 30 of the well - known ones (1924 - 2012) are not."
    ),
    "smileys": "So sad :( but fine :) and ;) too.",
    "quote_with_a_blank": 'Known as "Bo" and "Li", the 5" disc.',
    "less_than": "If 3 < 5 and 7 > 2, then it is 5% of $40.",
}
FREE_TEXT = {
    "sst2": ("sentence", sst2),
    "glue_mrpc": ("sentence1", pair),
    "rte": ("premise", nli),
    "cb": ("premise", nli),
    "multirc": ("paragraph", multirc),
    "cosmos_qa": ("context", cosmos),
    "bool_q": ("passage", boolq),
    "imdb_reviews": ("text", text),
    "yelp_polarity_reviews": ("text", text),
    "hellaswag": ("context", hellaswag),
    "cnn_dailymail": ("article", news),
    "ag_news_subset": ("text", topic),
    "aeslc": ("body", mail),
    "stsb": ("sentence1", pair),
    "trec": ("text", lambda t: {"text": t, "label-coarse": 0, "label-fine": 0}),
    "squad_v1": ("context", lambda t: {"context": t, "question": "q?", "answers": {"text": ["a"]}}),
    "wmt14_enfr": ("english", lambda t: {"en": t, "fr": "x"}),
    "multi_news": ("articles", lambda t: {"document": t, "summary": "s"}),
    "coqa": (
        "story",
        lambda t: {"story": t, "questions": ["a?", "b?"], "answers": {"input_text": ["a", "b"]}},
    ),
    "xsum": ("document", lambda t: {"document": t, "summary": "s"}),
    "qnli": ("sentence", lambda t: {"question": "q?", "sentence": t, "label": 0}),
}


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.parametrize("name", FREE_TEXT)
def test_a_text_that_is_right_stays(name, kind):
    field, raw = FREE_TEXT[name]
    assert (
        read_row(CATALOGUE[name], raw(RIGHT[kind]))[field].removeprefix("Article 1: ")
        == RIGHT[kind]
    )


@pytest.mark.parametrize(
    "name",
    [
        "rte",
        "cb",
        "multirc",
        "cosmos_qa",
        "bool_q",
        "imdb_reviews",
        "yelp_polarity_reviews",
        "cnn_dailymail",
        "aeslc",
        "squad_v1",
        "multi_news",
        "coqa",
        "xsum",
    ],
)
def test_the_lines_of_a_text_stay(name):
    field, raw = FREE_TEXT[name]
    text = "One line of  the first.\r\n\n\nAnother paragraph.\nIn two lines."
    expected = "One line of the first.\n\nAnother paragraph.\nIn two lines."
    assert read_row(CATALOGUE[name], raw(text))[field].removeprefix("Article 1: ") == expected


def test_bytes_keep_the_lines_of_a_row_and_the_vocabulary_of_t5_folds_them(t5_vocabulary):
    article = read_row(CATALOGUE["xsum"], FREE_TEXT["xsum"][1]("One line.\nAnother one."))[
        "document"
    ]
    encode = load_vocabulary(t5_vocabulary).encode
    assert encode(article) == encode("One line. Another one.")
    assert (
        load_vocabulary("bytes").decode(load_vocabulary("bytes").encode(article))
        == "One line.\nAnother one."
    )


@pytest.mark.parametrize("kind", RIGHT)
def test_cleaning_twice_is_cleaning_once(kind):
    assert cleaning.detokenized(cleaning.detokenized(RIGHT[kind])) == cleaning.detokenized(
        RIGHT[kind]
    )


@pytest.mark.parametrize("name", [d.name for d in CATALOGUE])
def test_the_key_of_a_cache_covers_the_shared_rules(name):
    shared = inspect.getsource(cleaning)
    module = inspect.getmodule(CATALOGUE[name].row)
    source = source_of_row(CATALOGUE[name])
    assert inspect.getsource(module) in source
    assert (shared in source) == ("flan_jax.tasks.cleaning" in inspect.getsource(module))
    # other packages, and what only reads rows, are no part of it
    assert "def read_row" not in source


def test_a_users_helper_beside_the_row_function_is_part_of_the_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rules_for_rows.py").write_text("def tidy(text):\n    return text.strip()\n")
    (tmp_path / "my_rows_of_it.py").write_text(
        "from my_rules_for_rows import tidy\n\n\ndef row(raw):\n    return {'text': "
        "tidy(raw['text'])}\n"
    )
    spec = importlib.util.find_spec("my_rows_of_it")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_rows_of_it", module)
    spec.loader.exec_module(module)

    class Record:
        row = staticmethod(module.row)

    assert "return text.strip()" in source_of_row(Record) and "def row(raw)" in source_of_row(
        Record
    )
    monkeypatch.delitem(sys.modules, "my_rules_for_rows")


def test_a_users_row_function_has_the_shared_rules_in_its_key_where_it_imports_them(
    tmp_path, monkeypatch
):
    path = tmp_path / "my_rows.py"
    path.write_text(
        "def row(raw):\n    from flan_jax.tasks import cleaning\n\n"
        "    return {'text': cleaning.lines(raw['text'])}\n"
    )
    spec = importlib.util.spec_from_file_location("my_rows", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_rows", module)
    spec.loader.exec_module(module)

    class Record:
        row = staticmethod(module.row)

    assert inspect.getsource(cleaning) in source_of_row(Record)


def test_the_key_of_a_cache_covers_what_makes_an_example_of_a_row():
    source = rendering_source()
    for text in ("def read_row(", "def render(", "def usable_rows(", "def encode(", "def draw("):
        assert text in source, text
