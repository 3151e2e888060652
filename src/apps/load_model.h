#pragma once
// A model ready to compute: its weights packed for the machine's kernel table, with the user told when that takes long.

#include <memory>
#include <string>

#include "apps/command.h"
#include "model/model.h"

namespace qnext {

// Errors: the model's; Ctrl-C while its weights were being packed.
Result<std::unique_ptr<const Qwen3Next>> load_model(const std::string& path, const Ops& ops,
                                                    const MachineOptions& options);

}  // namespace qnext
