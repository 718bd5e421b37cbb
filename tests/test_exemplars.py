"""Few-shot exemplars, template subsets and instruction modes, as the token cache holds them."""

import collections
import dataclasses

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, Dataset, Template
from flan_jax.catalogue.render import render, shots_of, style_of
from flan_jax.data.config import DataConfig
from flan_jax.data.encode import Encoder, Rendering
from flan_jax.data.exemplars import POOL_ROWS, ExemplarPool
from flan_jax.data.rows import usable_rows
from flan_jax.data.run_data import RunData, open_data
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.data.sources.slices import reading_order
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.prepare import prepare

RTE = [
    {
        "premise": f"There are {i} ducks on the pond.",
        "hypothesis": f"The pond has {i} ducks.",
        "label": i % 2,
    }
    for i in range(700)
]


def config(tmp_path, **changes) -> DataConfig:
    record = dict(
        held_out="none",
        mixture_or_task_name="rte",
        source="bundled",
        vocabulary="bytes",
        batch_size=2,
        train_steps=2,
        task_feature_lengths={"inputs": 2048, "targets": 64},
        cache_dir=str(tmp_path / "cache"),
        validation_batches=1,
        eval_max_rows=4,
    )
    return DataConfig(**{**record, **changes})


def training_texts(data: RunData, name: str = "rte", epoch: int = 0) -> list[str]:
    data.train.build_shard(name, epoch)
    shard = data.train.open_shard(name, epoch)
    return [data.vocabulary.decode(shard.inputs[i][:-1].tolist()) for i in range(len(shard.inputs))]


def test_exemplars_come_from_training_rows_and_never_are_the_row_itself(tmp_path):
    texts = training_texts(open_data(config(tmp_path, shots=2)))
    premises = [raw["premise"] for _, raw in BundledSource().rows(CATALOGUE["rte"], "train")]
    assert len(texts) == len(premises)
    for text, own in zip(texts, premises):
        assert text.endswith(":") and text.count("Answer:") == (
            3 if text.endswith("Answer:") else 0
        )
        assert text.count(own) == 1, "the row is one of its own exemplars"
        assert sum(premise in text for premise in premises) == 3


def test_a_pool_is_spread_over_sorted_rows_and_draws_are_stable(write_rows):
    rows = sorted(RTE, key=lambda row: row["label"])
    pool = ExemplarPool(CATALOGUE["rte"], JsonlSource(write_rows("rte", "train", rows)))
    drawn = [pool.draw({"premise": "x", "hypothesis": "y"}, f"rte/train/{i}", 5) for i in range(40)]
    labels = collections.Counter(row["label"] for shots in drawn for row in shots)
    assert min(labels.values()) > 50, "files sorted by label must not give exemplars of one label"
    assert drawn[0] == pool.draw({"premise": "x", "hypothesis": "y"}, "rte/train/0", 5) != drawn[1]
    assert len({row["premise"] for shots in drawn for row in shots}) > POOL_ROWS // 3


def test_a_row_with_the_same_text_is_no_exemplar(write_rows):
    twins = [dict(RTE[0]) for _ in range(201)] + RTE[1:4] * 100
    pool = ExemplarPool(CATALOGUE["rte"], JsonlSource(write_rows("rte", "train", twins)))
    row = {"premise": RTE[0]["premise"], "hypothesis": RTE[0]["hypothesis"]}
    assert all(shot["premise"] != row["premise"] for shot in pool.draw(row, "rte/train/7000", 8))


def test_a_row_that_asks_the_same_with_another_answer_is_no_exemplar(write_rows):
    dataset = Dataset(
        name="d",
        cluster="struct_to_text",
        splits={"train": "train"},
        fields=("facts", "text"),
        evidence=("facts",),
        options=None,
        row=lambda raw: dict(raw),
        templates=(Template("say", "Say: {facts}"),),
    )
    rows = [
        {"facts": f"inn {i % 3}", "text": f"Text {i}.", "answer": f"Text {i}."} for i in range(60)
    ]
    pool = ExemplarPool(dataset, JsonlSource(write_rows("d", "train", rows)))
    drawn = pool.draw({"facts": "inn 0", "text": "Another text."}, "d/test/0", 40)
    assert {shot["facts"] for shot in drawn} == {"inn 1", "inn 2"}


def test_a_row_left_out_for_held_out_words_does_not_return_as_an_exemplar(write_rows, tmp_path):
    copied = (
        "A heron stood on one leg in the shallow water below the old mill for most of the "
        "afternoon."
    )
    sentences = [f"Number {i} is a sentence of its own." for i in range(206)]
    sentences[next(reading_order(CATALOGUE["cola"], "train[:-200]", 206))[3]] = copied
    directory = write_rows(
        "cola", "train", [{"sentence": s, "label": i % 2} for i, s in enumerate(sentences)]
    )
    write_rows(
        "rte",
        "train",
        [{"premise": copied, "hypothesis": f"B {i}.", "label": 0} for i in range(202)],
    )
    write_rows(
        "rte", "validation", [{"premise": copied, "hypothesis": "There was a heron.", "label": 0}]
    )
    few = config(
        tmp_path,
        held_out="nli",
        mixture_or_task_name="cola",
        source="jsonl",
        data_dir=str(directory),
        shots=2,
    )
    whole, filtered = (
        open_data(dataclasses.replace(few, decontaminate=flag)) for flag in (False, True)
    )
    assert sum(copied in text for text in training_texts(whole, "cola")) > 1
    texts = training_texts(filtered, "cola")
    assert len(texts) == 5 and not any(copied in text for text in texts)
    rte = CATALOGUE["rte"], CATALOGUE["rte"].forward()[0]
    paths = [data.eval.build(*rte) for data in (whole, filtered)]
    assert paths[0] == paths[1], "what is evaluated does not depend on the filter"
    assert filtered.eval.examples(*rte).texts[0]["inputs"].count(copied) == 3


def test_exemplars_that_do_not_fit_are_left_out_and_counted(tmp_path):
    data = open_data(config(tmp_path, shots=5, task_feature_lengths={"inputs": 900, "targets": 64}))
    texts = training_texts(data)
    counts = data.train.counts("rte")
    shown = [text.count("Answer:") - 1 for text in texts if "Answer:" in text]
    assert counts["exemplars that did not fit"] > 0 and max(shown) >= 1
    assert all(len(data.vocabulary.encode(text)) < 900 for text in texts)


def test_held_out_rows_get_exemplars_of_their_own_dataset(tmp_path):
    data = open_data(config(tmp_path, held_out="paraphrase", mixture_or_task_name="cola", shots=2))
    for dataset, template in data.eval.jobs()[:12]:
        data.eval.build(dataset, template)
        for text in data.eval.examples(dataset, template).texts:
            assert text["inputs"].count("Answer:") >= 2 and text["inputs"].endswith("Answer:")


def test_a_dataset_without_training_rows_is_left_out_of_a_few_shot_evaluation(tmp_path):
    data = open_data(config(tmp_path, held_out="coreference", mixture_or_task_name="cola", shots=1))
    assert "wsc273" not in data.eval.datasets() and "no exemplars" in data.left_out["wsc273"]
    with pytest.raises(UserError, match="nothing to take exemplars from .wsc273"):
        ExemplarPool(CATALOGUE["wsc273"], BundledSource())


def test_more_shots_than_rows_are_refused(tmp_path):
    with pytest.raises(UserError, match="set SHOTS to at most 11"):
        training_texts(open_data(config(tmp_path, shots=12)))


@pytest.mark.parametrize("count", [1, 2, 4, 7, 10])
def test_a_run_may_train_with_the_first_templates_only(tmp_path, count):
    data = prepare(
        config(
            tmp_path,
            templates=count,
            train_steps=40,
            task_feature_lengths={"inputs": 1024, "targets": 64},
        ),
        workers=1,
    )
    rte = CATALOGUE["rte"]
    rows = [(row_id, row) for _, row_id, row in usable_rows(BundledSource(), rte, "train")]
    template_of = {
        render(rte, template, row, row_id=row_id).inputs: template.id
        for template in rte.templates
        for row_id, row in rows
    }
    used = {
        template_of[text]
        for epoch in sorted(set(data.train.plan().epoch.tolist()))
        for text in training_texts(data, epoch=epoch)
    }
    # Ten are FLAN's number, inverted ones included: the last forward ones of eleven give way.
    expected = (
        {template.id for template in rte.templates[:count]}
        if count < 10
        else {
            template.id
            for template in (
                *rte.forward()[:9],
                *(t for t in rte.templates if t.kind == "inverted"),
            )
        }
    )
    assert used == expected and len(used) == count
    assert data.train.card(data.train.members())[0].templates == count
    assert data.train.shard_key("rte", 0) != open_data(config(tmp_path)).train.shard_key("rte", 0)


@pytest.mark.parametrize("mode", ["none", "dataset_name"])
def test_without_instructions_a_held_out_dataset_is_asked_once(tmp_path, mode):
    data = open_data(
        config(tmp_path, held_out="nli", mixture_or_task_name="cola", instructions=mode)
    )
    jobs = data.eval.jobs()
    assert len(jobs) == len(data.eval.datasets()) == 10
    dataset, template = jobs[0]
    data.eval.build(dataset, template)
    text = data.eval.examples(dataset, template).texts[0]["inputs"]
    assert text.startswith("[Natural language inference: ANLI (R1-R3)] ") == (
        mode == "dataset_name"
    )
    assert "Options" not in text and "?" not in text.split("\n")[-1]


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(shots=-1), "shots must be a whole number of at least 0"),
        (dict(templates=0), "templates must be None or"),
        (dict(shots="two"), "shots"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, changes, says):
    with pytest.raises(UserError, match=says):
        config(tmp_path, **changes)


def test_other_exemplar_rows_are_another_shard(write_rows, tmp_path):
    directory = str(write_rows("rte", "train", RTE))
    write_rows("rte", "validation", RTE[:20])
    few = config(
        tmp_path,
        source="jsonl",
        data_dir=directory,
        held_out="nli",
        mixture_or_task_name="cola",
        shots=1,
    )
    rte, template = CATALOGUE["rte"], CATALOGUE["rte"].templates[0]
    before = {
        shots: open_data(dataclasses.replace(few, shots=shots)).eval.key(rte, template)
        for shots in (0, 1)
    }
    write_rows("rte", "train", RTE[:600])
    after = {
        shots: open_data(dataclasses.replace(few, shots=shots)).eval.key(rte, template)
        for shots in (0, 1)
    }
    assert before[0] == after[0] and before[1] != after[1]


def test_exemplars_for_which_a_long_row_leaves_no_room_are_counted():
    dataset = Dataset(
        name="d",
        cluster="sentiment",
        splits={"train": "train"},
        fields=("t",),
        options=None,
        row=lambda raw: dict(raw),
        templates=(Template("say", "Say: {t}"),),
    )
    encoder = Encoder(ByteVocabulary(), Rendering(32, 16, shots=3), pool=None)
    encoder.encode(dataset, dataset.templates[0], {"t": "word " * 40, "answer": "a"}, "d/test/0")
    assert encoder.counts["exemplars that did not fit"] == 3


def test_mixed_shots_and_options_are_of_training_rows_alone(tmp_path):
    mixed = dict(shots="mixed", options_style="mixed", templates=1)
    data = prepare(config(tmp_path, **mixed, eval_datasets="rte"), workers=1)
    names = [f"rte/train/{i}" for i in range(12)]
    texts = training_texts(data)
    expected = [(shots_of("mixed", n, 0), style_of("mixed", n, 0)) for n in names]
    assert len({shots for shots, _ in expected}) > 1 and len({s for _, s in expected}) > 1
    for text, (shots, style) in zip(texts, expected, strict=True):
        assert text.count("Is that enough to be sure") == shots + 1
        assert text.count("Options:") == (0 if style == "none" else shots + 1)
        assert ("(A)" in text) == (style == "lettered")
    dataset, template = data.eval.jobs()[0]
    for example in data.eval.examples(dataset, template).texts:
        assert "Answer:" not in example["inputs"] and "\n- " in example["inputs"]
    seeds = [dataclasses.replace(data.config, seed=seed) for seed in (0, 1)]
    keys = [open_data(each).train.shard_key("rte", 0) for each in seeds]
    assert keys[0] != keys[1]
    for shots in ("mix", -1, 1.5, 2000, None):
        with pytest.raises(UserError, match="shots"):
            config(tmp_path, shots=shots)
    with pytest.raises(UserError, match="OPTIONS_STYLE=mixed is a letter"):
        config(tmp_path, options_style="mixed", instructions="none")
