// Conversions of golden checkpoints: against llama.cpp's converter, and there and back.
#include <cstring>
#include <filesystem>

#include "model/export_test_support.h"
#include "model/weights.h"
#include "tensor/block_formats.h"

namespace qnext {
namespace {

using test::TempFolder;

std::string read_test_data(const std::string& name) {
  std::ifstream in(std::string(QNEXT_SOURCE_DIR) + "/tests/data/convert/" + name);
  return {std::istreambuf_iterator<char>(in), {}};
}

// One line a tensor: name, type, shape.
std::string listing(const std::vector<TensorEntry>& tensors) {
  std::string out;
  for (const TensorEntry& tensor : tensors) {
    out += fmt::format("{} {} {}\n", tensor.name, dtype_info(tensor.type).name, shape_text(tensor.shape));
  }
  return out;
}

// Up to the tokenizer's keys, which are the program's to write.
std::string metadata_listing(const Gguf& file) {
  std::string out;
  for (const GgufKv& kv : file.metadata()) {
    if (kv.key.starts_with("tokenizer.")) break;
    out += fmt::format("{} {}\n", kv.key, gguf_value_text(kv.value));
  }
  return out;
}

bool same_bytes(const TensorEntry& a, const TensorEntry& b) {
  return a.type == b.type && a.shape == b.shape && std::memcmp(a.data, b.data, a.bytes) == 0;
}

TEST(ExportGguf, HasTheTensorsOfLlamaCppsConverterInItsOrder) {
  const TempFolder folder;
  const auto source = test::open_source(test::golden_path("next-gguf/next-Q4_K_M.gguf"));
  const Status written = test::to_gguf(folder.path() / "out.gguf", source);
  ASSERT_TRUE(written.ok()) << written.message();
  const auto out = Gguf::open(folder.path() / "out.gguf");
  ASSERT_TRUE(out.ok()) << out.message();
  EXPECT_EQ(listing(out->tensors()), read_test_data("next-bf16.tensors"));
}

TEST(ExportGguf, HasTheMetadataOfLlamaCppsConverterInItsOrder) {
  const auto source = test::open_source(test::golden_path("next-gguf/next-Q4_K_M.gguf"));
  const auto plan = plan_gguf(source, {});
  GgufHeader header;
  add_gguf_metadata(header, source.config(), *plan, {});
  const auto encoded = header.encode();
  const auto parsed = Gguf::parse(encoded->bytes, "header");
  ASSERT_TRUE(parsed.ok()) << parsed.message();
  EXPECT_EQ(metadata_listing(*parsed), read_test_data("next-bf16.metadata"));
}

// All that the golden folder holds, where it is at hand; it is too large for the repository.
TEST(ExportGguf, EqualsLlamaCppsFileTensorForTensor) {
  const std::filesystem::path golden = std::string(QNEXT_SOURCE_DIR) + "/../shared/golden/next-gguf";
  if (!std::filesystem::exists(golden / "model.safetensors")) GTEST_SKIP() << "no " << golden;
  const TempFolder folder;
  for (const DType type : {DType::kBF16, DType::kQ8_0}) {
    const Status written = test::to_gguf(folder.path() / "out.gguf", test::open_source(golden), {type, {}});
    ASSERT_TRUE(written.ok()) << written.message();
    const auto ours = Gguf::open(folder.path() / "out.gguf");
    const auto theirs = Gguf::open(golden / (type == DType::kBF16 ? "next-bf16.gguf" : "next-Q8_0.gguf"));
    ASSERT_TRUE(ours.ok() && theirs.ok());
    if (type == DType::kBF16) {
      EXPECT_EQ(metadata_listing(*ours), metadata_listing(*theirs));
    }
    ASSERT_EQ(ours->tensors().size(), theirs->tensors().size());
    for (const TensorEntry& tensor : ours->tensors()) {
      const TensorEntry* golden_tensor = theirs->find_tensor(tensor.name);
      ASSERT_NE(golden_tensor, nullptr) << tensor.name;
      EXPECT_EQ(tensor.type, golden_tensor->type) << tensor.name;
      EXPECT_EQ(std::memcmp(tensor.data, golden_tensor->data, tensor.bytes), 0) << tensor.name;
    }
  }
}

class ThereAndBack : public ::testing::TestWithParam<const char*> {};

TEST_P(ThereAndBack, KeepsEveryTensorToTheBit) {
  const std::string original = test::golden_path(GetParam());
  const TempFolder folder;
  const auto gguf_path = folder.path() / "out.gguf";
  const Status there = test::to_gguf(gguf_path, test::open_source(original));
  ASSERT_TRUE(there.ok()) << there.message();
  const TempFolder back_folder;
  const Status back = test::to_safetensors(back_folder, test::open_source(gguf_path));
  ASSERT_TRUE(back.ok()) << back.message();

  const auto before = Safetensors::open(original);
  const auto after = Safetensors::open(back_folder.path());
  ASSERT_TRUE(after.ok()) << after.message();
  EXPECT_EQ(listing(after->tensors()), listing(before->tensors()));  // the order, too
  for (const TensorEntry& tensor : after->tensors()) {
    EXPECT_TRUE(same_bytes(tensor, *before->find(tensor.name))) << tensor.name;
  }
}

TEST_P(ThereAndBack, KeepsTheConfig) {
  const auto original = test::open_source(test::golden_path(GetParam()));
  const TempFolder folder;
  ASSERT_TRUE(test::to_gguf(folder.path() / "out.gguf", original).ok());
  const auto gguf = test::open_source(folder.path() / "out.gguf");
  const TempFolder back_folder;
  ASSERT_TRUE(test::to_safetensors(back_folder, gguf).ok());
  const auto back = test::open_source(back_folder.path());
  const auto described = [](const ExportSource& source) {
    return config_json_text(source.config(), DType::kBF16, {}) + fmt::format("mtp {}", source.config().has_mtp);
  };
  EXPECT_EQ(described(gguf), described(original));
  EXPECT_EQ(described(back), described(original));
  EXPECT_TRUE(load_weights(back_folder.path().string()).ok());
  EXPECT_TRUE(load_weights((folder.path() / "out.gguf").string()).ok());
}

INSTANTIATE_TEST_SUITE_P(Golden, ThereAndBack, ::testing::Values("next-tiny", "next-rawtopk", "moe-tiny", "dense-tiny"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// What a GGUF's types cost, seen from the tensors: every row of the result is the encoding of the source's row.
TEST(ExportGguf, QuantisesEachRowByItself) {
  const auto source = test::open_source(test::golden_path("next-tiny"));
  const TempFolder folder;
  ASSERT_TRUE(test::to_gguf(folder.path() / "q.gguf", source, {DType::kQ8_0, {}}).ok());
  const auto out = test::open_source(folder.path() / "q.gguf");
  for (std::size_t i = 0; i < source.network().size(); ++i) {
    if (source.network()[i].role == TensorRole::kVector) continue;
    const RowList& before = source.tensors()[i].rows;
    const RowList& after = out.tensors()[i].rows;
    ASSERT_EQ(before.num_rows(), after.num_rows());
    std::vector<float> a(before.cols()), b(before.cols());
    for (std::size_t row_idx = 0; row_idx < before.num_rows(); ++row_idx) {
      before.decode(a.data(), {row_idx, row_idx + 1});
      after.decode(b.data(), {row_idx, row_idx + 1});
      float max_magnitude = 0;
      for (const float value : a) max_magnitude = std::max(max_magnitude, std::fabs(value));
      // Half a step of max / 127, and as much again for the step's own rounding to f16 (2^-11 of it, 127 times).
      for (std::size_t c = 0; c < a.size(); ++c) {
        ASSERT_NEAR(a[c], b[c], max_magnitude / 127) << source.network()[i].gguf_name << " row " << row_idx;
      }
    }
  }
}

TEST(ExportGguf, RequantisingKeepsMetadataAndEqualTensors) {
  const std::string path = test::golden_path("next-gguf/next-Q4_K_M.gguf");
  const auto source = test::open_source(path);
  const TempFolder folder;
  ASSERT_TRUE(test::to_gguf(folder.path() / "out.gguf", source, {DType::kQ4_K, {}}).ok());
  const auto before = Gguf::open(path);
  const auto after = Gguf::open(folder.path() / "out.gguf");
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.chat_template"}) {
    const GgufValue* value = after->find(key);
    ASSERT_NE(value, nullptr) << key;
    ASSERT_EQ(value->payload.size(), before->find(key)->payload.size());
    EXPECT_EQ(std::memcmp(value->payload.data(), before->find(key)->payload.data(), value->payload.size()), 0) << key;
  }
  EXPECT_EQ(*after->get_u32("general.file_type"), 14u);
  EXPECT_EQ(after->metadata().size(), before->metadata().size());
  const char* kSameType = "blk.0.ffn_gate_exps.weight";
  EXPECT_TRUE(same_bytes(*after->find_tensor(kSameType), *before->find_tensor(kSameType)));
}

}  // namespace
}  // namespace qnext
