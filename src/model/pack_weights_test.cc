#include "model/pack_weights.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "model/export_test_support.h"
#include "model/resident_weights.h"
#include "model/test_support.h"
#include "tensor/file_test_util.h"

namespace qnext::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

namespace fs = std::filesystem;

class PackWeights : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const KernelTable& table : available_tables()) {
      if (table.packed != nullptr) table_ = &table;
    }
    if (table_ == nullptr) GTEST_SKIP() << "no table of this CPU packs weights";
    options_.cache_folder = cache_;
    options_.smallest_cache_bytes = 1;
    options_.note = [this](const std::string& line) { notes_.push_back(line); };
    fs::copy_file(data_path("golden/next-gguf/next-Q4_K_M.gguf"), model_path_);
    ops_.emplace(*table_, pool_);
  }

  // The weights packed, and the logits of a model that has them.
  Result<std::vector<float>> logits() {
    notes_.clear();
    QN_TRY(ModelWeights weights, load_weights(model_path_));
    QN_RETURN_IF_ERROR(pack_weights(weights, *ops_, options_));
    return logits_of(std::move(weights));
  }

  std::vector<float> logits_of(ModelWeights weights) const {
    const Qwen3Next model(std::move(weights));
    Runner runner(model, ops_->table());
    SequenceMemory memory(model.config(), 16);
    return runner.logits(memory, std::vector<TokenId>{5, 6, 7, 8, 9}, 5);
  }

  std::vector<fs::path> cache_files() const {
    std::vector<fs::path> out;
    if (!fs::exists(cache_)) return out;
    for (const auto& entry : fs::directory_iterator(cache_)) out.push_back(entry.path());
    return out;
  }

  const KernelTable* table_ = nullptr;
  ThreadPool pool_{2};
  std::optional<Ops> ops_;
  test::TempFolder folder_;
  std::string model_path_ = (folder_.path() / "m.gguf").string();
  fs::path cache_ = folder_.path() / "a" / "cache";
  PackOptions options_;
  std::vector<std::string> notes_;
};

TEST_F(PackWeights, CacheAndMemoryHoldTheSame) {
  const auto built = logits();
  ASSERT_TRUE(built.ok()) << built.message();
  EXPECT_THAT(notes_, ElementsAre(HasSubstr("packing the weights for this CPU into ")));
  ASSERT_EQ(cache_files().size(), 1u);
  const auto written = fs::last_write_time(cache_files()[0]);
  EXPECT_EQ(*logits(), *built);
  EXPECT_THAT(notes_, IsEmpty());
  EXPECT_EQ(fs::last_write_time(cache_files()[0]), written) << "made once";
  options_.cache_folder.clear();
  EXPECT_EQ(*logits(), *built);
  options_.cache_folder = cache_;
  options_.smallest_cache_bytes = std::uint64_t{1} << 40;
  fs::remove_all(cache_);
  EXPECT_EQ(*logits(), *built);
  EXPECT_FALSE(fs::exists(cache_)) << "too little to keep";
}

// Two nodes that are the same one: all of the road, but for another node's memory.
TEST_F(PackWeights, NodesChangeNothing) {
  const auto expected = logits();
  ASSERT_TRUE(expected.ok()) << expected.message();
  std::thread([&] {  // which the pool binds
    NumaNode node = numa_nodes().empty() ? NumaNode{.id = 0, .cpus = {0}} : numa_nodes()[0];
    ThreadPool pool(3, {node, node});
    ops_.emplace(*table_, pool);
    for (const fs::path& cache : {cache_, fs::path()}) {
      options_.cache_folder = cache;
      const auto actual = logits();
      ASSERT_TRUE(actual.ok()) << actual.message();
      EXPECT_EQ(*actual, *expected);
    }
  })
      .join();
}

TEST_F(PackWeights, AChangedModelOrADamagedCacheIsPackedAgain) {
  const std::vector<float> first = *logits();
  ASSERT_EQ(cache_files().size(), 1u);
  const fs::path path = cache_files()[0];
  fs::last_write_time(model_path_, fs::last_write_time(model_path_) + std::chrono::seconds(2));
  EXPECT_EQ(*logits(), first);
  EXPECT_THAT(notes_, ElementsAre(HasSubstr("made from something else"), HasSubstr("packing")));
  for (const std::size_t keep : {fs::file_size(path) - 1, std::size_t{5000}, std::size_t{0}}) {
    fs::resize_file(path, keep);
    EXPECT_EQ(*logits(), first);
    EXPECT_EQ(notes_.size(), 2u) << keep;
  }
  fs::remove(path);
  fs::create_directory(path);  // cannot be replaced by a file
  EXPECT_EQ(*logits(), first);
  EXPECT_THAT(notes_.back(), HasSubstr("rename"));
  EXPECT_EQ(cache_files().size(), 1u) << "no temporary file is left";
}

TEST_F(PackWeights, WithoutAPlaceForTheCacheItPacksInMemory) {
  const std::vector<float> expected = *logits();
  options_.cache_folder = "/proc/nowhere";
  EXPECT_EQ(*logits(), expected);
  EXPECT_THAT(notes_, ElementsAre(HasSubstr("/proc/nowhere: cannot create the folder")));
  folder_.write("file", "x");
  options_.cache_folder = folder_.path() / "file";
  EXPECT_EQ(*logits(), expected);
  EXPECT_EQ(notes_.size(), 1u);
}

TEST_F(PackWeights, StopsWhenToldAndLeavesNothing) {
  options_.progress = [](std::uint64_t, std::uint64_t) { return false; };
  const auto stopped = logits();
  ASSERT_FALSE(stopped.ok());
  EXPECT_THAT(stopped.message(), HasSubstr("stopped"));
  EXPECT_THAT(cache_files(), IsEmpty());
}

TEST_F(PackWeights, ClearsAwayWhatKilledWritersLeft) {
  ASSERT_TRUE(logits().ok());
  const fs::path path = cache_files()[0];
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);  // a process number that nobody has now
  const std::string stale = path.string() + ".tmp-" + std::to_string(child);
  const std::string alive = path.string() + ".tmp-" + std::to_string(::getppid());
  for (const std::string& name : {stale, alive, path.string() + ".tmp-x"}) std::ofstream(name) << "part";
  const int writer = ::open(alive.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(writer, LOCK_EX | LOCK_NB), 0);  // as AtomicFile holds it while it writes
  fs::remove(path);
  ASSERT_TRUE(logits().ok());
  EXPECT_FALSE(fs::exists(stale));
  EXPECT_TRUE(fs::exists(alive));
  EXPECT_TRUE(fs::exists(path.string() + ".tmp-x"));
  ::close(writer);
}

TEST_F(PackWeights, ManyProcessesAtOnceAgree) {
  const std::vector<float> expected = *logits();
  fs::remove_all(cache_);
  std::vector<pid_t> children;
  for (int i = 0; i < 6; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      // The parent's pool has no threads here; a table of one's own has.
      ThreadPool pool(1);
      const Ops ops(*table_, pool);
      bool same = true;
      for (int round = 0; round < 4 && same; ++round) {
        auto model = Qwen3Next::load(model_path_, ops, options_);
        same = model.ok();
        if (!same) break;
        Runner runner(**model, *table_, 1);
        SequenceMemory memory((*model)->config(), 16);
        same = runner.logits(memory, std::vector<TokenId>{5, 6, 7, 8, 9}, 5) == expected;
        std::error_code ignored;  // others fill the folder meanwhile
        if (round == 1) fs::remove_all(cache_, ignored);
      }
      ::_exit(same ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
}

// Every packed format in a whole model: what differs from ref is activations in 16 bits.
TEST_F(PackWeights, EveryFormatAgreesWithRef) {
  const auto source = open_source(model_path_);
  const std::vector<TokenId> tokens = {5, 6, 7, 8, 9, 10, 11};
  for (const DType type : {DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kQ8_0, DType::kQ4_0, DType::kIQ4_NL,
                           DType::kIQ4_XS, DType::kMXFP4}) {
    SCOPED_TRACE(dtype_info(type).name);
    const std::string path = (folder_.path() / fmt::format("{}.gguf", dtype_info(type).name)).string();
    ASSERT_TRUE(to_gguf(path, source, {type, {}}).ok());
    std::vector<std::vector<float>> logits;
    for (const KernelTable* table : {&available_tables()[0], table_}) {
      const auto model = load_for(*table, path);
      Runner runner(*model, *table);
      SequenceMemory memory(model->config(), 16);
      logits.push_back(runner.logits(memory, tokens, tokens.size()));
    }
    float largest = 0, error = 0;
    for (std::size_t i = 0; i < logits[0].size(); ++i) {
      largest = std::max(largest, std::abs(logits[0][i]));
      error = std::max(error, std::abs(logits[1][i] - logits[0][i]));
    }
    EXPECT_GT(error, 0) << "packed, and hence rounded";
    EXPECT_LE(error, 1e-3 * largest);
  }
}

TEST_F(PackWeights, SaysWhichTypesItDoesNotPack) {
  options_.cache_folder.clear();
  options_.smallest_slow_bytes = 1;
  ASSERT_TRUE(logits().ok());
  EXPECT_THAT(
      notes_,
      ElementsAre(HasSubstr(fmt::format("0.0 GiB of f32 have no packed form on {}", available_tables().back().name))));
}

TEST_F(PackWeights, WithoutMappedFilesAModelOutlivesItsOwn) {
  for (const KernelTable* table : {&available_tables()[0], table_}) {
    SCOPED_TRACE(table->name);
    fs::copy_file(data_path("golden/next-gguf/next-Q4_K_M.gguf"), model_path_, fs::copy_options::overwrite_existing);
    ops_.emplace(*table, pool_);
    options_.reads_mapped_files = true;
    const std::vector<float> expected = *logits();
    fs::remove_all(cache_);
    options_.reads_mapped_files = false;
    ModelWeights weights = std::move(load_weights(model_path_)).value();
    ASSERT_TRUE(pack_weights(weights, *ops_, options_).ok());
    EXPECT_THAT(cache_files(), IsEmpty());
    fs::resize_file(model_path_, 0);  // whoever reads a mapped page of it now is killed
    EXPECT_EQ(logits_of(std::move(weights)), expected);
  }
}

#ifndef QNEXT_SANITIZED  // whose mlock locks nothing
std::size_t locked_kib() {
  std::ifstream status("/proc/self/status");
  std::string word;
  std::size_t kib = 0;
  while (status >> word) {
    if (word == "VmLck:") status >> kib;
  }
  return kib;
}

TEST_F(PackWeights, LocksWhatStepsRead) {
  options_.locks_memory = true;
  ModelWeights weights = std::move(load_weights(model_path_)).value();
  const std::size_t before = locked_kib();
  const Status locked = pack_weights(weights, *ops_, options_);
  ASSERT_TRUE(locked.ok()) << locked.message();
  std::size_t num_bytes = weights.embedding.bytes();
  for (const Weight* w : multiplied_matrices(weights)) {
    num_bytes += w->packed == nullptr ? 0 : table_->packed->packed_bytes(*w);
  }
  EXPECT_GE((locked_kib() - before) * 1024, num_bytes);
}

TEST_F(PackWeights, SaysHowMuchMayBeLocked) {
  ModelWeights weights = std::move(load_weights(model_path_)).value();
  EXPECT_EXIT(
      {
        const rlimit none{};
        ::setrlimit(RLIMIT_MEMLOCK, &none);
        if (::geteuid() == 0) ::setuid(65534);  // root locks what it likes
        const Status locked = lock_weights(weights, *ops_);
        if (!locked.ok()) ::fputs(locked.message().c_str(), stderr);
        ::_exit(locked.ok() ? 1 : 0);
      },
      ::testing::ExitedWithCode(0), "cannot lock 0.0. GiB of weights in memory: .*this process may lock 0.00 GiB");
}
#endif

TEST_F(PackWeights, TablesThatPackNothingLeaveWeightsAlone) {
  const Ops ops(available_tables()[0], pool_);
  ModelWeights weights = std::move(load_weights(model_path_)).value();
  ASSERT_TRUE(pack_weights(weights, ops, options_).ok());
  EXPECT_EQ(weights.head.packed, nullptr);
  EXPECT_THAT(cache_files(), IsEmpty());
}

}  // namespace
}  // namespace qnext::test
