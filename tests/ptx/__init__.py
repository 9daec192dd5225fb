"""A PTX interpreter: runs the compiled kernels on a machine without a GPU, and checks what a GPU would not tell.

`Module(text)` parses what numba-cuda emitted; `module.run(grid, block, *args)` executes its kernel in NumPy, all threads of a
batch of blocks in lock-step. Read the files in this order:

    types.py       the types of PTX and what they are in NumPy
    parser.py      text -> functions, variables, instructions
    program.py     a kernel with its calls inlined, cut into basic blocks
    decode.py      an instruction -> a Python closure over numbered operands
    integer.py floating.py convert.py memory_ops.py warp.py      the table of instructions, by family
    arithmetic.py  the exact arithmetic under them: fused multiply-add, directed rounding
    memory.py      allocations with virtual addresses
    access.py      compiled loops of loads and stores
    checks.py      what is reported: races, barriers, bytes that nobody wrote
    execution.py   a batch of blocks: divergence, barriers, warps
    statistics.py  instructions, bank conflicts, sectors
    runtime.py     the interpreter as a device of numbaconv
    mutation.py    does a test notice a missing barrier, bounds test or wait?
"""
