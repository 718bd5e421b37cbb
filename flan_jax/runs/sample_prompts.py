"""SAMPLE_PROMPTS of a run: read before it works, answered before and after tuning."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from flan_jax.models.decoding.method import Decoding
from flan_jax.report.sample_answers import SampleAnswer, keep_answers, read_answers
from flan_jax.runs.answers import Prompt, encoded, make_answer
from flan_jax.runs.prompts import read_prompts
from flan_jax.storage.hashing import digest

if TYPE_CHECKING:
    from flan_jax.runs.setup import RunSetup

_log = logging.getLogger(__name__)


def sample_prompts(run: RunSetup) -> list[Prompt]:
    """Returns the prompts of SAMPLE_PROMPTS; none without.

    Raises:
      UserError: if they cannot be read, or one is longer than TASK_FEATURE_LENGTHS allows.
    """
    given = run.config.sample_prompts
    if given is None:
        return []
    prompts = read_prompts(given, "SAMPLE_PROMPTS") if isinstance(given, str) else list(given)
    encoded(prompts, run.data.vocabulary, run.data.config.example_lengths()[0])
    return prompts


def answer_samples(run: RunSetup, prompts: list[Prompt], name: str, params: Any, step: int) -> None:
    """Answers the prompts greedily, into `answers.jsonl`, unless they are answered there.

    Args:
      run: the model.
      prompts: all of them.
      name: of the model: 'tuned' or 'untuned'.
      params: its parameters, on the mesh.
      step: of the parameters.
    """
    import jax

    if not prompts:
        return
    # Answers to other prompts, of an earlier setting, are replaced.
    kept = [each for each in read_answers(run.directory) if each.prompt in prompts]
    origin = _origin(run, params)
    if [each.prompt for each in kept if each[:3] == (name, step, origin)] == prompts:
        return
    answer = make_answer(run, params, prompts, Decoding(), run.data.config.lengths()[1])
    texts = answer(prompts, 0)
    kept = [each for each in kept if each[:2] != (name, step)]
    kept += [
        SampleAnswer(name, step, origin, prompt, text, is_truncated)
        for prompt, (text, is_truncated) in zip(prompts, texts)
    ]
    if jax.process_index() == 0:
        keep_answers(run.directory, kept)
        _log.info(f"[{name}] step {step}: {len(prompts)} sample prompts answered")


def _origin(run: RunSetup, params: Any) -> str:
    """Returns a digest of all that answers depend on, but for the prompts."""
    from flan_jax.evaluation.digests import model_digest, parameters_digest

    return digest(
        [
            parameters_digest(params),
            model_digest(run.model.config),
            run.data.vocabulary.fingerprint,
            run.data.config.lengths()[1],
        ]
    )
