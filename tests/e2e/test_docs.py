#!/usr/bin/env python3
"""What docs/serving.md shows is what a server does: every curl line runs, every path and flag is there."""
import json
import re
import shlex
import subprocess

from harness import ROOT, TIMEOUT_S, Case, main, run
from server import Server

PAGE = (ROOT / "docs/serving.md").read_text()
ADDRESS = "http://127.0.0.1:8080"


class Serving(Case):
    def test_curl_lines(self):
        lines = [line for line in PAGE.splitlines() if line.startswith("curl ")]
        with Server("--name", "model-Q4_K_M") as server:
            paths = set()
            for line in lines:
                parts = shlex.split(line)
                url = next(part for part in parts if part.startswith(ADDRESS))
                paths.add(url.removeprefix(ADDRESS))
                at = parts.index(url)
                parts[at] = server.url.removesuffix("/v1") + url.removeprefix(ADDRESS)
                if "/chat/" in url and "max_tokens" not in line:  # the model has random weights: it may not end for long
                    parts[-1] = json.dumps({**json.loads(parts[-1]), "max_tokens": 8})
                done = subprocess.run([*parts, "-sS", "--fail-with-body"], capture_output=True, timeout=TIMEOUT_S)
                self.assertEqual(done.returncode, 0, (line, done.stdout, done.stderr))
                if '"stream": true' in line:
                    self.assertTrue(done.stdout.endswith(b"data: [DONE]\n\n"), line)
                elif url.removeprefix(ADDRESS) not in ("/", "/metrics"):
                    json.loads(done.stdout)
            document = server.raw("GET", "/openapi.json")[1]
        documented = {path.replace("{id}", "model-Q4_K_M").replace("{model}", "model-Q4_K_M") for path in document["paths"]}
        self.assertLessEqual(documented - {"/app.js", "/app.css"}, paths)

    def test_flags(self):
        """Each of the command's own flags is in the table, and each of the table's is a flag."""
        named = set(re.findall(r"--[a-z][a-z-]+", re.search(r"## Flags\n(.*?)\n## ", PAGE, re.S)[1]))
        offered = set(re.findall(r"(?m)^\s+(?:-h,)?(--[a-z][a-z-]+)", run("serve", "--help").stdout.decode())) - {"--help"}
        self.assertEqual(named, offered)


if __name__ == "__main__":
    main()
