#pragma once
// Ranks: processes that train one model together, each on its share of every batch. Sums go through Gloo.

#include <memory>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "base/result.h"
#include "train/torch_core.h"

namespace c10d {
class ProcessGroupGloo;
}

namespace qnext::train {

class Ranks {
 public:
  Ranks() = default;  // one rank, alone: sums and copies leave everything as it is

  // The place that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT give, as torchrun sets them; without WORLD_SIZE,
  // alone. Waits for the others. Errors: variables that are missing or wrong; the others do not come within five
  // minutes.
  static Result<Ranks> join();

  int rank() const { return rank_; }
  int count() const { return count_; }
  bool is_first() const { return rank_ == 0; }

  // Of contiguous float tensors, in place, the same bits on every rank. All ranks call them in one order. Errors: a
  // rank ended or hangs.
  Status sum(std::span<torch::Tensor> tensors) const;
  Status copy_from(int rank, torch::Tensor& tensor) const;
  // The tensor of each rank, by rank.
  Result<std::vector<torch::Tensor>> all_of(const torch::Tensor& tensor) const;
  Result<bool> any(bool value) const;  // whether it is so on one rank at least

  // Rows to all ranks, the first send[0] to rank 0 and so on, for theirs, receive[r] of rank r, in the ranks' order.
  // Of any type. For use inside of autograd, which knows no Status: throws where a rank ended or hangs.
  torch::Tensor exchange(const torch::Tensor& rows, std::vector<std::int64_t> send,
                         std::vector<std::int64_t> receive) const;
  // Calls what exchanges; what it throws becomes an error.
  Status guarded(FunctionRef<Status()> call) const;

 private:
  int rank_ = 0, count_ = 1;
  std::shared_ptr<c10d::ProcessGroupGloo> group_;  // none: alone
};

}  // namespace qnext::train
