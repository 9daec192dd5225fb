"""numba's compiler for kernels, less what kernels do not need: more than a third of the time.

What numba does for any function, and is left out here:

* passes over its own representation, for closures, ``with``, arithmetic on whole arrays: a tenth of the time;
* LLVM's passes one function at a time and a cheap pipeline, before the full one does the same again: 15 %;
* machine code, and a pass of every pipeline, for a helper that is then linked into a kernel and optimised there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder

__all__ = ["HelperCompiler", "KernelCompiler"]

# Passes of numba's for what kernels do not contain: closures and comprehensions, ``with``, `literal_unroll`,
# arithmetic on whole arrays.
_NOT_NEEDED = {
    "inline_closure_likes", "with_lifting", "literal_unroll", "find_literally", "nopython_rewrites",
    "make_function_op_code_to_jit_function", "rewrite_dynamic_raises", "dump_parfor_diagnostics",
}  # fmt: skip


# LLVM vectorises loops for 256 bits even where there are 512: GELU takes 3.4 ms that way instead of 2.3, its gradient
# 7.2 instead of 3.4. More than the target has does not matter.
_WHOLE_VECTORS = '"prefer-vector-width"="512"'


class _KernelLibrary(JITCodeLibrary):
    """A kernel's machine code, by one run of LLVM's full pipeline.

    (The cheap pipeline before it is for numba's pruning of reference counts, which a kernel hardly has.)
    """

    def add_ir_module(self, ir_module: Any) -> None:
        for function in ir_module.functions:
            if not function.is_declaration:
                set.add(function.attributes, _WHOLE_VECTORS)  # its own `add` knows LLVM's plain attributes only
        super().add_ir_module(ir_module)

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        passes, options = self._codegen._module_pass_manager()
        passes.run(self._final_module, options)

    def _finalize_specific(self) -> None:
        super()._finalize_specific()
        codegen: Any = self._codegen
        names = {variable.name for variable in self._final_module.global_variables}
        for name, environment in self.environments():
            if name in names:
                codegen.set_env(name, environment)

    def environments(self) -> Iterator[tuple[str, Any]]:
        """(name, what numba keeps there for code that calls Python, as print does) of each helper in it."""
        for library in self._linking_libraries:
            if isinstance(library, _HelperLibrary):
                yield library.environment
                yield from library.environments()


class _HelperLibrary(_KernelLibrary):
    """A helper's code as it comes: a kernel's library optimises its copy and makes machine code of it."""

    environment: tuple[str, Any]

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0  # numba's word for a function that this library does not have

    @property
    def codegen(self) -> Any:
        return self  # numba asks it for `set_env` alone

    def set_env(self, env_name: str, env: Any) -> None:
        """Keeps what numba would put into the machine code, for that of kernels."""
        self.environment = env_name, env


class KernelCompiler(CompilerBase):
    """numba's own pipeline without the passes above."""

    library_class = _KernelLibrary

    def define_pipelines(self) -> list[Any]:
        """The one pipeline there is."""
        state = self.state
        state.library = self.library_class(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        pipeline = DefaultPassBuilder.define_nopython_pipeline(state)
        pipeline.passes = [(step, text) for step, text in pipeline.passes if step.name() not in _NOT_NEEDED]
        pipeline.finalize()
        return [pipeline]


class HelperCompiler(KernelCompiler):
    """For what kernels alone call."""

    library_class = _HelperLibrary
