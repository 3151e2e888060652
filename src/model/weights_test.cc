// Checkpoints of Hugging Face's layout that lie: each error names the file and the tensor, what was expected and found.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "model/small_checkpoint.h"

namespace qnext::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string message_of(const fs::path& path) {
  const auto weights = load_weights(path.string());
  EXPECT_FALSE(weights.ok()) << path;
  return weights.ok() ? "" : weights.message();
}

class WeightsTest : public ::testing::Test {
 protected:
  void use(const std::string& json, bool has_mtp = false) {
    json_ = json;
    config_ = parsed_config(json, has_mtp);
    tensors_ = random_tensors(config_);
  }
  void SetUp() override { use(kTinyNext, /*has_mtp=*/true); }

  void write() {
    folder_.write("config.json", json_);
    write_safetensors(folder_.path() / "model.safetensors", tensors_);
  }
  std::string message() {
    write();
    return message_of(folder_.path());
  }
  ModelWeights loaded() {
    write();
    auto weights = load_weights(folder_.path().string());
    QN_CHECK(weights.ok(), "{}", weights.message());
    return std::move(*weights);
  }
  // A matrix in FP8, with scales of this shape beside it.
  void to_fp8(const std::string& name, const std::vector<std::size_t>& scales_shape) {
    const auto num_elements = [](const std::vector<std::size_t>& shape) {
      return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
    };
    TestTensor& tensor = tensors_.at(name);
    tensor = {DType::kF8E4M3, tensor.shape, std::string(num_elements(tensor.shape), '\x38')};  // ones
    tensors_[name + "_scale_inv"] = f32_tensor(scales_shape, std::vector<float>(num_elements(scales_shape), 0.5f));
  }

  TempFolder folder_;
  std::string json_;
  ModelConfig config_;
  Tensors tensors_;
};

TEST_F(WeightsTest, LoadsEveryPart) {
  const ModelWeights weights = loaded();
  EXPECT_TRUE(weights.config.has_mtp && weights.mtp.has_value());
  EXPECT_EQ(weights.layers.size(), 3u);
  EXPECT_EQ(std::get<MoeWeights>(weights.layers[0].ffn).gate.size(), 4u);
  // Norms are effective, decays are -exp(A_log), taps lie oldest first, whatever the file had.
  const float* norm = tensors_.at("model.norm.weight").floats();
  const float* a_log = tensors_.at("model.layers.0.linear_attn.A_log").floats();
  const float* conv = tensors_.at("model.layers.0.linear_attn.conv1d.weight").floats();
  const auto& delta_net = std::get<DeltaNetWeights>(weights.layers[0].mixer);
  EXPECT_EQ(weights.final_norm[5], norm[5] + 1);
  EXPECT_EQ(delta_net.neg_exp_a[3], -std::exp(a_log[3]));
  EXPECT_EQ(delta_net.conv[2 * config_.C() + 7], conv[7 * 4 + 2]);
  EXPECT_EQ(delta_net.norm[1], tensors_.at("model.layers.0.linear_attn.norm.weight").floats()[1]);  // plain
  std::size_t matrix_bytes = 0;
  for (const auto& [name, tensor] : tensors_) {
    if (tensor.shape.size() == 2) matrix_bytes += tensor.bytes.size();
  }
  EXPECT_EQ(weights.parameter_bytes, matrix_bytes);
}

TEST_F(WeightsTest, EveryTensorMustBeThereInItsShapeAndType) {
  const Tensors whole = tensors_;
  const std::string file = (folder_.path() / "model.safetensors").string();
  for (const auto& [name, tensor] : whole) {
    const auto expect = [&, &name = name](const std::string& found) {
      EXPECT_THAT(message(), AllOf(HasSubstr(file + ": tensor " + name + ": "), HasSubstr("expected "),
                                   HasSubstr("found " + found)));
      tensors_ = whole;
    };
    const bool tells_mtp = name == "mtp.fc.weight";  // without it the others of the block belong to nothing
    tensors_.erase(name);
    if (tells_mtp) {
      EXPECT_THAT(message(), HasSubstr("tensor mtp.layers.0.input_layernorm.weight: expected no such tensor"));
      tensors_ = whole;
    } else {
      expect("none");
    }
    tensors_.at(name).type = DType::kI32;
    expect("i32");
    if (tensor.shape.size() < 2 || tensor.shape[0] == tensor.shape[1]) continue;
    std::vector<std::size_t> shape = tensor.shape;
    if (shape[0] == 1) {
      shape[1] /= 2;
      tensors_.at(name).bytes.resize(tensor.bytes.size() / 2);
    } else {
      std::reverse(shape.begin(), shape.end());  // transposed
    }
    tensors_.at(name).shape = shape;
    expect(shape_text(shape));
  }
}

TEST_F(WeightsTest, ExtraTensorsAreRefused) {
  for (const char* name : {"model.layers.3.input_layernorm.weight", "model.layers.1.self_attn.q_proj.bias",
                           "model.layers.0.mlp.experts.4.up_proj.weight", "mtp.layers.1.input_layernorm.weight",
                           "model.layers.0.mlp.gate.weight_scale_inv", "visual.patch_embed.weight"}) {
    tensors_[name] = f32_tensor({3, 2}, std::vector<float>(6));
    EXPECT_THAT(message(), AllOf(HasSubstr(fmt::format("tensor {}: expected no such tensor by the config", name)),
                                 HasSubstr("found shape [3, 2]")));
    tensors_.erase(name);
  }
  // But a tied head may be there a second time.
  use(with_fields(kTinyNext, R"("tie_word_embeddings": true)"));
  tensors_["lm_head.weight"] = tensors_.at("model.embed_tokens.weight");
  const ModelWeights tied = loaded();
  EXPECT_EQ(tied.head.data, tied.embedding.data);
}

TEST_F(WeightsTest, ConfigsOfOtherCheckpointsAreRefused) {
  const auto expect = [&](const std::string& json, const std::string& text) {
    json_ = json;
    EXPECT_THAT(message(), HasSubstr(text)) << json;
  };
  const auto replaced = [](std::string json, const std::string& from, const std::string& to) {
    QN_CHECK(json.find(from) != std::string::npos, "no {}", from);
    return json.replace(json.find(from), from.size(), to);
  };
  expect(kTinyMoe, "model.layers.0.self_attn.q_proj.weight: expected it with shape [64, 32], found none");
  expect(kTinyDense, "model.layers.0.self_attn.q_proj.weight: expected it with shape [64, 32], found none");
  expect(replaced(kTinyNext, "\"vocab_size\": 33", "\"vocab_size\": 34"),
         "tensor model.embed_tokens.weight: expected shape [34, 32] by the config, found [33, 32]");
  expect(replaced(kTinyNext, "\"num_experts\": 4", "\"num_experts\": 5"),
         "mlp.gate.weight: expected shape [5, 32] by the config, found [4, 32]");
  expect(replaced(kTinyNext, "\"num_experts\": 4", "\"num_experts\": 1048576"), "expected shape [1048576, 32]");
  expect(replaced(kTinyNext, "\"head_dim\": 16", "\"head_dim\": 32"), "found [128, 32]");
  expect(replaced(kTinyNext, "\"full_attention\", ", ""), "layer_types: expected a list of 3 names");
  expect(replaced(kTinyNext, "\"linear_attention\", \"full_attention\"", "\"full_attention\", \"full_attention\""),
         "model.layers.0.self_attn.q_proj.weight: expected it with shape [128, 32], found none");
  expect(with_fields(kTinyNext, R"("mlp_only_layers": [1])"), "model.layers.1.mlp.gate_proj.weight: expected it with");
  const std::string fewer = replaced(replaced(kTinyNext, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"),
                                     ", \"linear_attention\"]", "]");
  expect(fewer, "tensor model.layers.2.input_layernorm.weight: expected no such tensor");
  expect("", "config.json");
  expect("[]", "config.json: expected a JSON object, found []");
}

TEST_F(WeightsTest, TooFewExpertsAreRefused) {
  tensors_.erase("model.layers.2.mlp.experts.3.down_proj.weight");
  EXPECT_THAT(message(), HasSubstr("model.layers.2.mlp.experts.3.down_proj.weight: expected it with shape [32, 32]"));
}

TEST_F(WeightsTest, NumbersThatAreNoneAreRefused) {
  const Tensors whole = tensors_;
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    for (const char* name : {"model.norm.weight", "model.layers.1.self_attn.k_norm.weight", "mtp.norm.weight",
                             "model.layers.0.linear_attn.A_log", "model.layers.2.linear_attn.conv1d.weight"}) {
      tensors_.at(name).floats()[2] = value;
      EXPECT_THAT(message(), HasSubstr(fmt::format("tensor {}: expected finite numbers, found {}", name, value)));
      tensors_ = whole;
    }
  }
  tensors_.at("model.layers.0.linear_attn.A_log").floats()[1] = 89;  // exp(89) is beyond f32
  EXPECT_THAT(message(), HasSubstr("linear_attn.A_log: expected a logarithm of at most 88, found 89"));
}

TEST_F(WeightsTest, Fp8NeedsItsScales) {
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  to_fp8(name, {1, 1});
  EXPECT_NE(std::get<AttentionWeights>(loaded().layers[1].mixer).q.block_scales, nullptr);
  for (const std::vector<std::size_t>& shape : {std::vector<std::size_t>{128, 1}, {2, 1}, {1, 32}, {128, 32}, {2, 2}}) {
    to_fp8(name, shape);
    EXPECT_THAT(message(), HasSubstr(fmt::format("tensor {}_scale_inv: expected shape [1, 1] by the config, found {}",
                                                 name, shape_text(shape))));
  }
  for (const float value : {NAN, INFINITY}) {
    to_fp8(name, {1, 1});
    tensors_.at(name + "_scale_inv").floats()[0] = value;
    EXPECT_THAT(message(), HasSubstr(fmt::format("{}_scale_inv: expected finite numbers, found {}", name, value)));
  }
  tensors_.erase(name + "_scale_inv");
  EXPECT_THAT(message(),
              HasSubstr(fmt::format("tensor {}_scale_inv: expected it with shape [1, 1], found none", name)));
}

TEST_F(WeightsTest, PathsThatAreNoCheckpoint) {
  const fs::path folder = folder_.path();
  const auto expect = [](const fs::path& path, const std::string& text) {
    EXPECT_THAT(message_of(path), AllOf(HasSubstr(path.string()), HasSubstr(text))) << path;
  };
  expect(folder / "absent", "no such file or directory");
  expect(folder / "absent.gguf", "no such file or directory");
  expect(std::string(), "no such file or directory");
  expect(std::string("a\nb"), "no such file or directory");
  expect(folder, "config.json");  // an empty folder
  folder_.write("config.json", json_);
  expect(folder, "expected model.safetensors.index.json or model.safetensors in this folder, found neither");
  expect("/dev/null", "expected a folder with config.json and safetensors");
  for (const char* name : {"empty.safetensors", "empty.gguf"}) expect(folder_.write(name, ""), "empty");
  for (const char* name : {"pipe.gguf", "pipe.safetensors"}) {
    ASSERT_EQ(::mkfifo((folder / name).c_str(), 0600), 0);
    expect(folder / name, "regular file");
  }
  for (const char* name : {"loop.gguf", "loop.safetensors"}) {
    fs::create_symlink(name, folder / name);
    EXPECT_THAT(message_of(folder / name), HasSubstr(name));
  }
  fs::create_symlink("/dev/zero", folder / "zero.gguf");
  expect(folder / "zero.gguf", "regular file");
  fs::create_directory(folder / "folder.gguf");
  EXPECT_THAT(message_of(folder / "folder.gguf"), HasSubstr("folder.gguf/config.json"));
  folder_.write("text.gguf", "not a model");
  expect(folder / "text.gguf", "expected");
  folder_.write("model.safetensors.index.json", R"({"weight_map": {}})");
  EXPECT_THAT(message_of(folder), HasSubstr("weight_map: expected tensors, found none"));
}

TEST_F(WeightsTest, OneFileBesideItsConfig) {
  write();
  EXPECT_TRUE(load_weights((folder_.path() / "model.safetensors").string()).ok());
  fs::rename(folder_.path() / "model.safetensors", folder_.path() / "other.safetensors");
  EXPECT_TRUE(load_weights((folder_.path() / "other.safetensors").string()).ok());
  fs::remove(folder_.path() / "config.json");
  EXPECT_THAT(message_of(folder_.path() / "other.safetensors"), HasSubstr("config.json"));
}

}  // namespace
}  // namespace qnext::test
