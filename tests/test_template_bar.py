"""The bar for templates.

A template is what somebody would really type (`flan_jax.catalogue.template_words`).
"""

import collections
import statistics

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, CLUSTERS, FROM_ROW, Dataset, Template
from flan_jax.catalogue.template_words import (
    MEDIAN_WORDS,
    MOST_DIALOGUES,
    instruction_words,
    is_dialogue,
    run_in,
    wording,
)
from flan_jax.cli import dispatch


def dataset(*templates: Template, **changes) -> Dataset:
    record = dict(
        name="toy",
        cluster="nli",
        splits={"train": "train"},
        fields=("text", "title"),
        row=dict,
        options=("no", "yes"),
        templates=templates,
    )
    return Dataset(**{**record, **changes})


def templates(clusters) -> dict[tuple[str, Template], Dataset]:
    """Each template of the clusters once, though configurations of one dataset share theirs."""
    return {
        (d.paper_dataset, t): d for d in CATALOGUE if d.cluster in clusters for t in d.templates
    }


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_template_is_short_sets_the_data_off_and_fits_every_style(cluster):
    below = {
        f"{d.name}/{t.id}": faults
        for (_, t), d in templates([cluster]).items()
        if (faults := wording(d, t).faults())
    }
    assert below == {}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_dataset_has_one_dialogue_at_most(cluster):
    dialogues = collections.defaultdict(list)
    for name, template in templates([cluster]):
        if is_dialogue(template):
            dialogues[name].append(template.id)
    assert {name: ids for name, ids in dialogues.items() if len(ids) > MOST_DIALOGUES} == {}


def test_half_of_the_templates_are_terse():
    for clusters in [*([cluster] for cluster in CLUSTERS), CLUSTERS]:
        words = [instruction_words(template) for _, template in templates(clusters)]
        assert statistics.median(words) <= MEDIAN_WORDS, clusters


@pytest.mark.parametrize(
    "inputs, words",
    [
        ("{text}\n{options}", 0),
        ("Text: {text}\n\nIs this so?\n{options}", 4),
        ('Doesn\'t a well-known {title} "need" 2 words?', 6),
    ],
)
def test_words_are_counted_without_fields_and_options(inputs, words):
    assert instruction_words(Template("a", inputs)) == words


@pytest.mark.parametrize(
    "inputs",
    [
        "Teacher: {text}\n{options}\nPupil:",
        "First reader: {text}\nIs it so?\n{options}",
        "Mia: {text}\n{options}",
        "Read this: {text}\nSam writes back:\n{options}",
        "You are a librarian.\n{text}\n{options}",
        "You moderate a forum.\n{text}\n{options}",
        "A visitor asks: {text}\n{options}",
        "Bo: Hello.\nBo: {text}\n{options}",
        "Somebody has just told you: {text}\n{options}",
    ],
)
def test_role_play_and_turns_are_dialogues(inputs):
    assert is_dialogue(Template("a", inputs))


@pytest.mark.parametrize(
    "inputs",
    [
        "Premise: {text}\nHypothesis: {title}\n{options}",
        "Did the reviewer like it?\n{text}\n{options}",
        "Question A: {text}\nQuestion B: {title}\n{options}",
        "User review: {text}\n{options}",
        "Dialogue:\n{text}\n\nWhat are you to do?\n{options}",
    ],
)
def test_headings_and_people_whose_text_it_is_are_no_dialogues(inputs):
    assert not is_dialogue(Template("a", inputs))


@pytest.mark.parametrize(
    "inputs, names",
    [
        ("{text}\n{title}\n{options}", ()),
        ("Heading: {title}\nIs this so: {text}\n{options}", ()),
        ('Does "{text}" go with "{title}"?\n{options}', ()),
        ("{text} {title}\n{options}", ()),
        ("1. {text} ...\n2. {title}?\n{options}", ()),
        ("Is it true that {text}?\nTitle: {title}\n{options}", ("text",)),
        ("Read {title}. Text: {text}\n{options}", ("title", "text")),
        ('{text} Is this so?\n"{title}"\n{options}', ("text",)),
    ],
)
def test_data_stand_on_lines_of_their_own_or_in_quotation_marks(inputs, names):
    template = Template("a", inputs)
    assert set(run_in(dataset(template), template)) == set(names)


def test_only_what_the_answer_needs_is_data():
    template = Template(
        "a",
        "Write a text that goes with the answer {answer} and is on {title}.",
        "{text}",
        "inverted",
    )
    assert run_in(dataset(template), template) == ("title",)
    assert run_in(dataset(template, evidence=("text",)), template) == ()
    assert run_in(dataset(template, evidence=("text",), options=None), template) == ("answer",)


@pytest.mark.parametrize(
    "inputs, options, says",
    [
        ("{text}\nReply yes if it is so.\n{options}", ("no", "yes"), "lettered"),
        ("{text}\nEntailed, yes or no?\n{options}", FROM_ROW, "lettered"),
        ("{text}\nChoose an ending.\n{options}", FROM_ROW, "none"),
        ("{text}\nWhich of the options is right?\n{options}", FROM_ROW, "none"),
        ("{text}\nIs this good or bad?\n{options}", ("good", "bad"), ""),
        ("{text}\nReply yes or no.", None, ""),
    ],
)
def test_a_wording_that_fits_one_options_style_only_is_found(inputs, options, says):
    template = Template("a", inputs)
    fault = wording(dataset(template, options=options, fields=("text",)), template).styles
    assert says in fault and bool(fault) == bool(says)


def test_faults_are_named():
    template = Template(
        "a", "Suppose that {text} were so." + " Really?" * 30 + "\n{title}\n{options}"
    )
    assert wording(dataset(template), template).faults() == [
        "34 words of instruction, more than 30",
        "a counterfactual frame",
        "{text} within a sentence",
    ]


def test_show_and_check_print_the_words(capsys):
    dispatch.main(["tasks", "show", "rte"])
    count = instruction_words(CATALOGUE["rte"].templates[0])
    assert f"{CATALOGUE['rte'].templates[0].id} (forward, {count} words" in capsys.readouterr().out
    assert dispatch.main(["tasks", "check", "rte", "--num_rows=1"]) == 0
    line = capsys.readouterr().out.splitlines()[-2]
    assert line.startswith(
        f"{len(CATALOGUE['rte'].templates)} templates; words of instruction: median "
    )
