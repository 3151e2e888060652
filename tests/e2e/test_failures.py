#!/usr/bin/env python3
"""What goes wrong from outside: flags, files, streams, signals. Each ends with its exit code and a message."""
import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import time

from harness import GGUF, GGUF_GOLDEN, GOLDEN, QNEXT, TIMEOUT_S, TINY, Case, main, run, start

COMMANDS = ("run", "chat", "tokenize", "inspect", "convert", "compare", "bench", "plot", "train", "data", "completions")
# Seconds of text: only a signal ends it sooner. The model was made for 4,096 tokens.
ENDLESS = ["--context", "4096", "--max-tokens", "4000", "--seed", "1", "--ignore-eos"]


class Usage(Case):
    def test_help_and_version(self):
        for args in (["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
            self.assertGreater(len(self.ok(*args)), 10)
        for name in COMMANDS:
            self.assertIn("Examples:", self.ok(name, "--help"))

    def test_wrong_usage_is_2(self):
        for args in ([], ["nonsense"], ["run"], ["run", GGUF], ["run", GGUF, "hi", "--nonsense"],
                     ["run", GGUF, "hi", "--max-tokens", "0"], ["run", GGUF, "hi", "--max-tokens", "-3"],
                     ["run", GGUF, "hi", "--temperature", "hot"], ["run", GGUF, "hi", "--temperature", "-1"],
                     ["run", GGUF, "hi", "--top-p", "2"], ["run", GGUF, "hi", "--threads", "0"],
                     ["run", GGUF, "hi", "--isa", "abacus"], ["run", GGUF, "hi", "--kv-type", "q4_0"],
                     ["run", GGUF, "hi", "there"], ["run", GGUF, "hi", "--ids", "1"], ["run", GGUF, "--ids", "1"],
                     ["run", GGUF, "--raw", "--ids", "1,x"], ["run", GGUF, "hi", "--top-k", "99999999999999999999"],
                     ["run", GGUF, "hi", "--seed", "-1"], ["run", GGUF, "hi", "--seed", "99999999999999999999"],
                     ["inspect", GGUF, "--context", "0"], ["inspect", GGUF, "--context", "4Q"],
                     ["plot", "log.jsonl", "--out", "loss.gif"], ["serve", "m.gguf", "--api-key", ""], ["completions", "tcsh"]):
            with self.subTest(args):
                self.fails(2, *args)

    def test_a_prompt_may_look_like_a_command_or_a_number(self):
        for prompt in ("chat", "run", "-1", "- 1"):
            self.assertEqual(json.loads(self.ok("tokenize", "--json", GGUF, prompt))["tokens"][0]["text"][0], prompt[0])
        self.assertGreater(json.loads(self.ok("tokenize", "--json", GGUF, "--", "--help"))["count"], 1)

    def test_unknown_isa_in_the_environment_names_those_that_work(self):
        self.fails(1, "run", GGUF, "hi", env={"QNEXT_ISA": "abacus"}, says="ref")

    def test_bash_completions(self):
        script = self.ok("completions", "bash")
        check = "COMP_WORDS=(qnext run --max); COMP_CWORD=2; _qnext; echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", f"source /dev/stdin; {check}"], input=script.encode(), capture_output=True)
        self.assertEqual(done.stdout, b"--max-tokens\n", done.stderr)
        for shell in ("zsh", "fish"):
            self.assertIn("qnext", self.ok("completions", shell))


class Files(Case):
    def test_missing_and_wrong_models(self):
        empty = self.folder / "empty.gguf"
        empty.write_bytes(b"")
        noise = self.folder / "noise.gguf"
        noise.write_bytes(os.urandom(4096))
        picture = self.folder / "picture.png"
        picture.write_bytes(b"\x89PNG\r\n")
        for path in (self.folder / "missing", empty, noise, picture, self.folder, "/dev/null", "", "\udcff"):
            with self.subTest(str(path)):
                for args in (["run", path, "hi"], ["bench", path], ["compare", path, "--golden", GGUF_GOLDEN],
                             ["inspect", path]):
                    args[1] = os.fsencode(path) if path == "\udcff" else path
                    done = subprocess.run([QNEXT, *args], capture_output=True, timeout=TIMEOUT_S)
                    self.assertEqual(done.returncode, 1, done.stderr)
                    self.assertTrue(done.stderr.startswith(b"qnext: "), done.stderr)

    def test_truncated_files(self):
        data = pathlib.Path(GGUF).read_bytes()
        for share in (0.0001, 0.01, 0.5, 0.999):
            path = self.folder / "cut.gguf"
            path.write_bytes(data[:int(len(data) * share)])
            self.fails(1, "run", path, "hi", says=str(path))
        weights = (GOLDEN / "next-tiny/model.safetensors").read_bytes()
        (self.folder / "config.json").write_bytes((GOLDEN / "next-tiny/config.json").read_bytes())
        (self.folder / "model.safetensors").write_bytes(weights[:-100])
        self.fails(1, "bench", self.folder, says="model.safetensors")
        golden = self.folder / "golden.safetensors"
        golden.write_bytes((GOLDEN / "next-tiny/golden.safetensors").read_bytes()[:-7])
        self.fails(1, "compare", TINY, "--golden", golden, says="golden.safetensors")

    def test_a_model_without_text_files_says_what_it_lacks(self):
        self.fails(1, "run", TINY, "hi", says="--raw --ids")
        self.fails(1, "chat", TINY, says="tokenizer")
        self.fails(1, "run", TINY, "--raw", "--ids", "512", says="512")


class Streams(Case):
    def test_stdin_that_is_no_text(self):
        self.fails(1, "run", GGUF, "-", stdin=b"abc\xff\xfe", says="offset 3")
        self.fails(1, "tokenize", GGUF, "-", stdin=bytes(range(256)), says="offset 128")
        self.fails(1, "run", GGUF, b"\xc3(".decode("utf-8", "surrogateescape"), says="command line")

    def test_an_empty_prompt(self):
        self.fails(1, "run", GGUF, "", "--raw", says="prompt")
        self.ok("run", GGUF, "", "--max-tokens", 2)

    def test_a_prompt_longer_than_the_context(self):
        self.fails(1, "run", GGUF, "-", stdin=b"word " * 50000, says="4096")
        self.fails(1, "run", GGUF, "hello there", "--context", 3, says="context")

    def test_a_context_that_no_memory_holds(self):
        self.fails(1, "run", GGUF, "hi", "--context", 16000000, says="4096")

    def test_a_long_prompt_that_fits(self):
        out = self.ok_json("run", GGUF, "-", "--raw", "--max-tokens", 1, stdin=b"word " * 1500)
        self.assertGreater(out["prompt_tokens"], 1000)

    def test_full_disk(self):
        for args in (["run", GGUF, "hi", "--max-tokens", 3], ["run", GGUF, "hi", "--max-tokens", 3, "--json"],
                     ["inspect", GGUF], ["tokenize", GGUF, "hi"], ["--help"],
                     ["compare", TINY, "--golden", GOLDEN / "next-tiny/golden.safetensors"]):
            with open("/dev/full", "wb") as full:
                done = run(*args, stdout=full)
            self.assertEqual(done.returncode, 1, args)
            if args != ["--help"]:
                self.assertIn(b"No space left", done.stderr, args)

    def test_a_reader_that_leaves(self):
        process = start("run", GGUF, "hi", *ENDLESS)
        process.stdout.read(1)
        process.stdout.close()
        self.assertEqual(process.wait(TIMEOUT_S), 1)
        self.assertNotIn(b"qnext:", process.stderr.read())
        process.stdin.close()
        process.stderr.close()
        line = subprocess.run(f"'{QNEXT}' inspect '{GGUF}' | head -1", shell=True, capture_output=True, timeout=TIMEOUT_S)
        self.assertEqual(len(line.stdout.splitlines()), 1)
        self.assertEqual(line.stderr, b"")


class Signals(Case):
    def wait_for_output(self, process):
        self.assertTrue(process.stdout.read(1), "the answer begins")

    def test_run_keeps_what_it_has(self):
        process = start("run", GGUF, "hi", *ENDLESS)
        self.wait_for_output(process)
        out, err = self.interrupt(process)
        self.assertEqual(process.returncode, 130)
        self.assertTrue(out.endswith(b"\n"))
        self.assertIn("t/s", err)

    def test_run_json_is_still_one_object(self):
        process = start("run", GGUF, "hi", *ENDLESS, "--json")
        time.sleep(0.5)
        out, _ = self.interrupt(process)
        self.assertEqual(process.returncode, 130)
        if out:  # a slow machine may not have begun the answer
            self.assertIn(b'"finish_reason":"interrupted"', out)

    def test_sigterm_ends_a_run(self):
        process = start("run", GGUF, "hi", *ENDLESS)
        self.wait_for_output(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)
        self.assertEqual(process.returncode, 130)

    def test_chat_stops_the_answer_and_goes_on(self):
        process = start("chat", GGUF, "--seed", "1", "--ignore-eos")
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        self.wait_for_output(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(b"/stats\n/exit\n", timeout=TIMEOUT_S)
        self.assertEqual(process.returncode, 0, err)
        self.assertIn(b"(stopped)", err)
        self.assertIn(b"messages 2, answers 1", err)

    def test_bench_and_compare_end_at_once(self):
        for args in (["bench", GGUF, "--prompt", "2048", "--repeat", "1000"],
                     ["compare", TINY, TINY, "--greedy", "3000", "--isa", "ref"]):
            process = start(*args)
            time.sleep(2)
            out, err = self.interrupt(process)
            self.assertEqual(process.returncode, 130, err)
            self.assertEqual(out, b"")


class Chat(Case):
    def test_commands_from_a_pipe(self):
        saved = self.folder / "saved.json"
        script = ["hello", "/stats", "/nonsense", f"/save {saved}", "/clear", "/stats", f"/load {saved}", "/stats",
                  "/load /nonexistent", "/save", "/system Be brief.", "/stats", "/help", "/exit", "never read"]
        done = run("chat", GGUF, "--max-tokens", 4, "--seed", 1, stdin="\n".join(script).encode())
        self.assertEqual(done.returncode, 0, done.stderr)
        err = done.stderr.decode()
        for words in ("weights are random", "(cut at --max-tokens)", "messages 2, answers 1", "/nonsense: no such command",
                      "2 messages written", "messages 0,", "2 messages read", "/nonexistent: No such file",
                      "/save: expected a file name", "messages 1,", "/clear"):
            self.assertIn(words, err)
        self.assertEqual(err.count("answers 1"), 4)

    def test_end_of_input_and_lines_that_go_on(self):
        done = run("chat", GGUF, "--max-tokens", 2, "--seed", 1, stdin=b"one \\\ntwo\n\xff\n\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"expected UTF-8", done.stderr)
        self.assertEqual(done.stderr.count(b"(cut at"), 1)

    def test_a_full_context_is_no_end(self):
        script = b"word word word word word word\n" * 3 + b"/clear\nhi\n/stats\n"
        done = run("chat", GGUF, "--context", 40, "--seed", 1, stdin=script)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"context", done.stderr)
        self.assertIn(b"not sent", done.stderr)

    def test_history_reaches_the_model(self):
        first = run("chat", GGUF, "--max-tokens", 6, "--temperature", 0, stdin=b"hello\n").stdout
        again = run("chat", GGUF, "--max-tokens", 6, "--temperature", 0, stdin=b"hello\n/clear\nhello\n").stdout
        both = run("chat", GGUF, "--max-tokens", 6, "--temperature", 0, stdin=b"hello\nhello\n").stdout
        self.assertEqual(again, first + first)
        self.assertNotEqual(both, first + first)

    def test_on_a_terminal(self):
        child, terminal = pty.fork()
        if child == 0:
            os.execv(QNEXT, [QNEXT, "chat", GGUF, "--max-tokens", "3", "--seed", "1"])
        seen = b""

        def expect(words):
            nonlocal seen
            deadline = time.monotonic() + TIMEOUT_S
            while words not in seen:
                self.assertLess(time.monotonic(), deadline, seen)
                if select.select([terminal], [], [], 1)[0]:
                    seen += os.read(terminal, 65536)
            seen = seen[seen.index(words) + len(words):]

        expect(b"> ")
        os.write(terminal, b"hi\n")
        expect(b"(cut at")
        expect(b"> ")
        os.write(terminal, b"\x03")  # Ctrl-C at the prompt
        expect(b"again")
        expect(b"> ")
        os.write(terminal, b"\x03")
        _, status = os.waitpid(child, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 0)
        os.close(terminal)


if __name__ == "__main__":
    main()
