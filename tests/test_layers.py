"""The layers: a module imports from its own layer and those above it, never in a circle.

A deferred import counts like one at the top of the file; one under `if TYPE_CHECKING` does not.
"""

import ast
import collections
import graphlib
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
VERBS = "train sweep eval generate prepare convert precompile launch __main__"
LAYERS = [
    "errors messages huge_pages signals log progress exit_status metrics import_hook",
    *["storage", "config", "catalogue", "tasks", "models", "peft", "optim", "parallel", "data"],
    *[
        "checkpoints",
        "training",
        "planning",
        "evaluation",
        "report",
        "runs",
        "api",
        "sweeps",
        "cli",
    ],
    f"lm_eval {VERBS}",
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
# A package's __main__ is a verb. `dispatch` names the verbs and imports none.
LAYER |= {"report.__main__": LAYER["train"], "tasks.__main__": LAYER["train"], "cli.dispatch": 0.5}
# Evaluation comes after these, but needs nothing of how a model was trained.
NEVER = {("evaluation", "training"), ("evaluation", "planning")}


def modules() -> dict[str, ast.Module]:
    """Returns every module, parsed, by its name in flan_jax; `flan_jax/tasks` links to `tasks`."""
    parsed = {}
    for base, pattern in ((ROOT / "flan_jax", "**/*.py"), (ROOT, "tasks/**/*.py")):
        for path in base.glob(pattern):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            parsed[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return parsed


def imports(node: ast.AST):
    """Yields what is imported anywhere below the node, within flan_jax."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from imports(child)


def graph() -> dict[str, set[str]]:
    """Returns the modules that each module imports."""
    parsed = modules()
    result = {name: set() for name in parsed}
    for name, tree in parsed.items():
        for target in imports(tree):
            assert not target.startswith("."), f"{name} has a relative import"
            if not target.startswith("flan_jax."):
                continue
            target = target.removeprefix("flan_jax.")
            target = target if target in parsed else target.rpartition(".")[0]
            if target and target != name:
                result[name].add(target)
    return result


GRAPH = graph()
# Names that several packages have for the same thing of each.
SHARED_NAMES = {"__main__", "config", "registry", "settings", "vocabulary", "shards"}


def package(module: str) -> str:
    return module if module in LAYER else module.split(".")[0]


def test_a_module_imports_only_from_its_own_layer_and_those_above():
    wrong = [
        f"{module} imports {target}"
        for module, targets in sorted(GRAPH.items())
        for target in sorted(targets)
        if LAYER[package(module)] < LAYER[package(target)]
        or (package(module), package(target)) in NEVER
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_form_no_circle():
    graphlib.TopologicalSorter(GRAPH).prepare()


def test_two_modules_of_one_name_are_the_same_thing_of_two_packages():
    counts = collections.Counter(module.split(".")[-1] for module in GRAPH)
    assert {name for name, count in counts.items() if count > 1} <= SHARED_NAMES
