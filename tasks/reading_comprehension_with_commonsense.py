"""Reading comprehension with commonsense: CosmosQA and ReCoRD."""

from typing import Any

from flan_jax.catalogue import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenized, lines, one_line

# Stands for the missing name in a ReCoRD query; the templates speak of it.
BLANK = "[blank]"


def _cosmos_option(text: str) -> str:
    """An answer as an option; 'above' would be wrong with shuffled or hidden options."""
    text = one_line(detokenized(text))
    if text.lower().rstrip(".") == "none of the above choices":
        return "None of the other answers."
    return text


def _cosmos_qa_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    context, question = detokenized(raw["context"]), one_line(detokenized(raw["question"]))
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
    license="CC-BY-4.0",
    commercial=True,
    license_evidence="card of allenai/cosmos_qa on the hub",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 25060},
    fields=("context", "question"),
    options=FROM_ROW,
    row=_cosmos_qa_row,
    metrics=("accuracy",),
    # No inverted template: where no offered answer fits, the answer alone does not lead back to the
    # question.
    templates=(
        Template("between_the_lines", "{context}\n\nRead between the lines: {question}\n{options}"),
        Template(
            "plausible_answer",
            "Blog post: {context}\nQuestion: {question}\n{options}\nMost plausible answer:",
        ),
        Template("common_sense", "{context}\n\nWith some common sense: {question}\n{options}"),
        Template("guess", "What would you guess?\n\n{context}\n\n{question}\n{options}"),
        Template("most_likely", "{context}\n\n{question}\n{options}\nThe most likely answer:"),
        Template(
            "options_above", "{options}\n\n{question}\nWork it out from this account.\n\n{context}"
        ),
        Template("terse", "Personal story: {context}\nQ: {question}\n{options}\nA:"),
        Template(
            "not_outright",
            "The text does not say it outright, but what is likely?\n\nText: {context}\n"
            "Question: {question}\n{options}",
        ),
        Template("from_a_friend", "A friend wrote this:\n{context}\n\n{question}\n{options}"),
        Template(
            "causes_and_feelings",
            "{question}\nThink about causes, consequences and feelings.\n\n{context}\n{options}",
        ),
    ),
)

# ReCoRD


def _news(passage: str) -> str:
    """The passage with its highlights, which carry names of their own, as sentences at the end."""
    text, *highlights = passage.split("@highlight")
    sentences = [
        h if h.endswith((".", "!", "?")) else h + "." for h in map(one_line, highlights) if h
    ]
    return "\n".join([lines(text), "In brief:", *sentences] if sentences else [lines(text)])


def _record_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """The options are the names in the passage; the label is the first right one.

    All right ones are references. Queries without a full stop get one.
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
    license="NOASSERTION",
    commercial=None,
    license_evidence=(
        "SuperGLUE paper, section 3: for use and passing on in research; texts are "
        "CNN's and Daily Mail's"
    ),
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 100520},
    fields=("passage", "query"),
    options=FROM_ROW,
    row=_record_row,
    metrics=("record",),
    templates=(
        Template(
            "who_or_what",
            "{passage}\n\nWho or what is [blank] in this sentence?\n{query}\n{options}",
        ),
        Template(
            "name_from_the_report",
            "Complete the statement with a name from the report.\nStatement: {query}\n"
            "Report: {passage}\n{options}\nName:",
        ),
        Template("terse", "News: {passage}\nFill in [blank]: {query}\n{options}"),
        Template(
            "missing_name",
            "{query}\n\nRead the article and give the name that is missing at [blank].\n\n"
            "{passage}\n{options}",
        ),
        Template(
            "options_above",
            "{options}\n\nWhich name belongs in [blank]?\n{query}\n\nFrom the story:\n{passage}",
        ),
        Template(
            "blank_stands_for", "What does [blank] stand for?\n{query}\n\n{passage}\n{options}"
        ),
        Template(
            "sentence_with_a_gap",
            "Article: {passage}\nSentence with a gap: {query}\n{options}\nName for the gap:",
        ),
        Template(
            "one_more_sentence",
            "The news:\n{passage}\n\nOne more sentence on it. Which name does [blank] hide?\n"
            "{query}\n{options}",
        ),
        Template(
            "makes_it_true",
            "Which name makes this true and sensible?\n{query}\n\nBackground: {passage}\n{options}",
        ),
        Template("cloze_test", "Cloze test on a news story:\n\n{passage}\n\n{query}\n{options}"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (RECORD, COSMOS_QA)
