#include "text/tokenizer_trainer.h"

#include <nlohmann/json.hpp>

#include "text/rust_call.h"

namespace qnext {
namespace {

QnWordCounts* new_counts() {
  QnWordCounts* counts = nullptr;
  qn_word_counts_new(&counts);
  return counts;
}

}  // namespace

TokenizerTrainer::TokenizerTrainer() : counts_(new_counts(), &qn_word_counts_free) {}

Status TokenizerTrainer::add(std::string_view text) {
  return take_status(qn_word_counts_add(counts_.get(), rust_text(text), text.size()), "tokenizer training");
}

Result<std::string> TokenizerTrainer::train(std::size_t vocab_size, std::span<const AddedToken> added) const {
  nlohmann::json options = {{"vocab_size", vocab_size}, {"added", nlohmann::json::array()}};
  for (const AddedToken& token : added) {
    options["added"].push_back({{"content", token.content}, {"special", token.special}});
  }
  const std::string json = options.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  QnBytes out = {};
  QN_RETURN_IF_ERROR(
      take_status(qn_word_counts_train(counts_.get(), rust_text(json), json.size(), &out), "tokenizer training"));
  return take_text(out);
}

}  // namespace qnext
