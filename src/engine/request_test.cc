#include "engine/request.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>

namespace qnext {
namespace {

constexpr std::size_t kVocabularyTokens = 100;

Request good_request() {
  Request request;
  request.prompt = {1, 2, 99};
  request.max_new_tokens = 5;
  return request;
}

TEST(Request, AGoodOnePasses) {
  EXPECT_TRUE(check_request(good_request(), kVocabularyTokens).ok());
}

struct BadRequest {
  const char* named;  // what the error must name
  std::function<void(Request&)> spoil;
};

TEST(Request, EachBadFieldIsNamed) {
  const float nan = std::nanf("");
  const BadRequest cases[] = {
      {"prompt", [](Request& r) { r.prompt.clear(); }},
      {"prompt[1]", [](Request& r) { r.prompt[1] = 100; }},
      {"prompt[0]", [](Request& r) { r.prompt[0] = -1; }},
      {"reports_prompt", [](Request& r) { r.reports_prompt = true; }},
      {"stop_token_ids[0]", [](Request& r) { r.stop_token_ids = {100}; }},
      {"num_logprobs", [](Request& r) { r.num_logprobs = 101; }},
      {"temperature", [](Request& r) { r.sampling.temperature = -0.1f; }},
      {"temperature", [=](Request& r) { r.sampling.temperature = nan; }},
      {"temperature", [](Request& r) { r.sampling.temperature = INFINITY; }},
      {"top_p", [](Request& r) { r.sampling.top_p = 1.5f; }},
      {"top_p", [=](Request& r) { r.sampling.top_p = nan; }},
      {"min_p", [](Request& r) { r.sampling.min_p = -1; }},
      {"repetition_penalty", [](Request& r) { r.sampling.repetition_penalty = 0; }},
      {"presence_penalty", [](Request& r) { r.sampling.presence_penalty = 101; }},
      {"frequency_penalty", [](Request& r) { r.sampling.frequency_penalty = -INFINITY; }},
      {"logit_bias", [](Request& r) { r.sampling.logit_bias = {{.token_id = 100, .bias = 1}}; }},
      {"logit_bias", [=](Request& r) { r.sampling.logit_bias = {{.token_id = 5, .bias = nan}}; }},
  };
  for (const BadRequest& bad : cases) {
    Request request = good_request();
    bad.spoil(request);
    const Status status = check_request(request, kVocabularyTokens);
    ASSERT_FALSE(status.ok()) << bad.named;
    EXPECT_NE(status.message().find(bad.named), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace qnext
