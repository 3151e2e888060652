#include "train/ranks.h"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <charconv>
#include <numeric>
#include <stdexcept>
#include <string>

#include "base/env.h"

namespace qnext::train {
namespace {

constexpr std::chrono::seconds kTimeout{300};

Result<int> number_from(const char* name, int low, int high) {
  const std::string text = env(name).value_or("");
  int number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size() || number < low || number > high) {
    return error("{}: expected {} to {}, found \"{}\" (torchrun sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT)",
                 name, low, high, text);
  }
  return number;
}

std::string first_line(const char* text) {
  return std::string(text).substr(0, std::string(text).find('\n'));
}

// Gloo says that a rank has ended by an exception, of whichever rank it waits for.
std::string ended_text(const char* what, const std::exception& failure) {
  return fmt::format(
      "{}: another rank has ended or hangs: {}; the last checkpoint is whole, start all ranks again with --resume",
      what, first_line(failure.what()));
}

template <class Call>
Status caught(const char* what, Call call) try {
  call();
  return success();
} catch (const std::exception& failure) {
  return error("{}", ended_text(what, failure));
}

// Through autograd, from exchange() to guarded().
struct RankEnded : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace

Result<Ranks> Ranks::join() {
  Ranks out;
  if (!env("WORLD_SIZE")) return out;
  QN_TRY(out.count_, number_from("WORLD_SIZE", 1, 1024));
  QN_TRY(out.rank_, number_from("RANK", 0, out.count_ - 1));
  if (out.count_ == 1) return out;
  QN_TRY(const int port, number_from("MASTER_PORT", 1, 65535));
  const std::string address = env("MASTER_ADDR").value_or("127.0.0.1");
  try {
    c10d::TCPStoreOptions store_options;
    store_options.port = static_cast<std::uint16_t>(port);
    store_options.isServer = out.rank_ == 0;
    store_options.numWorkers = static_cast<std::size_t>(out.count_);
    store_options.timeout = kTimeout;
    const auto store = c10::make_intrusive<c10d::TCPStore>(address, store_options);
    const auto options = c10d::ProcessGroupGloo::Options::create();
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    options->timeout = kTimeout;
    out.group_ = std::make_shared<c10d::ProcessGroupGloo>(store, out.rank_, out.count_, options);
  } catch (const std::exception& failure) {
    return error("rank {} of {}: cannot meet the others at {}:{}: {}", out.rank_, out.count_, address, port,
                 first_line(failure.what()));
  }
  return out;
}

Status Ranks::sum(std::span<torch::Tensor> tensors) const {
  if (group_ == nullptr) return success();
  return caught("sum", [&] {
    for (torch::Tensor& tensor : tensors) {
      std::vector<torch::Tensor> one = {tensor};
      group_->allreduce(one)->wait();
    }
  });
}

Status Ranks::copy_from(int rank, torch::Tensor& tensor) const {
  if (group_ == nullptr) return success();
  return caught("copy", [&] {
    std::vector<torch::Tensor> one = {tensor};
    c10d::BroadcastOptions options;
    options.rootRank = rank;
    group_->broadcast(one, options)->wait();
  });
}

Result<std::vector<torch::Tensor>> Ranks::all_of(const torch::Tensor& tensor) const {
  if (group_ == nullptr) return std::vector<torch::Tensor>{tensor.clone()};
  std::vector<std::vector<torch::Tensor>> all(1);
  for (int rank = 0; rank < count_; ++rank) all[0].push_back(torch::empty_like(tensor));
  QN_RETURN_IF_ERROR(caught("gather", [&] {
    std::vector<torch::Tensor> one = {tensor.contiguous()};
    group_->allgather(all, one)->wait();
  }));
  return std::move(all[0]);
}

Result<bool> Ranks::any(bool value) const {
  torch::Tensor count = torch::full({1}, value ? 1.0f : 0.0f);
  QN_RETURN_IF_ERROR(sum({&count, 1}));
  return count.item<float>() > 0;
}

torch::Tensor Ranks::exchange(const torch::Tensor& rows, std::vector<std::int64_t> send,
                              std::vector<std::int64_t> receive) const {
  if (group_ == nullptr) return rows.clone();
  torch::Tensor in = rows.contiguous();
  std::vector<std::int64_t> sizes = in.sizes().vec();
  sizes[0] = std::accumulate(receive.begin(), receive.end(), std::int64_t{0});
  torch::Tensor out = torch::empty(sizes, in.options());
  try {
    group_->alltoall_base(out, in, receive, send)->wait();
  } catch (const std::exception& failure) {
    throw RankEnded(ended_text("exchange", failure));
  }
  return out;
}

Status Ranks::guarded(FunctionRef<Status()> call) const try { return call(); } catch (const RankEnded& failure) {
  return error("{}", failure.what());
}

}  // namespace qnext::train
