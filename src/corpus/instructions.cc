// make_instruction: conversations of one to three exchanges: asks from the grammar, sums, stories to order.
#include <array>

#include "base/check.h"
#include "corpus/arithmetic.h"
#include "corpus/english.h"
#include "corpus/makers.h"

namespace qnext::corpus {
namespace {

void note_patterns(Document& document, const Expander& expander) {
  document.patterns.insert(document.patterns.end(), expander.used_patterns().begin(), expander.used_patterns().end());
}

// "@U ... @A ... @U ... @A ...".
void add_messages(Document& document, std::string_view exchange) {
  while (!exchange.empty()) {
    const std::size_t user = exchange.find("@U");
    const std::size_t assistant = exchange.find("@A");
    QN_CHECK(user != std::string_view::npos && assistant != std::string_view::npos && user < assistant,
             "an exchange needs @U and @A: {}", exchange);
    const std::size_t next = exchange.find("@U", assistant);
    const std::size_t end = next == std::string_view::npos ? exchange.size() : next;
    document.messages.push_back({"user", tidied(exchange.substr(user + 2, assistant - user - 2))});
    document.messages.push_back({"assistant", tidied(exchange.substr(assistant + 2, end - assistant - 2))});
    exchange.remove_prefix(end);
  }
}

// Each says whether what it added is of the draw's split: in held-out documents one exchange at least must be new.
bool add_exchange(Document& document, const Draw& draw) {
  Expander expander(corpus_grammar(), draw.random, draw.patterns());
  add_messages(document, expander.expand("{exchange}"));
  note_patterns(document, expander);
  return draw.split == Split::kTrain || expander.used_held_out();
}

bool add_sum(Document& document, const Draw& draw) {
  const Sum sum = draw_sum(draw);
  Expander expander(corpus_grammar(), draw.random, draw.patterns());
  set_sum(expander, sum);
  const bool compares = sum.name == "more" || sum.name == "less";
  const std::string_view reply = compares              ? "{reply_compare}"
                                 : sum.name == "clock" ? "{reply_clock}"
                                 : sum.name == "row"   ? "{reply_row}"
                                                       : "{reply_sum}";
  document.messages.push_back({"user", tidied(expander.expand(fmt::format("{{ask_{}}}", sum.name)))});
  document.messages.push_back({"assistant", tidied(expander.expand(reply))});
  document.numbers.push_back(sum.numbers);
  note_patterns(document, expander);
  return true;  // draw_sum draws numbers of the split
}

// What may be asked of a story that was told: a rule, and the variables whose texts it must have.
struct StoryRequest {
  std::string_view rule;
  std::array<std::string_view, 2> needs;
};
constexpr StoryRequest kStoryRequests[] = {
    {"{ask_story}", {"", ""}},
    {"{ask_story_theme}", {"", ""}},
    {"{ask_story_theme}", {"", ""}},
    {"{ask_story_hero}", {"hero", "is"}},
    {"{ask_story_name}", {"hero", "friend"}},
    {"{ask_story_is}", {"is", ""}},
    {"{ask_story_is}", {"is", ""}},
    {"{ask_story_thing}", {"hero", "obj"}},
    {"{ask_story_place}", {"place", ""}},
};

bool tells(const Expander& expander, std::string_view story, std::string_view variable) {
  return variable.empty() ||
         (expander.has(variable) && story.find(expander.text_of(variable)) != std::string_view::npos);
}

bool add_story(Document& document, const Draw& draw) {
  std::optional<Expander> told;
  std::optional<std::string> story;
  while (!story) {
    told.emplace(corpus_grammar(), draw.random, draw.patterns());
    story = told_story(*told);
  }
  Expander& expander = *told;
  const std::size_t first_end = story->find("\n\n");
  if (draw.random.one_in(6) && first_end != std::string::npos) {
    document.messages.push_back(
        {"user", tidied(expander.expand("{ask_continue}")) + "\n" + story->substr(0, first_end)});
    document.messages.push_back({"assistant", story->substr(first_end + 2)});
  } else {
    const StoryRequest* request = nullptr;
    do {
      request = &kStoryRequests[draw.random.below(std::size(kStoryRequests))];
    } while (!tells(expander, *story, request->needs[0]) || !tells(expander, *story, request->needs[1]));
    document.messages.push_back({"user", tidied(expander.expand(request->rule))});
    document.messages.push_back({"assistant", *story});
  }
  note_patterns(document, expander);
  return draw.split == Split::kTrain || expander.used_held_out();
}

}  // namespace

std::optional<Document> make_instruction(const Draw& draw) {
  static constexpr bool (*kMakers[])(Document&, const Draw&) = {add_exchange, add_exchange, add_exchange, add_exchange,
                                                                add_sum,      add_sum,      add_story,    add_story};
  Document document;
  const std::size_t exchanges = draw.random.one_in(5) ? 2 + draw.random.below(2) : 1;
  bool fits = false;
  for (std::size_t i = 0; i < exchanges; ++i) {
    fits = kMakers[draw.random.below(std::size(kMakers))](document, draw) || fits;
  }
  if (!fits) return std::nullopt;
  return document;
}

}  // namespace qnext::corpus
