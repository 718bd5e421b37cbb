"""LoRA beside full tuning, the base and Hugging Face's peft: steps, decoding, checkpoints.

  python benchmarks/lora.py --parts=step [--json=FILE]
  python benchmarks/lora.py --parts=decoding
  taskset -c 0 python benchmarks/lora.py --parts=hugging_face
  python benchmarks/lora.py --parts=checkpoint

A functional run of each takes minutes: --turns=1 --turn=1 --busy, and --sizes=t5_small.

- step: AdamW in float32, LoRA of rank 8 on all matrices and all parameters, T5 small with
  8 x 128/64 tokens and SmolLM2-135M's shape with 2 x 256/128. CPU seconds of LoRA to full: at
  most 0.75 is the aim.
- decoding: greedy answers of the same models, of 8 rows with 128 tokens read and 64 written (none
  of them ends), with the adapters beside the matrices and of the base alone: at most 1.15.
- hugging_face: our step of LoRA and that of peft on PyTorch (sdpa attention, run eagerly),
  SmolLM2's shape, rank 8 on all matrices, 2 rows of 384 tokens, float32, AdamW, on one core, hence
  taskset. Both compute the logits of all tokens and the loss of the same 128 of a row. CPU
  seconds: at most 0.95.
- checkpoint: bytes on disk of a step of T5 small with AdamW's moments, LoRA of rank 8 and full.

Weights and rows are random. The contestants take turns in one process, --turn steps each; seconds
are medians over the turns, and a ratio is the median of the turns' ratios. A machine whose cores
are in use is refused (idle.py). "temp", "arguments", "flops" and "bytes" are the compiler's, and
count the body of a loop once.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import idle
import jax
import numpy as np

from flan_jax.checkpoints.formats import huggingface_decoder
from flan_jax.checkpoints.manager import Checkpoints
from flan_jax.config import gin_files
from flan_jax.data.layout import make_layout
from flan_jax.models.architectures import make_model
from flan_jax.models.decoding import greedy
from flan_jax.optim.adamw import adamw
from flan_jax.parallel import partitioning
from flan_jax.peft.config import PeftConfig
from flan_jax.training.compile import lower_train_step
from flan_jax.training.config import TrainConfig
from flan_jax.training.state import ShardedState, unstack

LORA = PeftConfig("lora", lora_rank=8, lora_alpha=16.0)
LEARNING_RATE = 1e-5
# The rows, the tokens of an input and of a target.
SHAPES = {"t5_small": (8, 128, 64), "smollm2_135m": (2, 256, 128)}
VOCABULARIES = {"t5_small": 32128, "smollm2_135m": 49152}
DECODED = (8, 128, 64)


@dataclasses.dataclass
class Contestant:
    """What is timed: `step()` ends when its results are there; `facts` are of the compiler."""

    step: Callable[[], Any]
    facts: dict[str, float] = dataclasses.field(default_factory=dict)


class Model:
    """A model with random parameters on one device.

    Attributes:
      model: the network.
      layout: of its rows.
      base: its parameters.
    """

    def __init__(self, size: str):
        """Makes the model of gin/size/<size>.gin in float32, without dropout."""
        gin_files.parse_command_line(
            [
                f"--gin_file=gin/size/{size}.gin",
                *(f"--gin.{c}.dtype=float32" for c in ("T5Config", "DecoderConfig")),
                "--gin.DROPOUT_RATE=0.0",
            ],
            ["flan_jax.models.t5", "flan_jax.models.decoder", "flan_jax.training.config"],
            may_be_unread=("ARCHITECTURE", "SIZE", "DROPOUT_RATE"),
        )
        self.architecture = "t5" if size.startswith("t5") else "decoder"
        self.model = make_model(self.architecture, VOCABULARIES[size])
        self.rows, self.inputs, self.targets = SHAPES[size]
        self.layout = make_layout(self.architecture, self.inputs, self.targets, 0)
        self.mesh = partitioning.make_mesh({"data": 1}, jax.devices()[:1])
        full = self.state(None)
        self.base = jax.jit(lambda: partitioning.unbox(full._init_base()))()

    def state(self, peft: PeftConfig | None) -> ShardedState:
        """The state of full tuning (None) or of LoRA."""
        shapes = self.layout.shapes(1)
        return ShardedState(self.model, adamw(LEARNING_RATE), self.mesh, shapes, 0, peft=peft)

    def batch(self) -> dict[str, np.ndarray]:
        """Rows of random tokens without padding; BOS takes a place of a decoder's inputs."""
        rng, lengths = np.random.default_rng(0), (self.inputs, self.targets)
        if self.architecture == "decoder":
            lengths = (self.inputs - 1, self.targets)
        sides = [list(rng.integers(3, 32000, (self.rows, n)).astype(np.int32)) for n in lengths]
        return self.layout.batch(*sides, [1] * self.rows)

    def train(self, peft: PeftConfig | None) -> Contestant:
        """A step of training."""
        sharded, config = self.state(peft), TrainConfig()
        shapes = self.layout.shapes(self.rows)
        optimizer = adamw(LEARNING_RATE)
        compiled = lower_train_step(self.model, optimizer, sharded, config, shapes).compile()
        memory = compiled.memory_analysis()
        # The step takes the place of the state: full tuning needs a copy of the parameters.
        state = sharded.fresh(jax.tree.map(lambda x: x.copy(), self.base))
        held, frozen = [state], sharded.tuning.frozen(self.base)
        batch = jax.device_put(self.batch(), partitioning.batch_sharding(self.mesh))

        def take() -> None:
            held[0], metrics = compiled(held[0], frozen, batch)
            jax.block_until_ready((held[0], metrics))

        facts = {"temp": memory.temp_size_in_bytes, "arguments": memory.argument_size_in_bytes}
        return Contestant(take, facts)

    def decode(self, peft: PeftConfig | None) -> Contestant:
        """Greedy answers that do not end."""
        params = self.base
        if peft is not None:
            sharded = self.state(peft)
            trained = jax.tree.map(lambda x: x + 0.01, sharded.fresh(self.base)["params"])
            params = sharded.tuning.join(trained, self.base)
        rows, inputs, outputs = DECODED
        tokens = np.random.default_rng(0).integers(3, 32000, (rows, inputs)).astype(np.int32)
        run = jax.jit(functools.partial(greedy.greedy, self.model, max_length=outputs, eos_id=-1))
        lengths = np.full(rows, inputs, np.int32)
        compiled = run.lower(params, tokens=tokens, lengths=lengths).compile()
        cost = compiled.cost_analysis()
        facts = {"flops": cost["flops"], "bytes": cost.get("bytes accessed", 0.0)}

        def take() -> None:
            jax.block_until_ready(compiled(params, tokens=tokens, lengths=lengths))

        return Contestant(take, facts)


def hugging_face(model: Model) -> Contestant:
    """Their step of LoRA on the same shape and rows."""
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_flush_denormal(True)  # as XLA has it
    fields = huggingface_decoder.write_config(model.model.config, pathlib.Path("."))
    settings = {**fields, "use_cache": False, "attn_implementation": "sdpa"}
    config = transformers.LlamaConfig(**settings)
    lora = peft.LoraConfig(
        r=LORA.lora_rank,
        lora_alpha=LORA.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    theirs = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora).train()
    trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    batch = model.batch()
    tokens = torch.from_numpy(batch["decoder_input_tokens"]).long()
    targets = torch.from_numpy(batch["decoder_target_tokens"]).long()
    chosen = torch.from_numpy(batch["decoder_loss_weights"]) > 0

    def take() -> None:
        logits = theirs(input_ids=tokens).logits
        loss = torch.nn.functional.cross_entropy(logits[chosen].float(), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Contestant(take, {"trainable": sum(parameter.numel() for parameter in trained)})


def measure(contestants: dict[str, Contestant], turns: int, turn: int) -> dict[str, Any]:
    """Returns the medians of seconds by the clock and on all cores, and the ratio of both."""
    times: dict[str, list[np.ndarray]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        contestant.step()  # the first does not count
    for _ in range(turns):
        for name, contestant in contestants.items():
            stamps = [(time.perf_counter(), time.process_time())]
            for _ in range(turn):
                contestant.step()
                stamps.append((time.perf_counter(), time.process_time()))
            times[name].append(np.median(np.diff(stamps, axis=0), axis=0))
    results: dict[str, Any] = {}
    for name, contestant in contestants.items():
        seconds, cpu = np.median(times[name], axis=0).tolist()
        results[name] = {"seconds": seconds, "cpu_seconds": cpu, **contestant.facts}
    first, second = (np.array(times[name]) for name in contestants)
    seconds, cpu = np.median(first / second, axis=0).tolist()
    results["ratio"] = {"seconds": seconds, "cpu_seconds": cpu}
    facts = [contestant.facts for contestant in contestants.values()]
    shared = facts[0].keys() & facts[1].keys()
    results["ratio"] |= {key: facts[0][key] / facts[1][key] for key in sorted(shared)}
    return results


def measure_checkpoints() -> dict[str, Any]:
    """Returns the bytes of a checkpoint of LoRA and of full tuning, and their ratio.

    Its numbers are random: the zeros of a first step would be compressed.
    """
    rng = np.random.default_rng(0)

    def drawn(leaf: jax.Array) -> Any:
        is_number = jax.numpy.issubdtype(leaf.dtype, np.floating)
        return rng.standard_normal(leaf.shape, np.float32) if is_number else leaf

    model, sizes = Model("t5_small"), {}
    for name, peft in (("lora", LORA), ("full", None)):
        with tempfile.TemporaryDirectory() as directory:
            saved = Checkpoints(pathlib.Path(directory))
            state = jax.tree.map(drawn, model.state(peft).fresh(model.base))
            saved.save(1, unstack(state))
            saved.wait()
            saved.close()
            files = [path for path in pathlib.Path(directory).rglob("*") if path.is_file()]
            sizes[name] = {"bytes": sum(path.stat().st_size for path in files)}
    return {**sizes, "ratio": {"bytes": sizes["lora"]["bytes"] / sizes["full"]["bytes"]}}


def comparisons(parts: list[str], sizes: list[str]) -> Iterator[tuple[str, dict[str, Contestant]]]:
    """Yields (what is compared, both contestants); one is in memory at a time."""
    for size in sizes:
        if "step" in parts:
            model = Model(size)
            yield f"step {size}", {"lora": model.train(LORA), "full": model.train(None)}
        if "decoding" in parts:
            model = Model(size)
            yield f"decoding {size}", {"lora": model.decode(LORA), "base": model.decode(None)}
    if "hugging_face" in parts:
        model = Model("smollm2_135m")
        contestants = {"ours": model.train(LORA), "hugging_face": hugging_face(model)}
        yield "LoRA beside peft smollm2_135m", contestants


def formatted(title: str, results: dict[str, Any]) -> str:
    """Returns a table of the numbers."""
    lines = [title]
    for name, numbers in results.items():
        cells = [
            f"{key} {value:,.3f}" if value < 1000 else f"{key} {value / 1e6:,.1f} M"
            for key, value in numbers.items()
        ]
        lines.append(f"  {name:<14}{', '.join(cells)}")
    return "\n".join(lines)


def check_parts(parts: list[str]) -> None:
    """Exits with a message where a part cannot be measured."""
    if "hugging_face" not in parts:
        return
    missing = [n for n in ("torch", "transformers", "peft") if not importlib.util.find_spec(n)]
    if missing:
        raise SystemExit(f"--parts=hugging_face needs {', '.join(missing)}: install them.")
    if len(os.sched_getaffinity(0)) > 1:
        raise SystemExit(
            "--parts=hugging_face is measured on one core: put `taskset -c 0` in front of the "
            "command, and measure the other parts without."
        )


def main() -> None:
    """Prints the numbers of each part, and writes them to --json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="step,decoding,checkpoint")
    parser.add_argument("--sizes", default=",".join(SHAPES), help="of step and decoding")
    parser.add_argument("--turns", type=int, default=7, help="of each contestant")
    parser.add_argument("--turn", type=int, default=3, help="steps of a turn")
    parser.add_argument("--json")
    idle.add_flag(parser)
    flags = parser.parse_args()
    parts = flags.parts.split(",")
    check_parts(parts)
    idle.check_idle(flags)
    results = {}
    for title, contestants in comparisons(parts, flags.sizes.split(",")):
        results[title] = measure(contestants, flags.turns, flags.turn)
        print(formatted(title, results[title]), flush=True)
    if "checkpoint" in parts:
        results["checkpoint t5_small"] = measure_checkpoints()
        print(formatted("checkpoint t5_small", results["checkpoint t5_small"]), flush=True)
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
