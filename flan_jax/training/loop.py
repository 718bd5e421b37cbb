"""The run: from a configuration to a trained state, with checkpoints, in the order that makes a restart exact.

Order of what a run starts from: (1) the latest checkpoint in MODEL_DIR, whole state; else (2) the parameters of
INITIAL_CHECKPOINT_PATH, with a fresh optimizer and step 0; else (3) random parameters from SEED.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import gin
import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from flan_jax import interchange
from flan_jax.data.assemble import Data
from flan_jax.data.batches import Batches
from flan_jax.data.vocabulary import padded_size
from flan_jax.errors import UserError
from flan_jax.evaluation.held_out import HeldOut
from flan_jax.evaluation.results import Setting
from flan_jax.models.architectures import make_model
from flan_jax.training import checkpoints, partitioning
from flan_jax.training.metrics_log import MetricsLog, NonFinite
from flan_jax.training.model_info import model_info
from flan_jax.training.optimizer import adafactor
from flan_jax.training.prefetch import device_batches, put_batch
from flan_jax.training.step import ShardedState, State, make_eval_step, make_train_step


@gin.configurable("Train")
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train; bound in `gin/flan.gin`.

    Attributes:
      model_dir: directory of the run: checkpoints, logs, results.
      initial_checkpoint_path: parameters to start from (a run of ours, a T5X checkpoint, a Hugging Face directory or a
        GGUF file), or None.
      mesh: {'data': D, 'fsdp': F, 'model': M}; absent axes are 1, one may be -1.
      seed: of parameters and dropout.
      z_loss, label_smoothing: see `losses.token_loss`.
      checkpoint_every: steps between checkpoints; the last step is always saved.
      keep: how many of the last checkpoints stay; the one with the best validation loss stays too.
      size: name of the model's size in results, e.g. 't5_tiny'.
      embedding_rows: rows of the embedding; None for the vocabulary's size up to the next multiple of 128.
      log_every: steps between printed lines.
      tensorboard: whether to write event files.
    """

    model_dir: str = "runs/flan"
    initial_checkpoint_path: str | None = None
    mesh: Any = None
    seed: int = 0
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    checkpoint_every: int = 500
    keep: int = 3
    size: str = ""
    embedding_rows: int | None = None
    log_every: int = 10
    tensorboard: bool = False

    def __post_init__(self):
        for name in ("checkpoint_every", "keep", "log_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{name.upper()} must be a whole number of at least 1, not {value!r}.")


class Run:
    """A model on a mesh with its state, its data and its directory."""

    def __init__(self, config: TrainConfig, data: Data):
        self.config, self.data = config, data
        self.directory = pathlib.Path(config.model_dir).expanduser()
        self.mesh = partitioning.make_mesh(config.mesh or {"fsdp": -1})
        partitioning.check_batch_size(data.config.batch_size, self.mesh)
        rows = config.embedding_rows or padded_size(data.vocabulary)
        if rows < data.vocabulary.size:
            raise UserError(f"the model has {rows} rows in its embedding, but VOCABULARY has {data.vocabulary.size} "
                            "ids; give the vocabulary that belongs to the model.")
        self.model = make_model(data.config.architecture, rows)
        self.model_config = self.model.config
        self.optimizer = adafactor()
        self.sharded = ShardedState(self.model, self.optimizer, self.mesh, data.layout.shapes(1), config.seed)
        self.state: State | None = None
        self._step_fn: concurrent.futures.Future | None = None
        self._held_out: HeldOut | None = None
        self._eval_step = jax.jit(make_eval_step(self.model))

    @property
    def steps(self) -> int:
        """Updates that the run takes in all."""
        return self.data.config.train_steps

    @property
    def step(self) -> int:
        """Updates taken so far."""
        return int(self.state["step"])

    def describe(self, config_text: str) -> None:
        """Writes `config.gin` and `model-info.txt`, and prints the model's size."""
        text, count = model_info(self.sharded.abstract, self.sharded.shardings)
        if jax.process_index() == 0:
            (self.directory / "config.gin").write_text(config_text, encoding="utf-8")
            (self.directory / "model-info.txt").write_text(text, encoding="utf-8")
        print(f"model: {self.config.size or self.data.config.architecture} with {count:,} parameters, "
              f"{self.model_config.dtype} compute", flush=True)

    def start(self, saved: checkpoints.Checkpoints) -> None:
        """Fills `state`, in the order that the module's docstring gives, and prints from where."""
        latest = saved.latest_step()
        if latest is not None and latest > self.steps:
            raise UserError(f"MODEL_DIR holds step {latest}, but TRAIN_STEPS is {self.steps}; raise TRAIN_STEPS, "
                            "or evaluate an earlier step with flan-jax eval --step.")
        if latest != self.steps:
            self._compile_step()
        if latest is not None:
            self.state = self.sharded.stack(saved.restore(self.sharded.on_disk(), latest))
            print(f"resuming from step {latest} in {saved.directory}", flush=True)
        else:
            self.state = self.initial_state()

    def initial_state(self) -> State:
        """The state of step 0: given parameters or random ones."""
        state = self.sharded.fresh()
        if self.config.initial_checkpoint_path:
            state["params"] = None  # Freed before the others come: where one copy fits, two may not.
            _, state["params"] = self.read_params(self.config.initial_checkpoint_path)
        return state

    def read_params(self, path: str, step: int | None = None) -> tuple[int, Any]:
        """(step, parameters in memory on the mesh) of a checkpoint of ours, of T5X, Hugging Face or GGUF."""
        abstract = partitioning.with_shardings(self.sharded.abstract["params"], self.sharded.shardings["params"])
        found, params = interchange.read_parameters(path, abstract, step)
        print(f"parameters of step {found} from {path}", flush=True)
        return found, params

    def train(self, saved: checkpoints.Checkpoints) -> bool:
        """Takes the steps that are left; True if all are done, False if SIGTERM ended the run early (saved).

        Raises:
          UserError: if a loss is not finite; names the step and the datasets of its batch. Nothing of it is saved.
        """
        batches = self.data.batches()
        log = MetricsLog(self.directory, self.step, self.steps, self.config.log_every, self.config.tensorboard,
                         jax.process_index() == 0)
        try:
            stream = device_batches(batches, partitioning.batch_sharding(self.mesh), self.step, self.steps)
            with partitioning.use_mesh(self.mesh), _sigterm() as stop, contextlib.closing(stream):
                self._steps(stream, saved, log, stop)
        except NonFinite as error:
            saved.wait()
            names = ", ".join(batches.datasets_at(error.step - 1))
            raise UserError(f"{error}; its batch holds {names}. Nothing after step {saved.latest_step() or 0} is "
                            "saved; lower LEARNING_RATE or look at these datasets, then run the same command."
                            ) from None
        finally:
            log.close()
        saved.wait()
        return self.step == self.steps

    def _compile_step(self) -> None:
        """Starts to compile the training step in the background, while the state is made or restored."""
        def compile_now():
            config, sharding = self.config, partitioning.batch_sharding(self.mesh)
            batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
                     for name, shape in self.data.layout.shapes(self.data.config.batch_size).items()}
            step = make_train_step(self.model, self.optimizer, config.seed, self.model_config.dropout_rate,
                                   config.z_loss, config.label_smoothing)
            with partitioning.use_mesh(self.mesh):
                state = partitioning.with_shardings(self.sharded.abstract, self.sharded.shardings)
                jitted = jax.jit(step, donate_argnums=0, out_shardings=(self.sharded.shardings, None))
                return jitted.lower(state, batch).compile()

        executor = concurrent.futures.ThreadPoolExecutor(1, "compile")
        self._step_fn = executor.submit(compile_now)
        executor.shutdown(wait=False)

    def _steps(self, stream: Iterator, saved, log: MetricsLog, stop: list[int]) -> None:
        config, begin = self.config, self.step
        if begin == self.steps:
            return
        started = time.perf_counter()
        step_fn = self._step_fn.result()
        validation = self.data.batches("validation")
        if begin == 0 and config.initial_checkpoint_path and validation is not None:
            log.write(0, self._validated(0, validation))
            log.restart_clock()
        for step in range(begin + 1, self.steps + 1):
            before = time.perf_counter()
            batch, tokens = next(stream)
            waited = time.perf_counter() - before
            self.state, metrics = step_fn(self.state, batch)
            log.add(step, metrics, tokens, waited)
            if step == begin + 1:
                jax.block_until_ready(metrics)
                print(f"first step after {time.perf_counter() - started:.1f} s (the rest of the compilation included)",
                      flush=True)
                log.restart_clock()
            ended = step < self.steps and self._told_to_end(step, stop)
            if step % config.checkpoint_every == 0 or step == self.steps or ended:
                log.flush()
                self._save(step, saved, None if ended else validation, log)
                log.restart_clock()
            if ended:
                print(f"SIGTERM: saved step {step}; the same command resumes.", flush=True)
                return

    def _told_to_end(self, step: int, stop: list[int]) -> bool:
        """Whether SIGTERM came; several hosts agree on the step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return bool(stop)

    def _save(self, step: int, saved, validation: Batches | None, log: MetricsLog) -> None:
        metrics = None
        if validation is not None:
            metrics = self._validated(step, validation)
            log.write(step, metrics)
        saved.save(step, self.sharded.unstack(self.state), metrics)

    def _validated(self, step: int, validation: Batches) -> dict[str, float]:
        metrics = self.validate(validation)
        print(f"step {step}  validation loss {metrics['validation_loss']:.4f}  "
              f"accuracy {metrics['validation_accuracy']:.3f}", flush=True)
        return metrics

    def validate(self, batches: Batches) -> dict[str, float]:
        """Loss per target token and next-token accuracy on the training clusters' validation batches."""
        sums = {"loss": 0.0, "accuracy": 0.0, "targets": 0.0}
        for step in range(len(batches)):
            batch, _ = put_batch(batches, partitioning.batch_sharding(self.mesh), step)
            found = jax.device_get(self._eval_step(self.state["params"], batch))
            weight = float(found["targets"])
            sums["targets"] += weight
            for name in ("loss", "accuracy"):
                sums[name] += float(found[name]) * weight
        return {f"validation_{name}": sums[name] / sums["targets"] for name in ("loss", "accuracy")}

    def evaluate(self, name: str, params: Any, step: int, output: pathlib.Path | None = None) -> None:
        """Scores the held-out cluster with `params` and adds the numbers to `results.csv` under the model `name`."""
        output = output or self.directory
        setting = Setting(run=self.directory.name, step=step, model=name, size=self.config.size,
                          shots=self.data.config.shots, instruction_mode=self.data.config.instructions)
        if self._held_out is None or self._held_out.directory != output:
            self._held_out = HeldOut(self.data, self.model, self.mesh, output)
        self._held_out.evaluate(params, setting)


@contextlib.contextmanager
def _sigterm() -> Iterator[list[int]]:
    """A list that SIGTERM makes non-empty, so that the step at hand ends in peace.

    With several hosts JAX's own preemption service catches the signal, and the list stays empty.
    """
    received: list[int] = []
    if jax.process_count() > 1:
        yield received
        return
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    except ValueError:  # not in the main thread: somebody else handles signals
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def check_same_mixture(directory: pathlib.Path, record: dict[str, Any], fresh: bool) -> None:
    """Writes `mixture.json` at the start of a run; on a restart, makes sure that it is still the same.

    Raises:
      UserError: if the run in this directory trained on something else.
    """
    path = directory / "mixture.json"
    if not fresh and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in record if before.get(key) != record[key] and key != "left_out"]
        if differing:
            raise UserError(f"MODEL_DIR {str(directory)!r} holds a run with another {', '.join(differing)} (see "
                            "mixture.json there); use the settings and data it began with, or another MODEL_DIR.")
        return
    if jax.process_index() == 0:
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")
