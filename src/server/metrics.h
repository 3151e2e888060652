#pragma once
// What the server counts, in Prometheus' text format.

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <string>

#include "server/engine_thread.h"

namespace qnext {

class Metrics {
 public:
  Metrics();

  // One finished HTTP request. `route` is one of the server's own paths, or "other".
  void count_request(const std::string& route, unsigned status);

  prometheus::Counter& prompt_tokens() { return prompt_tokens_; }
  prometheus::Counter& cached_tokens() { return cached_tokens_; }
  prometheus::Counter& drafted_tokens() { return drafted_tokens_; }
  prometheus::Counter& accepted_tokens() { return accepted_tokens_; }
  prometheus::Counter& generated_tokens() { return generated_tokens_; }
  prometheus::Counter& cancelled() { return cancelled_; }
  prometheus::Histogram& first_token_s() { return first_token_s_; }
  prometheus::Histogram& token_s() { return token_s_; }

  std::string text(const EngineLoad& load);

 private:
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& cached_tokens_;
  prometheus::Counter& drafted_tokens_;
  prometheus::Counter& accepted_tokens_;
  prometheus::Counter& generated_tokens_;
  prometheus::Counter& cancelled_;
  prometheus::Counter& prefix_hits_;
  prometheus::Counter& prefixes_kept_;
  prometheus::Counter& prefixes_given_up_;
  prometheus::Family<prometheus::Counter>& guesses_;
  prometheus::Family<prometheus::Counter>& right_guesses_;
  prometheus::Family<prometheus::Counter>& step_s_;
  prometheus::Family<prometheus::Counter>& model_s_;
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& kept_prefixes_;
  prometheus::Gauge& kv_pages_;
  prometheus::Histogram& first_token_s_;
  prometheus::Histogram& token_s_;
};

}  // namespace qnext
