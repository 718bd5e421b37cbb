"""Names that users type are read by `flan_jax.storage` alone: elsewhere `gs://...` is no path.

`pathlib.Path("gs://b/x")` is a path below the working directory, `open` fails on it or makes it.
"""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
MAKE_PATHS = {
    *("open", "io.open", "local_path", "pathlib.Path", "epath.Path"),
    *(f"os.path.{name}" for name in ("exists", "isfile", "isdir", "abspath", "expanduser")),
}
# Why each function may.
ALLOWED = {
    "names in a bucket are handled before": """
        api.loaded.absolute_name checkpoints.tuned._base_of_adapter cli.tasks_render.is_own_file
        config.gin_files._parse_flags config.gin_search.find_gin_file
        config.run_directory._path_of config.run_directory.absolute
        config.run_directory.add_config_of_run data.sources.own_files._matching
        data.train_names._check_may_be_registered data.user_modules.import_module
        checkpoints.manager._writable
    """,
    "it must be on a disk of this machine, and the message says so": """
        cli.launch_backends._check_wheel precompile.make_parser
    """,
    "the argument is a path that a caller got from storage": """
        checkpoints.formats.ours.open_ours checkpoints.manager.Checkpoints.__init__
        checkpoints.manager.Checkpoints.state_names
        checkpoints.manager._restore_item checkpoints.steps.checkpoint_path
        cli.launch_backends._tpu_vm_commands config.gin_search.is_default_gin_file
        data.cache.TokenCache.__init__ data.chat.choose.with_chat_template
        data.huggingface_vocabulary.HuggingFaceVocabulary.__init__ data.own_data._names
        data.packs.Pack.read data.packs.PackWriter.add data.packs._open
        data.sources.file_rows._opened data.sources.jsonl_files._lines
        data.sources.jsonl_files.count_jsonl data.vocabulary.SentencePieceVocabulary.__init__
        evaluation.result_rows.read_results evaluation.results_store._CachedFile._current_state
        evaluation.template_evaluation.evaluate_templates generate._on_disk
        report.__main__._name report.__main__._points report.__main__._results_paths
        report.__main__.main report.page.browsed_rows._tasks sweeps.local._start
        sweeps.sweep_table._rows training.metrics_log.MetricsLog.write
    """,
    "it is a path of this program, of a package or of a cache": """
        catalogue.fingerprint._file_of catalogue.fingerprint.source_of
        checkpoints.hub_models._snapshot checkpoints.model_by_name._extracted
        checkpoints.packaged_models._download checkpoints.packaged_models.packaged_model
        data.sources.hub_files.hub_directory huge_pages parallel.processes.mute_others
        report.inputs._home runs.train_run._next_command sweeps.logs.open_logs
    """,
    "the path is not opened": """
        checkpoints.model_by_name._size_of config.flags.add_gin_flags report.inputs._place
    """,
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(node: ast.AST, place: str):
    """Yields (function, call) of what makes paths of names below a node."""
    for child in ast.iter_child_nodes(node):
        inner = place
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{place}.{child.name}"
        if isinstance(child, ast.Call):
            name = dotted(child.func)
            is_made = name in MAKE_PATHS and child.args
            if is_made and ast.unparse(child.args[0]) != "__file__":
                yield place, f"{name}, line {child.lineno}"
        yield from calls(child, inner)


def found() -> dict[str, str]:
    modules = [*(ROOT / "flan_jax").rglob("*.py"), *(ROOT / "tasks").glob("*.py")]
    result = {}
    for path in modules:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("flan_jax.")
        if name.startswith(("storage.", "tasks.")) and path.is_relative_to(ROOT / "flan_jax"):
            continue
        result |= dict(calls(ast.parse(path.read_text(encoding="utf-8")), name))
    return result


def test_no_other_function_makes_a_path_of_what_a_user_types():
    places, allowed = found(), {name for names in ALLOWED.values() for name in names.split()}
    new = {place: call for place, call in places.items() if place not in allowed}
    assert not new, (
        "these functions make a path: read a name that a user types with flan_jax.storage "
        f"(read_path, place), or say in ALLOWED why not: {new}"
    )
    assert not allowed - places.keys(), "no longer needed"
