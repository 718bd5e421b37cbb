"""The model `flan_jax` of EleutherAI's lm-evaluation-harness (extra `[lm-eval]`).

Requests with the same context become the options of one row, so that a context is read once however
many continuations it has. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import log
from flan_jax.config import gin_files, run_directory
from flan_jax.config.gin_search import DEFAULT_GIN_FILE
from flan_jax.data.chat.chat_template import CannotRender
from flan_jax.data.chat.chat_vocabulary import ChatVocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation.generator import Generator
from flan_jax.evaluation.rank_scorer import RankScorer
from flan_jax.models.adapters import prompt_length_of
from flan_jax.models.decoder import DecoderLM
from flan_jax.parallel import processes
from flan_jax.runs.setup import RunSetup, open_model, read_parameters
from flan_jax.storage.hashing import digest

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise UserError(
        f"lm-evaluation-harness cannot be imported ({error}): pip install 'flan_jax[lm-eval]'."
    ) from error

PROTOCOLS = ("harness", "flan")

# Requests between two lines of progress; after each the answers are in the harness's cache
# (`--use_cache`).
_AT_ONCE = 4096

# The names that tasks use for the most tokens of an answer.
_MOST_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

_log = logging.getLogger(__name__)

Ids = Sequence[int]
Pair = tuple[Ids, Ids]


@register_model("flan_jax")
class FlanLM(LM):
    """A T5 or a decoder-only model with the interface of lm-evaluation-harness.

    Two protocols: 'harness' scores a continuation as the harness defines it, the tokens that follow
    the context and nothing else; 'flan' as the model was tuned and as `flan-jax eval` does: the
    context closed as inputs are, and the continuation without white space around it, its EOS
    included. A T5's encoder reads EOS after the context under 'harness' as well.
    """

    def __init__(
        self,
        run: str | None = None,
        model: str | None = None,
        checkpoint: str | None = None,
        step: int | str | None = None,
        gin_file: str | Sequence[str] | None = None,
        protocol: str = "harness",
        max_length: int | None = None,
        batch_tokens: int = 8192,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ):
        """Opens a model.

        Args:
          run: directory of a run, for its `config.gin` and its last checkpoint.
          model: instead of a run, MODEL: a checkpoint of any format with its tokenizer, or
            hf:org/name.
          checkpoint: a run, one of its steps, or a checkpoint of T5X, Hugging Face or GGUF, instead
            of that.
          step: the checkpoint of this step; 'best': the one with the lowest validation loss.
          gin_file: instead of the run's `config.gin`: a gin file, or several joined by '+'.
          protocol: 'harness' or 'flan'.
          max_length: most tokens of a context (T5), or of context and continuation together
            (decoder); longer contexts lose their beginning. None: what the model was trained with.
          batch_tokens: most tokens of a batch and device.
          batch_size: ignored, see `batch_tokens`; the harness passes it.
          max_batch_size: ignored like `batch_size`.
          device: ignored, see JAX_PLATFORMS; the harness passes it.
          **settings: `gin.NAME`: VALUE, as on our command lines.

        Raises:
          UserError: if an argument is unknown, or the model cannot be opened.
        """
        super().__init__()
        if protocol not in PROTOCOLS:
            raise UserError(f"protocol={protocol} is not one of {', '.join(PROTOCOLS)}.")
        if model is not None:
            if run is not None or checkpoint is not None:
                raise UserError("model= names the parameters; leave run= and checkpoint= out.")
            checkpoint, gin_file = model, gin_file or DEFAULT_GIN_FILE
            settings = {"gin.MODEL": model, **settings}
        argv, checkpoint = _sources(run, checkpoint, gin_file, settings)
        opened, self._params = _open(argv, checkpoint, step, is_named=model is not None)
        data = opened.data
        self.protocol, self._vocabulary = protocol, data.vocabulary
        self._chat = data.vocabulary if data.is_chat else None
        # Whether the harness renders contexts, which spell BOS and the other special tokens then.
        self._is_rendered = False
        self._model, self._mesh, self._batch_tokens = opened.model, opened.mesh, batch_tokens
        source_length, self._target_length = data.config.lengths()
        source_length -= prompt_length_of(self._params)  # it is in front of each context
        self._is_decoder = isinstance(opened.model, DecoderLM)
        self.max_length = max_length or source_length + (
            self._target_length if self._is_decoder else 0
        )
        # Contexts hold the BOS that a decoder reads first, hence no `bos_id` here.
        self._scorer = RankScorer(opened.model, self._mesh, batch_tokens, bos_id=None)
        self._generators: dict[int, Generator] = {}

    @property
    def tokenizer_name(self) -> str:
        """What the harness's cache of requests is named after where it renders contexts."""
        return f"flan_jax-{digest(self._vocabulary.fingerprint)}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Returns the chat template that `--apply_chat_template` applies; '' without it.

        Raises:
          UserError: if the model has none, or the template is to be applied twice.
        """
        if not chat_template:
            return ""
        template = self._rendering().template.as_setting()
        return template if isinstance(template, str) else json.dumps(template)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Returns a context of the harness as the model's chat template renders it.

        Args:
          chat_history: messages with 'role' and 'content'.
          add_generation_prompt: False: the last message is the beginning of the answer.

        Raises:
          UserError: see `chat_template`; and if the template does not render the messages.
        """
        chat = self._rendering()
        try:
            text = chat.template.render(chat_history, add_generation_prompt)
        except CannotRender as error:
            raise UserError(
                f"the chat template of {chat.template.place} does not render the messages "
                f"({error}); leave out --apply_chat_template, --system_instruction or "
                "--fewshot_as_multiturn."
            ) from error
        if add_generation_prompt:
            return text
        begun = chat_history[-1]["content"].rstrip()
        return text[: text.rindex(begun) + len(begun)]

    def _rendering(self) -> ChatVocabulary:
        """The vocabulary whose template renders contexts from now on."""
        if self._chat is None:
            raise UserError(
                "--apply_chat_template needs a model with a chat template; give it one with "
                "gin.CHAT_TEMPLATE=FILE, or leave it out."
            )
        if self.protocol == "flan":
            raise UserError(
                "protocol=flan applies the chat template itself; leave out --apply_chat_template."
            )
        self._is_rendered = True
        return self._chat

    def _encode(self, text: str) -> list[int]:
        """The token ids of a text as it stands, without a chat template around it."""
        if self._is_rendered:
            return self._chat.encode_rendered(text)
        return self._vocabulary.encode(text)

    @property
    def _begin(self) -> list[int]:
        """What a decoder reads before a context of the protocol 'harness'."""
        if self._is_rendered:
            return []
        return [self._vocabulary.bos_id if self._chat is None else self._chat.plain.bos_id]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Returns the log-probability of each continuation, and whether greedy decoding writes it.

        Args:
          requests: with the arguments (context, continuation).
        """
        return self._answered("loglikelihood", requests, self._loglikelihoods)

    def _loglikelihoods(self, arguments: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        self._spanning = 0
        pairs = [self._pair(*texts) for texts in arguments]
        if self._spanning:
            _log.warning(
                "%d of %d continuations merge with the end of their context in the vocabulary; "
                "the merged token is scored with the continuation.",
                self._spanning,
                len(pairs),
            )
        same = same_tokens(arguments, pairs)
        if same:
            _log.warning(
                "%d of %d continuations have the tokens of another one of their context, so "
                "they tie and the task's first one wins.",
                same,
                len(pairs),
            )
        continuations = [continuation for _, continuation in pairs]
        contexts = self._fitting([context for context, _ in pairs], map(len, continuations))
        return self._pair_scores(list(zip(contexts, continuations)))

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Returns the log-probability of each text, in windows of `max_length` tokens.

        Each token is scored once. A decoder begins with BOS. A T5 does as the harness's Hugging
        Face model does with an encoder-decoder: its decoder writes the text and its EOS, while its
        encoder reads EOS, or in later windows the token before them.

        Args:
          requests: with the arguments (text,).
        """
        return self._answered("loglikelihood_rolling", requests, self._text_loglikelihoods)

    def _text_loglikelihoods(self, arguments: Sequence[tuple[str]]) -> list[float]:
        vocabulary = self._vocabulary
        plain = vocabulary if self._chat is None else self._chat.plain
        first = plain.bos_id if self._is_decoder else vocabulary.eos_id
        end = [] if self._is_decoder else [vocabulary.eos_id]
        windows, texts = [], []
        for index, (text,) in enumerate(arguments):
            ids = [*vocabulary.encode(text), *end]
            for window in get_rolling_token_windows(ids, first, self.max_length, context_len=1):
                windows.append(make_disjoint_window(window))
                texts.append(index)
        sums = np.zeros(len(arguments))
        scores = [score for score, _ in self._pair_scores(windows)]
        np.add.at(sums, np.array(texts, int), scores)
        return sums.tolist()

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Returns the greedy answer to each context, up to the first of the strings `until`.

        Args:
          requests: with the arguments (context, {until, max_gen_toks, ...}).

        Raises:
          UserError: if an answer is to be sampled, or leaves a decoder no room to read anything.
        """
        return self._answered("generate_until", requests, self._generate)

    def _generate(self, arguments: Sequence[tuple[str, dict]]) -> list[str]:
        answers: dict[int, str] = {}
        most = [_most_tokens(options, self._target_length) for _, options in arguments]
        for length in sorted(set(most)):
            if self._is_decoder and length >= self.max_length:
                raise UserError(
                    f"answers of {length} tokens leave no room for a context in max_length="
                    f"{self.max_length}; add --gen_kwargs max_gen_toks=N or --model_args "
                    "max_length=N."
                )
            rows = [row for row, tokens in enumerate(most) if tokens == length]
            contexts = [self._context(arguments[row][0]) for row in rows]
            inputs = [
                np.asarray(ids, np.int32) for ids in self._fitting(contexts, [length] * len(rows))
            ]
            for row, text in zip(rows, self._generator(length).texts(self._params, inputs)):
                answers[row] = _before(text, arguments[row][1].get("until"))
        return [answers[row] for row in range(len(arguments))]

    def _answered(
        self, kind: str, requests: Sequence[Instance], answer: Callable[[Sequence], list]
    ) -> list:
        """The answers to all requests; those so far are logged and in the harness's cache."""
        answers: list = []
        for begin in range(0, len(requests), _AT_ONCE):
            part = [request.args for request in requests[begin : begin + _AT_ONCE]]
            for arguments, result in zip(part, answer(part)):
                self.cache_hook.add_partial(kind, arguments, result)
                answers.append(result)
            # Standard output is for the harness's table.
            progress = f"{kind}: {len(answers)} of {len(requests)} requests"
            print(progress, file=sys.stderr, flush=True)
        return answers

    def _context(self, text: str) -> list[int]:
        """The token ids that the model reads before a continuation."""
        vocabulary = self._vocabulary
        if self.protocol == "flan" or (not self._is_decoder and not self._is_rendered):
            ids = vocabulary.encode_input(text)
            return [vocabulary.bos_id, *ids] if self._is_decoder else ids
        return [*(self._begin if self._is_decoder else ()), *self._encode(text)]

    def _pair(self, context: str, continuation: str) -> Pair:
        encode = self._encode
        if self.protocol == "flan":
            target = self._vocabulary.encode_target(continuation.strip())
            return self._context(context), [*target, self._vocabulary.eos_id]
        # As the harness defines it: white space at the end of a context is the continuation's.
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        if not self._is_decoder:
            return self._context(kept), encode(continuation)
        # Tokens as in running text: a continuation may not begin where a text by itself would.
        before, whole = encode(kept), encode(kept + continuation)
        shared = _shared_prefix(before, whole)
        if shared < len(before):  # a token spans the border: it is scored whole, from its beginning
            self._spanning += 1
        if continuation:
            shared = min(shared, len(whole) - 1)
        return [*self._begin, *whole[:shared]], whole[shared:]

    def _fitting(self, contexts: Sequence[Ids], following: Iterable[int]) -> list[Ids]:
        """The end of each context that leaves room for `following` tokens; a BOS stays."""
        fitting: list[Ids] = []
        for context, tokens in zip(contexts, following):
            if self._is_decoder:
                room = max(self.max_length - tokens - 1, 0)
                fitting.append([context[0], *context[max(len(context) - room, 1) :]])
            else:
                fitting.append(context[-self.max_length :])
        truncated = sum(len(fit) < len(context) for fit, context in zip(fitting, contexts))
        if truncated:
            _log.warning(
                "%d contexts are longer than max_length=%d allows and lost their beginning.",
                truncated,
                self.max_length,
            )
        return fitting

    def _pair_scores(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether it is greedy.

        One without a token has 0 and True.
        """
        rows: dict[bytes, int] = {}
        contexts: list[np.ndarray] = []
        options: list[list[np.ndarray]] = []
        places: list[tuple[int, int] | None] = []
        for context, continuation in pairs:
            if not len(continuation):
                places.append(None)
                continue
            ids = np.asarray(context, np.int32)
            row = rows.setdefault(ids.tobytes(), len(rows))
            if row == len(contexts):
                contexts.append(ids)
                options.append([])
            places.append((row, len(options[row])))
            options[row].append(np.asarray(continuation, np.int32))
        scores = self._scorer.option_scores(self._params, contexts, options) if contexts else []

        def score(place: tuple[int, int] | None) -> tuple[float, bool]:
            if place is None:
                return 0.0, True
            row, option = place
            return float(scores[row].sums[option]), bool(scores[row].is_greedy[option])

        return [score(place) for place in places]

    def _generator(self, max_length: int) -> Generator:
        if max_length not in self._generators:
            self._generators[max_length] = Generator(
                self._model,
                self._vocabulary,
                self._mesh,
                max_length,
                self._batch_tokens,
                bos_id=None,
            )
        return self._generators[max_length]


def same_tokens(arguments: Sequence[tuple[str, str]], pairs: Sequence[Pair]) -> int:
    """Returns how many continuations equal another one of their context as tokens, not as text.

    Args:
      arguments: (context, continuation) each.
      pairs: the same as token ids.
    """
    texts: dict[tuple, set[str]] = {}
    for (context, continuation), (_, ids) in zip(arguments, pairs):
        texts.setdefault((context, tuple(ids)), set()).add(continuation.strip())
    return sum(len(same) for same in texts.values() if len(same) > 1)


def _shared_prefix(a: Ids, b: Ids) -> int:
    """How many tokens two texts share from their beginnings."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _open(
    argv: list[str], checkpoint: str | None, step: int | str | None, is_named: bool
) -> tuple[RunSetup, Any]:
    """Returns the model that a command line configures, and its parameters.

    Args:
      argv: gin files and settings.
      checkpoint: of the parameters.
      step: of the checkpoint.
      is_named: whether MODEL names the parameters, perhaps on the hub; else `checkpoint` does.
    """
    # the harness prints its table on standard output
    with contextlib.redirect_stdout(sys.stderr):
        gin_files.parse_command_line(argv, gin_files.CONFIGURED)
        log.use_standard_error()
        if is_named:
            checkpoint = gin_files.macro("INITIAL_CHECKPOINT_PATH")
        opened = open_model()
        processes.mute_others()
        return opened, read_parameters(opened, checkpoint, step)[1]


def _sources(
    run: str | None,
    checkpoint: str | None,
    gin_file: str | Sequence[str] | None,
    settings: Mapping[str, Any],
) -> tuple[list[str], str]:
    """The gin arguments and the path of the parameters, from the harness's `model_args`."""
    unknown = [name for name in settings if not name.startswith("gin.")]
    if unknown:
        raise UserError(
            f"flan_jax has no model argument {unknown[0]}; it has run, model, checkpoint, step, "
            "gin_file, protocol, max_length, batch_tokens, and gin.NAME for any setting."
        )
    if gin_file is None and (run is not None or checkpoint is not None):
        gin_file = run_directory.config_of(str(checkpoint if run is None else run))
        if gin_file is None and run is not None:
            raise UserError(
                f"run={run} is not the directory of a run (it has no {run_directory.CONFIG})."
            )
    if gin_file is None or (run is None and checkpoint is None):
        raise UserError(
            "no model given; write --model_args run=RUN, model=PATH, or "
            "checkpoint=PATH,gin_file=FILE."
        )
    files = str(gin_file).split("+") if isinstance(gin_file, str | pathlib.Path) else gin_file
    argv = [
        *(f"--gin_file={name}" for name in files),
        *(f"--{name}={value}" for name, value in settings.items()),
    ]
    return argv, str(run if checkpoint is None else checkpoint)


def _most_tokens(options: dict[str, Any], default: int) -> int:
    """The most tokens of an answer."""
    has_temperature = options.get("temperature") and options.get("do_sample") is None
    if options.get("do_sample") or has_temperature:
        raise UserError(
            "flan_jax answers greedily, but this task samples; add --gen_kwargs do_sample=False."
        )
    return next((int(options[name]) for name in _MOST_TOKENS if options.get(name)), default)


def _before(text: str, until: str | Iterable[str] | None) -> str:
    """The text up to the first of some strings."""
    for stop in [until] if isinstance(until, str) else until or ():
        text = text.split(stop, 1)[0] if stop else text
    return text
