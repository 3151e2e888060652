#include <vector>

#include "kernels/ref/ref_kernels.h"
#include "tensor/block_formats.h"

namespace qnext {
namespace {

void decode_rows(View<float> out, std::span<const TokenId> row_ids, const Weight& w) {
  for (std::size_t i = 0; i < row_ids.size(); ++i) decode_row(out.row(i), w, static_cast<std::size_t>(row_ids[i]));
}

void matmul(View<float> out, View<const float> x, const Weight& w, Range outputs, Write write) {
  std::vector<float> weights(w.cols);
  for (std::size_t o = outputs.begin; o < outputs.end; ++o) {
    decode_row(weights.data(), w, o);
    for (std::size_t t = 0; t < x.dim(0); ++t) {
      double sum = 0;
      for (std::size_t k = 0; k < w.cols; ++k) sum += static_cast<double>(x(t, k)) * static_cast<double>(weights[k]);
      out(t, o) = static_cast<float>(write == Write::kAdd ? static_cast<double>(out(t, o)) + sum : sum);
    }
  }
}

}  // namespace

void add_matmul(KernelTable& table) {
  table.decode_rows = decode_rows;
  table.matmul = matmul;
}

}  // namespace qnext
