#pragma once
// Memory of tensors, kept by size when they are freed: a step wants what the one before had, and memory that is mapped
// anew costs a page fault for every 4 KiB, a tenth of a step.

namespace qnext::train {

// Of every CPU tensor from now on, until the process ends. Blocks stay with the thread that freed them.
void keep_tensor_memory();

}  // namespace qnext::train
