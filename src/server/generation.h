#pragma once
// Generation: the answers to one HTTP request, from the engine's thread to the one that writes them.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/engine_thread.h"
#include "server/metrics.h"
#include "server/openai.h"

namespace qnext {

// What came of one answer since it was last asked for.
struct AnswerUpdate {
  TextDelta text;
  std::vector<AnswerToken> tokens;
  std::optional<std::string> finish_reason;  // the end
};

// Of the thread that runs `io` alone.
class Generation {
 public:
  // Nothing when the engine has no room for all of its answers.
  static std::unique_ptr<Generation> start(boost::asio::io_context& io, EngineThread& engine, Metrics& metrics,
                                           const ServedModel& model, const PreparedRequest& request);
  // Cancels what has not ended.
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // Waits until something new is there, at most so long. False: nothing new came.
  bool has_news() const { return has_news_; }
  boost::asio::awaitable<bool> wait(std::chrono::steady_clock::duration at_most);

  std::size_t num_answers() const { return answers_.size(); }
  AnswerUpdate take(std::size_t index);
  bool done() const { return num_running_ == 0; }
  const std::optional<ApiError>& error() const { return error_; }

  std::size_t num_new_tokens() const { return num_new_tokens_; }
  // Of prompts that ended, each counted once: tokens that an earlier request had run.
  std::size_t num_cached_tokens() const { return num_cached_tokens_; }
  std::size_t num_drafted_tokens() const { return num_drafted_tokens_; }    // of answers that ended
  std::size_t num_accepted_tokens() const { return num_accepted_tokens_; }  // of those, that were right
  std::optional<double> first_token_s() const { return first_token_s_; }
  double seconds() const;  // since the start

 private:
  using Clock = std::chrono::steady_clock;
  // A token whose text may yet turn out to be a stop string's, which clients do not see.
  struct HeldToken {
    AnswerToken token;
    std::size_t begin;  // of its text, in the answer's
  };
  struct Answer {
    EngineThread::Ticket ticket = 0;
    AnswerText text;
    AnswerUpdate update;
    std::vector<HeldToken> held;
    std::optional<Clock::time_point> last_token;
    bool repeats_prompt = false;
    bool ended = false;
  };

  Generation(boost::asio::io_context& io, EngineThread& engine, Metrics& metrics);
  void on_event(std::size_t index, const Event& event);
  void on_token(Answer& answer, const TokenEvent& token);
  void on_finish(Answer& answer, const FinishEvent& finish);
  static void pass_tokens_on(Answer& answer);

  EngineThread& engine_;
  Metrics& metrics_;
  std::shared_ptr<Generation*> self_;  // events that come after the end find null
  std::vector<Answer> answers_;
  std::size_t num_running_ = 0;
  std::size_t num_new_tokens_ = 0;
  std::size_t num_cached_tokens_ = 0;
  std::size_t num_drafted_tokens_ = 0, num_accepted_tokens_ = 0;
  std::optional<ApiError> error_;
  bool has_news_ = false;
  boost::asio::steady_timer news_;
  Clock::time_point begin_ = Clock::now();
  std::optional<double> first_token_s_;
};

}  // namespace qnext
