"""The chat template of a tokenizer: where it is, and messages as the text that it makes of them.

Equal to `apply_chat_template` of `transformers`, which the tests compare.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flan_jax.data.special_tokens import CHAT_TEMPLATE, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import parse_json
from flan_jax.storage.hashing import digest

if TYPE_CHECKING:
    from flan_jax.data.chat.sandbox import CompiledTemplate

Message = Mapping[str, Any]

# The template of several that is used, and the one for messages with tools.
_DEFAULT, _WITH_TOOLS = "default", "tool_use"
_MORE_TEMPLATES = "chat_templates"
# Special tokens that templates name: `bos_token` and so on.
_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Names of a message's reasoning; templates read the first, and one of them the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")
# What day templates that show one are rendered on, so that the tokens of a row do not change
# overnight. It is the day that Llama 3's template falls back to.
FIXED_DAY = datetime.datetime(2024, 7, 26)


class CannotRender(Exception):
    """A template does not render these messages; the message says why."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A chat template with the special tokens that it may name.

    Attributes:
      texts: of the templates by name: 'default', and where there is one 'tool_use'.
      place: where it is from, for messages to users.
      tokens: 'bos_token' and so on -> text.
      now: the time that `strftime_now` shows.
    """

    texts: Mapping[str, str]
    place: str
    tokens: Mapping[str, str]
    now: datetime.datetime = FIXED_DAY

    @functools.cached_property
    def digest(self) -> str:
        """A digest of all that decides what it renders."""
        return digest([dict(self.texts), dict(self.tokens), self.now.isoformat()])

    def as_setting(self) -> str | list[dict[str, str]]:
        """Returns the value of 'chat_template' in a `tokenizer_config.json`."""
        if list(self.texts) == [_DEFAULT]:
            return self.texts[_DEFAULT]
        return [{"name": name, "template": text} for name, text in self.texts.items()]

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Returns the text of messages.

        Args:
          messages: with 'role' and 'content', and what else a template reads.
          add_generation_prompt: whether the beginning of an assistant's turn follows them.
          tools: JSON schemas of functions.

        Raises:
          CannotRender: if the template does not render them.
          UserError: if it is no template, does what a template may not, or does not end.
        """
        sandbox = _sandbox()
        variables = {
            **self.tokens,
            "messages": [_as_template_reads(message) for message in messages],
            "tools": None if tools is None else _plain(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            template = self._compiled(_WITH_TOOLS if tools is not None else _DEFAULT)
            return template.render(_characters(variables), variables)
        except sandbox.TemplateRefusal as error:
            raise CannotRender(str(error)) from error
        except sandbox.UnsafeTemplate as error:
            raise UserError(
                f"the chat template of {self.place} is not usable ({shown(error)}); correct it, "
                "give another one with CHAT_TEMPLATE=FILE, or set CHAT_TEMPLATE=None."
            ) from error
        except sandbox.TemplateStopped as error:
            raise UserError(
                f"the chat template of {self.place} was stopped: {shown(error)}. Correct it, give "
                "another one with CHAT_TEMPLATE=FILE, or set CHAT_TEMPLATE=None."
            ) from error

    def _compiled(self, name: str) -> CompiledTemplate:
        return _compile(self.texts.get(name, self.texts[_DEFAULT]), self.now)


@functools.lru_cache(32)
def _compile(text: str, now: datetime.datetime) -> CompiledTemplate:
    return _sandbox().CompiledTemplate(text, now)


def _sandbox() -> types.ModuleType:
    """The module that needs jinja2."""
    try:
        from flan_jax.data.chat import sandbox
    except ImportError as error:
        raise UserError(
            "a chat template needs the package jinja2: pip install 'flan_jax[hf]'; "
            "CHAT_TEMPLATE=None does without."
        ) from error
    return sandbox


def find_chat_template(directory: pathlib.Path) -> ChatTemplate | None:
    """Returns the chat template in the files of a tokenizer; None if they have none.

    `chat_template.jinja` and `chat_templates/` go before `tokenizer_config.json`, as in
    `transformers`.

    Args:
      directory: with the files.

    Raises:
      UserError: if a file cannot be read, or several templates have no default.
    """
    texts = _jinja_files(directory)
    file = directory / (CHAT_TEMPLATE if texts else TOKENIZER_CONFIG)
    if not texts:
        texts = _named(_parsed(directory, TOKENIZER_CONFIG).get("chat_template"), file)
    if not texts:
        return None
    _check_default(texts, file)
    return ChatTemplate(texts, str(file), _special_tokens(directory))


def read_chat_template(path: pathlib.Path, directory: pathlib.Path) -> ChatTemplate:
    """Returns the chat template in a file: one in jinja, or a JSON file with a 'chat_template'.

    Args:
      path: the file.
      directory: of the tokenizer, whose special tokens it may name.

    Raises:
      UserError: if there is no template in it.
    """
    if not path.is_file():
        raise UserError(
            f"CHAT_TEMPLATE {shown(path)} is not a file; it is 'auto', a file with a template, or "
            "None."
        )
    if path.suffix == ".json":
        contents = _parsed(path.parent, path.name)
        texts = _named(contents.get("chat_template"), path)
    else:
        texts = {_DEFAULT: _text_of(path)}
    if not texts or not any(texts.values()):
        raise UserError(
            f"CHAT_TEMPLATE {shown(path)} has no chat template; give a .jinja file, or a JSON file "
            "with 'chat_template'."
        )
    _check_default(texts, path)
    return ChatTemplate(texts, str(path), _special_tokens(directory))


def _check_default(texts: Mapping[str, str], file: pathlib.Path) -> None:
    """Raises a UserError if several templates have no default."""
    if _DEFAULT not in texts:
        raise UserError(
            f"{shown(file)} has the chat templates {', '.join(map(shown, texts))} and none that is "
            "called 'default'; write the one to use into a file and set CHAT_TEMPLATE to it."
        )


def _jinja_files(directory: pathlib.Path) -> dict[str, str]:
    file = directory / CHAT_TEMPLATE
    texts = {_DEFAULT: _text_of(file)} if file.is_file() else {}
    more = sorted((directory / _MORE_TEMPLATES).glob("*.jinja"))
    return texts | {path.stem: _text_of(path) for path in more}


def _named(value: Any, file: pathlib.Path) -> dict[str, str]:
    """The templates of a `chat_template`: a text, or a list of {name, template}."""
    if not value:
        return {}
    if isinstance(value, str):
        return {_DEFAULT: value}
    entries = value if isinstance(value, list) else []
    texts = {
        entry["name"]: entry["template"]
        for entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }
    if not texts or len(texts) < len(entries):
        raise UserError(
            f"the chat_template in {shown(file)} must be a text or a list of objects with 'name' "
            "and 'template'; correct the file."
        )
    return texts


def _text_of(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the chat template {shown(path)} cannot be read ({error}).") from error


def _parsed(directory: pathlib.Path, name: str) -> dict[str, Any]:
    try:
        contents = (directory / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"{shown(directory / name)} cannot be read ({error.strerror}).") from error
    return parse_json(contents, directory / name)


def _special_tokens(directory: pathlib.Path) -> dict[str, str]:
    """The special tokens by the names of templates, with the precedence of `transformers`."""
    config, table = _parsed(directory, TOKENIZER_CONFIG), _parsed(directory, SPECIAL_TOKENS_MAP)
    first, second = (config, table) if "added_tokens_decoder" in config else (table, config)
    tokens = {}
    for kind in _KINDS:
        name = f"{kind}_token"
        value = first.get(name) or second.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[name] = text
    return tokens


def _as_template_reads(message: Message) -> dict[str, Any]:
    """A message as plain JSON, without empty fields, its reasoning under the names of templates."""
    if not isinstance(message, Mapping):
        raise CannotRender("a message is not an object with 'role' and 'content'")
    plain = {key: _plain(value) for key, value in message.items() if value is not None}
    reasoning = next((plain[name] for name in _REASONING if name in plain), None)
    if reasoning is None:
        return plain
    return {_REASONING[1]: reasoning, **plain, _REASONING[0]: reasoning}


def _plain(value: Any) -> Any:
    """A copy of a value in the types of JSON, whose methods the sandbox knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    return str(value)


def _characters(variables: Mapping[str, Any]) -> int:
    return len(json.dumps([variables["messages"], variables["tools"]], ensure_ascii=False))
