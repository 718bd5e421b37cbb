"""`load` opens a model; a `Model` scores, ranks, generates and gives logits."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flan_jax.api.arguments import checked_prompts, checked_rows, checked_step, checked_texts
from flan_jax.api.settings import Configuration
from flan_jax.checkpoints.located import located
from flan_jax.config import run_directory
from flan_jax.config.checks import check_choice, check_number, quoted
from flan_jax.config.gin_search import DEFAULT_GIN_FILE
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.storage.copies import name_of, origin
from flan_jax.storage.paths import short_path

if TYPE_CHECKING:
    import jax
    from jaxtyping import Float32, Float64, Integer

    from flan_jax.data.vocabulary import Vocabulary
    from flan_jax.evaluation.rank_scorer import RankScorer
    from flan_jax.models.decoder import DecoderConfig
    from flan_jax.models.t5 import T5Config
    from flan_jax.runs.setup import RunSetup

# The file of a size, of which parameters are random.
_GIN = ".gin"


def load(
    name: str | os.PathLike,
    *,
    step: int | str | None = None,
    mesh: dict[str, int] | str | None = None,
    dtype: str | None = None,
    **settings: Any,
) -> Model:
    """Returns a model on the devices of this machine, with its tokenizer.

    Files are checked now; parameters are read when they are first used.

    Args:
      name: a run (its directory, or that of one of its steps), a checkpoint of any format with its
        tokenizer beside it, `hf:org/name[@revision]` on the Hugging Face hub, or a gin file such as
        `gin/size/t5_tiny.gin`, whose model has random parameters (SEED).
      step: of a run: the number of a checkpoint; 'best' has the lowest validation loss, None is the
        last.
      mesh: devices of each axis (`data`, `fsdp`, `model`; -1: all others), or 'auto'; None: of a
        run its own, else all devices on `fsdp`.
      dtype: of the computation, 'float32' or 'bfloat16'; None: float32 on a CPU, else bfloat16.
      **settings: others of docs/settings.md by their names in lower case, such as
        `task_feature_lengths={"inputs": 2048, "targets": 256}`, most tokens of inputs and answers,
        or `param_dtype="bfloat16"`, which takes half the memory.

    Raises:
      UserError: if there is no such model, it cannot be read, or the settings do not fit it.
    """
    from flan_jax.runs.setup import check_parameters, open_model

    given = {} if mesh is None else {"mesh": mesh}
    if dtype is not None:
        given |= {"T5Config.dtype": dtype, "DecoderConfig.dtype": dtype}
    name, step = absolute_name(name), checked_step(step)
    files, of_name = _settings_of(name)
    configuration = Configuration(files).with_settings("load", settings, of_name | given)
    with configuration.applied():
        setup = open_model()
        is_run = run_directory.config_of(name) is not None
        checkpoint = name if is_run else setup.config.initial_checkpoint_path
        if checkpoint is None and step is not None:
            raise UserError(f"{name} has no checkpoints, so leave step={step!r} out.")
        number = 0 if checkpoint is None else check_parameters(setup, checkpoint, step)
    start = configuration
    if is_run:  # what is tuned from it has settings of its own
        checkpoint = name_of(_place_of_step(located(name), number))
        start = Configuration().with_settings("load", settings, {"model": checkpoint} | given)
    return Model(name, configuration, start, setup, checkpoint, number)


def absolute_name(name: str | os.PathLike) -> str:
    """Returns the name of a model or run; of the `config.gin` of a run, that of its directory.

    A path that is here is absolute, so that it stays valid.
    """
    path = os.path.expanduser(os.fspath(name))
    name = os.path.abspath(path) if os.path.exists(path) else os.fspath(name)
    return name.removesuffix(f"/{run_directory.CONFIG}")


def _settings_of(name: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The gin files of a model, and the settings beside them."""
    config = run_directory.config_of(name)
    if config is not None:
        return (str(origin(config) or config),), {}
    if name.endswith(_GIN):
        return (DEFAULT_GIN_FILE, name), {}
    return (DEFAULT_GIN_FILE,), {"model": name}


def _place_of_step(name: pathlib.Path, step: int) -> pathlib.Path:
    """The directory of a step of a run, which the name may be itself."""
    place = run_directory.run_of(name) / run_directory.CHECKPOINTS / str(step)
    return place if place.is_dir() else name


class Ranking(NamedTuple):
    """The options of a row, ranked.

    Attributes:
      answer: the option with the highest log-probability, of equal ones the first.
      scores: log-probability of each option with its end, in nats, float64 [O].
    """

    answer: str
    scores: Float64[np.ndarray, " O"]


class Model:
    """A model on its devices, with its tokenizer; `load` makes it.

    Attributes:
      name: what was loaded.
      step: of its checkpoint; 0 where it has none.
    """

    def __init__(
        self,
        name: str,
        configuration: Configuration,
        start: Configuration,
        setup: RunSetup,
        checkpoint: str | None,
        step: int,
    ):
        self.name, self.step = name, step
        # Settings of this model, and of one that is tuned from it.
        self.configuration, self.start = configuration, start
        self.checkpoint = checkpoint
        self._setup = setup
        self._params: Any = None

    def __repr__(self) -> str:
        config = self.config
        kind = type(config).__name__.removesuffix("Config")
        mesh = {axis: size for axis, size in self.mesh.shape.items() if size > 1}
        return f"<Model {short_path(self.name)}: {kind}, {config.dtype}, {mesh or 'one device'}>"

    @property
    def config(self) -> T5Config | DecoderConfig:
        """Its sizes and behavior."""
        return self._setup.model.config

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tokenizer: `encode` and `decode`, and the ids around a text."""
        return self._setup.data.vocabulary

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices of its parameters."""
        return self._setup.mesh

    @property
    def params(self) -> Any:
        """Its parameters on the mesh, a tree of T5X's names with layers stacked; read once."""
        from flan_jax.runs.setup import read_parameters
        from flan_jax.training.resume import initial_state

        if self._params is None and self.checkpoint is None:
            self._params = initial_state(self._setup.sharded, None)["params"]
        elif self._params is None:
            with self.configuration.applied():  # not the program's settings of gin
                _, self._params = read_parameters(self._setup, self.checkpoint)
        return self._params

    def release(self) -> None:
        """Frees the memory of the parameters; they are read again when they are used."""
        self._params = None

    def score(self, text: str, options: Sequence[str]) -> Float64[np.ndarray, " O"]:
        """Returns the log-probability of each option as the answer to a text, in nats, float64 [O].

        It is the sum over the option's tokens and its end, as `flan-jax eval` ranks options (Wei et
        al. 2022, section 2.3).

        Args:
          text: what the model reads.
          options: O answers.

        Raises:
          UserError: if the text is longer than TASK_FEATURE_LENGTHS, or there are no options.
        """
        return self.rank([(text, options)])[0].scores

    def rank(self, rows: Iterable[tuple[str, Sequence[str]]]) -> list[Ranking]:
        """Returns the best option of each row, and the scores of all; many rows share a batch.

        Args:
          rows: (text, options) each; see `score`.

        Raises:
          UserError: see `score`.
        """
        from flan_jax.runs.answers import encoded, room_of

        rows = checked_rows(rows)
        vocabulary, texts = self.vocabulary, [text for text, _ in rows]
        inputs = encoded(texts, vocabulary, room_of(self._setup, self.params))
        options = [
            [
                np.array([*vocabulary.encode_target(option), vocabulary.eos_id], np.int32)
                for option in choices
            ]
            for _, choices in rows
        ]
        self._scorer.shapes.clear()  # scores do not depend on what was scored before
        scores = self._scorer.scores(self.params, inputs, options) if rows else []
        return [
            Ranking(choices[int(np.argmax(each))], each) for (_, choices), each in zip(rows, scores)
        ]

    @functools.cached_property
    def _scorer(self) -> RankScorer:
        from flan_jax.evaluation.rank_scorer import RankScorer

        return RankScorer(self._setup.model, self.mesh, bos_id=self.vocabulary.bos_id)

    def generate(
        self,
        prompts: Sequence[str | list[dict[str, Any]]],
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] | None = None,
        system: str | None = None,
        method: str = "greedy",
        **decoding: Any,
    ) -> list[str]:
        """Returns an answer to each prompt, as `flan-jax generate` does.

        Args:
          prompts: each a text, or a list of messages {'role': ..., 'content': ...}, the last of
            which is to be answered; an instruct model reads them in its chat template.
          max_tokens: most tokens of an answer, its end included; None: those of targets in
            TASK_FEATURE_LENGTHS. A warning is logged where answers are truncated.
          stop: texts that end an answer before them; None: no such texts.
          system: a system message before each prompt.
          method: 'greedy' (the likeliest token every time), 'sample' or 'beam'.
          **decoding: of 'sample': temperature, top_k, top_p, seed; of 'beam': beams,
            length_penalty; see `flan-jax generate --help`.

        Raises:
          UserError: if a prompt is too long, or the method cannot work.
        """
        from flan_jax.runs.answers import AT_ONCE, make_answer

        prompts = checked_prompts(prompts)
        stop = [] if stop is None else checked_texts("stop", stop, "a text of stop")
        if max_tokens is not None:
            max_tokens = check_number("max_tokens", max_tokens, whole=True, least=1, below=2**20)
        answer = make_answer(
            self._setup,
            self.params,
            prompts,
            _decoding(method, decoding),
            max_tokens,
            [text for text in stop if text],
            system,
        )
        chunk = AT_ONCE * _rows_multiple(self.mesh)
        return [
            text
            for first in range(0, len(prompts), chunk)
            for text, _ in answer(prompts[first : first + chunk], first)
        ]

    def logits(
        self,
        ids: Integer[np.ndarray, "B L"] | None = None,
        *,
        inputs: Integer[np.ndarray, "B S"] | None = None,
        targets: Integer[np.ndarray, "B T"] | None = None,
        prefix_length: int = 0,
    ) -> Float32[jax.Array, "B L V"]:
        """Returns the logits of the next token at each place; needs no tokenizer.

        Of a decoder, place i has the logits of the token after `ids[:, :i + 1]`, and nothing is put
        before the ids: where the model begins with BOS, they do. Rows that are shorter may end in
        any id. Of a T5, place t has the logits of `targets[:, t]` after `inputs` and the targets
        before it.

        Args:
          ids: of a decoder, int [B, L].
          inputs: of a T5, int [B, S]; 0 is padding.
          targets: of a T5, int [B, T].
          prefix_length: of a decoder whose prefix is bidirectional: how many tokens at the
            beginning of each row see each other both ways.

        Returns:
          float32 [B, L, V] on the devices, of a T5 [B, T, V]: 4 V bytes for each token.

        Raises:
          UserError: for the arguments of the other architecture, or ids that are not of the
            vocabulary.
        """
        from flan_jax.evaluation.all_logits import all_logits
        from flan_jax.models.decoder import DecoderLM

        is_decoder = isinstance(self._setup.model, DecoderLM)
        given = {"ids": ids} if is_decoder else {"inputs": inputs, "targets": targets}
        others = (inputs, targets) if is_decoder else (ids,)
        if any(array is None for array in given.values()) or any(x is not None for x in others):
            call = "logits(ids)" if is_decoder else "logits(inputs=..., targets=...)"
            kind = "decoder-only model" if is_decoder else "T5"
            raise UserError(f"this is a {kind}; write {call}.")
        arrays = [self._checked_ids(name, array) for name, array in given.items()]
        if len({len(array) for array in arrays}) > 1:
            raise UserError("inputs and targets must have as many rows.")
        prefix_length = check_number("prefix_length", prefix_length, whole=True, least=0)
        if prefix_length and getattr(self.config, "prefix", "causal") == "causal":
            raise UserError("prefix_length is for a decoder whose prefix is bidirectional.")
        return all_logits(self._setup.model, self.params, self.mesh, arrays, prefix_length)

    def _checked_ids(self, name: str, array: Any) -> Integer[np.ndarray, "B L"]:
        """An array of token ids.

        Raises:
          UserError: if it is not one.
        """
        try:
            array = np.asarray(array)
        except ValueError:  # rows of several lengths
            array = np.zeros(0)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or not array.size:
            raise UserError(
                f"{name} must be whole numbers [B, L], not {array.dtype} {list(array.shape)}; rows "
                "have one length."
            )
        if array.min() < 0 or array.max() >= self.config.vocab_size:
            raise UserError(
                f"{name} has ids from {array.min()} to {array.max()}, but those of the model are 0 "
                f"to {self.config.vocab_size - 1}."
            )
        return array.astype(np.int32)


def _decoding(method: str, settings: dict[str, Any]) -> Any:
    """The `Decoding` of a method.

    Raises:
      UserError: for a setting that it does not have, or a value that cannot work.
    """
    from flan_jax.models.decoding.method import METHODS, Decoding

    check_choice("the decoding method", method, METHODS)
    for name in settings:
        if name not in METHODS[method]:
            known = METHODS[method]
            of_others = [other for other, names in METHODS.items() if name in names]
            hint = f"; it is one of method={of_others[0]!r}." if of_others else None
            raise UserError(
                f"generate(method={method!r}) has no argument {quoted(name)}"
                f"{hint or did_you_mean(nearest(name, known))}"
            )
    return Decoding(method, **settings)


def _rows_multiple(mesh: jax.sharding.Mesh) -> int:
    from flan_jax.evaluation.batching import row_multiple

    return row_multiple(mesh)
