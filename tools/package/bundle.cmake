# Makes the bundle: one tar with the program, those of its modules that were built, and every
# library that they need beyond the C and C++ run time, CUDA's and MPI's, all found relative to
# themselves; with plots, completions, documents, licences, an SBOM and checksums.
#   cmake -DBUILD=… -DSOURCE=… -DNAME=… -DVERSION=… -DSTRIP=… -DCUDA=… -P bundle.cmake
foreach(tool patchelf python3)
  string(TOUPPER ${tool} name)
  find_program(${name} ${tool})
  if(NOT ${name})
    message(FATAL_ERROR "the bundle needs ${tool}: apt-get install ${tool}")
  endif()
endforeach()

set(root ${BUILD}/bundle/${NAME})
set(program ${root}/bin/engine)
set(licences ${root}/share/engine/licences)
set(here ${CMAKE_CURRENT_LIST_DIR})
file(REMOVE_RECURSE ${BUILD}/bundle)
file(MAKE_DIRECTORY ${root}/bin ${root}/lib ${licences})
file(COPY_FILE ${BUILD}/bin/engine ${program})
foreach(module libengine_cuda.so libengine_mpi.so libengine_download.so)
  if(EXISTS ${BUILD}/lib/${module})
    file(COPY_FILE ${BUILD}/lib/${module} ${root}/lib/${module})
    list(APPEND modules ${root}/lib/${module})
  endif()
endforeach()
file(COPY ${BUILD}/share DESTINATION ${root})
file(COPY ${SOURCE}/LICENSE ${SOURCE}/README.md ${here}/CHANGELOG.md ${here}/CITATION.cff
  DESTINATION ${root})

# ---- libraries
# glibc and the compiler's run time are the host's (Ubuntu 24.04's are newer), and so are CUDA's
# libraries and driver, and MPI, which belongs to its mpirun.
set(binaries ${program} ${modules})
if(modules)
  set(modules MODULES ${modules})
endif()
file(GET_RUNTIME_DEPENDENCIES
  EXECUTABLES ${program} ${modules}
  PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|mvec|util|anl|nsl)\\.so"
    "^lib(stdc\\+\\+|gcc_s)\\.so"
    "^lib(cuda|cudart|cudnn|cublas|nccl|nv|mpi)"
  RESOLVED_DEPENDENCIES_VAR libraries)
foreach(library ${libraries})
  file(REAL_PATH ${library} file)
  # Where /lib is a link to /usr/lib, a package may own it by either path.
  string(REGEX REPLACE "^/usr/" "/" other ${file})
  list(APPEND files ${file} ${other})
endforeach()
execute_process(COMMAND dpkg-query -S ${files} OUTPUT_VARIABLE owners ERROR_QUIET)
foreach(library ${libraries})
  get_filename_component(name ${library} NAME)
  file(REAL_PATH ${library} file)
  file(COPY_FILE ${file} ${root}/lib/${name})
  list(APPEND binaries ${root}/lib/${name})
  string(REGEX REPLACE "^/usr/" "/" other ${file})
  string(REGEX REPLACE "([.+])" "\\\\\\1" paths "(${file}|${other})")
  # The package that owns it, whose licence goes with it.
  if(owners MATCHES "(^|\n)([^:\n]+)(:[^\n]*)?: ${paths}\n")
    set(owner ${CMAKE_MATCH_2})
    list(APPEND sbom --library lib/${name} ${owner})
    if(EXISTS /usr/share/doc/${owner}/copyright)
      file(COPY_FILE /usr/share/doc/${owner}/copyright ${licences}/${owner})
    endif()
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

# ---- what is compiled in without being a library of its own
foreach(package nlohmann-json3-dev libstb-dev)
  if(EXISTS /usr/share/doc/${package}/copyright)
    file(COPY_FILE /usr/share/doc/${package}/copyright ${licences}/${package})
    list(APPEND sbom --compiled-in ${package})
  endif()
endforeach()
list(APPEND sbom --file-of share/engine/DejaVuSans.ttf fonts-dejavu-core)
if(EXISTS ${root}/lib/libengine_cuda.so)
  list(APPEND sbom --cuda ${CUDA})
endif()

# ---- scripts and documents
# The scripts of the plots are among the build's own shared files.
foreach(script report plot)
  configure_file(${here}/plots.sh.in ${root}/bin/engine-${script} @ONLY
    FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
    GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
endforeach()
foreach(completion bash:bash-completion/completions/engine zsh:zsh/site-functions/_engine
    fish:fish/vendor_completions.d/engine.fish)
  string(REPLACE ":" ";" completion ${completion})
  list(GET completion 0 shell)
  list(GET completion 1 file)
  get_filename_component(folder ${root}/share/${file} DIRECTORY)
  file(MAKE_DIRECTORY ${folder})
  execute_process(COMMAND ${program} completion ${shell} OUTPUT_FILE ${root}/share/${file}
    COMMAND_ERROR_IS_FATAL ANY)
endforeach()
# Every README, where the links between them hold.
file(GLOB_RECURSE documents RELATIVE ${SOURCE} ${SOURCE}/kernels/*.md ${SOURCE}/engine/*.md
  ${SOURCE}/models/*.md ${SOURCE}/io/*.md ${SOURCE}/tools/*.md ${SOURCE}/tests/*.md
  ${SOURCE}/weights/*.md)
foreach(document README.md ${documents})
  get_filename_component(folder ${document} DIRECTORY)
  file(COPY ${SOURCE}/${document} DESTINATION ${root}/share/doc/engine/${folder})
endforeach()

# ---- what it contains, by names, licences and checksums
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit unknown)
endif()
execute_process(COMMAND ${PYTHON3} ${here}/sbom.py ${root} --version ${VERSION} --commit ${commit}
  ${sbom} COMMAND_ERROR_IS_FATAL ANY)
file(GLOB_RECURSE files RELATIVE ${root} ${root}/*)
list(SORT files)
foreach(file ${files})
  file(SHA256 ${root}/${file} digest)
  string(APPEND sums "${digest}  ${file}\n")
endforeach()
file(WRITE ${root}/SHA256SUMS "${sums}")

set(tar ${NAME}.tar.gz)
execute_process(COMMAND ${CMAKE_COMMAND} -E tar czf ${BUILD}/${tar} ${NAME}
  WORKING_DIRECTORY ${BUILD}/bundle COMMAND_ERROR_IS_FATAL ANY)
file(SHA256 ${BUILD}/${tar} digest)
file(WRITE ${BUILD}/${tar}.sha256 "${digest}  ${tar}\n")
file(SIZE ${BUILD}/${tar} bytes)
math(EXPR mebibytes "${bytes} >> 20")
message("${BUILD}/${tar}: ${mebibytes} MiB")
