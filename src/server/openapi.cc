#include "server/openapi.h"

#include "base/embed.h"

namespace qnext {
namespace {

QNEXT_EMBED(openapi_json, QNEXT_OPENAPI_JSON)

// The examples ask for "MODEL".
void name_model(Json& json, const std::string& name) {
  for (Json& inner : json) {
    if (inner.is_structured()) name_model(inner, name);
  }
  if (json.is_object() && json.value("model", Json()) == "MODEL") json["model"] = name;
}

}  // namespace

std::string openapi_document(const ServedModel& model) {
  Json document = Json::parse(openapi_json());
  name_model(document, model.name);
  Json& schemas = document["components"]["schemas"];
  Json names = Json::array({model.name});
  for (const std::string& alias : model.aliases) names.push_back(alias);
  schemas["ModelName"]["anyOf"][0]["enum"] = std::move(names);
  schemas["TokenId"]["maximum"] = model.vocabulary_tokens - 1;
  return json_text(document);
}

}  // namespace qnext
