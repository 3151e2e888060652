# The trainer: a room on libtorch, and a program of its own. Without libtorch the rest builds as ever.
option(QNEXT_TRAIN "build the trainer, where libtorch is found" ON)
if(NOT QNEXT_TRAIN OR QNEXT_SANITIZE OR QNEXT_FUZZ)
  return()
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)  # 14 cannot compile libtorch 1.13's headers with libstdc++ 12 in C++20
  message(STATUS "No trainer: it is built with gcc")
  return()
endif()
find_package(Torch QUIET)
if(NOT Torch_FOUND)
  message(STATUS "No trainer: libtorch not found (scripts/setup.sh installs Debian's)")
  return()
endif()

qnext_room(train LINKS model text torch PkgConfig::XXHASH nlohmann_json::nlohmann_json)
# Loops say where sums may be reordered (omp simd); products and sums fuse: training promises the same bits for any
# number of threads, not for any instruction set.
foreach(source adamw attention compute conv delta_rule experts head_loss loops norm router)
  set_source_files_properties(src/train/${source}.cc PROPERTIES COMPILE_OPTIONS
                              "-O3;-fopenmp-simd;-ffp-contract=fast;-fno-trapping-math")
endforeach()

find_package(Boost 1.81 REQUIRED COMPONENTS iostreams)  # gzip and zstd
qnext_program(qnext-train train_apps LINKS train corpus apps Boost::iostreams)
