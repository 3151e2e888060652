#!/usr/bin/env python3
"""What docs/serving.md shows is what a server does: every curl line runs, and gets the answer that stands below it; every path
and flag is there; memory is what it says."""
import contextlib
import json
import re
import shlex
import subprocess

import test_formats
from harness import ROOT, TIMEOUT_S, Case, main, run
from server import Server
from test_tiny import TINY

PAGE = (ROOT / "docs/serving.md").read_text()
ADDRESS = "http://127.0.0.1:8080"
CUT = "…"  # in an answer as shown: something is left out here


def shown_answers():
    """(curl line, the lines below it), in the page's order."""
    for block in re.findall(r"(?ms)^```\w*\n(.*?)^```$", PAGE):
        for part in block.split("\n\n"):
            line, *answer = part.strip().splitlines()
            if line.startswith("curl "):
                yield line, answer


def parsed(text):
    """JSON in which a bare CUT may stand for members of an object, elements of an array, or a value."""
    out, inside, before = [], [], ""
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|\s+|.', text):
        if token in ("{", "["):
            inside.append(token)
        elif token in ("}", "]"):
            inside.pop()
        if not token.isspace():
            value = json.dumps(CUT)
            if token == CUT:
                token = f"{value}: 0" if inside[-1] == "{" and before != ":" else value
            before = token
        out.append(token)
    return json.loads("".join(out))


def is_text(shown, found):
    return re.fullmatch(".*".join(map(re.escape, shown.split(CUT))), found, re.S) is not None


def is_as_shown(shown, found):
    if shown == CUT:
        return True
    if isinstance(shown, dict):
        rest = set(shown) - {CUT}
        return isinstance(found, dict) and (rest <= set(found) if CUT in shown else rest == set(found)) and \
            all(is_as_shown(shown[key], found[key]) for key in rest)
    if isinstance(shown, list):
        whole = CUT not in shown
        return isinstance(found, list) and (len(shown) == len(found) if whole else len(shown) <= len(found) + 1) and \
            all(is_as_shown(a, b) for a, b in zip(shown, found))
    if isinstance(shown, str):
        return isinstance(found, str) and is_text(shown, found)
    if isinstance(shown, float):
        return isinstance(found, float) and abs(shown - found) < 0.05
    return type(shown) is type(found) and shown == found


def is_line(shown, found):
    if shown.startswith("data: {"):
        return found.startswith("data: {") and is_as_shown(parsed(shown[6:]), json.loads(found[6:]))
    return is_text(shown, found)


class Serving(Case):
    def check(self, line, shown, body):
        if shown and shown[0].startswith("{"):
            self.assertEqual(len(shown), 1, line)
            self.assertTrue(is_as_shown(parsed(shown[0]), json.loads(body)), f"{line}\nshows {shown[0]}\nfound {body}")
            return
        self.assertTrue(shown, line)
        found = [part for part in body.splitlines() if part]
        if '"stream": true' in line:
            self.assertEqual(found[-1], "data: [DONE]")
        for part in shown:  # all of them, in this order; there may be others between
            if part == CUT:
                continue
            at = next((i for i, other in enumerate(found) if is_line(part, other)), None)
            self.assertIsNotNone(at, f"{line}\nshows {part}\nfound {body}")
            del found[:at + 1]

    def test_curl_lines(self):
        paths, servers = set(), {}
        with contextlib.ExitStack() as stack:
            for line, shown in shown_answers():
                parts = shlex.split(line)
                url = next(part for part in parts if part.startswith(ADDRESS))
                paths.add(url.removeprefix(ADDRESS))
                name = json.loads(parts[-1]).get("model") if "--json" in parts else None
                name = name or "qnext-tiny-instruct"
                if name not in servers:
                    servers[name] = stack.enter_context(Server(model=TINY / f"{name}.gguf"))
                parts[parts.index(url)] = servers[name].url.removesuffix("/v1") + url.removeprefix(ADDRESS)
                done = subprocess.run([*parts, "-sS", "-w", "\n%{http_code}"], capture_output=True, timeout=TIMEOUT_S)
                self.assertEqual(done.returncode, 0, (line, done.stderr))
                body, _, status = done.stdout.decode().rpartition("\n")
                self.assertEqual(status, "200", (line, body))
                self.check(line, shown, body)
            document = servers["qnext-tiny-instruct"].raw("GET", "/openapi.json")[1]
        documented = {path.replace("{id}", "qnext-tiny-instruct") for path in document["paths"]}
        self.assertLessEqual(documented - {"/app.js", "/app.css"}, paths)
        self.assertEqual(len(re.findall("(?m)^ *curl ", PAGE)), len(list(shown_answers())))  # none stands where it is not looked for

    def test_what_is_shown_is_compared(self):
        for shown, found, same in (
                ('{"a": 1, …}', {"a": 1, "b": 2}, True), ('{"a": 1}', {"a": 1, "b": 2}, False), ('{…, "a": "x…z"}', {"a": "xyz"}, True),
                ('{"a": …}', {"a": [1]}, True), ('[1, …]', [1, 2, 3], True), ('[1]', [1, 2], False), ('[…]', [], True),
                ('{"a": -0.07}', {"a": -0.0688}, True), ('{"a": -0.2}', {"a": -0.0688}, False), ('"a{…"', "a{b", True),
                ('{"a": "{…", …}', {"a": "b"}, False), ('{"a": 1}', {"a": True}, False), ('{"a": null}', {"a": None}, True)):
            self.assertEqual(is_as_shown(parsed(shown), found), same, (shown, found))

    def test_memory(self):
        """Tuning's arithmetic: what inspect says of the 80B, and the sums of the examples."""
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
        units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

        def shown(label, column):
            number, unit = next(row for row in rows if row[0] == label)[column].split()
            return float(number) * units[unit]

        (self.folder / "config.json").write_text(json.dumps(test_formats.Inspect.CONFIG_80B))
        memory = self.ok_json("inspect", self.folder / "config.json", "--context", "32K")["memory"][0]
        self.assertAlmostEqual(shown("a state, whatever the context", 1), memory["state_bytes"], delta=2**16)
        per_token = {}
        for column, kind in enumerate(("f32", "i16", "bf16", "q8_0"), 1):
            kv = memory[f"kv_{kind}_bytes"]
            self.assertEqual(shown("K/V of 32K tokens, without it", column), kv)
            self.assertEqual(shown("K/V of a token", column), kv / 2**15)
            per_token[kind] = kv / 2**15 * 13 / 12
            mtp = next(row[column] for row in rows if row[0].startswith("with the MTP block"))
            self.assertAlmostEqual(float(mtp.split()[0]) * 2**10, per_token[kind], delta=2**7)
        count = 0
        for flags, sizes, note in (row for row in rows if len(row) == 3 and "--parallel" in row[0] and row[1].endswith("GiB")):
            value = {"parallel": "4", "context": "16K", "kv-type": "f32", "draft": "2", "prefix-cache": "2G"} | dict(
                re.findall(r"--([a-z-]+) (\w+)", flags))
            size = {name: int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]]
                    for name, text in value.items() if text[-1] in "KMG"}
            at_once, prefixes = int(value["parallel"]), size["prefix-cache"] // memory["state_bytes"]
            expected = (at_once * size["context"] * per_token[value["kv-type"]],
                        at_once * (1 + int(value["draft"])) * memory["state_bytes"], prefixes * memory["state_bytes"])
            for part, found in zip(sizes.removesuffix("GiB").split("+"), expected, strict=True):
                self.assertAlmostEqual(float(part), found / 2**30, delta=0.051, msg=flags)
            if "prefixes" in note:
                self.assertIn(f"{prefixes} prefixes", note)
            count += 1
        self.assertEqual(count, 5)

    def test_flags(self):
        """Each of the command's own flags is in the table, and each of the table's is a flag."""
        named = set(re.findall(r"--[a-z][a-z-]+", re.search(r"## Flags\n(.*?)\n## ", PAGE, re.S)[1]))
        offered = set(re.findall(r"(?m)^\s+(?:-h,)?(--[a-z][a-z-]+)", run("serve", "--help").stdout.decode())) - {"--help"}
        self.assertEqual(named, offered)


if __name__ == "__main__":
    main()
