// The 80B's real shapes: a sparse file of 46 GB, so that every offset, stride and page index that only full size
// reaches is reached. Weights are zeros but for a few that let a known value through.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/test_support.h"
#include "tensor/gguf_writer.h"

namespace qnext::test {
namespace {

constexpr std::size_t kLayers = 48;
constexpr std::size_t D = 2048, V = 151936, E = 512, F = 512;
constexpr std::size_t kLastPosition = 262'143;

void add_full_size_tensors(GgufHeader& header) {
  const auto matrix = [&](const std::string& name, std::vector<std::size_t> shape, DType type = DType::kQ4_K) {
    header.add_tensor({.name = name + ".weight", .type = type, .shape = std::move(shape)});
  };
  const auto vector = [&](const std::string& name, std::vector<std::size_t> shape) {
    header.add_tensor({.name = name, .type = DType::kF32, .shape = std::move(shape)});
  };
  matrix("token_embd", {V, D}, DType::kBF16);
  for (std::size_t layer_idx = 0; layer_idx < kLayers; ++layer_idx) {
    const std::string b = fmt::format("blk.{}.", layer_idx);
    vector(b + "attn_norm.weight", {D});
    vector(b + "post_attention_norm.weight", {D});
    if (layer_idx % 4 == 3) {
      matrix(b + "attn_q", {8192, D});
      matrix(b + "attn_k", {512, D});
      matrix(b + "attn_v", {512, D});
      matrix(b + "attn_output", {D, 4096});
      vector(b + "attn_q_norm.weight", {256});
      vector(b + "attn_k_norm.weight", {256});
    } else {
      matrix(b + "attn_qkv", {8192, D});
      matrix(b + "attn_gate", {4096, D});
      matrix(b + "ssm_ba", {64, D});
      matrix(b + "ssm_out", {D, 4096});
      vector(b + "ssm_conv1d.weight", {8192, 4});
      vector(b + "ssm_a", {32});
      vector(b + "ssm_dt.bias", {32});
      vector(b + "ssm_norm.weight", {128});
    }
    matrix(b + "ffn_gate_inp", {E, D});
    for (const char* name : {"ffn_gate_exps", "ffn_up_exps"}) matrix(b + name, {E, F, D});
    matrix(b + "ffn_down_exps", {E, D, F});
    for (const char* name : {"ffn_gate_shexp", "ffn_up_shexp"}) matrix(b + name, {F, D});
    matrix(b + "ffn_down_shexp", {D, F});
    matrix(b + "ffn_gate_inp_shexp", {1, D});
  }
  vector("output_norm.weight", {D});
  matrix("output", {V, D}, DType::kBF16);
}

GgufHeader full_size_header() {
  GgufHeader header;
  header.add_string("general.architecture", "qwen3next");
  const std::pair<const char*, std::uint32_t> counts[] = {{"block_count", kLayers},
                                                          {"context_length", 262144},
                                                          {"embedding_length", D},
                                                          {"attention.head_count", 16},
                                                          {"attention.head_count_kv", 2},
                                                          {"attention.key_length", 256},
                                                          {"attention.value_length", 256},
                                                          {"expert_count", E},
                                                          {"expert_used_count", 10},
                                                          {"expert_feed_forward_length", F},
                                                          {"expert_shared_feed_forward_length", F},
                                                          {"ssm.conv_kernel", 4},
                                                          {"ssm.state_size", 128},
                                                          {"ssm.group_count", 16},
                                                          {"ssm.time_step_rank", 32},
                                                          {"ssm.inner_size", 4096},
                                                          {"full_attention_interval", 4},
                                                          {"rope.dimension_count", 64}};
  for (const auto& [key, value] : counts) header.add_u32(std::string("qwen3next.") + key, value);
  header.add_f32("qwen3next.rope.freq_base", 1e7f);
  add_full_size_tensors(header);
  return header;
}

// The header, then a hole as large as the data, with `pieces` written into it: (tensor name, element, bytes).
struct Piece {
  std::string tensor;
  std::size_t byte_offset;
  std::vector<std::byte> bytes;
};

template <class T>
std::vector<std::byte> bytes_of(std::vector<T> values) {
  const auto* begin = reinterpret_cast<const std::byte*>(values.data());
  return {begin, begin + values.size() * sizeof(T)};
}

bool write_sparse(const std::filesystem::path& path, const GgufHeader& header, const std::vector<Piece>& pieces) {
  const auto encoded = header.encode();
  if (!encoded.ok()) return false;
  const int fd = ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  bool written =
      ::pwrite(fd, encoded->bytes.data(), encoded->bytes.size(), 0) == static_cast<ssize_t>(encoded->bytes.size()) &&
      ::ftruncate(fd, static_cast<off_t>(encoded->bytes.size() + encoded->data_bytes)) == 0;
  for (const Piece& piece : pieces) {
    std::size_t offset = encoded->bytes.size();
    for (const TensorSpec& spec : header.tensors()) {
      if (spec.name == piece.tensor) break;
      offset += round_up(*try_tensor_bytes(spec.type, spec.shape), encoded->alignment);
    }
    written = written &&
              ::pwrite(fd, piece.bytes.data(), piece.bytes.size(), static_cast<off_t>(offset + piece.byte_offset)) ==
                  static_cast<ssize_t>(piece.bytes.size());
  }
  ::close(fd);
  return written;
}

constexpr std::uint16_t kBf16One = 0x3f80;

TEST(FullSizeTest, LastTokenOfTheLastPageAndLayer) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("qnext-full-size-{}.gguf", getpid());
  // The last token's embedding is 1 at dim 2047; the last norm passes it; the last row of the head reads it.
  const std::vector<Piece> pieces = {
      {"token_embd.weight", (V * D - 1) * 2, bytes_of<std::uint16_t>({kBf16One})},
      {"output_norm.weight", (D - 1) * 4, bytes_of<float>({1.0f})},
      {"output.weight", (V * D - 1) * 2, bytes_of<std::uint16_t>({kBf16One})},
  };
  if (!write_sparse(path, full_size_header(), pieces)) {
    std::filesystem::remove(path);
    GTEST_SKIP() << "no sparse file of 46 GB in " << path.parent_path();
  }
  const auto model = Qwen3Next::load(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(model.ok()) << model.message();
  const ModelConfig& cfg = (*model)->config();
  EXPECT_EQ(cfg.kv_bytes_per_token(DType::kBF16), 24u * 1024);
  EXPECT_EQ(cfg.state_bytes(), (36u * 32 * 128 * 128 + 36u * 3 * 8192) * 4);

  // 4,096 pages of 64 tokens would be 12 GiB; the sequence's early pages are all page 0, its last is the store's last.
  Caches caches{KvStore::shape_for(cfg, DType::kF32, 64), StateStore::shape_for(cfg)};
  const std::size_t num_pages = (kLastPosition + 1) / 64;
  const std::size_t kv_bytes = num_pages * caches.kv.page_bytes();
  EXPECT_EQ(kv_bytes, std::size_t{12} << 30);
  void* kv = ::mmap(nullptr, kv_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(kv, MAP_FAILED);
  caches.kv.data = static_cast<std::byte*>(kv);
  std::vector<float> state(caches.state.slot_floats());
  caches.state.data = state.data();
  std::vector<PageId> pages(num_pages, PageId{0});
  pages.back() = PageId{static_cast<std::uint32_t>(num_pages - 1)};

  const KernelTable& best = available_tables().back();
  Runner runner(**model, best);
  const TokenId token = static_cast<TokenId>(V - 1);
  const SequenceSpan span{.rows = {0, 1},
                          .first_position = kLastPosition,
                          .kv_pages = pages,
                          .state_slot = StateSlotId{0},
                          .window_slots = {},
                          .checkpoint = {}};
  const View<float> hidden =
      (*model)->forward(runner.ops(), runner.arena(), {.token_ids = {&token, 1}, .spans = {&span, 1}}, caches);
  const View<float> logits = (*model)->logits(runner.ops(), runner.arena(), hidden);
  // x = e_2047, norm: 1 / sqrt(1/2048 + eps).
  const double expected = 1 / std::sqrt(1.0 / static_cast<double>(D) + 1e-6);
  EXPECT_NEAR(logits(0, V - 1), expected, 1e-5 * expected);
  for (std::size_t v : {std::size_t{0}, V / 2, V - 2}) EXPECT_EQ(logits(0, v), 0.0f);
  ::munmap(kv, kv_bytes);
}

}  // namespace
}  // namespace qnext::test
