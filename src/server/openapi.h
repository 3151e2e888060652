#pragma once
// The OpenAPI document (openapi.json), which tests/e2e/test_openapi.py holds the server to.

#include <string>

#include "server/openai.h"

namespace qnext {

// With this model's names and vocabulary where the document depends on them.
std::string openapi_document(const ServedModel& model);

}  // namespace qnext
