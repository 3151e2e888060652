#!/usr/bin/env python3
"""The server against its own OpenAPI document: schemathesis asks what the document allows, and what it does not."""
import json
import re
import subprocess
import sys
import tempfile

from harness import TIMEOUT_S, Case, main
from server import MODEL, Server

EXAMPLES = 25  # of each operation; `make abuse` has a sanitizer, and as many as its time allows


def run_schemathesis(server, num_examples):
    """(exit code, what it says) of asking the server what its document allows, and what it does not."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", server.url.replace("/v1", "/openapi.json"), "--checks", "all",
             # What the document cannot say (a grammar that compiles, a prompt that fits) may be refused.
             "--exclude-checks", "positive_data_acceptance", "--max-examples", str(num_examples), "--continue-on-failure",
             "--request-timeout", str(TIMEOUT_S),  # of the busiest machine: an answer without max_tokens fills the context
             "--generation-deterministic", "--no-color"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10 * TIMEOUT_S, cwd=folder)
    return done.returncode, done.stdout.decode(errors="replace")


class OpenApi(Case):
    def test_every_example_works(self):
        with Server("--context", 512, "--alias", "other/name") as server:
            document = server.raw("GET", "/openapi.json")[1]
            self.assertEqual(document["components"]["schemas"]["ModelName"]["anyOf"][0]["enum"], [MODEL, "other/name"])
            count = 0
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    examples = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples")
                    bodies = [json.dumps(example["value"]) for example in examples.values()] if examples else [None]
                    for body in bodies:
                        status, answer, _ = server.raw(method.upper(), path.replace("{id}", MODEL), body)
                        self.assertEqual(status, 200, (path, body, answer))
                        count += 1
            self.assertGreater(count, 18)
            for path in document["paths"]:
                if path != "/v1/models/{id}":
                    self.assertEqual(server.raw("PUT", path)[0], 405, path)

    def test_schemathesis(self):
        with Server("--context", 512) as server:
            before = server.client().completions.create(model=MODEL, prompt="Once", max_tokens=20, temperature=0)
            code, said = run_schemathesis(server, EXAMPLES)
            self.assertEqual(code, 0, said)
            after = server.client().completions.create(model=MODEL, prompt="Once", max_tokens=20, temperature=0)
            self.assertEqual(after.choices[0].text, before.choices[0].text)
            self.assertEqual(server.metric("qnext_sequences_running"), 0)
            code, log = server.stop()
            self.assertEqual(code, 0)
        for route in "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/apply-template":
            self.assertGreater(len(re.findall(f"route={route} status=200", log)), 10, route)
            self.assertGreater(len(re.findall(f"route={route} status=400", log)), 10, route)


if __name__ == "__main__":
    main()
