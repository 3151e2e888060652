#include "server/generation.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>

namespace qnext {
namespace asio = boost::asio;

namespace {

// A grammar that asks too much is the client's; anything else is a bug, or a limit of the engine's.
ApiError error_of(const FinishEvent& finish) {
  if (finish.by_constraint) return {.message = finish.error};
  return {.status = 500, .message = finish.error, .type = "server_error"};
}

ApiError nothing_in_time() {
  return {.status = 503,
          .message = "The server's time for an answer was over before its first token; try again later.",
          .type = "server_error",
          .code = "deadline_exceeded",
          .retry_after_s = 5};
}

}  // namespace

Generation::Generation(asio::io_context& io, EngineThread& engine, Metrics& metrics)
    : engine_(engine), metrics_(metrics), self_(std::make_shared<Generation*>(this)), news_(io) {}

Generation::~Generation() {
  *self_ = nullptr;
  for (const Answer& answer : answers_) {
    if (!answer.ended) engine_.cancel(answer.ticket);
  }
}

std::unique_ptr<Generation> Generation::start(asio::io_context& io, EngineThread& engine, Metrics& metrics,
                                              const ServedModel& model, const PreparedRequest& request) {
  std::unique_ptr<Generation> out(new Generation(io, engine, metrics));
  for (std::size_t i = 0; i < request.answers.size(); ++i) {
    const PreparedAnswer& answer = request.answers[i];
    const auto on_event = [&io, self = out->self_, i](Event event) {
      asio::post(io, [self, i, event = std::move(event)] {
        if (*self != nullptr) (*self)->on_event(i, event);
      });
    };
    const auto ticket = engine.try_submit(answer.request, on_event);
    if (!ticket) return nullptr;  // the others are cancelled with `out`
    out->answers_.push_back(Answer{.ticket = *ticket,
                                   .text = AnswerText(model.tokenizer, answer.stops, answer.parts, answer.tool_use),
                                   .update = {},
                                   .held = {},
                                   .last_token = {},
                                   .repeats_prompt = answer.repeats_prompt});
    ++out->num_running_;
    metrics.prompt_tokens().Increment(static_cast<double>(answer.request.prompt.size()));
  }
  return out;
}

asio::awaitable<bool> Generation::wait(Clock::duration at_most) {
  if (!has_news_) {
    news_.expires_after(at_most);
    co_await news_.async_wait(asio::as_tuple(asio::use_awaitable));  // cancelled: news
  }
  co_return std::exchange(has_news_, false);
}

AnswerUpdate Generation::take(std::size_t index) {
  return std::exchange(answers_[index].update, AnswerUpdate{});
}

double Generation::seconds() const {
  return std::chrono::duration<double>(Clock::now() - begin_).count();
}

void Generation::on_event(std::size_t index, const Event& event) {
  Answer& answer = answers_[index];
  const auto* token = std::get_if<TokenEvent>(&event.what);
  if (token != nullptr && token->is_prompt) {
    answer.update.tokens.push_back({token->token_id, token->logprob, token->top_logprobs});
  } else if (token != nullptr) {
    on_token(answer, *token);
  } else {
    on_finish(answer, std::get<FinishEvent>(event.what));
  }
  has_news_ = true;
  news_.cancel();
}

void Generation::on_token(Answer& answer, const TokenEvent& token) {
  if (answer.text.stopped()) return;  // the engine may be a step ahead of a stop string
  const Clock::time_point now = Clock::now();
  ++num_new_tokens_;
  metrics_.generated_tokens().Increment();
  if (answer.last_token) {
    metrics_.token_s().Observe(std::chrono::duration<double>(now - *answer.last_token).count());
  } else if (!first_token_s_) {
    first_token_s_ = seconds();
    metrics_.first_token_s().Observe(*first_token_s_);
  }
  answer.last_token = now;
  answer.held.push_back({{token.token_id, token.logprob, token.top_logprobs}, answer.text.num_bytes()});
  answer.update.text.append(answer.text.feed(token.token_id));
  pass_tokens_on(answer);
  if (answer.text.stopped()) engine_.cancel(answer.ticket);
}

// Those of whose text some is certain, and those of no text that come before what is not.
void Generation::pass_tokens_on(Answer& answer) {
  const std::size_t num_certain = answer.text.num_certain_bytes();
  const bool all = num_certain == answer.text.num_bytes();
  const auto first_held =
      std::ranges::find_if(answer.held, [&](const HeldToken& held) { return !all && held.begin >= num_certain; });
  for (auto held = answer.held.begin(); held != first_held; ++held) {
    answer.update.tokens.push_back(std::move(held->token));
  }
  answer.held.erase(answer.held.begin(), first_held);
}

void Generation::on_finish(Answer& answer, const FinishEvent& finish) {
  answer.ended = true;
  --num_running_;
  metrics_.cached_tokens().Increment(static_cast<double>(finish.num_cached_tokens));
  metrics_.drafted_tokens().Increment(static_cast<double>(finish.num_drafted_tokens));
  metrics_.accepted_tokens().Increment(static_cast<double>(finish.num_accepted_tokens));
  num_drafted_tokens_ += finish.num_drafted_tokens;
  num_accepted_tokens_ += finish.num_accepted_tokens;
  if (!answer.repeats_prompt) num_cached_tokens_ += finish.num_cached_tokens;
  answer.update.text.append(answer.text.finish());
  pass_tokens_on(answer);
  if (finish.reason == FinishReason::kError) error_ = error_of(finish);
  const bool is_late = finish.reason == FinishReason::kDeadline;
  if (is_late && num_new_tokens_ == 0) error_ = nothing_in_time();
  // The engine may have gone on to its end while a stop string's cancellation was under way.
  const bool is_cut = !answer.text.stopped() && (is_late || finish.reason == FinishReason::kLength);
  answer.update.finish_reason = is_cut ? "length" : answer.text.has_calls() ? "tool_calls" : "stop";
}

}  // namespace qnext
