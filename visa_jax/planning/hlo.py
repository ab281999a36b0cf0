"""What a compiled program does, read from its optimised HLO text: FLOPs, bytes of HBM, bytes between devices.

The compiler's own analysis counts the body of a loop once; here it counts as often as it runs. A loop whose end
depends on data (decoding: until all rows have ended) is kept apart, as the cost of one round.

FLOPs are those of products (dot, convolution) and of splash attention. Bytes are what each instruction reads and
writes in HBM; what the compiler keeps in a TPU's vector memory, S(1) in the text, is not there. A slice reads what it
gives, an update in place writes what it puts.
"""

import dataclasses
import math
import re
from collections import Counter

from visa_jax.planning.counts import splash_flops

SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "token": 0, "opaque": 0}
FREE = frozenset(
    "parameter constant get-tuple-element tuple bitcast after-all partition-id replica-id opt-barrier iota".split()
)
STARTS = "async-collective-start"
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclasses.dataclass
class Counts:
    """What is done once; add and multiply like numbers."""

    flops: float = 0.0
    bytes: float = 0.0
    collective_bytes: Counter = dataclasses.field(default_factory=Counter)  # kind -> bytes that a device sends
    largest: Counter = dataclasses.field(default_factory=Counter)  # kind -> bytes of the largest single one
    collectives: Counter = dataclasses.field(default_factory=Counter)  # kind -> how many

    def add(self, other: "Counts", times: float = 1) -> None:
        """``self`` and ``times`` ``other``."""
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        for kind, amount in other.collective_bytes.items():
            self.collective_bytes[kind] += times * amount
            self.collectives[kind] += times * other.collectives[kind]
            self.largest[kind] = max(self.largest[kind], other.largest[kind])


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO."""

    name: str
    shape: str  # text, of a tuple with parentheses
    op: str
    operands: tuple[str, ...]
    rest: str  # attributes
    argument: str  # what stands in the parentheses: a constant's number, a parameter's
    root: bool

    def called(self, attribute: str) -> str:
        """The computation that an attribute names, or ''."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


def arrays(shape: str) -> list[tuple[str, tuple[int, ...], bool]]:
    """(type, sizes, whether it lies in HBM) of each array in the text of a shape."""
    return [
        (kind, tuple(int(size) for size in sizes.split(",") if size), "S(" not in (layout or ""))
        for kind, sizes, layout in _SHAPE.findall(shape)
    ]


def size(kind: str, sizes: tuple[int, ...]) -> float:
    """Bytes of an array."""
    bits = re.search(r"\d+", kind)
    return math.prod(sizes) * (SIZES[kind] if kind in SIZES else int(bits[0]) / 8 if bits else 0)


def hbm(shape: str) -> float:
    """Bytes in HBM of all arrays of a shape."""
    return sum(size(kind, sizes) for kind, sizes, outside in arrays(shape) if outside)


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(instructions by computation, the name of the entry)."""
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        if current is None:
            head = _HEAD.match(line)
            if head:
                current = computations.setdefault(head[1], [])
                entry = head[1] if line.startswith("ENTRY") else entry
        elif line.rstrip() == "}":
            current = None
        else:
            instruction = _instruction(line)
            if instruction is not None:
                current.append(instruction)
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    left, equals, right = line.strip().partition(" = ")
    if not equals:
        return None
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, right = right[:end], right[end:].lstrip()
    op, _, _ = right.partition("(")
    close = _closing(right, len(op))
    argument = right[len(op) + 1 : close]
    name = left.removeprefix("ROOT ").lstrip("%")
    return Instruction(
        name,
        shape,
        op,
        tuple(re.findall(r"%([\w.\-]+)", argument)),
        right[close + 1 :],
        argument,
        line.lstrip().startswith("ROOT"),
    )


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    raise ValueError(f"unbalanced HLO: {text[:80]}")


class Reader:
    """Counts of a parsed program."""

    def __init__(self, text: str, own_tokens: int = 0):
        self.own_tokens = own_tokens
        self.computations, self.entry = parse(text)
        self.partitions = int((re.search(r"num_partitions=(\d+)", text) or [0, "1"])[1])
        self.shapes = {
            name: {instruction.name: instruction.shape for instruction in body}
            for name, body in self.computations.items()
        }
        self.open: list[Counts] = []  # one round of each loop whose end depends on data
        self._known: dict[str, Counts] = {}

    def computation(self, name: str) -> Counts:
        """What a computation at top level (the entry, a loop's body) does once."""
        if name not in self._known:
            total = Counts()
            for instruction in self.computations[name]:
                self._count(instruction, name, total)
            self._known[name] = total
        return self._known[name]

    def _count(self, it: Instruction, inside: str, total: Counts) -> None:
        if it.op == "while":
            each = Counts()
            each.add(self.computation(it.called("body")))
            each.add(self.computation(it.called("condition")))
            trips = self._trips(it)
            if trips is None:
                self.open.append(each)
            else:
                total.add(each, trips)
        elif it.op == "conditional":
            names = re.findall(r"%([\w.\-]+)", (re.search(r"branch_computations=\{([^}]*)\}", it.rest) or ["", ""])[1])
            names = names or [it.called("true_computation"), it.called("false_computation")]
            total.add(max((self.computation(name) for name in names), key=lambda counts: counts.bytes))
        elif it.op == "call":
            total.add(self.computation(it.called("to_apply")))
        elif it.op not in FREE and not it.op.endswith(("-done", "-update")):
            total.bytes += self._bytes(it, inside)
            self._arithmetic(it, inside, total)

    def _arithmetic(self, it: Instruction, inside: str, total: Counts) -> None:
        """FLOPs and collectives of an instruction, and of what is fused into it."""
        shapes, kind = self.shapes[inside], it.op.removesuffix("-start")
        if it.op == "dot":
            total.flops += _dot_flops(it, shapes)
        elif it.op == "convolution":
            total.flops += _convolution_flops(it, shapes)
        elif it.op == "custom-call":
            given = [array for name in it.operands for array in arrays(shapes[name])]
            floats = [sizes for kind, sizes, _ in given if kind in ("bf16", "f32")]  # the others say what is masked
            total.flops += splash_flops(it.name, floats, self.own_tokens)
        elif kind in COLLECTIVES:
            amount = sum(size(*array[:2]) for name in it.operands for array in arrays(shapes[name]))
            members = group_size(it.rest, self.partitions)
            if kind == "all-reduce" and "all-reduce-scatter" in inside:
                kind = "reduce-scatter"  # how a TPU's program writes it
            sent = amount * _SENT[kind](members)
            total.collective_bytes[kind] += sent
            total.collectives[kind] += 1
            total.largest[kind] = max(total.largest[kind], sent)
        elif it.op in ("fusion", "async-start"):
            within = it.called("calls")
            goes_on = _in_flight(it) and not it.name.startswith(STARTS)
            for fused in self.computations[within]:
                if not (goes_on and fused.op in COLLECTIVES):
                    self._arithmetic(fused, within, total)

    def _bytes(self, it: Instruction, inside: str) -> float:
        shapes = self.shapes[inside]
        if it.op == "fusion":
            return self._fusion_bytes(it, shapes)
        if it.op == "custom-call" and "Bitcast" in it.rest:
            return 0.0
        return _plain_bytes(it, shapes)

    def _fusion_bytes(self, it: Instruction, shapes: dict[str, str]) -> float:
        name = it.called("calls")
        body, inner = self.computations[name], self.shapes[name]
        by_name = {instruction.name: instruction for instruction in body}
        root, total = next(instruction for instruction in body if instruction.root), 0.0
        results = [by_name[operand] for operand in root.operands] if root.op == "tuple" else [root]
        same = _in_flight(it)  # what a collective on its way hands on, and does not touch
        for number, (result, (kind, sizes, outside)) in enumerate(zip(results, arrays(it.shape), strict=False)):
            if number in same:
                continue
            target = _through(result, by_name)
            if target.op == "dynamic-update-slice":  # in place: what it puts, whatever the size of what it is put into
                kind, sizes, _ = arrays(inner[target.operands[1]])[0]
            total += size(kind, sizes) * outside
        for parameter in (instruction for instruction in body if instruction.op == "parameter"):
            if int(parameter.argument) in same.values():
                continue
            outer = hbm(shapes[it.operands[int(parameter.argument)]])
            total += min(self._read(parameter.name, name), outer) if outer else 0.0
        return total

    def _read(self, name: str, inside: str) -> float:
        """Bytes that fused code reads of one of its arrays: what slices give, nothing of what is updated in place."""
        inner = self.shapes[inside]
        whole, total = sum(size(*array[:2]) for array in arrays(inner[name])), 0.0
        if any(one.root and one.name == name for one in self.computations[inside]):
            return whole  # handed on under another name
        for user in (user for user in self.computations[inside] if name in user.operands):
            if user.op in ("bitcast", "reshape"):
                total += self._read(user.name, inside)
            elif user.op == "fusion":
                within = user.called("calls")
                numbers = {str(number) for number, operand in enumerate(user.operands) if operand == name}
                fused = self.computations[within]
                total += sum(self._read(i.name, within) for i in fused if i.op == "parameter" and i.argument in numbers)
            elif user.op in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
                total += sum(size(*array[:2]) for array in arrays(user.shape))
            elif not (user.op == "dynamic-update-slice" and user.operands[0] == name):
                return whole
        return min(total, whole)

    def _trips(self, it: Instruction) -> int | None:
        """How often a loop runs; None where that depends on data."""
        known = re.search(r'"known_trip_count":\s*\{"n":"(\d+)"', it.rest)
        if known:
            return int(known[1])
        body = self.computations[it.called("condition")]
        by_name = {instruction.name: instruction for instruction in body}
        root = next(instruction for instruction in body if instruction.root)
        sides = [by_name.get(name) for name in root.operands]
        if root.op == "fusion":  # compare is fused: its constant is an operand
            compared = next((i for i in self.computations[root.called("calls")] if i.op == "compare"), None)
            plain = compared is not None and "direction=LT" in compared.rest
        else:
            plain = root.op == "compare" and "direction=LT" in root.rest
        constants = [side for side in sides if side is not None and side.op == "constant"]
        counters = [side for side in sides if side is not None and side.op == "get-tuple-element"]
        if plain and len(constants) == len(counters) == 1 and len(sides) == 2:
            return -(-int(constants[0].argument) // self._step(it, counters[0]))
        return None

    def _step(self, it: Instruction, counter: Instruction) -> int:
        """What a loop's counter grows by a round: 2 where the compiler has unrolled a ring of sends."""
        body = {instruction.name: instruction for instruction in self.computations[it.called("body")]}
        root = next(instruction for instruction in body.values() if instruction.root)
        index = int(re.search(r"index=(\d+)", counter.rest)[1])
        grown = body.get(root.operands[index])
        added = [body[name] for name in grown.operands if name in body] if grown and grown.op == "add" else []
        return next((int(one.argument) for one in added if one.op == "constant"), 1)


def count(text: str, own_tokens: int = 0) -> tuple[Counts, list[Counts]]:
    """(what a program does outside of loops with an open end, one round of each such loop).

    ``own_tokens`` of a row behind a shared prompt: what a splash kernel's text does not say.
    """
    reader = Reader(text, own_tokens)
    return reader.computation(reader.entry), reader.open


def group_size(rest: str, partitions: int) -> int:
    """How many devices take part in each group of a collective; all where none are named."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return len(listed[1].split(","))
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]", rest)
    if counted:
        return int(counted[2])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))?\s*\{([^}]*)\}", rest)
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    pairs = re.search(r"source_target_pairs=", rest)
    return 2 if pairs else partitions


def _in_flight(it: Instruction) -> dict[int, int]:
    """{result: operand} of a fusion that carries a collective along: one that starts in an earlier fusion shows again.

    A TPU's program starts it in ``async-collective-start``, lets it go on beside products, and ends it in a third.
    """
    given = re.search(r"output_to_operand_aliasing=\{(.*?\))\}", it.rest)
    carries = it.name.startswith("async-collective") or "async_collective_fusion" in it.called("calls")
    if not given or not carries:
        return {}
    return {int(out or 0): int(operand) for out, operand in re.findall(r"\{(\d*)\}: \((\d+),", given[1])}


# bytes that a device sends, per byte it puts in, around a ring of n (Thakur et al. 2005)
_SENT = {
    "all-gather": lambda n: n - 1,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


def _plain_bytes(it: Instruction, shapes: dict[str, str]) -> float:
    given = hbm(it.shape)
    if it.op in ("dynamic-slice", "slice", "gather"):
        return given + (hbm(it.shape) if hbm(shapes[it.operands[0]]) else 0.0)
    if it.op == "dynamic-update-slice":
        return 2 * hbm(shapes[it.operands[1]])
    if it.op == "broadcast":
        return given
    if it.op in ("copy-start", "slice-start"):  # into or out of vector memory: the smaller end is what moves
        source = arrays(shapes[it.operands[0]])[0]
        target = next((one for one in arrays(it.shape) if one[2] != source[2] or one[1] != source[1]), source)
        moved = min(size(*source[:2]), size(*target[:2]))
        return moved * (source[2] + target[2])
    return given + sum(hbm(shapes[name]) for name in it.operands)


def _through(it: Instruction, by_name: dict[str, Instruction]) -> Instruction:
    """What an instruction renames."""
    while it.op in ("bitcast", "convert", "copy", "reshape") and it.operands and it.operands[0] in by_name:
        it = by_name[it.operands[0]]
    return it


def _dot_flops(it: Instruction, shapes: dict[str, str]) -> float:
    (_, left, _), (_, out, _) = arrays(shapes[it.operands[0]])[0], arrays(it.shape)[0]
    dimensions = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", it.rest)[1]
    return 2 * math.prod(out) * math.prod(left[int(at)] for at in dimensions.split(",") if at)


def _convolution_flops(it: Instruction, shapes: dict[str, str]) -> float:
    """2 · batch · output features · input features of a group · pairs of a window's place and an input it meets."""
    (_, left, _), (_, out, _) = arrays(shapes[it.operands[0]])[0], arrays(it.shape)[0]
    (_, kernel, _) = arrays(shapes[it.operands[1]])[0]
    into, filters, gives = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", it.rest).groups()
    window = dict(re.findall(r"(\w+)=([\w\-]+)", (re.search(r"window=\{([^}]*)\}", it.rest) or ["", ""])[1]))
    spatial = [label for label in into if label.isdigit()]

    def of(name, default):
        return window[name].split("x") if name in window else [default] * len(spatial)

    pairs = 1
    for label in spatial:
        at = int(label)
        low, high = map(int, of("pad", "0_0")[at].split("_"))
        stride, dilate, spread = (int(of(name, "1")[at]) for name in ("stride", "lhs_dilate", "rhs_dilate"))
        width, places = int(of("size", "1")[at]), out[gives.index(label)]
        reach = (left[into.index(label)] - 1) * dilate + 1
        met = 0
        for offset in range(0, width):
            start = offset * spread - low
            met += sum(
                1
                for place in range(places)
                if 0 <= start + place * stride < reach and (start + place * stride) % dilate == 0
            )
        pairs *= met
    batches = int((re.search(r"batch_group_count=(\d+)", it.rest) or [0, "1"])[1])
    batch, features = out[gives.index("b")], out[gives.index("f")]
    return 2 * batch * features * kernel[filters.index("i")] * pairs / (batches if batches > 1 else 1)
