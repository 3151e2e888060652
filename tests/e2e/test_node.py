#!/usr/bin/env python3
"""What runs on Node: OpenAI's client, and the chat page in headless Chromium (tests/node)."""
import os
import shutil
import subprocess

from harness import ROOT, TIMEOUT_S, Case, main
from server import MODEL, Server


class Node(Case):
    def node(self, script, *args):
        done = subprocess.run(["node", ROOT / "tests/node" / script, *map(str, args)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=TIMEOUT_S)
        self.assertEqual(done.returncode, 0, done.stdout.decode(errors="replace"))

    def test_the_client(self):
        with Server("--context", 1024) as server:
            self.node("client.mjs", server.url, MODEL)
            code, log = server.stop()
            self.assertEqual(code, 0)
            self.assertNotIn(" status=5", log)

    def test_the_page(self):
        with Server() as server:
            self.node("page.mjs", server.url.removesuffix("/v1"), shutil.which("chromium"), os.environ.get("PAGE_SCREENSHOT", ""))
            self.assertEqual(server.raw("GET", "/")[2]["Content-Type"], "text/html; charset=utf-8")

    def test_the_page_needs_no_key_but_its_answers_do(self):
        with Server("--api-key", "s3cret") as server:
            for path in "/", "/app.js", "/app.css":
                self.assertEqual(server.raw("GET", path)[0], 200)
            self.assertEqual(server.raw("GET", "/v1/models")[0], 401)


if __name__ == "__main__":
    main()
