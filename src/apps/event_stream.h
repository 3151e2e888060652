#pragma once
// Server-sent events: the bytes of a stream as the data of its events (WHATWG, "Server-sent events").

#include <string>
#include <string_view>
#include <vector>

namespace qnext {

class EventStream {
 public:
  // The data of the events that these bytes complete, wherever they were cut.
  std::vector<std::string> feed(std::string_view bytes) {
    std::vector<std::string> out;
    for (const char c : bytes) {
      const bool ends_crlf = c == '\n' && after_cr_;
      after_cr_ = c == '\r';
      if (ends_crlf) continue;
      if (c == '\n' || c == '\r') {
        end_line(out);
      } else {
        line_ += c;
      }
    }
    return out;
  }

 private:
  void end_line(std::vector<std::string>& out) {
    if (line_.empty()) {
      if (has_data_) out.push_back(std::move(data_));
      data_.clear();
      has_data_ = false;
    } else if (line_.starts_with("data:")) {
      std::string_view value = std::string_view(line_).substr(5);
      if (value.starts_with(' ')) value.remove_prefix(1);
      if (has_data_) data_ += '\n';
      data_ += value;
      has_data_ = true;
    }
    line_.clear();
  }

  std::string line_, data_;
  bool has_data_ = false;
  bool after_cr_ = false;
};

}  // namespace qnext
