#include "model/export_plan.h"

#include <algorithm>

namespace qnext {
namespace {

void add(ExportPlan& plan, ExportTensor tensor) {
  plan.total_bytes += *try_tensor_bytes(tensor.spec.type, tensor.spec.shape);  // check_config() bounds every product
  plan.tensors.push_back(std::move(tensor));
}

// The reverse of ungrouping: [q heads, k heads, v heads] and z back into groups of (q, k, v, z).
RowList grouped_qkvz(const RowList& qkv, const RowList& z, const QkvzGroups& groups) {
  RowList out;
  const std::size_t first_key = groups.num_groups * groups.key_rows;
  const std::size_t first_value = 2 * first_key;
  for (std::size_t group_idx = 0; group_idx < groups.num_groups; ++group_idx) {
    const auto append = [&](const RowList& from, std::size_t first_row, std::size_t rows_per_group) {
      const std::size_t begin = first_row + group_idx * rows_per_group;
      out.append(from.slice({begin, begin + rows_per_group}));
    };
    append(qkv, 0, groups.key_rows);
    append(qkv, first_key, groups.key_rows);
    append(qkv, first_value, groups.value_rows);
    append(z, 0, groups.value_rows);
  }
  return out;
}

}  // namespace

Result<ExportPlan> plan_gguf(const ExportSource& source, const GgufTypeRules& rules) {
  QN_TRY(const std::vector<DType> types, choose_gguf_types(source.network(), rules));
  ExportPlan plan{.source = &source, .tensors = {}, .total_bytes = 0};
  for (std::size_t i = 0; i < types.size(); ++i) {
    const NetworkTensor& tensor = source.network()[i];
    const SourceTensor& from = source.tensors()[i];
    add(plan, {.spec = {.name = tensor.gguf_name, .type = types[i], .shape = tensor.gguf_shape},
               .rows = from.rows,
               .stored = from.form,
               .wanted = ValueForm::kPlain});
  }
  return plan;
}

ExportPlan plan_safetensors(const ExportSource& source, DType type) {
  const std::vector<NetworkTensor>& network = source.network();
  const std::vector<SourceTensor>& tensors = source.tensors();
  ExportPlan plan{.source = &source, .tensors = {}, .total_bytes = 0};
  const auto add_as = [&](const std::string& name, std::size_t tensor_idx, RowList rows) {
    add(plan, {.spec = {.name = name, .type = type, .shape = network[tensor_idx].hf_shape},
               .rows = std::move(rows),
               .stored = tensors[tensor_idx].form,
               .wanted = network[tensor_idx].hf_form});
  };
  for (std::size_t i = 0; i < network.size(); ++i) {
    const NetworkTensor& tensor = network[i];
    switch (tensor.relation) {
      case TensorRelation::kSame:
        add_as(tensor.hf_name, i, tensors[i].rows);
        break;
      case TensorRelation::kDeltaQkv:
        add_as(tensor.hf_name, i, grouped_qkvz(tensors[i].rows, tensors[i + 1].rows, QkvzGroups(source.config())));
        break;
      case TensorRelation::kDeltaGate:  // written with its kDeltaQkv
        break;
      case TensorRelation::kExperts: {  // the three of a layer follow each other; released files go expert by expert
        const std::size_t num_parts = 3;
        for (std::size_t expert_idx = 0; expert_idx < source.config().E; ++expert_idx) {
          for (std::size_t part_idx = i; part_idx < i + num_parts; ++part_idx) {
            const std::size_t num_rows = network[part_idx].hf_shape[0];
            add_as(network[part_idx].expert_name(expert_idx), part_idx,
                   tensors[part_idx].rows.slice({expert_idx * num_rows, (expert_idx + 1) * num_rows}));
          }
        }
        i += num_parts - 1;
        break;
      }
    }
  }
  return plan;
}

}  // namespace qnext
