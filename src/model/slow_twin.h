#pragma once
// SlowTwin: the network once more, for tests alone: written from design/model.md with none of our kernels, loaders or
// layouts; doubles, plain loops, the whole sequence at once, weights as the checkpoint names and groups them.

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "base/units.h"
#include "model/config.h"

namespace qnext::test {

using Values = std::vector<double>;
using Rows = std::vector<Values>;  // [T] of equal width

class SlowTwin {
 public:
  SlowTwin(ModelConfig config, std::map<std::string, Values> tensors)
      : cfg_(std::move(config)), tensors_(std::move(tensors)) {}

  Rows hidden(const std::vector<TokenId>& tokens) const {
    Rows x;
    for (TokenId token : tokens) x.push_back(embedding(token));
    for (std::size_t i = 0; i < cfg_.num_layers(); ++i) {
      layer(x, "model.layers." + std::to_string(i) + ".", cfg_.layers[i]);
    }
    for (Values& row : x) row = norm(row, "model.norm.weight");
    return x;
  }

  Rows logits(const Rows& hidden) const {
    Rows out;
    for (const Values& row : hidden) {
      out.push_back(times(row, cfg_.tied_head ? "model.embed_tokens.weight" : "lm_head.weight"));
    }
    return out;
  }

  // Position t sees tokens[t + 1] and hidden[t].
  Rows mtp_hidden(const std::vector<TokenId>& tokens, const Rows& hidden) const {
    Rows y;
    for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
      Values both = norm(embedding(tokens[t + 1]), "mtp.pre_fc_norm_embedding.weight");
      const Values h = norm(hidden[t], "mtp.pre_fc_norm_hidden.weight");
      both.insert(both.end(), h.begin(), h.end());
      y.push_back(times(both, "mtp.fc.weight"));
    }
    layer(y, "mtp.layers.0.", {MixerKind::kAttention, cfg_.E > 0 ? FeedForwardKind::kMoe : FeedForwardKind::kDense});
    for (Values& row : y) row = norm(row, "mtp.norm.weight");
    return y;
  }

 private:
  const Values& tensor(const std::string& name) const { return tensors_.at(name); }

  Values embedding(TokenId token) const {
    const Values& all = tensor("model.embed_tokens.weight");
    return {all.begin() + token * static_cast<std::ptrdiff_t>(cfg_.D),
            all.begin() + (token + 1) * static_cast<std::ptrdiff_t>(cfg_.D)};
  }

  Values times(const Values& x, const std::string& name) const {
    const Values& w = tensor(name);
    Values out(w.size() / x.size());
    for (std::size_t o = 0; o < out.size(); ++o) {
      for (std::size_t k = 0; k < x.size(); ++k) out[o] += x[k] * w[o * x.size() + k];
    }
    return out;
  }

  Values norm(const Values& x, const std::string& name, bool zero_centred) const {
    double squares = 0;
    for (double value : x) squares += value * value;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + static_cast<double>(cfg_.eps));
    const Values& w = tensor(name);
    Values out(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) out[i] = x[i] * scale * (w[i] + (zero_centred ? 1 : 0));
    return out;
  }
  Values norm(const Values& x, const std::string& name) const {
    return norm(x, name, cfg_.architecture == Architecture::kQwen3Next);
  }

  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
  static double silu(double x) { return x * sigmoid(x); }

  void layer(Rows& x, const std::string& prefix, LayerConfig kind) const {
    Rows h;
    for (const Values& row : x) h.push_back(norm(row, prefix + "input_layernorm.weight"));
    add(x, kind.mixer == MixerKind::kAttention ? attention(h, prefix + "self_attn.")
                                               : delta_net(h, prefix + "linear_attn."));
    Rows out;
    for (const Values& row : x) {
      const Values y = norm(row, prefix + "post_attention_layernorm.weight");
      out.push_back(kind.feed_forward == FeedForwardKind::kMoe ? moe(y, prefix + "mlp.") : mlp(y, prefix + "mlp."));
    }
    add(x, out);
  }

  static void add(Rows& x, const Rows& y) {
    for (std::size_t t = 0; t < x.size(); ++t) {
      for (std::size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
    }
  }

  // YaRN as the paper's section 3.2 has it, with transformers' rounding of the ramp's ends.
  double frequency(std::size_t i) const {
    const auto R = static_cast<double>(cfg_.rope.R);
    const double plain = std::pow(cfg_.rope.theta, -2.0 * static_cast<double>(i) / R);
    if (!cfg_.rope.yarn) return plain;
    const YarnConfig& yarn = *cfg_.rope.yarn;
    const auto dim_of = [&](double turns) {
      return R * std::log(yarn.original_context_tokens / (turns * 2 * M_PI)) / (2 * std::log(cfg_.rope.theta));
    };
    const double low = std::max(std::floor(dim_of(yarn.beta_fast)), 0.0);
    const double high = std::min(std::ceil(dim_of(yarn.beta_slow)), R - 1);
    const double ramp =
        std::min(1.0, std::max(0.0, (static_cast<double>(i) - low) / (high == low ? 0.001 : high - low)));
    return plain * (1 - ramp) + plain / yarn.factor * ramp;
  }

  void rotate(Values& head, std::size_t position) const {
    const std::size_t half = cfg_.rope.R / 2;
    const double factor = cfg_.rope.yarn ? cfg_.rope.yarn->attention_factor : 1.0;
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequency(i);
      const double a = head[i];
      const double b = head[i + half];
      head[i] = (a * std::cos(angle) - b * std::sin(angle)) * factor;
      head[i + half] = (b * std::cos(angle) + a * std::sin(angle)) * factor;
    }
  }

  static Values part(const Values& x, std::size_t begin, std::size_t count) {
    return {x.begin() + static_cast<std::ptrdiff_t>(begin), x.begin() + static_cast<std::ptrdiff_t>(begin + count)};
  }

  static double dot(const Values& a, const Values& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }

  Rows attention(const Rows& h, const std::string& prefix) const {
    const std::size_t Dh = cfg_.Dh;
    const std::size_t q_stride = cfg_.attention_gate ? 2 * Dh : Dh;
    std::vector<Rows> keys(cfg_.Hkv);
    std::vector<Rows> values(cfg_.Hkv);
    Rows out;
    for (std::size_t t = 0; t < h.size(); ++t) {
      const Values q_all = times(h[t], prefix + "q_proj.weight");
      const Values k_all = times(h[t], prefix + "k_proj.weight");
      const Values v_all = times(h[t], prefix + "v_proj.weight");
      for (std::size_t g = 0; g < cfg_.Hkv; ++g) {
        Values key = norm(part(k_all, g * Dh, Dh), prefix + "k_norm.weight");
        rotate(key, t);
        keys[g].push_back(key);
        values[g].push_back(part(v_all, g * Dh, Dh));
      }
      Values merged;
      for (std::size_t head = 0; head < cfg_.Hq; ++head) {
        const std::size_t g = head / (cfg_.Hq / cfg_.Hkv);
        Values q = norm(part(q_all, head * q_stride, Dh), prefix + "q_norm.weight");
        rotate(q, t);
        Values weights;
        double total = 0;
        for (std::size_t s = 0; s <= t; ++s) {
          weights.push_back(std::exp(dot(q, keys[g][s]) / std::sqrt(static_cast<double>(Dh))));
          total += weights.back();
        }
        for (std::size_t i = 0; i < Dh; ++i) {
          double sum = 0;
          for (std::size_t s = 0; s <= t; ++s) sum += weights[s] / total * values[g][s][i];
          if (cfg_.attention_gate) sum *= sigmoid(q_all[head * q_stride + Dh + i]);
          merged.push_back(sum);
        }
      }
      out.push_back(times(merged, prefix + "o_proj.weight"));
    }
    return out;
  }

  Rows delta_net(const Rows& h, const std::string& prefix) const {
    const std::size_t r = cfg_.Hv / cfg_.Hk;
    const std::size_t Dk = cfg_.Dk;
    const std::size_t Dv = cfg_.Dv;
    const Values& taps = tensor(prefix + "conv1d.weight");
    std::vector<Rows> state(cfg_.Hv, Rows(Dk, Values(Dv, 0.0)));
    Rows mixed;
    Rows out;
    for (std::size_t t = 0; t < h.size(); ++t) {
      const Values qkvz = times(h[t], prefix + "in_proj_qkvz.weight");
      const Values ba = times(h[t], prefix + "in_proj_ba.weight");
      Values q, k, v, z;
      for (std::size_t g = 0; g < cfg_.Hk; ++g) {
        const std::size_t base = g * (2 * Dk + 2 * r * Dv);
        append(q, part(qkvz, base, Dk));
        append(k, part(qkvz, base + Dk, Dk));
        append(v, part(qkvz, base + 2 * Dk, r * Dv));
        append(z, part(qkvz, base + 2 * Dk + r * Dv, r * Dv));
      }
      append(q, k);
      append(q, v);
      mixed.push_back(q);
      Values conv(cfg_.C());
      for (std::size_t c = 0; c < cfg_.C(); ++c) {
        for (std::size_t j = 0; j < cfg_.conv_taps; ++j) {
          if (t + j + 1 >= cfg_.conv_taps)
            conv[c] += taps[c * cfg_.conv_taps + j] * mixed[t + j + 1 - cfg_.conv_taps][c];
        }
        conv[c] = silu(conv[c]);
      }
      Values merged;
      for (std::size_t head = 0; head < cfg_.Hv; ++head) {
        const std::size_t g = head / r;
        const Values query = unit(part(conv, g * Dk, Dk), 1 / std::sqrt(static_cast<double>(Dk)));
        const Values key = unit(part(conv, cfg_.Hk * Dk + g * Dk, Dk), 1);
        const Values value = part(conv, 2 * cfg_.Hk * Dk + head * Dv, Dv);
        const double beta = sigmoid(ba[g * 2 * r + head % r]);
        const double a = ba[g * 2 * r + r + head % r] + tensor(prefix + "dt_bias")[head];
        const double decay = std::exp(-std::exp(tensor(prefix + "A_log")[head]) * std::log1p(std::exp(a)));
        Values o(Dv);
        for (std::size_t i = 0; i < Dv; ++i) {
          double seen = 0;
          for (std::size_t d = 0; d < Dk; ++d) seen += (state[head][d][i] *= decay) * key[d];
          for (std::size_t d = 0; d < Dk; ++d)
            o[i] += (state[head][d][i] += key[d] * beta * (value[i] - seen)) * query[d];
        }
        o = norm(o, prefix + "norm.weight", false);
        for (std::size_t i = 0; i < Dv; ++i) merged.push_back(o[i] * silu(z[head * Dv + i]));
      }
      out.push_back(times(merged, prefix + "out_proj.weight"));
    }
    return out;
  }

  static void append(Values& to, const Values& from) { to.insert(to.end(), from.begin(), from.end()); }

  static Values unit(Values x, double scale) {
    const double factor = scale / std::sqrt(dot(x, x) + 1e-6);
    for (double& value : x) value *= factor;
    return x;
  }

  Values mlp(const Values& x, const std::string& prefix) const {
    Values hidden = times(x, prefix + "gate_proj.weight");
    const Values up = times(x, prefix + "up_proj.weight");
    for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] = silu(hidden[i]) * up[i];
    return times(hidden, prefix + "down_proj.weight");
  }

  Values moe(const Values& x, const std::string& prefix) const {
    Values p = times(x, prefix + "gate.weight");
    double total = 0;
    for (double& value : p) total += value = std::exp(value);
    for (double& value : p) value /= total;
    std::vector<std::size_t> chosen;
    double chosen_sum = 0;
    for (std::size_t a = 0; a < cfg_.A; ++a) {
      std::size_t best = cfg_.E;
      for (std::size_t e = 0; e < cfg_.E; ++e) {
        const bool taken = std::find(chosen.begin(), chosen.end(), e) != chosen.end();
        if (!taken && (best == cfg_.E || p[e] > p[best])) best = e;
      }
      chosen.push_back(best);
      chosen_sum += p[best];
    }
    Values out(x.size());
    for (std::size_t e : chosen) {
      const Values y = mlp(x, prefix + "experts." + std::to_string(e) + ".");
      for (std::size_t i = 0; i < x.size(); ++i) out[i] += y[i] * p[e] / (cfg_.normalize_routing ? chosen_sum : 1.0);
    }
    if (cfg_.shared_expert_width > 0) {
      const Values y = mlp(x, prefix + "shared_expert.");
      const double gate = sigmoid(times(x, prefix + "shared_expert_gate.weight")[0]);
      for (std::size_t i = 0; i < x.size(); ++i) out[i] += gate * y[i];
    }
    return out;
  }

  ModelConfig cfg_;
  std::map<std::string, Values> tensors_;
};

}  // namespace qnext::test
