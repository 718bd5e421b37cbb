"""Reading comprehension with commonsense: CosmosQA and ReCoRD."""


from flan_jax.data.catalogue import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenised, lines, one_line

# Stands for the missing name in a ReCoRD query; the templates speak of it.
BLANK = "[blank]"


def _cosmos_option(text):
    """An answer as an option; 'above' would be wrong as soon as options are shuffled or not shown."""
    text = one_line(detokenised(text))
    if text.lower().rstrip(".") == "none of the above choices":
        return "None of the other answers."
    return text


def _cosmos_qa_row(raw):
    context, question = detokenised(raw["context"]), one_line(detokenised(raw["question"]))
    options = [_cosmos_option(raw[f"answer{i}"]) for i in range(4)]
    if raw["label"] not in range(len(options)):
        return Drop("no gold label")
    if not context or not question or not all(options):
        return Drop("empty text")
    if len(set(options)) < len(options):
        return Drop("two equal answers")
    return {"context": context, "question": question, "options": options, "label": raw["label"]}


COSMOS_QA = Dataset(
    name="cosmos_qa",
    paper_dataset="CosmosQA",
    cluster="reading_comprehension_with_commonsense",
    tfds="cosmos_qa:1.0.0",
    hub=Hub("allenai/cosmos_qa"),
    licence="CC-BY-4.0",
    commercial=True,
    licence_evidence="card of allenai/cosmos_qa on the hub",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 25060},
    fields=("context", "question"),
    options=FROM_ROW,
    row=_cosmos_qa_row,
    metrics=("accuracy",),
    # No inverted template: where no offered answer fits, the answer alone does not lead back to the question.
    templates=(
        Template("between_the_lines", "{context}\n\nRead between the lines: {question}\n{options}"),
        Template("blog_post", "Question: {question}\nThe blog post below does not give the answer outright, but a "
                 "sensible reader can tell.\nPost: {context}\n{options}\nMost plausible answer:"),
        Template("story_of_a_day", "This is how somebody describes a bit of their life: {context}\nWith some common "
                 "sense, what would you say to this? {question}\n{options}"),
        Template("friends_dialogue", "Mia: A friend of mine wrote this. {context}\nLeo: Interesting. {question}\n"
                 "Mia: Go on, have a guess.\n{options}\nLeo:"),
        Template("in_their_place", "Put yourself in the place of the people in the situation below and give the most "
                 "likely answer to the question.\n{options}\nQuestion: {question}\nSituation: {context}"),
        Template("options_first", "{options}\n\nWhat would a thoughtful reader reply to \"{question}\" after reading "
                 "these lines? {context}"),
        Template("terse", "Narrative: {context}\nInference wanted: {question}\n{options}"),
        Template("left_unsaid", "Causes, consequences and feelings are often left unsaid when people write about "
                 "themselves. One piece of such writing: {context}\nWhat we want to know: {question}\nWhat is the "
                 "likeliest answer?\n{options}"),
        Template("book_club", "A book club reads an anecdote, discusses the question \"{question}\" and settles on "
                 "one answer. The anecdote: {context}\nWhat do the members settle on?\n{options}"),
        Template("film_director", "You play a part in a short film of this scene: {context}\nBefore the camera "
                 "rolls, the director wants to be sure that you have understood it and asks: {question}\n{options}\n"
                 "You tell the director:"),
    ),
)

# ReCoRD


def _news(passage):
    """The passage with its highlights, which carry names of their own, as sentences at the end."""
    text, *highlights = passage.split("@highlight")
    sentences = [h if h.endswith((".", "!", "?")) else h + "." for h in map(one_line, highlights) if h]
    return "\n".join([lines(text), "In brief:", *sentences] if sentences else [lines(text)])


def _record_row(raw):
    """The options are the names in the passage; all right ones are references, the first one is the label.

    Some queries lack their full stop, which is put back.
    """
    passage, query = _news(raw["passage"]), one_line(raw["query"])
    if "@placeholder" not in query:
        return Drop("no placeholder in the query")
    if query[-1].isalnum():
        query += "."
    options = list(dict.fromkeys(e for e in map(one_line, raw["entities"]) if e))
    references = [a for a in dict.fromkeys(map(one_line, raw["answers"])) if a in options]
    if not references:
        return Drop("no answer among the entities")
    if not passage or len(options) < 2:
        return Drop("too little text or too few entities")
    return {
        "passage": passage,
        "query": query.replace("@placeholder", BLANK),
        "options": options,
        "label": options.index(references[0]),
        "references": references,
        "group": f"{raw['idx']['passage']}-{raw['idx']['query']}",
    }


RECORD = Dataset(
    name="record",
    paper_dataset="ReCoRD",
    cluster="reading_comprehension_with_commonsense",
    tfds="super_glue/record:1.0.2",
    hub=Hub("aps/super_glue", "record"),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="SuperGLUE paper, section 3: for use and passing on in research; texts are CNN's and Daily Mail's",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 100520},
    fields=("passage", "query"),
    options=FROM_ROW,
    row=_record_row,
    metrics=("record",),
    templates=(
        Template("gap_in_a_sentence", "{passage}\n\nAnother sentence about this news has a gap marked [blank]: "
                 "{query}\nWho or what belongs in the gap?\n{options}"),
        Template("complete_statement", "Complete a statement with a name from the news report.\nStatement: {query}\n"
                 "Report: {passage}\n{options}\nThe name for [blank]:"),
        Template("terse", "News: {passage}\nFill in [blank]: {query}\n{options}"),
        Template("newsroom_dialogue", "Sub-editor: A name has dropped out of this line. {query}\nReporter: My "
                 "article reads as follows. {passage}\nSub-editor: Then which name goes where it says [blank]?\n"
                 "{options}\nReporter:"),
        Template("options_first", "{options}\n\nWhich name has been replaced by [blank] in the sentence? Find it "
                 "with the help of the article.\nSentence: {query}\nArticle: {passage}"),
        Template("stands_for", "In the sentence that comes first, [blank] stands for somebody or something named in "
                 "the article that comes second. Use the article and your knowledge of the world to say for what.\n"
                 "First: {query}\nSecond: {passage}\n{options}"),
        Template("true_and_sensible", "Read this. {passage}\n\nWith the right name in place of [blank], the "
                 "following would be true and make sense: {query}\nWhat is the right name?\n{options}"),
        Template("riddle", "Riddle for newspaper readers. Story of the day: {passage}\nRiddle of the day: {query}\n"
                 "Solve it by naming [blank].\n{options}"),
        Template("damaged_scan", "The scan of an old newspaper is damaged: where we print [blank], a name can no "
                 "longer be read.\nDamaged line: {query}\nUndamaged article on the same events: {passage}\n"
                 "{options}\nName in the damaged line:"),
        Template("refer_to", "What does [blank] refer to here? {query}\n{options}\n\nThe story behind it: {passage}"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (RECORD, COSMOS_QA)
