#pragma once
// Shell completions, written from the command line's own description, so that they never lag behind it.

#include <CLI/CLI.hpp>

#include <string>

namespace qnext {

enum class Shell { kBash, kZsh, kFish };

// A script to be sourced by the shell. `root` is the whole program's tree of commands.
std::string completion_script(const CLI::App& root, Shell shell);

}  // namespace qnext
