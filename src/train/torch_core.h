#pragma once
// The part of libtorch that the trainer uses: tensors and autograd. torch/torch.h takes three times as long to compile.

#include <torch/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>
