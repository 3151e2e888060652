#include "train/trainer.h"

#include <chrono>
#include <cmath>

#include "train/balance.h"
#include "train/checkpoint.h"
#include "train/expert_parallel.h"
#include "train/network_files.h"

namespace qnext::train {
namespace {

constexpr double kMemory = 0.95;  // of the mean loss: some twenty steps

double value_of(const Tensor& scalar) {
  return scalar.item<double>();
}

double share_correct(const HeadLoss& loss, double predicted) {
  return value_of(loss.correct.sum()) / predicted;
}

Status expect_even_shares(const Recipe& recipe, const Ranks& ranks) {
  const std::int64_t batches = recipe.batch_tokens / recipe.micro_batch_tokens;
  if (batches % ranks.count() != 0) {
    return error("recipe: batch_tokens {}, micro_batch_tokens {}: {} ranks cannot share {} micro-batches evenly",
                 recipe.batch_tokens, recipe.micro_batch_tokens, ranks.count(), batches);
  }
  const auto num_ranks = static_cast<std::size_t>(ranks.count());
  if (recipe.expert_parallel && recipe.model.E % num_ranks != 0) {
    return error("recipe: expert_parallel: {} ranks cannot share {} experts evenly", num_ranks, recipe.model.E);
  }
  return success();
}

bool shares_experts(const Recipe& recipe, const Ranks& ranks) {
  return recipe.expert_parallel && ranks.count() > 1;
}

}  // namespace

Trainer::Trainer(const Recipe& recipe, Network network, BatchStream data, const Ranks& ranks)
    : recipe_(recipe),
      ranks_(ranks),
      network_(std::make_unique<Network>(std::move(network))),
      data_(std::move(data)),
      optimizer_(named_weights(network_->weights()), recipe.adamw, ranks.rank(), ranks.count(),
                 shares_experts(recipe, ranks)) {}

Result<BatchStream> Trainer::open_data(const Recipe& recipe, const ShardTokenizer& tokenizer) {
  std::vector<TokenShard> shards;
  for (const std::filesystem::path& path : recipe.data) {
    QN_TRY(TokenShard shard, TokenShard::open(path, tokenizer));
    shards.push_back(std::move(shard));
  }
  return BatchStream(std::move(shards), recipe.context_tokens, recipe.seed);
}

Result<Trainer> Trainer::begin(const Recipe& recipe, const ShardTokenizer& tokenizer, const Ranks& ranks) {
  QN_RETURN_IF_ERROR(expect_even_shares(recipe, ranks));
  QN_TRY(BatchStream data, open_data(recipe, tokenizer));
  const InitOptions options{
      .seed = recipe.seed, .has_mtp = recipe.mtp_steps > 0, .balanced_router = recipe.balanced_router};
  NetworkWeights weights = init_weights(recipe.model, options);
  if (!recipe.init_from.empty()) {
    QN_TRY(NetworkWeights found, load_weights(recipe.init_from, recipe.model));
    if (!found.mtp) found.mtp = weights.mtp;  // a block that begins later than the trunk
    weights = std::move(found);
  }
  if (shares_experts(recipe, ranks)) keep_own_experts(weights, ranks);
  QN_TRY(Network network, Network::make(recipe.model, std::move(weights)));
  return Trainer(recipe, std::move(network), std::move(data), ranks);
}

Result<StepReport> Trainer::step() {
  const auto begin_time = std::chrono::steady_clock::now();
  take_part_times();
  StepReport report;
  report.step = steps_done_ + 1;
  report.tokens = recipe_.batch_tokens;
  const auto steps_mtp = static_cast<std::size_t>(network_->weights().mtp ? recipe_.mtp_steps : 0);
  report.mtp_losses.resize(steps_mtp);
  report.mtp_accuracies.resize(steps_mtp);
  std::vector<Batch> batches;
  double predicted = 0;
  for (std::int64_t tokens = 0; tokens < recipe_.batch_tokens; tokens += recipe_.micro_batch_tokens) {
    batches.push_back(data_.next(recipe_.micro_batch_tokens));
    predicted += static_cast<double>(batches.back().predicted_tokens());
  }
  optimizer_.clear_gradients();
  RouterTotals routers;
  const auto num_ranks = static_cast<std::size_t>(ranks_.count());
  for (std::size_t i = static_cast<std::size_t>(ranks_.rank()); i < batches.size(); i += num_ranks) {
    QN_RETURN_IF_ERROR(
        ranks_.guarded([&] { return add_micro_batch(batches[i], std::max(predicted, 1.0), routers, report); }));
  }
  report.balance = routers.balance;
  report.max_load = max_load(routers.counts);
  report.load_entropy = load_entropy(routers.counts);
  report.expert_load = expert_load(routers.counts);
  QN_RETURN_IF_ERROR(sum_over_ranks(report));
  report.learning_rate = recipe_.schedule.learning_rate(report.step);
  report.divergence = divergence_of(report);
  if (report.divergence) return report;
  {
    const PartTimer timer(Part::kOptimizer);
    optimizer_.step(report.step, report.learning_rate, std::min(1.0, recipe_.clip / (report.gradient_norm + 1e-12)));
    for (std::size_t i = 0; i < optimizer_.weights().size(); ++i) {
      if (optimizer_.is_part(i)) continue;
      Tensor weight = optimizer_.weights()[i].value.detach();
      QN_RETURN_IF_ERROR(ranks_.copy_from(optimizer_.owner_of(i), weight));
    }
  }
  mean_loss_ = steps_done_ == 0 ? report.loss : kMemory * mean_loss_ + (1 - kMemory) * report.loss;
  ++steps_done_;
  report.ops = static_cast<double>(report.tokens) *
               ops_per_token(network_->weights(), recipe_.model, std::ssize(report.mtp_losses));
  report.part_s = take_part_times();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_time).count();
  return report;
}

std::optional<std::string> Trainer::divergence_of(const StepReport& report) const {
  if (!std::isfinite(report.loss) || !std::isfinite(report.gradient_norm)) {
    return fmt::format("step {}: the loss is {} and the gradient's norm {}", report.step, report.loss,
                       report.gradient_norm);
  }
  if (recipe_.spike > 0 && steps_done_ > 0 && report.loss > mean_loss_ + recipe_.spike) {
    return fmt::format("step {}: the loss is {:.3f}, {:.3f} above its mean, more than spike {}", report.step,
                       report.loss, report.loss - mean_loss_, recipe_.spike);
  }
  return std::nullopt;
}

Status Trainer::roll_back(const std::filesystem::path& checkpoint) {
  QN_TRY(const Checkpoint from, Checkpoint::open(checkpoint));
  QN_RETURN_IF_ERROR(from.read_into(optimizer_, ranks_));
  steps_done_ = from.state().steps_done;
  mean_loss_ = from.state().mean_loss;
  ++rollbacks_;
  return success();
}

// Gradients, and what the report says of each rank's micro-batches.
Status Trainer::sum_over_ranks(StepReport& report) {
  double part_squares = optimizer_.gradient_squares(/*of_parts=*/true);  // all ranks' tokens are in them already
  std::vector<double*> values = {&report.loss, &report.accuracy, &report.balance, &part_squares};
  for (double& loss : report.mtp_losses) values.push_back(&loss);
  for (double& accuracy : report.mtp_accuracies) values.push_back(&accuracy);
  std::vector<Tensor> sums = {torch::empty({std::ssize(values)}, torch::kFloat64)};
  for (std::size_t i = 0; i < values.size(); ++i) sums[0].data_ptr<double>()[i] = *values[i];
  for (std::size_t i = 0; i < optimizer_.weights().size(); ++i) {
    const Tensor& gradient = optimizer_.weights()[i].value.grad();
    if (gradient.defined() && !optimizer_.is_part(i)) sums.push_back(gradient);
  }
  QN_RETURN_IF_ERROR(ranks_.sum(sums));
  for (std::size_t i = 0; i < values.size(); ++i) *values[i] = sums[0].data_ptr<double>()[i];
  report.gradient_norm = std::sqrt(part_squares + optimizer_.gradient_squares(/*of_parts=*/false));
  return success();
}

ForwardOptions Trainer::forward_options(bool recompute) const {
  return {.recompute = recompute,
          .output_gate = recipe_.output_gate,
          .load_by_document = recipe_.balance.scope == BalanceScope::kSequence,
          .expert_ranks = shares_experts(recipe_, ranks_) ? &ranks_ : nullptr};
}

Status Trainer::add_micro_batch(const Batch& batch, double predicted, RouterTotals& routers, StepReport& report) {
  const ForwardOptions options = forward_options(recipe_.recompute);
  TrunkOutput trunk = network_->trunk(batch.tokens, batch.bounds, options);
  const HeadLoss head = head_loss(trunk.hidden, network_->weights().lm_head, shifted(batch.tokens, batch.bounds, 1),
                                  shifted(batch.learned, batch.bounds, 1));
  Tensor loss = head.sum / predicted;
  report.loss += value_of(loss.detach());
  report.accuracy += share_correct(head, predicted);
  if (!report.mtp_losses.empty()) {
    trunk.routers.emplace_back();
    loss = loss + mtp_loss(batch, trunk.hidden, predicted, trunk.routers.back(), report);
  }
  QN_TRY(const Tensor balance,
         balance_loss(trunk.routers, static_cast<double>(recipe_.batch_tokens), recipe_.balance, ranks_, routers));
  (loss + balance).backward();
  return success();
}

// Depth k predicts the token k + 1 places on from the block's own output at depth k - 1, as when it drafts.
Tensor Trainer::mtp_loss(const Batch& batch, const Tensor& hidden, double predicted, RouterLoad& router,
                         StepReport& report) const {
  const ForwardOptions options = forward_options(/*recompute=*/false);
  double all_shares = 0;
  for (std::size_t depth = 0; depth < report.mtp_losses.size(); ++depth)
    all_shares += std::pow(recipe_.mtp_decay, depth);
  Tensor m = hidden, loss;
  for (std::size_t depth = 0; depth < report.mtp_losses.size(); ++depth) {
    const auto by = static_cast<std::int64_t>(depth) + 1;
    RouterLoad load;
    m = network_->mtp_step(shifted(batch.tokens, batch.bounds, by), m, batch.bounds, options, load);
    const HeadLoss head = head_loss(m, network_->weights().lm_head, shifted(batch.tokens, batch.bounds, by + 1),
                                    shifted(batch.learned, batch.bounds, by + 1));
    const double share = std::pow(recipe_.mtp_decay, depth) / all_shares;
    const Tensor part = head.sum * (recipe_.mtp_weight * share / predicted);
    loss = loss.defined() ? loss + part : part;
    report.mtp_losses[depth] += value_of(head.sum.detach()) / predicted;
    report.mtp_accuracies[depth] += share_correct(head, predicted);
    if (depth == 0) router = load;  // the block's load is judged where its input is the trunk's
  }
  return loss;
}

Result<NetworkWeights> Trainer::whole_weights() const {
  NetworkWeights out = network_->weights();
  if (!shares_experts(recipe_, ranks_)) return out;
  Status status = success();
  for_each_weight(out, [&](const std::string& name, Tensor& value) {
    if (!status.ok() || !is_of_experts(name)) return;
    Result<Tensor> whole = all_parts(value, ranks_);
    if (whole.ok()) value = *whole;
    if (!whole.ok()) status = Error{whole.message()};
  });
  QN_RETURN_IF_ERROR(status);
  return out;
}

Status Trainer::save(const std::filesystem::path& checkpoint) const {
  return save_checkpoint(checkpoint, {steps_done_, data_.position(), mean_loss_, rollbacks_}, optimizer_, ranks_,
                         recipe_.text);
}

Result<Trainer> Trainer::resume(const Recipe& recipe, const ShardTokenizer& tokenizer,
                                const std::filesystem::path& checkpoint, const Ranks& ranks) {
  QN_RETURN_IF_ERROR(expect_even_shares(recipe, ranks));
  QN_TRY(const Checkpoint from, Checkpoint::open(checkpoint));
  if (recipe.mtp_steps > 0 && !from.has_mtp()) {
    return error("{}: it has no MTP block, and the recipe has mtp.steps {}: begin a run with init_from",
                 checkpoint.string(), recipe.mtp_steps);
  }
  QN_TRY(BatchStream data, open_data(recipe, tokenizer));
  QN_RETURN_IF_ERROR(data.go_to(from.state().data));
  NetworkWeights weights = make_weights(recipe.model, from.has_mtp());
  if (shares_experts(recipe, ranks)) keep_own_experts(weights, ranks);
  QN_TRY(Network network, Network::make(recipe.model, std::move(weights)));
  Trainer out(recipe, std::move(network), std::move(data), ranks);
  out.steps_done_ = from.state().steps_done;
  out.mean_loss_ = from.state().mean_loss;
  out.rollbacks_ = from.state().rollbacks;
  QN_RETURN_IF_ERROR(from.read_into(out.optimizer_, ranks));
  return out;
}

}  // namespace qnext::train
