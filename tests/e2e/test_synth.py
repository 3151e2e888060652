#!/usr/bin/env python3
"""qnext data synth: the same bytes for a seed, lines as docs/corpus.md says, whole files or none, wrong flags refused."""
import json
import pathlib
import unittest

from harness import QNEXT, Case, main

KINDS = ["stories", "descriptions", "dialogues", "facts", "arithmetic", "problems", "problems-thinking", "instructions"]


@unittest.skipUnless((pathlib.Path(QNEXT).parent / "qnext-train").exists(), "built without the trainer")
class Synth(Case):
    def synth(self, folder, kind, *args):
        self.ok("data", "synth", "--out", self.folder / folder, "--kind", kind, "--count", 50, "--seed", 3, *args)
        (path,) = (self.folder / folder).iterdir()
        return path

    def test_lines(self):
        for kind in KINDS:
            for split in ["train", "held-out"]:
                with self.subTest(kind=kind, split=split):
                    path = self.synth(f"{kind}-{split}", kind, "--split", split)
                    self.assertEqual(path.name, kind + (".jsonl" if split == "train" else ".held-out.jsonl"))
                    self.assertEqual(path.read_bytes(), self.synth(f"again-{kind}-{split}", kind, "--split", split).read_bytes())
                    lines = [json.loads(line) for line in path.read_text().splitlines()]
                    self.assertEqual(len({json.dumps(line) for line in lines}), 50)
                    for line in lines:
                        if "text" in line:
                            self.assertEqual(list(line), ["text"])
                            continue
                        roles = [message["role"] for message in line["messages"]]
                        self.assertEqual(roles, ["user", "assistant"] * (len(roles) // 2))
                        self.assertEqual("answer" in line, kind.startswith("problems"))

    def test_wrong_flags(self):
        right = {"--out": self.folder, "--kind": "facts", "--count": 1}
        for flag, value in [("--kind", "poems"), ("--count", 0), ("--count", "many"), ("--split", "test"), ("--seed", "x")]:
            with self.subTest(flag=flag, value=value):
                args = [part for pair in {**right, flag: value}.items() for part in pair]
                self.fails(2, "data", "synth", *args)
        self.fails(2, "data", "synth", "--kind", "facts", "--count", 1)

    def test_a_folder_that_cannot_be(self):
        (self.folder / "file").write_text("")
        self.fails(1, "data", "synth", "--out", self.folder / "file", "--kind", "facts", "--count", 1)


if __name__ == "__main__":
    main()
