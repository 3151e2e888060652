// What is lost on the way through GGUF's w + 1 and -exp(A_log).
#include <cmath>

#include "model/export_test_support.h"
#include "tensor/float_formats.h"

namespace qnext {
namespace {

using test::TempFolder;

// Writes `weight` as one f32 or bf16 tensor of a GGUF at `path`, from one form to another.
void write_tensor(const std::filesystem::path& path, const Weight& weight, DType type, ValueForm stored,
                  ValueForm wanted) {
  const auto source = test::open_source(test::golden_path("dense-tiny"));  // whose pages are released meanwhile
  ThreadPool pool(1);
  ExportPlan plan{.source = &source, .tensors = {}, .total_bytes = dtype_bytes(type, weight.rows * weight.cols)};
  plan.tensors.push_back(
      {.spec = {"t", type, {weight.rows, weight.cols}}, .rows = RowList(weight), .stored = stored, .wanted = wanted});
  const Status written = export_gguf(path, {}, plan, pool, test::go_on);
  ASSERT_TRUE(written.ok()) << written.message();
}

std::vector<float> through_gguf(const std::vector<std::uint16_t>& bf16, ValueForm form) {
  const TempFolder folder;
  const auto there = folder.path() / "there.gguf";
  const auto back = folder.path() / "back.gguf";
  const auto* bytes = reinterpret_cast<const std::byte*>(bf16.data());
  write_tensor(there, make_weight(DType::kBF16, 1, bf16.size(), bytes), DType::kF32, form, ValueForm::kPlain);
  const auto f32 = Gguf::open(there);
  write_tensor(back, make_weight(DType::kF32, 1, bf16.size(), f32->tensors().front().data), DType::kBF16,
               ValueForm::kPlain, form);
  const auto file = Gguf::open(back);
  std::vector<float> out(bf16.size());
  RowList(make_weight(DType::kBF16, 1, bf16.size(), file->tensors().front().data)).decode(out.data(), {0, 1});
  return out;
}

// Every bf16 number of these exponents, of both signs.
std::vector<std::uint16_t> all_bf16(int first_exponent, int last_exponent) {
  std::vector<std::uint16_t> out;
  for (int exponent = first_exponent; exponent <= last_exponent; ++exponent) {
    for (int mantissa = 0; mantissa < 128; ++mantissa) {
      const float value = std::ldexp(1.0f + static_cast<float>(mantissa) / 128.0f, exponent);
      out.push_back(f32_to_bf16(value));
      out.push_back(f32_to_bf16(-value));
    }
  }
  return out;
}

class Forms : public ::testing::TestWithParam<ValueForm> {};

TEST_P(Forms, ReturnToTheBitFrom2ToTheMinus14On) {
  const auto numbers = all_bf16(-14, 3);
  const auto back = through_gguf(numbers, GetParam());
  for (std::size_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(back[i], bf16_to_f32(numbers[i])) << i;
}

TEST_P(Forms, ReturnSmallerOnesWithin2ToTheMinus22) {
  const auto numbers = all_bf16(-40, -15);
  const auto back = through_gguf(numbers, GetParam());
  for (std::size_t i = 0; i < numbers.size(); ++i) ASSERT_NEAR(back[i], bf16_to_f32(numbers[i]), 0x1p-22) << i;
}

INSTANTIATE_TEST_SUITE_P(Export, Forms, ::testing::Values(ValueForm::kMinusOne, ValueForm::kLog),
                         [](const auto& info) { return info.param == ValueForm::kLog ? "log" : "minus_one"; });

}  // namespace
}  // namespace qnext
