# SPDX-License-Identifier: Apache-2.0
"""Compares our declarations of NVIDIA's ABI with NVIDIA's headers: usage abi.py SOURCE BUILD [SCRATCH].

A program compiled with our headers tells every size, offset and value; static asserts of them are compiled against each of
NVIDIA's headers, then our prototypes and plain typedefs, so that the compiler rejects what differs. What an older header does not
have yet is left out for it; the newest header must know everything. Exit status 1 and the compiler's words when something differs.
"""
import pathlib
import re
import subprocess
import sys

import headers

OURS = {"cuda": ("cuda_types.h", "cuda_functions.h"), "nvml": ("nvml_types.h", "nvml_functions.h")}
# Exported but in no header that is compared (in none of NVIDIA's, or in companions that need other interfaces' headers); whoever
# changes these has no compiler to tell.
UNDECLARED = {"nvmlInternalGetExportTable", "cuGLCtxCreate", "cuGLCtxCreate_v2", "cuVDPAUCtxCreate", "cuVDPAUCtxCreate_v2"}
# What was otherwise before a version, and why it does no harm. Everything else must agree with every header.
INSIDE_UNION = "grew inside a union of fixed size, whose own size is compared"
DIFFERS = [
    (r".*\b(CUDA_HOST|CUDA_EXT_SEM_SIGNAL|CUDA_EXT_SEM_WAIT)_NODE_PARAMS_v2\)", 13050, INSIDE_UNION),
    (r".*\bCUDA_EVENT_RECORD_NODE_PARAMS\)", 13050, INSIDE_UNION),
    (r".*\bCUgraphNodeParams \*\)0\)->(host|eventRecord|extSemSignal|extSemWait)\)", 13050, INSIDE_UNION),
    (r".*\bCUdevSmResource\)|.*\bCUdevResource_v1 \*\)0\)->(sm|_oversize)\)", 13050, INSIDE_UNION),
    (r".*\bCUmemPoolProps_v1\b.*\breserved\)", 13050, "a member was taken from the reserve"),
    (r"typedef struct nvmlProcessInfo_v2_st nvmlProcessInfo_t|nvmlDeviceGet(Compute|Graphics|MPSCompute)RunningProcesses_v3", 12020,
     "a struct of its own, of the same size"),
    (r"sizeof\(CUDA_KERNEL_NODE_PARAMS\)", 12000, "the name without a version meant version 1"),
    (r".*\bCU_CTX_FLAGS_MASK\b", 12010, "a mask of all flags grows with them"),
    (r".*\bCU_DEVICE_ATTRIBUTE_CAN_USE_(64_BIT_STREAM_MEM_OPS|STREAM_WAIT_VALUE_NOR)\b", 12000, "renumbered with version 2 of these calls"),
]
TOKEN = re.compile(r"[A-Za-z_]\w*|\d\w*|\"[^\"]*\"|\.\.\.|<<|>>|##|[^\s]")


def compiler(*arguments, **options):
    return subprocess.run([headers.COMPILER, "-std=gnu11", *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)


class Declarations:
    """What a C header declares: structs with the paths of their members, enumerators, plain typedefs, prototypes."""

    def __init__(self, text):
        self.structs, self.enumerators, self.typedefs, self.prototypes = {}, [], [], {}
        self.tokens, self.at = TOKEN.findall(text), 0
        while self.at < len(self.tokens):
            self.declaration()

    def take(self):
        self.at += 1
        return self.tokens[self.at - 1]

    def peek(self, ahead=0):
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def until_semicolon(self):
        start, depth = self.at, 0
        while self.at < len(self.tokens):
            token = self.take()
            depth += (token in "([{") - (token in ")]}")
            if token == ";" and depth == 0:
                break
        return self.tokens[start:self.at - 1]

    def body(self):
        """At struct, union or enum: (kind, tag, members or None), past the closing brace."""
        kind, tag = self.take(), ""
        while self.peek() == "__attribute__":
            self.take()
            self.parenthesis()
        if re.match(r"[A-Za-z_]", self.peek()):
            tag = self.take()
        if self.peek() != "{":
            return kind, tag, None
        self.take()
        members = []
        if kind == "enum":
            start = True
            while self.peek() != "}":
                token = self.take()
                if start:
                    self.enumerators.append(token)
                start = token == ","
        else:
            while self.peek() != "}":
                members += self.member()
        self.take()
        return kind, tag, members

    def parenthesis(self):
        depth = 0
        while True:
            token = self.take()
            depth += (token == "(") - (token == ")")
            if depth == 0:
                return

    def member(self):
        if self.peek() in ("struct", "union", "enum"):
            kind, _, inner = self.body()
            parts = split(self.until_semicolon())
            names = [declarator_name(part) for part in parts]
            if inner is None or kind == "enum":
                return names
            elements = [name + "[0]" * ("[" in part) for name, part in zip(names, parts)]
            return inner if not names else names + [f"{element}.{below}" for element in elements for below in inner]
        parts = split(self.until_semicolon())
        return [declarator_name(part) for part in parts if ":" not in part]

    def declaration(self):
        if self.peek() == "extern" and self.peek(1).startswith('"'):
            self.at += 3  # extern "C" {
            return
        typedef = self.peek() == "typedef"
        start = self.at
        self.at += typedef
        if self.peek() in ("struct", "union", "enum"):
            kind, tag, members = self.body()
            rest = self.until_semicolon()
            if members is None:
                if typedef:
                    self.plain_typedef(self.tokens[start + 1:self.at - 1])
                return
            if kind == "enum":
                if typedef:
                    self.structs.setdefault(rest[-1], [])
                return
            names = [declarator_name(part) for part in split(rest)] if typedef else [f"{kind} {tag}"]
            for name in names:
                self.structs.setdefault(name, members)
            return
        words = self.until_semicolon()
        if typedef:
            self.plain_typedef(words)
        elif "(" in words:
            self.prototypes.setdefault(words[words.index("(") - 1], " ".join(words) + ";")

    def plain_typedef(self, words):
        self.typedefs.append(" ".join(["typedef", *words, ";"]))
        self.structs.setdefault(declarator_name(words), [])


def split(tokens):
    parts, depth = [[]], 0
    for token in tokens:
        depth += (token in "([{") - (token in ")]}")
        if token == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def declarator_name(tokens):
    if "(" in tokens[:tokens.index("[") if "[" in tokens else None]:  # a pointer to a function: type (*name)(...)
        inner = tokens[tokens.index("(") + 1:]
        return next((token for token in inner if re.match(r"[A-Za-z_]", token)), None)
    until = tokens.index("[") if "[" in tokens else len(tokens)
    names = [token for token in tokens[:until] if re.match(r"[A-Za-z_]", token)]
    return names[-1] if names else None


def facts(ours, folder, types):
    """[(expression, value, what it needs)] that our header holds true; what it needs is a member's (type, path) or a name."""
    wanted = []
    for name, members in ours.structs.items():
        wanted.append((f"sizeof({name})", (name, None)))
        for path in members:
            wanted.append((f"__builtin_offsetof({name}, {path})", (name, path)))
            wanted.append((f"sizeof((({name} *)0)->{path})", (name, path)))
    wanted += [(f"(long long)({name})", name) for name in ours.enumerators]
    macros = re.findall(r"^#define (\w+) (?!\\)", types.read_text(), re.M)
    wanted += [(f"(long long)({name})", name) for name in macros]
    source = f'#include "{types}"\n#include <stdio.h>\nint main(void)\n{{\n'
    source += "".join(f'\tprintf("%lld\\n", (long long)({expression}));\n' for expression, _ in wanted) + "}\n"
    program = folder / f"{types.stem}_facts"
    program.with_suffix(".c").write_text(source)
    built = compiler("-O0", "-o", str(program), str(program.with_suffix(".c")))
    if built.returncode != 0:
        sys.exit(f"our own {types} does not compile:\n{built.stdout}")
    values = subprocess.run([program], check=True, text=True, stdout=subprocess.PIPE).stdout.split()
    return [(expression, int(value), needs) for (expression, needs), value in zip(wanted, values)]


def compare(header, ours, known, folder):
    """The compiler's complaints about one of NVIDIA's headers, and the facts and prototypes that it does not know."""
    theirs, words = Declarations(header.declarations()), header.words()
    lines = [f"#include <{header.stem}.h>"]
    unknown, asserted = [], 0

    def excused(what):
        return any(header.version < version and re.match(pattern, what) for pattern, version, _ in DIFFERS)

    for expression, value, needs in known:
        if isinstance(needs, tuple):
            name, path = needs
            there = name in theirs.structs and (path is None or path in theirs.structs[name])
        else:
            there = needs in words
        if not there:
            unknown.append(expression)
        elif not excused(expression):
            lines.append(f'_Static_assert((long long)({expression}) == {value}, "{expression} is {value} in ours");')
            asserted += 1
    for typedef in ours.typedefs:
        if not set(re.findall(r"[A-Za-z_]\w*", typedef)) <= words | argument_names(typedef):
            unknown.append(typedef)
        elif not excused(typedef):
            lines.append(typedef)
            asserted += 1
    for name, prototype in ours.prototypes.items():
        if name in UNDECLARED:
            continue
        if name not in theirs.prototypes:
            unknown.append(prototype)
        elif not excused(name):
            lines.append(prototype)
            asserted += 1
    source = folder / f"{header.stem}_{header.version}_{header.source.split()[-1]}.c"
    source.write_text("\n".join(lines) + "\n")
    result = compiler("-fsyntax-only", "-Wno-deprecated-declarations", "-I", str(header.include), *headers.EXACT_NAMES[header.stem], str(source))
    return result, unknown, asserted


def argument_names(typedef):
    """Names of a function type's arguments: they mean nothing."""
    return set(re.findall(r"(\w+) ?[,)]", typedef))


def main(source, build, scratch=None):
    source, folder = pathlib.Path(source).resolve(), pathlib.Path(scratch or pathlib.Path(build) / "abi").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found, failed = headers.headers(build), False
    for library, (types_name, functions_name) in OURS.items():
        types, functions = (source / "src/preload/abi" / name for name in (types_name, functions_name))
        ours = Declarations(re.sub(r"^#.*(\\\n.*)*|//.*", "", types.read_text() + functions.read_text(), flags=re.M))
        known = facts(ours, folder, types)
        of_library = [header for header in found if header.stem == library]
        newest = max(header.version for header in of_library)
        for header in of_library:
            result, unknown, asserted = compare(header, ours, known, folder)
            print(f"{header}: {asserted} facts hold, {len(unknown)} not in this version" if result.returncode == 0 else f"{header}: DIFFERS\n{result.stdout}")
            failed |= result.returncode != 0
            if header.version == newest and header.source != "toolkit" and unknown:
                print(f"{header}: does not know, although it is the newest:\n  " + "\n  ".join(unknown))
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
