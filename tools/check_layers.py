#!/usr/bin/env python3
"""Enforces the shape of the house (docs/ARCHITECTURE.md): include arrows, words and calls that belong to one room,
budgets of files, functions and of the road of a token. Prints every breach and exits 1, or one line and exits 0.

usage: check_layers.py [--root DIR]
"""
import argparse
import pathlib
import re
import sys

# room -> rooms that it may include (itself always).
ARROWS = {
    "base": set(),
    "corpus": {"base"},
    "tensor": {"base"},
    "kernels": {"base", "tensor"},
    "text": {"base"},
    "model": {"base", "tensor", "kernels"},
    "engine": {"base", "tensor", "kernels", "model", "text"},
    "server": {"base", "text", "engine"},
    "eval": {"base", "tensor", "kernels", "model", "text", "engine"},
    "train": {"base", "tensor", "text", "kernels", "model"},  # of model/ the config, of kernels/ the bf16 product
    "apps": {"base", "tensor", "kernels", "model", "text", "engine", "server", "eval"},
    "train_apps": {"base", "corpus", "tensor", "text", "kernels", "model", "engine", "train", "apps"},
}

# (what, pattern, rooms where it may stand); tests are free, except for the words.
RULES = [
    ("intrinsics or Highway", r'#include\s*[<"](hwy/|immintrin|x86intrin|arm_neon)', {"kernels", "base/thread_pool.cc"}),
    ("starting a thread", r"\bstd::j?thread\b(?!::)", {"base"}),
    ("reading the environment", r"\b(secure_)?getenv\s*\(", {"base"}),
    ("a listening socket", r"\blisten\s*\(", {"server"}),
    ("printing", r"\b(printf|puts|fputs|putchar|fmt::print)\s*\(|\bstd::(cout|cerr|clog)\b|\bspdlog::", {"apps", "train_apps", "base/check.cc"}),
    ("exiting", r"\b(std::)?(exit|_exit|quick_exit)\s*\(", {"apps", "train_apps"}),
    ("a mutex", r"\bstd::(recursive_|shared_)?mutex\b", {"server", "base"}),
]
WORDS = [
    ("kernels", r"(?i)qwen"),
    ("model", r"\b[rR]equests?\b|\bRequest\w+"),
    ("engine", r"(?i)json"),
    ("server", r"(?i)\btensors?\b"),
]
FILE_HARD, FILE_SOFT = 600, 400
FUNCTION_LINES = 60
ROAD_FILES, ROAD_LINES = 16, 4500


def is_test(path):
    return path.name.endswith(("_test.cc", "_test.h")) or path.name in ("compare.h", "test_support.h", "slow_twin.h")


def code_only(line):
    """The line without its // comment and without the insides of string literals."""
    line = re.sub(r'"(\\.|[^"\\])*"', '""', line)
    return line.split("//", 1)[0]


def check_file(path, rel, breaches):
    room = rel.parts[1]
    lines = path.read_text().splitlines()
    if len(lines) > FILE_HARD:
        breaches.append(f"{rel}: {len(lines)} lines, at most {FILE_HARD}")
    for number, line in enumerate(lines, 1):
        include = re.match(r'#include "([^"/]+)/', line)
        if include and include[1] in ARROWS and include[1] != room and include[1] not in ARROWS[room]:
            breaches.append(f"{rel}:{number}: {room}/ must not include {include[1]}/")
        code = line if line.startswith("#include") else code_only(line)
        for what, pattern, allowed in RULES:
            here = {room, "/".join(rel.parts[1:])}
            if not is_test(path) and not (here & allowed) and re.search(pattern, code):
                breaches.append(f"{rel}:{number}: {what} belongs to {', '.join(sorted(allowed))}")
        for word_room, pattern in WORDS:
            if room == word_room and not is_test(path) and re.search(pattern, code_only(line)):
                breaches.append(f"{rel}:{number}: {room}/ must not speak of {re.search(pattern, line)[0]}")
    for name, first, count in long_functions(lines):
        breaches.append(f"{rel}:{first}: function of {count} lines, at most {FUNCTION_LINES}: {name}")


NOT_FUNCTIONS = re.compile(r"\s*(namespace|class|struct|enum|union|extern|template\s*<.*>\s*(class|struct))\b")


def long_functions(lines):
    """Functions over the budget, by clang-format's layout: a head at column 0, or at 2 inside a class, whose lines end in
    "{", up to the "}" at the same column."""
    lines = [code_only(line).rstrip() for line in lines]
    in_class, start, column, head = False, None, "", ""
    for number, line in enumerate(lines, 1):
        if start is not None:
            if re.fullmatch(column + r"\}[;]?", line):
                if number - start + 1 > FUNCTION_LINES and "(" in head:
                    yield head, start, number - start + 1
                start = None
            elif line.endswith(";") and not any(part.endswith("{") for part in lines[start - 1:number]):
                start = None  # a declaration
            continue
        if re.match(r"(template\s*<.*>\s*)?(class|struct)\b.*\{$", line):
            in_class = True
        elif line == "};":
            in_class = False
        for candidate in [""] + (["  "] if in_class else []):
            begins = line.startswith(candidate) and line[len(candidate):len(candidate) + 1] not in ("", " ", "}", "#", "/", ":")
            if begins and not line.endswith(";") and not NOT_FUNCTIONS.match(line):
                start, column, head = number, candidate, line.strip()


def check_road(root, breaches):
    road = [line.split("#")[0].strip() for line in (root / "tools/road.txt").read_text().splitlines()]
    files = [root / "src" / name for name in road if name]
    for path in files:
        if not path.is_file():
            breaches.append(f"tools/road.txt: no file {path.relative_to(root)}")
    files = [path for path in files if path.is_file()]
    total = sum(len(path.read_text().splitlines()) for path in files)
    if len(files) > ROAD_FILES:
        breaches.append(f"the road of a token has {len(files)} files, at most {ROAD_FILES}")
    if total > ROAD_LINES:
        breaches.append(f"the road of a token has {total} lines, at most {ROAD_LINES}")
    return len(files), total


def check(root):
    """All breaches below root, and a summary."""
    breaches, count = [], 0
    for path in sorted((root / "src").rglob("*")):
        if path.suffix not in (".cc", ".h"):
            continue
        rel = path.relative_to(root)
        count += 1
        if rel.parts[1] not in ARROWS:
            breaches.append(f"{rel}: no such room")
            continue
        check_file(path, rel, breaches)
    road_files, road_lines = check_road(root, breaches)
    return breaches, f"{count} files; the road of a token: {road_files} of {ROAD_FILES} files, {road_lines} of {ROAD_LINES} lines"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    breaches, summary = check(parser.parse_args().root)
    for breach in breaches:
        print(breach)
    print(f"check_layers: {len(breaches)} breaches in {summary}" if breaches else f"check_layers: {summary}")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
