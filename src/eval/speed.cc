#include "eval/speed.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "base/argmax.h"
#include "eval/direct_runner.h"

namespace qnext {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kSeed = 20250911;
constexpr std::size_t kWarmUpTokens = 8;

std::vector<TokenId> random_tokens(std::size_t count, std::size_t V) {
  std::minstd_rand random(static_cast<std::uint32_t>(kSeed));
  std::vector<TokenId> out(count);
  std::generate(out.begin(), out.end(), [&] { return static_cast<TokenId>(random() % V); });
  return out;
}

class Hash {
 public:
  void add(std::span<const TokenId> token_ids) {
    for (TokenId id : token_ids) {
      for (int shift = 0; shift < 32; shift += 8) {
        value_ = (value_ ^ ((static_cast<std::uint32_t>(id) >> shift) & 0xFF)) * 0x100000001b3;
      }
    }
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325;
};

// The best token of each row.
void argmax_rows(std::span<TokenId> out, View<const float> logits) {
  for (std::size_t t = 0; t < out.size(); ++t) out[t] = static_cast<TokenId>(argmax({logits.row(t), logits.dim(1)}));
}

struct Timed {
  double seconds = 0;
  std::uint64_t output_hash = 0;
};

Error stopped() {
  return error("stopped before everything was measured");
}

Result<Timed> time_prefill(DirectRunner& runner, std::span<const TokenId> prompt, std::size_t chunk_tokens,
                           FunctionRef<bool()> go_on) {
  TokenId chosen = 0;
  const Clock::time_point begin = Clock::now();
  for (std::size_t first = 0; first < prompt.size(); first += chunk_tokens) {
    if (!go_on()) return stopped();
    const auto chunk = prompt.subspan(first, std::min(chunk_tokens, prompt.size() - first));
    const View<float> hidden = runner.step(chunk);
    if (first + chunk.size() < prompt.size()) continue;
    argmax_rows({&chosen, 1}, runner.logits(hidden.slice(0, chunk.size() - 1, chunk.size())));
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  Hash hash;
  hash.add({&chosen, 1});
  return Timed{seconds, hash.value()};
}

Result<Timed> time_decode(DirectRunner& runner, std::span<const TokenId> first_tokens, std::size_t num_tokens,
                          FunctionRef<bool()> go_on) {
  std::vector<TokenId> current(first_tokens.begin(), first_tokens.end());
  Hash hash;
  const Clock::time_point begin = Clock::now();
  for (std::size_t i = 0; i < num_tokens; ++i) {
    if (!go_on()) return stopped();
    argmax_rows(current, runner.logits(runner.step(current)));
    hash.add(current);
  }
  return Timed{std::chrono::duration<double>(Clock::now() - begin).count(), hash.value()};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

// Runs `once` as often as asked, from the same beginning, with the roofs measured before, between and after.
Status repeat(SpeedResult& result, const RoofMeter& meter, std::size_t num_repetitions,
              FunctionRef<Result<Timed>()> once) {
  std::vector<double> seconds, bandwidth_shares, matmul_shares;
  Roofs before = result.roofs = meter.measure();
  for (std::size_t i = 0; i < num_repetitions; ++i) {
    QN_TRY(const Timed timed, once());
    const Roofs after = meter.measure();
    if (i > 0 && timed.output_hash != result.output_hash) {
      return error("two runs of the same tokens chose different ones: the machine or this build computes wrongly");
    }
    result.output_hash = timed.output_hash;
    const Roofs around = best_of(before, after);
    seconds.push_back(timed.seconds);
    bandwidth_shares.push_back(static_cast<double>(result.work.bytes()) / around.read_bytes_per_s / timed.seconds);
    matmul_shares.push_back(static_cast<double>(result.work.ops) / around.matmul_ops_per_s / timed.seconds);
    result.roofs = best_of(result.roofs, after);
    before = after;
  }
  result.fastest_s = *std::min_element(seconds.begin(), seconds.end());
  result.median_s = median(std::move(seconds));
  result.share_of_bandwidth = median(std::move(bandwidth_shares));
  result.share_of_matmul = median(std::move(matmul_shares));
  return success();
}

class SpeedRun {
 public:
  SpeedRun(const Qwen3Next& model, const Ops& ops, const RoofMeter& meter, const SpeedConfig& config,
           FunctionRef<bool()> go_on)
      : model_(model), ops_(ops), meter_(meter), config_(config), go_on_(go_on) {}

  Status warm_up() {
    const std::size_t num_tokens = config_.prompt_tokens.empty() ? kWarmUpTokens : config_.chunk_tokens;
    QN_TRY(const auto runner, make_runner(1, num_tokens + kWarmUpTokens));
    const std::vector<TokenId> token_ids = random_tokens(num_tokens, model_.config().V);
    QN_TRY([[maybe_unused]] const Timed prefill, time_prefill(*runner, token_ids, config_.chunk_tokens, go_on_));
    QN_TRY([[maybe_unused]] const Timed decode,
           time_decode(*runner, std::span(token_ids).first(1), kWarmUpTokens, go_on_));
    return success();
  }

  Result<SpeedResult> prefill(std::size_t num_tokens, std::size_t depth) {
    SpeedResult result{
        .phase = Phase::kPrefill, .num_tokens = num_tokens, .depth = depth, .num_threads = ops_.pool().num_threads()};
    result.work = count_prefill_work(
        model_.weights(),
        {.num_tokens = num_tokens, .chunk_tokens = config_.chunk_tokens, .depth = depth, .kv_type = config_.kv_type});
    QN_TRY(const auto runner, make_runner(1, depth + num_tokens));
    const std::vector<TokenId> prompt = random_tokens(num_tokens, model_.config().V);
    QN_RETURN_IF_ERROR(repeat(result, meter_, config_.num_repetitions, [&] {
      set_depth(*runner, depth);
      return time_prefill(*runner, prompt, config_.chunk_tokens, go_on_);
    }));
    return result;
  }

  Result<SpeedResult> decode(std::size_t num_sequences, std::size_t depth) {
    SpeedResult result{.phase = Phase::kDecode,
                       .num_tokens = config_.gen_tokens,
                       .num_sequences = num_sequences,
                       .depth = depth,
                       .num_threads = ops_.pool().num_threads()};
    for (std::size_t i = 0; i < config_.gen_tokens; ++i) {
      result.work += count_work(model_.weights(), {.num_sequences = num_sequences,
                                                   .num_tokens = 1,
                                                   .depth = depth + i,
                                                   .num_logit_rows = num_sequences,
                                                   .kv_type = config_.kv_type});
    }
    QN_TRY(const auto runner, make_runner(num_sequences, depth + config_.gen_tokens));
    const std::vector<TokenId> first_tokens = random_tokens(num_sequences, model_.config().V);
    QN_RETURN_IF_ERROR(repeat(result, meter_, config_.num_repetitions, [&] {
      set_depth(*runner, depth);
      return time_decode(*runner, first_tokens, config_.gen_tokens, go_on_);
    }));
    return result;
  }

 private:
  Result<std::unique_ptr<DirectRunner>> make_runner(std::size_t num_sequences, std::size_t max_tokens) {
    return DirectRunner::make(model_, ops_,
                              {.num_sequences = num_sequences, .max_tokens = max_tokens, .kv_type = config_.kv_type});
  }
  static void set_depth(DirectRunner& runner, std::size_t depth) {
    runner.reset();
    if (depth > 0) runner.fill_synthetic(depth, kSeed);
  }

  const Qwen3Next& model_;
  const Ops& ops_;
  const RoofMeter& meter_;
  const SpeedConfig& config_;
  FunctionRef<bool()> go_on_;
};

}  // namespace

double SpeedResult::tokens_per_s() const {
  return static_cast<double>(num_tokens * num_sequences) / median_s;
}

Result<std::vector<SpeedResult>> measure_speed(const Qwen3Next& model, const Ops& ops, const SpeedConfig& config,
                                               const SpeedObserver& observer) {
  QN_TRY(const RoofMeter meter, RoofMeter::make(ops));
  SpeedRun run(model, ops, meter, config, observer.go_on);
  std::vector<SpeedResult> results;
  observer.begin("warming up");
  QN_RETURN_IF_ERROR(run.warm_up());
  for (std::size_t depth : config.depths) {
    for (std::size_t num_tokens : config.prompt_tokens) {
      observer.begin(fmt::format("prefill of {} tokens at depth {}", num_tokens, depth));
      QN_TRY(results.emplace_back(), run.prefill(num_tokens, depth));
    }
    if (config.gen_tokens == 0) continue;
    for (std::size_t num_sequences : config.batches) {
      observer.begin(
          fmt::format("decode of {} tokens, {} sequences, at depth {}", config.gen_tokens, num_sequences, depth));
      QN_TRY(results.emplace_back(), run.decode(num_sequences, depth));
    }
  }
  return results;
}

}  // namespace qnext
