"""The library in Python: `flan_jax.load`, `mixture`, `train`, `evaluate`, beside the verbs."""

import functools
import inspect
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import gin
import jax
import numpy as np
import pytest

import flan_jax
from flan_jax import eval as eval_verb
from flan_jax import generate as generate_verb
from flan_jax.evaluation.rank_scorer import RankScorer
from flan_jax.train import main as train_verb
from support.adapters import random_llama
from support.tokenizer_files import byte_bpe, save

TINY_T5 = {
    "T5Config.emb_dim": 16,
    "T5Config.num_heads": 2,
    "T5Config.head_dim": 8,
    "T5Config.mlp_dim": 32,
    "T5Config.num_encoder_layers": 1,
    "T5Config.num_decoder_layers": 1,
}
LENGTHS = {"inputs": 96, "targets": 16}
OPTIONS = ["yes", "no", "it is not possible to tell"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A directory with a random Llama and its tokenizer, as of Hugging Face, and a token cache."""
    place = tmp_path_factory.mktemp("api")
    random_llama(place / "llama", vocab_size=320)
    save(byte_bpe(), place / "llama")
    return place


@pytest.fixture(scope="module")
def decoder(place) -> flan_jax.Model:
    return flan_jax.load(
        place / "llama", task_feature_lengths=LENGTHS, cache_dir=str(place / "cache")
    )


@pytest.fixture(scope="module")
def t5(place) -> flan_jax.Model:
    return flan_jax.load(
        "gin/size/t5_tiny.gin",
        task_feature_lengths=LENGTHS,
        cache_dir=str(place / "cache"),
        **TINY_T5,
    )


@pytest.fixture(scope="module")
def data(decoder) -> flan_jax.Mixture:
    """One dataset of a few bundled rows, in two templates, and another one to evaluate."""
    return flan_jax.mixture(
        "cb", held_out="none", eval_datasets="copa", eval_templates=1, templates=1, model=decoder
    )


train = functools.partial(
    flan_jax.train, batch_size=2, checkpoint_every=2, **{"Data.validation_batches": 1}
)


@pytest.fixture(scope="module")
def run(decoder, data, place) -> flan_jax.Run:
    return train(decoder, data, steps=4, model_dir=place / "runs/whole")


def losses(directory: pathlib.Path) -> dict[int, float]:
    lines = map(json.loads, (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


# --- The package


def test_the_import_is_light_and_train_stays_the_function():
    program = (
        "import sys, flan_jax; "
        "print([m for m in ('jax', 'numpy', 'gin', 'tensorflow') if m in sys.modules]); "
        "import flan_jax.train; from flan_jax.train import main; "
        "print(flan_jax.train.__module__, main.__module__)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.splitlines() == ["[]", "flan_jax.api.tuning_runs flan_jax.train"]


def test_the_public_surface_is_documented():
    names = set(flan_jax.__all__) - {"__version__"}
    assert names <= set(dir(flan_jax)) and names == set(flan_jax._MODULES)
    page = (pathlib.Path(flan_jax.__file__).parents[1] / "docs/python.md").read_text()
    for name in names:
        public = getattr(flan_jax, name)
        assert f"`{name}`" in page or f"flan_jax.{name}" in page, f"docs/python.md lacks {name}"
        members = [public] if inspect.isfunction(public) else vars(public).values()
        for member in filter(inspect.isfunction, members):
            if not member.__name__.startswith("_"):
                assert member.__doc__, member
        if inspect.isfunction(public):
            assert "Args:" in public.__doc__ and "Raises:" in public.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = flan_jax.lod


# --- Models


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_scores_are_those_of_rank_classification_and_of_the_logits(kind, request):
    model = request.getfixturevalue(kind)
    text, vocabulary = "Is water wet?", model.vocabulary
    scores = model.score(text, OPTIONS)
    assert scores.dtype == np.float64 and scores.shape == (3,)
    source = np.array(vocabulary.encode_input(text), np.int32)
    targets = [
        np.array([*vocabulary.encode_target(option), vocabulary.eos_id], np.int32)
        for option in OPTIONS
    ]
    scorer = RankScorer(model._setup.model, model.mesh, bos_id=vocabulary.bos_id)
    assert np.array_equal(scores, scorer.scores(model.params, [source], [targets])[0])
    for score, target in zip(scores, targets):
        if kind == "t5":
            logits = model.logits(inputs=source[None], targets=target[None])[0]
        else:
            ids = np.concatenate([[vocabulary.bos_id], source, target[:-1]])
            logits = model.logits(ids[None])[0, len(source) :]
        assert logits.dtype == np.float32
        tokens = jax.nn.log_softmax(logits)[np.arange(len(target)), target]
        assert abs(tokens.sum() - score) < 1e-4


def test_many_rows_are_ranked_as_each_by_itself(decoder):
    rows = [("Is it wet?", OPTIONS), ("Is it dry?", OPTIONS[:2]), ("Is it wet?", ["no", "no"])]
    rankings = decoder.rank(rows)
    for (text, options), ranking in zip(rows, rankings):
        np.testing.assert_allclose(ranking.scores, decoder.score(text, options), atol=1e-4)
        assert ranking.answer == options[int(np.argmax(ranking.scores))]
    assert decoder.rank([]) == []
    lazy = decoder.rank((text, (option for option in options)) for text, options in rows)
    assert [ranking.answer for ranking in lazy] == [ranking.answer for ranking in rankings]


def test_answers_are_those_of_the_verb(decoder, place, capsys):
    prompts = ["Is it wet?", "rain and snow"]
    common = [str(place / "llama"), f"--gin.TASK_FEATURE_LENGTHS={LENGTHS}", *prompts]
    assert generate_verb.main(common) == 0
    # the verb escapes what would break its lines
    shown = [generate_verb._on_one_line(text) for text in decoder.generate(prompts)]
    assert capsys.readouterr().out.splitlines() == shown
    assert generate_verb.main([*common, "--method=sample", "--seed=3", "--top_k=5"]) == 0
    sampled = decoder.generate(prompts, method="sample", seed=3, top_k=5)
    assert capsys.readouterr().out.splitlines() == list(map(generate_verb._on_one_line, sampled))
    (short,) = decoder.generate(prompts[:1], max_tokens=3)
    whole = decoder.generate(prompts[:1])[0]
    assert whole.startswith(short) and short != whole
    (stopped,) = decoder.generate(prompts[:1], stop=[whole[2:4]])
    assert stopped == whole[: whole.find(whole[2:4])]
    assert decoder.generate(prompts[:1], stop=None) == [whole]
    messages = [{"role": "user", "content": prompts[0]}]
    assert (
        generate_verb.main([*common[:2], prompts[0], "--system=Be brief.", "--max_tokens=9"]) == 0
    )
    brief = decoder.generate([messages], system="Be brief.", max_tokens=9)
    assert capsys.readouterr().out.removesuffix("\n") == generate_verb._as_printed(brief[0])


def test_logits_are_causal_and_padding_of_a_t5_is_not_read(decoder, t5):
    ids = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])
    logits = decoder.logits(ids)
    assert logits.shape == (2, 4, decoder.config.vocab_size)
    changed = decoder.logits([[5, 6, 20, 21]])
    np.testing.assert_allclose(logits[0, :2], changed[0, :2], atol=1e-5)
    assert np.abs(logits[0, 2] - changed[0, 2]).max() > 1e-3
    padded = t5.logits(inputs=[[5, 6, 0, 0]], targets=[[7, 8]])
    np.testing.assert_allclose(padded, t5.logits(inputs=[[5, 6]], targets=[[7, 8]]), atol=1e-5)


def test_a_bidirectional_prefix_is_as_long_as_it_is_given():
    model = flan_jax.load(
        "gin/size/decoder_tiny.gin",
        **{"DecoderConfig.prefix": "bidirectional", "DecoderConfig.num_layers": 2},
        **{"DecoderConfig.emb_dim": 16, "DecoderConfig.mlp_dim": 16},
    )
    source, target = np.array(model.vocabulary.encode_input("wet?")), np.array([70, 1])
    ids = np.concatenate([[model.vocabulary.bos_id], source, target[:-1]])[None]
    logits = model.logits(ids, prefix_length=len(source) + 1)[0, len(source) :]
    total = jax.nn.log_softmax(logits)[np.arange(2), target].sum()
    text = model.vocabulary.decode([70])
    assert abs(total - model.score("wet?", [text])[0]) < 1e-4
    causal = jax.nn.log_softmax(model.logits(ids)[0, len(source) :])[np.arange(2), target].sum()
    assert abs(total - causal) > 1e-4


@pytest.mark.devices
def test_a_mesh_as_an_argument(place):
    mesh = {"data": 2, "fsdp": 2, "model": 2}
    rows = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]
    sharded = flan_jax.load(place / "llama", mesh=mesh)
    assert dict(sharded.mesh.shape) == mesh
    one = flan_jax.load(place / "llama")
    np.testing.assert_allclose(sharded.logits(rows), one.logits(rows), atol=1e-4)


def test_the_dtype_of_the_computation_is_an_argument(place):
    model = flan_jax.load(place / "llama", dtype="bfloat16", param_dtype="bfloat16")
    assert model.config.dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model.params)} == {"bfloat16"}
    with pytest.raises(flan_jax.UserError, match="float16"):
        flan_jax.load(place / "llama", dtype="float16")


def test_a_run_is_loaded_by_its_config_file_too(run):
    model = flan_jax.load(run.directory / "config.gin", step=np.int64(2))
    assert (model.name, model.step) == (str(run.directory), 2)


# --- What belongs to the program

OF_THE_PROGRAM = """
import logging, sys
import jax
import flan_jax
def load(cache_dir):
    model = flan_jax.load(LLAMA, cache_dir=cache_dir)
    model.score("Is it wet?", ["yes", "no"])
    print(jax.config.jax_compilation_cache_dir)
load("a")
load("b")
jax.config.update("jax_compilation_cache_dir", "of_the_program")
load("c")
import flan_jax.checkpoints.manager
print("orbax.checkpoint" in sys.modules, logging.root.handlers)
"""


def test_the_compilation_cache_and_the_log_of_a_program_stay_as_they_are(place, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    program = OF_THE_PROGRAM.replace("LLAMA", repr(str(place / "llama")))
    command = [sys.executable, "-c", program]
    paths = {"PYTHONPATH": str(pathlib.Path(flan_jax.__file__).parents[1])}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment | paths
    )
    *directories, last = result.stdout.splitlines()
    assert [pathlib.Path(directory).parent.name for directory in directories] == ["a", "b", ""]
    assert directories[2] == "of_the_program" and last == "True []"


# --- gin


@gin.configurable
def of_the_program(number=1):
    return number


@pytest.fixture
def called_like_ours():
    """A configurable of the program with a name that flan_jax has, too."""
    function = gin.configurable("Train", module="of_the_program")(lambda seed=1: seed)
    yield function
    gin.config._REGISTRY.pop("of_the_program.Train")


def test_the_gin_settings_of_a_program_stay_as_they_are(place, decoder, t5, called_like_ours):
    settings = ["test_python_api.of_the_program.number = 3", "NAME = 4", "T5Config.emb_dim = 7"]
    gin.parse_config([*settings, "of_the_program.Train.seed = 5"])
    gin.finalize()
    before, operative = gin.config_str(), (of_the_program(), gin.operative_config_str())
    wide = flan_jax.load(
        "gin/size/t5_tiny.gin", task_feature_lengths=LENGTHS, **{**TINY_T5, "T5Config.mlp_dim": 64}
    )
    assert (wide.config.emb_dim, wide.config.mlp_dim, t5.config.mlp_dim) == (16, 64, 32)
    # models of different sizes work side by side
    for model in (wide, t5, decoder):
        model.release()
        assert np.isfinite(model.score("Is it wet?", OPTIONS)).all()
    with pytest.raises(flan_jax.UserError):
        flan_jax.load(place / "nowhere")
    assert gin.config_str() == before and gin.config_is_locked()
    assert (of_the_program(), gin.operative_config_str()) == operative and called_like_ours() == 5


# --- Data


def test_batches_are_those_of_a_run(data, run):
    batches = list(data.batches(batch_size=2, steps=3))
    assert len(batches) == 3
    assert batches[0]["decoder_target_tokens"].shape == (2, sum(LENGTHS.values()))
    later = next(data.batches(batch_size=2, steps=4, start=2))
    for name, array in later.items():
        assert array.dtype == np.int32 and np.array_equal(array, batches[2][name])
    tokens = sum(line.get("tokens", 0) for line in run.metrics() if line["step"] == 3)
    assert tokens == int((later["decoder_segment_ids"] > 0).sum())


def test_the_card_and_the_names_of_a_mixture(data):
    (row,) = data.card()
    assert (row["dataset"], row["templates"], row["share"]) == ("cb", 1, 1.0)
    assert data.train_names == ["cb"] and data.held_out_names == ["copa"]


# --- Training


def test_a_run_is_continued_by_the_command_and_the_other_way_round(
    decoder, data, run, place, capsys
):
    directory = place / "runs"
    assert run.finished and list(losses(run)) == [1, 2, 3, 4]
    # begun here, continued by the command, which also evaluates
    begun = train(decoder, data, steps=2, model_dir=directory / "begun_here")
    config = f"--gin_file={begun.directory / 'config.gin'}"
    assert train_verb([config, "--gin.TRAIN_STEPS=4"]) == 0
    assert "resuming from step 2" in capsys.readouterr().out
    assert losses(begun) == losses(run)
    assert (begun.directory / "report.md").is_file()
    # begun by the command, continued here
    other = directory / "begun_by_the_command"
    config = f"--gin_file={run.directory / 'config.gin'}"
    moved = [f"--gin.MODEL_DIR={other}", "--gin.TRAIN_STEPS=2", "--gin.EVAL_DATASETS=None"]
    shutil.copy(run.directory / "config.gin", directory / "recipe.gin")
    assert train_verb([f"--gin_file={directory / 'recipe.gin'}", *moved]) == 0
    assert losses(flan_jax.resume(other, steps=4)) == losses(run)


def test_random_parameters_are_those_that_the_run_begins_with(t5, place):
    def data(seed):
        lengths = {"task_feature_lengths": LENGTHS, "cache_dir": str(place / "cache")}
        return flan_jax.mixture("cb", held_out="none", templates=1, model=t5, seed=seed, **lengths)

    directory = place / "runs/random"
    for others, settings in ((data(1), {}), (data(0), {"seed": 1})):
        with pytest.raises(flan_jax.UserError, match=r"from SEED=0, but .* load\(..., seed=1\)"):
            train(t5, others, steps=1, model_dir=directory, **settings)
    assert not directory.exists()
    run = train(t5, data(0), steps=1, model_dir=directory, learning_rate=1e-12)
    before, after = (model.score("Is it wet?", OPTIONS) for model in (t5, run.model()))
    np.testing.assert_allclose(before, after, atol=1e-3)


def test_training_leaves_the_root_logger_as_it_is(decoder, data, place, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    train(decoder, data, steps=1, model_dir=place / "runs/quiet")
    assert logging.root.handlers == []


def test_parameter_efficient_tuning_with_the_settings_of_its_recipe(decoder, data, place):
    before = decoder.score("Is it wet?", OPTIONS)
    tuned = train(decoder, data, steps=2, model_dir=place / "runs/lora", peft="lora", lora_rank=2)
    text = (tuned.directory / "config.gin").read_text()
    assert "LORA_RANK = 2\n" in text and "OPTIMIZER = 'adamw'" in text
    assert np.array_equal(decoder.score("Is it wet?", OPTIONS), before)
    model = tuned.model()
    assert np.abs(model.score("Is it wet?", OPTIONS) - before).max() > 1e-7
    # what was tuned is tuned further, from a checkpoint of ours
    further = train(model, data_of(data, model), steps=1, model_dir=place / "runs/further")
    assert str(tuned.directory / "checkpoints/2") in (further.directory / "config.gin").read_text()


def data_of(data: flan_jax.Mixture, model: flan_jax.Model) -> flan_jax.Mixture:
    lengths = {"task_feature_lengths": LENGTHS, "cache_dir": str(data.data.directory)}
    return flan_jax.mixture("cb", held_out="none", templates=1, model=model, **lengths)


# --- Evaluation


def test_results_are_those_of_the_verb(run, place):
    settings = {"eval_templates": 1, "eval_rows": 4}
    results = flan_jax.evaluate(run, ["rte"], output=place / "results/here", **settings)
    arguments = ["--gin.EVAL_DATASETS=rte", "--gin.EVAL_TEMPLATES=1", "--gin.EVAL_ROWS=4"]
    output = place / "results/verb"
    assert eval_verb.main([str(run.directory), f"--output={output}", *arguments]) == 0
    theirs = (output / "results.csv").read_bytes()
    assert (results.directory / "results.csv").read_bytes() == theirs
    rows = results.rows()
    assert {row["dataset"] for row in rows} == {"rte"} and len(rows) == theirs.count(b"\n") - 1
    assert {row["model"] for row in rows} == {"tuned", "majority"} and rows[0]["n"] == 4
    assert "| rte | accuracy | 4 |" in results.report() in (output / "report.md").read_text()
    pandas = pytest.importorskip("pandas", reason="NOT CHECKED: table() needs pandas")
    table = results.table()
    assert isinstance(table, pandas.DataFrame) and table["value"].tolist() == [
        row["value"] for row in rows
    ]


def test_results_have_what_the_call_evaluated_and_nothing_else(run, place):
    evaluate = functools.partial(
        flan_jax.evaluate, run, output=place / "results/several", eval_rows=4
    )
    wide = evaluate(["rte", "copa"], step=4, eval_templates=2)
    calls = {
        "step": evaluate(["rte"], step=2, eval_templates=2),
        "templates": evaluate(["rte"], step=2, eval_templates=1),
        "shots": evaluate(["rte"], step=2, eval_templates=1, shots=1),
        "name": evaluate(["rte"], step=2, eval_templates=1, name="other"),
    }

    def seen(results, *columns):
        rows = [row for row in results.rows() if row["model"] != "majority"]
        return {tuple(row[column] for column in columns) for row in rows}

    columns = ("dataset", "model", "step", "shots")
    assert seen(wide, *columns) == {("rte", "tuned", 4, 0), ("copa", "tuned", 4, 0)}
    assert seen(calls["step"], *columns) == {("rte", "tuned", 2, 0)}
    assert len(seen(calls["step"], "template")) == 2
    assert seen(calls["templates"], *columns) == {("rte", "tuned", 2, 0)}
    assert len(seen(calls["templates"], "template")) == 1
    assert seen(calls["shots"], *columns) == {("rte", "tuned", 2, 1)}
    assert seen(calls["name"], *columns) == {("rte", "other", 2, 0)}
    for results in calls.values():
        assert {row["dataset"] for row in results.rows() if row["model"] == "majority"} == {"rte"}
        assert results.report().count("| rte |") == 1


def test_the_untuned_model_and_the_majority_class_of_the_same_rows_belong_to_results(
    decoder, data, place
):
    begun = train(decoder, data, steps=2, model_dir=place / "runs/whole_report")
    config = f"--gin_file={begun.directory / 'config.gin'}"
    settings = {"eval_templates": 1, "eval_rows": 4}
    rows = [f"--gin.{name.upper()}={value}" for name, value in settings.items()]
    assert train_verb([config, *rows]) == 0
    results = flan_jax.evaluate(begun, ["copa"], **settings)
    assert {row["model"] for row in results.rows()} == {"tuned", "untuned", "majority"}
    more = flan_jax.evaluate(begun, ["copa"], **{**settings, "eval_rows": 6}, name="more")
    assert {row["n"] for row in more.rows()} == {6}
    assert {row["model"] for row in more.rows()} == {"more", "majority"}


def test_a_model_that_is_not_a_run_is_evaluated_elsewhere(decoder, place):
    settings = {"eval_templates": 1, "eval_rows": 2, "name": "llama"}
    results = flan_jax.evaluate(decoder, ["rte"], output=place / "results/llama", **settings)
    assert {row["model"] for row in results.rows()} == {"llama", "majority"}


# --- Mistakes


@pytest.mark.parametrize(
    "call, message",
    [
        ("load('nowhere')", "no checkpoint found at .*nowhere"),
        ("load(llama, learning_rat=1)", r"load\(\) has no argument 'learning_rat'; did you mean"),
        ("load(llama, seed=object())", "seed=<object.*> is not a plain value"),
        ("load(llama, step=3)", "has no steps|step"),
        ("load('gin/size/t5_tiny.gin', step=3)", "has no checkpoints, so leave step=3 out"),
        ("load(llama, model='other')", r"load\(\) has model='other' beside another argument that"),
        ("load(llama, mesh='auto', **{'Train.mesh': {}})", "beside another .* sets mesh='auto'"),
        ("load(llama, batch_size=np.array([1, 2]))", r"BATCH_SIZE must be .*, not \[1, 2\]"),
        ("load(run, step='3')", "step must be the number of a checkpoint, .* not '3'"),
        ("load(run, step=True)", "'best' or None, not True"),
        ("run.model(step=2.0)", "'best' or None, not 2.0"),
        ("flan_jax.evaluate(run, step='2')", "'best' or None, not '2'"),
        ("decoder.score('x', 'yes')", "options must be a list of texts, not 'yes'"),
        ("decoder.score('x', None)", "options must be a list of texts, not None"),
        ("decoder.rank([('b',)])", r"a row must be \(text, options\), not \('b',\)"),
        ("decoder.rank(None)", r"rows must be a list of \(text, options\), not None"),
        ("decoder.score('x', [])", "has no options"),
        ("decoder.score(3, ['yes'])", "text must be a text, not 3"),
        ("decoder.score('x', ['yes', 1])", "an option must be a text, not 1"),
        ("decoder.generate([None])", "a prompt must be a text, or a list of messages"),
        ("decoder.generate([{'role': 'user', 'content': 'x'}])", r"is generate\(\[messages\]\)"),
        ("decoder.generate(['x'], stop='a')", r"stop must be a list of .*; write \['a'\]"),
        ("decoder.generate(None)", "prompts must be a list of texts or messages, not None"),
        ("decoder.generate(['x'], method='x', foo=1)", "the decoding method must be one of greedy"),
        ("decoder.score('x' * 500, ['yes'])", "allows 96; shorten it"),
        ("decoder.generate('why?')", r"must be a list .*; write \['why\?'\]"),
        ("decoder.generate(['x'], top_k=3)", "has no argument 'top_k'; it is one of method='samp"),
        ("decoder.generate(['x'], method='best')", "the decoding method must be one of greedy"),
        ("decoder.generate(['x'], max_tokens=0)", "max_tokens must be a whole number of at least"),
        ("decoder.logits(inputs=[[1]], targets=[[1]])", r"decoder-only model; write logits\(ids"),
        ("t5.logits([[1]])", r"this is a T5; write logits\(inputs=..., targets=...\)"),
        ("t5.logits(inputs=[[1], [2]], targets=[[1]])", "must have as many rows"),
        ("decoder.logits([[1, 2], [3]])", r"ids must be whole numbers \[B, L\]"),
        ("decoder.logits([[1.5]])", "ids must be whole numbers .*, not float64"),
        ("decoder.logits([[320]])", "those of the model are 0 to 319"),
        ("decoder.logits([[1]], prefix_length=1)", "a decoder whose prefix is bidirectional"),
        ("flan_jax.mixture(held_out='nil')", "nil"),
        ("flan_jax.mixture('nothing', held_out='none')", "nothing"),
        ("flan_jax.mixture('rte', mixture_or_task_name='copa')", "sets mixture_or_task_name='rte'"),
        ("data.batches(start=-1)", "start must be a whole number of at least 0.* not -1"),
        ("flan_jax.train(decoder, data, 2, place / 'x', peft='lara')", "did you mean lora"),
        ("flan_jax.train(decoder, 'rte', 2, place / 'x')", "data of flan_jax.mixture"),
        ("flan_jax.train(t5, data, 2, place / 'x')", "make it with mixture"),
        ("flan_jax.train(decoder, data, 2, place / 'x', train_steps=5)", "that sets train_steps=2"),
        (
            "flan_jax.train(decoder, data, 2, place / 'x', **{'Data.train_steps': 5})",
            "sets train_st",
        ),
        ("flan_jax.resume(run, 4, train_steps=5)", "sets train_steps=4"),
        ("flan_jax.train(decoder, data, -2, place / 'x')", "TRAIN_STEPS must be .* not -2.$"),
        ("flan_jax.train(decoder, data, 2, 'az://b/x')", "model_dir az://b/x is a URL"),
        ("flan_jax.train(decoder, data, 4, run, batch_size=3)", "BATCH_SIZE is 2 there and 3 here"),
        ("flan_jax.resume(place)", "is not the directory of a run"),
        ("flan_jax.evaluate(place)", "is not the directory of a run; give a run, or a model"),
        ("flan_jax.evaluate(decoder, ['rte'])", "give output=DIR"),
        ("flan_jax.evaluate(t5, ['rte'])", "has random parameters, and no checkpoint"),
        ("flan_jax.evaluate(run, 'rte')", r"write \['rte'\]"),
        ("flan_jax.evaluate(run, [1])", "a dataset must be a text, not 1"),
        ("flan_jax.evaluate(run, ['rte'], eval_datasets='copa')", "sets eval_datasets='rte'"),
        ("flan_jax.evaluate(run, ['rto'])", "rto"),
    ],
)
def test_a_mistake_is_one_clear_message(call, message, place, decoder, t5, data, run):
    names = {"load": flan_jax.load, "llama": place / "llama", "place": place, "data": data}
    names |= {"decoder": decoder, "t5": t5, "run": run, "flan_jax": flan_jax, "np": np}
    with pytest.raises(flan_jax.UserError, match=message):
        eval(call, names)
