"""Metal's language on any machine: source checked, turned into C++ and compiled by clang.

clang's address spaces are types of their own, as Metal's are, so it refuses the pointers that Metal
refuses; what else Metal lacks (recursion, double, pointers that name no space, …) is looked for in
the text. Headers in tests/metal give the types and functions; threads run as `fake_metal` has them.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgellm_backends.cpu import compiler, library, target

SHIM = Path(__file__).with_name("metal")
FLAGS = (
    *("-x", "c++", "-std=c++14", "-O1", "-fPIC", "-ffp-contract=off", "-fno-math-errno"),
    *("-fno-exceptions", "-fno-rtti", "-nostdinc", f"-I{SHIM}", "-fvisibility=hidden"),
    *("-Wall", "-Wvla", "-Werror", "-Wno-unknown-attributes", "-Wno-unknown-warning-option"),
    *("-Wno-unused-function", "-Wno-unused-variable", "-Wno-unused-but-set-variable"),
    *("-Wno-duplicate-decl-specifier", "-Wno-unused-const-variable", "-Wno-pass-failed"),
)
SPACES = ("device", "constant", "threadgroup", "thread")
SCALARS = (
    *("float", "half", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong"),
    *("bool", "void", "auto", "size_t", "int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t"),
    *("uint32_t", "int64_t", "uint64_t"),
)
VECTORS = [f"{name}{count}" for name in SCALARS for count in (2, 3, 4)]
TYPES = {*SCALARS, *VECTORS, *(f"packed_{name}" for name in VECTORS)}
LACKING = {
    "double": "there is no double",
    "goto": "there is no goto",
    "new": "there is no new",
    "delete": "there is no delete",
    "virtual": "there are no virtual functions",
    "try": "there are no exceptions",
    "throw": "there are no exceptions",
    "dynamic_cast": "there is no dynamic_cast",
    "typeid": "there is no typeid",
    "thread_local": "there is no thread_local",
    "asm": "there is no asm",
    "std": "there is no C++ library",
    "main": "main is no name for a function",
    "vertex": "vertex is a word of the language",
    "fragment": "fragment is a word of the language",
}
POSITIONS = {
    "thread_position_in_grid": "shim::three(t->group) * shim::three(t->size)"
    " + shim::three(t->local)",
    "threadgroup_position_in_grid": "shim::three(t->group)",
    "thread_position_in_threadgroup": "shim::three(t->local)",
    "threads_per_threadgroup": "shim::three(t->size)",
    "threadgroups_per_grid": "shim::three(t->groups)",
    "threads_per_grid": "shim::three(t->groups) * shim::three(t->size)",
    "thread_index_in_threadgroup": "shim::flat(t->local, t->size)",
    "thread_index_in_simdgroup": "shim::flat(t->local, t->size) % SIMD_WIDTH",
    "simdgroup_index_in_threadgroup": "shim::flat(t->local, t->size) / SIMD_WIDTH",
    "threads_per_simdgroup": "(uint)SIMD_WIDTH",
    "simdgroups_per_threadgroup": "(t->size[0] * t->size[1] * t->size[2] + SIMD_WIDTH - 1)"
    " / SIMD_WIDTH",
}
IN_STEP = re.compile(r"\b(threadgroup_barrier|simdgroup_barrier|simd_\w+)\b")
BUFFERS = 31
"""Buffers that a function may have."""


class MetalError(Exception):
    """What Metal's compiler would refuse."""


@dataclass(frozen=True)
class Function:
    head: str
    body: str
    name: str

    @property
    def is_kernel(self) -> bool:
        return re.search(r"\bkernel\b", self.head) is not None


def plainest() -> target.Processor:
    """What any processor of this machine's kind runs: the cache may move between them."""
    return [each for each in target.TARGETS if not target.missing(each)][-1]


def tools() -> library.Toolchain:
    """Raises BackendError where there is no clang."""
    return library.toolchain(plainest())


def compiled(source: str) -> Path:
    """A shared object with the kernels of Metal source, from the cache where it was made before.

    Raises MetalError for what Metal would refuse, BackendError where there is no clang.
    """
    processor, chain = plainest(), tools()
    parts = [source, chain.identity(), repr(FLAGS)]
    parts += [path.read_text() for path in (Path(__file__), *sorted(SHIM.iterdir()))]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    path = compiler.cache_folder() / "metal" / f"{key}.so"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        cxx, made, linked = (Path(folder) / name for name in ("k.cpp", "k.o", "k.so"))
        cxx.write_text(translated(preprocessed(chain.compiler, source)))
        name = f"--target={processor.machine}-unknown-linux-gnu"
        command = [*chain.compiler, "-c", name, *processor.options, *FLAGS, str(cxx), "-o"]
        _run([*command, str(made)])
        halves = library.compiled(chain, processor, library.KERNELS / "half.c")
        library._link(chain, processor, [made, halves], linked)
        os.replace(linked, path)
    return path


def preprocessed(command: tuple[str, ...], source: str) -> str:
    """The source after its own macros; the standard library's header is left out."""
    without, found = re.subn(r"^\s*#\s*include\s*<metal_stdlib>\s*$", "", source, flags=re.M)
    if not found:
        raise MetalError("the source doesn't include <metal_stdlib>")
    flags = ("-E", "-P", "-undef", "-nostdinc", "-x", "c++", "-D__METAL_VERSION__=310", "-")
    return _run([*command, *flags], without)


def _run(command: list[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise MetalError(said[0])
    return done.stdout


def translated(source: str) -> str:
    """C++ of preprocessed Metal source: the same text, its threadgroup memory made static, and what
    runs each kernel. Raises MetalError."""
    for word in re.findall(r"\b[A-Za-z_]\w*\b", source):
        if word in LACKING:
            raise MetalError(LACKING[word])
    if re.search(r"\blong\s+(long|double)\b", source):
        raise MetalError("there is no long long")
    if re.search(r"[\[]\s*[&=]?\s*\]\s*\(", source):
        raise MetalError("there are no lambdas")
    _check_pointers(source)
    functions = list(_functions(source))
    names = {function.name for function in functions}
    called = {each.name: set(re.findall(r"\b(\w+)\s*\(", each.body)) & names for each in functions}
    _check_recursion(called)
    stepping = {each.name for each in functions if IN_STEP.search(each.body)}
    while more := {name for name in called if called[name] & stepping} - stepping:
        stepping |= more
    text = source
    for function in functions:
        shared = re.sub(
            r"(?<=[;{}])(\s*)threadgroup\s+(?=(?:const\s+)?\w+\s+\w+\s*\[|\w+\s+\w+\s*;)",
            rf'\1static __attribute__((used, section("shared_{function.name}"))) threadgroup ',
            function.body,
        )
        if shared != function.body and not function.is_kernel:
            raise MetalError(f"{function.name}: only kernels declare threadgroup memory")
        text = text.replace(function.head + function.body, function.head + shared, 1)
    kernels = [_runner(each, each.name in stepping) for each in functions if each.is_kernel]
    if not kernels:
        raise MetalError("there are no kernels")
    found = [re.search(r"metal_of_(\w+)", kernel) for kernel in kernels]
    table = ", ".join(f"metal_of_{match.group(1)}" for match in found if match)
    visible = '__attribute__((visibility("default")))'
    return "\n".join(
        [
            "#include <metal_stdlib>",
            text,
            f'extern "C" {visible} MetalSteps metal_steps;\nMetalSteps metal_steps;',
            *kernels,
            f'extern "C" {visible} const MetalKernel metal_kernels[] = {{{table}, {{}}}};',
            "",
        ]
    )


def _check_pointers(source: str) -> None:
    """Pointers and references name their address space."""
    structs = set(re.findall(r"\b(?:struct|typename|class)\s+(\w+)", source))
    types = "|".join(sorted(TYPES | structs, key=len, reverse=True))
    for match in re.finditer(rf"\b({types})\s*(?:const\s*)?(\*|&(?!&))", source):
        start = max(source.rfind(mark, 0, match.start()) for mark in ";{}(,<")
        declared = source[start + 1 : match.start()]
        if not any(re.search(rf"\b{space}\b", declared) for space in SPACES):
            raise MetalError(f"{match.group()!r} names no address space")


def _functions(source: str) -> Iterator[Function]:
    """Those with a body, in order."""
    at = begin = 0
    while at < len(source):
        if source[at] == ";":
            begin = at + 1
        elif source[at] == "{":
            end = _closing(source, at, "{}")
            head = source[begin:at]
            plain = re.sub(r"\[\[.*?\]\]|__attribute__\s*\(\(.*?\)\)", "", head)
            name = re.search(r"\b(\w+)\s*\(", plain)
            if name and "=" not in plain:
                yield Function(head, source[at:end], name.group(1))
            at = begin = end
            continue
        at += 1


def _closing(source: str, at: int, pair: str) -> int:
    """The place after what closes the bracket at a place."""
    depth = 0
    for place in range(at, len(source)):
        depth += (source[place] == pair[0]) - (source[place] == pair[1])
        if depth == 0:
            return place + 1
    raise MetalError(f"a {pair[0]} is never closed")


def _check_recursion(called: dict[str, set[str]]) -> None:
    reached = {name: set(others) for name, others in called.items()}
    for _ in reached:
        for others in reached.values():
            others |= set().union(*(reached[name] for name in others))
    for name, others in reached.items():
        if name in others:
            raise MetalError(f"{name} calls itself")


def _runner(kernel: Function, in_step: bool) -> str:
    """What calls a kernel for one thread, and its entry in the table."""
    plain = kernel.head[kernel.head.index(kernel.name) :]
    at = plain.index("(")
    given = plain[at + 1 : _closing(plain, at, "()") - 1]
    arguments, parameters, taken = [], [], set[int]()
    for text in filter(str.strip, re.split(r",(?![^(\[<]*[)\]>])", given)):
        attributes = re.findall(r"\[\[\s*(.*?)\s*\]\]", text) or [""]
        declared = re.sub(r"\[\[.*?\]\]|\b__?restrict(?:__)?\b", "", text).strip()
        match = re.fullmatch(r"(.*?)(\w+)", declared, re.S)
        if match is None:
            raise MetalError(f"{kernel.name}: no parameter is {text!r}")
        kind, name = match.group(1).strip(), match.group(2)
        if kind.endswith(("*", "&")):
            index = _index(f"{kernel.name}: {name}", kind, attributes[0], taken)
            taken.add(index)
            pointed, by_value = kind[:-1].strip(), kind.endswith("&")
            arguments.append(f"{'*' if by_value else ''}(({pointed} *)b[{index}])")
            size = f"sizeof({pointed})" if by_value else "0"
            parameters.append(f'{{{index}, {size}, alignof({pointed}), "{name}"}}')
        elif attributes[0] in POSITIONS:
            arguments.append(f"shim::position<{kind}>({POSITIONS[attributes[0]]})")
        else:
            raise MetalError(f"{kernel.name}: {name} is neither a buffer nor a position")
    name, shared = kernel.name, f"shared_{kernel.name}"
    ends, external = "nullptr, nullptr", ""
    if re.search(r"(?<=[;{}])\s*threadgroup\s", kernel.body):
        ends = f"(char *)&__start_{shared}, (char *)&__stop_{shared}"
        external = f'extern "C" char __start_{shared}, __stop_{shared};\n'
    listed = ", ".join(parameters) or "{}"
    return (
        f"{external}static void run_{name}(void *const *b, const MetalThread *t) {{\n"
        f"    {name}({', '.join(arguments)});\n}}\n"
        f"static const MetalParameter parameters_{name}[] = {{{listed}}};\n"
        f'#define metal_of_{name} {{"{name}", run_{name}, {int(in_step)}, {ends}, '
        f"{len(parameters)}, parameters_{name}}}\n"
    )


def _index(what: str, kind: str, attribute: str, taken: set[int]) -> int:
    """Where a kernel's buffer is bound: as it says, else at the first place that is free."""
    numbered = re.fullmatch(r"buffer\s*\(\s*(\d+)\s*\)", attribute)
    if (attribute and not numbered) or re.search(r"\bthreadgroup\b", kind):
        raise MetalError(f"{what} is no buffer")
    free = next(place for place in range(BUFFERS + 1) if place not in taken)
    index = int(numbered.group(1)) if numbered else free
    if index in taken or index >= BUFFERS:
        raise MetalError(f"{what} can't be buffer {index}")
    return index
