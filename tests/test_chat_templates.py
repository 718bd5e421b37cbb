"""Chat templates: equal to `transformers`, prefix by prefix, and harmless.

The eight families of `support.chat_templates`, each with 50 dialogues of odd contents.
"""

import dataclasses
import datetime
import json
import time

import pytest

from flan_jax.data.chat.chat_template import (
    FIXED_DAY,
    CannotRender,
    ChatTemplate,
    find_chat_template,
)
from flan_jax.data.chat.chat_vocabulary import ChatVocabulary
from flan_jax.data.chat.choose import with_chat_template
from flan_jax.data.chat.segments import NotPrefixStable, segments, turn_segments
from flan_jax.data.huggingface_vocabulary import HuggingFaceVocabulary
from flan_jax.data.vocabulary import load_vocabulary
from flan_jax.errors import UserError
from flan_jax.storage.hashing import digest
from support import chat_templates

pytest.importorskip("tokenizers", reason="the extra [hf] is not installed")
pytest.importorskip("jinja2", reason="CHAT TEMPLATES ARE NOT CHECKED: jinja2 ([hf]) is missing")

DIALOGUES = chat_templates.dialogues()
# Digests of the ids and trained tokens of all dialogues of a family: from `apply_chat_template` of
# transformers 5.24.0 (None where it raises), on 26 July 2024, with tokenizers 0.23.3.
GOLDEN = {
    "llama 3": "394e11a43ccc82c6",
    "qwen 2.5": "72562f27cda31feb",
    "qwen 3": "edba60405a9dba4c",
    "gemma 3": "b61c3c2f20805865",
    "smollm 2": "18b43e59d82c23c4",
    "smollm 3": "c7c73742f9e95a02",
    "mistral": "482d933d3556dd55",
    "phi 3": "f9ae42ee68374e10",
}


@pytest.fixture(scope="module", params=chat_templates.FAMILIES)
def family(request, tmp_path_factory):
    """Returns (name, directory of its tokenizer, vocabulary)."""
    directory = chat_templates.save(request.param, tmp_path_factory.mktemp("family"))
    vocabulary = with_chat_template(
        HuggingFaceVocabulary(str(directory / "tokenizer.json"), "decoder"), "auto"
    )
    return request.param, directory, vocabulary


def our_ids(vocabulary, dialogue):
    """Returns the ids of a dialogue; None where the template does not render it."""
    try:
        text = vocabulary.template.render(dialogue["messages"], tools=dialogue["tools"])
    except CannotRender:
        return None
    return vocabulary.encode_rendered(text)


def our_mask(vocabulary, dialogue):
    """Returns the trained tokens; None where a dialogue is not trained as one example."""
    try:
        pieces = segments(vocabulary.template, dialogue["messages"], tools=dialogue["tools"])
    except CannotRender:
        return None
    return list(map(int, vocabulary.dialogue_tokens(pieces).trained))


def test_the_template_of_an_instruct_model_is_taken(family):
    name, directory, vocabulary = family
    said = chat_templates.FAMILIES[name]
    assert isinstance(vocabulary, ChatVocabulary)
    assert vocabulary.token(vocabulary.eos_id) == said.end
    assert any(str(directory) in note and "chat template" in note for note in vocabulary.notes)


def test_ids_and_trained_tokens_are_those_of_transformers(family, monkeypatch):
    transformers = pytest.importorskip(
        "transformers", reason="NOT CHECKED AGAINST HUGGING FACE: transformers is not installed"
    )
    name, directory, vocabulary = family

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return FIXED_DAY

    monkeypatch.setattr(transformers.utils.chat_template_utils, "datetime", Clock)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    compared, golden, moved = 0, [], 0
    for dialogue in DIALOGUES:
        messages, tools = dialogue["messages"], dialogue["tools"]
        try:
            expected = theirs.apply_chat_template(
                messages, tools=tools, return_assistant_tokens_mask=True
            )
        except Exception:
            assert our_ids(vocabulary, dialogue) is None
            golden.append([None, None])
            continue
        assert our_ids(vocabulary, dialogue) == expected["input_ids"]
        prompt = theirs.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, return_dict=False
        )
        first = [vocabulary.bos_id] * (prompt[0] == vocabulary.bos_id)
        assert first + vocabulary.encode_messages(messages, tools) == prompt
        mask = our_mask(vocabulary, dialogue)
        if mask is not None:
            assert mask == expected["assistant_masks"][len(first) :]
            compared += 1
        moved += mask is None
        golden.append([expected["input_ids"], mask])
    assert compared >= 9 and (moved > 0) == chat_templates.FAMILIES[name].moves
    assert digest(golden)[:16] == GOLDEN[name]


def test_ids_and_trained_tokens_stay_what_they_are(family):
    name, _, vocabulary = family
    ours = [[our_ids(vocabulary, each), our_mask(vocabulary, each)] for each in DIALOGUES]
    assert digest(ours)[:16] == GOLDEN[name]


def test_the_pieces_are_the_whole_text_and_an_answer_is_what_follows_its_prompt(family):
    _, _, vocabulary = family
    for dialogue in DIALOGUES:
        messages, tools = dialogue["messages"], dialogue["tools"]
        try:
            whole = vocabulary.template.render(messages, tools=tools)
            pieces = segments(vocabulary.template, messages, tools=tools)
        except CannotRender:
            continue
        assert "".join(piece.text for piece in pieces) == whole
        assistants = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not assistants:
            continue
        last = assistants[-1]
        read, written = turn_segments(vocabulary.template, messages, last, tools)
        assert not read.trained and written.trained
        assert written.text == [piece.text for piece in pieces if piece.trained][-1]


def test_a_question_and_its_answer_are_what_a_row_of_the_catalogue_becomes(family):
    _, _, vocabulary = family
    for text, answer in (("Is it wet?", "It is."), ("rain", "yes\nno"), ("a <|im_end|> b", "<s>")):
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        tokens = vocabulary.dialogue_tokens(turn_segments(vocabulary.template, messages, 1))
        ids = [*vocabulary.encode_input(text), *vocabulary.encode_target(answer), vocabulary.eos_id]
        assert ids == tokens.ids[: len(ids)] and not any(tokens.trained[len(ids) :])
        read = len(vocabulary.encode_input(text))
        assert tokens.trained[: len(ids)] == [False] * read + [True] * (len(ids) - read)
    assert [*vocabulary.input_begin, *vocabulary.encode("rain"), *vocabulary.input_end] == (
        vocabulary.encode_input("rain")
    )
    assert vocabulary.decode([*vocabulary.encode_target("It is.")[-3:], vocabulary.eos_id, 99])


def test_earlier_thoughts_that_a_template_leaves_out_make_each_turn_an_example(tmp_path):
    chat_templates.save("qwen 3", tmp_path)
    template = find_chat_template(tmp_path)
    thought = "<think>\nIt rained.\n</think>\n\n"
    messages = [
        {"role": "user", "content": "Wet?"},
        {"role": "assistant", "content": f"{thought}Yes."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": f"{thought}Yes!"},
    ]
    with pytest.raises(NotPrefixStable, match="does not begin the text of message 2"):
        segments(template, messages)
    first, second = (turn_segments(template, messages, turn) for turn in (1, 3))
    assert first[1].text == f"{thought}Yes.<|im_end|>\n"
    assert second[1].text == f"{thought}Yes!<|im_end|>\n"
    assert "It rained" not in second[0].text and "Yes.<|im_end|>" in second[0].text
    assert segments(template, messages, "last") == second


@pytest.mark.parametrize("loss_on, trained", [("assistant", "B.</s> D.</s>"), ("last", "D.</s>")])
def test_loss_on_chooses_the_turns(loss_on, trained):
    template = ChatTemplate(
        {"default": chat_templates.template("mistral")}, "here", {"eos_token": "</s>"}
    )
    messages = [
        {"role": role, "content": text}
        for role, text in (("user", "A"), ("assistant", "B."), ("user", "C"), ("assistant", "D."))
    ]
    pieces = segments(template, messages, loss_on)
    assert "".join(piece.text for piece in pieces if piece.trained).strip() == trained
    assert segments(template, messages, "all") == [("".join(p.text for p in pieces), True)]


ATTACKS = {
    "attribute": ("{{ ''.__class__.__mro__ }}", "is unsafe"),
    "attr": ("{{ (messages | attr('__class__')).mro() }}", "not usable|does not render"),
    "import": ("{% import 'os' as os %}{{ os }}", "line 1 reads another template"),
    "include": ("{% include '/etc/passwd' %}", "line 1 reads another template"),
    "mutation": ("{{ messages.append(1) }}", "is not usable"),
    "private name": ("{% set n = namespace() %}{% set n.__init__ = 1 %}", "may not have the name"),
    "giant range": ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
    "loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "too many steps",
    ),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "stopped"),
    "tree": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "too many steps",
    ),
    "doubling": (
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s+n.s %}{% endfor %}",
        "makes a value of",
    ),
    "joining": (
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s~n.s %}{% endfor %}",
        "makes a value of|too many steps",
    ),
    "repetition": ("{{ 'x' * 10 ** 12 }}", "makes a value of"),
    "power": ("{{ 10 ** (10 ** 10) }}", "a number of"),
    "width": ("{{ 'x'.center(10 ** 9) }}", "pads or indents"),
    "filter width": ("{{ messages | tojson(indent=10 ** 9) }}", "pads or indents"),
    "format": ("{{ '%1000000000d' % 1 }}", "wider than"),
    "format method": ("{{ '{:{}}'.format('x', 10 ** 9) }}", "wider than"),
    "replace": (
        "{% set s = 'x' * 900000 %}{{ s.replace('', s) }}",
        "makes a value of",
    ),
    "join": ("{{ range(99999) | join('x' * 900000) }}", "makes a value of"),
    "output": ("{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "too many steps"),
    "nested lists": (
        "{% set a = ['y' * 900] * 999 %}{% set b = [a] * 999 %}{{ [b] | tojson | length }}",
        "makes a value of",
    ),
    "nested output": (
        "{% set a = ['y' * 900] * 999 %}{% set b = [a] * 999 %}{{ b }}",
        "makes a value of",
    ),
    "join method": ("{{ 'x'.join(['y' * 900000] * 900000) }}", "makes a value of"),
    "translate": ("{{ ('x' * 900000).translate({120: 'y' * 900000}) }}", "may not be called"),
    "bytes": ("{{ 'x'.encode().ljust(10 ** 10) }}", "may not be called"),
    "number": ("{{ (5).to_bytes(10 ** 11, 'big') }}", "may not be called"),
    "wrapping": ("{{ ('x ' * 400000) | wordwrap(3, wrapstring='y' * 99999) }}", "pads or indents"),
    "indent by text": ("{{ ('x\n' * 400000) | indent('y' * 99999) }}", "pads or indents"),
    "sum of lists": ("{{ ([['y'] * 99999] * 99999) | sum(start=[]) | length }}", "no numbers"),
    "not jinja": ("{% for %}", "line 1: "),
    "nested": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_malicious_template_is_stopped_with_a_clear_message(name):
    text, message = ATTACKS[name]
    template = ChatTemplate({"default": text}, "model/chat_template.jinja", {})
    started = time.monotonic()
    with pytest.raises((UserError, CannotRender), match=message) as stopped:
        template.render([{"role": "user", "content": "hello"}])
    assert time.monotonic() - started < 10
    if isinstance(stopped.value, UserError):
        assert "model/chat_template.jinja" in str(stopped.value)
        assert "CHAT_TEMPLATE=None" in str(stopped.value)


def test_long_dialogues_have_steps_enough(family):
    _, _, vocabulary = family
    turns = [
        {"role": "user", "content": "word " * 2000},
        {"role": "assistant", "content": "Yes " * 2000},
    ]
    text = vocabulary.template.render(turns * 100)
    assert text.count("Yes") >= 200_000


def test_where_a_template_is_found(tmp_path):
    directory = chat_templates.save("smollm 2", tmp_path / "a")
    assert find_chat_template(directory).texts == {"default": chat_templates.template("smollm 2")}
    named = [
        {"name": "default", "template": "plain {{ messages[0].content }}"},
        {"name": "tool_use", "template": "tools {{ tools | length }}"},
    ]
    directory = chat_templates.save("smollm 2", tmp_path / "b", chat_template=named)
    template = find_chat_template(directory)
    assert template.render([{"role": "user", "content": "x"}]) == "plain x"
    assert template.render([{"role": "user", "content": "x"}], tools=[{}, {}]) == "tools 2"
    (directory / "chat_template.jinja").write_text("jinja {{ eos_token }}")
    assert find_chat_template(directory).render([{"role": "user"}]) == "jinja <|im_end|>"

    directory = chat_templates.save("smollm 2", tmp_path / "c", chat_template=named[1:])
    with pytest.raises(UserError, match="the chat templates tool_use and none that is called 'def"):
        find_chat_template(directory)
    for damaged in ([1], [{"name": "default"}], 7):
        directory = chat_templates.save("smollm 2", tmp_path / "c", chat_template=damaged)
        with pytest.raises(UserError, match="must be a text or a list of objects"):
            find_chat_template(directory)
    assert find_chat_template(tmp_path) is None


def test_the_template_of_a_base_model_is_left_alone_unless_it_is_named(tmp_path):
    directory = chat_templates.save("qwen 2.5", tmp_path / "base", eos_token="<|endoftext|>")
    plain = load_vocabulary(str(directory), "decoder")
    auto = load_vocabulary(str(directory), "decoder", "auto")
    assert auto.fingerprint == plain.fingerprint and not isinstance(auto, ChatVocabulary)
    assert "is not used: its turns do not end with" in auto.notes[-1]
    (tmp_path / "mine.jinja").write_text(chat_templates.template("qwen 2.5"))
    named = load_vocabulary(str(directory), "decoder", str(tmp_path / "mine.jinja"))
    assert [named.token(i) for i in named.eos_ids] == ["<|im_end|>", "<|endoftext|>"]
    assert named.fingerprint != plain.fingerprint
    assert not isinstance(load_vocabulary(str(directory), "t5", "auto"), ChatVocabulary)


def test_a_template_that_cannot_be_used_is_refused_by_name(tmp_path):
    directory = chat_templates.save("qwen 2.5", tmp_path)
    for text, message in (
        ("{{ raise_exception('only on Sundays') }}", "only on Sundays"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "does not end the assistant's"),
        ("the same", "does not show the messages"),
        ("{{ messages | length }}{{ messages[-1].content }}", "does not begin the text of"),
    ):
        (tmp_path / "mine.jinja").write_text(text)
        with pytest.raises(UserError, match=f"mine.jinja.*{message}"):
            load_vocabulary(str(directory), "decoder", str(tmp_path / "mine.jinja"))
        load_vocabulary.cache_clear()
    with pytest.raises(UserError, match="absent.jinja is not a file; it is 'auto'"):
        load_vocabulary(str(directory), "decoder", str(tmp_path / "absent.jinja"))
    with pytest.raises(UserError, match="CHAT_TEMPLATE needs a tokenizer.json"):
        load_vocabulary("bytes", "decoder", str(tmp_path / "mine.jinja"))


def test_the_day_that_a_template_shows_is_fixed_unless_it_is_given(tmp_path):
    template = ChatTemplate({"default": "{{ strftime_now('%d %B %Y') }}"}, "here", {})
    assert template.render([{"role": "user"}]) == "26 July 2024"
    later = dataclasses.replace(template, now=datetime.datetime(2026, 3, 1))
    assert later.render([{"role": "user"}]) == "01 March 2026"
    assert later.digest != template.digest


def test_messages_reach_a_template_as_plain_json(tmp_path):
    template = ChatTemplate({"default": "{{ messages | tojson }}"}, "here", {})
    message = {"role": "user", "content": "é<&", "name": None, "n": (1, 2.5, True)}
    rendered = template.render([message])
    assert "é<&" in rendered
    assert json.loads(rendered) == [{"role": "user", "content": "é<&", "n": [1, 2.5, True]}]
    assert '"reasoning_content": "why"' in template.render([{"role": "a", "reasoning": "why"}])
    with pytest.raises(CannotRender, match="is not an object"):
        template.render(["hello"])
