#include "apps/png.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace qnext {
namespace {

using File = std::unique_ptr<std::FILE, decltype([](std::FILE* file) { std::fclose(file); })>;

// rsvg-convert's exit status, with these as its standard input and output.
Result<int> run_rsvg_convert(std::FILE* in, std::FILE* out) {
  std::string program = "rsvg-convert", zoom = "--zoom=2";
  char* const arguments[] = {program.data(), zoom.data(), nullptr};
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_adddup2(&files, ::fileno(in), STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&files, ::fileno(out), STDOUT_FILENO);
  pid_t child = 0;
  const int problem = ::posix_spawnp(&child, program.c_str(), &files, nullptr, arguments, environ);
  ::posix_spawn_file_actions_destroy(&files);
  if (problem != 0) {
    return error(
        "a PNG is made by rsvg-convert, which cannot be run: {}; install it (Debian: librsvg2-bin), or ask for "
        "a name that ends in .svg",
        std::strerror(problem));
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return error("rsvg-convert: {}", std::strerror(errno));
  }
  return status;
}

}  // namespace

Result<std::string> png_of_svg(const std::string& svg) {
  const File in(std::tmpfile()), out(std::tmpfile());
  if (!in || !out) return error("cannot make a temporary file: {}", std::strerror(errno));
  if (std::fwrite(svg.data(), 1, svg.size(), in.get()) != svg.size() || std::fflush(in.get()) != 0) {
    return error("cannot write a temporary file: {}", std::strerror(errno));
  }
  std::rewind(in.get());
  QN_TRY(const int status, run_rsvg_convert(in.get(), out.get()));
  if (status != 0) return error("rsvg-convert failed to make a PNG");
  std::rewind(out.get());
  std::string png;
  std::array<char, 1 << 16> bytes;
  while (const std::size_t size = std::fread(bytes.data(), 1, bytes.size(), out.get())) png.append(bytes.data(), size);
  return png;
}

}  // namespace qnext
