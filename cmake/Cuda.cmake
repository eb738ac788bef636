# Finds the CUDA toolkit when it is wanted. PLIMSOLL_HAVE_CUDA says whether the CUDA backend is built.

set(PLIMSOLL_HAVE_CUDA OFF)
