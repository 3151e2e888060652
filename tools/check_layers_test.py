#!/usr/bin/env python3
"""check_layers.py must find each kind of breach, and nothing in a clean tree."""
import pathlib
import tempfile
import unittest

import check_layers


class CheckLayersTest(unittest.TestCase):
    def breaches(self, files, road="base/clean.cc\n"):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {"src/base/clean.cc": "int one() { return 1; }\n", "tools/road.txt": road, **files}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            return check_layers.check(root)[0]

    def expect(self, part, files, **more):
        found = self.breaches(files, **more)
        self.assertEqual(len(found), 1, found)
        self.assertIn(part, found[0])

    def test_clean(self):
        self.assertEqual(self.breaches({}), [])

    def test_arrow(self):
        self.expect("base/ must not include tensor/", {"src/base/a.cc": '#include "tensor/view.h"\n'})
        self.expect("text/ must not include model/", {"src/text/a_test.cc": '#include "model/model.h"\n'})
        self.assertEqual(self.breaches({"src/tensor/a.cc": '#include "base/check.h"\n'}), [])

    def test_calls(self):
        self.expect("starting a thread", {"src/model/a.cc": "std::thread worker;\n"})
        self.expect("reading the environment", {"src/apps/a.cc": 'auto* v = std::getenv("X");\n'})
        self.expect("printing", {"src/engine/a.cc": 'fmt::print("x");\n'})
        self.expect("exiting", {"src/tensor/a.cc": "std::exit(1);\n"})
        self.expect("Highway", {"src/model/a.cc": "#include <hwy/highway.h>\n"})
        self.assertEqual(self.breaches({"src/model/a.cc": '// std::thread is base\'s\nauto s = "std::exit(1)";\n'}), [])

    def test_words(self):
        self.expect("must not speak of", {"src/kernels/a.cc": "int qwen_rows;\n"})
        self.expect("must not speak of", {"src/engine/a.cc": "Json body;\n"})
        self.expect("must not speak of", {"src/model/a.cc": "int request_id;\n".replace("request_id", "request")})

    def test_budgets(self):
        self.expect("601 lines", {"src/base/a.cc": "int x;\n" * 601})
        body = "  work();\n" * 60
        self.expect("function of 62 lines", {"src/base/a.cc": "int long_one(int a) {\n" + body + "}\n"})
        self.expect("function of 63 lines", {"src/base/a.cc": "int long_one(int a,\n             int b) {\n" + body + "}\n"})
        method = "class A {\n  int b() {\n" + "    work();\n" * 59 + "  }\n};\n"
        self.expect("function of 61 lines", {"src/base/a.cc": method})
        self.assertEqual(self.breaches({"src/base/a.cc": "int short_one() {\n" + "  work();\n" * 58 + "}\n"}), [])

    def test_road(self):
        self.expect("no file src/base/lost.cc", {}, road="base/lost.cc  # gone\n")
        files = {f"src/base/f{i}.cc": "int x;\n" for i in range(17)}
        self.expect("17 files", files, road="".join(f"base/f{i}.cc\n" for i in range(17)))
        files = {f"src/base/f{i}.cc": "int x;\n" * 500 for i in range(10)}
        self.expect("5000 lines", files, road="".join(f"base/f{i}.cc\n" for i in range(10)))


if __name__ == "__main__":
    unittest.main()
