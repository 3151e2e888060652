#!/usr/bin/env python3
"""Texts to shards to a trained model that the engine runs: with runs that are killed, stopped, and begun wrong."""
import gzip
import json
import os
import pathlib
import random
import re
import resource
import signal
import socket
import struct
import sys
import time
import unittest

import numpy as np

from harness import QNEXT, ROOT, TIMEOUT_S, Case, main, start

sys.path.insert(0, str(ROOT / "bench"))
from numpy_forward import read_safetensors  # noqa: E402

TOKENIZER = ROOT / "tests/data/text/tokenizer-small/tokenizer.json"
MODEL = {
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "vocab_size": 2048, "hidden_size": 64,
    "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "hidden_act": "silu", "attention_bias": False, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_experts": 8,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "norm_topk_prob": True,
    "bos_token_id": None, "eos_token_id": 2041, "torch_dtype": "bfloat16"}
COLOURS = ["red", "green", "blue", "white", "black"]
THINGS = ["house", "river", "bird", "stone", "tree"]
# Of the moments at which runs are killed. QNEXT_TEST_SEED repeats them, as far as a machine repeats anything.
SEED = int(os.environ.get("QNEXT_TEST_SEED", random.SystemRandom().randrange(1 << 32)))


def write_corpus(path):
    draw = random.Random(7)
    with open(path, "w") as out:
        for _ in range(400):
            colour, thing = draw.choice(COLOURS), draw.choice(THINGS)
            json.dump({"text": f"The {thing} is {colour}. Look at the {colour} {thing}."}, out)
            out.write("\n")
        json.dump({"prompt": "What is red?", "answer": " The house. \U0001f3e0"}, out)


def zstd_stored(data):
    """A zstd frame of one stored block (RFC 8878, sections 3.1.1 and 3.1.1.2)."""
    return (b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little") + (len(data) << 3 | 1).to_bytes(3, "little") + data)


@unittest.skipUnless((pathlib.Path(QNEXT).parent / "qnext-train").exists(), "built without the trainer")
class Train(Case):
    def setUp(self):
        super().setUp()
        write_corpus(self.folder / "corpus.jsonl")
        self.ok("data", "pack", self.folder / "data.safetensors", self.folder / "corpus.jsonl", "--tokenizer", TOKENIZER)
        self.recipe = self.write_recipe("recipe.json")

    def write_recipe(self, name, **fields):
        recipe = {"model": MODEL, "tokenizer": str(TOKENIZER), "data": ["data.safetensors"], "seed": 5, "steps": 60,
                  "batch_tokens": 1024, "micro_batch_tokens": 512, "context_tokens": 128, "checkpoint_steps": 5,
                  "schedule": {"kind": "wsd", "learning_rate": 0.01, "warmup_steps": 5}, "mtp": {"steps": 2, "weight": 0.3}}
        (self.folder / name).write_text(json.dumps({k: v for k, v in {**recipe, **fields}.items() if v is not None}))
        return self.folder / name

    def log(self, run):
        return [json.loads(line) for line in (self.folder / run / "log.jsonl").read_text().splitlines()]

    def train(self, run, *args):
        return self.ok("train", self.recipe, "--out", self.folder / run, *args)

    def wait_until(self, process, is_so):
        until = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until and process.poll() is None and not is_so():
            time.sleep(0.002)

    def logged_steps(self, run):
        log = self.folder / run / "log.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def kill_after(self, run, steps, number, *args, delay_s=0):
        """Begins a run and sends it a signal so long after that many steps are in its log."""
        process = start("train", self.recipe, "--out", self.folder / run, *args)
        self.wait_until(process, lambda: self.logged_steps(run) >= steps)
        time.sleep(delay_s)
        process.send_signal(number)
        process.communicate(timeout=TIMEOUT_S)
        return process.returncode

    def test_a_model_learns_and_the_engine_runs_it(self):
        said = self.train("run").strip()
        self.assertEqual(said, str(self.folder / "run/model.safetensors"))
        log = self.log("run")
        self.assertEqual([line["step"] for line in log], list(range(1, 61)))
        self.assertGreater(log[0]["loss"], 7)
        self.assertLess(log[-1]["loss"], 1.2)  # two words in ten are a free choice among five
        self.assertGreater(log[-1]["mtp_accuracies"][0], 0.5)
        answers = {self.ok("run", self.folder / "run", "--raw", "The river is", "--temperature", "0", "--max-tokens", "14",
                           "--draft", draft) for draft in ("0", "2")}
        self.assertEqual(len(answers), 1)  # guesses change nothing
        self.assertRegex(answers.pop(), r"^ (red|green|blue|white|black)\. Look at the \1 r")
        self.ok("convert", self.folder / "run", self.folder / "model.gguf", "--type", "q8_0")
        self.assertIn("Look at the", self.ok("run", self.folder / "model.gguf", "--raw", "The river is", "--temperature", "0",
                                       "--max-tokens", "14"))

        curve = self.folder / "curve.svg"
        runs = f"two={self.folder}/run/log.jsonl,{self.folder}/run/log.jsonl"
        self.ok("plot", self.folder / "run/log.jsonl", runs, "--y", "loss,mtp_losses.0", "--smooth", "5", "--out", curve)
        self.assertEqual(curve.read_text().count("<polyline"), 4)
        self.assertIn("two: mtp_losses.0", curve.read_text())
        self.fails(1, "plot", self.folder / "run/log.jsonl", "--y", "los", "--out", curve, says="no line has the numbers step and los")
        self.fails(2, "plot", self.folder / "run/log.jsonl", "--out", self.folder / "curve.gif", says="ends in .svg or .png")
        picture = self.folder / "curve.png"
        plot = ("plot", self.folder / "run/log.jsonl", "--out", picture)
        self.fails(1, *plot, env={"PATH": "/nowhere"}, says="install it (Debian: librsvg2-bin)")
        self.assertFalse(picture.exists())
        self.ok(*plot)
        self.assertEqual(struct.unpack(">8s4x4sII", picture.read_bytes()[:24]), (b"\x89PNG\r\n\x1a\n", b"IHDR", 1440, 880))
        self.fails(1, "plot", TOKENIZER, "--out", curve, says="line 1: expected a JSON object")

    def unfinished_files(self, run):
        return [path.name for path in (self.folder / run).iterdir() if ".tmp-" in path.name]

    def kill_in_a_save(self, run, *args):
        process = start("train", self.recipe, "--out", self.folder / run, *args)
        saves = lambda: any(name.startswith("checkpoint") for name in self.unfinished_files(run))
        stale = self.unfinished_files(run)
        self.wait_until(process, lambda: self.logged_steps(run) > 0 and not set(stale) & set(self.unfinished_files(run)))
        while process.poll() is None:
            self.wait_until(process, saves)
            process.send_signal(signal.SIGSTOP)  # so that what is seen now is so when it dies
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if saves():
                process.kill()
                break
            process.send_signal(signal.SIGCONT)
        process.communicate(timeout=TIMEOUT_S)
        return process.returncode

    def test_a_killed_run_goes_on_bit_for_bit(self):
        """Killed three times at random, most of whose time is saving, and once in the middle of a save."""
        self.train("straight")
        recipe, self.recipe = self.recipe, self.write_recipe("saves.json", checkpoint_steps=1)
        draw = random.Random(SEED)
        print(f"test_a_killed_run_goes_on_bit_for_bit: QNEXT_TEST_SEED={SEED}", flush=True)
        for number in range(3):
            steps = self.logged_steps("killed") + draw.randrange(1, 12)
            self.assertEqual(self.kill_after("killed", steps, signal.SIGKILL, *["--resume"] * (number > 0),
                                             delay_s=draw.uniform(0, 0.1)), -signal.SIGKILL)
        self.fails(1, "train", self.recipe, "--out", self.folder / "killed", says="--resume goes on with it")
        self.assertEqual(self.kill_in_a_save("killed", "--resume"), -signal.SIGKILL)
        self.assertEqual(len(self.unfinished_files("killed")), 1)
        self.train("killed", "--resume")
        self.assertEqual(self.unfinished_files("killed"), [])
        self.recipe = recipe
        self.assertEqual(self.kill_after("stopped", 3, signal.SIGINT), 130)
        self.train("stopped", "--resume")
        expected = (self.folder / "straight/model.safetensors").read_bytes()
        for run in ("killed", "stopped"):
            self.assertEqual((self.folder / run / "model.safetensors").read_bytes(), expected, run)
            self.assertEqual([line["step"] for line in self.log(run)], list(range(1, 61)), run)
            self.assertEqual([line["loss"] for line in self.log(run)], [line["loss"] for line in self.log("straight")])

    def test_a_disk_that_fills_up_costs_no_checkpoint(self):
        self.train("straight")
        self.assertEqual(self.kill_after("full", 7, signal.SIGINT), 130)
        names, checkpoint = sorted(os.listdir(self.folder / "full")), self.folder / "full/checkpoint.safetensors"
        before = checkpoint.read_bytes()

        def half_a_checkpoint():  # fits into a file, and the write that does not fails as on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

        process = start("train", self.recipe, "--out", self.folder / "full", "--resume", preexec_fn=half_a_checkpoint)
        out, said = process.communicate(timeout=TIMEOUT_S)
        self.assertEqual((process.returncode, out), (1, b""), said)
        for words in (f"qnext: {checkpoint}: cannot write: ",
                      "the unfinished file was removed; the checkpoint before it is intact: make room, then go on from it with --resume"):
            self.assertIn(words, said.decode())
        needed = int(re.search(r"needs (\d+) bytes, the disk has \d+ available", said.decode()).group(1))
        self.assertAlmostEqual(needed, len(before), delta=256)  # the header has numbers, some with more digits than before
        self.assertEqual(sorted(os.listdir(self.folder / "full")), names)
        self.assertEqual(checkpoint.read_bytes(), before)
        self.train("full", "--resume")
        self.assertEqual((self.folder / "full/model.safetensors").read_bytes(),
                         (self.folder / "straight/model.safetensors").read_bytes())

    def test_a_run_that_diverges_costs_no_checkpoint(self):
        steady = {"kind": "wsd", "learning_rate": 0.01, "warmup_steps": 5, "decay_share": 0}
        self.recipe = self.write_recipe("steady.json", steps=30, schedule=steady)
        self.train("straight")
        self.recipe = self.write_recipe("begin.json", steps=10, schedule=steady)
        self.train("diverges")
        checkpoint = self.folder / "diverges/checkpoint.safetensors"
        before = checkpoint.read_bytes()
        wild = self.write_recipe("wild.json", steps=100, schedule={**steady, "learning_rate": 10}, checkpoint_steps=100,
                                 adamw={"weight_decay": 10})  # a hundred times the weights, each step
        said = self.fails(1, "train", wild, "--out", self.folder / "diverges", "--resume", says="training has diverged; the last "
                          "checkpoint is intact. Lower schedule.learning_rate or lengthen schedule.warmup_steps and go on with --resume")
        self.assertRegex(said, r"step \d+: the loss is \S+ and the gradient's norm -?(nan|inf): ")
        self.assertEqual(checkpoint.read_bytes(), before)
        self.recipe = self.write_recipe("steady.json", steps=30, schedule=steady)
        self.train("diverges", "--resume")
        self.assertEqual((self.folder / "diverges/model.safetensors").read_bytes(),
                         (self.folder / "straight/model.safetensors").read_bytes())
        self.assertEqual([line["loss"] for line in self.log("diverges")], [line["loss"] for line in self.log("straight")])

    def ranks(self, out, *args, count=2, **fields):
        """Starts `count` ranks of one run, whose steps are four micro-batches, however many ranks take turns at them."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Digits are tokens: documents of 64 tokens with the one that ends them, so that no rank's share cuts one.
        with open(self.folder / "digits.jsonl", "w", encoding="utf-8") as out_file:
            for n in range(100):
                print(json.dumps({"text": "".join(str(n * i * i % 10) for i in range(63))}), file=out_file)
        self.ok("data", "pack", self.folder / "digits.safetensors", self.folder / "digits.jsonl", "--tokenizer", TOKENIZER)
        recipe = self.write_recipe("ranks.json", **{"data": ["digits.safetensors"], "batch_tokens": 512, "steps": 20,
                                                    "micro_batch_tokens": 128, "context_tokens": 64, **fields})
        return [start("train", recipe, "--out", self.folder / out, "--threads", "1", *args, env={
            "RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **os.environ})
            for rank in range(count)]

    def test_two_ranks_are_one(self):
        shared = {"expert_parallel": True}
        for count, out, fields in ((1, "one", {}), (2, "two", {}), (2, "experts", shared), (2, "again", {**shared, "recompute": True})):
            for process in self.ranks(out, count=count, **fields):
                _, said = process.communicate(timeout=TIMEOUT_S)
                self.assertEqual(process.returncode, 0, said)
        one = self.log("one")
        for run in ("two", "experts", "again"):
            found = self.log(run)
            self.assertEqual(len(found), 20)
            for field in ("loss", "balance", "max_load", "gradient_norm"):
                for a, b in zip(one[:5], found):  # later steps magnify rounding: a router's near-tie falls the other way
                    self.assertAlmostEqual(a[field], b[field], delta=1e-5 * abs(a[field]), msg=f"{run}: {field}")

    def test_two_ranks_get_one_ranks_weights(self):
        for count, out, fields in ((1, "one", {}), (2, "two", {}), (2, "experts", {"expert_parallel": True})):
            for process in self.ranks(out, "--type", "f32", count=count, **{"steps": 3, "adamw": {"eps": 1e-4}, **fields}):
                _, said = process.communicate(timeout=TIMEOUT_S)
                self.assertEqual(process.returncode, 0, said)
        one = read_safetensors(self.folder / "one/model.safetensors")
        for run in ("two", "experts"):
            found = read_safetensors(self.folder / run / "model.safetensors")
            self.assertEqual(sorted(found), sorted(one))
            for name, values in one.items():
                self.assertLessEqual(np.abs(found[name] - values).max(), 1e-5 * max(1, np.abs(values).max()), (run, name))

    def test_parts_of_experts_go_on_in_one_process_and_back(self):
        """Steps 1 to 2 by two ranks that share the experts, 3 to 4 by one process, 5 by two ranks: as by one throughout."""
        for out, count, steps in (("one", 1, 5), ("parts", 2, 2), ("parts", 1, 4), ("parts", 2, 5)):
            resume = ["--resume"] if (self.folder / out).exists() else []
            for process in self.ranks(out, *resume, count=count, steps=steps, expert_parallel=True,
                                      schedule={"learning_rate": 0.01, "warmup_steps": 5, "decay_share": 0}):
                _, said = process.communicate(timeout=TIMEOUT_S)
                self.assertEqual(process.returncode, 0, said)
        for a, b in zip(self.log("one"), self.log("parts"), strict=True):
            self.assertAlmostEqual(a["loss"], b["loss"], delta=1e-5 * a["loss"])
        processes = self.ranks("odd", count=3, batch_tokens=510, micro_batch_tokens=170, expert_parallel=True)
        self.assertIn("3 ranks cannot share 8 experts evenly", str([process.communicate(timeout=TIMEOUT_S) for process in processes]))

    def test_a_rank_that_dies_is_told_and_costs_no_checkpoint(self):
        draw = random.Random(SEED)
        print(f"test_a_rank_that_dies_is_told_and_costs_no_checkpoint: QNEXT_TEST_SEED={SEED}", flush=True)
        for name, fields in (("dies", {}), ("dies-too", {"expert_parallel": True})):
            for process in self.ranks(name, **fields):
                _, said = process.communicate(timeout=TIMEOUT_S)
                self.assertEqual(process.returncode, 0, said)
            for victim in (0, 1):
                run = f"{name}-{victim}"
                processes, steps = self.ranks(run, **fields), draw.randrange(1, 16)
                self.wait_until(processes[victim], lambda: self.logged_steps(run) >= steps)
                processes[victim].kill()
                processes[victim].communicate(timeout=TIMEOUT_S)
                _, said = processes[1 - victim].communicate(timeout=TIMEOUT_S)
                self.assertEqual(processes[1 - victim].returncode, 1, said)
                self.assertIn("another rank has ended or hangs", str(said))
                self.assertIn("the last checkpoint is whole, start all ranks again with --resume", str(said))
                for process in self.ranks(run, "--resume", **fields):
                    _, said = process.communicate(timeout=TIMEOUT_S)
                    self.assertEqual(process.returncode, 0, said)
                for a, b in zip(self.log(name), self.log(run), strict=True):
                    self.assertAlmostEqual(a["loss"], b["loss"], delta=1e-5 * a["loss"], msg=run)
                self.assertEqual((self.folder / run / "model.safetensors").read_bytes(),
                                 (self.folder / name / "model.safetensors").read_bytes(), run)

    def test_shards(self):
        seen = self.ok_json("data", "inspect", self.folder / "data.safetensors", "--tokenizer", TOKENIZER, "--show", "401")
        self.assertEqual(seen["documents"], 401)
        self.assertEqual(sum(document["tokens"] for document in seen["first"]), seen["tokens"])
        self.assertEqual(seen["first"][-1]["text"], "What is red? The house. \U0001f3e0<|endoftext|>")
        for out in ("a", "b"):
            self.ok("data", "sample", self.folder / "data.safetensors", self.folder / f"{out}.safetensors", "--tokens", "500",
                    "--seed", "3", "--tokenizer", TOKENIZER)
        self.assertEqual((self.folder / "a.safetensors").read_bytes(), (self.folder / "b.safetensors").read_bytes())
        self.ok("data", "sample", self.folder / "data.safetensors", self.folder / "other.safetensors", "--tokens", "500",
                "--seed", "4", "--tokenizer", TOKENIZER)
        self.assertNotEqual((self.folder / "a.safetensors").read_bytes(), (self.folder / "other.safetensors").read_bytes())
        part = self.ok_json("data", "inspect", self.folder / "a.safetensors", "--tokenizer", TOKENIZER)
        self.assertTrue(500 <= part["tokens"] < 500 + seen["longest"], part)

    def test_a_tokenizer_and_conversations_of_ones_own(self):
        lines = "".join(json.dumps({"text": f"The lighthouse keeper counted {n} boats."}) + "\n" for n in range(200))
        chats = "".join(json.dumps({"messages": [{"role": "user", "content": f"How many boats, {n}?"},
                                                 {"role": "assistant", "content": f"{n} boats."}]}) + "\n" for n in range(9))
        (self.folder / "texts.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        (self.folder / "chats.jsonl.zst").write_bytes(zstd_stored(chats.encode()))
        texts = self.folder / "texts.jsonl.gz", self.folder / "chats.jsonl.zst"
        self.ok("data", "tokenizer", self.folder / "own", *texts, "--vocab-size", "300")
        own = ["--tokenizer", self.folder / "own/tokenizer.json"]
        shard = self.folder / "own.safetensors"
        self.fails(1, "data", "pack", shard, *texts, *own, says="no chat_template.jinja")
        (self.folder / "own/chat_template.jinja").write_text(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
        self.ok("data", "pack", shard, *texts, *own)
        seen = self.ok_json("data", "inspect", shard, *own, "--show", "209")
        self.assertEqual(seen["documents"], 209)
        self.assertEqual(seen["first"][0]["text"], "The lighthouse keeper counted 0 boats.<|endoftext|>")
        self.assertLess(seen["first"][0]["tokens"], 15)  # whole words
        self.assertEqual(seen["first"][208]["text"], "<|im_start|>user\nHow many boats, 8?<|im_end|>\n"
                                                     "<|im_start|>assistant\n8 boats.<|im_end|>\n")
        self.assertEqual(seen["first"][208]["learned"], "8 boats.<|im_end|>")
        (self.folder / "cut.jsonl.gz").write_bytes((self.folder / "texts.jsonl.gz").read_bytes()[:-20])
        self.fails(1, "data", "pack", shard, self.folder / "cut.jsonl.gz", *own, says="cut.jsonl.gz: cannot read it (as .gz)")
        self.fails(1, "data", "tokenizer", self.folder / "own", *texts, "--vocab-size", "100", says="vocab_size: expected 265")

    def chat_tokenizer(self):
        """A folder with a tokenizer, a chat template and the token that ends an answer."""
        folder = self.folder / "chat"
        folder.mkdir()
        (folder / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
        (folder / "generation_config.json").write_text('{"eos_token_id": [2041]}')
        (folder / "chat_template.jinja").write_text(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
        return folder / "tokenizer.json"

    def write_chats(self, name, answers):
        with open(self.folder / name, "w", encoding="utf-8") as out:
            for i, answer in enumerate(answers):
                print(json.dumps({"messages": [{"role": "user", "content": f"Roll dice {i % 10}."},
                                               {"role": "assistant", "content": answer}]}), file=out)

    def test_gspo_learns_what_is_rewarded(self):
        """A model that has learned to answer any of four numbers learns to prefer the one that gets the reward."""
        tokenizer = self.chat_tokenizer()
        draw = random.Random(3)
        self.write_chats("any.jsonl", [f"Answer: {draw.randrange(2, 6)}" for _ in range(400)])
        self.write_chats("right.jsonl", ["Answer: 4"] * 10)
        self.ok("data", "pack", self.folder / "any.safetensors", self.folder / "any.jsonl", "--tokenizer", tokenizer)
        self.recipe = self.write_recipe("any.json", tokenizer=str(tokenizer), data=["any.safetensors"], steps=40)
        self.train("begin")
        gspo = {"prompts_per_step": 4, "group": 16, "updates": 1, "max_new_tokens": 16, "clip_low": 0.1, "clip_high": 0.1, "format_reward": 0}
        fields = {"tokenizer": str(tokenizer), "data": ["right.jsonl"], "init_from": "begin", "steps": 24, "checkpoint_steps": 1, "batch_tokens": None,
                  "schedule": {"learning_rate": 0.0003, "warmup_steps": 4}, "gspo": gspo}
        self.recipe = self.write_recipe("gspo.json", **fields)
        self.train("straight")
        log = self.log("straight")
        first, last = (sum(line["right"] for line in part) / len(part) for part in (log[:6], log[-6:]))
        self.assertGreater(last, first + 0.1)  # on the way from a quarter to all
        self.assertLess(log[0]["mismatch"], 1e-3)  # the engine and the trainer are one network
        self.assertIn("Answer:", self.ok("run", self.folder / "straight", "Roll dice 3.", "--temperature", "0"))
        self.assertFalse((self.folder / "straight/policy").exists())

        self.assertEqual(self.kill_after("killed", 3, signal.SIGKILL), -signal.SIGKILL)
        self.train("killed", "--resume")
        self.assertEqual((self.folder / "killed/model.safetensors").read_bytes(),
                         (self.folder / "straight/model.safetensors").read_bytes())
        self.assertEqual(self.kill_after("stopped", 2, signal.SIGINT), 130)

        out = ["--out", self.folder / "wrong"]
        (self.folder / "texts.jsonl").write_text('{"text": "no conversation"}\n')
        (self.folder / "bare").mkdir()
        (self.folder / "bare/tokenizer.json").write_bytes(TOKENIZER.read_bytes())
        for name, says, change in (("text", "texts.jsonl: line 1: messages: expected a list", {"data": ["texts.jsonl"]}),
                                   ("long", "expected fewer than context_tokens 8", {"context_tokens": 8}),
                                   ("bare", "gspo needs a chat_template.jinja", {"tokenizer": "bare/tokenizer.json"}),
                                   ("other", "none", {"init_from": "none"})):
            self.fails(1, "train", self.write_recipe(f"{name}.json", **{**fields, **change}), *out, says=says)

    def test_what_is_wrong_is_said(self):
        (self.folder / "empty.txt").write_text("")
        (self.folder / "binary.txt").write_bytes(os.urandom(1000))
        (self.folder / "bad.jsonl").write_text('{"text": "fine"}\n{"txt": "not"}\n')
        for name, says in (("empty.txt", "no document"), ("binary.txt", "UTF-8"), ("bad.jsonl", "line 2"), ("none.txt", "none.txt")):
            self.fails(1, "data", "pack", self.folder / "x.safetensors", self.folder / name, "--tokenizer", TOKENIZER, says=says)
            self.assertFalse((self.folder / "x.safetensors").exists())
        self.fails(1, "data", "tokenizer", self.folder / "t", self.folder / "empty.txt", says="empty.txt: there is no text in it")
        out = ["--out", self.folder / "run"]
        self.fails(1, "train", self.folder / "none.json", *out, says="none.json")
        self.fails(1, "train", self.recipe, *out, "--resume", says="no checkpoint")
        self.fails(1, "train", self.write_recipe("few.json", model={**MODEL, "vocab_size": 100}), *out, says="vocab_size")
        self.fails(1, "train", self.write_recipe("rate.json", schedule={"learning_rate": "fast"}), *out,
                   says="schedule: learning_rate: expected a number")
        other = self.folder / "tokenizer.json"
        other.write_text(TOKENIZER.read_text() + " ")
        self.fails(1, "train", self.write_recipe("other.json", tokenizer=str(other)), *out, says="another tokenizer")
        wild = self.write_recipe("wild.json", schedule={"learning_rate": 10.0}, adamw={"clip": 1e6}, steps=400, spike=3.0,
                                 max_rollbacks=2, checkpoint_steps=400)
        said = self.fails(1, "train", wild, "--out", self.folder / "wild", says="diverged")
        self.assertEqual(said.count("back to step 0, past what was read since"), 2)
        self.fails(2, "train", says="RECIPE")


if __name__ == "__main__":
    main()
