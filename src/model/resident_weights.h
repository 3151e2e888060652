#pragma once
// Weights that do not depend on the file that they came from, or on what else wants the machine's memory.

#include "base/result.h"
#include "kernels/ops.h"
#include "model/weights.h"

namespace qnext {

// Copies the matrices that are read where they lie in a mapped file (the embedding, and types that the table does not
// pack) into memory of our own. Once packed weights are there too (PackOptions without a cache), no step touches a
// file.
//
// Memory  as much as these matrices have in the file.
// Errors  too little memory; nothing was changed then.
Status copy_mapped_weights(ModelWeights& weights);

// Locks all that steps read of the weights, packed or not, in memory (mlock): it is read in now, and never swapped out.
//
// Errors  more than the system lets this process lock; the text has both sizes.
Status lock_weights(ModelWeights& weights, const Ops& ops);

}  // namespace qnext
