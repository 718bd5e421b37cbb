"""How a test compiles a program that it reads and does not run."""

# LLVM takes half of the time of compilation. It changes neither the operations nor the memory of a
# program: XLA's own passes decide these, and they stay as they are.
UNOPTIMIZED_CODE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
