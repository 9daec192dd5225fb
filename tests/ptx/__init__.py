"""A PTX interpreter: runs the compiled kernels on a machine without a GPU, and checks what a GPU would not tell.

`Kernel(text)` parses what numba-cuda emitted; `kernel.run(grid, block, *args)` executes it in NumPy, all threads of
a batch of blocks in lock-step. Read the files in this order:

    types.py       the types of PTX and what they are in NumPy
    syntax.py      what a parsed module consists of
    parser.py      text -> functions, variables, instructions
    program.py     a kernel with its calls inlined, its memory laid out
    decode.py      an instruction -> a Python closure over numbered operands
    integer.py logic.py floating.py convert.py memory_ops.py warp.py matrix.py    the table of instructions, by family
    control.py     branches, exits, barriers
    arithmetic.py  exact arithmetic: fused multiply-add, directed rounding
    kernel.py      all that together: a kernel decoded, and its launches
    memory.py      the device's allocations, with virtual addresses
    spaces.py      an access to global, shared or local memory: located, checked, recorded
    access.py      the compiled loops under it
    checks.py      what is reported; the rule of races
    registers.py   the arrays behind operands
    execution.py   a batch of blocks: groups of threads that diverge and meet
    barriers.py    threads that wait for their block
    async_copy.py  bytes on their way to shared memory
    statistics.py  instructions, bank conflicts, sectors
    runtime.py     the interpreter as a device of numbaconv
    dataflow.py mutation.py    does a test notice a missing barrier, bounds test or wait?
    snippet.py     hand-written kernels for tests
"""
