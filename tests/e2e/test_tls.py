#!/usr/bin/env python3
"""qnext serve over HTTPS: the official client, a client that leaves, those who do not speak TLS, and wrong files."""
import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import warnings

import openai

from harness import GGUF, TIMEOUT_S, Case, main
from server import MODEL, Server

GREEDY = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}


class Tls(Case):
    def setUp(self):
        super().setUp()
        self.certificate, self.key = self.make_certificate("server")

    def make_certificate(self, name, *options):
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "1", "-subj", "/CN=qnext test", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-keyout", key, "-out", certificate, *options], check=True, capture_output=True)
        return certificate, key

    def server(self, *args):
        return Server("--tls-cert", self.certificate, "--tls-key", self.key, *args)

    def trusting(self):
        return ssl.create_default_context(cafile=str(self.certificate))

    def client(self, server):
        return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=TIMEOUT_S,
                             http_client=openai.DefaultHttpxClient(verify=self.trusting()))

    def test_clients_get_what_they_get_without_it(self):
        with Server() as plain:
            expected = plain.client().completions.create(**GREEDY).choices[0].text
        with self.server() as server:
            self.assertTrue(server.url.startswith("https://"), server.url)
            client = self.client(server)
            self.assertEqual(client.completions.create(**GREEDY).choices[0].text, expected)
            events = client.completions.create(**GREEDY, stream=True)
            self.assertEqual("".join(event.choices[0].text for event in events), expected)
            long_prompt = "word " * 3000  # many records
            answer = self.exchange(server, "POST", "/tokenize", json.dumps({"content": long_prompt}))[1]
            self.assertGreater(json.loads(answer)["count"], 2000)
            with self.assertRaises(openai.APIConnectionError):  # who does not know the certificate does not talk
                server.client().models.list()

            self.assertEqual(self.ask(server, {"SSL_CERT_FILE": str(self.certificate)}).returncode, 0)
            refused = self.ask(server, {})
            self.assertEqual(refused.returncode, 1, refused)
            self.assertIn(b"SSL_CERT_FILE", refused.stderr)
            lost = self.ask(server, {"SSL_CERT_FILE": "/nowhere.pem"})
            self.assertEqual(lost.returncode, 1, lost)
            self.assertIn(b"/nowhere.pem", lost.stderr)
            self.assertEqual(server.stop()[0], 0)

    def ask(self, server, env):
        inherited = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
        return subprocess.run([os.environ["QNEXT"], "ask", "--base-url", server.url, "--model", MODEL,
                               "--max-tokens", "4", "Hi"], env={**inherited, **env}, capture_output=True,
                              timeout=TIMEOUT_S, check=False)

    def test_versions(self):
        with self.server() as server:
            for version, works in [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True),
                                   (ssl.TLSVersion.TLSv1_3, True)]:
                context = self.trusting()
                with warnings.catch_warnings(action="ignore"):  # the old one is named only to be refused
                    context.minimum_version = context.maximum_version = version
                try:
                    self.assertEqual(self.exchange(server, "GET", "/health", context=context)[0], 200)
                    self.assertTrue(works, version)
                except (ssl.SSLError, ConnectionError):
                    self.assertFalse(works, version)

    def test_who_leaves_ends_the_answer(self):
        with self.server("--context", "4096") as server:
            for says_goodbye in [True, False]:
                peer = socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)
                tls = self.trusting().wrap_socket(peer, server_hostname="127.0.0.1", suppress_ragged_eofs=True)
                body = json.dumps({**GREEDY, "max_tokens": 4000, "stream": True, "ignore_eos": True})
                tls.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                            .encode())
                tls.recv(4096)
                if says_goodbye:
                    with contextlib.suppress(OSError):  # it would wait for all that the server still says
                        tls.settimeout(0.05)
                        tls.unwrap()
                tls.close()
                deadline = time.monotonic() + TIMEOUT_S
                while self.running(server) > 0:
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.05)
            self.assertEqual(server.stop()[1].count("status=499"), 2)

    def running(self, server):
        text = self.exchange(server, "GET", "/metrics")[1]
        return float(text.split("\nqnext_sequences_running ")[1].split()[0])

    def exchange(self, server, method, path, body=None, context=None):
        """(status, text)"""
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=TIMEOUT_S,
                                                 context=context or self.trusting())
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def test_who_speaks_something_else(self):
        with self.server() as server:
            status, answer, _ = server.raw("GET", "/health")
            self.assertEqual(status, 400)
            self.assertIn("https://", answer["error"]["message"])
            for junk in [b"\x16\x03\x01\x00\x05junk!", b"\x16" + os.urandom(3000), b"\x16", b"", b"\x00" * 5000]:
                with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)) as peer:
                    peer.sendall(junk)
                    with contextlib.suppress(OSError):  # it may have hung up already
                        peer.shutdown(socket.SHUT_WR)
                        while peer.recv(4096):
                            pass
            # Half a handshake holds nobody up.
            idle = [socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) for _ in range(20)]
            for peer in idle:
                peer.sendall(b"\x16\x03\x01")
            self.assertTrue(self.client(server).models.list().data)
            for peer in idle:
                peer.close()
            self.assertEqual(server.stop()[0], 0)

    def test_many_at_once(self):
        with self.server() as server:
            expected = self.client(server).completions.create(**GREEDY).choices[0].text
            texts = [None] * 16

            def ask(i):
                texts[i] = self.client(server).completions.create(**GREEDY).choices[0].text

            threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(texts))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(texts, [expected] * len(texts))

    def test_wrong_files(self):
        serve = ("serve", GGUF, "--port", 0)
        other_certificate, other_key = self.make_certificate("other")
        junk = self.folder / "junk"
        junk.write_bytes(os.urandom(1000))
        locked = self.folder / "locked.key"
        subprocess.run(["openssl", "ec", "-in", self.key, "-aes256", "-passout", "pass:secret", "-out", locked],
                       check=True, capture_output=True)
        for certificate, key, says in [
                (self.folder / "none", self.key, "none: there is no such file"),
                (self.certificate, self.folder, f"{self.folder}: there is no such file"),
                (junk, self.key, f"{junk}: expected a certificate"),
                (self.key, self.key, f"{self.key}: expected a certificate"),
                (self.certificate, junk, f"{junk}: expected a private key"),
                (self.certificate, self.certificate, f"{self.certificate}: expected a private key"),
                (self.certificate, locked, f"{locked}: expected a private key"),
                (self.certificate, other_key, f"{other_key}: this key is not the one of {self.certificate}"),
                (other_certificate, self.key, "this key is not the one of")]:
            self.fails(1, *serve, "--tls-cert", certificate, "--tls-key", key, says=says)
        self.fails(2, *serve, "--tls-cert", self.certificate, says="--tls-key")
        self.fails(2, *serve, "--tls-key", self.key, says="--tls-cert")


if __name__ == "__main__":
    main()
