"""CHAT_TEMPLATE: which chat template a run uses, if any."""

from __future__ import annotations

import pathlib

from flan_jax.data.chat.chat_template import (
    CannotRender,
    find_chat_template,
    read_chat_template,
)
from flan_jax.data.chat.chat_vocabulary import ChatVocabulary, ends_as_the_model_does
from flan_jax.data.huggingface_vocabulary import HuggingFaceVocabulary
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.copies import read_path

AUTO = "auto"


def with_chat_template(
    plain: HuggingFaceVocabulary, setting: str
) -> HuggingFaceVocabulary | ChatVocabulary:
    """Returns the vocabulary with the chat template of a setting, or without one.

    'auto' takes the tokenizer's own template for a decoder-only model whose answers end as the
    template ends them: an instruct model. A note of the vocabulary says what was chosen.

    Args:
      plain: the tokenizer.
      setting: CHAT_TEMPLATE: 'auto' or a file.

    Raises:
      UserError: if the file has no template, or the template is not usable.
    """
    directory = pathlib.Path(plain.path).parent
    if setting != AUTO:
        template = read_chat_template(read_path(setting, "CHAT_TEMPLATE"), directory)
        try:
            return ChatVocabulary(plain, template)
        except CannotRender as error:
            raise UserError(
                f"CHAT_TEMPLATE {shown(template.place)} cannot be used: it does not render a "
                f"question and its answer ({shown(error)}); correct it."
            ) from error
    if plain.architecture == "t5":
        return plain
    template = find_chat_template(directory)
    if template is None:
        return plain
    if ends_as_the_model_does(plain, template):
        return ChatVocabulary(plain, template)
    plain.notes.append(
        f"the chat template of {template.place} is not used: its turns do not end with what ends "
        f"the model's answers ({shown(plain.token(plain.eos_id))}), as in a base model; "
        "CHAT_TEMPLATE=FILE uses it."
    )
    return plain
