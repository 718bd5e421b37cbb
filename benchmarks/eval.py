"""The speed of ranking options and writing answers, beside a naive way and Hugging Face.

  python benchmarks/eval.py [--data_dir=ROWS --vocabulary=FILE] [--sizes=tiny,small] [--rows=96]
  [--json=FILE]

T5 1.1 with random weights and 32,128 rows of vocabulary, the same weights and rows for all. Without
--data_dir the bundled rows. Contestants take turns; medians of --repeats turns, and of the ratios
within a turn. Compilation is not in the rates but in a column of its own. The contestants:

  ours         RankScorer, Generator: as `flan-jax eval` uses them.
  naive        our model, jitted; the input repeated for each option, all padded to the longest of
               the dataset, 16 pairs of input and option a batch.
  transformers PyTorch; the same pairs, sorted by length, 16 a batch, padded to the longest of the
               batch; model(input_ids, attention_mask, labels).logits and log_softmax, which is what
               lm-evaluation-harness does. Generation: generate(use_cache=True). Left out, and said
               so, where it is not installed.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import idle
import jax
import jax.numpy as jnp
import numpy as np

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.checkpoints.formats import huggingface_t5
from flan_jax.checkpoints.formats.safetensors_files import write_directory
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import open_data
from flan_jax.evaluation import batching
from flan_jax.evaluation.rank_scorer import RankScorer
from flan_jax.models import t5
from flan_jax.models.decoding import greedy
from flan_jax.models.shapes import parameter_shapes
from flan_jax.parallel import devices, partitioning

DATASETS = ("rte", "anli_r1", "hellaswag", "copa")
SIZES = {
    "tiny": {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 4, "num_heads": 4},
    "small": {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
}
PAIRS = 16  # a batch of the other contestants


def make_model(directory: pathlib.Path, size: str) -> tuple[t5.T5, Any]:
    """Writes random weights as Hugging Face has them; returns our model and parameters."""
    directory.mkdir()
    config = {
        "model_type": "t5",
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "num_decoder_layers": SIZES[size]["num_layers"],
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "architectures": ["T5ForConditionalGeneration"],
        **SIZES[size],
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = parameter_shapes(huggingface_t5.read_config(config, True, str(directory)))
    rng, names = np.random.default_rng(0), huggingface_t5.tensor_names(shapes)
    arrays = {}
    for name, shape in shapes.items():
        shape = shape[::-1] if huggingface_t5.is_transposed(name) else shape
        # Small: attention as sharp as random weights make it would show rounding in the scores.
        values = rng.standard_normal(shape, np.float32) * 0.5 * SIZES[size]["d_model"] ** -0.5
        arrays[names[name]] = 1 + values if "norm" in name else values
    write_directory(
        directory, {n: (a.shape, a.dtype) for n, a in arrays.items()}, arrays.__getitem__
    )
    model = t5.T5(dataclasses.replace(open_checkpoint(directory).config, dropout_rate=0.0))
    ones = jnp.ones((1, 8), jnp.int32)
    batch = dict.fromkeys(
        [
            "encoder_input_tokens",
            "encoder_segment_ids",
            "decoder_input_tokens",
            "decoder_segment_ids",
        ],
        ones,
    )
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    return model, load_parameters(directory, partitioning.unbox(boxed))[1]


def read_rows(flags: argparse.Namespace, cache: pathlib.Path) -> dict[str, tuple[list, list]]:
    """Returns the inputs and options of each dataset in its first forward template."""
    source = {"source": "bundled"}
    if flags.data_dir:
        source = {"source": "jsonl", "data_dir": flags.data_dir}
    data = open_data(
        DataConfig(
            **source,
            vocabulary=flags.vocabulary,
            held_out="none",
            eval_datasets="+".join(DATASETS),
            eval_templates=1,
            eval_max_rows=flags.rows,
            cache_dir=str(cache),
        )
    )
    rows = {}
    for dataset, template in data.eval.jobs():
        data.eval.build(dataset, template)
        examples = data.eval.examples(dataset, template)
        rows[dataset.name] = examples.inputs, examples.options
    return rows


def padded(rows: list[np.ndarray], width: int, value: int = 0) -> np.ndarray:
    """Returns the rows, padded to one width."""
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=value) for row in rows])


def pairs_of(inputs: list, options: list) -> list[tuple]:
    """Returns (input, option) for all options of all inputs."""
    return [(source, option) for source, choices in zip(inputs, options) for option in choices]


def naive_scores(model: t5.T5, params: Any, inputs: list, options: list) -> np.ndarray:
    """Returns the sums of all pairs, in their order."""
    pairs = pairs_of(inputs, options)
    sources = padded([source for source, _ in pairs], max(map(len, inputs)))
    targets = padded([option for _, option in pairs], max(len(option) for _, option in pairs))
    sums = []
    for begin in range(0, len(pairs), PAIRS):
        rows = np.minimum(np.arange(begin, begin + PAIRS), len(pairs) - 1)
        sums.append(_naive_sums(model, params, sources[rows], targets[rows]))
    return np.concatenate(sums)[: len(pairs)]


@functools.partial(jax.jit, static_argnames="model")
def _naive_sums(model: t5.T5, params: Any, source: jax.Array, target: jax.Array) -> jax.Array:
    given = jnp.pad(target, ((0, 0), (1, 0)))[:, :-1]
    logits = model.apply(
        {"params": params},
        {
            "encoder_input_tokens": source,
            "encoder_segment_ids": (source > 0).astype(int),
            "decoder_input_tokens": given,
            "decoder_segment_ids": jnp.ones_like(target),
        },
    )
    scores = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
    return jnp.where(target > 0, scores, 0).sum(axis=1)


class Theirs:
    """The contestant on PyTorch."""

    def __init__(self, directory: pathlib.Path):
        import torch
        import transformers

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.set_flush_denormal(True)  # as XLA has it
        transformers.logging.set_verbosity_error()
        self.torch = torch
        self.model = transformers.T5ForConditionalGeneration.from_pretrained(directory).eval()
        self.model.config.decoder_start_token_id = (
            self.model.generation_config.decoder_start_token_id
        ) = 0

    def scores(self, inputs: list, options: list) -> np.ndarray:
        """Returns the sums of all pairs, in their order."""
        torch, pairs = self.torch, pairs_of(inputs, options)
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        sums = np.zeros(len(pairs))
        for begin in range(0, len(pairs), PAIRS):
            rows = order[begin : begin + PAIRS]
            ids = torch.tensor(
                padded([pairs[i][0] for i in rows], max(len(pairs[i][0]) for i in rows))
            ).long()
            labels = padded([pairs[i][1] for i in rows], max(len(pairs[i][1]) for i in rows), -100)
            labels = torch.tensor(labels).long()
            with torch.no_grad():
                logits = self.model(
                    input_ids=ids, attention_mask=(ids > 0).long(), labels=labels
                ).logits
                scores = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[
                    ..., 0
                ]
                sums[rows] = (scores * (labels >= 0)).sum(-1).numpy()
        return sums

    def write(self, prompts: np.ndarray, new: int) -> np.ndarray:
        """`new` greedy tokens after each prompt [B, S]."""
        ids = self.torch.tensor(prompts).long()
        with self.torch.no_grad():
            written = self.model.generate(
                ids,
                attention_mask=(ids > 0).long(),
                max_new_tokens=new,
                do_sample=False,
                use_cache=True,
                eos_token_id=-1,
                pad_token_id=0,
            )
        return written[:, 1:].numpy()


def measured(
    contestants: dict, repeats: int, count: int
) -> tuple[dict[str, dict[str, float]], dict]:
    """Lets all take turns, and returns a table and the results of the first turn.

    The table has rates, how many times faster ours is, and how much longer the first turn took.
    """
    first = {name: timed(run) for name, run in contestants.items()}
    turns = [{name: timed(run)[0] for name, run in contestants.items()} for _ in range(repeats)]
    table = {}
    for name in contestants:
        seconds = statistics.median(turn[name] for turn in turns)
        table[name] = {
            "rate": count / seconds,
            "compilation_s": max(0.0, first[name][0] - seconds),
            "ours_is_faster": statistics.median(turn[name] / turn["ours"] for turn in turns),
        }
    return table, {name: result for name, (_, result) in first.items()}


def timed(run: Callable) -> tuple:
    """Returns (seconds, result) of a call."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def rank(
    model: t5.T5, params: Any, theirs: "Theirs | None", inputs: list, options: list, repeats: int
) -> dict:
    """Returns the rows a second of one dataset, and the padding that ours computes."""
    scorer = RankScorer(model)
    contestants = {
        "ours": lambda: np.concatenate(scorer.scores(params, inputs, options)),
        "naive": lambda: naive_scores(model, params, inputs, options),
    }
    if theirs:
        contestants["transformers"] = lambda: theirs.scores(inputs, options)
    table, sums = measured(contestants, repeats, len(inputs))
    real, places = scorer.tokens
    return {
        "contestants": table,
        "rows": len(inputs),
        "options": float(np.mean(list(map(len, options)))),
        "padding": float(1 - real / places),
        "shapes": len(scorer.shapes),
        "scores_apart": max(float(np.abs(each - sums["ours"]).max()) for each in sums.values()),
    }


def generate(
    model: t5.T5,
    params: Any,
    theirs: "Theirs | None",
    inputs: list,
    batch: int,
    new: int,
    repeats: int,
) -> dict:
    """Returns the tokens a second of one batch of greedy answers, each of `new` tokens."""
    given = inputs[:batch]
    width = batching.source_width(max(map(len, given)))
    prompts, lengths = batching.padded(given, batch, width), batching.lengths(given, batch)
    contestants = {
        "ours": lambda: np.asarray(
            greedy.greedy(model, params, prompts, new, eos_id=-1, lengths=lengths)
        )
    }
    if theirs:
        contestants["transformers"] = lambda: theirs.write(prompts[:, : max(map(len, given))], new)
    table, written = measured(contestants, repeats, batch * new)
    same = float(np.mean(written["ours"] == written["transformers"])) if theirs else None
    return {"contestants": table, "rows": batch, "new_tokens": new, "tokens_equal": same}


def print_result(size: str, name: str, unit: str, result: dict) -> None:
    """Prints a line for each contestant, and one about all."""
    for contestant, numbers in result["contestants"].items():
        print(
            f"{size:<7}{name:<12}{contestant:<14}{numbers['rate']:>10,.1f} "
            f"{unit:<9}{numbers['compilation_s']:>8.1f} s{numbers['ours_is_faster']:>8.2f}x",
            flush=True,
        )
    if "padding" in result:
        print(
            f"{'':<19}{result['rows']} rows, {result['options']:.1f} options; padding of ours "
            f"{result['padding']:.1%} in {result['shapes']} shapes; scores apart at most "
            f"{result['scores_apart']:.1e}",
            flush=True,
        )
    elif result["tokens_equal"] is not None:
        print(f"{'':<19}{result['tokens_equal']:.1%} of the tokens are equal", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir")
    parser.add_argument("--vocabulary", default="bytes")
    parser.add_argument("--sizes", default="tiny,small")
    parser.add_argument(
        "--datasets", default=",".join(DATASETS), help="may be empty: generation alone"
    )
    parser.add_argument("--generation", type=int, default=1, help="0: ranks alone")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    idle.add_flag(parser)
    flags = parser.parse_args()
    idle.check_idle(flags)
    warnings.filterwarnings("ignore")
    devices.keep_freed_memory()  # as `flan-jax eval` does; the others have it, too
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        rows = read_rows(flags, root / "cache")
        print(
            f"{'size':<7}{'':<12}{'contestant':<14}{'rate':>10} "
            f"{'':<9}{'compile':>10}{'ours is':>9}"
        )
        for size in flags.sizes.split(","):
            model, params = make_model(root / size, size)
            try:
                theirs = Theirs(root / size)
            except ImportError as error:
                theirs = None
                print(f"NOT MEASURED AGAINST TRANSFORMERS: {error}", file=sys.stderr)
            for name in filter(None, flags.datasets.split(",")):
                results[f"{size}/{name}"] = rank(model, params, theirs, *rows[name], flags.repeats)
                print_result(size, name, "rows/s", results[f"{size}/{name}"])
            if flags.generation:
                results[f"{size}/generation"] = generate(
                    model,
                    params,
                    theirs,
                    rows["anli_r1"][0],
                    flags.batch,
                    flags.new_tokens,
                    flags.repeats,
                )
                print_result(size, "generation", "tokens/s", results[f"{size}/generation"])
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
