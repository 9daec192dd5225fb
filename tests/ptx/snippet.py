"""Hand-written PTX for tests: a few instructions between loads of inputs and stores of outputs."""

from __future__ import annotations

import functools

import numpy as np

from .kernel import Kernel
from .types import DTYPES, is_poison, poisoned, size_of

HEADER = ".version 8.8\n.target {target}\n.address_size 64\n"


def element_address(name: str, size: int) -> str:
    """Instructions that put the address of element %i of array `name` into %at."""
    return f"ld.param.u64 %at, [{name}];\nmad.wide.u32 %at, %i, {size}, %at;\n"


def register_type(type_name: str) -> str:
    """The register that holds a type: there is none of 8 bits."""
    return {"u8": "u16", "s8": "s16", "b8": "b16", "pred": "pred"}.get(type_name, f"b{8 * size_of(type_name)}")


def kernel_text(
    body: str,
    inputs: dict[str, str],
    outputs: dict[str, str],
    declarations: str = "",
    target: str = "sm_100",
    module: str = "",
) -> str:
    """A kernel: %name = the thread's element of each input, then `body`, then each output's element = %name.

    Predicates are bytes in memory. %i is the thread's number. `module` goes before the kernel.
    """
    parameters = ",\n".join(f".param .u64 {name}" for name in [*inputs, *outputs])
    registers = "".join(f".reg .{register_type(t)} %{name};\n" for name, t in {**inputs, **outputs}.items())
    loads = stores = ""
    for name, t in inputs.items():
        loads += element_address(name, size_of(t))
        if t == "pred":
            loads += f"ld.global.u8 %byte, [%at];\nsetp.ne.u16 %{name}, %byte, 0;\n"
        else:
            loads += f"ld.global.{memory_type(t)} %{name}, [%at];\n"
    for name, t in outputs.items():
        stores += element_address(name, size_of(t))
        if t == "pred":
            stores += f"selp.u16 %byte, 1, 0, %{name};\nst.global.u8 [%at], %byte;\n"
        else:
            stores += f"st.global.{memory_type(t)} [%at], %{name};\n"
    return (
        f"{HEADER.format(target=target)}{module}\n.visible .entry snippet({parameters})\n{{\n"
        f".reg .b64 %at;\n.reg .b32 %i;\n.reg .b16 %byte;\n{registers}{declarations}\nmov.u32 %i, %tid.x;\n"
        f"{loads}{body}\n{stores}ret;\n}}\n"
    )


def memory_type(type_name: str) -> str:
    """The type of a load or store of a type's bits."""
    return f"{'s' if type_name[0] == 's' else 'b'}{8 * size_of(type_name)}"


def execute(
    body: str,
    inputs: dict[str, tuple[str, object]],
    outputs: dict[str, str],
    declarations: str = "",
    block: int = 0,
    target: str = "sm_100",
    module: str = "",
    **options,
) -> dict[str, np.ndarray]:
    """Runs `body` on one block, a thread per element; the outputs by name.

    Args:
        inputs: name -> (type, values).
        outputs: name -> type.
        block: threads, where there is no input to count them by.
    """
    arrays = {name: np.asarray(values).astype(DTYPES[t]) for name, (t, values) in inputs.items()}
    threads = block or next(iter(arrays.values())).size
    results = {name: unwritten(threads, t) for name, t in outputs.items()}
    text = kernel_text(body, {n: t for n, (t, _) in inputs.items()}, outputs, declarations, target, module)
    assemble(text, target)
    Kernel(text).run(1, threads, *arrays.values(), *results.values(), **options)
    for name, result in results.items():
        assert result.itemsize < 4 or not is_poison(result).any(), f"%{name} was never written"
    return results


def unwritten(threads: int, type_name: str) -> np.ndarray:
    """An output before a kernel writes it."""
    dtype = DTYPES[type_name]
    return poisoned(threads, dtype) if dtype.itemsize >= 4 else np.zeros(threads, dtype)


def entry_text(
    body: str, parameters: tuple[str, ...] = ("x", "y"), declarations: str = "", module: str = "", target: str = "sm_80"
) -> str:
    """A kernel of any instructions, with addresses %x, %y, ... its parameters, %t its thread and %b its block.

    Registers: %r0 to %r9 (32 bits), %a (64), %h (16), %f and %d (f32, f64), %p0 to %p4.
    """
    given = ", ".join(f".param .u64 {p}" for p in parameters)
    addresses = "".join(f".reg .b64 %{p};\nld.param.u64 %{p}, [{p}];\n" for p in parameters)
    return (
        f"{HEADER.format(target=target)}{module}\n.visible .entry snippet({given})\n{{\n"
        ".reg .b32 %t, %b, %r<10>;\n.reg .b64 %a<10>;\n.reg .f32 %f<10>;\n.reg .f64 %d<10>;\n.reg .pred %p<5>;\n"
        f".reg .b16 %h<10>;\n{declarations}\n{addresses}mov.u32 %t, %tid.x;\nmov.u32 %b, %ctaid.x;\n{body}\nret;\n}}\n"
    )


def entry(body: str, target: str = "sm_80", **options) -> Kernel:
    """The kernel of `entry_text`."""
    text = entry_text(body, target=target, **options)
    assemble(text, target)
    return Kernel(text)


@functools.cache
def assemble(text: str, target: str) -> None:
    """Fails if NVIDIA's assembler does not take the text: what tests execute is PTX.

    Without nvJitLink there is nothing to ask.
    """
    try:
        from cuda.bindings import nvjitlink
    except ImportError:
        return
    source = text.encode()
    handle = nvjitlink.create(1, [f"-arch={target}"])
    try:
        try:
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, source, len(source), "snippet")
            nvjitlink.complete(handle)
        except nvjitlink.nvJitLinkError as error:
            log = bytearray(nvjitlink.get_error_log_size(handle))
            nvjitlink.get_error_log(handle, log)
            raise AssertionError(f"{log.decode()}\n{text}") from error
    finally:
        nvjitlink.destroy(handle)
