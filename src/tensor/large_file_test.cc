// Files larger than any 32-bit count: sparse, so that they cost no disk.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>

#include "tensor/gguf.h"
#include "tensor/gguf_test_file.h"
#include "tensor/gguf_writer.h"
#include "tensor/safetensors.h"

namespace qnext {
namespace {

constexpr std::uint64_t kWeightBytes = std::uint64_t{120} << 30;
constexpr std::uint64_t kLastBytes = 4;

class LargeFile : public ::testing::Test {
 protected:
  // `header`, a hole of kWeightBytes, and four letters; false when the filesystem has no such files.
  bool write_sparse(const std::string& header) {
    folder_.write("large", header);
    const int fd = ::open(path().c_str(), O_WRONLY | O_CLOEXEC);
    const auto end = static_cast<off_t>(header.size() + kWeightBytes);
    const bool written = ::ftruncate(fd, end) == 0 && ::pwrite(fd, "last", kLastBytes, end) == 4;
    ::close(fd);
    return written;
  }
  std::filesystem::path path() const { return folder_.path() / "large"; }

  static void expect_in_place(const std::vector<TensorEntry>& tensors) {
    ASSERT_EQ(tensors.size(), 2U);
    EXPECT_EQ(tensors[0].bytes, kWeightBytes);
    EXPECT_EQ(tensors[0].shape.front() * tensors[0].shape.back(), kWeightBytes / 2);
    EXPECT_EQ(tensors[0].data[kWeightBytes - 1], std::byte{0});
    EXPECT_EQ(tensors[1].data, tensors[0].data + kWeightBytes);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensors[1].data), kLastBytes), "last");
  }

  test::TempFolder folder_;
};

TEST_F(LargeFile, Safetensors) {
  const std::string json = fmt::format(
      R"({{"w":{{"dtype":"BF16","shape":[8,{}],"data_offsets":[0,{}]}},"x":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}}})",
      kWeightBytes / 16, kWeightBytes, kWeightBytes, kWeightBytes + kLastBytes);
  if (!write_sparse(test::u64(json.size()) + json)) GTEST_SKIP() << "no sparse files here";
  const auto checkpoint = Safetensors::open(path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.message();
  expect_in_place(checkpoint->tensors());
}

TEST_F(LargeFile, Gguf) {
  test::GgufTestFile file;
  file.tensor("w", {kWeightBytes / 16, 8}, 30, 0).tensor("x", {1}, 0, kWeightBytes);
  if (!write_sparse(file.bytes())) GTEST_SKIP() << "no sparse files here";
  const auto gguf = Gguf::open(path());
  ASSERT_TRUE(gguf.ok()) << gguf.message();
  expect_in_place(gguf->tensors());
}

TEST_F(LargeFile, GgufOffsetsThatAreWritten) {
  GgufHeader header;
  header.add_tensor({.name = "w", .type = DType::kBF16, .shape = {8, kWeightBytes / 16}});
  header.add_tensor({.name = "x", .type = DType::kF32, .shape = {1}});
  const auto encoded = header.encode();
  ASSERT_TRUE(encoded.ok()) << encoded.message();
  EXPECT_EQ(encoded->data_bytes, kWeightBytes + 32);
  const std::string bytes(reinterpret_cast<const char*>(encoded->bytes.data()), encoded->bytes.size());
  if (!write_sparse(bytes)) GTEST_SKIP() << "no sparse files here";
  const auto gguf = Gguf::open(path());
  ASSERT_TRUE(gguf.ok()) << gguf.message();
  expect_in_place(gguf->tensors());
}

}  // namespace
}  // namespace qnext
