"""What a compiled program computes and sends between devices, read from its text.

XLA prints the partitioned program one instruction a line; loops say how often they run.
"""

import math
import re
from typing import NamedTuple

import jax

KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
HOST = ("infeed", "outfeed", "send", "recv")  # instructions that wait for the host

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALL = re.compile(
    r"(?:body|condition|to_apply|calls|branch_computations)=\{?%?([\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NAMED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\S+)")
_DOT = re.compile(r" = (\S+) dot\(%?([\w.\-]+),.*lhs_contracting_dims=\{([\d,]*)\}")
_ARRAY = re.compile(r"\b(pred|[subf]\w*?(\d+)\w*)\[([\d,]*)\]")


class Work(NamedTuple):
    """What one run of a program does on one device.

    Attributes:
      flops: of its matrix products, two for each multiplication.
      count: times a collective runs, by kind.
      size: bytes of the results of these, by kind.
    """

    flops: int
    count: dict[str, int]
    size: dict[str, int]


def work(compiled: jax.stages.Compiled) -> Work:
    """Count the products and the collectives of a compiled program, loops unrolled.

    Raises:
      ValueError: a collective in a loop of unknown length. Products in such a loop
        count once.
    """
    computations, entry = _read(compiled.as_text())
    flops, count = 0, dict.fromkeys(KINDS, 0)
    size = dict.fromkeys(KINDS, 0)

    def visit(name: str, times: int, is_known: bool) -> None:
        nonlocal flops
        lines = computations[name]
        shapes = {found[1]: found[2] for found in map(_NAMED.match, lines) if found}
        for line in lines:
            product = _DOT.search(line)
            if product:
                flops += times * _flops(product[1], shapes[product[2]], product[3])
            for kind in KINDS:
                found = re.search(rf" = (.*?) {kind}(?:-start)?\(", line)
                if found:
                    if not is_known:
                        raise ValueError(f"{kind} in a loop of unknown length: {line}")
                    count[kind] += times
                    size[kind] += times * _bytes(found[1])
            inner = times, is_known
            if " while(" in line:
                trips = _TRIPS.search(line)
                inner = (int(trips[1]) * times, is_known) if trips else (times, False)
            for called in _CALL.findall(line):
                visit(called, *inner)

    visit(entry, 1, True)
    seen = [{k: v for k, v in found.items() if v} for found in (count, size)]
    return Work(flops, *seen)


def host_instructions(compiled: jax.stages.Compiled) -> list[str]:
    """Instructions of a compiled program that move data to or from the host.

    Calls back into Python are custom calls whose target names them so.
    """
    return [
        line.strip()
        for line in compiled.as_text().splitlines()
        if any(f" {kind}(" in line for kind in HOST)
        or ("custom-call(" in line and "callback" in line)
    ]


def _read(text: str) -> tuple[dict[str, list[str]], str]:
    """Split a program into its computations; the name of the first to run."""
    computations: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif name:
            computations[name].append(line)
    return computations, entry


def _bytes(shape: str) -> int:
    """Bytes of `f32[2,3]{1,0}`, or of a tuple of such."""
    total = 0
    for kind, bits, sizes in _ARRAY.findall(shape):
        width = 8 if kind == "pred" else int(bits)
        total += math.prod(int(n) for n in sizes.split(",") if n) * width // 8
    return total


def _flops(result: str, left: str, contracted: str) -> int:
    """Operations of a product: two for each value of the result and inner index."""
    out, lhs = (
        [int(n) for n in _ARRAY.search(shape)[3].split(",") if n]
        for shape in (result, left)
    )
    inner = math.prod(lhs[int(axis)] for axis in contracted.split(",") if axis)
    return 2 * math.prod(out) * inner
