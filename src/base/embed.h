#pragma once
// QNEXT_EMBED(NAME, "path"): the file's bytes as part of the program, as `std::string_view NAME()`. CMakeLists.txt
// names the file as what the source depends on.

#include <string_view>

#define QNEXT_EMBED(name, path)                                              \
  asm(".pushsection .rodata\n" #name "_begin:\n.incbin \"" path "\"\n" #name \
      "_end:\n.byte 0\n"                                                     \
      ".popsection\n");                                                      \
  extern "C" const char name##_begin[], name##_end[];                        \
  static std::string_view name() {                                           \
    return {name##_begin, name##_end};                                       \
  }
