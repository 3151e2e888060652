#pragma once
// For tests of conversions: checkpoints of tests/data converted into a temporary folder.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "model/export_metadata.h"
#include "model/export_plan.h"
#include "tensor/file_test_util.h"

namespace qnext::test {

inline std::string golden_path(const std::string& relative) {
  return std::string(QNEXT_SOURCE_DIR) + "/tests/data/golden/" + relative;
}

inline ExportSource open_source(const std::filesystem::path& path) {
  auto source = ExportSource::open(path.string());
  QN_CHECK(source.ok(), "{}", source.message());
  return std::move(*source);
}

inline constexpr auto go_on = [](std::uint64_t, std::uint64_t) { return true; };

// Writes `source` as DST.gguf, its matrices as `rules` say.
inline Status to_gguf(const std::filesystem::path& dst, const ExportSource& source, const GgufTypeRules& rules = {}) {
  ThreadPool pool(2);
  QN_TRY(const ExportPlan plan, plan_gguf(source, rules));
  GgufHeader header;
  if (source.gguf() != nullptr) {
    add_requantised_metadata(header, *source.gguf(), rules.type);
  } else {
    add_gguf_metadata(header, source.config(), plan, {.name = "", .sampling = {}, .type = rules.type});
  }
  return export_gguf(dst, std::move(header), plan, pool, go_on);
}

// Writes `source` as model.safetensors and config.json of an existing folder.
inline Status to_safetensors(const test::TempFolder& dst, const ExportSource& source, DType type = DType::kBF16) {
  ThreadPool pool(2);
  QN_RETURN_IF_ERROR(export_safetensors(dst.path(), plan_safetensors(source, type), pool, go_on));
  dst.write("config.json", config_json_text(source.config(), type, {}));
  return success();
}

}  // namespace qnext::test
