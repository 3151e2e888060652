#pragma once
// The C ABI of rust/qnext-text, written by hand on both sides. Only src/text includes it.
//
// Conventions
//   Text     UTF-8, not terminated, borrowed for the length of the call; checked: other bytes are an error.
//   Errors   a function that can fail returns QnBytes: data null is success; otherwise the bytes are the message, which
//   the
//            caller frees with qn_bytes_free, and the outputs are untouched. A panic in Rust is such an error too.
//   Outputs  come last. Handles are freed once, by the function named ..._free; null is fine there.
//   Threads  const handles may be used by many threads at once; a QnMatcher by one at a time.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct QnBytes {
  uint8_t* data;
  size_t num_bytes;
} QnBytes;

void qn_bytes_free(QnBytes bytes);

// --- tokenizer ---

typedef struct QnTokenizer QnTokenizer;

typedef enum QnTokenKind {
  kQnTokenNone = 0,     // no token has this id
  kQnTokenNormal = 1,   // from the BPE vocabulary
  kQnTokenSpecial = 2,  // added, and not part of the text: <|im_end|>
  kQnTokenAdded = 3,    // added, and part of the text: <think>
} QnTokenKind;

typedef struct QnToken {
  const uint8_t* data;  // lives as long as the tokenizer; not null-terminated
  size_t num_bytes;
  uint8_t kind;  // QnTokenKind
} QnToken;

typedef struct QnIds {
  uint32_t* data;
  size_t count;
} QnIds;

// From the text of a tokenizer.json. About 0.3 s for 151,669 tokens.
QnBytes qn_tokenizer_from_json(const uint8_t* json, size_t num_bytes, QnTokenizer** out);

// From a GGUF's vocabulary as JSON: {"pre": text, "tokens": [text], "types": [int], "merges": ["left right"],
// "begin_id": id to begin texts with, or null}.
QnBytes qn_tokenizer_from_vocabulary(const uint8_t* json, size_t num_bytes, QnTokenizer** out);

void qn_tokenizer_free(QnTokenizer* tokenizer);

// The inverse: the same JSON without begin_id, padded with unused tokens to num_ids.
QnBytes qn_tokenizer_to_vocabulary(const QnTokenizer* tokenizer, size_t num_ids, QnBytes* out);

// 1 + the largest id.
size_t qn_tokenizer_num_ids(const QnTokenizer* tokenizer);

// What the token stands for; empty and kQnTokenNone for an id without one.
QnToken qn_tokenizer_token(const QnTokenizer* tokenizer, uint32_t id);

// The id of the token that stands for exactly this text; false when there is none.
bool qn_tokenizer_find(const QnTokenizer* tokenizer, const uint8_t* text, size_t num_bytes, uint32_t* out);

// add_special: with the tokens that the tokenizer puts around a text. parse_special: special tokens in the text are
// tokens, otherwise they are text; added tokens that are not special are always tokens.
QnBytes qn_tokenizer_encode(const QnTokenizer* tokenizer, const uint8_t* text, size_t num_bytes, bool add_special,
                            bool parse_special, QnIds* out);

void qn_ids_free(QnIds ids);

// --- training a tokenizer ---

typedef struct QnWordCounts QnWordCounts;

void qn_word_counts_new(QnWordCounts** out);

void qn_word_counts_free(QnWordCounts* counts);

QnBytes qn_word_counts_add(QnWordCounts* counts, const uint8_t* text, size_t num_bytes);

// Options as JSON: {"vocab_size": int, "added": [{"content": text, "special": bool}]}; out is a tokenizer.json.
QnBytes qn_word_counts_train(const QnWordCounts* counts, const uint8_t* options, size_t num_bytes, QnBytes* out);

// --- chat template ---

typedef struct QnTemplate QnTemplate;

typedef enum QnVariableKind {
  kQnVariableText = 0,    // the value itself
  kQnVariableJson = 1,    // the value as JSON
  kQnVariableSpread = 2,  // a JSON object whose members become variables; the name only serves errors
} QnVariableKind;

typedef struct QnVariable {
  const uint8_t* name;
  size_t num_name_bytes;
  const uint8_t* value;
  size_t num_value_bytes;
  uint8_t kind;  // QnVariableKind
} QnVariable;

QnBytes qn_template_parse(const uint8_t* source, size_t num_bytes, QnTemplate** out);

void qn_template_free(QnTemplate* chat_template);

// A name that is given twice is an error. Ends with an error after a fixed amount of work.
QnBytes qn_template_render(const QnTemplate* chat_template, const QnVariable* variables, size_t num_variables,
                           QnBytes* out);

// --- grammar ---

typedef struct QnGrammarFactory QnGrammarFactory;
typedef struct QnMatcher QnMatcher;

typedef enum QnGrammarKind {
  kQnGrammarJsonSchema = 0,  // a JSON schema
  kQnGrammarJsonObject = 1,  // any JSON object; the text is not read
  kQnGrammarRegex = 2,       // Rust's regex syntax, the whole text must match
  kQnGrammarChoice = 3,      // a JSON list of texts, one of which must be the whole text
  kQnGrammarLark = 4,        // llguidance's variant of Lark
} QnGrammarKind;

// end_ids end a text (at least one); num_ids is the model's vocabulary, at least the tokenizer's. The tokenizer may be
// freed before the factory, and the factory before its matchers.
QnBytes qn_grammar_factory_new(const QnTokenizer* tokenizer, const uint32_t* end_ids, size_t num_end_ids,
                               size_t num_ids, QnGrammarFactory** out);

void qn_grammar_factory_free(QnGrammarFactory* factory);

QnBytes qn_matcher_new(const QnGrammarFactory* factory, uint32_t kind, const uint8_t* text, size_t num_bytes,
                       QnMatcher** out);

void qn_matcher_free(QnMatcher* matcher);

// Bit i (of word i / 32, lowest first) is set when token i may come next. num_words is num_ids / 32, rounded up.
QnBytes qn_matcher_mask(QnMatcher* matcher, uint32_t* mask, size_t num_words);

// Takes ids from the first on, up to the first that the grammar does not allow; out is how many were taken.
QnBytes qn_matcher_accept(QnMatcher* matcher, const uint32_t* ids, size_t num_ids, size_t* out);

// Takes the last num_tokens accepted tokens back.
QnBytes qn_matcher_rollback(QnMatcher* matcher, size_t num_tokens);

// Whether the text may end here.
QnBytes qn_matcher_is_accepting(QnMatcher* matcher, bool* out);

// Whether the text must end here, or has.
bool qn_matcher_is_stopped(const QnMatcher* matcher);

#ifdef __cplusplus
}
#endif
