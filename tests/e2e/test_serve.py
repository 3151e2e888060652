#!/usr/bin/env python3
"""qnext serve, asked by the official OpenAI client, and by clients that behave badly."""
import collections
import concurrent.futures
import contextlib
import gzip
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from typing import Annotated, Literal

import openai
import pydantic

from harness import GGUF, QNEXT, ROOT, TIMEOUT_S, TINY, Case, main, run, start
from mixed import Client, answers_alone
from server import MODEL, Server

HI = [{"role": "user", "content": "Hi"}]


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def tool(name, parameters=None):
    return {"type": "function", "function": {"name": name, "description": "?", "parameters": parameters or {"type": "object"}}}


class Chat(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.__exit__)
        cls.api = cls.server.client()

    def chat(self, **kwargs):
        return self.api.chat.completions.create(**{"model": MODEL, "messages": HI, "max_tokens": 12, "seed": 1, **kwargs})

    def test_an_answer(self):
        answer = self.chat(n=3)
        self.assertEqual((answer.object, answer.model, len(answer.choices)), ("chat.completion", MODEL, 3))
        self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2])
        self.assertTrue(all(choice.finish_reason == "length" for choice in answer.choices))
        self.assertEqual(answer.usage.completion_tokens, 36)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + 36)
        self.assertEqual(answer.usage.prompt_tokens_details.cached_tokens, 0)
        texts = [choice.message.content for choice in answer.choices]
        self.assertEqual(len(set(texts)), 3)  # seeds 1, 2 and 3
        self.assertEqual(texts, [self.chat(seed=seed).choices[0].message.content for seed in (1, 2, 3)])

    def test_a_stream_is_the_answer(self):
        for kwargs in ({}, {"temperature": 0}, {"n": 2}):
            whole = self.chat(**kwargs)
            chunks = list(self.chat(stream=True, stream_options={"include_usage": True}, **kwargs))
            for count in "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details":  # guesses vary with time
                self.assertEqual(getattr(chunks[-1].usage, count), getattr(whole.usage, count))
            self.assertEqual(chunks[-1].choices, [])
            self.assertEqual(len({chunk.id for chunk in chunks}), 1)
            for choice in whole.choices:
                mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
                self.assertEqual(mine[0].delta.role, "assistant")
                self.assertEqual("".join(c.delta.content or "" for c in mine), choice.message.content)
                self.assertEqual([c.finish_reason for c in mine], [None] * (len(mine) - 1) + ["length"])

    def test_the_tokens_are_the_command_lines(self):
        done = json.loads(run("run", GGUF, "Once upon", "--raw", "--temperature", 0, "--max-tokens", 20, "--json").stdout)
        answer = self.api.completions.create(model=MODEL, prompt="Once upon", max_tokens=20, temperature=0)
        self.assertEqual(answer.choices[0].text, done["text"])
        prompt = done["prompt_token_ids"]
        answer = self.api.completions.create(model=MODEL, prompt=prompt, max_tokens=20, temperature=0)
        self.assertEqual(answer.choices[0].text, done["text"])
        self.assertEqual(answer.usage.prompt_tokens, len(prompt))

    def test_stop_texts_never_show(self):
        whole = self.chat(max_tokens=40).choices[0].message.content
        stop = whole[9:12]
        for stream in (False, True):
            answer = self.chat(max_tokens=40, stop=[stop, "\x01"], stream=stream)
            if stream:
                chunks = list(answer)
                text = text_of(chunks)
                reason = [c.choices[0].finish_reason for c in chunks][-1]
            else:
                text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
            self.assertEqual(text, whole[:whole.index(stop)])
            self.assertEqual(reason, "stop")
        choice = self.chat(max_tokens=40, stop=whole).choices[0]  # complete with the last token only
        self.assertEqual((choice.message.content, choice.finish_reason), ("", "stop"))

    def test_logprobs(self):
        choice = self.chat(logprobs=True, top_logprobs=3, temperature=0).choices[0]
        tokens = choice.logprobs.content
        self.assertEqual(len(tokens), 12)
        text = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
        self.assertEqual(text, choice.message.content)
        for token in tokens:
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertEqual(token.top_logprobs[0].logprob, token.logprob)  # greedy: the likeliest
            self.assertLessEqual(token.logprob, 0)
        streamed = [c.choices[0] for c in self.chat(logprobs=True, top_logprobs=3, temperature=0, stream=True)]
        self.assertEqual([token for c in streamed if c.logprobs for token in c.logprobs.content], tokens)
        biased = self.chat(logit_bias={"17": 100}, temperature=0).choices[0].message.content
        self.assertEqual(biased, self.decode([17]) * 12)

    def decode(self, ids):
        return self.server.raw("POST", "/detokenize", json.dumps({"tokens": ids}))[1]["content"]

    def test_completions(self):
        args = {"model": MODEL, "max_tokens": 5, "seed": 3}
        both = self.api.completions.create(prompt=["Hi", "Ho"], n=2, logprobs=2, **args)
        self.assertEqual([choice.index for choice in both.choices], [0, 1, 2, 3])
        one = self.api.completions.create(prompt="Ho", logprobs=2, **args).choices[0]
        self.assertEqual(both.choices[2].text, one.text)
        self.assertEqual(len(one.logprobs.tokens), 5)
        self.assertEqual(one.logprobs.text_offset[0], 0)
        self.assertEqual([len(top) for top in one.logprobs.top_logprobs], [2] * 5)
        echo = self.api.completions.create(prompt="Ho", echo=True, **args).choices[0]
        self.assertEqual(echo.text, "Ho" + one.text)
        stream = self.api.completions.create(prompt="Ho", echo=True, stream=True, **args)
        self.assertEqual("".join(chunk.choices[0].text for chunk in stream), echo.text)

    def test_echo_with_logprobs(self):
        """What lm-evaluation-harness asks for: how likely a text is."""
        client = self.api
        ids = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=3, temperature=0, logprobs=0)
        whole = self.server.raw("POST", "/tokenize", json.dumps({"content": "Once upon a time" + ids.choices[0].text}))
        tokens = whole[1]["tokens"]
        for stream in False, True:
            asked = dict(model=MODEL, prompt=[tokens, tokens[:3]], max_tokens=1, temperature=0, logprobs=1, echo=True)
            if stream:
                choices = [None, None]
                for chunk in client.completions.create(**asked, stream=True):
                    choice = chunk.choices[0]
                    if choices[choice.index] is None:
                        choices[choice.index] = choice
                        continue
                    kept = choices[choice.index]
                    kept.text += choice.text
                    if kept.logprobs is None:
                        kept.logprobs = choice.logprobs
                    elif choice.logprobs:
                        for name in "tokens", "token_logprobs", "top_logprobs", "text_offset":
                            getattr(kept.logprobs, name).extend(getattr(choice.logprobs, name))
            else:
                choices = client.completions.create(**asked).choices
            self.assertEqual(len(choices), 2)
            for choice, prompt in zip(choices, (tokens, tokens[:3])):
                found = choice.logprobs
                self.assertEqual("".join(found.tokens), choice.text)
                self.assertEqual(len(found.tokens), len(prompt) + 1)
                self.assertIsNone(found.token_logprobs[0])
                self.assertIsNone(found.top_logprobs[0])
                self.assertEqual(found.text_offset, [len("".join(found.tokens[:i])) for i in range(len(found.tokens))])
                for likelihood, best in zip(found.token_logprobs[1:], found.top_logprobs[1:]):
                    self.assertLessEqual(likelihood, max(best.values()))
        nothing = client.completions.create(model=MODEL, prompt="Once", max_tokens=0, echo=True, logprobs=0).choices[0]
        self.assertEqual((nothing.text, nothing.finish_reason), ("Once", "length"))
        self.assertEqual("".join(nothing.logprobs.tokens), "Once")
        with self.assertRaisesRegex(openai.BadRequestError, "echo"):
            client.completions.create(model=MODEL, prompt="Once", max_tokens=0)

    def test_the_other_paths(self):
        self.assertEqual([model.id for model in self.api.models.list()], [MODEL])
        self.assertEqual(self.api.models.retrieve(MODEL).id, MODEL)
        self.assertEqual(self.server.raw("GET", "/health")[:2], (200, {"status": "ok"}))
        self.assertEqual(self.server.raw("GET", "/props")[1]["parallel"], 4)
        ids = self.server.raw("POST", "/tokenize", json.dumps({"content": "Grüße 🙂"}))[1]["tokens"]
        self.assertEqual(self.decode(ids), "Grüße 🙂")
        prompt = self.server.raw("POST", "/apply-template", json.dumps({"messages": HI}))[1]["prompt"]
        self.assertIn("<|im_start|>user\nHi<|im_end|>", prompt)
        parts = [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                 {"role": "user", "content": "x"}, {"role": "assistant", "content": None}, {"role": "user", "content": "y"}]
        prompt = self.server.raw("POST", "/apply-template", json.dumps({"messages": parts}))[1]["prompt"]
        self.assertIn("<|im_start|>system\nab<|im_end|>", prompt)

    def test_what_is_wrong_is_named(self):
        cases = [
            ({"model": "gpt"}, openai.NotFoundError, "model", "model_not_found"),
            ({"messages": []}, openai.BadRequestError, "messages", None),
            ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError, "messages[0].role", None),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, openai.BadRequestError,
             "messages[0].content[0]", None),
            ({"messages": [{"role": "user", "content": "word " * 9000}]}, openai.BadRequestError, "messages",
             "context_length_exceeded"),
            ({"temperature": 3}, openai.BadRequestError, "temperature", None),
            ({"n": 0}, openai.BadRequestError, "n", None),
            ({"stop": ["a"] * 5}, openai.BadRequestError, "stop", None),
            ({"stop": ""}, openai.BadRequestError, "stop", None),
            ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs", None),
            ({"logit_bias": {"x": 1}}, openai.BadRequestError, "logit_bias", None),
            ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "stream_options", None),
            ({"extra_body": {"thinking_budget": -1}}, openai.BadRequestError, "thinking_budget", None),
            ({"response_format": {"type": "yaml"}}, openai.BadRequestError, "response_format", None),
            ({"tools": [{"type": "function", "function": {"name": "f f"}}]}, openai.BadRequestError, "tools[0].function.name", None),
            ({"tools": [{"type": "x"}]}, openai.BadRequestError, "tools[0]", None),
            ({"tools": [tool("f"), tool("f")]}, openai.BadRequestError, "tools[1].function.name", None),
            ({"tools": [tool("f", 5)]}, openai.BadRequestError, "tools[0].function.parameters", None),
            ({"tools": [tool("f", {"type": "?"})], "tool_choice": "required"}, openai.BadRequestError, "tools", None),
            ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice", None),
            ({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}, openai.BadRequestError,
             "tool_choice", None),
            ({"tools": [tool("f")], "tool_choice": "required", "response_format": {"type": "json_object"}},
             openai.BadRequestError, "tool_choice", None),
            ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}]}, openai.BadRequestError,
             "messages[0].tool_calls", None),
            ({"extra_body": {"mirostat": 2}}, openai.BadRequestError, "mirostat", None),
        ]
        for kwargs, kind, param, code in cases:
            with self.assertRaises(kind) as caught:
                self.chat(**kwargs)
            self.assertEqual((caught.exception.param, caught.exception.code), (param, code), kwargs)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.api.completions.create(model=MODEL, prompt="x", suffix="y")
        self.assertEqual(caught.exception.param, "suffix")
        self.chat(response_format={"type": "text"}, tool_choice="none", user="me", extra_body={"thinking_budget": 5})
        self.assertEqual(self.chat(model=MODEL + ":novita").model, MODEL)

    def test_many_at_once_get_what_each_gets_alone(self):
        requests = [{"messages": [{"role": "user", "content": f"Number {i} " * (1 + i * 7 % 40)}], "max_tokens": 5 + i % 9,
                     "temperature": 0 if i % 2 else 1, "seed": i} for i in range(24)]
        alone = [self.chat(**request).choices[0].message.content for request in requests]

        def ask(request):
            if random.random() < 0.3:  # someone who leaves early
                stream = self.chat(**{**request, "max_tokens": 2000}, stream=True)
                next(stream)
                stream.close()
            if random.random() < 0.5:
                return text_of(self.chat(**request, stream=True))
            return self.chat(**request).choices[0].message.content

        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            self.assertEqual(list(pool.map(ask, requests)), alone)

    def test_who_leaves_is_not_answered_to_the_end(self):
        before = self.server.metric("qnext_cancelled_total")
        for stream in (True, False):
            body = json.dumps({"model": MODEL, "messages": HI, "max_tokens": 4000, "stream": stream, "ignore_eos": True})
            client = socket.create_connection(("127.0.0.1", self.server.port))
            client.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            if stream:
                client.recv(1000)
            else:
                time.sleep(0.2)
            client.close()
        deadline = time.monotonic() + 60
        while self.server.metric("qnext_cancelled_total") < before + 2 or self.server.metric("qnext_sequences_running") > 0:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def test_a_proxys_form_of_an_address(self):
        for address, status in (("/v1/models", 200), ("", 200), ("/v2", 404), ("/v1/models?x=http://y/z", 200)):
            self.assertEqual(self.server.raw("GET", f"http://127.0.0.1:{self.server.port}{address}")[0], status, address)

    def test_bad_bytes(self):
        chat = "/v1/chat/completions"
        for status, args in [(400, ("POST", chat, b"{")), (400, ("POST", chat, b"[" * 100_000)),
                             (400, ("POST", chat, b'{"model": "\xff"}')), (400, ("POST", chat, b'{"n": 1e999}')),
                             (400, ("POST", chat, b'"text"')), (400, ("POST", chat, b"")),
                             (404, ("GET", "/v2")), (404, ("GET", "/v1/models/other")), (405, ("GET", chat)),
                             (405, ("DELETE", "/health")), (413, ("POST", chat, b" " * (17 << 20))),
                             (415, ("POST", chat, b"{}", {"Content-Type": "text/xml"})),
                             (415, ("POST", chat, gzip.compress(b"{}"), {"Content-Encoding": "gzip"})),
                             (400, ("POST", chat, b"{}", {"Content-Type": "Application/JSON ; charset=utf-8"})),
                             (431, ("GET", "/health", None, {"X": "y" * 20_000}))]:
            try:
                answer = self.server.raw(*args)
            except (BrokenPipeError, ConnectionResetError):
                self.assertIn(status, (413, 431))  # closed while we were still sending
                continue
            self.assertEqual(answer[0], status, args[:2])
            self.assertIn("message", answer[1]["error"], args[:2])
        idle = [socket.create_connection(("127.0.0.1", self.server.port)) for _ in range(200)]
        for i, client in enumerate(idle):
            client.sendall([b"GET / HT", b"\x16\x03\x01\x02\x00", b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
                            b"", b"\r\n\r\n\r\n", bytes(random.Random(i).randbytes(300))][i % 6])
        self.assertEqual(len(self.chat().choices), 1)
        for client in idle:
            client.close()
        self.assertEqual(self.server.raw("HEAD", "/health")[0], 200)
        big = {"model": MODEL, "messages": HI, "max_tokens": 1, "metadata": {"x": "y" * 3_000_000}}
        status, _, _ = self.server.raw("POST", chat, json.dumps(big), {"Expect": "100-continue"})
        self.assertEqual(status, 200)


    def test_what_cannot_be_read_is_counted_and_logged_too(self):
        with Server("--context", "1K") as server:
            for data in (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
                         b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"nonsense\r\n\r\n"):
                with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)) as peer:
                    peer.sendall(data)
                    answer = b"".join(iter(lambda: peer.recv(1 << 16), b""))  # and it hangs up
                self.assertIn(b"X-Request-Id: ", answer)
            for status in (431, 413, 400):
                self.assertEqual(server.metric(f'qnext_http_requests_total{{route="other",status="{status}"}}'), 1)
            log = server.stop()[1]
        for status in (431, 413, 400):
            self.assertRegex(log, rf"request id=\S+ route=other status={status} ms=")

    def test_foreign_pages_may_not_ask(self):
        """A browser sends a page's POST to any server, if it has no type that is a form's, or none at all."""
        def ask(server, origin, host=None, path="/tokenize"):
            headers = {"Origin": origin, **({"Host": host} if host else {})}
            status, answer, _ = server.raw("POST", path, json.dumps({"content": "Hi"}), headers)
            return status, answer.get("error", {}).get("code")

        own = f"http://127.0.0.1:{self.server.port}"
        self.assertEqual(ask(self.server, own)[0], 200)
        for host in (f"localhost:{self.server.port}", f"[::1]:{self.server.port}", "localhost"):
            self.assertEqual(ask(self.server, f"http://{host}", host)[0], 200, host)
        self.assertEqual(ask(self.server, "https://chat.example", "chat.example")[0], 200)  # behind a proxy that speaks TLS
        for origin in ("http://evil.example", "null", f"http://localhost:{self.server.port}", own + "0", "127.0.0.1"):
            self.assertEqual(ask(self.server, origin), (403, "origin_not_allowed"), origin)
        self.assertEqual(self.server.raw("GET", "/health", None, {"Origin": "http://evil.example"})[0], 200)
        status, _, headers = self.server.raw("OPTIONS", "/tokenize", None, {"Origin": "http://evil.example",
                                                                            "Access-Control-Request-Headers": "content-type"})
        self.assertEqual(status, 405)
        self.assertFalse([name for name in headers if name.lower().startswith("access-control-")])
        with Server("--context", "1K", "--cors", "*") as server:
            self.assertEqual(ask(server, "http://evil.example")[0], 200)
        with Server("--context", "1K", "--cors", "http://page.example") as server:
            self.assertEqual(ask(server, "http://page.example")[0], 200)
            self.assertEqual(ask(server, f"http://127.0.0.1:{server.port}")[0], 200)
            for origin in ("http://evil.example", "https://page.example", "http://page.example:81"):
                self.assertEqual(ask(server, origin), (403, "origin_not_allowed"), origin)
            headers = server.raw("GET", "/health", None, {"Origin": "http://evil.example"})[2]
            self.assertEqual(headers["Access-Control-Allow-Origin"], "http://page.example")  # never the one that asks
            self.assertIn("X-Request-Id", headers["Access-Control-Expose-Headers"])

    def test_bodies_that_wait_are_bounded(self):
        """Eight of 12 MiB at once: some are read, the others are told to come again, and then all is as before."""
        body = json.dumps({"content": "a b c d " * (3 << 19)}).encode()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [future.result() for future in [pool.submit(self.server.raw, "POST", "/tokenize", body) for _ in range(8)]]
        statuses = [status for status, _, _ in answers]
        self.assertEqual(set(statuses), {200, 429})
        for status, answer, headers in answers:
            if status == 429:
                self.assertEqual(answer["error"]["code"], "queue_full")
                self.assertIn("Retry-After", headers)
        self.assertEqual(len(self.chat().choices), 1)

    def test_tokens_of_a_stop_string_are_not_reported(self):
        """Logprobs are of the text that is shown: whole and streamed, of chats and completions, whatever the stop cuts."""
        ask = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "logprobs": 1,
               "extra_body": {"ignore_eos": True}}
        whole = self.api.completions.create(**ask).choices[0]
        tokens = whole.logprobs.tokens
        text = "".join(tokens)
        self.assertEqual(whole.text, text)
        for first, cut in ((8, 0), (8, 1), (13, 2)):  # a stop from so many characters within a token to within the next but one
            begin = len("".join(tokens[:first])) + min(cut, len(tokens[first]) - 1)
            stop = text[begin:len("".join(tokens[:first + 2])) + 1]
            end = text.index(stop)
            shown, count = "", 0
            while len(shown) < end:
                shown, count = shown + tokens[count], count + 1
            one = self.api.completions.create(**ask, stop=stop).choices[0]
            self.assertEqual(one.text, text[:end])
            self.assertEqual(one.logprobs.tokens, tokens[:count], stop)
            parts = [c.choices[0] for c in self.api.completions.create(**ask, stop=stop, stream=True)]
            self.assertEqual("".join(part.text for part in parts), text[:end])
            self.assertEqual([t for part in parts if part.logprobs for t in part.logprobs.tokens], tokens[:count], stop)
            seen, named = "", []
            for part in parts:  # no token comes before some of its text does
                seen += part.text
                named += part.logprobs.tokens if part.logprobs else []
                self.assertTrue(seen.startswith("".join(named[:-1])), (seen, named))
        chat = {"temperature": 0, "max_tokens": 24, "logprobs": True, "extra_body": {"ignore_eos": True}}
        tokens = [t.token for t in self.chat(**chat).choices[0].logprobs.content]
        one = self.chat(**chat, stop=tokens[9] + tokens[10]).choices[0]
        self.assertEqual([t.token for t in one.logprobs.content], tokens[:9])
        self.assertEqual(one.message.content, "".join(tokens[:9]))

    def test_an_old_client_gets_its_stream_unframed(self):
        body = json.dumps({"model": MODEL, "messages": HI, "max_tokens": 4, "stream": True})
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT_S)) as peer:
            peer.sendall(f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            head, _, events = b"".join(iter(lambda: peer.recv(1 << 16), b"")).partition(b"\r\n\r\n")
        self.assertNotIn(b"chunked", head)
        lines = events.decode().strip().split("\n\n")
        self.assertEqual(lines.pop(), "data: [DONE]")
        for line in lines:
            self.assertEqual(json.loads(line.removeprefix("data: "))["object"], "chat.completion.chunk")

    def test_too_many_answers_are_refused_before_they_are_made(self):
        body = {"model": MODEL, "prompt": [[1] * 300] * 128, "n": 128, "max_tokens": 1}
        with self.assertRaisesRegex(openai.BadRequestError, "16384 answers at once"):
            self.api.completions.create(**body)

    def test_chunks(self):
        """A body in chunks, cut anywhere, is a body; one that is none is refused before it fills the memory."""
        head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        whole = head + b'c\r\n{"content": \r\n4;x=y\r\n"Hi"\r\n1\r\n}\r\n0\r\n\r\n'
        for status, data, step in [(200, whole, 1), (200, whole, 7), (200, whole, 1000), (400, head + b"zz\r\n", 1000),
                                   (400, head + b"5;" + b"x" * 3_000_000, 65536), (413, head + b"fffffff\r\n", 1000)]:
            with contextlib.closing(socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT_S)) as peer:
                with contextlib.suppress(ConnectionError):  # it hangs up on the endless line
                    for i in range(0, len(data), step):
                        peer.sendall(data[i:i + step])
                answer = b""
                with contextlib.suppress(ConnectionError):
                    answer = peer.recv(1 << 16)
            if answer or status == 200:
                self.assertEqual(int(answer.split(b" ")[1]), status, data[:200])

    def test_odd_values(self):
        odd = [0, -1, 1e300, -0.5, 2**63, 2**64, True, "", "x", "\ud800", "\0", [], [[]], [None], {}, {"type": 5}, {"": []},
               {"content": {}}, [{"role": 1}], [{"role": "user"}], [{"role": "user", "content": [{"type": "text", "text": 1}]}]]
        keys = ["model", "messages", "prompt", "max_tokens", "max_completion_tokens", "n", "seed", "stop", "stream",
                "stream_options", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
                "repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "echo", "suffix", "best_of", "tools",
                "tool_choice", "response_format", "chat_template_kwargs", "reasoning_effort", "ignore_eos", "user", "content",
                "tokens"]
        seen = set()
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/apply-template"):
            base = {"model": MODEL, "max_tokens": 1, ("messages" if "chat" in path else "prompt"): HI if "chat" in path else "x"}
            for key in keys:
                for value in odd:
                    status, answer, _ = self.server.raw("POST", path, json.dumps({**base, key: value}))
                    self.assertIn(status, (200, 400, 404), (path, key, value, answer))
                    seen.add(status)
                    if status != 200:
                        self.assertIn("message", answer["error"])
        self.assertEqual(seen, {200, 400, 404})
        self.assertEqual(len(self.chat().choices), 1)


class Pet(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: Annotated[str, pydantic.StringConstraints(max_length=6)]
    kind: Literal["cat", "dog", "fish"]
    age: Annotated[int, pydantic.Field(ge=0, le=99)]
    friends: Annotated[list[Literal["Ada", "Bob"]], pydantic.Field(max_length=2)]


def structured(**kwargs):
    return {"extra_body": {"structured_outputs": kwargs}}


class Structured(Case):
    """The model has random weights: what makes sense comes from the grammar."""

    setUpClass = classmethod(Chat.setUpClass.__func__)
    chat = Chat.chat

    def test_parse(self):
        for kwargs in ({"temperature": 0}, {"seed": 3}, {"temperature": 2, "seed": 4}):
            done = self.api.chat.completions.parse(model=MODEL, messages=HI, response_format=Pet, max_tokens=1500, **kwargs)
            self.assertIsInstance(done.choices[0].message.parsed, Pet)
            self.assertEqual(done.choices[0].finish_reason, "stop")

    def test_every_kind(self):
        for rule, pattern in (({"choice": ["yes", "no", "vielleicht ж"]}, "yes|no|vielleicht ж"),
                              ({"regex": r"[0-9]{3}-[a-f]{2}"}, r"[0-9]{3}-[a-f]{2}"),
                              ({"grammar": 'start: "a" b+\nb: "x" | "y"'}, "a[xy]+"),
                              ({"json": {"enum": [1, "two", None]}}, r'\s*(1|"two"|null)\s*'),
                              ({"json": '{"type": "boolean"}'}, r"\s*(true|false)\s*")):
            answer = self.chat(n=3, max_tokens=300, **structured(**rule))
            for choice in answer.choices:
                self.assertRegex(choice.message.content, f"^({pattern})$")
                self.assertEqual(choice.finish_reason, "stop")
            plain = self.api.completions.create(model=MODEL, prompt="x", max_tokens=300, **structured(**rule))
            self.assertRegex(plain.choices[0].text, f"^({pattern})$")
        answer = self.chat(response_format={"type": "json_object"}, max_tokens=40)
        self.assertRegex(answer.choices[0].message.content, r"^\s*\{")

    def test_streamed_beside_others_and_guessed_ahead(self):
        asks = [{"seed": i, "max_tokens": 60, **(structured(regex="([a-z]+ ){5}") if i % 2 else {})} for i in range(8)]
        expected = [self.chat(**ask).choices[0].message.content for ask in asks]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            streamed = list(pool.map(lambda ask: text_of(self.chat(stream=True, **ask)), asks))
        self.assertEqual(streamed, expected)

    def test_what_is_no_grammar(self):
        schema = "response_format.json_schema.schema"
        deep = {"type": "string"}
        for _ in range(20):
            deep = {"type": "object", "properties": {"a": deep}}
        for kwargs, param in (({"response_format": {"type": "xml"}}, "response_format"),
                              ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
                              ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "?"}}}}, schema),
                              ({"response_format": {"type": "json_object"}, **structured(regex="x")}, "structured_outputs"),
                              (structured(), "structured_outputs"), (structured(regex="x", choice=["x"]), "structured_outputs"),
                              (structured(regex=5), "structured_outputs"), (structured(xml="x"), "structured_outputs"),
                              (structured(regex="[0-9"), "structured_outputs.regex"),
                              (structured(choice=[]), "structured_outputs.choice"),
                              (structured(grammar="start: nothing"), "structured_outputs.grammar"),
                              (structured(json={"$ref": "http://example.invalid/x"}), "structured_outputs.json")):
            with self.assertRaises(openai.BadRequestError, msg=str(kwargs)[:200]) as caught:
                self.chat(**kwargs)
            self.assertEqual(caught.exception.param, param)
        with self.assertRaisesRegex(openai.BadRequestError, "too many expressions"):  # known once it is used
            self.chat(**structured(regex="(a{1,1000}){1,1000}" * 400))
        begin = time.monotonic()
        self.chat(max_tokens=2, **structured(json=deep))
        self.chat(max_tokens=2, **structured(json={"enum": [f"x{i}" for i in range(20000)]}))
        self.assertLess(time.monotonic() - begin, 30)


WEATHER = tool("weather", {"type": "object", "required": ["city", "days"], "additionalProperties": False,
                           "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 0, "maximum": 9}}})
CLOCK = tool("clock", {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"],
                       "additionalProperties": False})


class Tools(Case):
    """Calls that must be made: the model has random weights, so it makes no others."""

    setUpClass = classmethod(Chat.setUpClass.__func__)
    chat = Chat.chat

    def check(self, call):
        arguments = json.loads(call.function.arguments)
        self.assertRegex(call.id, "^call_")
        if call.function.name == "weather":
            self.assertIn(arguments["city"], ("Paris", "Rome"))
            self.assertIn(arguments["days"], range(10))
        else:
            self.assertEqual(call.function.name, "clock")
            self.assertIn(arguments["zone"], ("UTC", "CET"))

    def test_required(self):
        names = set()
        for seed in range(6):
            choice = self.chat(tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=False, seed=seed,
                               max_tokens=700).choices[0]
            self.assertEqual((choice.finish_reason, choice.message.content, len(choice.message.tool_calls)), ("tool_calls", None, 1))
            self.check(choice.message.tool_calls[0])
            names.add(choice.message.tool_calls[0].function.name)
        self.assertEqual(names, {"weather", "clock"})

    def test_named(self):
        for seed in range(3):
            choices = self.chat(tools=[WEATHER, CLOCK], tool_choice={"type": "function", "function": {"name": "clock"}}, seed=seed,
                                max_tokens=700, n=2).choices
            for choice in choices:
                self.assertEqual([call.function.name for call in choice.message.tool_calls], ["clock"])
                self.check(choice.message.tool_calls[0])

    def test_many_and_streamed(self):
        most = 0
        newline = self.server.raw("POST", "/tokenize", json.dumps({"content": "\n"}))[1]["tokens"][0]
        for seed in range(8):
            kwargs = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "seed": seed, "max_tokens": 400,
                      "logit_bias": {newline: 3}}
            whole = self.chat(**kwargs).choices[0]
            calls, reason, pieces = {}, None, 0
            for chunk in self.chat(stream=True, **kwargs):
                for call in chunk.choices[0].delta.tool_calls or []:
                    if call.id:
                        calls[call.index] = [call.id[:5], call.function.name, ""]
                    calls[call.index][2] += call.function.arguments
                    pieces += 1
                reason = chunk.choices[0].finish_reason or reason
            self.assertEqual(reason, whole.finish_reason)
            whole_calls = whole.message.tool_calls or []
            self.assertEqual([calls[i] for i in range(len(calls))],
                             [["call_", call.function.name, call.function.arguments] for call in whole_calls])
            for call in whole_calls[:-1] if reason == "length" else whole_calls:
                self.check(call)
            most = max(most, len(calls))
            if calls:
                self.assertGreater(pieces, 4 * len(calls))
        self.assertGreater(most, 1)

    def test_the_template_hears_of_it(self):
        asked = [{"role": "user", "content": "?"}]
        answered = [*asked, {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "12:00"}]
        prompt = self.server.raw("POST", "/apply-template", json.dumps({"messages": answered, "tools": [CLOCK]}))[1]["prompt"]
        self.assertIn('"name": "clock", "description"', prompt)
        self.assertIn('<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>', prompt)
        self.assertIn("<tool_response>\n12:00\n</tool_response>", prompt)
        plain = self.chat().usage.prompt_tokens
        self.assertGreater(self.chat(tools=[CLOCK]).usage.prompt_tokens, plain + 50)
        self.assertEqual(self.chat(tools=[CLOCK], tool_choice="none").usage.prompt_tokens, plain)
        self.assertIsNone(self.chat(tools=[CLOCK]).choices[0].message.tool_calls)


class MayCall(Case):
    """Calls that may be made: a bias towards <tool_call> stands for a model that wants to."""

    setUpClass = classmethod(Chat.setUpClass.__func__)
    chat = Chat.chat
    check = Tools.check

    def bias(self, text, value):
        return {self.server.raw("POST", "/tokenize", json.dumps({"content": text}))[1]["tokens"][0]: value}

    def test_a_call_or_json(self):
        kwargs = {"tools": [WEATHER, CLOCK], "max_tokens": 900, "response_format": {"type": "json_schema", "json_schema": {
            "name": "pet", "strict": True, "schema": Pet.model_json_schema()}}}
        for seed in range(3):
            whole = self.chat(seed=seed, logit_bias=self.bias("<tool_call>", 100), parallel_tool_calls=False, **kwargs).choices[0]
            self.assertEqual((whole.finish_reason, whole.message.content, len(whole.message.tool_calls)), ("tool_calls", None, 1))
            self.check(whole.message.tool_calls[0])
            other = self.chat(seed=seed, logit_bias=self.bias("<tool_call>", -100), **kwargs).choices[0]
            self.assertEqual((other.finish_reason, other.message.tool_calls), ("stop", None))
            Pet.model_validate_json(other.message.content)
        anything = self.chat(tools=[CLOCK], logit_bias=self.bias("<tool_call>", -100), max_tokens=30, response_format={"type": "json_object"})
        self.assertRegex(anything.choices[0].message.content, r"^\s*\{")

    def test_strict_tools_bind_calls_in_any_text(self):
        def strict(one):
            return {"type": "function", "function": {**one["function"], "strict": True}}

        kwargs = {"tools": [strict(WEATHER), strict(CLOCK)], "max_tokens": 500, "temperature": 1.5}
        num_calls = 0
        for seed in range(4):  # some text comes first: the bias is not the whole of it
            choice = self.chat(seed=seed, logit_bias=self.bias("<tool_call>", 9), **kwargs).choices[0]
            for call in (choice.message.tool_calls or [])[:-1 if choice.finish_reason == "length" else None]:
                self.check(call)
                num_calls += 1
            calls, text = {}, ""
            for chunk in self.chat(seed=seed, logit_bias=self.bias("<tool_call>", 9), stream=True, **kwargs):
                text += chunk.choices[0].delta.content or ""
                for piece in chunk.choices[0].delta.tool_calls or []:
                    calls[piece.index] = calls.get(piece.index, "") + piece.function.arguments
            self.assertEqual(list(calls.values()), [call.function.arguments for call in choice.message.tool_calls or []])
            self.assertEqual(text, choice.message.content or "")
        self.assertGreater(num_calls, 2)
        free = self.chat(seed=1, logit_bias=self.bias("<tool_call>", -100), **{**kwargs, "max_tokens": 20})
        self.assertIsNone(free.choices[0].message.tool_calls)
        self.assertTrue(free.choices[0].message.content)

    def test_what_does_not_go_together(self):
        for kwargs, param in (({"tools": [CLOCK], **structured(regex="x")}, "structured_outputs.regex"),
                              ({"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]}, "tools[0].function.strict"),
                              ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": 1, "schema": {}}}},
                               "response_format.json_schema.strict")):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.chat(**kwargs)
            self.assertEqual(caught.exception.param, param)
        self.chat(tools=[CLOCK], tool_choice="none", max_tokens=5, **structured(regex="x"))


class Life(Case):
    def test_keys(self):
        keys = self.folder / "keys.txt"
        keys.write_text("first\r\nsecond\n")
        with Server("--api-key-file", keys, "--api-key", "third", "--name", "Qwen/X", "--alias", "x", "--cors", "*") as server:
            for key in ("first", "second", "third"):
                for name in ("x", "Qwen/X"):  # the client writes %2F
                    self.assertEqual(server.client(key).models.retrieve(name).id, "Qwen/X")
            with self.assertRaises(openai.AuthenticationError):
                server.client("firs").models.list()
            for value in ("Bearer firs", "Bearer firstt", "Bearer ", "Bearer sEcond", "bearer first", "first", "Basic first", "Bearer first\tx"):
                status, answer, _ = server.raw("GET", "/v1/models", None, {"Authorization": value})
                self.assertEqual((status, answer["error"]["code"]), (401, "invalid_api_key"), value)
            self.assertEqual(server.raw("GET", "/v1/models")[0], 401)
            self.assertEqual(server.raw("POST", "/v1/chat/completions", b"{}")[0], 401)
            self.assertEqual(server.raw("GET", "/metrics")[0], 401)
            self.assertEqual(server.raw("GET", "/health")[0], 200)
            asked = "authorization, content-type, x-stainless-lang"  # as the official client does in a browser
            status, _, headers = server.raw("OPTIONS", "/v1/chat/completions", None, {
                "Origin": "http://page.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked})
            self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (204, "*"))
            self.assertEqual(headers["Access-Control-Allow-Headers"], asked)
            self.assertIn("POST", headers["Access-Control-Allow-Methods"])

    def test_open_shows_the_page_where_there_is_a_screen(self):
        opened, tool = self.folder / "opened", self.folder / "xdg-open"
        tool.write_text('#!/bin/sh\nset -e\n(echo "$1"; ls -l /proc/self/fd; cut -d" " -f6 /proc/$$/stat) > $0.part\n'
                        f'mv $0.part {opened}\n')
        tool.chmod(0o755)
        without = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
        env = {**without, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        with Server("--open", env={**env, "DISPLAY": ":9"}) as server:
            deadline = time.monotonic() + 60
            while not opened.exists():
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)
            address, *files, session = opened.read_text().splitlines()
            self.assertEqual(address, server.url.removesuffix("v1"))
            self.assertNotIn("socket:", "".join(files))  # a browser that stays does not keep the port, nor our output
            self.assertEqual(sum("/dev/null" in file for file in files), 2, files)  # the third is ours
            self.assertNotEqual(int(session), os.getsid(server.process.pid))
            self.assertEqual(server.stop()[0], 0)
        opened.unlink()
        with Server("--open", env=env) as server:
            self.assertEqual(server.stop()[0], 0)
        self.assertFalse(opened.exists())

    def test_the_port_answers_while_the_model_is_loaded(self):
        """The program is held up before it serves: it has something to say on stderr, a pipe that is full."""
        kept = self.folder / "kept"
        args = "--context", "1K", "--prefix-file", kept
        with Server(*args) as server:
            port = server.port  # free again in a moment
            self.assertEqual(server.stop()[0], 0)
        for signals in ([], [signal.SIGINT]):
            read_end, write_end = os.pipe()
            os.set_blocking(write_end, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(write_end, b"." * 512)
            os.set_blocking(write_end, True)  # for the program, which shares it
            process = start("serve", GGUF, "--port", port, *args, stderr=write_end)
            self.addCleanup(process.kill)
            os.close(write_end)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            self.addCleanup(connection.close)
            deadline = time.monotonic() + TIMEOUT_S
            while connection.sock is None:
                self.assertLess(time.monotonic(), deadline)
                with contextlib.suppress(ConnectionRefusedError):  # at first, nobody listens
                    connection.connect()
                time.sleep(0.01)

            def health():
                connection.request("GET", "/health")
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read()), answer.headers["Retry-After"]

            self.assertEqual(health(), (503, {"status": "loading"}, "1"))
            for number in signals:
                process.send_signal(number)
            with open(read_end, "rb") as pipe, concurrent.futures.ThreadPoolExecutor(1) as pool:
                log = pool.submit(pipe.read)
                try:
                    url = process.stdout.readline().decode().strip()
                    if not url and signals:  # the signal came before the model was there
                        self.assertEqual(process.wait(TIMEOUT_S), 130)
                        continue
                    self.assertEqual(url, f"http://127.0.0.1:{port}/v1")
                    if not signals:
                        self.assertEqual(health(), (200, {"status": "ok"}, None))  # on the same connection
                        process.send_signal(signal.SIGTERM)
                    process.communicate(timeout=TIMEOUT_S)
                finally:
                    process.kill()
            self.assertEqual(process.returncode, 0)
            said = log.result().decode()
            self.assertRegex(said, "restored .*kept: ")
            self.assertRegex(said, r"request id=\S+ route=/health status=503 ms=")
            self.assertTrue(said.endswith("stopped\n"))

    def test_a_warm_turn_runs_its_own_tokens(self):
        with Server("--parallel", 2, "--context", 4096) as server:
            api = server.client()
            talks = [[{"role": "system", "content": f"You are number {i}."}] for i in range(4)]
            ends = [0] * 4  # tokens of each talk that were run
            num_hits = 0
            for turn in range(5):
                for i, talk in enumerate(talks):
                    talk.append({"role": "user", "content": f"Question {turn} of {i}: " + "why? " * 20})
                    answer = api.chat.completions.create(model=MODEL, messages=talk, max_tokens=24, temperature=0,
                                                         extra_body={"ignore_eos": True})
                    usage = answer.usage
                    cached = usage.prompt_tokens_details.cached_tokens
                    num_hits += cached > 0
                    if turn > 0:  # the answer's text may become other tokens than those that were drawn
                        self.assertGreaterEqual(cached, ends[i] - 24 - 72, (turn, i))
                    ends[i] = usage.prompt_tokens + usage.completion_tokens - 1
                    talk.append({"role": "assistant", "content": answer.choices[0].message.content})
            self.assertGreater(server.metric("qnext_prompt_tokens_cached_total"), 4 * 4 * 64)
            metrics = server.metrics()
            self.assertGreater(metrics["qnext_kept_prefixes"], 8)
            self.assertGreaterEqual(num_hits, 4 * 3)
            self.assertEqual(metrics["qnext_prefix_hits_total"], num_hits)
            self.assertEqual(metrics["qnext_prefixes_kept_total"] - metrics["qnext_prefixes_given_up_total"],
                             metrics["qnext_kept_prefixes"])
            code, log = server.stop()
            self.assertEqual(code, 0)
            self.assertRegex(log, r"prompt_tokens=\d+ cached_tokens=[1-9]\d* new_tokens=24 ")
            self.assertRegex(log, r"serving .* [1-9]\d* prefixes kept")

    def test_a_full_prefix_cache_says_what_it_gives_up(self):
        with Server("--prefix-cache", "1K", "--context", "1K") as server:  # less than a state: room for one
            for i in range(4):
                server.client().completions.create(model=MODEL, prompt=f"{i} bells. " * 40, max_tokens=2)
            metrics = server.metrics()
            self.assertGreaterEqual(metrics["qnext_prefixes_kept_total"], 3)  # the last answer's may yet come
            self.assertGreaterEqual(metrics["qnext_prefixes_given_up_total"], 2)
            self.assertLessEqual(metrics["qnext_kept_prefixes"], 1)
            self.assertEqual(metrics["qnext_prefixes_kept_total"] - metrics["qnext_prefixes_given_up_total"],
                             metrics["qnext_kept_prefixes"])
            self.assertEqual(metrics["qnext_prefix_hits_total"], 0)

    def test_a_restart_keeps_the_talks(self):
        kept = self.folder / "talks ж"
        talks = [[{"role": "user", "content": f"Story {i}: " + "the ship sailed on and on. " * 8}] for i in range(4)]

        def turns(api):
            """One turn of each talk; returns (cached, prompt) tokens of each."""
            counts = []
            for talk in talks:
                answer = api.chat.completions.create(model=MODEL, messages=talk, max_tokens=6, temperature=0)
                talk += [{"role": "assistant", "content": answer.choices[0].message.content},
                         {"role": "user", "content": "and then?"}]
                counts.append((answer.usage.prompt_tokens_details.cached_tokens, answer.usage.prompt_tokens))
            return counts

        args = "--prefix-file", kept, "--context", "1K"
        with Server(*args) as server:
            first = turns(server.client())
            code, log = server.stop()
            self.assertEqual(code, 0)
            self.assertRegex(log, r"saved .*talks ж: \d+ prefixes")
        for _ in range(2):
            with Server(*args) as server:
                second = turns(server.client())
                for (_, before), (cached, _) in zip(first, second):
                    self.assertGreaterEqual(cached, before)
                first = second
                code, log = server.stop()
                self.assertRegex(log, r"restored .*talks ж: \d+ prefixes")
        before = kept.read_bytes()
        for delay_s in 0.1, 0.15, 0.2, 0.22, 0.25:  # killed before, while or after it saves
            with Server(*args) as server:
                turns(server.client())
                server.process.send_signal(signal.SIGTERM)
                time.sleep(delay_s)
                server.process.kill()
            self.assertGreaterEqual(len(kept.read_bytes()), len(before))
        with Server(*args) as server:
            self.assertGreater(turns(server.client())[0][0], 0)
            self.assertRegex(server.stop()[1], r"restored .*talks ж")
        self.assertEqual([path.name for path in self.folder.iterdir()], [kept.name])
        kept.write_bytes(kept.read_bytes()[:5000])
        with Server(*args) as server:
            self.assertEqual(turns(server.client())[0][0], 0)
            self.assertRegex(server.stop()[1], "note: .*talks ж: torn, 5000 bytes(.|\n)*saved .*talks ж")
        kept.write_bytes(b"mine")
        self.fails(1, "serve", GGUF, "--port", 0, *args, says="would be overwritten")
        self.assertEqual(kept.read_bytes(), b"mine")
        self.fails(1, "serve", GGUF, "--port", 0, "--prefix-file", "/no/such/file", says="/no/such")
        self.fails(1, "serve", GGUF, "--port", 0, "--prefix-file", self.folder, says="found a folder")
        self.fails(1, "serve", GGUF, "--port", 0, "--prefix-cache", 0, "--prefix-file", kept, says="--prefix-cache 0")

    def test_eight_bit_keys_and_values(self):
        kept = self.folder / "kept"
        args = "--kv-type", "q8_0", "--prefix-file", kept, "--context", "1K"
        ask = {"model": MODEL, "prompt": "The ship sailed on and on. " * 20, "max_tokens": 12, "temperature": 0, "logprobs": 0}
        answers = []
        for _ in range(2):  # the second one from what the first left
            with Server(*args) as server:
                answers += [server.client().completions.create(**ask) for _ in range(2)]
                self.assertEqual(server.stop()[0], 0)
        self.assertEqual(len({answer.choices[0].text for answer in answers}), 1)
        self.assertGreater(answers[2].usage.prompt_tokens_details.cached_tokens, 0)
        with Server("--context", "1K") as server:
            exact = server.client().completions.create(**ask)
        first, expected = (answer.choices[0].logprobs.token_logprobs[0] for answer in (answers[0], exact))
        self.assertAlmostEqual(first, expected, delta=0.05)
        with Server("--kv-type", "f32", *args[2:]) as server:  # another cache's file is not taken
            self.assertEqual(server.client().completions.create(**ask).usage.prompt_tokens_details.cached_tokens, 0)

    def test_the_prefix_cache_does_not_show(self):
        long = "Once upon a time there was a lighthouse keeper who counted waves. " * 12
        asks = [{"model": MODEL, "prompt": long[: 200 + 97 * i] if i % 3 else long, "max_tokens": 8 + i, "seed": i, "n": 1 + i % 3}
                for i in range(12)]
        with Server("--prefix-cache", 0) as server:
            api = server.client()
            expected = [[c.text for c in api.completions.create(**ask).choices] for ask in asks]
            self.assertEqual(server.metric("qnext_prompt_tokens_cached_total"), 0)
        with Server("--prefix-cache", "64M") as server, concurrent.futures.ThreadPoolExecutor(12) as pool:
            api = server.client()
            for _ in range(2):
                answers = list(pool.map(lambda ask: api.completions.create(**ask), asks))
                self.assertEqual([[c.text for c in answer.choices] for answer in answers], expected)
            for answer in answers:
                self.assertEqual(answer.usage.prompt_tokens_details.cached_tokens,
                                 (answer.usage.prompt_tokens - 1) // 64 * 64)

    def test_guessing_ahead_does_not_show(self):
        asks = [{"model": MODEL, "prompt": f"Chapter {i}. " * (1 + i), "max_tokens": 10 + 3 * i, "seed": i, "n": 1 + i % 2,
                 "temperature": (0, 0.5, 1)[i % 3], "logprobs": 2, "extra_body": {"ignore_eos": i % 2 == 0}} for i in range(10)]

        def answers(*args):
            with Server("--parallel", 5, *args) as server, concurrent.futures.ThreadPoolExecutor(10) as pool:
                api = server.client()
                done = list(pool.map(lambda ask: api.completions.create(**ask), asks))
                num_drafted = server.metric("qnext_drafted_tokens_total")
                if num_drafted > 0:
                    self.assertGreaterEqual(server.metric('qnext_guesses_total{depth="1"}'), 1)
                return [[(c.text, c.logprobs, c.finish_reason) for c in one.choices] for one in done], num_drafted, server.stop()[1]

        expected, num_drafted, log = answers("--draft", 0)
        self.assertEqual(num_drafted, 0)
        for draft in (1, 4):
            actual, num_drafted, log = answers("--draft", draft)
            self.assertEqual(actual, expected)
            self.assertGreater(num_drafted, 0)
            self.assertRegex(log, rf"{draft} tokens guessed ahead")
            self.assertRegex(log, r"drafted_tokens=\d+ accepted_tokens=\d+")

    def test_thirty_two_at_once_get_what_each_gets_alone(self):
        """With guesses that are wrong (random weights) and right (a trained model), with kept prefixes and without."""
        trained = ROOT / "models/qnext-tiny/qnext-tiny-instruct.gguf"
        expected = {}
        for model, draft, prefix_cache in ((GGUF, 0, "0"), (GGUF, 0, "64M"), (GGUF, 3, "0"), (GGUF, 3, "64M"),
                                           (trained, 0, "0"), (trained, 2, "64M")):
            with Server("--name", MODEL, "--parallel", 32, "--context", "1K", "--draft", draft, "--fixed-draft", "--prefix-cache",
                        prefix_cache, model=model) as server:
                expected[model] = expected.get(model) or answers_alone(server)
                clients = [Client(server, expected[model], lambda one: sum(one.counts.values()) < 6, seed) for seed in range(32)]
                for client in clients:
                    client.start()
                for client in clients:
                    client.join()
                    self.assertIsNone(client.problem, (model, draft, prefix_cache))
                counts = sum((client.counts for client in clients), collections.Counter())
                self.assertEqual(min(counts[kind] > 0 for kind in ("whole", "streamed", "cancelled")), True, counts)
                self.assertEqual(counts["refused"], 0)
                drafted, accepted = (server.metric(f"qnext_{kind}_tokens_total") for kind in ("drafted", "accepted"))
                self.assertEqual(drafted > 0, draft > 0)
                self.assertLess(accepted, max(drafted, 1))
                self.assertGreater(accepted, 0.2 * drafted if model == trained and draft else -1)
                self.assertEqual(server.metric("qnext_prompt_tokens_cached_total") > 0, prefix_cache != "0")
                code, log = server.stop()
                self.assertEqual(code, 0, log)

    def test_a_full_queue_is_refused(self):
        with Server("--parallel", 1, "--queue", 1) as server:
            api = server.client()
            long = {"model": MODEL, "messages": HI, "max_tokens": 3000, "stream": True, "extra_body": {"ignore_eos": True}}
            streams = [api.chat.completions.create(**long) for _ in range(2)]
            with self.assertRaises(openai.RateLimitError) as caught:
                api.chat.completions.create(model=MODEL, messages=HI, max_tokens=1)
            self.assertEqual(caught.exception.response.headers["Retry-After"], "5")
            self.assertEqual(server.metric("qnext_sequences_waiting"), 1)
            for stream in streams:
                stream.close()
            deadline = time.monotonic() + 60
            while server.metric("qnext_sequences_running") > 0:
                self.assertLess(time.monotonic(), deadline)
            api.chat.completions.create(model=MODEL, messages=HI, max_tokens=1)

    def test_a_deadline(self):
        with Server("--parallel", 1, "--deadline", 1) as server:
            api = server.client()

            def ask(_):
                try:
                    answer = api.completions.create(model=MODEL, prompt="Hi", max_tokens=3000,
                                                    extra_body={"ignore_eos": True})
                except openai.InternalServerError as error:
                    self.assertEqual((error.status_code, error.code), (503, "deadline_exceeded"))
                    return 0
                self.assertEqual(answer.choices[0].finish_reason, "length")
                return answer.usage.completion_tokens

            with concurrent.futures.ThreadPoolExecutor(60) as pool:
                counts = list(pool.map(ask, range(60)))
            self.assertIn(0, counts)
            self.assertTrue([count for count in counts if 0 < count < 3000], counts)
            self.assertEqual(server.metric("qnext_sequences_running"), 0)

    def test_running_answers_end_before_the_server_does(self):
        with Server() as server:
            stream = server.client().chat.completions.create(model=MODEL, messages=HI, max_tokens=400, stream=True,
                                                              extra_body={"ignore_eos": True})
            next(stream)
            server.process.send_signal(signal.SIGTERM)
            reasons = [chunk.choices[0].finish_reason for chunk in stream]
            self.assertEqual(reasons[-1], "length")
            code, log = server.wait()
            self.assertEqual(code, 0)
            self.assertRegex(log, r"request id=\S+ route=/v1/chat/completions status=200 prompt_tokens=\d+ cached_tokens=0 new_tokens=400 ")
            self.assertNotIn("Hi", log)
            self.assertTrue(log.endswith("stopped\n"))

    def test_a_request_that_is_being_read_is_answered_before_the_server_ends(self):
        with Server() as server:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                body = json.dumps({"content": "one two three " * 1_100_000})  # more than a second of a tokenizer's work
                answer = pool.submit(server.raw, "POST", "/tokenize", body)
                time.sleep(1)
                server.process.send_signal(signal.SIGTERM)
                self.assertEqual(answer.result()[0], 200)
            self.assertEqual(server.wait()[0], 0)

    def test_an_end_that_does_not_wait(self):
        with Server("--drain", 0, "--parallel", 2) as server:
            streams = [server.client().chat.completions.create(model=MODEL, messages=HI, max_tokens=4000, stream=True,
                                                               extra_body={"ignore_eos": True}) for _ in range(3)]
            next(streams[0])
            self.assertEqual(server.stop()[0], 0)
            with self.assertRaises(Exception):
                list(streams[0])

    def test_what_it_cannot_serve(self):
        with Server() as server:
            self.fails(1, "serve", GGUF, "--port", server.port, says="choose another --port")
            self.assertEqual(server.stop()[0], 0)
        self.fails(1, "serve", GGUF, "--host", "example.invalid", says="expected an IP address")
        self.fails(1, "serve", GGUF, "--port", 0, "--context", 16000000, says="4096")  # when the port was open already
        self.fails(1, "serve", TINY, says="tokenizer")
        self.fails(1, "serve", GGUF, "--api-key-file", self.folder / "none", says="none")
        self.fails(2, "serve", GGUF, "--port", 70000)
        self.fails(2, "serve", GGUF, "--parallel", 0)

    def test_the_bench_measures_it(self):
        report = self.folder / "report.json"
        command = [sys.executable, ROOT / "bench/serve.py", GGUF, "--qnext", QNEXT, "--streams", "1,2", "--gen", 4, "--prompt", 70,
                   "--turns", 2, "--turn-prompt", 200, "--long-prompt", 300, "--json", report]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"(?m)^turn 2, 274 tokens: first token, ms +\d+ \(192 cached\)$")
        result = json.loads(report.read_text())["qnext"]
        self.assertGreater(result["streams"]["2"]["tokens_per_s"], 0)
        self.assertEqual(result["stall"]["streams"], 2)
        done = subprocess.run([*map(str, command), "--peer", "x=/bin/false"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("x ended with exit code 1", done.stderr)


if __name__ == "__main__":
    main()
