#pragma once
// `qnext convert`: a checkpoint from one format or element type to another. The work is in model/export_plan.h.

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/export_types.h"

namespace qnext {

struct ConvertOptions {
  std::string src;
  std::string dst;
  std::string type = "bf16";
  std::vector<std::string> tensor_types;  // "REGEX=TYPE"
  std::string name;
  std::string importance_matrix;
  std::size_t num_threads = 0;  // 0: all that this process may use
  bool force = false;
};

// A type's name, one of `allowed`. Error: lists them.
Result<DType> parse_export_type(std::string_view name, const std::vector<DType>& allowed);

// "ffn_down=q6_k". Errors: no '='; a regular expression that does not compile; an unknown type.
Result<TypeOverride> parse_type_override(const std::string& text);

// Error: `dst` is there and force is not given; it is a file of the source, or its folder; it is of the wrong kind.
Status check_destination(const std::string& dst, const std::vector<std::string>& source_files, bool to_gguf,
                         bool force);

}  // namespace qnext
