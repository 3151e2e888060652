#pragma once
// StopText: finds stop strings in text that arrives in pieces, and never lets through even the first half of one.

#include <string>
#include <string_view>
#include <vector>

namespace qnext {

class StopText {
 public:
  // Empty stop strings never match.
  explicit StopText(std::vector<std::string> stops);

  // Takes the next piece; returns the text that is now certain to precede any stop string. The match that is complete
  // first counts, of those the longest, however the text is cut. Once stopped, everything is swallowed.
  // Cost: (held back + piece) x num_stops, times the longest stop at worst.
  std::string feed(std::string_view piece);

  // The text ends: what was held back as the possible beginning of a stop string.
  std::string finish();

  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;  // the longest end of the text so far that begins some stop string
  bool stopped_ = false;
};

}  // namespace qnext
