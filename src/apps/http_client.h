#pragma once
// HTTP as a client, over libcurl: for `ask` and `pull`. Ctrl-C ends a transfer at once.

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace qnext {

struct HttpCall {
  std::string url;                       // http:// or https://
  std::string bearer_token = {};         // "": none; never sent on to another host
  std::optional<std::string> json = {};  // POST this; none: GET
  bool only_headers = false;             // HEAD
  bool follows_redirects = true;
  std::uint64_t first_byte = 0;              // more than 0: asks for the rest of a file
  std::chrono::seconds longest_silence{60};  // no byte for so long is an error
};

struct HttpReply {
  long status = 0;
  std::map<std::string, std::string> headers = {};  // of the last answer; names in lower case
  std::string error_body = {};                      // of an answer that is no 2xx, its beginning

  bool ok() const { return status >= 200 && status < 300; }
  std::optional<std::string> header(const std::string& name) const;
};

// Gets the body of a 2xx answer as it comes; an error ends the transfer, and is http_call's.
using OnBody = std::function<Status(std::string_view bytes)>;

// Any answer is a reply, whatever its status; 416 also stands for a server that sends no parts of files. Errors: no
// such host, nobody listens, a certificate that does not hold, silence, a transfer that broke off: each with the URL
// and what to do; "interrupted".
Result<HttpReply> http_call(const HttpCall& call, const OnBody& on_body);

// How long to wait before the next try of a call that came back with `reply` (429 or 5xx): what Retry-After says, a
// number of seconds or a date, or 1, 2, 4 ... seconds; at most a minute.
std::chrono::seconds retry_delay(const HttpReply& reply, std::size_t num_tries);

// Waits, but not longer than until Ctrl-C. False: interrupted.
bool wait_unless_interrupted(std::chrono::seconds time);

}  // namespace qnext
