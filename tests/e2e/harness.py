"""What the end-to-end tests share: the program that ctest names, the models in the tree, and ways to drive them."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import unittest

QNEXT = os.environ.get("QNEXT", "build/release/qnext")
ROOT = pathlib.Path(os.environ.get("QNEXT_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
GOLDEN = ROOT / "tests/data/golden"
TINY = str(GOLDEN / "next-tiny")  # safetensors, no tokenizer
GGUF = str(GOLDEN / "next-gguf/next-Q4_K_M.gguf")  # with tokenizer and chat template
GGUF_GOLDEN = str(GOLDEN / "next-gguf/next-Q4_K_M.golden.safetensors")

# Generous: a machine under a sanitizer, shared with others. A hang is what it must catch.
TIMEOUT_S = 240


def run(*args, stdin=b"", env=None, stdout=subprocess.PIPE):
    """The finished program: returncode, stdout and stderr as bytes."""
    return subprocess.run([QNEXT, *map(str, args)], input=stdin, stdout=stdout, stderr=subprocess.PIPE,
                          timeout=TIMEOUT_S, env={**os.environ, **(env or {})})


def start(*args, **kwargs):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([QNEXT, *map(str, args)], **{**pipes, **kwargs})


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def ok(self, *args, **kwargs):
        """Runs what must succeed; returns stdout as text."""
        done = run(*args, **kwargs)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def ok_json(self, *args, **kwargs):
        text = self.ok(*args, "--json", **kwargs)
        return json.loads(text, parse_constant=lambda word: self.fail(f"{word} is no JSON"))

    def fails(self, code, *args, says="", **kwargs):
        """Runs what must fail with this exit code, nothing on stdout, and one `qnext: ` message that says so."""
        done = run(*args, **kwargs)
        message = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, code, f"{args}: {message}")
        self.assertEqual(done.stdout, b"", args)
        self.assertIn("qnext: ", message, args)
        self.assertIn(says, message, args)
        return message

    def schema(self, value, keys):
        """value has exactly these keys, of these types."""
        self.assertEqual(sorted(value), sorted(keys))
        for key, kind in keys.items():
            self.assertIsInstance(value[key], kind, key)

    def interrupt(self, process):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
        return out, err.decode(errors="replace")


main = unittest.main
