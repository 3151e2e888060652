#!/usr/bin/env python3
"""bench/experiments.py from end to end, in two steps of training; and its forward pass in numpy against the trainer's."""
import json
import pathlib
import subprocess
import sys
import unittest

from harness import QNEXT, ROOT, TIMEOUT_S, Case, main
from test_train import MODEL, TOKENIZER, write_corpus

sys.path.insert(0, str(ROOT / "bench"))
from numpy_forward import Forward, documents  # noqa: E402


@unittest.skipUnless((pathlib.Path(QNEXT).parent / "qnext-train").exists(), "built without the trainer")
class Experiments(Case):
    def experiment(self, *args):
        command = [sys.executable, ROOT / "bench/experiments.py", "--qnext", QNEXT, "--work", self.folder / "work",
                   "--out", self.folder / "out", *args]
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=TIMEOUT_S)

    def test_one_experiment(self):
        args = ["2", "--steps", "2", "--seeds", "1,2", "--threads", "1"]
        done = self.experiment(*args)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("| no gate | ", done.stdout)
        found = json.loads((self.folder / "out/2.json").read_text())
        self.assertEqual((found["experiment"], found["steps"], found["seeds"]), (2, 2, [1, 2]))
        self.assertEqual(list(found["results"]), ["gate", "no gate"])
        for measures in found["results"].values():
            self.assertAlmostEqual(measures["loss"]["mean"], 7.6, delta=0.1)  # that of even chances among 2,048
            for layer in (1, 3):  # nothing is learned yet: attention is even
                self.assertAlmostEqual(measures[f"first token's share, layer {layer}"]["mean"], measures["share if even"]["mean"], delta=1e-3)
            for measure in measures.values():
                self.assertEqual(len(measure["values"]), 2)
        for name in ("attention", "activations"):
            self.assertEqual((self.folder / f"out/2-{name}.svg").read_text().count("<polyline"), 2, name)

        again = self.experiment(*args)  # finished runs are taken as they are
        self.assertEqual((again.returncode, again.stderr), (0, ""))
        self.assertEqual(json.loads((self.folder / "out/2.json").read_text()), found)

    def test_what_is_wrong_is_said(self):
        for args, says in ((["7"], "invalid choice: 7"), (["4", "--seeds", "1,1"], "expected different numbers"),
                           (["4", "--steps", "0"], 'expected a number of at least 1, found "0"'),
                           (["4", "--qnext", self.folder / "qnext"], "qnext: not there: make train")):
            done = self.experiment(*args)
            self.assertNotEqual(done.returncode, 0, args)
            self.assertIn(says, done.stderr, args)
            self.assertNotIn("Traceback", done.stderr, args)
        (self.folder / "work").write_text("")
        done = self.experiment("4", "--steps", "1")
        self.assertRegex(done.stderr, "^experiments: .*work.*: Not a directory")
        self.assertNotIn("Traceback", done.stderr)

    def test_numpy_forward_is_the_trainers(self):
        write_corpus(self.folder / "corpus.jsonl")
        (self.folder / "one.txt").write_text("The bird is blue. Look at the blue bird. The tree is red, and so 1,234 stones are white.")
        for name, text in (("corpus", "corpus.jsonl"), ("one", "one.txt")):
            self.ok("data", "pack", self.folder / f"{name}.safetensors", self.folder / text, "--tokenizer", TOKENIZER)
        ids = documents(self.folder / "one.safetensors")[0]
        recipe = {"model": MODEL, "tokenizer": str(TOKENIZER), "context_tokens": 128, "mtp": {"steps": 0},
                  "data": ["corpus.safetensors"], "steps": 20, "batch_tokens": 512, "schedule": {"learning_rate": 0.01}}
        losses = []
        for gate in (True, False):
            # A run, then the loss that its model has at the first step of another one, whose batch is this document.
            for run, fields in ((f"run{gate}", {}), (f"look{gate}", {"init_from": f"run{gate}", "data": ["one.safetensors"],
                                                                   "steps": 1, "batch_tokens": len(ids)})):
                path = self.folder / f"{run}.json"
                path.write_text(json.dumps({**recipe, "output_gate": gate, **fields}))
                self.ok("train", path, "--out", self.folder / run, "--type", "f32")
            trainers = json.loads((self.folder / f"look{gate}/log.jsonl").read_text())["loss"]
            self.assertAlmostEqual(Forward(self.folder / f"run{gate}", gate)(ids).loss, trainers, delta=1e-5 * trainers)
            losses.append(trainers)
        self.assertGreater(abs(losses[0] - losses[1]), 1e-3)  # the gate was looked at
        wrong = Forward(self.folder / "runTrue", False)(ids).loss
        self.assertGreater(abs(wrong - losses[0]), 1e-3)


if __name__ == "__main__":
    main()
