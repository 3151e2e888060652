#include "train/policy_trainer.h"

#include <chrono>
#include <cmath>

#include "base/check.h"
#include "train/network_files.h"

namespace qnext::train {
namespace {

// Answers one after the other, as one forward pass reads them.
struct PolicyBatch {
  std::span<const Rollout> rollouts;
  Tensor tokens;   // [T] int64
  Tensor labels;   // [T]: the token after each
  Tensor answers;  // [T] float: 1 where the label is of an answer
  Bounds bounds;

  // The positions whose labels are of answer i: [first_of(i), end_of(i)).
  std::int64_t first_of(std::size_t i) const { return bounds[i] + rollouts[i].num_prompt_tokens - 1; }
  std::int64_t end_of(std::size_t i) const { return bounds[i + 1] - 1; }
};

PolicyBatch make_batch(std::span<const Rollout> rollouts) {
  std::vector<std::int64_t> tokens;
  PolicyBatch out;
  out.rollouts = rollouts;
  out.bounds = {0};
  for (const Rollout& rollout : rollouts) {
    tokens.insert(tokens.end(), rollout.tokens.begin(), rollout.tokens.end());
    out.bounds.push_back(std::ssize(tokens));
  }
  out.tokens = torch::tensor(tokens, torch::kInt64);
  out.labels = shifted(out.tokens, out.bounds, 1);
  out.answers = torch::zeros({std::ssize(tokens)});
  for (std::size_t i = 0; i < rollouts.size(); ++i) out.answers.slice(0, out.first_of(i), out.end_of(i)).fill_(1);
  return out;
}

// Of answer `i` of a batch, summed over its tokens. losses: [T], by position.
double answer_logprob(const Tensor& losses, const PolicyBatch& batch, std::size_t i) {
  return -losses.slice(0, batch.first_of(i), batch.end_of(i)).sum(torch::kFloat64).item<double>();
}

// As many as fit into `max_tokens`, one at least, and what is left.
std::span<const Rollout> take_micro_batch(std::span<const Rollout>& left, std::int64_t max_tokens) {
  std::size_t count = 0;
  std::int64_t tokens = 0;
  do {
    tokens += std::ssize(left[count].tokens);
    ++count;
  } while (count < left.size() && tokens + std::ssize(left[count].tokens) <= max_tokens);
  const auto taken = left.first(count);
  left = left.subspan(count);
  return taken;
}

}  // namespace

PolicyTrainer::PolicyTrainer(const Recipe& recipe, Network network)
    : recipe_(recipe),
      network_(std::make_unique<Network>(std::move(network))),
      optimizer_(named_weights(network_->weights()), recipe.adamw) {}

Result<PolicyTrainer> PolicyTrainer::begin(const Recipe& recipe) {
  QN_TRY(NetworkWeights weights, load_weights(recipe.init_from, recipe.model));
  QN_TRY(Network network, Network::make(recipe.model, std::move(weights)));
  return PolicyTrainer(recipe, std::move(network));
}

Result<PolicyTrainer> PolicyTrainer::resume(const Recipe& recipe, const std::filesystem::path& checkpoint) {
  QN_TRY(const Checkpoint from, Checkpoint::open(checkpoint));
  QN_TRY(Network network, Network::make(recipe.model, make_weights(recipe.model, from.has_mtp())));
  PolicyTrainer out(recipe, std::move(network));
  out.steps_done_ = from.state().steps_done;
  QN_RETURN_IF_ERROR(from.read_into(out.optimizer_, {}));
  return out;
}

Status PolicyTrainer::save(const std::filesystem::path& checkpoint) const {
  return save_checkpoint(checkpoint, {steps_done_, {}}, optimizer_, {}, recipe_.text);
}

Result<PolicyReport> PolicyTrainer::step(std::span<const Rollout> rollouts) {
  QN_CHECK(!rollouts.empty(), "a step without answers");
  const auto begin_time = std::chrono::steady_clock::now();
  const auto count = static_cast<double>(rollouts.size());
  PolicyReport report;
  report.step = steps_done_ + 1;
  report.learning_rate = recipe_.schedule.learning_rate(report.step);
  std::vector<Rollout> judged;  // the others' gradients are 0
  for (const Rollout& rollout : rollouts) {
    report.reward += rollout.reward / count;
    report.right += (rollout.reward >= 1 ? 1 : 0) / count;
    report.tokens += static_cast<double>(rollout.num_answer_tokens()) / count;
    if (rollout.advantage != 0) judged.push_back(rollout);
  }
  const Scores old = score(judged);
  report.mismatch = old.num_compared > 0 ? old.mismatch / static_cast<double>(old.num_compared) : 0;
  const auto updates = static_cast<std::size_t>(recipe_.gspo->updates);
  for (std::size_t i = 0; i < updates; ++i) {
    const std::size_t first = judged.size() * i / updates, last = judged.size() * (i + 1) / updates;
    if (first == last) continue;
    QN_RETURN_IF_ERROR(update(std::span(judged).subspan(first, last - first),
                              std::span(old.logprobs).subspan(first, last - first),
                              steps_done_ * recipe_.gspo->updates + static_cast<std::int64_t>(i) + 1, report));
  }
  ++steps_done_;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_time).count();
  return report;
}

PolicyTrainer::Scores PolicyTrainer::score(std::span<const Rollout> rollouts) const {
  torch::NoGradGuard no_gradients;
  Scores out;
  while (!rollouts.empty()) {
    const auto part = take_micro_batch(rollouts, recipe_.micro_batch_tokens);
    const PolicyBatch batch = make_batch(part);
    const Tensor hidden =
        network_->trunk(batch.tokens, batch.bounds, {.recompute = false, .output_gate = recipe_.output_gate}).hidden;
    const Tensor losses = token_losses(hidden, network_->weights().lm_head, batch.labels);
    for (std::size_t i = 0; i < part.size(); ++i) {
      out.logprobs.push_back(answer_logprob(losses, batch, i));
      const float* answer_losses = losses.data_ptr<float>() + batch.first_of(i);
      for (std::size_t t = 0; t < part[i].logprobs.size(); ++t) {
        out.mismatch += std::abs(answer_losses[t] + part[i].logprobs[t]);
      }
      out.num_compared += std::ssize(part[i].logprobs);
    }
  }
  return out;
}

Status PolicyTrainer::update(std::span<const Rollout> rollouts, std::span<const double> old_logprobs,
                             std::int64_t update_number, PolicyReport& report) {
  const auto updates = static_cast<double>(recipe_.gspo->updates);
  double tokens = 0;
  for (const Rollout& rollout : rollouts) tokens += static_cast<double>(rollout.tokens.size());
  optimizer_.clear_gradients();
  RouterTotals routers;
  for (auto left = rollouts; !left.empty();) {
    const auto part = take_micro_batch(left, recipe_.micro_batch_tokens);
    QN_RETURN_IF_ERROR(add_gradients(part, old_logprobs.first(part.size()), static_cast<double>(rollouts.size()),
                                     tokens, routers, report));
    old_logprobs = old_logprobs.subspan(part.size());
  }
  const double norm = std::sqrt(optimizer_.gradient_squares(/*of_parts=*/false));
  if (!std::isfinite(norm)) {
    return error(
        "step {}: the gradient's norm is {}: training has diverged; the weights are those before it. Lower "
        "schedule.learning_rate, and resume from a checkpoint",
        report.step, norm);
  }
  optimizer_.step(update_number, report.learning_rate, std::min(1.0, recipe_.clip / (norm + 1e-12)));
  report.gradient_norm += norm / updates;
  report.balance += routers.balance / updates;
  report.max_load = std::max(report.max_load, max_load(routers.counts));
  return success();
}

// The gradient of -1/answers sum_i min(s_i A_i, clip(s_i) A_i): each token's log-probability by its answer's weight.
Status PolicyTrainer::add_gradients(std::span<const Rollout> rollouts, std::span<const double> old_logprobs,
                                    double answers, double tokens, RouterTotals& routers, PolicyReport& report) {
  const PolicyBatch batch = make_batch(rollouts);
  const Tensor& head = network_->weights().lm_head;
  const ForwardOptions options{.recompute = recipe_.recompute,
                               .output_gate = recipe_.output_gate,
                               .load_by_document = recipe_.balance.scope == BalanceScope::kSequence};
  const TrunkOutput trunk = network_->trunk(batch.tokens, batch.bounds, options);
  const Tensor losses = token_losses(trunk.hidden, head, batch.labels);
  const Tensor weights = batch.answers.clone();
  for (std::size_t i = 0; i < rollouts.size(); ++i) {
    const double logprob = answer_logprob(losses, batch, i);
    const SequenceWeight weight = sequence_weight(logprob, old_logprobs[i], rollouts[i].num_answer_tokens(),
                                                  rollouts[i].advantage, *recipe_.gspo);
    weights.slice(0, batch.bounds[i], batch.bounds[i + 1]) *= weight.token_weight / answers;
    report.clipped += (weight.clipped ? 1 : 0) / (answers * static_cast<double>(recipe_.gspo->updates));
  }
  QN_TRY(const Tensor balance, balance_loss(trunk.routers, tokens, recipe_.balance, {}, routers));
  (head_loss(trunk.hidden, head, batch.labels, weights).sum + balance).backward();
  return success();
}

}  // namespace qnext::train
