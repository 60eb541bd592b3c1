# A header that leans on its includer does not compile alone. Where a source of the same name
# includes the header before all others, that is seen whenever the source is compiled by itself
# (ENGINE_UNITY=OFF); for every other header there is a file here that includes nothing else.
file(GLOB_RECURSE headers RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/engine/*.h ${PROJECT_SOURCE_DIR}/io/*.h ${PROJECT_SOURCE_DIR}/kernels/*.h
  ${PROJECT_SOURCE_DIR}/models/*.h ${PROJECT_SOURCE_DIR}/tests/*.h ${PROJECT_SOURCE_DIR}/tools/*.h)

# Without CUDA those headers that lead to one of its own, however deep, cannot compile. Each pass
# finds their includers.
if(NOT ENGINE_WITH_CUDA)
  set(wanting "<(cuda|cudnn|cublas|nccl|library_types)")
  set(found TRUE)
  while(found)
    set(found FALSE)
    foreach(header ${headers})
      file(STRINGS ${PROJECT_SOURCE_DIR}/${header} wants REGEX "^ *# *include *(${wanting})")
      if(wants)
        set(found TRUE)
        list(REMOVE_ITEM headers ${header})
        string(REPLACE "." "\\." pattern ${header})
        string(APPEND wanting "|\"${pattern}\"")
      endif()
    endforeach()
  endwhile()
endif()

set(sources)
foreach(header ${headers})
  string(REGEX REPLACE "h$" "cpp" own ${PROJECT_SOURCE_DIR}/${header})
  if(EXISTS ${own})
    file(STRINGS ${own} includes REGEX "^ *# *include" LIMIT_COUNT 1)
    if(includes STREQUAL "#include \"${header}\"")
      continue()
    endif()
  endif()
  string(MAKE_C_IDENTIFIER ${header} name)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/headers_alone/${name}.cpp)
  file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${header}\"\n")
  list(APPEND sources ${source})
endforeach()

add_library(headers_alone OBJECT ${sources})
set_target_properties(headers_alone PROPERTIES UNITY_BUILD OFF)
target_link_libraries(headers_alone PRIVATE
  engine_test_main Threads::Threads)
target_include_directories(headers_alone SYSTEM PRIVATE
  ${OPENCV_INCLUDE} ${DNNL_INCLUDE} ${JPEG_INCLUDE})
if(ENGINE_WITH_CUDA)
  target_link_libraries(headers_alone PRIVATE CUDA::cudart_static)
  target_include_directories(headers_alone SYSTEM PRIVATE ${CUDNN_INCLUDE} ${NCCL_INCLUDE})
endif()
