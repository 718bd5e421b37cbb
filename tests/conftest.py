"""What several tests share: settings of a session, rows on disk, models, real rows if present."""

import gc
import json
import logging
import os
import pathlib
import shutil
import signal
import sys
import tempfile

import gin
import pytest

from support.compiling import OLD_FUSIONS

# Tracing makes many objects that stay: collecting them as often as usual took 8 % of the time.
gc.set_threshold(50_000, 20, 20)
# A program that a test starts and that crashes says in which line.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")
# A shell starts what runs in its background without Ctrl-C, and programs of tests inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Half of the time of the tests is XLA's: it compiles several hundred programs that run once. Where
# a test is about bits, memory or operations, it is marked `optimized`. What is set outside stays.
_MAY_CHOOSE = "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ

SHARED = pathlib.Path(__file__).parents[1].parent / "shared"


# Beside the fusions, a sixth of the compile time of small unoptimized programs goes into splitting
# them into parts to compile in parallel.
_FAST_COMPILATION = " ".join(
    [
        *(f"--{flag}={str(value).lower()}" for flag, value in OLD_FUSIONS.items()),
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)
_OF_JAX = ("get_compile_options", "_DISABLE_MOST_OPTIMIZATIONS")


def pytest_configure(config):
    """Keeps compiled programs in one directory for the session, its workers and their programs."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # by the session's first process, or a user
        directory = tempfile.mkdtemp(prefix="flan_jax_tests_")
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = directory
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    if _MAY_CHOOSE:
        _compile_fast()


def _compile_fast() -> None:
    """Sets the flag of fast compilation, here for programs without optimizations alone."""
    import jax
    from jax._src import compiler
    from jax._src.lib import xla_client

    # Names of JAX's own: without them the tests are slower, and the same.
    if not all(hasattr(compiler, name) for name in _OF_JAX):
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if _FAST_COMPILATION not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FAST_COMPILATION}"
    # XLA reads the variable once, now; `_choose_optimizations` changes it for other processes.
    assert xla_client.CompileOptions().executable_build_options.debug_options
    assert jax.config.jax_compilation_cache_dir, "JAX was imported before the directory was chosen"
    get_options = compiler.get_compile_options

    def with_emitters(*arguments, env_options_overrides=None, **options):
        if not compiler._DISABLE_MOST_OPTIMIZATIONS.value:
            overrides = dict.fromkeys(OLD_FUSIONS, True)
            env_options_overrides = overrides | (env_options_overrides or {})
        return get_options(*arguments, env_options_overrides=env_options_overrides, **options)

    compiler.get_compile_options = with_emitters


# These take longest, so they begin first: two workers then end at about the same time.
_FIRST = (
    "test_run.py",
    "test_eval_run.py",
    "test_seqio.py",
    "test_decoding.py",
    "test_failures.py",
    "test_step.py",
    "test_decoder.py",
    "test_run_decoder.py",
    "test_two_processes.py",
    "test_rank.py",
    "test_launch.py",
    "test_data.py",
    "test_partitioning.py",
    "test_precompile.py",
    "test_t5.py",
)


def pytest_collection_modifyitems(items):
    """Puts the tests of `_FIRST` before the others; `--no-loadscope-reorder` keeps the order."""
    places = {name: place for place, name in enumerate(_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True)
def no_setting_is_left_to_the_next_test():
    """What a test configures with gin, or a verb with logging, ends with it."""
    yield
    gin.clear_config()
    logger = logging.getLogger("flan_jax")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


# Where the files of figures are the point. Elsewhere the fonts of PDF files are left out: they take
# a tenth of a run that ends with a report.
_WITH_PDF = ("test_figures.py", "test_report.py", "test_report_page.py", "test_run.py")


@pytest.fixture(autouse=True, scope="module")
def no_pdf_where_figures_are_not_the_point(request):
    """Runs in this process draw each figure as SVG and PNG alone."""
    from flan_jax.report.figures import figure_files

    with pytest.MonkeyPatch.context() as patch:
        if request.path.name not in _WITH_PDF:
            patch.delitem(figure_files._METADATA, "pdf")
        yield


def _choose_optimizations(optimized: bool) -> None:
    """Sets how the programs of this process, and of those it starts, are compiled from now on."""
    value = "0" if optimized else "1"
    if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == value:
        return
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = value
    flags = os.environ["XLA_FLAGS"].replace(_FAST_COMPILATION, "").strip()
    os.environ["XLA_FLAGS"] = flags if optimized else f"{flags} {_FAST_COMPILATION}".strip()
    if jax := sys.modules.get("jax"):
        jax.config.update("jax_disable_most_optimizations", not optimized)
        jax.clear_caches()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before the fixtures of a test: how XLA compiles; skips what needs more devices."""
    if _MAY_CHOOSE:
        _choose_optimizations(bool(item.get_closest_marker("optimized")))
    if item.get_closest_marker("devices"):
        import jax

        if jax.device_count() < 8:
            pytest.skip("needs eight devices: run by tests/test_eight_devices.py")


@pytest.fixture
def real_rows() -> pathlib.Path:
    """The directory of real rows; skips where this checkout has none beside it."""
    path = SHARED / "data/real"
    if not path.is_dir():
        pytest.skip(f"no real rows at {path}")
    return path


@pytest.fixture
def t5_vocabulary() -> str:
    """T5's SentencePiece model; skips where this checkout has none beside it."""
    path = SHARED / "data/vocab/t5_cc_all_32000/sentencepiece.model"
    if not path.is_file():
        pytest.skip(f"no vocabulary at {path}")
    return str(path)


@pytest.fixture
def write_rows(tmp_path):
    """Writes `<tmp_path>/rows/<dataset>/<split>.jsonl`; gives the directory of rows."""

    def write(dataset: str, split: str, rows: list[dict]) -> pathlib.Path:
        path = tmp_path / "rows" / dataset / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        return tmp_path / "rows"

    return write


@pytest.fixture(scope="module", params=["t5", "decoder"])
def model_and_params(request):
    """A tiny random model of each family, and its parameters in memory."""
    from support.random_models import make_model

    return make_model(request.param)


@pytest.fixture
def buckets(monkeypatch, tmp_path):
    """A server of gs://bucket1 and s3://bucket1, which this process and those it starts use.

    What they copy from it goes below a home directory of the test.
    """
    from bucket_server import BucketServer

    from flan_jax.storage.remote import forget_buckets

    with BucketServer() as server:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        forget_buckets()
        yield server
        forget_buckets()
