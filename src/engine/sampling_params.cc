#include "engine/sampling_params.h"

#include <string_view>

namespace qnext {
namespace {

// Far beyond every use, and small enough that no adjusted logit overflows.
constexpr float kMaxTemperature = 1000;
constexpr float kMaxPenalty = 100;
constexpr float kMinRepetitionPenalty = 0.01f;
constexpr float kMaxBias = 10'000;

struct Bounds {
  float min = 0;
  float max = 0;
};

Status check_range(std::string_view field, float value, Bounds bounds) {
  if (value >= bounds.min && value <= bounds.max) return success();  // a NaN is in no range
  return error("{}: found {}, expected {} to {}", field, value, bounds.min, bounds.max);
}

}  // namespace

Status check_sampling_params(const SamplingParams& params, std::size_t vocabulary_tokens) {
  constexpr Bounds kPenalty{.min = -kMaxPenalty, .max = kMaxPenalty};
  QN_RETURN_IF_ERROR(check_range("temperature", params.temperature, {.min = 0, .max = kMaxTemperature}));
  QN_RETURN_IF_ERROR(check_range("top_p", params.top_p, {.min = 0, .max = 1}));
  QN_RETURN_IF_ERROR(check_range("min_p", params.min_p, {.min = 0, .max = 1}));
  QN_RETURN_IF_ERROR(
      check_range("repetition_penalty", params.repetition_penalty, {.min = kMinRepetitionPenalty, .max = kMaxPenalty}));
  QN_RETURN_IF_ERROR(check_range("presence_penalty", params.presence_penalty, kPenalty));
  QN_RETURN_IF_ERROR(check_range("frequency_penalty", params.frequency_penalty, kPenalty));
  for (const LogitBias& entry : params.logit_bias) {
    if (entry.token_id < 0 || static_cast<std::size_t>(entry.token_id) >= vocabulary_tokens) {
      return error("logit_bias: token id {} is outside the model's vocabulary, 0 to {}", entry.token_id,
                   vocabulary_tokens - 1);
    }
    QN_RETURN_IF_ERROR(check_range("logit_bias", entry.bias, {.min = -kMaxBias, .max = kMaxBias}));
  }
  return success();
}

}  // namespace qnext
