"""A run on files of one's own: batches by hand, rates, caches, decontamination, training."""

import collections
import dataclasses
import json
import sys

import gin
import numpy as np
import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue.render import shots_of
from flan_jax.config import gin_files
from flan_jax.data.config import DataConfig
from flan_jax.data.own_data import open_own
from flan_jax.data.row_lengths import LengthMeter
from flan_jax.data.run_data import open_data
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.prepare import make_parser, prepare
from flan_jax.runs.data_log import log_sides
from support.own_rows import RECORDS, write
from support.processes import ended_well
from support.runs import command, losses, run_here

PAIRS = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(40)]
BYTES = ByteVocabulary()
LONGER = {"inputs": 128, "targets": 64}


def config(tmp_path, name, **changes) -> DataConfig:
    record = dict(
        mixture_or_task_name=name,
        held_out="none",
        batch_size=4,
        train_steps=6,
        task_feature_lengths={"inputs": 64, "targets": 32},
        cache_dir=str(tmp_path / "cache"),
        validation_batches=2,
        eval_max_rows=2,
    )
    return DataConfig(**{**record, **changes})


@pytest.fixture
def mine(tmp_path):
    """A file of 40 pairs."""
    return write(tmp_path / "my.jsonl", PAIRS)


def examples(batch, architecture: str) -> list[tuple[list[int], list[int], list[int]]]:
    """(what is read first, what is read, what is trained) of each example of a batch, as ids."""
    found = []
    for b in range(len(batch["decoder_segment_ids"])):
        segments = batch["decoder_segment_ids"][b]
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            targets = batch["decoder_target_tokens"][b][here]
            weights = batch["decoder_loss_weights"][b][here]
            if architecture == "t5":
                assert weights.all()
                encoder = batch["encoder_segment_ids"][b] == segment
                read = batch["encoder_input_tokens"][b][encoder]
            else:
                read = targets[weights == 0]
            first = batch["decoder_input_tokens"][b][here][:1].tolist()
            found.append((first, read.tolist(), targets[weights == 1].tolist()))
    return found


@pytest.mark.parametrize("architecture", ["t5", "decoder"])
def test_the_loss_is_on_the_answers_alone(mine, tmp_path, architecture):
    one = config(tmp_path, str(mine), architecture=architecture, train_steps=20)
    data = prepare(one, workers=1)
    expected = [
        ([0], [*BYTES.encode(row["prompt"]), 1], [*BYTES.encode(row["completion"]), 1])
        for row in PAIRS
    ]
    validation = data.train.batches("validation")
    trained, validated = (
        [e for step in range(len(b)) for e in examples(b.at(step), architecture)]
        for b in (data.train.batches(), validation)
    )
    assert len(validated) == 4 and not [e for e in trained if e in validated]
    assert all(e in expected for e in trained + validated)
    assert len({tuple(e[1]) for e in trained}) == 36


def test_the_report_on_texts_counts_the_examples_of_a_decoder(tmp_path):
    path = write(tmp_path / "books.jsonl", [{"text": "a" * 1000} for _ in range(20)])
    (own,) = open_own([path]).values()
    row = LengthMeter(own.dataset, ByteVocabulary(), (64, 36)).row({"answer": "a" * 1000}, "row")
    assert row.kept == 11 and row.examples == [(0, 1001)]  # EOS is a row of its own


@pytest.mark.parametrize("architecture", ["t5", "decoder"])
def test_texts_train_whole_in_examples_as_long_as_a_row(tmp_path, architecture):
    texts = [" ".join(f"{i}-{j}" for j in range(60)) for i in range(20)]
    path = write(tmp_path / "books.jsonl", [{"text": text} for text in texts])
    one = config(tmp_path, str(path), architecture=architecture, train_steps=4, shots=3)
    data = prepare(one, workers=1)
    found = [e for step in range(4) for e in examples(data.train.batches().at(step), architecture)]
    ids = [[*BYTES.encode(text), 1] for text in texts]
    length = 32 if architecture == "t5" else 96
    pieces = [piece[i : i + length] for piece in ids for i in range(0, len(piece), length)]
    assert all(first == [0] for first, _, _ in found)
    assert all(read == ([1] if architecture == "t5" else []) for _, read, _ in found)
    assert all(target in pieces for _, _, target in found)
    shard, counts = data.train.open_shard("books.jsonl", 0), data.train.counts("books.jsonl")
    trained = np.concatenate([shard.targets[i] for i in range(len(shard.targets))]).tolist()
    validated = data.train.counts("books.jsonl", "validation")["rows read"]
    assert counts["rows read"] == 20 - validated == 18 and counts["rows"] == len(shard.targets)
    whole = [ids[i] for i in range(20) if str(ids[i])[1:-1] in str(trained)]
    assert trained == sum(whole, []) and len(whole) == 18
    assert not [name for name in counts if "truncated" in name]


def test_a_small_file_has_as_many_mixed_exemplars_as_there_are(tmp_path):
    path = write(tmp_path / "my.jsonl", PAIRS[:4])
    data = prepare(config(tmp_path, str(path), shots="mixed"), workers=1)
    shard, counts = data.train.open_shard("my.jsonl", 0), data.train.counts("my.jsonl")
    texts = [BYTES.decode(shard.inputs[i]) for i in range(4)]
    drawn = [shots_of("mixed", f"my.jsonl/train/{i}", 0) for i in range(4)]
    shown = [text.count("Say") - 1 for text in texts]
    assert shown == [min(count, 3) for count in drawn] and max(shown) > 0
    assert counts.get("exemplars that did not fit", 0) == sum(drawn) - sum(shown)


def test_rates_and_shares_are_those_of_the_language(mine, tmp_path):
    other = write(tmp_path / "other.csv", [])
    other.write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(300)))
    name = f"rte:5+{mine}:10+{other}:20:50%"
    data = prepare(config(tmp_path, name), workers=1)
    rates = {member.name: member.rate for member in data.train.members()}
    assert rates == {"rte": 5, "my.jsonl": 10, "other.csv": pytest.approx(15)}
    card = {row.dataset: row for row in data.train.card(data.train.members())}
    assert card["other.csv"].rows == 270 and card["other.csv"].share == pytest.approx(0.5)
    assert card["my.jsonl"].cluster == "own data"


def test_what_is_not_named_trains_as_before(tmp_path, mine):
    """`flan` is the held-out mixture: the same batches."""
    held_out = dict(held_out="nli", train_datasets=3, validation_batches=0)
    plain = prepare(config(tmp_path, None, **held_out), workers=1)
    named = prepare(config(tmp_path, "flan", **held_out), workers=1)
    for step in range(6):
        batches = plain.train.batches().at(step), named.train.batches().at(step)
        assert all((batches[1][name] == array).all() for name, array in batches[0].items())
    both = open_data(config(tmp_path, f"flan+{mine}", **held_out))
    assert both.train.datasets() == [*plain.train.datasets(), "my.jsonl"]
    assert both.train.candidates() == plain.train.candidates()
    assert both.eval.names == plain.eval.names


def test_a_dataset_beside_flan_has_a_cap_of_its_own(tmp_path):
    """`flan` is the others then, and all of it together the held-out mixture."""
    settings = dict(held_out="sentiment", validation_batches=0)
    plain = open_data(config(tmp_path, None, **settings)).train
    capped = open_data(config(tmp_path, "flan+rte:5", **settings)).train
    assert sorted(capped.datasets()) == sorted(plain.datasets())
    assert capped.trained.rates.caps == {"rte": 5}
    share = open_data(config(tmp_path, "flan+(rte+cb):30%", **settings)).train
    assert [(sorted(names), part) for names, part in share.trained.rates.shares] == [
        (["cb", "rte"], 0.3)
    ]


def test_a_change_of_a_file_is_noticed_and_its_place_makes_no_difference(mine, tmp_path):
    one = config(tmp_path, str(mine))
    keys = [open_data(one).train.shard_key("my.jsonl", 0)]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    write(moved / "my.jsonl", PAIRS)
    there = dataclasses.replace(one, mixture_or_task_name=str(moved / "my.jsonl"))
    keys.append(open_data(there).train.shard_key("my.jsonl", 0))
    write(mine, [*PAIRS[:-1], {"prompt": "Say 39.", "completion": "It is nine."}])
    keys.append(open_data(one).train.shard_key("my.jsonl", 0))
    assert keys[0] == keys[1] != keys[2]
    # a file has one template: all epochs, with any seed, are one shard
    data = open_data(dataclasses.replace(one, seed=7))
    assert data.train.shard_key("my.jsonl", 9) == keys[2]


def test_lost_rows_are_said(mine, tmp_path, caplog):
    with open(mine, "a") as file:
        file.write('nope\n{"prompt": "x"}\n{"prompt": "y", "completion": " "}\n')
    data = prepare(config(tmp_path, str(mine)), workers=1)
    caplog.clear()
    with caplog.at_level("INFO"):
        log_sides(data)
    assert "my.jsonl: prompt/completion; rows: train 43; validation: train[-4:]" in caplog.text
    assert "bundled" not in caplog.text
    counts = collections.Counter()
    for split in ("train", "validation"):
        counts.update(data.train.counts("my.jsonl", split))
    lost = ["not a JSON object on one line", "no field completion", "empty completion"]
    assert [counts[f"dropped: {why}"] for why in lost] == [1, 1, 1]


def test_rows_that_share_words_with_held_out_ones_are_left_out(tmp_path, caplog):
    from flan_jax.catalogue import CATALOGUE
    from flan_jax.data.contamination.index import read_rows
    from flan_jax.data.sources.bundled import BundledSource

    (_, row) = next(iter(read_rows(BundledSource(), CATALOGUE["rte"], "test").rows))
    copy = {"prompt": f"Read this. {row['premise']}", "completion": row["hypothesis"]}
    path = write(tmp_path / "my.jsonl", [*PAIRS, copy])
    one = config(tmp_path, str(path), held_out="nli", eval_datasets="rte", validation_batches=0)
    with caplog.at_level("INFO"):
        data = prepare(one, workers=1)
        log_sides(data)
    assert "not checked for overlap with held-out data: my.jsonl" in caplog.text
    rows = data.train.counts("my.jsonl")["rows"]
    caplog.clear()
    with caplog.at_level("INFO"):
        data = prepare(dataclasses.replace(one, decontaminate=True), workers=1)
        log_sides(data)
    assert "not checked" not in caplog.text
    counts = data.train.counts("my.jsonl")
    assert counts["rows"] == rows - counts["dropped: shares words with held-out rte"] == rows - 1


@pytest.mark.parametrize(
    "name, changes, says",
    [
        ("rte+flan_rte:5", {}, "rte is in two of its parts"),
        ("flan+rte", {"held_out": "nli"}, "rte trains while"),
        ("flan+alpcaa", {}, "'alpcaa' is not a dataset of the catalogue"),
        ("mine.jsonl", {}, "no file 'mine.jsonl' .looked for .*did you mean my.jsonl"),
        ("notes.txt", {}, "is written as ./notes.txt"),
        ("./notes.txt", {}, "notes.txt is not a file of a known kind; the kinds are .jsonl"),
        ("my.jsonl", {"templates": 2}, "TEMPLATES has no effect on files"),
    ],
)
def test_a_part_that_cannot_train_is_one_message(mine, tmp_path, monkeypatch, name, changes, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "seqio", raising=False)
    monkeypatch.setitem(sys.modules, "flan_jax.data.seqio.shards", None)
    (tmp_path / "notes.txt").write_text("not rows")
    with pytest.raises(UserError, match=says):
        open_data(config(tmp_path, name, **changes))


@pytest.mark.slow
def test_a_run_trains_on_a_file_with_a_cluster_held_out_and_resumes(mine, tmp_path, monkeypatch):
    """It learns, evaluates what is held out, and its config.gin has the file's whole path."""
    monkeypatch.chdir(tmp_path)
    words = command(
        "train",
        tmp_path / "cache",
        tmp_path / "run",
        "--gin.MIXTURE_OR_TASK_NAME=rte:20%+my.jsonl",
        "--gin.HELD_OUT=sentiment",
        "--gin.EVAL_DATASETS=sst2",
        "--gin.EVAL_TEMPLATES=1",
        "--gin.EVAL_ROWS=2",
        "--gin.CHECKPOINT_EVERY=5",
        gin_file="flan.gin",
    )
    done = run_here([*words, "--gin.TRAIN_STEPS=5"])
    assert done.returncode == 0, done.stdout + done.stderr
    done = run_here([*words, "--gin.TRAIN_STEPS=20"])
    assert done.returncode == 0, done.stdout + done.stderr
    found = losses(tmp_path / "run")
    assert len(found) == 20 and np.mean([found[19], found[20]]) < found[1] - 0.5
    assert f"rte:20%+{mine}" in (tmp_path / "run/config.gin").read_text()
    record = json.loads((tmp_path / "run/mixture.json").read_text())
    assert record["card"][-1]["dataset"] == "my.jsonl"
    assert record["card"][-1]["share"] == pytest.approx(0.8)
    # an evaluation does not read the file
    mine.unlink()
    done = run_here([sys.executable, "-m", "flan_jax.eval", str(tmp_path / "run")])
    assert done.returncode == 0, done.stdout + done.stderr
    # other rows are not what the run began with
    write(mine, PAIRS[1:])
    done = run_here([*words, "--gin.TRAIN_STEPS=20"])
    assert done.returncode == 2 and "other rows or texts of my.jsonl" in done.stderr


def test_the_mixture_of_the_flan_collection_has_its_weights_and_caps(tmp_path, monkeypatch):
    """gin/mixture/flan2022.gin over small imitations of the files that a user brings."""
    monkeypatch.chdir(tmp_path)
    records = {
        "t0": {"inputs": "Say {}.", "targets": "{}"},
        "niv2": {"instruction": "Repeat.", "input": "{}", "output": "{}"},
        "cot": {"question": "{} + 1?", "rationale": "Count on from {}.", "answer": "more"},
        "dialog": {"inputs": "A: {}?\nB:", "targets": "{}!"},
    }
    for folder, record in records.items():
        (tmp_path / "flan2022" / folder).mkdir(parents=True)
        for task, count in (("a", 20), ("b", 60)):
            rows = [{k: v.format(i) for k, v in record.items()} for i in range(count)]
            write(tmp_path / f"flan2022/{folder}/{folder}_{task}.jsonl", rows)
    arguments = ["--gin_file=gin/mixture/flan2022.gin", "--gin.TRAIN_STEPS=2"]
    arguments += [f"--gin.CACHE_DIR={tmp_path / 'cache'}", "--gin.Data.validation_batches=0"]
    try:
        gin_files.parse_command_line(arguments, gin_files.CONFIGURED, make_parser())
        data = prepare(DataConfig(), workers=1)
    finally:
        gin.clear_config()
    shares = collections.Counter()
    for row in data.train.card(data.train.members()):
        source = row.dataset.split("_")[0]
        shares[source if source in records else "flan"] += row.share
    paper = {"flan": 0.4, "t0": 0.32, "niv2": 0.2, "cot": 0.05, "dialog": 0.03}
    assert shares == {name: pytest.approx(share) for name, share in paper.items()}
    rates = {member.name: member.rate for member in data.train.members()}
    assert rates["t0_b.jsonl"] == pytest.approx(3 * rates["t0_a.jsonl"])
    caps = data.train.trained.rates.caps
    assert [caps[name] for name in ("rte", "t0_a.jsonl", "niv2_b.jsonl", "cot_a.jsonl")] == [
        30_000,
        20_000,
        5_000,
        100_000,
    ]
    shard = data.train.open_shard("cot_b.jsonl", 0)
    texts = [BYTES.decode(shard.inputs[i]) for i in range(len(shard.inputs))]
    exemplars = collections.Counter(text.count("Explain step by step") - 1 for text in texts)
    assert set(exemplars) == {0, 1, 2, 5} and 15 < exemplars[0] < 39
    assert data.eval.names == []


@pytest.mark.parametrize("name", RECORDS)
def test_ten_rows_of_each_form_train(tmp_path, name):
    record, inputs, targets = RECORDS[name]
    last = name.split("/")[-1]
    rows = [record | {last: f"{i}{record[last]}"} for i in range(10)]
    path = write(tmp_path / "my.jsonl", rows)
    data = prepare(
        config(tmp_path, str(path), train_steps=3, task_feature_lengths=LONGER), workers=1
    )
    found = [e for step in range(3) for e in examples(data.train.batches().at(step), "t5")]
    text = str(record[last]).strip()
    answers = [targets.removesuffix(text) + f"{i}{record[last]}".rstrip() for i in range(10)]
    assert {BYTES.decode(read) for _, read, _ in found} == {inputs or ""}
    assert {BYTES.decode(trained) for _, _, trained in found} <= set(answers)


def test_a_run_on_a_file_ends_with_a_command_to_try(tmp_path):
    rows = [{"question": f"What is {i} and {i}?", "answer": f"It be {2 * i}."} for i in range(12)]
    write(tmp_path / "my.jsonl", rows)
    result = ended_well(
        run_here(
            command(
                "train",
                tmp_path / "cache",
                tmp_path / "run",
                "--gin.TRAIN_STEPS=1",
                f"--gin.MIXTURE_OR_TASK_NAME={tmp_path / 'my.jsonl'}",
                "--gin.HELD_OUT=none",
                "--gin.TASK_FEATURE_LENGTHS={'inputs': 48, 'targets': 16}",
            )
        )
    )
    last = result.stdout.splitlines()[-1]
    assert last.startswith("next: ") and f"generate {tmp_path / 'run'} " in last
