"""What depthwise and narrow grouped convolution are made of, in explicit SIMD.

A vector holds neighbouring channels, whole groups of them. With g channels a group, in and out, result channel k sums
g source channels: the vector of a source pixel is shuffled g times, so that every lane of a group sees the group's
first, second, ... channel. g = 1 is depthwise convolution. g travels as the length of a tuple (see winograd_tile.py).
"""

from __future__ import annotations

import itertools
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..simd import VECTOR_BYTES, Vectors, rolled_loop

# Columns of a filter that are added at once, by channels a group: their weights stay in registers, beside 8 sums.
# With fewer, x waits for the second-level cache: 7x7 took 10 cycles for 8 multiply-adds.
TOGETHER = {1: 8, 2: 4, 4: 3, 8: 1} if VECTOR_BYTES == 64 else {1: 4, 2: 2, 4: 1, 8: 1}

# Results of a run: 8 sums cover the latency of two multiply-add units. More need fewer loads, where there are registers
# for them, and as many weights, and where they do not overlap too much.
PIXELS = (8, 14, 16) if VECTOR_BYTES == 64 else (8,)
FEWEST_TAPS_OF_MANY = 4  # in a row of the filter: with 3, 14 were 1.1 times slower

# Where x of a run lies.
INSIDE, BORDER, PLANES = 0, 1, 2


def run_length(width: int, sets: list[int], group: int) -> int:
    """Of `PIXELS`: the one that computes fewest, those computed twice included. `sets`: columns of each."""
    if group > 1 or (sets[0] < FEWEST_TAPS_OF_MANY and len(sets) == 1):
        return PIXELS[0]
    return min(reversed(PIXELS), key=lambda pixels: -(-width // pixels) * pixels)


def sets_of(shifts: list[int], step: int) -> list[list[int]]:
    """The numbers of a filter's columns, in sets of those whose shifts differ by a step: they read the same pixels."""
    sets: list[list[int]] = []
    for s in sorted(range(len(shifts)), key=lambda s: (shifts[s] % step, shifts[s])):
        if sets and shifts[s] - shifts[sets[-1][-1]] == step:
            sets[-1].append(s)
        else:
            sets.append([s])
    return sets


def table_of(sets: list[list[int]], pixels: int) -> list[int]:
    """As `group_run` wants them: the first column of each, how many, and where its pixels begin in a run's table."""
    firsts = itertools.accumulate((len(s) for s in sets), initial=0)
    starts = itertools.accumulate((len(s) + pixels - 1 for s in sets), initial=0)
    return [n for s, first, start in zip(sets, firsts, starts, strict=False) for n in (first, len(s), start)]


def _constant(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


class _Arguments:
    """The arguments of an intrinsic: scalars, and the data pointers of arrays."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.context, self.builder, self.signature, self.args = context, builder, signature, args
        element = signature.args[0].dtype
        self.vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)

    def data(self, position: int) -> Any:
        array = self.context.make_array(self.signature.args[position])(self.context, self.builder, self.args[position])
        return array.data

    def entry(self, table: Any, index: Any) -> Any:
        """table[index]."""
        return self.builder.load(self.builder.gep(table, [index]))

    def of_group(self, value: Any, group: int) -> list[Any]:
        """`group` vectors: the j-th has in every lane the j-th channel of that lane's group."""
        if group == 1:
            return [value]
        lanes = range(self.vec.lanes)
        integers = ir.VectorType(ir.IntType(32), self.vec.lanes)
        masks = [ir.Constant(integers, [lane // group * group + j for lane in lanes]) for j in range(group)]
        return [self.builder.shuffle_vector(value, value, mask) for mask in masks]


@intrinsic(prefer_literal=True)
def _group_run(
    typing_context: Any, x: Any, zeros: Any, row_offsets: Any, row_weights: Any, rows: Any,
    column_offsets: Any, column_weights: Any, sets: Any, pixel_step: Any, weight: Any, weight_step: Any, bias: Any,
    floor: Any, out: Any, out_offsets: Any, channel: Any, ahead: Any, ahead_offsets: Any, out_ahead: Any,
    group: Any, pixels: Any, where: Any, lanes: Any,
) -> Any:  # fmt: skip
    index = types.intp
    count, size = pixels.count, group.count
    at_border, in_planes = (where.literal_value == kind for kind in (BORDER, PLANES))
    together = TOGETHER[size]
    signature = types.void(
        x, index, row_offsets, row_weights, index, column_offsets, column_weights, sets, index, weight, index, bias,
        x.dtype, out, out_offsets, index, index, ahead_offsets, index, group, pixels, where, index,
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a = _Arguments(context, builder, signature, args)
        zeros, rows, pixel_step, weight_step, floor = (args[i] for i in (1, 4, 8, 10, 12))
        channel, ahead, out_ahead, lanes = (args[i] for i in (15, 16, 18, 22))
        vec = a.vec
        x = builder.gep(a.data(0), [channel])
        weight, bias = (
            a.data(position) if in_planes else builder.gep(a.data(position), [channel]) for position in (9, 11)
        )
        zero_page = builder.gep(x, [zeros])

        def weights_at(pointer: Any, offset: Any) -> Any:
            return vec.splat(a.entry(pointer, offset)) if in_planes else vec.load(pointer, offset)

        sums = [cgutils.alloca_once_value(builder, weights_at(bias, _constant(0))) for _ in range(count)]

        def add_taps(row: Any, first: Any, taps: int, table: Any) -> None:
            """Of `taps` columns from `first` in a row: every pixel that they read is loaded once."""
            source = builder.gep(x, [a.entry(a.data(2), row)])
            line = builder.gep(weight, [a.entry(a.data(3), row)])
            factors = []
            for t in range(taps):
                start = a.entry(a.data(6), builder.add(first, _constant(t)))
                factors.append([
                    weights_at(line, builder.add(start, builder.mul(weight_step, _constant(i)))) for i in range(size)
                ])  # fmt: skip
            if not at_border:
                there = builder.gep(source, [a.entry(a.data(5), first)])
            for place in range(count + taps - 1):
                if at_border:
                    offset = a.entry(table, _constant(place))
                    outside = builder.icmp_signed("<", offset, _constant(0))
                    there = builder.select(outside, zero_page, builder.gep(source, [offset]))
                elif place:  # from pixel to pixel: a register for each would be too many
                    there = builder.gep(there, [pixel_step])
                parts = a.of_group(vec.load(there, _constant(0)), size)
                for t in range(taps):
                    if 0 <= place - t < count:
                        total = sums[place - t]
                        for part, factor in zip(parts, factors[t], strict=True):
                            builder.store(vec.multiply_add(part, factor, builder.load(total)), total)

        def add_set(first: Any, columns: Any, table: Any) -> None:
            for taps in range(1, together + 1):  # the usual case: sums and the weights' places stay in registers
                so_many = builder.icmp_signed("==", columns, _constant(taps))
                with builder.if_then(so_many), rolled_loop(builder, rows) as row:
                    add_taps(row.index, first, taps, table)
            few = builder.icmp_signed("<=", columns, _constant(together))
            with cgutils.for_range(builder, builder.select(few, _constant(0), rows)) as row:
                done = _constant(0)
                for taps in sorted({together, min(2, together), 1}, reverse=True):
                    chunks = builder.sdiv(builder.sub(columns, done), _constant(taps))
                    with rolled_loop(builder, chunks) as chunk:
                        at = builder.add(done, builder.mul(chunk.index, _constant(taps)))
                        add_taps(row.index, builder.add(first, at), taps, builder.gep(table, [at]))
                    done = builder.add(done, builder.mul(chunks, _constant(taps)))

        table = context.make_array(signature.args[7])(context, builder, args[7])
        sets = builder.sdiv(builder.extract_value(table.shape, 0), _constant(3))
        with rolled_loop(builder, sets) as one:
            first, columns, start = (
                a.entry(table.data, builder.add(builder.mul(one.index, _constant(3)), _constant(i))) for i in range(3)
            )
            add_set(first, columns, builder.gep(a.data(5), [start]))

        def fetch(place: Any, first_level: bool) -> None:
            there = builder.gep(x, [place])
            for _ in range(count):
                vec.prefetch(there, _constant(0), first_level)
                there = builder.gep(there, [pixel_step])

        offsets = context.make_array(signature.args[17])(context, builder, args[17])
        lines = builder.extract_value(offsets.shape, 0)
        with cgutils.for_range(builder, lines) as loop:
            fetch(builder.add(ahead, a.entry(offsets.data, loop.index)), False)
        if not (at_border or in_planes):
            with builder.if_then(builder.icmp_signed("==", lines, _constant(0))):
                fetch(ahead, True)
        floor = vec.splat(floor)
        out = builder.gep(a.data(13), [channel])
        mask = vec.first_lanes(lanes, 0)
        for j in reversed(range(count)):
            place = builder.gep(out, [a.entry(a.data(14), _constant(j))])
            vec.prefetch(place, out_ahead, first_level=False)
            place = builder.bitcast(place, vec.pointer)
            value = vec.at_least(builder.load(sums[j]), floor)
            if in_planes:
                vec.masked_store(value, place, mask)
            else:
                builder.store(value, place, align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# group_run(x, zeros, row_offsets, row_weights, rows, column_offsets, column_weights, sets, pixel_step, weight,
#           weight_step, bias, floor, out, out_offsets, channel, ahead, ahead_offsets, out_ahead, group, pixels,
#           where, lanes)
#
# For j < len(pixels), and c in one vector of channels from `channel`, with g = len(group), both tuples:
#
#   out[out_offsets[j] + c] = at least floor of bias[c] + sum over r < rows, s < columns, i < g of
#       x[row_offsets[r] + place + c // g * g + i] * weight[row_weights[r] + column_weights[s] + i * weight_step + c]
#
# where place is column_offsets[s] + j * pixel_step. `sets` are of columns whose offsets differ by pixel_step: each
# vector of x is loaded once for up to `TOGETHER` of a set. A set has three numbers: the first s, how many, and a start.
# Where (a literal) is BORDER instead of INSIDE, place of the set's t-th column is column_offsets[start + t + j], or if
# that is negative x is read from x[zeros + c], a page of zeros. In PLANES the c are columns of one channel, of which
# the first `lanes` are written; g is 1, and weight and bias are read without c: one for all.
#
# Results are written last to first: where several have one place, the first of them stays. The lines at
# x[ahead + ahead_offsets[i] + j * pixel_step + c], which a later call reads, are fetched into the second-level cache;
# of no offsets, those at x[ahead + j * pixel_step + c] into the first, away from borders. Pixels are too far apart, and
# rows too short, for the processor to see it coming (twice as slow without). So are results: those `out_ahead` from
# these are fetched too, as if to be read (1.4 times as fast at 7x7; to be written, into the first level, was slower).
group_run: Any = _group_run


@intrinsic(prefer_literal=True)
def _group_taps(
    typing_context: Any, x: Any, zeros: Any, row_offset: Any, column_offsets: Any, inside: Any, steps: Any, grad: Any,
    grad_start: Any, grad_step: Any, pixels: Any, sums: Any, sums_start: Any, sums_step: Any, channel: Any, ahead: Any,
    taps: Any, group: Any, strided: Any, fetch: Any,
) -> Any:  # fmt: skip
    index = types.intp
    count, size, shared, fetches = taps.count, group.count, strided.count == 0, bool(fetch.literal_value)
    signature = types.void(
        x, index, index, column_offsets, inside, steps, grad, index, index, index, sums, index, index, index, ahead,
        taps, group, strided, fetch,
    )  # fmt: skip
    # A sum is added to every fourth cycle at most: of few taps there are two for each, of every other pixel.
    sets = 2 if 2 * count * size <= (16 if VECTOR_BYTES == 64 else 8) else 1
    together = 4 if shared and count * size <= 8 else 2

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a = _Arguments(context, builder, signature, args)
        vec, channel = a.vec, args[13]
        first, end = (builder.extract_value(args[4], i) for i in range(2))
        x_step, tap_step = (builder.extract_value(args[5], i) for i in range(2))
        of_grad, *of_x = (builder.extract_value(args[14], i) for i in range(3))
        x = builder.gep(a.data(0), [channel])
        zero_page, source = builder.gep(x, [args[1]]), builder.gep(x, [args[2]])
        grad = builder.gep(a.data(6), [builder.add(args[7], channel)])
        zero = ir.Constant(vec.type, [0.0] * vec.lanes)
        totals = [[cgutils.alloca_once_value(builder, zero) for _ in range(count * size)] for _ in range(sets)]

        def gradient_of(pixel: Any) -> Any:
            here = builder.gep(grad, [builder.mul(pixel, args[8])])
            if fetches:
                vec.prefetch(here, of_grad, first_level=False)
            return vec.load(here, _constant(0))

        def add(there: Any, pairs: list[tuple[int, int, Any]]) -> None:
            """The vector of x there, times gradients, to sums: of (set, tap, gradient)."""
            parts = a.of_group(vec.load(there, _constant(0)), size)
            for which, s, gradient in pairs:
                if fetches and s == count - 1:
                    for distance in of_x:
                        vec.prefetch(there, distance, first_level=False)
                for part, total in zip(parts, totals[which][s * size : (s + 1) * size], strict=True):
                    builder.store(vec.multiply_add(part, gradient, builder.load(total)), total)

        blocks = builder.sdiv(builder.sub(end, first), _constant(together))
        blocks = builder.select(builder.icmp_signed(">", blocks, _constant(0)), blocks, _constant(0))
        within = builder.mul(blocks, _constant(together))
        with rolled_loop(builder, builder.sub(args[9], within)) as loop:  # pixels that may be at a border
            before = builder.icmp_signed("<", loop.index, first)
            pixel = builder.select(before, loop.index, builder.add(loop.index, within))
            gradient = gradient_of(pixel)
            table = builder.gep(a.data(3), [builder.mul(pixel, _constant(count))])
            for s in range(count):
                offset = a.entry(table, _constant(s))
                outside = builder.icmp_signed("<", offset, _constant(0))
                add(builder.select(outside, zero_page, builder.gep(source, [offset])), [(0, s, gradient)])
        with builder.if_then(builder.icmp_signed(">", blocks, _constant(0))):
            start = builder.gep(source, [a.entry(a.data(3), builder.mul(first, _constant(count)))])
            with rolled_loop(builder, blocks) as block:
                ahead = builder.mul(block.index, _constant(together))
                gradients = [gradient_of(builder.add(builder.add(first, ahead), _constant(j))) for j in range(together)]
                here = builder.gep(start, [builder.mul(ahead, x_step)])
                for place in range(together + count - 1 if shared else together):
                    there = builder.gep(here, [builder.mul(x_step, _constant(place))])
                    if shared:
                        taps = range(max(0, place - together + 1), min(count, place + 1))
                        add(there, [((place - s) % sets, s, gradients[place - s]) for s in taps])
                        continue
                    for s in range(count):
                        add(builder.gep(there, [builder.mul(tap_step, _constant(s))]),
                            [(place % sets, s, gradients[place])])  # fmt: skip
        out = builder.gep(a.data(10), [args[11]])
        for s in range(count * size):
            place = vec.at(out, builder.mul(args[12], _constant(s)))
            total = builder.load(place, align=vec.itemsize)
            for one in totals:
                total = builder.fadd(total, builder.load(one[s]))
            builder.store(total, place, align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# group_taps(x, zeros, row_offset, column_offsets, inside, steps, grad, grad_start, grad_step, pixels, sums, sums_start,
#            sums_step, channel, ahead, taps, group, strided, fetch)
#
# For s < len(taps), i < g = len(group), both tuples, and lane l of one vector of channels c from `channel`:
#
#   sums[sums_start + (s * g + i) * sums_step + l] += sum over j < pixels of
#       x[row_offset + column_offsets[j * len(taps) + s] + c // g * g + i] * grad[grad_start + j * grad_step + c]
#
# where a negative column offset reads x[zeros + c], a page of zeros, instead. Pixels inside[0] <= j < inside[1] have
# none; for them it grows by steps[0] from j to j + 1, and by steps[1] from s to s + 1. `strided` is a tuple, empty if
# these are the same: then each vector of x is loaded once for all taps. With `fetch` (a literal 1 instead of 0) what is
# ahead[0] from grad, and ahead[1] and ahead[2] from the last tap's x, is fetched into the second-level cache.
group_taps: Any = _group_taps
