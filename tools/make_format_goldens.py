#!/usr/bin/env python3
"""Cuts tests/data/formats out of golden data: blocks that ggml decoded, and weights that llama.cpp quantised.

usage: make_format_goldens.py GOLDEN_FOLDER OUT_FOLDER      (needs numpy)

Writes raw little-endian files:
  TYPE.blocks, TYPE.f32             blocks of TYPE, and the values that ggml decodes them to
  llama_TYPE.bf16, llama_TYPE.blocks   rows of weights, and llama.cpp's quantisation of them (no importance matrix)
"""
import json
import pathlib
import struct
import sys

import numpy as np

BLOCKS = {8: ("q8_0", 32, 34), 12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210)}
BF16 = 30
SLICES = {"q8_0": 16384, "q4_k": 32768, "q5_k": 16384, "q6_k": 32768}  # elements of each type, spread over tensors


def read_safetensors(path):
    data = path.read_bytes()
    header_bytes = struct.unpack_from("<Q", data)[0]
    for name, entry in json.loads(data[8 : 8 + header_bytes]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, data[8 + header_bytes + begin : 8 + header_bytes + end]


class Gguf:
    """The tensors of a GGUF v3 file: name -> (ggml type, number of elements, offset of its data)."""

    SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, path):
        self.data, self.at, self.tensors = path.read_bytes(), 4, {}
        _, num_tensors, num_keys = self.unpack("IQQ")
        keys = {self.text(): self.value(self.unpack("I")[0]) for _ in range(num_keys)}
        for _ in range(num_tensors):
            name = self.text()
            dims = self.unpack(f"{self.unpack('I')[0]}Q")
            ggml_type, offset = self.unpack("IQ")
            self.tensors[name] = (ggml_type, int(np.prod(dims)), offset)
        alignment = keys.get("general.alignment", 32)
        self.begin = (self.at + alignment - 1) // alignment * alignment

    def unpack(self, layout):
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def text(self):
        num_bytes = self.unpack("Q")[0]
        self.at += num_bytes
        return self.data[self.at - num_bytes : self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            item_kind, count = self.unpack("IQ")
            return [self.value(item_kind) for _ in range(count)]
        return self.unpack(self.SCALARS[kind])[0]

    def bytes(self, name, begin, end):
        offset = self.begin + self.tensors[name][2]
        return self.data[offset + begin : offset + end]


def write_decoded(golden, out):
    for name, data in read_safetensors(golden / "text/ggml_dequant.safetensors"):
        type_name, kind = name.split(".")
        (out / f"{type_name.lower()}.{'f32' if kind == 'values' else 'blocks'}").write_bytes(data)


def write_quantised(golden, out):
    exact = Gguf(golden / "next-gguf/next-bf16.gguf")
    mixed = Gguf(golden / "next-gguf/next-Q4_K_M.gguf")
    by_type = {}
    for name, (ggml_type, _, _) in mixed.tensors.items():
        if ggml_type in BLOCKS and exact.tensors[name][0] == BF16:
            by_type.setdefault(ggml_type, []).append(name)
    for ggml_type, names in by_type.items():
        type_name, block_elements, block_bytes = BLOCKS[ggml_type]
        share = max(SLICES[type_name] // len(names) // 256 * 256, 256)
        values, blocks = b"", b""
        for name in names:
            if len(values) // 2 >= SLICES[type_name]:
                break
            count = min(share, exact.tensors[name][1])
            values += exact.bytes(name, 0, count * 2)
            blocks += mixed.bytes(name, 0, count // block_elements * block_bytes)
        (out / f"llama_{type_name}.bf16").write_bytes(values)
        (out / f"llama_{type_name}.blocks").write_bytes(blocks)


if __name__ == "__main__":
    golden, out = map(pathlib.Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    write_decoded(golden, out)
    write_quantised(golden, out)
