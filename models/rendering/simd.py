"""Sixteen float32 at once, as a numba type: `Lanes`, and `LaneMask` for what comparisons give.

Inside `@njit` functions, arithmetic on `Lanes` reads like arithmetic on floats (scalars are broadcast) and
becomes one vector instruction each on AVX-512, two on AVX2, four on NEON. Nothing is reordered or
contracted behind our back: a fused multiply-add happens where the code says `fma`, so that two kernels
that write the same formula get the same bits.

    dx = lane_numbers() - center_x          # Lanes
    weight = exp2(-(dx * dx))               # Lanes
    hit = weight >= 1 / 255                 # LaneMask
    store(buffer, 0, select(hit, weight, 0.0))
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

NUM_LANES = 16

FLOAT = ir.FloatType()
INT = ir.IntType(32)
FLOAT_LANES = ir.VectorType(FLOAT, NUM_LANES)
INT_LANES = ir.VectorType(INT, NUM_LANES)
BOOL_LANES = ir.VectorType(ir.IntType(1), NUM_LANES)

Generator = Callable[[Any, Any, Any, Any], Any]


class LanesType(types.Type):
    """Sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


class LaneMaskType(types.Type):
    """Sixteen booleans."""

    def __init__(self) -> None:
        super().__init__(name="LaneMask")


Lanes = LanesType()
LaneMask = LaneMaskType()


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    def __init__(self, data_model_manager: Any, numba_type: Any) -> None:
        super().__init__(data_model_manager, numba_type, FLOAT_LANES)


@register_model(LaneMaskType)
class LaneMaskModel(models.PrimitiveModel):
    def __init__(self, data_model_manager: Any, numba_type: Any) -> None:
        super().__init__(data_model_manager, numba_type, BOOL_LANES)


def splat_ir(builder: Any, scalar: Any) -> Any:
    """IR for a vector that holds `scalar` in every lane."""
    vector = ir.VectorType(scalar.type, NUM_LANES)
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, scalar, INT(0))
    return builder.shuffle_vector(first, empty, ir.Constant(INT_LANES, [0] * NUM_LANES))


def constant_ir(value: float) -> ir.Constant:
    return ir.Constant(FLOAT_LANES, [float(np.float32(value))] * NUM_LANES)


def call_ir(builder: Any, name: str, *args: Any) -> Any:
    """IR for an LLVM vector intrinsic that is overloaded on its first argument."""
    function_type = ir.FunctionType(args[0].type, [a.type for a in args])
    full_name = f"{name}.v{NUM_LANES}f32"
    return builder.call(get_or_insert_function(builder.module, function_type, full_name), args)


# --- operators -----------------------------------------------------------------------------------


@lower_cast(types.Float, LanesType)
@lower_cast(types.Integer, LanesType)
def broadcast(context: Any, builder: Any, from_type: Any, to_type: Any, value: Any) -> Any:
    return splat_ir(builder, context.cast(builder, value, from_type, types.float32))


def define_operator(function: Any, operand: Any, result: Any, generate: Generator) -> None:
    """Makes `function` (of `operator`) work on lanes; scalar operands are broadcast."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if operand in args and all(isinstance(a, (type(operand), types.Number)) for a in args):
                return signature(result, *([operand] * len(args)))
            return None

    infer_global(function)(Template)
    arity = 1 if function in (operator.neg, operator.invert) else 2
    lower_builtin(function, *([operand] * arity))(generate)


def from_builder(method: str, *leading: Any) -> Generator:
    """IR that is one call of a builder's method, `leading` before the operands."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, method)(*leading, *args)

    return generate


for function, method in [
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.isub, "fsub"),
    (operator.mul, "fmul"),
    (operator.imul, "fmul"),
    (operator.truediv, "fdiv"),
    (operator.neg, "fneg"),
]:
    define_operator(function, Lanes, Lanes, from_builder(method))
for function, symbol in [
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
]:
    define_operator(function, Lanes, LaneMask, from_builder("fcmp_ordered", symbol))
for function, method in [
    (operator.and_, "and_"),
    (operator.iand, "and_"),
    (operator.invert, "not_"),
]:
    define_operator(function, LaneMask, LaneMask, from_builder(method))


# --- functions of lanes --------------------------------------------------------------------------


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c, rounded once."""

    def generate(context, builder, sig, args):
        return call_ir(builder, "llvm.fma", *args)

    return Lanes(Lanes, Lanes, Lanes), generate


@intrinsic
def select(typing_context, mask, if_true, if_false):
    def generate(context, builder, sig, args):
        return builder.select(*args)

    return Lanes(LaneMask, Lanes, Lanes), generate


@intrinsic
def minimum(typing_context, a, b):
    """The smaller; b where either is NaN."""

    def generate(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return Lanes(Lanes, Lanes), generate


@intrinsic
def maximum(typing_context, a, b):
    """The larger; b where either is NaN."""

    def generate(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return Lanes(Lanes, Lanes), generate


def define_unary(llvm_name: str) -> Any:
    @intrinsic
    def function(typing_context, x):
        def generate(context, builder, sig, args):
            return call_ir(builder, llvm_name, *args)

        return Lanes(Lanes), generate

    return function


sqrt = define_unary("llvm.sqrt")
floor = define_unary("llvm.floor")
ceil = define_unary("llvm.ceil")
absolute = define_unary("llvm.fabs")


def fit_exp2(degree: int = 6) -> list[float]:
    """Coefficients, highest first, of the polynomial for 2^f on [-0.5, 0.5] with f(0) = 1 exactly.

    Interpolation at Chebyshev nodes of (2^f - 1) / f: relative error 2e-8, below float32's rounding.
    """
    nodes = 0.5 * np.cos(np.pi * (np.arange(degree) + 0.5) / degree)
    return [*np.polyfit(nodes, (np.exp2(nodes) - 1) / nodes, degree - 1), 1.0]


def fit_log2(degree: int = 6) -> list[float]:
    """Coefficients, highest first, of the polynomial for log2(1 + m) / m on [0, 1]: error 2e-5."""
    nodes = 0.5 + 0.5 * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    return list(np.polyfit(nodes, np.log2(1 + nodes) / nodes, degree))


def polynomial_ir(builder: Any, coefficients: list[float], x: Any) -> Any:
    value = constant_ir(coefficients[0])
    for coefficient in coefficients[1:]:
        value = call_ir(builder, "llvm.fma", value, x, constant_ir(coefficient))
    return value


@intrinsic
def exp2(typing_context, x):
    """2^x for x <= 0, to 1e-7 relative; about 1e-38 below -126."""

    def generate(context, builder, sig, args):
        lowest = constant_ir(-126.0)
        x = builder.select(builder.fcmp_ordered(">", args[0], lowest), args[0], lowest)
        whole = call_ir(builder, "llvm.rint", x)
        mantissa = polynomial_ir(builder, fit_exp2(), builder.fsub(x, whole))
        # Adding to the exponent bits multiplies by a power of two.
        shift = builder.shl(builder.fptosi(whole, INT_LANES), splat_ir(builder, INT(23)))
        bits = builder.add(builder.bitcast(mantissa, INT_LANES), shift)
        return builder.bitcast(bits, FLOAT_LANES)

    return Lanes(Lanes), generate


@intrinsic
def log2_roughly(typing_context, x):
    """log2(x) for normal x > 0, within 3e-5."""

    def generate(context, builder, sig, args):
        bits = builder.bitcast(args[0], INT_LANES)
        exponent = builder.sub(
            builder.ashr(bits, splat_ir(builder, INT(23))), splat_ir(builder, INT(127))
        )
        fraction_bits = builder.and_(bits, splat_ir(builder, INT(0x7FFFFF)))
        one_to_two = builder.bitcast(
            builder.or_(fraction_bits, splat_ir(builder, INT(0x3F800000))), FLOAT_LANES
        )
        fraction = builder.fsub(one_to_two, constant_ir(1.0))
        series = polynomial_ir(builder, fit_log2(), fraction)
        whole = builder.sitofp(exponent, FLOAT_LANES)
        return call_ir(builder, "llvm.fma", series, fraction, whole)

    return Lanes(Lanes), generate


@intrinsic
def lane_numbers(typing_context):
    """0, 1, ... 15."""

    def generate(context, builder, sig, args):
        return ir.Constant(FLOAT_LANES, [float(lane) for lane in range(NUM_LANES)])

    return Lanes(), generate


@intrinsic
def splat(typing_context, x):
    """A scalar in every lane."""

    def generate(context, builder, sig, args):
        return args[0]

    return Lanes(Lanes), generate


@intrinsic
def mask_bits(typing_context, mask):
    """The mask as an integer, lane 0 in the lowest bit."""

    def generate(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(16)), ir.IntType(64))

    return types.uint64(LaneMask), generate


@intrinsic
def any_lane(typing_context, mask):
    def generate(context, builder, sig, args):
        return builder.icmp_unsigned(
            "!=", builder.bitcast(args[0], ir.IntType(16)), ir.IntType(16)(0)
        )

    return types.boolean(LaneMask), generate


# --- memory --------------------------------------------------------------------------------------


def pointer_ir(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), FLOAT_LANES.as_pointer())


@intrinsic
def load(typing_context, array, index):
    """Sixteen neighbours of a flat float32 array, from `index` on; not checked."""

    def generate(context, builder, sig, args):
        value = builder.load(pointer_ir(context, builder, sig.args[0], args[0], args[1]))
        value.align = 4
        return value

    assert isinstance(array, types.Array) and array.ndim == 1 and array.dtype.bitwidth == 32
    return Lanes(array, types.intp), generate


@intrinsic
def store(typing_context, array, index, value):
    """Writes sixteen neighbours of a flat float32 array, from `index` on; not checked."""

    def generate(context, builder, sig, args):
        pointer = pointer_ir(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], pointer).align = 4
        return context.get_dummy_value()

    assert isinstance(array, types.Array) and array.ndim == 1 and array.dtype.bitwidth == 32
    return types.none(array, types.intp, Lanes), generate


@intrinsic
def prefetch(typing_context, array, index):
    """Asks for the cache line of a flat array's element `index`."""

    def generate(context, builder, sig, args):
        pointer = pointer_ir(context, builder, sig.args[0], args[0], args[1])
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, INT, INT, INT])
        function = get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [pointer, INT(0), INT(3), INT(1)])
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


# --- across lanes --------------------------------------------------------------------------------


def exchange_ir(builder: Any, first: Any, second: Any, distance: int) -> tuple[Any, Any]:
    """Swaps lanes of `first` that have bit `distance` set with those of `second` that have not."""
    low, high = [], []
    for lane in range(NUM_LANES):
        partner = lane ^ distance
        low.append(lane if not lane & distance else NUM_LANES + partner)
        high.append(partner if not lane & distance else NUM_LANES + lane)
    return (
        builder.shuffle_vector(first, second, ir.Constant(INT_LANES, low)),
        builder.shuffle_vector(first, second, ir.Constant(INT_LANES, high)),
    )


@intrinsic
def transpose(typing_context, rows):
    """The 16 x 16 transpose of a tuple of sixteen lanes."""

    def generate(context, builder, sig, args):
        rows = [builder.extract_value(args[0], i) for i in range(NUM_LANES)]
        for distance in (8, 4, 2, 1):
            for i in range(NUM_LANES):
                if not i & distance:
                    rows[i], rows[i + distance] = exchange_ir(
                        builder, rows[i], rows[i + distance], distance
                    )
        result = ir.Constant(ir.ArrayType(FLOAT_LANES, NUM_LANES), ir.Undefined)
        for i, row in enumerate(rows):
            result = builder.insert_value(result, row, i)
        return result

    sixteen = types.UniTuple(Lanes, NUM_LANES)
    return sixteen(sixteen), generate


@intrinsic
def sum_each(typing_context, rows):
    """Lane i holds the sum over the lanes of `rows[i]`, for a tuple of at most sixteen lanes.

    Always added in the same pairwise order.
    """

    def generate(context, builder, sig, args):
        count = sig.args[0].count
        rows = [builder.extract_value(args[0], i) for i in range(count)]
        rows += [None] * (NUM_LANES - count)
        # Each round folds rows i and i + distance into one: half the lanes sum the first, half the second.
        for distance in (8, 4, 2, 1):
            folded: list[Any] = []
            for i in range(distance):
                first, second = rows[i], rows[i + distance]
                if first is None:
                    folded.append(None)
                    continue
                second = constant_ir(0.0) if second is None else second
                low, high = exchange_ir(builder, first, second, distance)
                folded.append(builder.fadd(low, high))
            rows = folded
        return rows[0]

    return Lanes(rows), generate


# --- bits of scalars -----------------------------------------------------------------------------


@intrinsic
def lowest_bit(typing_context, bits):
    """The number of the lowest set bit of a nonzero 64-bit integer."""

    def generate(context, builder, sig, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), generate


@intrinsic
def count_bits(typing_context, bits):
    def generate(context, builder, sig, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@intrinsic
def byte_spans(typing_context, first, last):
    """Eight bytes, of lanes 0 to 7: byte i has bits first[i] to last[i] set, none where first > last.

    0 <= first <= 8 and -1 <= last <= 7, whole numbers.
    """

    def generate(context, builder, sig, args):
        one = splat_ir(builder, INT(1))
        first, last = (builder.fptosi(a, INT_LANES) for a in args)
        up_to_last = builder.sub(builder.shl(one, builder.add(last, one)), one)
        before_first = builder.sub(builder.shl(one, first), one)
        spans = builder.and_(up_to_last, builder.not_(before_first))
        narrow = builder.trunc(spans, ir.VectorType(ir.IntType(8), NUM_LANES))
        return builder.trunc(builder.bitcast(narrow, ir.IntType(128)), ir.IntType(64))

    return types.uint64(Lanes, Lanes), generate


@intrinsic
def packed_pairs(typing_context, low, high):
    """Whole numbers below 65536 as low | high << 16, the bits carried in float lanes."""

    def generate(context, builder, sig, args):
        low, high = (builder.fptosi(a, INT_LANES) for a in args)
        pair = builder.or_(low, builder.shl(high, splat_ir(builder, INT(16))))
        return builder.bitcast(pair, FLOAT_LANES)

    return Lanes(Lanes, Lanes), generate


@intrinsic
def bits_below(typing_context, value, lanes):
    """Where the integer `value` is below the integers whose bits the float lanes carry."""

    def generate(context, builder, sig, args):
        return builder.icmp_signed(
            "<", splat_ir(builder, args[0]), builder.bitcast(args[1], INT_LANES)
        )

    return LaneMask(types.int32, Lanes), generate


@intrinsic
def bits_of(typing_context, value):
    """Float lanes that carry the bits of the integer `value`."""

    def generate(context, builder, sig, args):
        return builder.bitcast(splat_ir(builder, args[0]), FLOAT_LANES)

    return Lanes(types.int32), generate
