#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/matmul.cc"
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include "kernels/simd/dot-inl.h"
#include "kernels/simd/simd_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace qnext::HWY_NAMESPACE {

void decode_rows(View<float> out, std::span<const TokenId> row_ids, const Weight& w) {
  const FormatKernels format = kernels_for(w.type);
  for (std::size_t i = 0; i < row_ids.size(); ++i) {
    format.decode_columns(out.row(i), w, static_cast<std::size_t>(row_ids[i]), {0, w.cols});
  }
}

void matmul(View<float> out, View<const float> x, const Weight& w, Range outputs, Write write) {
  const std::size_t num_tokens = x.dim(0);
  for (std::size_t first = 0; first < num_tokens; first += kBlockTokens) {
    TokenRows tokens;
    tokens.count = std::min(kBlockTokens, num_tokens - first);
    for (std::size_t t = 0; t < tokens.count; ++t) tokens.x[t] = x.row(first + t);
    for (std::size_t o = outputs.begin; o < outputs.end; o += kPanelRows) {
      const Range rows{o, std::min(o + kPanelRows, outputs.end)};
      float sums[kPanelRows * kBlockTokens];
      dot_panel(sums, w, rows, tokens);
      for (std::size_t t = 0; t < tokens.count; ++t) {
        float* out_row = out.row(first + t) + rows.begin;
        for (std::size_t r = 0; r < rows.count(); ++r) {
          const float sum = sums[r * tokens.count + t];
          out_row[r] = write == Write::kAdd ? out_row[r] + sum : sum;
        }
      }
    }
  }
}

void AddMatmul(KernelTable& table) {
  table.decode_rows = decode_rows;
  table.matmul = matmul;
}

}  // namespace qnext::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qnext {

HWY_EXPORT(AddMatmul);

void add_simd_matmul(KernelTable& table) {
  HWY_DYNAMIC_DISPATCH(AddMatmul)(table);
}

}  // namespace qnext
#endif
