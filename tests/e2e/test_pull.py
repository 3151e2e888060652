#!/usr/bin/env python3
"""qnext pull: against a Hub of our own that answers as the real one does, breaks off, lies and refuses."""
import concurrent.futures
import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import signal
import threading
import time
import urllib.parse

from harness import GGUF, TIMEOUT_S, TINY, Case, main, run, start
from server import Server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def blob_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """A Hub with one repository. `files`: name -> (content, is large)."""

    def __init__(self, files, token=None, cut_after=None, ranges=True, list_patch=None):
        self.files, self.token, self.cut_after, self.ranges, self.list_patch = files, token, cut_after, ranges, list_patch
        self.sent_bytes = 0
        self.requests = []
        self.pause_s = 0
        self.large_files_at = None  # another server's address
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                hub.requests.append((self.path, self.headers.get("Authorization"), self.headers.get("Range")))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    hub.answer(self)

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def listing(self):
        siblings = []
        for name, (data, is_large) in self.files.items():
            entry = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
            if is_large:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        out = {"id": "org/tiny", "sha": COMMIT, "siblings": siblings}
        return self.list_patch(out) if self.list_patch else out

    def answer(self, handler):
        path = urllib.parse.unquote(handler.path)
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return self.reply(handler, 401, b"no", X_Error_Message="Invalid credentials")
        if path in ("/api/models/org/tiny/revision/main?blobs=true", f"/api/models/org/tiny/revision/{COMMIT}?blobs=true"):
            return self.reply(handler, 200, json.dumps(self.listing()).encode())
        name = path.removeprefix(f"/org/tiny/resolve/{COMMIT}/")
        if name not in self.files:
            return self.reply(handler, 404, b"nothing here", X_Error_Message="Repository not found")
        if self.large_files_at and self.files[name][1]:
            return self.reply(handler, 302, b"", Location=self.large_files_at + handler.path)
        data = self.files[name][0]
        first = 0
        if handler.headers.get("Range") and self.ranges:
            first = int(handler.headers["Range"].removeprefix("bytes=").split("-")[0])
        handler.send_response(206 if first else 200)
        handler.send_header("Content-Length", str(len(data) - first))
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        rest = data[first:] if self.cut_after is None else data[first:first + self.cut_after]
        for begin in range(0, len(rest), 1 << 16):
            handler.wfile.write(rest[begin:begin + (1 << 16)])
            handler.wfile.flush()
            self.sent_bytes += len(rest[begin:begin + (1 << 16)])
            time.sleep(self.pause_s)
        if len(rest) < len(data) - first:
            handler.close_connection = True

    @staticmethod
    def reply(handler, status, body, **headers):
        handler.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)


def tiny_files():
    out = {path.name: (path.read_bytes(), path.suffix == ".safetensors") for path in pathlib.Path(TINY).iterdir() if path.is_file()}
    out["sub folder/ж.txt"] = ("Grüße".encode(), False)
    out["empty.txt"] = (b"", False)
    return out


class Pull(Case):
    def setUp(self):
        super().setUp()
        self.env = {"HF_HOME": str(self.folder), "HF_HUB_CACHE": "", "HF_TOKEN": ""}
        self.repo = self.folder / "hub/models--org--tiny"

    def pull(self, hub, *args, code=0, says="", env=None):
        done = run("pull", "org/tiny", *args, env={**self.env, "HF_ENDPOINT": hub.url, **(env or {})})
        message = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, code, message)
        self.assertIn(says, message)
        return done.stdout.decode().strip()

    def expect_whole(self, files):
        snapshot = self.repo / "snapshots" / COMMIT
        for name, (data, is_large) in files.items():
            path = snapshot / name
            self.assertTrue(path.is_symlink(), name)
            self.assertEqual(path.read_bytes(), data, name)
            digest = hashlib.sha256(data).hexdigest() if is_large else blob_id(data)
            self.assertEqual(path.resolve(), (self.repo / "blobs" / digest).resolve())
        self.assertEqual(list(self.repo.rglob("*.incomplete")) + list(self.repo.rglob("*.tmp-*")), [])

    def test_a_repository(self):
        files = tiny_files()
        with Hub(files) as hub:
            folder = self.pull(hub)
            self.assertEqual(pathlib.Path(folder), self.repo / "snapshots" / COMMIT)
            self.expect_whole(files)
            self.assertEqual((self.repo / "refs/main").read_text(), COMMIT)
            sent = hub.sent_bytes
            self.pull(hub)  # all of it is there
            self.assertEqual(hub.sent_bytes, sent)
            self.assertTrue(all(token is None for _, token, _ in hub.requests))
            self.fails(1, "pull", "org/other", env={**self.env, "HF_ENDPOINT": hub.url}, says="404: Repository not found; is its name right?")
        # The id is a model now, for every command, without a network.
        for model in "org/tiny", "org/tiny@main", f"org/tiny@{COMMIT}", "org/tiny/model.safetensors":
            self.assertIn("parameters", self.ok("inspect", model, env=self.env))
        self.fails(1, "inspect", "org/other", env=self.env, says="org/other")
        self.fails(1, "inspect", "org/tiny/../../../secret", env=self.env)
        for name in "org", "a/b/c", "../x", "org/..", "org/tiny@../..", "org/t\n", "org/", "/x":
            self.fails(1, "pull", name, env=self.env, says="expected owner/name")

    def test_some_files(self):
        files = {"a-Q4_K_M.gguf": (pathlib.Path(GGUF).read_bytes(), True), "a-Q8_0.gguf": (b"x" * 1000, True), "README.md": (b"hi", False)}
        with Hub(files) as hub:
            self.pull(hub, "*Q4_K_M.gguf", "README.md")
            self.assertEqual(len(list((self.repo / "blobs").iterdir())), 2)
            self.pull(hub, "*.bin", code=1, says="has no file *.bin")
        self.ok("run", "org/tiny/a-Q4_K_M.gguf", "Hi", "--max-tokens", 3, env=self.env)
        os.environ.update(self.env)
        self.addCleanup(lambda: [os.environ.pop(name) for name in self.env])
        with Server(model="org/tiny/a-Q4_K_M.gguf") as server:
            self.assertEqual(server.client().models.list().data[0].id, "org/tiny")

    def test_a_token_opens_it(self):
        with Hub({"a": (b"1", False)}, token="s3cret") as hub:
            self.pull(hub, code=1, says="401: Invalid credentials; is it private, gated, or not there at all? HF_TOKEN")
            self.pull(hub, code=1, says="may not read it", env={"HF_TOKEN": "wrong"})
            (self.folder / "token").write_text("s3cret\n")
            self.pull(hub)

    def test_large_files_lie_elsewhere_and_the_token_stays(self):
        files = {"a": (b"1", False), "m.safetensors": (os.urandom(1 << 18), True)}
        with Hub(files, token="s3cret") as hub, Hub(files) as elsewhere:
            hub.large_files_at = elsewhere.url
            self.pull(hub, env={"HF_TOKEN": "s3cret"})
            self.expect_whole(files)
            self.assertEqual([token for _, token, _ in elsewhere.requests], [None])

    def test_what_broke_off_goes_on(self):
        data = os.urandom(1 << 20)
        with Hub({"m.safetensors": (data, True)}, cut_after=600_000) as hub:
            self.pull(hub, says="broke off")
            self.expect_whole(hub.files)
            self.assertLess(hub.sent_bytes, 1.2 * len(data))
            self.assertEqual([byte_range for _, _, byte_range in hub.requests if byte_range][0].split("=")[0], "bytes")

    def test_killed_and_interrupted(self):
        data = os.urandom(4 << 20)
        with Hub({"m.safetensors": (data, True)}) as hub:
            hub.pause_s = 0.02
            for number in signal.SIGKILL, signal.SIGINT:
                process = start("pull", "org/tiny", env={**os.environ, **self.env, "HF_ENDPOINT": hub.url})
                end = time.monotonic() + 60
                before = sum(path.stat().st_size for path in self.repo.rglob("*.incomplete"))
                while sum(path.stat().st_size for path in self.repo.rglob("*.incomplete")) < before + 200_000:
                    self.assertLess(time.monotonic(), end)
                    time.sleep(0.01)
                process.send_signal(number)
                _, err = process.communicate(timeout=TIMEOUT_S)
                self.assertIn(process.returncode, (-signal.SIGKILL, 130), err)
            self.assertFalse((self.repo / "snapshots").exists())
            hub.pause_s = 0
            self.pull(hub)
            self.expect_whole(hub.files)
            self.assertLess(hub.sent_bytes, 2 * len(data))

    def test_a_server_without_ranges(self):
        data = os.urandom(1 << 18)
        with Hub({"m.safetensors": (data, True)}, ranges=False) as hub:
            blobs = self.repo / "blobs"
            blobs.mkdir(parents=True)
            (blobs / (hashlib.sha256(data).hexdigest() + ".incomplete")).write_bytes(data[:1000])
            self.pull(hub)
            self.expect_whole(hub.files)

    def test_lies_are_found(self):
        data = os.urandom(1 << 16)
        digest = hashlib.sha256(data).hexdigest()
        with Hub({"m.safetensors": (data, True)}) as hub:
            (self.repo / "blobs").mkdir(parents=True)
            partial = self.repo / "blobs" / (digest + ".incomplete")
            partial.write_bytes(b"x" * 1000)  # of another file
            self.pull(hub, code=1, says="is not what the Hub's list says")
            self.assertFalse(partial.exists())
            self.pull(hub)
        def patched(**fields):
            return lambda listing: {**listing, "siblings": [{**listing["siblings"][0], **fields}]}
        lists = [patched(rfilename="../../evil"), patched(rfilename="/evil"), patched(rfilename=7), patched(size=-1), patched(size="1"),
                 patched(lfs={"sha256": "../../x"}), patched(lfs=None, blobId="zz"), lambda _: {"sha": "../..", "siblings": []}, lambda _: [],
                 lambda _: {"sha": COMMIT}]
        for patch in lists:
            with Hub({"n": (b"data", True)}, list_patch=patch) as hub:
                self.pull(hub, code=1)
        with Hub({"n": (b"data", True)}, list_patch=patched(size=1 << 50)) as hub:
            self.pull(hub, code=1, says="free")
        with Hub({"n": (b"data", True)}, list_patch=patched(size=2)) as hub:
            self.pull(hub, code=1, says="longer than")
        self.assertFalse((self.folder / "evil").exists())

    def test_two_at_once_fetch_it_once(self):
        data = os.urandom(2 << 20)
        with Hub({"m.safetensors": (data, True)}) as hub, concurrent.futures.ThreadPoolExecutor(4) as pool:
            hub.pause_s = 0.01
            list(pool.map(lambda _: self.pull(hub), range(4)))
            self.expect_whole(hub.files)
            self.assertEqual(hub.sent_bytes, len(data))
        # A lock that is held is waited for, and Ctrl-C ends the waiting.
        (self.repo / "blobs" / hashlib.sha256(data).hexdigest()).unlink()
        lock = next((self.folder / "hub/.locks").rglob("*.lock"))
        with Hub({"m.safetensors": (data, True)}) as hub, open(lock, "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            process = start("pull", "org/tiny", env={**os.environ, **self.env, "HF_ENDPOINT": hub.url})
            while b"waiting" not in process.stderr.readline():
                pass
            self.interrupt(process)
            self.assertEqual(process.returncode, 130)


if __name__ == "__main__":
    main()
