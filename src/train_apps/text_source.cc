#include "train_apps/text_source.h"

#include <boost/iostreams/filter/gzip.hpp>
#include <boost/iostreams/filter/zstd.hpp>
#include <boost/iostreams/filtering_stream.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "apps/console.h"
#include "tensor/tensor_entry.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
namespace io = boost::iostreams;
using Json = nlohmann::ordered_json;

Result<SourceDocument> parse_line(const std::string& line, std::string where) {
  const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto text_of = [&](const char* key) {
    const bool there = object.is_object() && object.contains(key) && object[key].is_string();
    return there ? object[key].get<std::string>() : std::string();
  };
  SourceDocument out{.text = text_of("text"), .answer = {}, .messages = {}, .where = std::move(where)};
  if (object.is_object() && object.contains("text") && object["text"].is_string()) return out;
  if (object.is_object() && object.contains("messages")) {
    out.messages = object["messages"];
    return out;
  }
  out.text = text_of("prompt");
  out.answer = text_of("answer");
  if (!out.text.empty() && !out.answer.empty()) return out;
  return error("{}: expected an object with \"text\", with \"prompt\" and \"answer\", or with \"messages\", found {}",
               out.where, printable(line));
}

Status read_documents(std::istream& in, const std::string& path, bool is_jsonl,
                      FunctionRef<Status(const SourceDocument&)> use) {
  if (!is_jsonl) {
    const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    return use({.text = text, .answer = {}, .messages = {}, .where = path});
  }
  std::string line;
  for (std::size_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    QN_TRY(const SourceDocument document, parse_line(line, fmt::format("{}: line {}", path, number)));
    QN_RETURN_IF_ERROR(use(document));
    if (interrupted()) return error("interrupted");
  }
  return success();
}

}  // namespace

Status for_each_document(const std::string& path, FunctionRef<Status(const SourceDocument&)> use) {
  std::ifstream file(path, std::ios::binary);
  if (!file || fs::is_directory(path)) {
    return error("{}: cannot open it: {}", path, fs::is_directory(path) ? "it is a folder" : std::strerror(errno));
  }
  fs::path name = path;
  io::filtering_istream in;
  const std::string packed = name.extension();
  if (packed == ".gz") in.push(io::gzip_decompressor());
  if (packed == ".zst") in.push(io::zstd_decompressor());
  if (in.size() > 0) name.replace_extension();
  in.push(file);
  in.exceptions(std::ios::badbit);  // else a stream that breaks off looks like its end
  try {
    return read_documents(in, path, name.extension() == ".jsonl", use);
  } catch (const std::ios_base::failure& failure) {  // what the filters throw, too
    return error("{}: cannot read it{}: {}", path, packed.empty() ? "" : fmt::format(" (as {})", packed),
                 failure.what());
  }
}

}  // namespace qnext
