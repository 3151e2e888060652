// The choice of types, what else a converted file says of itself, and what is refused.
#include <limits>
#include <nlohmann/json.hpp>

#include "model/export_test_support.h"
#include "tensor/float_formats.h"
#include "tensor/safetensors_writer.h"

namespace qnext {
namespace {

using test::TempFolder;

NetworkTensor matrix_of(TensorRole role, std::size_t cols) {
  NetworkTensor tensor;
  tensor.gguf_name = "blk.0.some.weight";
  tensor.gguf_shape = {4, cols};
  tensor.role = role;
  return tensor;
}

DType chosen(TensorRole role, std::size_t cols, DType type) {
  return choose_gguf_types({matrix_of(role, cols)}, {type, {}})->front();
}

TEST(ExportTypes, KeepVectorsAndGiveSomeMatricesMoreBits) {
  EXPECT_EQ(chosen(TensorRole::kVector, 256, DType::kQ4_K), DType::kF32);
  EXPECT_EQ(chosen(TensorRole::kOrdinary, 256, DType::kQ4_K), DType::kQ4_K);
  EXPECT_EQ(chosen(TensorRole::kEmbedding, 256, DType::kQ4_K), DType::kQ6_K);
  EXPECT_EQ(chosen(TensorRole::kEmbedding, 256, DType::kQ8_0), DType::kQ8_0);
  EXPECT_EQ(chosen(TensorRole::kSteering, 256, DType::kQ6_K), DType::kQ8_0);
  EXPECT_EQ(chosen(TensorRole::kMtp, 256, DType::kQ2_K), DType::kQ8_0);
  EXPECT_EQ(chosen(TensorRole::kMtp, 256, DType::kBF16), DType::kBF16);
}

TEST(ExportTypes, FallBackWhereRowsAreNoWholeBlocks) {
  const std::pair<DType, DType> k_types[] = {{DType::kQ2_K, DType::kIQ4_NL},   {DType::kQ3_K, DType::kIQ4_NL},
                                             {DType::kIQ4_XS, DType::kIQ4_NL}, {DType::kQ4_K, DType::kQ5_0},
                                             {DType::kQ5_K, DType::kQ5_1},     {DType::kQ6_K, DType::kQ8_0},
                                             {DType::kMXFP4, DType::kMXFP4}};
  for (const auto& [type, fallback] : k_types) {
    EXPECT_EQ(chosen(TensorRole::kOrdinary, 96, type), fallback) << dtype_info(type).name;
    EXPECT_EQ(chosen(TensorRole::kOrdinary, 48, type), DType::kBF16) << dtype_info(type).name;
  }
  EXPECT_EQ(chosen(TensorRole::kOrdinary, 48, DType::kF16), DType::kF16);
}

TEST(ExportTypes, LetTheLastMatchingOverrideWin) {
  std::vector<NetworkTensor> tensors = {matrix_of(TensorRole::kOrdinary, 256), matrix_of(TensorRole::kMtp, 256)};
  tensors[1].gguf_name = "blk.1.some.weight";
  GgufTypeRules rules{DType::kQ4_K, {}};
  rules.overrides.push_back({"some=q8_0", *NamePattern::parse("some"), DType::kQ8_0});
  rules.overrides.push_back({"^blk.1=q2_k", *NamePattern::parse("^blk\\.1"), DType::kQ2_K});
  const auto types = choose_gguf_types(tensors, rules);
  ASSERT_TRUE(types.ok()) << types.message();
  EXPECT_EQ(types->at(0), DType::kQ8_0);
  EXPECT_EQ(types->at(1), DType::kQ2_K);
}

TEST(ExportTypes, RefuseAnOverrideThatMatchesNoMatrix) {
  const std::vector<NetworkTensor> tensors = {matrix_of(TensorRole::kVector, 256)};
  GgufTypeRules rules;
  rules.overrides.push_back({"some=q8_0", *NamePattern::parse("some"), DType::kQ8_0});
  const auto types = choose_gguf_types(tensors, rules);
  ASSERT_FALSE(types.ok());
  EXPECT_THAT(types.message(), ::testing::HasSubstr("some=q8_0: the pattern matches no matrix"));
}

// A config that only a header needs to hold, read back.
Result<ModelConfig> through_gguf(const ModelConfig& config) {
  GgufHeader header;
  add_gguf_metadata(header, config, {}, {.name = "n", .sampling = {.top_k = 20, .temperature = 0.7f}});
  header.add_tensor({.name = "token_embd.weight", .type = DType::kF32, .shape = {config.V, config.D}});
  header.add_tensor({.name = "output.weight", .type = DType::kF32, .shape = {config.V, config.D}});
  QN_TRY(auto encoded, header.encode());
  encoded.bytes.resize(encoded.bytes.size() + encoded.data_bytes);
  QN_TRY(const Gguf file, Gguf::parse(encoded.bytes, "header"));
  EXPECT_EQ(*file.get_u32("general.sampling.top_k"), 20u);
  return parse_config_gguf(file);
}

std::string described(const ModelConfig& config) {
  return config_json_text(config, DType::kBF16, {});
}

TEST(ExportMetadata, KeepsLayersAtNoFixedInterval) {
  ModelConfig config = test::open_source(test::golden_path("next-tiny")).config();
  config.layers[1].mixer = MixerKind::kAttention;
  const auto back = through_gguf(config);
  ASSERT_TRUE(back.ok()) << back.message();
  EXPECT_EQ(described(*back), described(config));
  for (LayerConfig& layer : config.layers) layer.mixer = MixerKind::kGatedDeltaNet;
  EXPECT_EQ(described(*through_gguf(config)), described(config));
}

TEST(ExportMetadata, KeepsYarn) {
  ModelConfig config = test::open_source(test::golden_path("next-tiny")).config();
  config.rope.yarn = YarnConfig{.factor = 4, .original_context_tokens = 4096, .attention_factor = 1.25};
  const auto back = through_gguf(config);
  ASSERT_TRUE(back.ok()) << back.message();
  ASSERT_TRUE(back->rope.yarn.has_value());
  EXPECT_EQ(back->rope.yarn->factor, 4);
  EXPECT_EQ(back->rope.yarn->original_context_tokens, 4096);
  EXPECT_NEAR(back->rope.yarn->attention_factor, 1.25, 1.25 * 0x1p-24);  // an f32 in between
  const auto reparsed = parse_config_json(described(config), "config.json");
  ASSERT_TRUE(reparsed.ok()) << reparsed.message();
  EXPECT_EQ(described(*reparsed), described(config));
}

TEST(ExportMetadata, LabelsSizesAsLlamaCppDoes) {
  const auto label = [](std::vector<std::size_t> shape) {
    Weight weight = make_weight(DType::kF32, 1, shape.back(), nullptr);
    std::size_t num_rows = 1;
    for (std::size_t axis = 0; axis + 1 < shape.size(); ++axis) num_rows *= shape[axis];
    weight.rows = num_rows;
    ExportPlan plan;
    plan.tensors.push_back({.spec = {"t", DType::kF32, shape}, .rows = RowList(weight)});
    return gguf_size_label(plan);
  };
  EXPECT_EQ(label({600, 1000}), "600K");
  EXPECT_EQ(label({1700, 1000 * 1000}), "1.7B");
  EXPECT_EQ(label({32, 1000 * 1000}), "32M");
  EXPECT_EQ(label({512, 4500, 1000}), "512x4.5M");
}

TEST(ExportMetadata, RetypesAConfigAndDropsItsFp8) {
  const std::string text = retyped_config_json(
      R"({"model_type": "qwen3", "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}})",
      DType::kF32);
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json, nlohmann::json::parse(R"({"model_type": "qwen3", "torch_dtype": "float32"})"));
}

// next-tiny with one tensor's bytes (and type) replaced by `change`.
template <class Change>
void copy_changed(const TempFolder& folder, Change change) {
  const auto source = Safetensors::open(test::golden_path("next-tiny"));
  SafetensorsSpec spec;
  std::vector<std::vector<std::byte>> data;
  for (const TensorEntry& tensor : source->tensors()) {
    spec.tensors.push_back({.name = tensor.name, .type = tensor.type, .shape = tensor.shape});
    data.emplace_back(tensor.data, tensor.data + tensor.bytes);
    change(spec.tensors, data);
  }
  auto writer = SafetensorsWriter::create(folder.path(), spec);
  ASSERT_TRUE(writer.ok()) << writer.message();
  for (const auto& bytes : data) ASSERT_TRUE(writer->append(bytes).ok());
  ASSERT_TRUE(writer->commit().ok());
  std::filesystem::copy_file(test::golden_path("next-tiny/config.json"), folder.path() / "config.json");
}

constexpr std::string_view kSomeMatrix = "model.layers.1.mlp.experts.3.up_proj.weight";

void expect_refused(std::uint16_t bf16_bits, DType type, const std::string& why) {
  const TempFolder folder, out;
  copy_changed(folder, [&](auto& specs, auto& data) {
    if (specs.back().name == kSomeMatrix) std::memcpy(data.back().data() + 100, &bf16_bits, 2);
  });
  const Status written = test::to_gguf(out.path() / "out.gguf", test::open_source(folder.path()), {type, {}});
  ASSERT_FALSE(written.ok());
  EXPECT_THAT(written.message(), ::testing::HasSubstr("tensor blk.1.ffn_up_exps.weight: holds a number that " + why));
  EXPECT_EQ(out.num_files(), 0u);  // nothing stays behind
}

TEST(Export, RefusesNumbersThatAreNotFinite) {
  expect_refused(0x7f80, DType::kBF16, "is not finite");  // infinity, copied verbatim
  expect_refused(0x7fc0, DType::kQ4_0, "is not finite");  // NaN
}

TEST(Export, RefusesNumbersThatTheTypeCannotHold) {
  expect_refused(f32_to_bf16(1e6f), DType::kF16, "f16 cannot");
}

TEST(Export, StopsWhenToldAndLeavesNothing) {
  const auto source = test::open_source(test::golden_path("next-tiny"));
  const TempFolder out;
  ThreadPool pool(1);
  const auto plan = plan_gguf(source, {});
  GgufHeader header;
  const Status written = export_gguf(out.path() / "out.gguf", header, *plan, pool,
                                     [](std::uint64_t done, std::uint64_t total) { return done < total / 2; });
  ASSERT_FALSE(written.ok());
  EXPECT_EQ(out.num_files(), 0u);
}

TEST(Export, ReportsProgressToTheEnd) {
  const auto source = test::open_source(test::golden_path("dense-tiny"));
  const TempFolder out;
  ThreadPool pool(1);
  const auto plan = plan_gguf(source, {});
  std::uint64_t last_bytes = 0;
  const Status written =
      export_gguf(out.path() / "out.gguf", {}, *plan, pool, [&](std::uint64_t done, std::uint64_t total) {
        EXPECT_GE(done, last_bytes);
        EXPECT_EQ(total, plan->total_bytes);
        last_bytes = done;
        return true;
      });
  ASSERT_TRUE(written.ok()) << written.message();
  EXPECT_EQ(last_bytes, plan->total_bytes);
}

TEST(ExportSource, RefusesWhatLoadingRefuses) {
  const TempFolder folder;
  copy_changed(folder, [](auto& specs, auto&) {
    if (specs.back().name == kSomeMatrix) specs.back().name = "model.layers.1.mlp.experts.9.up_proj.weight";
  });
  const auto source = ExportSource::open(folder.path().string());
  ASSERT_FALSE(source.ok());
  EXPECT_THAT(source.message(), ::testing::HasSubstr(std::string(kSomeMatrix) + ": expected it with shape"));
  EXPECT_FALSE(ExportSource::open("/no/such/model").ok());
  EXPECT_FALSE(ExportSource::open(test::golden_path("next-tiny/config.json")).ok());
}

}  // namespace
}  // namespace qnext
