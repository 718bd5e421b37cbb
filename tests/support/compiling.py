"""Options of XLA: for programs that a test reads and does not run, and for fast compilation."""

import importlib.metadata

# LLVM takes half of the time of compilation. It changes neither the operations nor the memory of a
# program: XLA's own passes decide these, and they stay as they are.
UNOPTIMIZED_CODE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}

# Most of the compile time of small unoptimized programs is that of the newer way to emit fusions,
# which can be switched off before jaxlib 0.11 only: later ones end at a flag that they do not have.
OLD_FUSIONS = (
    {"xla_cpu_use_fusion_emitters": False}
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11)
    else {}
)
