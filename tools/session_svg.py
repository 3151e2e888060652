#!/usr/bin/env python3
"""Draws the README's picture: runs the commands below with the built program and sets what they print as an SVG.

usage: session_svg.py QNEXT > docs/images/session.svg      (from the repository's root)
"""
import html
import subprocess
import sys

GOLDEN = "tests/data/golden"
SESSION = [  # (arguments, lines to show, of the output)
    (["inspect", f"{GOLDEN}/next-gguf/next-Q4_K_M.gguf"], range(0, 15)),
    (["compare", f"{GOLDEN}/next-tiny", "--golden", f"{GOLDEN}/next-tiny/golden.safetensors"], range(0, 12)),
]
CELL_W, CELL_H, PAD = 8.4, 18, 18


def main():
    program = sys.argv[1]
    lines = []
    for arguments, shown in SESSION:
        output = subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout.splitlines()
        lines.append(("prompt", "$ qnext " + " ".join(arguments).replace(GOLDEN + "/", "")))
        lines += [("text", output[i]) for i in shown if i < len(output)]
        lines.append(("text", ""))
    width = int(max(len(text) for _, text in lines) * CELL_W + 2 * PAD)
    height = int(len(lines) * CELL_H + 2 * PAD)
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
          'role="img" aria-label="A terminal session with qnext">')
    print("<style>text{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#d7dde5;white-space:pre}.prompt{fill:#8fd18f}</style>")
    print(f'<rect width="{width}" height="{height}" rx="10" fill="#171b22"/>')
    for i, (kind, text) in enumerate(lines):
        y = PAD + (i + 0.8) * CELL_H
        print(f'<text class="{kind}" x="{PAD}" y="{y:g}" xml:space="preserve">{html.escape(text)}</text>')
    print("</svg>")


if __name__ == "__main__":
    main()
