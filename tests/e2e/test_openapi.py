#!/usr/bin/env python3
"""The server against its own OpenAPI document: schemathesis asks what the document allows, and what it does not."""
import json
import os
import re
import subprocess
import sys

from harness import TIMEOUT_S, Case, main
from server import MODEL, Server

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "25")  # of each operation; more in `make abuse`


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
            done = subprocess.run(
                [sys.executable, "-m", "schemathesis.cli", "run", server.url.replace("/v1", "/openapi.json"), "--checks", "all",
                 # What the document cannot say (a grammar that compiles, a prompt that fits) may be refused.
                 "--exclude-checks", "positive_data_acceptance", "--max-examples", EXAMPLES, "--continue-on-failure",
                 "--request-timeout", str(TIMEOUT_S),  # of the busiest machine: an answer without max_tokens fills the context
                 "--generation-deterministic", "--no-color"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10 * TIMEOUT_S, cwd=self.folder)
            self.assertEqual(done.returncode, 0, done.stdout.decode(errors="replace"))
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
