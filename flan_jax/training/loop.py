"""The run: from a configuration to a trained state, with checkpoints, in the order that makes a
restart exact.

Order of what a run starts from: (1) the latest checkpoint in MODEL_DIR, whole state; else (2) the
parameters of INITIAL_CHECKPOINT_PATH, with a fresh optimizer and step 0; else (3) random parameters
from SEED.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import math
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax import checkpoints
from flan_jax.checkpoints import manager
from flan_jax.data.batches import Batches
from flan_jax.data.eval_data import Protocol
from flan_jax.data.run_data import RunData
from flan_jax.data.vocabulary import padded_size
from flan_jax.errors import Diverged, UserError
from flan_jax.evaluation import results
from flan_jax.evaluation.evaluator import HeldOut
from flan_jax.evaluation.results import Setting
from flan_jax.models.architectures import make_model
from flan_jax.models.flops import model_flops
from flan_jax.models.losses import check_chunks
from flan_jax.optim.make import make_optimizer
from flan_jax.parallel import partitioning
from flan_jax.parallel.hardware import peak_flops
from flan_jax.parallel.preemption import Preemption
from flan_jax.planning import mesh_search
from flan_jax.planning.compiled import Job
from flan_jax.storage.files import readable, write_file
from flan_jax.storage.paths import local_path
from flan_jax.training import run_record
from flan_jax.training.compile import lower_eval_step, lower_train_step
from flan_jax.training.config import TrainConfig
from flan_jax.training.metrics_log import MetricsLog, NonFinite, Work
from flan_jax.training.model_info import model_info
from flan_jax.training.prefetch import device_batches, put_batch
from flan_jax.training.profile import Profile
from flan_jax.training.state import ShardedState, State


class Run:
    """A model on a mesh with its state, its data and its directory.

    Attributes:
      preemption: whether SIGTERM or Ctrl-C came; its `handled` goes around `train` and `evaluate`.
    """

    def __init__(self, config: TrainConfig, data: RunData):
        self.config, self.data = config, data
        self.directory = local_path(config.model_dir, "MODEL_DIR")
        rows = config.embedding_rows or padded_size(data.vocabulary)
        if rows < data.vocabulary.size:
            raise UserError(
                f"the model has {rows} rows in its embedding (Train.embedding_rows), but "
                f"VOCABULARY has {data.vocabulary.size} ids; give the vocabulary that belongs to "
                "the model."
            )
        self.model = make_model(data.config.architecture, rows)
        self.model_config = self.model.config
        start_id = getattr(self.model_config, "decoder_start_id", data.config.decoder_start_id)
        if start_id != data.config.decoder_start_id:
            raise UserError(
                f"T5Config.decoder_start_id is {start_id} and Data.decoder_start_id "
                f"{data.config.decoder_start_id}; set both with --gin.DECODER_START_ID."
            )
        self.optimizer = make_optimizer()
        job = Job(
            self.model,
            self.optimizer,
            config,
            data.config.architecture,
            data.config.batch_size,
            data.config.lengths(),
        )
        shape, why = mesh_search.mesh_of(job, jax.devices())
        self.mesh = partitioning.make_mesh(shape)
        print(
            f"process {jax.process_index()} of {jax.process_count()}, {jax.device_count()} "
            f"{jax.default_backend()} devices, mesh {dict(self.mesh.shape)}",
            flush=True,
        )
        if jax.process_index() == 0:
            for line in (*([why] if why else []), *data.vocabulary.notes):
                print(line, flush=True)
        partitioning.check_batch_size(data.config.batch_size, self.mesh, config.microbatches)
        check_chunks(config.loss_chunks, data.layout.shapes(1)["decoder_target_tokens"][1])
        self.sharded = ShardedState(
            self.model,
            self.optimizer,
            self.mesh,
            data.layout.shapes(1),
            config.seed,
            config.param_dtype,
        )
        self.state: State | None = None
        self._step_fn: concurrent.futures.Future | None = None
        self._held_out: HeldOut | None = None
        self.preemption = Preemption()

    @property
    def steps(self) -> int:
        """Updates that the run takes in all."""
        return self.data.config.train_steps

    @property
    def step(self) -> int:
        """Updates taken so far."""
        return int(self.state["step"])

    @functools.cached_property
    def _eval_step(self):
        shapes = self.data.layout.shapes(self.data.config.batch_size)
        return lower_eval_step(self.model, self.sharded, self.config, shapes).compile()

    def config_before(self) -> str:
        """Returns the text of the `config.gin` that the last start wrote, empty if there is none.

        Raises:
          UserError: if it is damaged.
        """
        path = self.directory / "config.gin"
        with readable(path, "move it away: it is written again"):
            return path.read_text(encoding="utf-8") if path.exists() else ""

    def describe(self, config_text: str, before: str) -> None:
        """Writes `config.gin` and `model-info.txt`; prints the model's size and what is not set as
        it was `before`.
        """
        text, count = model_info(self.sharded.abstract, self.sharded.shardings)
        if jax.process_index() == 0:
            for line in changed_settings(before, config_text):
                print(f"changed since the last start: {line}", flush=True)
            write_file(self.directory / "config.gin", config_text)
            write_file(self.directory / "model-info.txt", text)
        print(
            f"model: {self.config.size or self.data.config.architecture} with {count:,} "
            f"parameters, {self.model_config.dtype} compute",
            flush=True,
        )

    def check_start(self, saved: manager.Checkpoints) -> None:
        """Makes sure that the run can begin, or go on: what `start` needs is there, and fits.

        Raises:
          UserError: if it is not.
        """
        latest = saved.latest_step()
        if latest is not None and latest > self.steps:
            raise UserError(
                f"MODEL_DIR holds step {latest}, but TRAIN_STEPS is {self.steps}; raise "
                "TRAIN_STEPS, or evaluate an earlier step with flan-jax eval --step."
            )
        if latest is None and self.config.initial_checkpoint_path:
            self.check_params(self.config.initial_checkpoint_path)

    def start(self, saved: manager.Checkpoints) -> None:
        """Fills `state`, in the order that the module's docstring gives, and prints from where."""
        latest = saved.latest_step()
        if latest != self.steps:
            self._compile_step()
        if latest is not None:
            self.state = self.sharded.stack(saved.restore(self.sharded.on_disk()))
            print(f"resuming from step {self.step} in {saved.directory}", flush=True)
            if self.step < latest == self.steps:  # the last checkpoint could not be read
                self._compile_step()
        else:
            self.state = self.initial_state()

    def initial_state(self) -> State:
        """The state of step 0: given parameters or random ones."""
        state = self.sharded.fresh()
        if self.config.initial_checkpoint_path:
            # Freed before the others come: where one copy fits, two may not.
            state["params"] = None
            _, state["params"] = self.read_params(self.config.initial_checkpoint_path)
        return state

    @property
    def _abstract_params(self):
        return partitioning.with_shardings(
            self.sharded.abstract["params"], self.sharded.shardings["params"]
        )

    def read_params(self, path: str, step: int | str | None = None) -> tuple[int, Any]:
        """(step, parameters in memory on the mesh) of a checkpoint of ours, of T5X, Hugging Face or
        GGUF.
        """
        found, params = checkpoints.read_parameters(
            path, self._abstract_params, step, self.model_config
        )
        print(f"parameters of step {found} from {path}", flush=True)
        return found, params

    def check_params(self, path: str, step: int | str | None = None) -> int:
        """Makes sure that `read_params` finds what it needs, and reads nothing but shapes; returns
        the step.
        """
        source, _ = checkpoints.find_parameters(
            path, self._abstract_params, step, self.model_config
        )
        return source.step

    def train(self, saved: manager.Checkpoints) -> bool:
        """Takes the steps that are left; True if all are done, False if the run was preempted (and
        saved).

        Raises:
          Diverged: if a loss or a parameter is not finite; names the step and the datasets of its
            batch. Nothing of it is saved.
        """
        batches = self.data.train.batches()
        flops = model_flops(
            self.model_config, self.data.config.batch_size, *self.data.config.lengths()
        )
        log = MetricsLog(
            self.directory,
            self.step,
            self.steps,
            self.config.log_every,
            self.config.tensorboard,
            jax.process_index() == 0,
            Work(flops, peak_flops(self.mesh.devices.flat)),
        )
        try:
            stream = device_batches(
                batches, partitioning.batch_sharding(self.mesh), self.step, self.steps
            )
            with partitioning.use_mesh(self.mesh), contextlib.closing(stream):
                preempted = self._steps(stream, saved, log)
        except NonFinite as error:
            saved.wait()
            names = ", ".join(batches.datasets_at(error.step - 1))
            raise Diverged(
                f"{error}; its batch holds {names}. Nothing after step {saved.latest_step() or 0} "
                "is saved; lower LEARNING_RATE or look at these datasets, then run the same "
                "command (where it ends like this at its first step, the checkpoint is spoilt: "
                "remove it, too)."
            ) from None
        finally:
            log.close()
        saved.wait()
        return not preempted

    def _compile_step(self) -> None:
        """Starts to compile the training step in the background, while the state is made or
        restored.
        """

        def compile_now():
            shapes = self.data.layout.shapes(self.data.config.batch_size)
            return lower_train_step(
                self.model, self.optimizer, self.sharded, self.config, shapes
            ).compile()

        executor = concurrent.futures.ThreadPoolExecutor(1, "compile")
        self._step_fn = executor.submit(compile_now)
        executor.shutdown(wait=False)

    def _steps(self, stream: Iterator, saved, log: MetricsLog) -> bool:
        """Whether the run was preempted; what was taken is saved."""
        config, begin = self.config, self.step
        if begin == self.steps:
            return False
        validation = self.data.train.batches("validation")
        # What a preemption has left of the evaluation of the step that it saved.
        if self._evaluates_at(begin) and not self._evaluate_on_the_way(begin):
            self._print_saved(begin)
            return True
        if begin == 0 and config.initial_checkpoint_path and validation is not None:
            log.write(0, self._validated(0, validation))
            log.restart_clock()
        started = time.perf_counter()
        step_fn = self._step_fn.result()
        profile = Profile(self.directory / "profile", begin, self.steps, config.profile_steps)
        for step in range(begin + 1, self.steps + 1):
            profile.before(step)
            before = time.perf_counter()
            batch, tokens = next(stream)
            waited = time.perf_counter() - before
            self.state, metrics = step_fn(self.state, batch)
            if step == begin + 1:
                jax.block_until_ready(metrics)
                print(
                    (
                        f"first step after {time.perf_counter() - started:.1f} s (the rest of the "
                        f"compilation included)"
                    ),
                    flush=True,
                )
            log.add(step, metrics, tokens, waited, timed=step > begin + 1)
            profile.after(step, metrics)
            ended = self.preemption.requested()
            if step % config.checkpoint_every == 0 or step == self.steps or ended:
                log.flush()
                self._save(step, saved, None if ended and step < self.steps else validation, log)
                log.restart_clock()
            if not ended and self._evaluates_at(step):
                log.flush()
                ended = not self._evaluate_on_the_way(step)
                if ended:
                    self._save(step, saved, None, log)
                log.restart_clock()
            if ended:
                profile.after(step, metrics, ended)
                self._print_saved(step)
                return True
        return False

    def _print_saved(self, step: int) -> None:
        print(f"{self.preemption.cause}: saved step {step}; the same command resumes.", flush=True)

    def _evaluates_at(self, step: int) -> bool:
        """Whether the held-out rows are evaluated after this step; the last step has an evaluation of
        its own.
        """
        every = self.data.config.eval_every
        return bool(every and self.data.eval.names and 0 < step < self.steps and step % every == 0)

    def _evaluate_on_the_way(self, step: int) -> bool:
        """Evaluates the state of a step; False if the run was preempted meanwhile."""
        protocol = self.data.eval.training_protocol
        return self._evaluator(self.directory, self.directory).evaluate(
            self.state["params"],
            self._setting("tuned", step, protocol, self.directory),
            protocol,
            while_training=True,
            stop=self.preemption.requested,
        )

    def _save(self, step: int, saved, validation: Batches | None, log: MetricsLog) -> None:
        metrics = None
        if validation is not None:
            metrics = self._validated(step, validation)
            if not math.isfinite(metrics["validation_loss"]):
                raise NonFinite(step, {"validation loss": metrics["validation_loss"]})
            log.write(step, metrics)
        if not _all_finite(self.state["params"]):  # after the last step no loss would show it
            raise NonFinite(step, {"parameters": math.nan})
        saved.save(step, self.sharded.unstack(self.state), metrics)

    def _validated(self, step: int, validation: Batches) -> dict[str, float]:
        metrics = self.validate(validation)
        print(
            f"step {step}  validation loss {metrics['validation_loss']:.4f}  "
            f"accuracy {metrics['validation_accuracy']:.3f}",
            flush=True,
        )
        return metrics

    def validate(self, batches: Batches) -> dict[str, float]:
        """Loss per target token and next-token accuracy on the training clusters' validation
        batches.
        """
        sums = {"loss": 0.0, "accuracy": 0.0, "targets": 0.0}
        for step in range(len(batches)):
            batch, _ = put_batch(batches, partitioning.batch_sharding(self.mesh), step)
            found = jax.device_get(self._eval_step(self.state["params"], batch))
            weight = float(found["targets"])
            sums["targets"] += weight
            for name in ("loss", "accuracy"):
                sums[name] += float(found[name]) * weight
        return {f"validation_{name}": sums[name] / sums["targets"] for name in ("loss", "accuracy")}

    def evaluate(
        self,
        name: str,
        params: Any,
        step: int,
        output: pathlib.Path | None = None,
        protocol: Protocol | None = None,
        whose: pathlib.Path | None = None,
    ) -> bool:
        """Scores the held-out cluster with `params` and adds the numbers to `results.csv` under the
        model `name`.

        `whose` is the directory of the run that the parameters are of, if not of this one. False if
        it was preempted.
        """
        protocol, whose = protocol or self.data.eval.eval_protocol, whose or self.directory
        evaluator = self._evaluator(output or self.directory, whose)
        return not self.preemption.requested() and evaluator.evaluate(
            params,
            self._setting(name, step, protocol, whose),
            protocol,
            stop=self.preemption.requested,
        )

    def _setting(self, name: str, step: int, protocol: Protocol, whose: pathlib.Path) -> Setting:
        style = self.data.config.options_style
        mode = (
            protocol.instructions
            if style == "fixed"
            else f"{protocol.instructions}, options {style}"
        )
        return Setting(
            run=results.run_name(whose),
            step=step,
            model=name,
            size=self.config.size,
            shots=self.data.config.shots,
            instruction_mode=mode,
        )

    def _evaluator(self, output: pathlib.Path, whose: pathlib.Path) -> HeldOut:
        if jax.process_index() == 0:
            results.remember_run(
                output, whose, run_record.trained_on(whose, self.data), self.data.config.source
            )
        if self._held_out is None or self._held_out.directory != output:
            self._held_out = HeldOut(self.data, self.model, self.mesh, output)
        return self._held_out


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def changed_settings(before: str, now: str) -> list[str]:
    """The settings that two `config.gin` do not have alike, as 'NAME = old -> new'; none where
    `before` is empty.
    """
    old, new = _settings(before), _settings(now)
    names = dict.fromkeys([*old, *new]) if old else ()
    values = [(name, old.get(name, "not set"), new.get(name, "not set")) for name in names]
    return [f"{name} = {was} -> {is_now}" for name, was, is_now in values if was != is_now]


def _settings(text: str) -> dict[str, str]:
    """Values by name; gin writes long ones on indented lines of their own."""
    found = re.findall(r"^([A-Za-z][\w./]*) = (.*(?:\n +.*)*)", text, re.M)
    return {
        name: re.sub(r"\s*\n +", " ", value.removeprefix("\\")).strip() for name, value in found
    }
