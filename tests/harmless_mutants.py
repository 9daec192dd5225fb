"""Mutants of CUDA kernels that change nothing that anyone could notice, and why.

Patterns of ``kernel:key``, as ptx/mutation.py names them: fnmatch, or regular expressions. They are for mutants that
decided as the original did in every launch, or otherwise without any effect; one that took another way to the same
results needs no reason here.
"""

from __future__ import annotations

import re

# Of comparisons of a register that counts down, as the count of a range does (Dataflow.counts_down), and of how many of
# a loop's turns are left over when four are one; with no parameter, thread's number or loaded value in sight.
_COUNT = r"(?!.*(?:param|%|loaded|changing)).*counting.* (?:gt\.[su]\d+ 0|ne\.[su]\d+ 0|lt\.[su]\d+ 1) = (?:true|false)"
_LEFT_OVER = r"(?!.*(?:param|%|loaded)).* (?:lt\.u\d+ 3|eq\.[su]\d+ [0123]) = (?:true|false)"

# Regular expressions say what is so of any kernel they name, and explain only comparisons that a launch reached.
HARMLESS: dict[str | re.Pattern[str], str] = {
    re.compile(rf"[\w.]+:(?:{_COUNT}|{_LEFT_OVER})(?: #\d+)?"): (
        "how often a loop goes on that was unrolled by four: numba counts a range down and looks at the count in every "
        "turn, where the test before the four turns has decided already"
    ),
    re.compile(
        r"(?:conv2d\.splits\.add_splits|conv2d\.grouped\.\w+|convert\._to_int32|softmax\.\w+|loss\.(?!_count)\w+|"
        r"max_pool\.(?:_scatter|maximum|maximum_vector)|conv2d\.weight_gradient\.gather):"
        r"param\d+ (?:gt\.s32 0 = true|lt\.s32 1 = false)(?: #\d+)?"
    ): "axes, channels, parts, classes, filters, planes and the bytes of a label are never none",
    "loss._count_labels:param1 gt.s32 0 = true": "a label has bytes",
    re.compile(
        r"avg_pool\.mean_backward\w*:(?:sub\(changing,changing\)|add\(.*\)) gt\.s32 0 = (?:true|false)(?: #\d+)?"
    ): ("how often a loop goes on that was unrolled by four, as above; what it counts down is too long for a name"),
    re.compile(
        r"avg_pool\.mean(?:_vector)?:changing (?:gt\.s32 changing = true|le\.s32 changing = false)"
    ): "a window has a row and a column of the image at least",
    "shape.padded_backward*:add(*changing) le.s64 changing = false #[12]": "a run has a place at least",
    "max_pool.maximum:mad(selp(*,param23,*) lt.s32 0 = false #2": (
        "the last columns of a window, less than four, are not left of the image: padding is at most half a window"
    ),
    "max_pool.maximum_vector:mad(changing,param23,*) lt.s32 0 = false #2": "the same of the last of an odd number",
    re.compile(
        r"conv2d\.(?:correlate|weight_gradient)\.\w*medium\w+:%tid\.x (?:lt\.s32 64 = true|gt\.s32 63 = false)"
    ): "a block of the medium tile has as many threads as the tile has rows",
    "conv2d.weight_gradient.medium_scalars:sub(param25,*) lt.s32 1 = false": (
        "of rows that begin beyond the last, no element is before the end, which is 0"
    ),
    "conv2d.tensor_*:shr(add(sub(15,mul(%ctaid.z,*) eq.s32 0 = false": "a part of a sum has a stage at least",
    "conv2d.tensor_*:mul(%ctaid.z,param*) lt.s32 min(add(mul(%ctaid.z,*) = true": "the same",
    re.compile(
        r"conv2d\.tensor_weight_gradient\.weight_gradient_tf32_128:or\((?:or\()?and\(shl\(%tid\.x,2\),28\),"
        r"shl\(%ctaid\.y,7\)\)(?:,32\))? (?:ge\.s32 param4 = false|lt\.s32 param4 = true)"
    ): "its blocks have 68 columns at least: with fewer in the last one, the kernel of 64 columns is taken",
    "loss._squared_error:changing ge.s64 param2 = false #2": (
        "of four rounds in one turn the last one alone may be beyond the end: there are no more rounds than needed"
    ),
    "loss._squared_error:add(*changing,mul(%ntid.x,%nctaid.x))* ge.s64 param2 = false": "the same",
    "conv2d.correlate.across_*:sub(min(sub(param7,*gt.s32 0 = true": (
        "weights lie so for 1x1 filters without padding: a pixel has all terms of the tap, or after the last tap none, "
        "which the comparison of the term finds as well"
    ),
    re.compile(
        r"(?:update\._norm|update\._total|softmax\.softmax_rows|loss\.\w+_rows):"
        r"(?:sub\(param\d+,.*\) gt\.s\d+ 0|"
        r"selp\(add\(shr\(sub\(param\d+,.*\),0\)\) ne\.s\d+ 0) = true(?: #\d+)?"
    ): "the length of a range, where it was decided before that it is not empty",
    re.compile(
        r"conv2d\.grouped(?:_weight_gradient)?\.\w+:"
        r"(?:sub\((?:loaded|min\(.*\)),.*\) gt\.s\d+ 0|"
        r"selp\(add\(shr\(sub\(.*\),0\)\) ne\.s\d+ 0) = true(?: #\d+)?"
    ): "the length of a range, where it was decided before that it is not empty",
    re.compile(
        r"(?:conv2d\.column_sums\._column_sums|softmax\.softmax\w*|loss\.\w+|update\._(?:clip|squares)):"
        r"(?:selp\(add\(shr\(sub\(.*\),0\)\)|and\(sub\(param\d+,changing\),31\)) ne\.s\d+ 0 = true(?: #\d+)?"
    ): "rounds up a range's length in steps; where it decides otherwise the range is empty, and nobody looks",
    re.compile(
        r"update\._adam:sub\(min\(.*\),changing\) gt\.s64 0 = true"
    ): "the loop is over where none of four is there",
    re.compile(r"[\w.]+:%tid\.x lt\.s32 (?:0|-\d+) = false(?: #\d+)?"): "a thread's number is not negative",
    re.compile(r"[\w.]+:(?:shl|mul)\((?:%ntid\.x,)?%nctaid\.x(?:,\d+)?\) eq\.s32 0 = false"): "a grid has blocks",
    "elementwise.*:add(shl(*,2),4) gt.s64 param? = true": "a whole vector one element at a time: the same results",
    "elementwise.weighted:add(shl(*,2),3) ge.s64 param? = true": "its array is a new one: no whole vector is left over",
    "conv2d.column_sums._column_sums:sub(%tid.x,and(*)) lt.s64 0 = false": (
        "what is left of a thread's number after whole warps: numba's rounding of negative ones"
    ),
    "update._*:changing ge.s64 min(loaded,*) = false*": "the loop is over where the first of four is not there",
    "update._adam:sub(min(add(changing,4),*),changing) lt.s64 1 = false*": "the same, of the four that it counts",
    "update._*:add(changing,3) ge.s64 min(loaded,*) = true*": "where vectors fit, at most three elements are left over",
    "dropout._dropout_channels_last:sub(shl(*,2),*) lt.s64 -3 = false": (
        "a thread's four elements would begin four or more before its own row: they begin at most three before it"
    ),
    "conv2d.grouped.depthwise:param22 gt.s32 0 = false": "a channel of its own has one to add up; none is left",
    re.compile(r"conv2d\.grouped\.grouped:.* ge\.s32 param27 = false #[34]"): (
        "ReLU is of forward passes alone, where results are one class, which has all rows of the output"
    ),
    "conv2d.grouped_weight_gradient.*:shl(%ctaid.z,2) lt.s32 param20 = true": "a block's first tap is always there",
    "conv2d.grouped_weight_gradient.*:add(selp(add(shr(*,3),selp(1,0,*)),0,*),selp(-1,0,*)) gt.s32 0 = true": (
        "how often a loop goes on that was unrolled by two: an odd turn was decided before"
    ),
    "conv2d.tensor_pack._pack:mad(%ctaid.x,%ntid.x,%tid.x) ge.s32 param2 = false": (
        "packed weights are whole blocks of columns and stages, which are whole blocks of threads"
    ),
    "conv2d.tensor_pack._sum_weights:param2 gt.s32 1 = true": "of one part: the length of the range is then 0 as well",
    "conv2d.tensor_pack._sum_weights:add(shr(%tid.x,6),shl(%ctaid.y,5)) ge.s32 param3 = false": (
        "output channels are whole vectors: of a block with any, the first four are there"
    ),
    re.compile(r"loss\.\w+_rows:add\((?:add\(){0,2}selp\(.*\) gt\.s32 0 = true(?: #\d+)?"): (
        "how often a loop goes on that was unrolled by four, as above; what it counts down is too long for a name"
    ),
    "loss.probability_loss_columns:param3 eq.s32 0 = * #2": "of positions without a channel, and every one has some",
    "loss.*:barrier 4 of 4": "keeps the memory of a sum over the block for the next such sum, and this was the last",
    "update._norm:barrier 9 of 9": "the same",
    "update._squares:barrier 9 of 9": "the same",
    "update._total:barrier 9 of 9": "the same",
    "loss._count_labels:barrier 2 of 2": "keeps the memory of a sum over the block for the next one, and there is none",
}
