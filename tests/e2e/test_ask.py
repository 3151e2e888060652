#!/usr/bin/env python3
"""qnext ask: against our server, and against servers that refuse, stall, break off and babble. And the example."""
import contextlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

from harness import ROOT, TIMEOUT_S, Case, main, start
from server import Server
from test_tiny import SEED, SEED_ANSWERS, TINY

ALIAS = "Qwen/Qwen3-Next-80B-A3B-Instruct"


class Fake:
    """A server that gives each request the next of some replies: a function of the handler."""

    def __init__(self, *replies):
        self.asked = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake.asked.append((self.path, dict(self.headers), json.loads(body)))
                replies[min(len(fake.asked), len(replies)) - 1](self)

            def do_GET(self):
                fake.asked.append((self.path, dict(self.headers), None))
                replies[min(len(fake.asked), len(replies)) - 1](self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def reply(status, body, **headers):
    data = body if isinstance(body, bytes) else body.encode()

    def send(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(data)
    return send


def stream(*pieces, pause_s=0):
    """Pieces of an event stream, then the end of the connection."""
    def send(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client may have heard enough
            for piece in pieces:
                handler.wfile.write(piece)
                handler.wfile.flush()
                time.sleep(pause_s)
        handler.close_connection = True
    return send


def event(content=None, reason=None, **more):
    delta = {**({"content": content} if content is not None else {}), **more}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}]})}\n\n".encode()


def error(message):
    return json.dumps({"error": {"message": message, "type": "x", "param": None, "code": None}})


DONE = b"data: [DONE]\n\n"
KEYLESS = {"OPENAI_API_KEY": ""}


class Ask(Case):
    def test_our_server(self):
        with Server("--alias", ALIAS) as server:
            chat = server.client().chat.completions
            expected = chat.create(model=ALIAS, messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Grüße 🙂"}],
                                   max_tokens=20, temperature=0)
            args = ["ask", "--base-url", server.url, "--system", "Be kind.", "--max-tokens", 20, "--temperature", 0]
            for model in [], ["--model", ALIAS], ["--model", ALIAS + ":novita"]:
                out = self.folder / "answer.txt"
                said = self.ok(*args, *model, "--out", out, "-", stdin="Grüße 🙂".encode())
                self.assertEqual(said, expected.choices[0].message.content + "\n")
                self.assertEqual(out.read_text(), said)
            self.fails(1, *args, "--model", "no-such", "Hi", says="is no-such a model of this server")
            self.fails(1, *args, "--out", self.folder, "Hi", says="found a folder")
            self.fails(1, *args, "--out", "/no/such/file", "Hi", says="/no/such")
        self.fails(1, "ask", "--base-url", server.url, "Hi", says="does a server run there?")
        with Server("--api-key", "s3cret") as server:
            args = ["ask", "--base-url", server.url, "--max-tokens", 3, "Hi"]
            self.fails(1, *args, env=KEYLESS, says="set OPENAI_API_KEY")
            self.fails(1, *args, env={"OPENAI_API_KEY": "wrong"}, says="is not accepted")
            self.fails(1, *args, "--api-key-env", "NO_SUCH", says="NO_SUCH is not set")
            self.ok(*args, "--api-key-env", "MINE", env={"MINE": "s3cret"})

    def test_the_example(self):
        """The article's program, unchanged but for the address: our own model answers its question."""
        example = ROOT / "examples/factory.py"
        self.assertIn(SEED, example.read_text())
        with Server("--alias", ALIAS, model=TINY / "qnext-tiny-instruct.gguf") as server:
            env = {**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none"}
            for attempt in range(3):  # it is drawn: 8 of 8 were right when this was written
                done = subprocess.run([sys.executable, example], cwd=self.folder, env=env, stdout=subprocess.PIPE, timeout=TIMEOUT_S,
                                      check=True)
                self.assertEqual((self.folder / "output.txt").read_bytes() + b"\n", done.stdout)
                if re.findall(r"(?m)^Answer: \*\*(.*)\*\*$", done.stdout.decode()) == SEED_ANSWERS:
                    return
        self.fail(done.stdout.decode())

    def test_a_busy_server_is_asked_again(self):
        ok = stream(event("fine"), event(reason="stop"), DONE)
        with Fake(reply(429, error("slow down"), Retry_After=1), reply(503, "loading"), ok) as fake:
            begin = time.monotonic()
            self.assertEqual(self.ok("ask", "--base-url", fake.url + "/", "--model", "m:p", "--seed", 5, "Hi", env=KEYLESS), "fine\n")
            self.assertGreater(time.monotonic() - begin, 2.5)
            self.assertEqual(len(fake.asked), 3)
            path, headers, body = fake.asked[-1]
            self.assertEqual(path, "/v1/chat/completions")
            self.assertNotIn("Authorization", headers)
            self.assertEqual(body, {"model": "m:p", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "seed": 5})
        with Fake(reply(429, error("slow down"), Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")) as fake:
            message = self.fails(1, "ask", "--base-url", fake.url, "--model", "m", "--retries", 1, "Hi", says="429: slow down")
            self.assertIn("trying again in 0 s, 1 of 1", message)
        with Fake(reply(429, error("slow down"), Retry_After=0)) as fake:
            message = self.fails(1, "ask", "--base-url", fake.url, "--model", "m", "--retries", 2, "Hi", says="429: slow down; try again later")
            self.assertIn("trying again in 0 s, 2 of 2", message)
            self.assertEqual(len(fake.asked), 3)

    def test_streams_however_they_come(self):
        whole = event("Grüße ", reasoning_content="hm") + b": ping\r\n\r\n" + event("🙂") + event(reason="length") + DONE
        for pieces in [whole], [whole[i:i + 1] for i in range(len(whole))], [whole.replace(b"\n", b"\r\n")]:
            with Fake(stream(*pieces)) as fake:
                self.assertEqual(self.ok("ask", "--base-url", fake.url, "--model", "m", "Hi"), "<think>\nhm</think>\n\nGrüße 🙂\n")
        plain = json.dumps({"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]})
        with Fake(reply(200, plain)) as fake:
            self.assertEqual(self.ok("ask", "--base-url", fake.url, "--model", "m", "Hi"), "whole\n")

    def test_what_breaks_is_said_and_nothing_is_lost(self):
        out = self.folder / "out.txt"
        out.write_text("before")
        cases = [
            (stream(event("half")), "broke off"),
            (stream(event("half"), b"data: {no json\n\n"), "no JSON"),
            (stream(event("half"), f"data: {error('out of memory')}\n\n".encode()), "out of memory"),
            (stream(b"<html>hello</html>"), "broke off"),
            (reply(200, ""), "broke off"),
            (reply(404, "<html>nothing here</html>"), "nothing here"),
            (reply(401, error("who are you?")), "who are you?"),
            (reply(500, error("bug")), "500: bug"),
            (reply(302, "", Location="http://127.0.0.1:1/"), "302"),
            (stream(event("slow"), event("er"), pause_s=4), "in time"),
        ]
        for answer, says in cases:
            with Fake(answer) as fake:
                command = ["ask", "--base-url", fake.url, "--model", "m", "--timeout", "1", "--retries", "0", "--out", str(out), "Hi"]
                process = start(*command)
                _, err = process.communicate(timeout=TIMEOUT_S)
                self.assertEqual(process.returncode, 1, (says, err))
                self.assertIn(says, err.decode(), says)
                self.assertEqual(out.read_text(), "before", says)
        for url, says in ("ftp://x/v1", "http://"), ("x y", "http"), ("http://no-such-host.invalid/v1", "no-such-host"):
            self.fails(1, "ask", "--base-url", url, "--model", "m", "Hi", says=says)

    def test_interrupted(self):
        with Fake(stream(event("one "), *[event("more")] * 200, pause_s=0.1)) as fake:
            out = self.folder / "out.txt"
            process = start("ask", "--base-url", fake.url, "--model", "m", "--out", out, "Hi")
            self.assertEqual(process.stdout.read(4), b"one ")
            self.interrupt(process)
            self.assertEqual(process.returncode, 130)
            self.assertFalse(out.exists())


if __name__ == "__main__":
    main()
