#pragma once
// For tests of the engine: a tiny model, requests, and what came of them.

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "model/test_support.h"

namespace qnext::test {

struct Answer {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;  // of those tokens, when asked for
  std::vector<TokenEvent> prompt;
  std::optional<FinishEvent> finish;
  FinishReason reason() const { return finish->reason; }
};

// A golden model with this machine's best kernels; on one thread unless told.
class TinyModel {
 public:
  explicit TinyModel(const std::string& name, std::string_view table_name = "", std::size_t num_threads = 1)
      : pool_(num_threads) {
    auto table = find_table(table_name);
    QN_CHECK(table.ok(), "{}", table.message());
    ops_.emplace(**table, pool_);
    auto model = Qwen3Next::load(data_path("golden/" + name));
    QN_CHECK(model.ok(), "{}", model.message());
    model_ = std::move(model).value();
  }
  explicit TinyModel(ModelWeights weights) : pool_(1) {
    ops_.emplace(**find_table(""), pool_);
    model_ = std::make_unique<const Qwen3Next>(std::move(weights));
  }

  const Qwen3Next& model() const { return *model_; }
  const Ops& ops() const { return *ops_; }

  std::unique_ptr<Engine> make_engine(EngineConfig config) const {
    if (config.context_tokens == 0) config.context_tokens = 1024;
    auto engine = Engine::make(*model_, *ops_, config);
    QN_CHECK(engine.ok(), "{}", engine.message());
    return std::move(engine).value();
  }

  // A prompt like no other `variant`'s.
  std::vector<TokenId> prompt(std::size_t num_tokens, std::size_t variant = 0) const {
    std::vector<TokenId> out;
    for (std::size_t i = 0; i < num_tokens; ++i) {
      out.push_back(
          static_cast<TokenId>((i * i * 31 + i * (17 + 2 * variant) + 5 + 101 * variant) % model_->config().V));
    }
    return out;
  }

 private:
  ThreadPool pool_;
  std::optional<Ops> ops_;
  std::unique_ptr<const Qwen3Next> model_;
};

inline const TinyModel& tiny() {
  static const TinyModel model("next-tiny");
  return model;
}

inline Request greedy_request(std::vector<TokenId> prompt, std::size_t max_new_tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  request.sampling.temperature = 0;
  request.num_logprobs = 0;  // the chosen token's own: equal bits there are equal logits
  return request;
}

inline RequestId submit(Engine& engine, Request request) {
  auto request_id = engine.submit(std::move(request));
  QN_CHECK(request_id.ok(), "{}", request_id.message());
  return *request_id;
}

using Answers = std::map<std::uint32_t, Answer>;  // by RequestId::value

// One step; its events join `answers`. Nothing may follow a request's last event.
inline void step_into(Answers& answers, Engine& engine) {
  for (const Event& event : engine.step()) {
    Answer& answer = answers[event.request_id.value];
    ASSERT_FALSE(answer.finish.has_value()) << "request " << event.request_id.value << " goes on after its end";
    const auto* token = std::get_if<TokenEvent>(&event.what);
    if (token != nullptr && token->is_prompt) {
      answer.prompt.push_back(*token);
    } else if (token != nullptr) {
      answer.tokens.push_back(token->token_id);
      if (token->logprob) answer.logprobs.push_back(*token->logprob);
    } else {
      answer.finish = std::get<FinishEvent>(event.what);
      EXPECT_EQ(answer.finish->num_new_tokens, answer.tokens.size());
    }
  }
  engine.check_integrity();
}

// Until idle; then every page and slot must be free, and every request that came up ended.
inline void run_to_end(Answers& answers, Engine& engine) {
  while (!engine.idle()) {
    step_into(answers, engine);
    if (testing::Test::HasFatalFailure()) return;
  }
  EXPECT_EQ(engine.kv_cache().num_free_pages(), engine.kv_cache().num_pages());
  EXPECT_EQ(engine.state_cache().num_free_slots(), engine.state_cache().num_slots());
  for (const auto& [request_id, answer] : answers) EXPECT_TRUE(answer.finish.has_value()) << "request " << request_id;
}

inline Answer run_alone(const TinyModel& tiny, const Request& request, const EngineConfig& config = {}) {
  const auto engine = tiny.make_engine(config);
  const RequestId request_id = submit(*engine, request);
  Answers answers;
  run_to_end(answers, *engine);
  return answers[request_id.value];
}

inline void expect_same(const Answer& actual, const Answer& expected) {
  EXPECT_EQ(actual.tokens, expected.tokens);
  EXPECT_EQ(actual.logprobs, expected.logprobs);  // to the bit
  EXPECT_EQ(actual.reason(), expected.reason()) << actual.finish->error;
}

}  // namespace qnext::test
