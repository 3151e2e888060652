// Sources that are laid out in other ways: FP8 with block scales, and the fused tensors of older GGUF files.
#include <cstring>

#include "model/export_test_support.h"
#include "tensor/float_formats.h"
#include "tensor/safetensors_writer.h"

namespace qnext {
namespace {

using test::TempFolder;
using Bytes = std::vector<std::byte>;

template <class T>
Bytes bytes_of(const std::vector<T>& values) {
  const auto view = std::as_bytes(std::span(values));
  return {view.begin(), view.end()};
}

// A checkpoint put together tensor by tensor.
struct Parts {
  std::vector<TensorSpec> specs;
  std::vector<Bytes> data;

  void add(TensorSpec spec, Bytes bytes) {
    specs.push_back(std::move(spec));
    data.push_back(std::move(bytes));
  }
  void add(const TensorEntry& entry) {
    add({entry.name, entry.type, entry.shape}, {entry.data, entry.data + entry.bytes});
  }
};

// The row-major values of a matrix that the plan would write to GGUF.
std::vector<float> decoded(const ExportSource& source, const std::string& gguf_name) {
  for (std::size_t i = 0; i < source.network().size(); ++i) {
    if (source.network()[i].gguf_name != gguf_name) continue;
    const RowList& rows = source.tensors()[i].rows;
    std::vector<float> out(rows.num_rows() * rows.cols());
    rows.decode(out.data(), {0, rows.num_rows()});
    return out;
  }
  ADD_FAILURE() << "no tensor " << gguf_name;
  return {};
}

// Bytes i -> code i * 37 mod 253, which is never a NaN (0x7f, 0xff); scales 2^-r for rows of blocks.
constexpr std::size_t kBlock = 128;
std::uint8_t fp8_code(std::size_t i) {
  const auto code = static_cast<std::uint8_t>(i * 37 % 253);
  return code == 0x7f ? 0 : code;
}

TEST(ExportSource, AppliesFp8ScalesBeforeUngrouping) {
  const auto original = Safetensors::open(test::golden_path("next-tiny"));
  const std::string kName = "model.layers.0.linear_attn.in_proj_qkvz.weight";
  Parts parts;
  std::size_t num_rows = 0, cols = 0;
  for (const TensorEntry& entry : original->tensors()) {
    if (entry.name != kName) {
      parts.add(entry);
      continue;
    }
    num_rows = entry.shape[0];
    cols = entry.shape[1];
    std::vector<std::uint8_t> codes(num_rows * cols);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = fp8_code(i);
    std::vector<float> scales;
    for (std::size_t r = 0; r < ceil_div(num_rows, kBlock); ++r)
      scales.push_back(std::ldexp(1.0f, -static_cast<int>(r)));
    const std::vector<std::size_t> scales_shape = {scales.size(), 1};
    parts.add({kName, DType::kF8E4M3, entry.shape}, bytes_of(codes));
    parts.add({kName + "_scale_inv", DType::kF32, scales_shape}, bytes_of(scales));
  }
  const TempFolder folder;
  auto writer =
      SafetensorsWriter::create(folder.path(), {.tensors = parts.specs, .metadata = {}, .max_shard_bytes = {}});
  ASSERT_TRUE(writer.ok()) << writer.message();
  for (const Bytes& bytes : parts.data) ASSERT_TRUE(writer->append(bytes).ok());
  ASSERT_TRUE(writer->commit().ok());
  std::filesystem::copy_file(test::golden_path("next-tiny/config.json"), folder.path() / "config.json");

  // Key heads 2, value heads 4, all head widths 32: groups of 32 q, 32 k, 64 v and 64 z rows.
  const auto source = test::open_source(folder.path());
  const auto qkv = decoded(source, "blk.0.attn_qkv.weight");
  const auto z = decoded(source, "blk.0.attn_gate.weight");
  const auto expect_row = [&](const std::vector<float>& matrix, std::size_t row_idx, std::size_t source_row) {
    for (std::size_t c = 0; c < cols; ++c) {
      const float scale = std::ldexp(1.0f, -static_cast<int>(source_row / kBlock));
      ASSERT_EQ(matrix[row_idx * cols + c], e4m3_to_f32(fp8_code(source_row * cols + c)) * scale)
          << "row " << row_idx << " from row " << source_row;
    }
  };
  expect_row(qkv, 0, 0);                // q of group 0
  expect_row(qkv, 33, 192 + 1);         // q of group 1
  expect_row(qkv, 64 + 5, 32 + 5);      // k of group 0
  expect_row(qkv, 128 + 64, 192 + 64);  // v of group 1
  expect_row(z, 0, 128);                // z of group 0
  expect_row(z, 127, 383);              // z of group 1, the last row

  const TempFolder out;
  const Status written = test::to_gguf(out.path() / "out.gguf", source);
  ASSERT_TRUE(written.ok()) << written.message();
}

// Older files: q, k, v and z in one matrix, still grouped, and each expert's gate and up projection in one.
Parts fused(const Gguf& file, const Safetensors& original) {
  Parts parts;
  for (const TensorEntry& entry : file.tensors()) {
    const std::string prefix = entry.name.substr(0, entry.name.rfind('.', entry.name.size() - 8) + 1);
    if (entry.name == prefix + "attn_gate.weight" || entry.name == prefix + "ffn_up_exps.weight") continue;
    if (entry.name == prefix + "attn_qkv.weight") {
      const std::string layer = prefix.substr(4, prefix.size() - 5);
      const TensorEntry* qkvz = original.find("model.layers." + layer + ".linear_attn.in_proj_qkvz.weight");
      parts.add({prefix + "ssm_in.weight", qkvz->type, qkvz->shape}, {qkvz->data, qkvz->data + qkvz->bytes});
    } else if (entry.name == prefix + "ffn_gate_exps.weight") {
      const TensorEntry* up = file.find_tensor(prefix + "ffn_up_exps.weight");
      const std::size_t num_experts = entry.shape[0];
      const std::size_t matrix_bytes = entry.bytes / num_experts;
      Bytes both;
      for (std::size_t e = 0; e < num_experts; ++e) {
        both.insert(both.end(), entry.data + e * matrix_bytes, entry.data + (e + 1) * matrix_bytes);
        both.insert(both.end(), up->data + e * matrix_bytes, up->data + (e + 1) * matrix_bytes);
      }
      parts.add({prefix + "ffn_gate_up_exps.weight", entry.type, {num_experts, 2 * entry.shape[1], entry.shape[2]}},
                both);
    } else {
      parts.add(entry);
    }
  }
  return parts;
}

TEST(ExportSource, ReadsTheFusedTensorsOfOlderFiles) {
  const TempFolder folder;
  const auto original = Safetensors::open(test::golden_path("next-tiny"));
  ASSERT_TRUE(test::to_gguf(folder.path() / "new.gguf", test::open_source(test::golden_path("next-tiny"))).ok());
  const auto modern = Gguf::open(folder.path() / "new.gguf");
  const Parts parts = fused(*modern, *original);
  GgufHeader header;
  for (const GgufKv& kv : modern->metadata()) header.add_copy(kv);
  for (const TensorSpec& spec : parts.specs) header.add_tensor(spec);
  auto writer = GgufWriter::create(folder.path() / "old.gguf", header);
  ASSERT_TRUE(writer.ok()) << writer.message();
  for (const Bytes& bytes : parts.data) ASSERT_TRUE(writer->append(bytes).ok());
  ASSERT_TRUE(writer->commit().ok());
  ASSERT_LT(parts.specs.size(), modern->tensors().size());

  ASSERT_TRUE(test::to_gguf(folder.path() / "again.gguf", test::open_source(folder.path() / "old.gguf")).ok());
  const auto again = Gguf::open(folder.path() / "again.gguf");
  ASSERT_EQ(again->tensors().size(), modern->tensors().size());
  for (const TensorEntry& tensor : again->tensors()) {
    const TensorEntry* expected = modern->find_tensor(tensor.name);
    ASSERT_NE(expected, nullptr) << tensor.name;
    ASSERT_EQ(tensor.shape, expected->shape) << tensor.name;
    EXPECT_EQ(std::memcmp(tensor.data, expected->data, tensor.bytes), 0) << tensor.name;
  }
}

}  // namespace
}  // namespace qnext
