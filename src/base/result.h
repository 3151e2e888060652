#pragma once
// Result<T>: a value, or an Error whose text says what is wrong, where, and what to do next.
// For everything that a user, a file or a full pool can cause. Our own bugs are QN_CHECKs (check.h).

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace qnext {

struct Error {
  std::string message;
};

// error("{}: expected {}, found {}", path, want, got): formats an Error.
template <class... Args>
[[nodiscard]] Error error(fmt::format_string<Args...> format, Args&&... args) {
  return Error{fmt::format(format, std::forward<Args>(args)...)};
}

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}          // NOLINT(google-explicit-constructor)
  Result(Error failure) : state_(std::in_place_index<1>, std::move(failure)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Calling value() on an error, or message() on a value, is a bug of the caller's.
  T& value() & {
    require_ok();
    return std::get<0>(state_);
  }
  const T& value() const& {
    require_ok();
    return std::get<0>(state_);
  }
  T&& value() && {
    require_ok();
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const std::string& message() const {
    QN_CHECK(!ok(), "message() of a Result that holds a value");
    return std::get<1>(state_).message;
  }
  Error take_error() && {
    QN_CHECK(!ok(), "take_error() of a Result that holds a value");
    return std::get<1>(std::move(state_));
  }

 private:
  void require_ok() const { QN_CHECK(ok(), "value() of an error: {}", std::get<1>(state_).message); }

  std::variant<T, Error> state_;
};

struct Nothing {};
using Status = Result<Nothing>;  // success carries no value
[[nodiscard]] inline Status success() {
  return Nothing{};
}

}  // namespace qnext

#define QN_CONCAT_INNER(a, b) a##b
#define QN_CONCAT(a, b) QN_CONCAT_INNER(a, b)

// QN_TRY(auto file, MappedFile::open(path)): declares `file`, or returns the error from the enclosing function.
#define QN_TRY(declaration, expression) QN_TRY_IMPL(declaration, expression, QN_CONCAT(qn_result_, __LINE__))
#define QN_TRY_IMPL(declaration, expression, result)       \
  auto result = (expression);                              \
  if (!result.ok()) return std::move(result).take_error(); \
  declaration = std::move(result).value()

// QN_RETURN_IF_ERROR(check_shape(...)): for a Status.
#define QN_RETURN_IF_ERROR(expression)                                                            \
  do {                                                                                            \
    if (auto qn_status = (expression); !qn_status.ok()) return std::move(qn_status).take_error(); \
  } while (false)
