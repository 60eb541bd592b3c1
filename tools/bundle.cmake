# Makes the bundle: one tar with the program, those of its modules that were built, and every
# library that they need beyond the C and C++ run time, CUDA's and MPI's, all found relative to
# themselves.
#   cmake -DBUILD=… -DSOURCE=… -DNAME=… -DSTRIP=… -P bundle.cmake
find_program(PATCHELF patchelf)
if(NOT PATCHELF)
  message(FATAL_ERROR "the bundle needs patchelf: apt-get install patchelf")
endif()

set(root ${BUILD}/bundle/${NAME})
set(program ${root}/bin/engine)
file(REMOVE_RECURSE ${BUILD}/bundle)
file(MAKE_DIRECTORY ${root}/bin ${root}/lib ${root}/share/engine/licences)
file(COPY_FILE ${BUILD}/bin/engine ${program})
foreach(module libengine_cuda.so libengine_mpi.so libengine_download.so)
  if(EXISTS ${BUILD}/lib/${module})
    file(COPY_FILE ${BUILD}/lib/${module} ${root}/lib/${module})
    list(APPEND modules ${root}/lib/${module})
  endif()
endforeach()
file(COPY ${BUILD}/share DESTINATION ${root})
file(COPY ${SOURCE}/LICENSE ${SOURCE}/README.md DESTINATION ${root})

# glibc and the compiler's run time are the host's (Ubuntu 24.04's are newer), and so are CUDA's
# libraries and driver, and MPI, which belongs to its mpirun.
if(modules)
  set(modules MODULES ${modules})
endif()
file(GET_RUNTIME_DEPENDENCIES
  EXECUTABLES ${program} ${modules}
  PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|stdc\\+\\+|gcc_s)\\.so"
    "^lib(cuda|cudart|cudnn|cublas|nccl|nv|mpi)"
  RESOLVED_DEPENDENCIES_VAR libraries)

set(binaries ${program} ${modules})
list(REMOVE_ITEM binaries MODULES)
foreach(library ${libraries})
  get_filename_component(name ${library} NAME)
  file(REAL_PATH ${library} file)
  file(COPY_FILE ${file} ${root}/lib/${name})
  list(APPEND binaries ${root}/lib/${name})
  # Its licence goes with it.
  get_filename_component(file_name ${file} NAME)
  execute_process(COMMAND dpkg -S */${file_name} OUTPUT_VARIABLE owner ERROR_QUIET)
  string(REGEX MATCH "^[^:]+" package "${owner}")
  if(package AND EXISTS /usr/share/doc/${package}/copyright)
    file(COPY_FILE /usr/share/doc/${package}/copyright ${root}/share/engine/licences/${package})
  endif()
endforeach()

foreach(binary ${binaries})
  file(CHMOD ${binary} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
    GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
  set(runpath $ORIGIN)
  if(binary STREQUAL program)
    set(runpath $ORIGIN/../lib)
  endif()
  execute_process(COMMAND ${STRIP} --strip-unneeded ${binary} COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${PATCHELF} --set-rpath ${runpath} ${binary} COMMAND_ERROR_IS_FATAL ANY)
endforeach()

execute_process(COMMAND ${CMAKE_COMMAND} -E tar czf ${BUILD}/${NAME}.tar.gz ${NAME}
  WORKING_DIRECTORY ${BUILD}/bundle COMMAND_ERROR_IS_FATAL ANY)
file(SIZE ${BUILD}/${NAME}.tar.gz bytes)
math(EXPR mebibytes "${bytes} >> 20")
message("${BUILD}/${NAME}.tar.gz: ${mebibytes} MiB")
