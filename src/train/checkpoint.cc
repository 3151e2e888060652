#include "train/checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tensor/atomic_file.h"
#include "tensor/safetensors_writer.h"
#include "train/expert_parallel.h"
#include "train/network_files.h"

namespace qnext::train {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "qnext-checkpoint-1";

Status write(const std::filesystem::path& path, const SafetensorsSpec& spec, std::span<const Tensor> values) {
  QN_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, spec));
  for (const Tensor& value : values) {
    QN_RETURN_IF_ERROR(writer.append({static_cast<const std::byte*>(value.data_ptr()), value.nbytes()}));
  }
  return writer.commit();
}

}  // namespace

Status save_checkpoint(const std::filesystem::path& path, const RunState& state, const AdamW& optimizer,
                       const Ranks& ranks, const std::string& recipe) {
  const Json json = {{"steps_done", state.steps_done},  {"epoch", state.data.epoch},
                     {"document", state.data.document}, {"token", state.data.token},
                     {"mean_loss", state.mean_loss},    {"rollbacks", state.rollbacks}};
  SafetensorsSpec spec{.tensors = {},
                       .metadata = {{"format", kFormat}, {"state", json.dump()}, {"recipe", recipe}},
                       .max_shard_bytes = std::nullopt};
  std::vector<Tensor> values;
  const auto add = [&](const std::string& name, const Tensor& value) {
    spec.tensors.push_back({name, DType::kF32, sizes_of(value)});
    values.push_back(value);
  };
  const auto add_parts = [&](const std::string& name, const Tensor& part) -> Status {
    QN_TRY(const Tensor whole, all_parts(part, ranks));
    add(name, whole);
    return success();
  };
  const auto add_moment = [&](const std::string& prefix, std::size_t i, const Tensor& moment) -> Status {
    const std::string name = prefix + optimizer.weights()[i].name;
    if (optimizer.is_part(i)) return add_parts(name, moment);
    Tensor value = moment.defined() ? moment : torch::empty(optimizer.weights()[i].value.sizes());
    QN_RETURN_IF_ERROR(ranks.copy_from(optimizer.owner_of(i), value));
    add(name, value);
    return success();
  };
  for (std::size_t i = 0; i < optimizer.weights().size(); ++i) {
    const NamedWeight& weight = optimizer.weights()[i];
    if (optimizer.is_part(i)) QN_RETURN_IF_ERROR(add_parts(weight.name, weight.value));
    if (!optimizer.is_part(i)) add(weight.name, weight.value);
  }
  for (std::size_t i = 0; i < optimizer.weights().size(); ++i) {
    QN_RETURN_IF_ERROR(add_moment("adamw.first.", i, optimizer.first_moments()[i]));
    QN_RETURN_IF_ERROR(add_moment("adamw.second.", i, optimizer.second_moments()[i]));
  }
  if (!ranks.is_first()) return success();
  remove_abandoned_temporaries(path);  // of runs that were killed as they wrote
  const Status written = write(path, spec, values);
  if (written.ok() || !std::filesystem::exists(path)) return written;
  return error("{}; the checkpoint before it is intact: make room, then go on from it with --resume",
               written.message());
}

Result<Checkpoint> Checkpoint::open(const std::filesystem::path& path) {
  QN_TRY(Safetensors file, Safetensors::open(path));
  Checkpoint out(std::move(file), path.string());
  const auto& metadata = out.file_.metadata();
  if (!metadata.contains("format") || metadata.at("format") != kFormat || !metadata.contains("state")) {
    return error("{}: not a checkpoint of qnext train", out.name_);
  }
  const Json state = Json::parse(metadata.at("state"), nullptr, /*allow_exceptions=*/false);
  const auto number = [&](const char* key) {
    return state.is_object() && state.contains(key) && state[key].is_number_integer() ? state[key].get<std::int64_t>()
                                                                                      : -1;
  };
  const Json* mean_loss = state.is_object() && state.contains("mean_loss") ? &state["mean_loss"] : nullptr;
  out.state_.steps_done = number("steps_done");
  out.state_.data = {number("epoch"), number("document"), number("token")};
  if (out.state_.steps_done < 0) {
    return error("{}: its state is damaged: {}", out.name_, printable(metadata.at("state")));
  }
  if (mean_loss != nullptr && mean_loss->is_number()) out.state_.mean_loss = mean_loss->get<double>();
  out.state_.rollbacks = std::max<std::int64_t>(number("rollbacks"), 0);
  return out;
}

Status Checkpoint::read_into(const AdamW& optimizer, const Ranks& ranks) const {
  torch::NoGradGuard no_gradients;
  const auto read = [&](const std::string& tensor, const Tensor& value, bool is_part) -> Status {
    const TensorEntry* entry = file_.find(tensor);
    if (entry == nullptr) return error("{}: tensor {} is missing: the recipe's model is another one", name_, tensor);
    if (!is_part) return read_tensor(*entry, name_, value);
    std::vector<std::int64_t> sizes = value.sizes().vec();
    sizes[0] *= ranks.count();
    const Tensor whole = torch::empty(sizes);
    QN_RETURN_IF_ERROR(read_tensor(*entry, name_, whole));
    value.copy_(own_part(whole, ranks));
    return success();
  };
  for (std::size_t i = 0; i < optimizer.weights().size(); ++i) {
    const NamedWeight& weight = optimizer.weights()[i];
    const bool is_part = optimizer.is_part(i);
    QN_RETURN_IF_ERROR(read(weight.name, weight.value, is_part));
    if (!optimizer.updates(i)) continue;
    QN_RETURN_IF_ERROR(read("adamw.first." + weight.name, optimizer.first_moments()[i], is_part));
    QN_RETURN_IF_ERROR(read("adamw.second." + weight.name, optimizer.second_moments()[i], is_part));
  }
  const std::size_t expected = 3 * optimizer.weights().size();  // each with two moments
  if (file_.tensors().size() != expected) {
    return error("{}: expected {} tensors, found {}: the recipe's model is another one", name_, expected,
                 file_.tensors().size());
  }
  return success();
}

}  // namespace qnext::train
