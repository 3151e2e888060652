#!/usr/bin/env python3
"""How bench/eval_tiny.py judges: what counts as an error of grammar, which guesses, and whose stories."""
import os
import pathlib
import shutil
import sys
import unittest
from unittest import mock

from harness import QNEXT, ROOT, Case, main

sys.path.insert(0, str(ROOT / "bench"))
import eval_tiny  # noqa: E402

TEXTS = ["The cat sat on the mat. He of of ran.", 'He said: "Yes." Then he ran.']


class Judges(Case):
    def parser_that(self, script):
        """A PATH on which link-parser is that script."""
        parser = self.folder / "link-parser"
        parser.write_text("#!/bin/sh\n" + script)
        parser.chmod(0o755)
        return mock.patch.dict(os.environ, {"PATH": f"{self.folder}:{os.environ['PATH']}"})

    @unittest.skipUnless(shutil.which("link-parser"), "without link-grammar")
    def test_words_that_do_not_belong_are_counted(self):
        self.assertEqual(eval_tiny.unlinked_words(TEXTS), (16, 2))
        self.assertEqual(eval_tiny.unlinked_words(["! % The cat sat.", "Bye.", "Bye."]), (5, 0))

    def test_a_sentence_without_a_linkage_is_all_wrong(self):
        for wrong, result in ((0, "Found 3 linkages (3 had no P.P. violations)\n\tLinkage 1, ..."),
                              (2, "No complete linkages found.\nFound 5 linkages (5 had no P.P. violations) at null count 2"),
                              (3, "No complete linkages found.\nFound 1 linkage (1 had no P.P. violations) at null count 9"),
                              (3, 'No complete linkages found.\nTimer is expired!\nEntering "panic" mode...'),
                              (3, 'Timer is expired!\nEntering "panic" mode...\nFound 1 linkage (1 had no P.P. violations)')):
            self.assertEqual(eval_tiny.unlinked_in("He has ran.", result), wrong, result)

    def test_every_sentence_needs_a_result(self):
        for script, says in (("echo 'no dictionary' >&2; exit 3", "exit code 3: no dictionary"),
                             ("echo start; while read -r line; do echo \"$line\"; done; echo Bye.", "no result for: The cat sat on the mat."),
                             ("echo start; head -1; echo Found 1 linkage; echo Bye.", "no result for: The cat sat on the mat.")):
            with self.parser_that(script), self.assertRaises(SystemExit) as ended:
                eval_tiny.unlinked_words(TEXTS)
            self.assertIn(says, str(ended.exception.code))

    def test_guesses_of_one_batch_are_its_own(self):
        before, after = {"1": (100.0, 99.0)}, {"1": (300.0, 199.0), "2": (50.0, 10.0), "3": (0.0, 0.0)}
        self.assertEqual(eval_tiny.shares_right(before, after), {"1": 0.5, "2": 0.2})

    @unittest.skipUnless((pathlib.Path(QNEXT).parent / "qnext-train").exists(), "built without the trainer")
    def test_stories_are_asked_for_in_held_out_words(self):
        with mock.patch.object(eval_tiny, "QNEXT", pathlib.Path(QNEXT)):
            asked = [messages[0]["content"] for messages in eval_tiny.story_requests(200)]
        self.assertEqual(len(set(asked)), 200)
        self.assertEqual([text for text in asked if any(letter.isdigit() for letter in text)], [])  # no sums


if __name__ == "__main__":
    main()
