# The trainer: a room on libtorch, and a program of its own. Without libtorch the rest builds as ever.
option(QNEXT_TRAIN "build the trainer, where libtorch is found" ON)
if(NOT QNEXT_TRAIN OR QNEXT_SANITIZE OR QNEXT_FUZZ)
  return()
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)  # 14 cannot compile libtorch 1.13's headers with libstdc++ 12 in C++20
  message(STATUS "No trainer: it is built with gcc")
  return()
endif()
# Not by find_package(Torch): CPUs are all that is asked of it, and the files of a libtorch made for CUDA end the build
# where that toolkit is not installed.
find_path(TORCH_INCLUDE_DIR torch/csrc/autograd/custom_function.h)
find_library(TORCH_CPU_LIBRARY torch_cpu)
find_library(TORCH_C10_LIBRARY c10)
if(NOT TORCH_INCLUDE_DIR OR NOT TORCH_CPU_LIBRARY OR NOT TORCH_C10_LIBRARY)
  message(STATUS "No trainer: libtorch not found (scripts/setup.sh installs Debian's)")
  return()
endif()
add_library(torch INTERFACE)
target_include_directories(torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIR} ${TORCH_INCLUDE_DIR}/torch/csrc/api/include)
target_link_libraries(torch INTERFACE ${TORCH_CPU_LIBRARY} ${TORCH_C10_LIBRARY})
# Its headers may bring an fmt that is another than the library's; Gloo's process group is declared on demand.
target_compile_definitions(torch INTERFACE FMT_HEADER_ONLY USE_C10D_GLOO)

qnext_room(train LINKS model text torch PkgConfig::XXHASH nlohmann_json::nlohmann_json)
# Loops say where sums may be reordered (omp simd); products and sums fuse: training promises the same bits for any
# number of threads, not for any instruction set.
foreach(source adamw attention compute conv delta_rule experts head_loss loops norm router)
  set_source_files_properties(src/train/${source}.cc PROPERTIES COMPILE_OPTIONS
                              "-O3;-fopenmp-simd;-ffp-contract=fast;-fno-trapping-math")
endforeach()

find_package(Boost 1.81 REQUIRED COMPONENTS iostreams)  # gzip and zstd
qnext_program(qnext-train train_apps LINKS train corpus apps Boost::iostreams)
