// Any text as a config.json: a short error that names the file, or a config whose numbers later code may rely on.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/config.h"
#include "model/rope.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t num_bytes) {
  const std::string_view text(reinterpret_cast<const char*>(data), num_bytes);
  auto config = qnext::parse_config_json(text, "fuzz.json");
  if (!config.ok()) {
    constexpr std::size_t kMostMessageBytes = 1000;
    QN_CHECK(config.message().starts_with("fuzz.json: "), "{}", config.message());
    QN_CHECK(config.message().size() < kMostMessageBytes, "an error of {} bytes", config.message().size());
    return 0;
  }
  QN_CHECK(qnext::check_config(*config, "fuzz.json").ok(), "a config that breaks its own rules");
  QN_CHECK(config->num_layers() <= qnext::kMaxLayers, "{} layers", config->num_layers());
  constexpr std::size_t kMostStateBytes = std::size_t{1} << 50;  // far from overflow
  QN_CHECK(config->state_bytes() < kMostStateBytes, "state of {} bytes", config->state_bytes());
  QN_CHECK(config->kv_bytes_per_token(qnext::DType::kF32) < kMostStateBytes, "K/V of {} bytes",
           config->kv_bytes_per_token(qnext::DType::kF32));
  const qnext::RopeFrequencies rope = qnext::make_rope_frequencies(config->rope);
  QN_CHECK(rope.inverse.size() == config->rope.R / 2 && std::isfinite(rope.factor), "factor {}", rope.factor);
  for (const float frequency : rope.inverse) QN_CHECK(frequency >= 0 && frequency <= 1, "frequency {}", frequency);
  config->has_mtp = true;  // what the tensors may add
  (void)qnext::check_config(*config, "fuzz.json");
  return 0;
}
