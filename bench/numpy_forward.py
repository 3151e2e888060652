"""Qwen3-Next's forward pass in numpy, one document at a time, to look inside of a trained model: what attention's
probabilities and the residual stream are. Slow and plain. It also runs what the engine does not open: models that were
trained with "output_gate": false. tests/e2e/test_experiments.py holds its loss to the trainer's.
"""
import json
import pathlib

import numpy as np


def read_safetensors(path):
    """Name to array, of types F32, I32, I64 and U8."""
    types = {"F32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "u1"}
    data = pathlib.Path(path).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    out = {}
    for name, tensor in json.loads(data[8:begin]).items():
        if name == "__metadata__":
            continue
        if tensor["dtype"] not in types:
            raise ValueError(f"{path}: {name}: expected one of {', '.join(types)}, found {tensor['dtype']} (train with --type f32)")
        first, last = tensor["data_offsets"]
        out[name] = np.frombuffer(data[begin + first:begin + last], types[tensor["dtype"]]).reshape(tensor["shape"])
    return out


def documents(shard):
    """The documents of a token shard, as arrays of ids."""
    tensors = read_safetensors(shard)
    return np.split(tensors["tokens"], tensors["bounds"][1:-1])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unit_rms(x, eps):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps)


def unit_l2(x):
    return x / np.sqrt(np.sum(x * x, -1, keepdims=True) + 1e-6)


class Forward:
    """Run it on a document's ids, then read `logits` [T - 1, V], `loss` (mean over its predicted tokens), `residuals` (the
    stream [T, D] after the embedding and after each layer) and `attention` (of each full-attention layer, by index:
    probabilities [Hq, T, T])."""

    def __init__(self, folder, output_gate=True):
        folder = pathlib.Path(folder)
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.weights = {name: value.astype(np.float64) for name, value in read_safetensors(folder / "model.safetensors").items()}
        self.output_gate = output_gate
        self.eps = self.config["rms_norm_eps"]

    def __call__(self, ids):
        x = self.weights["model.embed_tokens.weight"][ids]
        self.residuals, self.attention = [x], {}
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            h = self.norm(x, layer + "input_layernorm")
            if layer + "self_attn.q_proj.weight" in self.weights:
                mixed, self.attention[i] = self.gated_attention(h, layer + "self_attn.")
            else:
                mixed = self.gated_delta_net(h, layer + "linear_attn.")
            x = x + mixed
            x = x + self.moe(self.norm(x, layer + "post_attention_layernorm"), layer + "mlp.")
            self.residuals.append(x)
        self.logits = self.project(self.norm(x, "model.norm"), "lm_head")[:-1]
        self.loss = -np.mean(np.log(softmax(self.logits))[np.arange(len(ids) - 1), ids[1:]])
        return self

    def project(self, x, name):
        return x @ self.weights[name + ".weight"].T

    def norm(self, x, name):
        return unit_rms(x, self.eps) * (1 + self.weights[name + ".weight"])

    def rope(self, x):  # [T, H, Dh]: the first dims of each head, rotate-half
        width = int(self.config["head_dim"] * self.config["partial_rotary_factor"])
        angles = np.arange(len(x))[:, None] * self.config["rope_theta"] ** (-np.arange(0, width, 2) / width)
        cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b, rest = np.split(x, [width // 2, width], -1)
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], -1)

    def gated_attention(self, x, name):
        T, Dh = len(x), self.config["head_dim"]
        q, gate = np.split(self.project(x, name + "q_proj").reshape(T, -1, 2 * Dh), 2, -1)
        k, v = (self.project(x, name + part).reshape(T, -1, Dh) for part in ("k_proj", "v_proj"))
        q, k = self.rope(self.norm(q, name + "q_norm")), self.rope(self.norm(k, name + "k_norm"))
        k, v = (np.repeat(kv, q.shape[1] // k.shape[1], 1) for kv in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(Dh)
        p = softmax(np.where(np.tri(T, dtype=bool), scores, -np.inf))
        o = np.einsum("hqk,khd->qhd", p, v)
        if self.output_gate:
            o = o * sigmoid(gate)
        return self.project(o.reshape(T, -1), name + "o_proj"), p

    def gated_delta_net(self, x, name):
        T, Hk, Hv = len(x), self.config["linear_num_key_heads"], self.config["linear_num_value_heads"]
        Dk, Dv, r = self.config["linear_key_head_dim"], self.config["linear_value_head_dim"], Hv // Hk
        groups = self.project(x, name + "in_proj_qkvz").reshape(T, Hk, -1)
        parts = [part.reshape(T, -1) for part in np.split(groups, [Dk, 2 * Dk, 2 * Dk + r * Dv], -1)]
        z = parts.pop().reshape(T, Hv, Dv)
        taps = self.weights[name + "conv1d.weight"][:, 0]  # [C, taps], the last is the token itself
        padded = np.concatenate([np.zeros((taps.shape[1] - 1, len(taps))), np.concatenate(parts, -1)])
        mixed = silu(sum(padded[i:i + T] * taps[:, i] for i in range(taps.shape[1])))
        q, k, v = np.split(mixed, [Hk * Dk, 2 * Hk * Dk], -1)
        q, k = (np.repeat(unit_l2(part.reshape(T, Hk, Dk)), r, 1) for part in (q, k))
        v = v.reshape(T, Hv, Dv)
        b, a = (part.reshape(T, Hv) for part in np.split(self.project(x, name + "in_proj_ba").reshape(T, Hk, -1), 2, -1))
        decay = np.exp(-np.exp(self.weights[name + "A_log"]) * np.logaddexp(0, a + self.weights[name + "dt_bias"]))
        beta = sigmoid(b)[:, :, None]
        state, out = np.zeros((Hv, Dk, Dv)), np.empty((T, Hv, Dv))
        for t in range(T):
            state *= decay[t, :, None, None]
            u = beta[t] * (v[t] - (k[t, :, None] @ state)[:, 0])
            state += k[t, :, :, None] * u[:, None]
            out[t] = (q[t, :, None] @ state)[:, 0] / np.sqrt(Dk)
        out = unit_rms(out, self.eps) * self.weights[name + "norm.weight"] * silu(z)
        return self.project(out.reshape(T, -1), name + "out_proj")

    def expert(self, x, name):
        return self.project(silu(self.project(x, name + "gate_proj")) * self.project(x, name + "up_proj"), name + "down_proj")

    def moe(self, x, name):
        logits = self.project(x, name + "gate")
        chosen = np.argsort(-logits, -1)[:, :self.config["num_experts_per_tok"]]
        shares = softmax(np.take_along_axis(logits, chosen, -1))
        out = sigmoid(self.project(x, name + "shared_expert_gate")) * self.expert(x, name + "shared_expert.")
        for e in np.unique(chosen):
            t, place = np.nonzero(chosen == e)
            out[t] += shares[t, place, None] * self.expert(x[t], f"{name}experts.{e}.")
        return out
