"""MODEL: a checkpoint of any format, or a model on the hub, sets what a run needs of it."""

import contextlib
import http.server
import io
import json
import pathlib
import threading

import gin
import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax import generate
from flan_jax.checkpoints import hub_models
from flan_jax.cli import dispatch
from flan_jax.config import gin_files
from flan_jax.data.config import DataConfig
from flan_jax.errors import UserError
from flan_jax.models.architectures import make_model
from flan_jax.training.config import TrainConfig
from support.adapters import random_llama, random_t5, save_adapter
from support.tokenizer_files import byte_bpe, save

VOCABULARY_SIZE = 320


def parse(*argv: str, gin_file: str = "gin/flan.gin"):
    return gin_files.parse_command_line([f"--gin_file={gin_file}", *argv], gin_files.CONFIGURED)


def model_config():
    config = TrainConfig()
    return make_model(DataConfig().architecture, config.embedding_rows).config


@pytest.fixture
def llama(tmp_path) -> pathlib.Path:
    random_llama(tmp_path / "small-llama", vocab_size=VOCABULARY_SIZE)
    return save(byte_bpe(), tmp_path / "small-llama")


def convert(path: pathlib.Path, to: str, output: pathlib.Path, *more: str) -> pathlib.Path:
    arguments = ["convert", f"--to={to}", f"--input={path}", f"--output={output}", *more]
    with contextlib.redirect_stdout(io.StringIO()):
        assert dispatch.main(arguments) == 0
    return output


@pytest.mark.parametrize("form", ["hf", "t5x", "flan"])
def test_a_checkpoint_sets_architecture_size_vocabulary_and_parameters(tmp_path, llama, form):
    path = llama if form == "hf" else convert(llama, form, tmp_path / form)
    parse(f"--gin.MODEL={path}", "--gin.HELD_OUT=none")
    config = TrainConfig()
    assert config.initial_checkpoint_path == str(path) and config.size == path.name
    assert DataConfig().vocabulary == str(path / "tokenizer.json")
    model = model_config()
    assert (model.emb_dim, model.num_heads, model.num_kv_heads) == (16, 4, 2)
    assert (model.vocab_size, model.positions) == (VOCABULARY_SIZE, "rotary")
    assert model.logits_via_embedding is False


def test_a_gguf_file_brings_its_tokenizer(tmp_path, monkeypatch):
    pytest.importorskip("gguf", reason="NOT CHECKED: reading GGUF needs the extra [hf]")
    import test_convert_gguf

    monkeypatch.setenv("HOME", str(tmp_path))
    tokenizer = json.loads(byte_bpe().to_str())["model"]
    tokens, merges = list(tokenizer["vocab"]), [" ".join(merge) for merge in tokenizer["merges"]]
    monkeypatch.setattr(test_convert_gguf, "VOCABULARY", len(tokens))
    arrays = test_convert_gguf.random_model(tmp_path / "theirs")
    test_convert_gguf.write_gguf(tmp_path / "small.gguf", arrays, tokenizer=(tokens, merges))
    parse(f"--gin.MODEL={tmp_path / 'small.gguf'}")
    vocabulary = pathlib.Path(DataConfig().vocabulary)
    assert vocabulary.is_relative_to(tmp_path / ".cache/flan_jax/tokenizers")
    assert vocabulary.is_file() and vocabulary.with_name("tokenizer_config.json").is_file()
    assert TrainConfig().size == "small"
    written = vocabulary.stat().st_mtime_ns
    parse(f"--gin.MODEL={tmp_path / 'small.gguf'}")
    assert DataConfig().vocabulary == str(vocabulary)
    assert vocabulary.stat().st_mtime_ns == written


def test_every_field_is_that_of_the_model_and_not_of_the_default_size(tmp_path):
    random_t5(tmp_path / "t5", vocab_size=384)
    (tmp_path / "t5/tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    parse(f"--gin.MODEL={tmp_path / 't5'}")
    model = model_config()
    assert (model.emb_dim, model.num_encoder_layers, model.head_dim) == (16, 2, 4)
    assert (model.vocab_size, DataConfig().vocabulary) == (384, "bytes")
    assert DataConfig().architecture == "t5"


def test_a_setting_beside_it_wins_wherever_it_stands_on_the_command_line(tmp_path, llama):
    parse("--gin.SIZE=mine", f"--gin.MODEL={llama}")
    assert TrainConfig().size == "mine"
    recipe = tmp_path / "recipe.gin"
    recipe.write_text(f"include 'flan.gin'\nMODEL = '{llama}'\nVOCABULARY = 'bytes'\n")
    parse(gin_file=str(recipe))
    assert DataConfig().vocabulary == "bytes" and model_config().emb_dim == 16


def test_a_model_is_not_taken_back(tmp_path, llama):
    recipe = tmp_path / "recipe.gin"
    recipe.write_text(f"include 'flan.gin'\nMODEL = '{llama}'\n")
    with pytest.raises(UserError, match=r"MODEL=None does not undo MODEL='.*small-llama' of .*gin"):
        parse("--gin.MODEL=None", gin_file=str(recipe))
    again = tmp_path / "again.gin"
    again.write_text("include 'recipe.gin'\ninclude 'flan.gin'\n")  # which sets all of it
    parse(gin_file=str(again))
    assert TrainConfig().initial_checkpoint_path is None


def test_the_config_of_a_run_repeats_it_also_when_the_model_is_gone(tmp_path, llama):
    parse(f"--gin.MODEL={llama}", f"--gin.MODEL_DIR={tmp_path / 'run'}")
    before = model_config()
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.gin").write_text(gin_files.config_text())
    llama.rename(tmp_path / "elsewhere")
    parse(gin_file=str(tmp_path / "run/config.gin"))
    assert model_config() == before and TrainConfig().model == str(llama)


def test_a_copy_of_the_config_of_a_run_repeats_it(tmp_path, llama):
    """MODEL, which is read again there, comes before what the run set in place of it."""
    parse(f"--gin.MODEL={llama}", f"--gin.INITIAL_CHECKPOINT_PATH={tmp_path / ('long' * 40)}")
    text, before = gin_files.config_text(), (model_config(), TrainConfig())
    copied = tmp_path / "copied.gin"
    copied.write_text(text)
    parse(gin_file=str(copied))
    assert (model_config(), TrainConfig()) == before and gin_files.config_text() == text


def test_a_model_without_a_tokenizer_needs_one(tmp_path):
    random_llama(tmp_path / "bare")
    with pytest.raises(UserError, match="VOCABULARY is required; add --gin.VOCABULARY=VALUE"):
        parse(f"--gin.MODEL={tmp_path / 'bare'}")
    parse(f"--gin.MODEL={tmp_path / 'bare'}", "--gin.VOCABULARY=bytes")
    assert DataConfig().vocabulary == "bytes"


def test_an_adapter_is_its_base_and_what_was_trained(tmp_path, llama):
    from support.adapters import lora_arrays

    save_adapter(tmp_path / "adapter", lora_arrays(["q_proj"]), base=f"../{llama.name}")
    parse(f"--gin.MODEL={tmp_path / 'adapter'}")
    assert TrainConfig().initial_checkpoint_path == str(tmp_path / "adapter")
    assert DataConfig().vocabulary == str(llama / "tokenizer.json") and model_config().emb_dim == 16


@pytest.mark.parametrize(
    "value, message",
    [
        ("nowhere", "no checkpoint found at .*nowhere"),
        ("hf:", "does not name a model on the hub; write hf:org/name"),
        ("hf:gpt2", "does not name a model on the hub; write hf:org/name"),
        ("3", "MODEL must be the path of a checkpoint, hf:org/name or pip:NAME==VERSION, not 3"),
        ("az://bucket/model", "MODEL az://bucket/model is a URL"),
    ],
)
def test_a_wrong_name_is_one_message(tmp_path, monkeypatch, value, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        parse(f"--gin.MODEL={value}")


def test_generate_takes_a_model_in_the_place_of_a_run(llama, capsys):
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}"
    assert generate.main([str(llama), "Is it wet?", lengths]) == 0
    answer = capsys.readouterr().out
    explicit = [
        "--gin_file=gin/flan.gin",
        f"--gin.MODEL={llama}",
        f"--checkpoint={llama}",
        lengths,
        "Is it wet?",
    ]
    gin.clear_config()
    assert generate.main(explicit) == 0
    assert capsys.readouterr().out == answer


# --- The hub


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what the hub's client requests of models, from `root/org/name`; notes the paths."""

    protocol_version = "HTTP/1.1"
    root: pathlib.Path
    requests: list[str]
    commit = "1" * 40

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        self.requests.append(path)
        parts = path.removeprefix("api/models/").split("/")
        repository, revision = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main"
        directory = self.root / repository
        if repository == "org/gated":
            return self.answer(403 if "resolve" in parts else 401, error="GatedRepo")
        if not directory.is_dir():
            return self.answer(401, error="RepoNotFound")
        if revision not in ("main", "v1", self.commit):
            return self.answer(404, error="RevisionNotFound")
        if not path.startswith("api/"):
            return self.answer(200, (directory / "/".join(parts[4:])).read_bytes())
        names = [str(f.relative_to(directory)) for f in directory.rglob("*") if f.is_file()]
        if parts[2] == "tree":
            contents = [
                {"type": "file", "path": name, "oid": "2" * 40, "size": 1} for name in names
            ]
        else:
            files = [{"rfilename": name} for name in names]
            contents = {"id": repository, "sha": self.commit, "siblings": files}
        return self.answer(200, json.dumps(contents).encode())

    def answer(self, status, body=b"", error=None):
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body) & 0xFFFFFFFF:08x}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def served(tmp_path, monkeypatch, llama):
    """A hub with the model org/small, and a cache of its own; yields the handler."""
    pytest.importorskip(
        "huggingface_hub", reason="NOT CHECKED: models on the hub need the extra [hf]"
    )
    from huggingface_hub import constants

    repository = tmp_path / "hub/org/small"
    repository.parent.mkdir(parents=True)
    llama.rename(repository)
    (repository / "modeling.py").write_text("raise RuntimeError('code')")
    (repository / "pytorch_model.bin").write_bytes(b"pickle")
    (repository / "onnx").mkdir()
    (repository / "onnx/config.json").write_text("{}")
    handler = type("Handler", (Hub,), {"root": tmp_path / "hub", "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield handler
        server.shutdown()


def test_a_model_on_the_hub_is_downloaded_once_and_without_code(served):
    parse("--gin.MODEL=hf:org/small@v1")
    path = pathlib.Path(TrainConfig().initial_checkpoint_path)
    assert path.name == Hub.commit and TrainConfig().size == "small"
    names = sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.is_file())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    assert DataConfig().vocabulary == str(path / "tokenizer.json") and model_config().emb_dim == 16
    served.requests.clear()
    parse("--gin.MODEL=hf:org/small@v1")
    assert TrainConfig().initial_checkpoint_path == str(path) and not served.requests


def test_convert_takes_a_model_on_the_hub(served, tmp_path):
    convert("hf:org/small", "flan", tmp_path / "ours")
    parse(f"--gin.MODEL={tmp_path / 'ours'}")
    assert model_config().emb_dim == 16
    origin = json.loads((tmp_path / "ours/origin.json").read_text())
    assert origin["base_model"] == "org/small"


@pytest.mark.parametrize(
    "name, message",
    [
        ("org/gated", "hf:org/gated needs a login; accept its terms at http.*run hf auth login"),
        ("org/none", "hf:org/none is not on the hub, or needs a login; check the name"),
        ("org/small@v9", "hf:org/small has no revision v9; give another one"),
    ],
)
def test_what_the_hub_refuses_is_one_message_with_the_command(served, name, message):
    with pytest.raises(UserError, match=message) as error:
        parse(f"--gin.MODEL=hf:{name}")
    repository, _, revision = name.partition("@")
    flag = f" --revision {revision}" if revision else ""
    assert f"`hf download {repository}{flag} --local-dir DIR`" in str(error.value)


def test_offline_a_complete_copy_is_used_and_another_model_is_refused(served, monkeypatch):
    from huggingface_hub import constants

    parse("--gin.MODEL=hf:org/small")
    path = TrainConfig().initial_checkpoint_path
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    parse("--gin.MODEL=hf:org/small")
    assert TrainConfig().initial_checkpoint_path == path
    with pytest.raises(UserError, match="is not in the hub's cache, and HF_HUB_OFFLINE is set"):
        parse("--gin.MODEL=hf:org/other")
    (pathlib.Path(path) / "model.safetensors").unlink()
    assert not hub_models.is_complete(pathlib.Path(path))
    with pytest.raises(UserError, match="is not in the hub's cache"):
        parse("--gin.MODEL=hf:org/small")


def test_without_a_network_the_reason_is_named(served, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="hf:org/small cannot be downloaded .*with a network"):
        parse("--gin.MODEL=hf:org/small")


def test_rows_of_a_file_are_measured_in_tokens_of_a_model(tmp_path, llama, capsys):
    (tmp_path / "my.jsonl").write_text('{"prompt": "the the the", "completion": "the"}\n' * 2)
    longest = []
    for flag in (f"--model={llama}", f"--vocabulary={llama}/tokenizer.json", "--vocabulary=bytes"):
        assert dispatch.main(["tasks", "check", f"{tmp_path}/my.jsonl", flag, "--json"]) == 0
        (report,) = json.loads(capsys.readouterr().out)
        longest.append(report["splits"]["train"]["inputs"]["longest"])
    assert longest[0] == longest[1] < longest[2]

    (llama / "tokenizer.json").unlink()
    for flags, message in (
        ([f"--model={llama}"], "has no tokenizer; give its file with --vocabulary"),
        ([f"--model={llama}", "--vocabulary=bytes"], "exclude each other"),
        (["--model=hf:../x"], "--model 'hf:../x'"),
    ):
        assert dispatch.main(["tasks", "check", f"{tmp_path}/my.jsonl", *flags]) == 2
        assert message in capsys.readouterr().err
