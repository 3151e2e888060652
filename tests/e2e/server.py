"""A server for the end-to-end tests that need one, and the official client for it."""
import contextlib
import http.client
import json
import re
import signal
import tempfile

import openai

from harness import GGUF, TIMEOUT_S, start

MODEL = "next-Q4_K_M"


class Server:
    """A server at a free port. `with` it."""

    def __init__(self, *args, model=GGUF, env=None):
        self.log = tempfile.TemporaryFile()  # not a pipe: nobody reads it while requests fill it
        self.process = start("serve", model, "--port", 0, *args, stderr=self.log, env=env)
        self.url = self.process.stdout.readline().decode().strip()
        if not self.url:
            said = self.wait()[1]
            self.log.close()
            raise AssertionError(said)
        self.port = int(re.fullmatch(r"https?://127\.0\.0\.1:(\d+)/v1", self.url)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.log.close()

    def client(self, key="none"):
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=TIMEOUT_S)

    def raw(self, method, path, body=None, headers={}):
        """(status, parsed JSON or text, headers)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        is_json = bool(text) and answer.headers.get("Content-Type") == "application/json"
        return answer.status, json.loads(text) if is_json else text.decode(), answer.headers

    @contextlib.contextmanager
    def stream(self, path, body):
        """The answer as it comes, to be read line by line; leaving early closes the connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(body))
            yield connection.getresponse()

    def metrics(self):
        """All of one moment, by name and labels as they are written."""
        return {name: float(value) for name, value in re.findall(r"(?m)^([^#].*) (\S+)$", self.raw("GET", "/metrics")[1])}

    def metric(self, name):
        return self.metrics()[name]

    def stop(self):
        """Ends it as a service manager would."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self):
        """(exit code, its log)"""
        self.process.communicate(timeout=TIMEOUT_S)
        self.log.seek(0)
        return self.process.returncode, self.log.read().decode()
