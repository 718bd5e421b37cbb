"""The catalogue under SeqIO's names.

Offered without importing it, the cache's tokens, evaluation, own tasks.
"""

import dataclasses
import json
import subprocess
import sys

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, CLUSTERS
from flan_jax.catalogue.splits import SUPERGLUE, held_out_split
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import open_data
from flan_jax.data.seqio import recipes, registration
from flan_jax.data.seqio.lazy_registry import LazyRegistry
from flan_jax.errors import UserError
from support.processes import output_tail


def run(program: str, *arguments: str) -> dict:
    """What a program prints after 'FOUND '.

    TensorFlow is imported in a process of its own, never in that of tests.
    """
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=600
    )
    line = next((line for line in result.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line, output_tail(result)
    return json.loads(line.removeprefix("FOUND ")) | {
        "printed": result.stdout,
        "logged": result.stderr,
    }


# --- Names, without SeqIO
# ---------------------------------------------------------------------------------------------


def test_importing_the_catalogue_imports_no_seqio():
    found = run(
        "import sys, json, flan_jax.tasks\n"
        "print('FOUND ' + json.dumps({'loaded': [m for m in ('seqio', 'tensorflow') if m in "
        "sys.modules]}))"
    )
    assert found["loaded"] == []


def test_every_dataset_forward_template_and_cluster_has_its_names():
    names = recipes.task_recipes()
    assert {f"flan_{d.name}" for d in CATALOGUE if "train" in d.splits} <= set(
        names
    ) and "flan_wsc273" not in names
    for dataset in CATALOGUE:
        for template in dataset.templates:
            name = f"flan_{dataset.name}.{template.id}"
            forward = template.kind == "forward"
            assert (name in names, f"{name}.rank" in names) == (
                forward,
                forward and bool(dataset.options),
            ), name
    forms = {*CLUSTERS, "superglue", *(f"intra_{number}" for number in range(10)), "all"}
    assert all(held_out_split(CATALOGUE, form).eval for form in forms)
    expected = {f"flan_heldout_{form}{side}" for form in forms for side in ("", "_eval")} | {
        "flan_heldout_none"
    }
    assert set(recipes.mixture_recipes()) == expected


def test_a_lazy_registry_builds_on_look_up_and_keeps_what_it_built():
    built = []
    registry = LazyRegistry(
        {"theirs": 0, "b": 1},
        lambda: {"a": "A", "b": "B"},
        lambda name, recipe: built.append(name) or [recipe],
    )
    assert list(registry) == list(registry.keys()) == ["theirs", "b", "a"] and len(registry) == 3
    assert "a" in registry and "c" not in registry and not built
    assert registry["a"] is registry["a"] and registry["a"] == ["A"] and built == ["a"]
    assert registry["b"] == 1
    with pytest.raises(KeyError):
        registry["c"]
    before = registry["a"]
    registry.forget()
    assert registry["a"] is not before and registry["theirs"] == 0
    del registry["a"]
    assert "a" not in registry and list(registry) == ["theirs", "b"]
    registry["a"] = 2
    assert registry["a"] == 2 and sorted(registry) == ["a", "b", "theirs"]


@pytest.mark.parametrize(
    "setting, said",
    [
        ({"vocabulari": "bytes"}, "did you mean vocabulary"),
        ({"options_style": "numbered"}, "must be one of fixed, shuffled"),
        ({"instructions": "no"}, "must be one of template, none"),
    ],
)
def test_a_wrong_setting_is_refused(setting, said):
    with pytest.raises(UserError, match=said):
        registration.configure(**setting)


def test_our_own_names_train_as_the_datasets_they_stand_for():
    data = open_data(
        DataConfig(
            mixture_or_task_name="flan_copa", held_out="none", templates=1, decontaminate=True
        )
    )
    assert data.train.datasets() == ["copa"] and not data.train.trained.seqio_tasks
    assert data.train.shard_key("copa", 0) == open_data(
        dataclasses.replace(data.config, mixture_or_task_name="copa")
    ).train.shard_key("copa", 0)
    mixture = open_data(DataConfig(mixture_or_task_name="flan_heldout_nli", held_out="nli"))
    assert mixture.train.datasets() == open_data(DataConfig(held_out="nli")).train.datasets()
    with pytest.raises(UserError, match="rte trains while"):
        open_data(DataConfig(mixture_or_task_name="flan_rte", held_out="nli"))


# --- Through SeqIO
# --------------------------------------------------------------------------------------------------

TRAINING = """
import dataclasses, json, sys
import gin
import flan_jax.tasks
import seqio
from flan_jax.data.seqio import registration as seqio_tasks
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import open_data
from flan_jax.catalogue import CATALOGUE
from flan_jax.errors import UserError
from flan_jax.prepare import prepare

cache, rows, vocabulary, drawn_from = sys.argv[1:]
found = {"same": []}


def examples(name, lengths=None, **more):
    data = seqio.get_mixture_or_task(name).get_dataset(
        lengths, split="train", shuffle=False, **more
    )
    return list(data.as_numpy_iterator())


def tokens(rows):
    return [(e["inputs"].tolist(), e["targets"].tolist()) for e in rows]


# The tokens of the cache, epoch by epoch, at full length and where inputs are shortened.
wide, narrow = {"inputs": 4096, "targets": 1024}, {"inputs": 120, "targets": 24}
for name, lengths in (("copa", wide), ("e2e_nlg", wide), ("cola", narrow), ("squad_v1", narrow)):
    data = open_data(
        DataConfig(
            held_out="none",
            task_feature_lengths=lengths,
            cache_dir=cache,
            batch_size=2,
            train_steps=1,
        )
    )
    cached = []
    for epoch in range(2):
        data.train.build_shard(name, epoch)
        shard = data.train.open_shard(name, epoch)
        cached += [
            (shard.inputs[i].tolist(), shard.targets[i].tolist()) for i in range(len(shard.inputs))
        ]
    twice = tokens(examples(f"flan_{name}", lengths, num_epochs=2))
    half = len(cached) // 2
    found["same"].append(
        [
            name,
            twice == cached,
            twice[:half] != twice[half:],
            twice[:half] == tokens(examples(f"flan_{name}", lengths)),
        ]
    )

# Shards: together the whole, each epoch numbered by itself.
whole = tokens(examples("flan_cola", num_epochs=2))
parts = [
    tokens(examples("flan_cola", num_epochs=2, shard_info=seqio.ShardInfo(i, 2))) for i in (0, 1)
]
found["shards"] = [sorted(parts[0] + parts[1]) == sorted(whole), bool(parts[0]), bool(parts[1])]
try:
    examples("flan_cola", shard_info=seqio.ShardInfo(1000, 1001))
except Exception as error:
    found["too_many_shards"] = str(error)

# The mixture, packed.
mixture = seqio.get_mixture_or_task("flan_heldout_nli")
clusters = {CATALOGUE[t.name.removeprefix("flan_")].cluster for t in mixture.tasks}
cola = seqio.get_mixture_or_task("flan_cola")
found["mixture"] = [
    "nli" not in clusters and "paraphrase" not in clusters,
    mixture.get_rate(cola),
    seqio.mixing_rate_num_examples(cola),
    cola.num_input_examples("train"),
    len(examples("flan_cola")),
]
lengths = {"inputs": 512, "targets": 128}
seqio.MixtureRegistry.add("three", ["flan_cola", "flan_copa", "flan_e2e_nlg"], default_rate=1.0)
drawn = seqio.get_mixture_or_task(drawn_from).get_dataset(
    lengths, split="train", shuffle=False, seed=0
)  # shuffling reads a thousand rows of each
packed = seqio.EncDecFeatureConverter(pack=True)(drawn, lengths)
batch = next(iter(packed.batch(4).as_numpy_iterator()))
found["packed"] = {name: list(value.shape) for name, value in batch.items()}
found["segments"] = int(batch["encoder_segment_ids"].max())
everything = {t.name for t in seqio.get_mixture_or_task("flan_heldout_none").tasks}
found["none"] = [
    len(everything),
    "flan_mnli_matched" in everything,
    "flan_mnli_mismatched" in everything,
]
superglue = [
    {t.name.removeprefix("flan_").split(".")[0] for t in seqio.get_mixture_or_task(name).tasks}
    for name in ("flan_heldout_superglue", "flan_heldout_superglue_eval")
]
found["superglue"] = [
    "snli" in superglue[0] and "wnli" not in superglue[0],
    superglue[0] & superglue[1] == set(),
    sorted(superglue[1]),
]

# The registry behaves as SeqIO's own.
found["names"] = [len(seqio.TaskRegistry.names()), "flan_rte" in seqio.TaskRegistry.names()]
try:
    seqio.TaskRegistry.add("flan_rte", source=cola.source, output_features=cola.output_features)
except ValueError as error:
    found["duplicate"] = str(error)
seqio.MixtureRegistry.add("mine", [("flan_rte", 1.0), ("flan_copa", 2.0)])
found["mine"] = sorted(t.name for t in seqio.get_mixture_or_task("mine").tasks)

# One of them in somebody's own mixture in our training.
seqio.MixtureRegistry.add("alone", ["flan_copa"], default_rate=1.0)
own = DataConfig(
    mixture_or_task_name="alone",
    held_out="none",
    batch_size=2,
    train_steps=3,
    cache_dir=cache,
    task_feature_lengths=lengths,
)
found["own"] = prepare(own).train.batches().datasets_at(0)
joined = prepare(dataclasses.replace(own, mixture_or_task_name="alone:25%+cb:5"))
found["joined"] = {member.name: member.rate for member in joined.train.members()}
found["ignored"] = []
for setting in ({"decontaminate": True}, {"templates": 1}):
    try:
        open_data(dataclasses.replace(own, **setting))
    except UserError as error:
        found["ignored"].append(str(error))
data = open_data(own)
data.train.build_shard("flan_copa", 1)
shard = data.train.open_shard("flan_copa", 1)
second = tokens(examples("flan_copa", lengths, num_epochs=2))[len(shard.inputs) :]
found["own_second"] = second == [
    (shard.inputs[i].tolist(), shard.targets[i].tolist()) for i in range(len(second))
]
named = open_data(dataclasses.replace(own, mixture_or_task_name="flan_rte.is_it_entailed"))
found["candidates"] = [
    data.train.candidates(),
    data.train.unchecked(),
    named.train.candidates(),
    named.train.unchecked(),
]
elsewhere = dataclasses.replace(own, source="jsonl", data_dir=rows)
try:
    open_data(dataclasses.replace(elsewhere, mixture_or_task_name="mine"))
except UserError as error:
    found["own_mixed_up"] = str(error)

# Settings: from gin at the first look-up, and from Python.
gin.parse_config(f"flan_jax.data.seqio.settings.SeqioTasks.vocabulary = '{vocabulary}'")
seqio_tasks.configure(source="jsonl", data_dir=rows)
task = seqio.get_mixture_or_task("flan_rte")
found["configured"] = [
    task is seqio.get_mixture_or_task("flan_rte"),
    task.num_input_examples("train"),
    list(task.splits),
    task.output_features["inputs"].vocabulary.vocab_size,
]
found["left"] = [t.name for t in seqio.get_mixture_or_task("flan_heldout_sentiment").tasks]
for name in ("flan_cola", "flan_rte_eval", "flan_heldout_coreference_eval"):
    try:
        seqio.get_mixture_or_task(name)
    except (UserError, ValueError) as error:
        found[name] = str(error)
seqio.TaskRegistry.reset()
found["reset"] = len(seqio.TaskRegistry.names())
gin.clear_config()
seqio_tasks.configure(shots=1)
text = examples("flan_cola")[0]["inputs_pretokenized"].decode()
found["shots"] = text.count("Options:")  # those of the exemplar and of the row
print("FOUND " + json.dumps(found))
"""


@pytest.fixture
def small_vocabulary(tmp_path) -> str:
    """A SentencePiece model of a few pieces, with T5's ids for padding and EOS."""
    import sentencepiece

    lines = [
        "the man walks in the park",
        "a woman reads a book",
        "yes no true false it is what it is",
    ] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "small"),
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return str(tmp_path / "small.model")


# Most of the time of a whole mixture is that of the graphs of its 55 tasks.
@pytest.mark.parametrize(
    "drawn_from", ["three", pytest.param("flan_heldout_nli", marks=pytest.mark.slow)]
)
def test_training_through_seqio(tmp_path, write_rows, small_vocabulary, drawn_from):
    rows = [
        {"premise": f"There are {i} birds.", "hypothesis": f"{i} birds.", "label": 0, "idx": i}
        for i in range(205)
    ]
    paths = str(tmp_path / "cache"), str(write_rows("rte", "train", rows))
    found = run(TRAINING, *paths, small_vocabulary, drawn_from)
    assert found["same"] == [
        [name, True, True, True] for name in ("copa", "e2e_nlg", "cola", "squad_v1")
    ]
    assert found["shards"] == [True, True, True]
    assert "cola has fewer train rows than the 1001 shards" in found["too_many_shards"]
    heldout_apart, *counts = found["mixture"]
    assert heldout_apart and len(set(counts)) == 1 and counts[0] > 0
    assert found["packed"]["encoder_input_tokens"] == [4, 512] and found["packed"][
        "decoder_target_tokens"
    ] == [4, 128]
    assert found["segments"] > 1
    assert found["none"] == [68, True, False]
    assert found["superglue"] == [True, True, sorted(SUPERGLUE)]
    assert "mnli_mismatched: has the training rows of mnli_matched" in found["logged"]
    assert found["names"] == [len(recipes.task_recipes()), True]
    assert "duplicate provider: flan_rte" in found["duplicate"] and found["mine"] == [
        "flan_copa",
        "flan_rte",
    ]
    assert found["own"] == ["flan_copa"] and found["own_second"]
    assert found["joined"] == {"flan_copa": pytest.approx(5 / 3), "cb": 5}
    assert found["candidates"] == [["copa"], [], ["rte"], []]
    assert [
        line.split(" has no effect on SeqIO task 'flan_copa'")[0] for line in found["ignored"]
    ] == ["DECONTAMINATE", "TEMPLATES"]
    assert "'flan_copa' reads bundled rows, but DATA_SOURCE is jsonl" in found["own_mixed_up"]
    same_object, count, splits, pieces = found["configured"]
    assert same_object and count == 5 and splits == ["train", "validation"] and pieces < 259
    assert found["left"] == ["flan_rte"]
    assert "flan_heldout_sentiment leaves out cola: no file" in found["logged"]
    assert (
        "'flan_cola' has no rows: cola no file" in found["flan_cola"]
        and "configure(source=" in found["flan_cola"]
    )
    assert "No Task or Mixture found" in found["flan_rte_eval"]
    assert "'flan_heldout_coreference_eval' is empty" in found["flan_heldout_coreference_eval"]
    assert found["reset"] == 0 and found["shots"] == 2


CUT = """
import json, sys
import seqio
import tensorflow as tf
from flan_jax import log
from flan_jax.data.config import DataConfig
from flan_jax.prepare import prepare

log.configure()


def read(split, shuffle_files, seed=None):
    texts = {"inputs": ["a" * 15, "a" * 16, "a" * 40], "targets": ["b", "b" * 9, "b"]}
    return tf.data.Dataset.from_tensor_slices(
        {name: 100 * column for name, column in texts.items()}
    )


feature = seqio.Feature(seqio.ByteVocabulary())
seqio.TaskRegistry.add(
    "long",
    source=seqio.FunctionDataSource(read, splits=("train",)),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={"inputs": feature, "targets": feature},
)
prepare(
    DataConfig(
        mixture_or_task_name="long",
        held_out="none",
        batch_size=1,
        train_steps=1,
        cache_dir=sys.argv[1],
        task_feature_lengths={"inputs": 16, "targets": 8},
    ),
    workers=1,
)
print("FOUND {}")
"""


def test_what_seqio_cuts_is_counted(tmp_path):
    printed = run(CUT, str(tmp_path))["printed"]
    assert "long: 300 rows read, 300 kept; 200 inputs truncated, 100 targets truncated" in printed


FUNCTIONS = """
import functools, json, sys
import seqio, tensorflow as tf
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import open_data
from flan_jax.errors import UserError

feature = seqio.Feature(seqio.ByteVocabulary())


def read(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"q": ["a?"] * 3, "a": ["b"] * 3})


def mapped(dataset, fn, **unused):
    return dataset.map(fn)


def added(suffix):
    def add(row):
        return {"inputs": row["q"] + suffix, "targets": row["a"]}

    return lambda dataset: dataset.map(add)


def path(preprocessor):
    seqio.TaskRegistry.remove("theirs")
    seqio.TaskRegistry.add(
        "theirs",
        source=seqio.FunctionDataSource(read, splits=("train",)),
        preprocessors=[preprocessor, seqio.CacheDatasetPlaceholder(), seqio.preprocessors.tokenize],
        output_features={"inputs": feature, "targets": feature},
    )
    return open_data(DataConfig(mixture_or_task_name="theirs", held_out="none")).train.shard_key(
        "theirs", 0
    )


found = {
    "paths": [
        path(functools.partial(mapped, fn=lambda row: row, known={"b", "a", "c"})),
        path(added("x")),
        path(added("y")),
    ]
}
try:
    path(functools.partial(mapped, fn=lambda row: row, reader=object()))
except UserError as error:
    found["says"] = str(error)
print("FOUND " + json.dumps(found))
"""


def test_a_task_that_holds_functions_has_the_same_shards_in_every_process(tmp_path):
    (tmp_path / "program.py").write_text(FUNCTIONS)
    first, second = (
        run(
            "import runpy, sys; runpy.run_path(sys.argv[1], run_name='program')",
            str(tmp_path / "program.py"),
        )
        for _ in range(2)
    )
    assert first["paths"] == second["paths"] and len(set(first["paths"])) == 3
    assert (
        "SeqIO task 'theirs' holds <object object at 0x" in first["says"]
        and "__repr__" in first["says"]
    )


EVALUATION = """
import json, sys
import numpy as np
import seqio
import flan_jax.tasks
from flan_jax.data.seqio import registration as seqio_tasks
from flan_jax.catalogue import CATALOGUE

found = {}


def answers(task):
    # What the task's metrics say to a model that always answers right, and to one always wrong.
    examples = list(task.get_dataset(None, split="test", shuffle=False).as_numpy_iterator())
    return [measured(task, examples, right) for right in (True, False)]


def measured(task, examples, right):
    targets = [
        task.postprocess_fn(e["targets_pretokenized"].decode(), example=e, is_target=True)
        for e in examples
    ]
    if task.score_metric_fns:
        values = [float((t["option"] == t["label"]) == right) for t in targets]
    else:
        written = [e["targets_pretokenized"].decode() if right else "zyx" for e in examples]
        values = [
            task.postprocess_fn(text, example=e, is_target=False)
            for text, e in zip(written, examples)
        ]
    (measure,) = task.score_metric_fns or task.predict_metric_fns
    return measure(targets, values)


for dataset in map(CATALOGUE.__getitem__, sys.argv[1:]):
    template = dataset.forward()[0].id
    for ending in ("", ".rank") if dataset.options else ("",):
        task = seqio.get_mixture_or_task(f"flan_{dataset.name}.{template}{ending}")
        found[dataset.name + ending] = answers(task)


# The same through SeqIO's evaluator, as T5X calls it: tokens or scores with the position of their
# example.
def perfect_tokens(data, shapes=None):
    return [(int(i), e["decoder_target_tokens"].tolist()) for i, e in data.as_numpy_iterator()]


class Scores:
    # Scores of a model that likes some options: of the Evaluator's tasks in order, right ones or
    # all alike.
    def __init__(self, evaluator, alike):
        self.tasks, self.evaluator, self.alike = iter(evaluator.eval_tasks), evaluator, alike

    def __call__(self, data, shapes=None):
        task = next(t for t in self.tasks if t.score_metric_fns)
        examples = self.evaluator.cached_task_datasets[task.name].as_numpy_iterator()
        golds = [json.loads(e["gold"]) | {"option": e["option"]} for e in examples]
        return [
            (i, 0.0 if self.alike else float(g["option"] == g["label"]))
            for i, g in enumerate(golds)
        ]


def evaluated(name, alike=False, **more):
    evaluator = seqio.Evaluator(
        name, seqio.EncDecFeatureConverter(pack=False), eval_split="test", **more
    )
    result, _ = evaluator.evaluate(
        compute_metrics=True, predict_fn=perfect_tokens, score_fn=Scores(evaluator, alike)
    )
    return result.result()


found["mixture"] = evaluated("flan_heldout_reading_comprehension_with_commonsense_eval")
found["nli"] = [t.name for t in seqio.get_mixture_or_task("flan_heldout_nli_eval").tasks]
seqio_tasks.configure(options_style="lettered")
record = f"flan_record.{CATALOGUE['record'].forward()[0].id}"
found["letters"] = [
    answers(seqio.get_mixture_or_task(record + ending))[0] for ending in ("", ".rank")
]
seqio_tasks.configure()
rte = f"flan_rte.{CATALOGUE['rte'].forward()[0].id}"
found["tie"] = evaluated(f"{rte}.rank", alike=True, num_examples=5)[f"{rte}.rank"]["accuracy"]
rows = seqio.get_mixture_or_task(rte).get_dataset(None, split="test", shuffle=False).take(2)
found["labels"] = [json.loads(e["gold"])["label"] for e in rows.as_numpy_iterator()]
print("FOUND " + json.dumps(found))
"""
# These hold rounded answers against unrounded values.
ROUNDED = ("pearson_value", "spearman_value")


def one_of_each_kind() -> list:
    """The first dataset of every set of metrics, with options and without."""
    kinds = {}
    for dataset in CATALOGUE:
        kinds.setdefault((tuple(dataset.metrics), bool(dataset.options)), dataset)
    return list(kinds.values())


@pytest.mark.parametrize(
    "datasets",
    [one_of_each_kind(), pytest.param(list(CATALOGUE), marks=pytest.mark.slow)],
    ids=["each kind", "all"],
)
def test_evaluation_through_seqio_gives_100_to_perfect_answers(datasets):
    found = run(EVALUATION, *(dataset.name for dataset in datasets))
    for dataset in datasets:
        for name in (dataset.name, f"{dataset.name}.rank") if dataset.options else (dataset.name,):
            right, wrong = found[name]
            exact = {key: value for key, value in right.items() if key not in ROUNDED}
            assert exact and all(value == pytest.approx(100) for value in exact.values()), (
                name,
                right,
            )
            assert all(wrong[key] < 100 for key in exact), (name, wrong)
    for results, cluster in (
        (found["mixture"], "reading_comprehension_with_commonsense"),
        (found["nli"], "nli"),
    ):
        expected = {
            f"flan_{d.name}.{t.id}" + (".rank" if d.options else "")
            for d in CATALOGUE.cluster(cluster)
            for t in d.forward()
        }
        assert set(results) == expected
    for name, numbers in found["mixture"].items():
        assert all(value == pytest.approx(100) for value in numbers.values()), (name, numbers)
    assert found["letters"] == [{"em": pytest.approx(100), "f1": pytest.approx(100)}] * 2
    # In a tie the first option counts; of five examples (two options a row) the half row is left
    # out.
    assert found["tie"] == pytest.approx(100 * found["labels"].count(0) / 2)
