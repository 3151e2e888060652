#include "server/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>

namespace qnext {
namespace {

using prometheus::Histogram;

const Histogram::BucketBoundaries kFirstTokenBuckets = {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};
const Histogram::BucketBoundaries kTokenBuckets = {0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5};

prometheus::Counter& counter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}
prometheus::Gauge& gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}
Histogram& histogram(prometheus::Registry& registry, const char* name, const char* help,
                     const Histogram::BucketBoundaries& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
}
void raise_to(prometheus::Counter& counter, double value) {
  counter.Increment(value - counter.Value());
}

}  // namespace

Metrics::Metrics()
    : requests_(prometheus::BuildCounter()
                    .Name("qnext_http_requests_total")
                    .Help("HTTP requests, by route and status")
                    .Register(registry_)),
      prompt_tokens_(counter(registry_, "qnext_prompt_tokens_total", "Prompt tokens of accepted answers")),
      cached_tokens_(counter(registry_, "qnext_prompt_tokens_cached_total", "Of those, tokens that did not run again")),
      drafted_tokens_(counter(registry_, "qnext_drafted_tokens_total", "Tokens that the MTP block guessed")),
      accepted_tokens_(counter(registry_, "qnext_accepted_tokens_total", "Of those, guesses that were right")),
      generated_tokens_(counter(registry_, "qnext_generated_tokens_total", "Tokens of answers")),
      cancelled_(counter(registry_, "qnext_cancelled_total", "Requests whose client left before the end")),
      prefix_hits_(counter(registry_, "qnext_prefix_hits_total", "Answers whose prompt went on from a kept prefix")),
      prefixes_kept_(counter(registry_, "qnext_prefixes_kept_total", "Beginnings of prompts whose state was kept")),
      prefixes_given_up_(
          counter(registry_, "qnext_prefixes_given_up_total", "Of those, the ones that made room for others")),
      guesses_(prometheus::BuildCounter()
                   .Name("qnext_guesses_total")
                   .Help("Guesses, by depth, where those before them were right")
                   .Register(registry_)),
      right_guesses_(prometheus::BuildCounter()
                         .Name("qnext_guesses_right_total")
                         .Help("Of those, guesses that were right")
                         .Register(registry_)),
      step_s_(
          prometheus::BuildCounter()
              .Name("qnext_step_seconds_total")
              .Help("Time of the engine's steps: with prompt tokens among their rows (prefill), or without (decode)")
              .Register(registry_)),
      model_s_(prometheus::BuildCounter()
                   .Name("qnext_step_model_seconds_total")
                   .Help("Of that, the model's: layers, logits and guesses")
                   .Register(registry_)),
      running_(gauge(registry_, "qnext_sequences_running", "Answers in the making")),
      waiting_(gauge(registry_, "qnext_sequences_waiting", "Answers that wait for their turn")),
      kept_prefixes_(gauge(registry_, "qnext_kept_prefixes", "Beginnings of prompts that need not run again")),
      kv_pages_(gauge(registry_, "qnext_kv_pages_used", "Pages of keys and values that are taken")),
      first_token_s_(histogram(registry_, "qnext_time_to_first_token_seconds", "From a request to its first token",
                               kFirstTokenBuckets)),
      token_s_(histogram(registry_, "qnext_time_between_tokens_seconds", "From one token of an answer to its next",
                         kTokenBuckets)) {}

void Metrics::count_request(const std::string& route, unsigned status) {
  requests_.Add({{"route", route}, {"status", std::to_string(status)}}).Increment();
}

std::string Metrics::text(const EngineLoad& load) {
  const std::size_t running = std::min(load.num_requests, load.num_sequences);
  running_.Set(static_cast<double>(running));
  waiting_.Set(static_cast<double>(load.num_requests - running));
  kept_prefixes_.Set(static_cast<double>(load.num_kept_prefixes));
  kv_pages_.Set(static_cast<double>(load.num_kv_pages_used));
  raise_to(prefix_hits_, static_cast<double>(load.stats.num_resumed));
  raise_to(prefixes_kept_, static_cast<double>(load.prefixes.num_kept));
  raise_to(prefixes_given_up_, static_cast<double>(load.prefixes.num_given_up));
  using Counters = prometheus::Family<prometheus::Counter>;
  const auto raise = [](Counters& family, const std::map<std::string, std::string>& labels, double value) {
    raise_to(family.Add(labels), value);
  };
  for (std::size_t i = 0; i < load.stats.guesses_by_depth.size(); ++i) {
    const GuessCount& count = load.stats.guesses_by_depth[i];
    if (count.num_tried == 0) continue;
    raise(guesses_, {{"depth", std::to_string(i + 1)}}, static_cast<double>(count.num_tried));
    raise(right_guesses_, {{"depth", std::to_string(i + 1)}}, static_cast<double>(count.num_right));
  }
  for (const bool is_prefill : {true, false}) {
    const StepTime& time = is_prefill ? load.stats.prefill : load.stats.decode;
    raise(step_s_, {{"phase", is_prefill ? "prefill" : "decode"}}, time.total_s);
    raise(model_s_, {{"phase", is_prefill ? "prefill" : "decode"}}, time.model_s);
  }
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace qnext
