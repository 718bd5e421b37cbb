"""The checks that a dataset passes before anyone can train on it.

The shipped catalogue passes them.
"""

import dataclasses
import functools
import importlib.util
import json
import re
import sys

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CLUSTERS, FROM_ROW, Dataset, Drop, Template
from flan_jax.catalogue.fingerprint import source_of_row
from flan_jax.catalogue.registry import CATALOGUE, Catalogue, repetition_key
from flan_jax.catalogue.render import render
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.errors import UserError
from flan_jax.tasks.original import DEPARTURES, original

GOOD = Template("ask", "{text}\nIs this so?\n{options}")


def dataset(*templates: Template, **changes) -> Dataset:
    record = dict(
        name="toy",
        paper_dataset="Toy",
        cluster="nli",
        tfds=None,
        splits={"train": "train"},
        fields=("text", "title"),
        evidence=("text",),
        row=lambda raw: raw,
        options=("no", "yes"),
        templates=templates or (GOOD,),
        metrics=("accuracy",),
        license="CC0",
    )
    return Dataset(**{**record, **changes})


@pytest.mark.parametrize(
    "template, says",
    [
        (
            Template("a", "{txt}\n{options}"),
            "names the field 'txt', which toy does not produce; did you mean text?",
        ),
        (Template("a", "{text} Is this so?"), "lacks the options"),
        (
            Template("a", "Is it so?\n{options}"),
            "cannot be answered from its input: it does not show {text}",
        ),
        (Template("a", "{text} {answer}\n{options}"), "gives its target away"),
        (Template("a", "{text}\n{options}", "yes"), "must name a field"),
        (Template("a", "{text}\n{options}", "{title}"), "its targets must be '{answer}'"),
        (
            Template("a", "Write something {answer}.", "{text}", "inverted"),
            "no field of the row but the answer",
        ),
        (Template("a", "{title}\n{options}", "{text}", "inverted"), "must not show the options"),
        (Template("a", "{text} {options}"), "on a line of its own"),
        (Template("a", "{text} \n{options}"), "blank beside a line break"),
        (Template("a", " {text}\n{options}"), "begins or ends with white space"),
        (Template("a", "{text}\n{options}", kind="sideways"), "kinds are 'forward' and 'inverted'"),
    ],
)
def test_refuses_a_bad_template_and_says_why(template, says):
    with pytest.raises(UserError) as error:
        Catalogue().register(dataset(template))
    assert says in str(error.value) and "toy/a" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(cluster="nlj"), "did you mean nli?"),
        (dict(fields=("text", "answer")), "reserved"),
        (dict(evidence=("body",)), "not one of its fields"),
        (dict(splits={"dev": "dev"}), "splits are 'train', 'validation' and 'test'"),
        (dict(options="row"), "FROM_ROW"),
        (dict(templates=()), "at least one"),
        (dict(templates=(GOOD, GOOD)), "two templates called 'ask'"),
        (dict(metrics=()), "no metric"),
        (dict(metrics=("acuracy",)), "unknown metric 'acuracy'; did you mean accuracy?"),
        (dict(metrics="accuracy"), "metrics is a tuple of names, not 'accuracy'"),
        (
            dict(metrics=("f1",), options=("no", "yes", "maybe")),
            "defined for two classes, and there are 3 options",
        ),
        (
            dict(
                metrics=("macro_f1",), options=None, templates=(Template("ask", "Is {text} so?"),)
            ),
            "free text has none",
        ),
        (dict(fields="text"), "a tuple of one has a comma"),
        (dict(evidence="text"), "evidence is a tuple of names"),
        (dict(templates=GOOD), "templates is a tuple of Template"),
        (dict(splits="train"), "splits is a dict such as"),
        (dict(options=("yes", "yes")), "no two the same"),
        (dict(options=("yes",)), "two texts or more"),
        (dict(options=()), "two texts or more"),
        (dict(options=(0, 1)), "a tuple of strings, FROM_ROW or None"),
        (dict(row=None), "row is a function"),
        (dict(commercial="yes"), "commercial is True, False or None"),
        (dict(train_cap=0), "train_cap of dataset 'toy' must be a whole number of at least 1"),
        (dict(tfds="glue/rte"), "tfds is 'builder/config:version'"),
    ],
)
def test_refuses_a_bad_record(changes, says):
    with pytest.raises(UserError, match=says.replace("?", r"\?").replace("(", r"\(")):
        Catalogue().register(dataset(**changes))


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        1.5,
        True,
        b"toy",
        [],
        ["a"],
        {},
        {"a": 1},
        {1: "a"},
        {1: 2, "a": 3},
        object(),
        "a\ud800",
        "a\0b",
        "a\x1b[2J",
        "x" * 1000,
        float,
        lambda: 0,
        (1, "a"),
        ("a\ud800", "b"),
    ],
)
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Dataset)])
def test_a_field_of_any_other_type_is_refused_or_harmless(field, value):
    catalogue = Catalogue()
    try:
        catalogue.register(dataset(**{field: value}))
    except UserError as error:
        assert len(str(error)) < 1500 and str(error).isprintable()
        return
    assert field != "name" and len(catalogue) == 1
    json.dumps(
        [dataclasses.asdict(t) for d in catalogue for t in d.templates], ensure_ascii=False
    ).encode()


@pytest.mark.parametrize("value", [None, 5, b"a", ["a"], {}, "a\ud800", "a\x1b[2J"])
@pytest.mark.parametrize("field", ["id", "inputs", "targets", "kind"])
def test_a_field_of_a_template_of_any_other_type_is_refused(field, value):
    with pytest.raises(UserError, match="toy"):
        Catalogue().register(dataset(dataclasses.replace(GOOD, **{field: value})))


def test_only_datasets_are_registered():
    for value in (None, 5, "toy", GOOD, dataclasses.asdict(dataset())):
        with pytest.raises(UserError, match="must be a Dataset"):
            Catalogue().register(value)


def test_rows_of_a_built_in_function_have_a_key_and_those_of_typed_code_are_refused():
    assert source_of_row(dataset(row=dict)) == "dict"
    namespace = {"__name__": "typed"}
    exec("def row(raw): return raw", namespace)  # as in a notebook
    with pytest.raises(UserError, match="row function of toy is not defined in a file"):
        source_of_row(dataset(row=namespace["row"]))


def test_half_of_a_character_in_a_row_names_the_row():
    row = {"text": "a\ud800", "title": "b", "label": 0}
    with pytest.raises(
        UserError, match=r"^row toy/train/3 .* has the lone surrogate '.ud800' in text"
    ):
        read_row(dataset(), row, "toy/train/3")


def test_takes_lists_for_tuples():
    options, templates = ["no", "yes"], [GOOD]
    taken = dataset(options=options, templates=templates, fields=["text", "title"])
    assert (taken.options, taken.templates, taken.fields) == (
        ("no", "yes"),
        (GOOD,),
        ("text", "title"),
    )


def test_refuses_a_repetition_up_to_punctuation_and_field_names():
    catalogue = Catalogue()
    catalogue.register(dataset())
    twin = dataset(
        Template("other", "{title} -- is THIS so?\n{options}"),
        name="twin",
        paper_dataset="Twin",
        evidence=("title",),
    )
    with pytest.raises(UserError, match="template twin/other repeats toy/ask"):
        catalogue.register(twin)
    # one dataset of the paper, two configurations
    catalogue.register(dataclasses.replace(twin, paper_dataset="Toy"))


@pytest.mark.parametrize(
    "name, says",
    [
        (
            "coreference",
            (
                "'coreference' is a cluster, not a dataset; its datasets are "
                "definite_pronoun_resolution, "
            ),
        ),
        ("rtte", "unknown dataset 'rtte'; did you mean rte?"),
        ("#", "`flan-jax tasks list` lists the datasets"),
    ],
)
def test_an_unknown_dataset_says_what_there_is(name, says):
    with pytest.raises(UserError) as error:
        CATALOGUE[name]
    assert says in str(error.value)


def test_shipped_catalogue_is_the_papers():
    assert len(CATALOGUE) == 70
    per_cluster = {c: len({d.paper_dataset for d in CATALOGUE.cluster(c)}) for c in CLUSTERS}
    assert per_cluster == dict(
        nli=7,
        commonsense=4,
        sentiment=4,
        paraphrase=4,
        closed_book_qa=3,
        struct_to_text=4,
        reading_comprehension=5,
        reading_comprehension_with_commonsense=2,
        coreference=3,
        misc=7,
        translation=8,
        summarization=11,
    )
    for d in CATALOGUE:
        assert len(d.templates) >= 10 and len(d.forward()) >= 7, d.name
    for d in CATALOGUE.cluster("nli"):
        assert len(d.forward()) == 10, d.name


def test_licenses_are_spdx_expressions_with_evidence():
    licenses = {d.name: d for d in CATALOGUE}
    one = (
        r"(NOASSERTION|LicenseRef-[\w-]+|MIT|Apache-2\.0|AFL-3\.0|BSD-2-Clause|CC0-1\.0|"
        r"CC-BY(-NC)?(-SA|-ND)?-\d\.0)"
    )
    for name, d in licenses.items():
        assert re.fullmatch(rf"{one}( AND {one})*", d.license) and len(d.license_evidence) > 5, name
        assert not (d.commercial and ("-NC" in d.license or "NOASSERTION" in d.license)), name
        assert d.commercial is False or "-NC" not in d.license, name
    unstated = {name for name, d in licenses.items() if d.license == "NOASSERTION"}
    assert unstated >= {
        "cola",
        "xsum",
        "sst2",
        "trec",
        "imdb_reviews",
        "definite_pronoun_resolution",
        "trivia_qa",
        "opinion_abstracts_rotten_tomatoes",
        "opinion_abstracts_idebate",
    }
    assert licenses["wnli"].license == licenses["wsc"].license == "CC-BY-4.0"


def test_what_is_said_of_flans_code_is_what_its_facts_say(real_rows):
    """Every configuration is compared, and each departure is named.

    Departures are differences in options, splits or builder.
    """
    facts_file = real_rows.parents[1] / "flan/datasets.json"
    facts = {fact["name"]: fact for fact in json.loads(facts_file.read_text(encoding="utf-8"))}
    assert set(DEPARTURES) <= {d.name for d in CATALOGUE} == set(facts)
    for d in CATALOGUE:
        there, fact = original(d.name, d.cluster, d.tfds), facts[d.name]
        assert d.splits["test"] == fact["splits"]["test"].split(" ")[0], d.name
        assert (there.answer == "free text") == (d.options is None) == (fact["options"] is None), (
            d.name
        )
        assert there.tfds == fact["tfds"]["repo_spec"], d.name
        if isinstance(d.options, tuple) and d.name != "stsb":
            labels = [entry["option"] for entry in fact["options"]["label_to_option"]]
            assert there.answer == " / ".join(labels), d.name
            assert list(d.options) == labels or d.name in DEPARTURES, d.name


def test_templates_are_unique_across_the_papers_datasets():
    seen = {}
    for d in CATALOGUE:
        for t in d.templates:
            assert seen.setdefault(repetition_key(t), d.paper_dataset) == d.paper_dataset, (
                d.name,
                t.id,
            )


# The cluster that the quickstart holds out has more rows to be evaluated on.
MORE_ROWS = {"imdb_reviews": 16, "sentiment140": 24, "sst2": 24, "yelp_polarity_reviews": 16}


@pytest.mark.parametrize("name", [d.name for d in CATALOGUE])
def test_bundled_rows_render_in_every_template(name):
    d, source, count = CATALOGUE[name], BundledSource(), 0
    for split in d.splits:
        texts = set()
        for index, raw in source.rows(d, split):
            row = read_row(d, raw)
            assert not isinstance(row, Drop), (split, index, row)
            assert json.dumps(raw, sort_keys=True) not in texts, "a row stands twice"
            texts.add(json.dumps(raw, sort_keys=True))
            for template in d.templates:
                text = render(d, template, row, row_id=f"{name}/{split}/{index}")
                assert text.inputs.strip() == text.inputs and text.targets
                if d.options and template.kind == "forward":
                    assert text.answer == text.options[text.label] == text.targets
            count += 1
    assert count == 24 + MORE_ROWS.get(name, 0)


def test_bundled_labels_are_balanced():
    source = BundledSource()
    for d in CATALOGUE:
        if d.options and d.options != FROM_ROW and "train" in d.splits:
            labels = [d.row(raw)["label"] for _, raw in source.rows(d, "train")]
            counts = [labels.count(i) for i in range(len(d.options))]
            assert max(counts) - min(counts) <= 1, (d.name, counts)


def test_nli_gold_labels_against_the_raw_class_names(real_rows):
    """Label names as the TFDS builders list them; the option must say the same."""
    names = {
        "anli_r1": ["entailment", "neutral", "contradiction"],
        "cb": ["entailment", "contradiction", "neutral"],
        "rte": ["entailment", "not_entailment"],
        "mnli_matched": ["entailment", "neutral", "contradiction"],
        "qnli": ["entailment", "not_entailment"],
        "wnli": ["not_entailment", "entailment"],
        "snli": ["entailment", "neutral", "contradiction"],
    }
    meaning = {
        "yes": "entailment",
        "no": "contradiction",
        "it is impossible to say": "neutral",
        "it is not possible to tell": "neutral",
    }
    for name, classes in names.items():
        options = CATALOGUE[name].options
        for option, raw_name in zip(options, classes):
            expected = "contradiction" if raw_name == "not_entailment" else raw_name
            assert meaning[option] == expected, (name, option, raw_name)
    source = JsonlSource(real_rows)
    for _, raw in list(source.rows(CATALOGUE["rte"], "validation"))[:50]:
        row = read_row(CATALOGUE["rte"], raw)
        assert row["options"][row["label"]] == ("yes" if raw["label"] == 0 else "no")


HELPER = """
SIGN = {sign}


class Reader:
    @staticmethod
    def read(raw):
        return {{"text": raw["text"], "label": SIGN}}
"""


@pytest.mark.parametrize(
    "row",
    [
        "import {helper}\nrow = lambda raw: {helper}.Reader.read(raw)",
        "from {helper} import Reader\nrow = Reader.read",
        "from {helper} import SIGN\ndef row(raw):\n    return dict(raw, label=SIGN)",
        "def row(raw):\n    import {helper}\n    return {helper}.Reader.read(raw)",
    ],
)
def test_what_stands_beside_the_row_function_is_part_of_the_key(row, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    helper = f"helper_of_{tmp_path.name}"
    (tmp_path / f"{helper}.py").write_text(HELPER.format(sign=0))
    (tmp_path / "module.py").write_text(row.format(helper=helper))
    spec = importlib.util.spec_from_file_location(
        f"module_of_{tmp_path.name}", tmp_path / "module.py"
    )
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    record = dataset(row=module.row)
    before = source_of_row(record)
    record.row({"text": "a"})
    assert source_of_row(record) == before and "class Reader" in before
    (tmp_path / f"{helper}.py").write_text(HELPER.format(sign=1))
    assert source_of_row(record) != before
    sys.modules.pop(helper, None)


def test_the_arguments_of_a_row_function_are_part_of_the_key():
    def read(raw, flip, made=None):
        return raw

    one, other = (
        dataset(row=functools.partial(functools.partial(read, made=len), flip=flip))
        for flip in (0, 1)
    )
    assert source_of_row(one) != source_of_row(other) and "def read(raw, flip" in source_of_row(one)
    with pytest.raises(
        UserError, match="the row function of toy holds <object object at .*__repr__"
    ):
        source_of_row(dataset(row=functools.partial(read, flip=object())))
